"""Space-HB: the search space of the heavy-ball method."""

from __future__ import annotations

import torch

from spaces.registry import register
from spaces.space import CELL_INPUTS, SearchSpace


@register("hb")
class HBSpace(SearchSpace):
    """Space-HB, eq. (23): x_t = o1(x_{t-1}) + o2(x_{t-1}) + o(x_{t-2}).

    Three mixed operations enter each node, in this order: o1 and o2 from the node before, o from the one
    before that (12 for 4 nodes). Each keeps its strongest operation other than zero, so a node keeps three.

    The search starts from HB-Net, `--init hb`, eq. (26): the logit of identity in o2 and of negative identity
    in o lies `gap` above the others and o1 is random, so that on edges of stride 1

        x_t = F(x_{t-1}) + x_{t-1} - x_{t-2},    F the mixed operation o1.

    A softmax is never quite one-hot: the peaked weight is w = 1 / (1 + (O-1) e^-gap), and each of the two
    peaked mixed operations misses eq. (26) by at most (O-1) e^-gap w (|x| + max_o |o(x)|). The same number
    is the gradient's scale: a larger gap is more exact, and slower to leave, since dw/dlogit is w (1 - w).
    With nine operations, and the error of a normal cell's output relative to eq. (26) (largest of 5 random
    cells of 8 channels):

        gap    1 - w     dw/dlogit    error
          5    5.1e-2    4.9e-2       1.1e-1    (the default)
         10    3.6e-4    3.6e-4       8.0e-4
         20    1.6e-8    1.6e-8       3.7e-8    (float32 is exactly one-hot from 19 on, and its gradient zero)

    The default is the largest gap, of those tried, at which the images influence the result. In searches as long as the
    paper's (step size times steps), all peaked logits that start at 10 end at 5: weight decay moves them, all alike.
    From 5 on, each moves differently, and at 2 or 3 the search does not start near HB-Net. LOG.md has the figures
    (`python -m benchmarks.hb_start`), and `metrics.csv` of a search counts the edges that have left their start.
    """

    edges_kept = None
    initializations = ("hb", "zero", "random")

    def edges_between(self, nodes: int) -> list[tuple[int, int]]:
        """Three edges into each node t: from t-1 (o1), from t-1 again (o2), and from t-2 (o)."""
        return [
            (source, target)
            for target in range(CELL_INPUTS, CELL_INPUTS + nodes)
            for source in (target - 1, target - 1, target - 2)
        ]

    def adds_source(self, source: int, target: int) -> bool:
        """Only from t-1: eq. (26) subtracts x_{t-2}."""
        return source == target - 1

    def _initialize(self, init: str, gap: float, generator: torch.Generator | None) -> None:
        if init != "hb":
            super()._initialize(init, gap, generator)
            return
        missing = {"skip_connect", "neg_skip_connect"} - set(self.operations)
        if missing:
            raise ValueError(f"--init hb needs the operation {min(missing)!r}; add it, or choose another --init")
        if self.edge_normalized:
            raise ValueError(
                "--init hb starts every node as eq. (26), which --edge-normalized rules out; drop one of the two"
            )
        super()._initialize("random", gap, generator)
        slots = ((1, "skip_connect"), (2, "neg_skip_connect"))
        self._peak({3 * node + slot: name for node in range(self.topology.nodes) for slot, name in slots}, gap)
