"""The evaluation network as in the literature: the reference for `nas.networks.cells`.

The order of the work is that of DARTS's `model.py` (Liu et al., ICLR 2019): one edge after another, in NCHW, and each
operation applies its own ReLU. In a cell of the genotype, node j is the sum over the few edges that were kept,

    x_j = sum over the edges e = (i, j) of  drop(o_e(x_i)),

where drop path, in training, multiplies each sample of a path by 0 with probability p, and by 1 / (1 - p) otherwise
(Larsson et al., ICLR 2017). p grows linearly over the training; identities of stride 1 are never dropped.

With an auxiliary head, the network in training also returns the logits of a second classifier at 2/3 of the depth,
whose weighted loss is added to that of the first (DARTS sec. 3.2).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from nas.networks.cells import Cell, Network
from reference.supernet import without_relu_in_place


class PlainNetwork(nn.Module):
    """A copy of `network` that computes the same edge by edge.

    For images (N, C, H, W) it returns what `network` returns: logits (N, classes), or in training with an auxiliary
    head the pair of both logits. Drop path draws the same random numbers in the same order.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
        without_relu_in_place(self.network)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Maps images (N, C, H, W) to logits (N, classes), or to both logits in training with an auxiliary head."""
        network = self.network
        auxiliary = None
        s0, s1 = network.stem(x)
        for layer, cell in enumerate(network.cells):
            assert isinstance(cell, Cell)
            s0, s1 = s1, self._cell(cell, s0, s1)
            if layer == network.auxiliary_at and network.auxiliary_head is not None and self.training:
                auxiliary = network.auxiliary_head(s1)
        logits = network.classifier(network.global_pooling(s1).flatten(1))
        return logits if auxiliary is None else (logits, auxiliary)

    def _cell(self, cell: Cell, s0: Tensor, s1: Tensor) -> Tensor:
        states = [cell.preprocess0(s0), cell.preprocess1(s1)]
        edges = iter(zip(cell.edges, cell.drops, strict=True))
        for sources in cell.sources:
            arriving = []
            for source in sources:
                edge, drops = next(edges)
                h = edge(states[source])
                arriving.append(self._dropped(h) if drops and self.training else h)
            states.append(sum(arriving[1:], start=arriving[0]))
        return torch.cat([states[node] for node in cell.concat], dim=1)

    def _dropped(self, h: Tensor) -> Tensor:
        if self.network._final_drop_path_prob == 0:
            return h
        keep = 1 - self.network.drop_path_prob
        mask = torch.rand(len(h), 1, 1, 1, device=h.device) < keep
        return h.div_(keep.to(h.dtype)).mul_(mask)
