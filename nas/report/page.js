"use strict";
// The slider shows the cells and the mixing weights of one epoch. The page as it is written shows those of the last.
const slider = document.getElementById("epoch");
if (slider) {
  const byEpoch = JSON.parse(document.getElementById("by-epoch").textContent);
  const output = document.querySelector("output[for=epoch]");

  const showCells = (kind, number) => {
    for (const figure of document.querySelectorAll(`[data-cell="${kind}"]`)) {
      figure.hidden = figure.dataset.number !== String(number);
    }
  };

  // Weights are whole numbers, in thousandths.
  const showWeights = (kind, weights, chosen) => {
    const largest = byEpoch.largest[kind];
    document.querySelectorAll(`#mixing-${kind} td`).forEach((cell, i) => {
      const weight = weights === null ? null : weights[i];
      cell.textContent = weight === null ? "" : (weight / 1000).toFixed(3);
      cell.className = weight === null ? "" : `v${Math.round(((byEpoch.shades - 1) * Math.abs(weight)) / largest)}`;
      cell.classList.toggle("chosen", weight !== null && chosen.includes(i));
    });
  };

  const show = () => {
    const i = slider.value - slider.min;
    output.textContent = `${slider.value} of ${slider.max}`;
    for (const kind of Object.keys(byEpoch.cells)) showCells(kind, byEpoch.cells[kind][i]);
    for (const kind of Object.keys(byEpoch.mixing)) showWeights(kind, byEpoch.mixing[kind][i], byEpoch.chosen[kind][i]);
  };
  slider.addEventListener("input", show);
  show();  // a browser may have kept the slider's place from before
}
