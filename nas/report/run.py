"""The page of a run: what was searched or trained, how it went, what came out, and how to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genotypes import CELL_NAMES, CellGenotype, Genotype, to_text
from nas.methods.diagnostics import entries_of
from nas.networks.edge_costs import genotype_costs
from nas.networks.forms import Form
from nas.report import files, page, plots, tested
from nas.report.files import Row, RunFiles
from nas.report.page import Html, element
from nas.report.plots import Series
from nas.runs.directory import flat
from nas.runs.mixing import EpochMixing, edge_names
from nas.runs.record import SearchRecord, TrainRecord
from spaces import KINDS, Kind

#: The file in the run's directory.
NAME = "report.html"

#: Charts of metrics.csv: title, vertical axis, and by column what the curve is called.
_CURVES: tuple[tuple[str, str, dict[str, str]], ...] = (
    (
        "Loss",
        "cross-entropy",
        {"train_loss": "training", "arch_loss": "architecture's steps", "valid_loss": "held out", "test_loss": "test"},
    ),
    (
        "Accuracy",
        "%",
        {
            "train_accuracy": "training",
            "arch_accuracy": "architecture's steps",
            "valid_accuracy": "held out",
            "test_accuracy": "test",
            "test_top5_accuracy": "test, top 5",
        },
    ),
    ("Learning rate of the weights", "", {"learning_rate": "learning rate"}),
)


def _of_cells(column: str) -> dict[str, str]:
    return {f"{name}_{column}": name for name in CELL_NAMES.values()}


_FIGURES: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("Entropy of the operations' weights, 1 if all are equal", "", _of_cells("normalized_entropy")),
    ("Entropy of the edges' weights, 1 if all are equal", "", _of_cells("edge_normalized_entropy")),
    ("Gap between the two strongest operations of an edge", "weight", _of_cells("margin")),
    ("Weight of the operations without parameters", "share", _of_cells("parameter_free_share")),
    ("Identities in the genotype", "edges", _of_cells("skips")),
    ("Edges of the genotype without parameters", "edges", _of_cells("parameter_free")),
    ("Slots that have left the start", "edges", _of_cells("left_start")),
    ("Dominant eigenvalue of the Hessian in the logits", "", {"eigenvalue": "eigenvalue"}),
)


def of_run(directory: Path) -> str:
    """The page of the run in a directory. Raises UsageError where there is no search and no training."""
    run = files.read(directory)
    result = run.genotype or run.genotypes.get(max(run.genotypes, default=0))
    seen = run.images
    found = tested.read(directory, seen.image_size if seen else None, seen.channels if seen else 3)
    parts = [page.notes((*run.faults, *found.faults)), page.section("Result", _facts(run), _origin(run))]
    if run.kind == "search":
        parts += [_by_epoch(run), _edges_over_time(run.mixing)]
    elif result is not None:
        parts.append(page.section("Cells", _cells(result)))
    parts += [
        page.section("Curves", _charts("curves", _CURVES, run.rows)),
        page.section("Figures of the search", _charts("figures", _FIGURES, run.rows)),
        tested.section(found, run.record if isinstance(run.record, TrainRecord) else None),
    ]
    if result is not None:
        parts.append(_costs(result, run.form))
    parts.append(_repeat(run, result))
    rules = "".join(f".v{i}{{background:{back};color:{text}}}" for i, (back, text) in enumerate(plots.shades()))
    return page.page(_name(directory), "search" if run.kind == "search" else "training run", *parts, styles=rules)


def _name(directory: Path) -> str:
    return directory.resolve().name or str(directory)


# --- result ---------------------------------------------------------------------------------------------------


def _facts(run: RunFiles) -> Html:
    config, last = flat(run.config), run.rows[-1] if run.rows else {}
    found: dict[str, object] = {
        "Space": config.get("space.space"),
        "Method": config.get("method.method"),
        "Architecture": config.get("arch"),
        "Data set": config.get("data.dataset"),
        "Seed": config.get("seed"),
    }
    if isinstance(run.record, SearchRecord):
        result = run.record.result
        found |= {"Held-out accuracy of the supernet": _percent(result.valid_accuracy), "Epochs": result.epochs}
        found |= {"Computing time": duration(result.seconds)}
    elif isinstance(run.record, TrainRecord):
        trained = run.record.result
        found |= {"Test error": _percent(trained.test_error), "Test accuracy": _percent(trained.test_accuracy)}
        found |= {"Parameters": trained.params, "Multiply-adds": trained.macs, "Epochs": trained.epochs}
        found |= {"Computing time": duration(trained.seconds)}
    else:
        found["State"] = f"has not ended; {len(run.rows)} epochs so far"
    found["Discretization gap"] = last.get("discretization_gap")
    found["Device"] = run.env.get("device")
    return page.facts(found)


def _origin(run: RunFiles) -> Html | None:
    """The search behind the genotype of a training."""
    if not isinstance(run.record, TrainRecord) or run.record.search is None:
        return None
    search = run.record.search
    text = (
        f"The genotype was found by a search of {search.result.space} on {search.result.dataset} with seed "
        f"{search.seed}, {search.result.epochs} epochs in {duration(search.result.seconds)}."
    )
    return element("p", text)


def _percent(value: float) -> str:
    return f"{value:.2f} %"


def duration(seconds: float) -> str:
    """Seconds in words: seconds below two minutes, minutes below two hours, otherwise hours."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# --- cells and mixing weights ---------------------------------------------------------------------------------


def _cells(genotype: Genotype) -> Html:
    """Both cells of a genotype."""
    return page.join(
        page.figure(
            page.scrolled(plots.cell(getattr(genotype, kind), f"{CELL_NAMES[kind]} cell")),
            f"{CELL_NAMES[kind].capitalize()} cell",
            class_="cell",
        )
        for kind in KINDS
    )


def _by_epoch(run: RunFiles) -> Html:
    """Cells and mixing weights with a slider over the epochs; without files of the epochs, the cells alone."""
    epochs = sorted({*run.genotypes, *run.mixing})
    if not epochs:
        return page.section("Cells", _cells(run.genotype)) if run.genotype else Html("")
    first, last = epochs[0], epochs[-1]
    every = range(first, last + 1)
    moved: dict[str, Any] = {"shades": plots.SHADES, "cells": {}, "mixing": {}, "chosen": {}, "largest": {}}
    contents = [_slider(first, last)]
    for kind in KINDS:
        contents.append(element("h3", f"{CELL_NAMES[kind].capitalize()} cell"))
        if run.genotypes:
            pictures, moved["cells"][kind] = _pictures(kind, every, run.genotypes)
            contents += pictures
        if run.mixing:
            chosen = [_chosen(kind, run.genotypes.get(epoch), run.mixing.get(epoch)) for epoch in every]
            heat_map, weights, largest = _heat_map(kind, every, run.mixing, chosen[-1])
            contents.append(heat_map)
            moved["mixing"][kind], moved["chosen"][kind], moved["largest"][kind] = weights, chosen, largest
    title = "Cells and mixing weights" if run.mixing else "Cells"
    return page.section(title, *contents, page.data("by-epoch", moved))


def _slider(first: int, last: int) -> Html:
    return element(
        "div",
        element("label", "Epoch", for_="epoch"),
        element("input", type="range", id="epoch", min=first, max=last, step=1, value=last),
        element("output", f"{last} of {last}", for_="epoch"),
        class_="slider",
    )


def _pictures(kind: Kind, every: range, found: Mapping[int, Genotype]) -> tuple[list[Html], list[int]]:
    """A picture of each cell that differs, and which of them is that of each epoch; -1 if no file tells."""
    numbers: dict[CellGenotype, int] = {}
    shown = []
    for epoch in every:
        cell = getattr(found[epoch], kind) if epoch in found else None
        shown.append(-1 if cell is None else numbers.setdefault(cell, len(numbers)))
    name, last = f"{CELL_NAMES[kind]} cell", shown[-1]
    pictures = [
        element(
            "figure",
            page.scrolled(plots.cell(cell, name)),
            class_="cell",
            data_cell=kind,
            data_number=number,
            hidden=number != last,
        )
        for cell, number in numbers.items()
    ]
    if -1 in shown:
        missing = element("p", "No genotype of this epoch can be read.")
        pictures.append(element("div", missing, data_cell=kind, data_number=-1, hidden=last != -1))
    return pictures, shown


def _heat_map(
    kind: Kind, every: range, found: Mapping[int, EpochMixing], chosen: Sequence[int]
) -> tuple[Html, list[list[int] | None], int]:
    """The mixing weights of the last epoch as a table; those of all in thousandths, and the largest of them."""
    newest = found[max(found)]
    weights = [_thousandths(kind, found.get(epoch), newest) for epoch in every]
    largest = max((abs(weight) for of_epoch in weights if of_epoch for weight in of_epoch), default=0) or 1
    columns, shown = len(newest.operations), weights[-1]
    rows = []
    for e, name in enumerate(edge_names(newest.edges)):
        own = [] if shown is None else list(enumerate(shown))[e * columns : (e + 1) * columns]
        cells = []
        for i, weight in own:
            shade = f"v{round((plots.SHADES - 1) * abs(weight) / largest)}"
            cells.append(element("td", f"{weight / 1000:.3f}", class_=shade + " chosen" * (i in chosen)))
        rows.append(element("tr", element("th", name, scope="row"), *(cells or [element("td")] * columns)))
    head = [element("th", name, scope="col") for name in ("edge", *map(plots.label, newest.operations))]
    caption = (
        f"Mixing weights of the {CELL_NAMES[kind]} cell, in a frame those that the genotype of the epoch takes; shades "
        f"from 0 to {largest / 1000:.3f}"
    )
    body = (element("thead", element("tr", *head)), element("tbody", *rows))
    table = element("table", page.named(caption), *body, id=f"mixing-{kind}", class_="heat")
    return page.scrolled(table), weights, largest


def _chosen(kind: Kind, genotype: Genotype | None, found: EpochMixing | None) -> list[int]:
    """The numbers of the weights that the genotype takes, edge after edge; none if one of the two is missing."""
    if genotype is None or found is None:
        return []
    entries = entries_of(getattr(genotype, kind), found.edges, found.operations, getattr(found, kind).weights)
    return [edge * len(found.operations) + operation for edge, operation in entries or ()]


def _thousandths(kind: Kind, found: EpochMixing | None, newest: EpochMixing) -> list[int] | None:
    """The weights of an epoch, edge after edge; None if there are none, or of another space."""
    if found is None or (found.operations, found.edges) != (newest.operations, newest.edges):
        return None
    return [round(1000 * weight) for row in getattr(found, kind).weights for weight in row]


def _edges_over_time(found: Mapping[int, EpochMixing]) -> Html:
    """Heat maps of the edges' weights, where they are normalized."""
    epochs = [epoch for epoch in found if found[epoch].normal.edges and found[epoch].edges == found[max(found)].edges]
    charts = []
    for kind in KINDS:
        weights = [list(edges) for epoch in epochs if (edges := getattr(found[epoch], kind).edges)]
        if weights and len(weights) == len(epochs):
            title = f"Weights of the edges of the {CELL_NAMES[kind]} cell"
            names = edge_names(found[epochs[-1]].edges)
            charts.append(page.figure(plots.over_time(f"edges-{kind}", title, names, epochs, weights), title))
    return page.section("Weights of the edges", element("div", *charts, class_="charts")) if charts else Html("")


# --- curves ---------------------------------------------------------------------------------------------------


def _charts(name: str, wanted: Sequence[tuple[str, str, dict[str, str]]], rows: Sequence[Row]) -> Html | None:
    """The charts of those columns that have figures; None if none has."""
    charts = []
    for number, (title, unit, columns) in enumerate(wanted):
        series = []
        for column, label in columns.items():
            points = [(row["epoch"], row[column]) for row in rows if column in row]
            if points:
                series.append(Series(label, *map(list, zip(*points, strict=True))))
        if series:
            charts.append(page.figure(plots.curves(f"{name}-{number}", title, unit, series), title))
    return element("div", *charts, class_="charts") if charts else None


# --- costs ----------------------------------------------------------------------------------------------------


def _costs(genotype: Genotype, form: Form | None) -> Html:
    """What each edge of the genotype costs in the evaluation network."""
    if form is None:
        return Html("")
    try:
        costs = genotype_costs(genotype, form)
    except RuntimeError:  # a user's operation that does not compute on the meta device
        return Html("")
    rows: list[tuple[object, ...]] = []
    for kind, target, edge, params, macs in costs.edges:
        source = edge_names([(edge.source, target)])[0]
        rows.append((f"{CELL_NAMES[kind]} {source}", plots.label(edge.operation), params, macs))
    rows.append(("stem, preprocessing, classifier", "", costs.rest_params, costs.rest_macs))
    rows.append(("network", "", costs.params, costs.macs))
    caption = f"The evaluation network: {form}, without an auxiliary head; summed over the cells of each kind"
    table = page.table(caption, ("edge", "operation", "parameters", "multiply-adds"), rows, right=(2, 3), foot=2)
    return page.section("What the genotype costs", table)


# --- how to repeat it -----------------------------------------------------------------------------------------


def _repeat(run: RunFiles, genotype: Genotype | None) -> Html:
    return page.section(
        "How to repeat it",
        environment(run.env),
        settings("All settings", flat(run.config)),
        page.folded("Genotype as text", element("pre", element("code", to_text(genotype)))) if genotype else None,
    )


def environment(env: Mapping[str, Any]) -> Html:
    """The command, and what it ran on, from what `nas.runs.environment` describes."""
    packages = env.get("packages")
    changed = " with changes that are not committed" if env.get("dirty") is True else ""
    resumed = env.get("resumed")
    about = {
        "Commit": f"{env['commit']}{changed}" if env.get("commit") else None,
        "Python": env.get("python"),
        **({str(name): version for name, version in packages.items()} if isinstance(packages, dict) else {}),
        "Platform": env.get("platform"),
        "Threads": env.get("threads"),
        "Resumed": f"{len(resumed)} times" if isinstance(resumed, list) and resumed else None,
    }
    command = command_line(env)
    shown = element("pre", element("code", command)) if command else None
    return page.join([shown, page.facts(about) if env else None])


def settings(title: str, values: Mapping[str, object]) -> Html:
    """A configuration, flag by flag, shown on a click; nothing for none."""
    rows = [(name, _shown(value)) for name, value in values.items()]
    return page.folded(title, page.table(title, ("setting", "value"), rows)) if rows else Html("")


def command_line(env: Mapping[str, Any]) -> str | None:
    """The command that a run was started with, as a shell takes it; None if none is known."""
    command = env.get("command")
    if not (isinstance(command, list) and command and all(isinstance(word, str) for word in command)):
        return None
    return shlex.join(["python", *command] if command[0].endswith(".py") else command)


def _shown(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)
