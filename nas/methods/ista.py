"""ISTA-NAS, in two stages: sparse coding chooses two operations for each node (Yang et al., NeurIPS 2020).

Shape letters: E edges, O candidate operations, G groups of edges that compete, M entries of a code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from genotypes import CELL_NAMES, CellGenotype, Edge, Genotype
from genotypes.config import Count, MoreThan, NotNegative
from nas.methods.registry import Method, register
from nas.methods.relaxation import Noise, Relaxation, Weights
from spaces import KINDS, Kind, Mixing, SearchSpace
from spaces.space import CELL_INPUTS


def lasso(dictionary_MN: Tensor, code_M: Tensor, penalty: float) -> Tensor:
    """The z (N,) with the least 1/2 |A z - b|^2 + penalty |z|_1, by LARS in float64 on the CPU; penalty > 0."""
    from sklearn.linear_model import lars_path  # takes long to import

    # scikit-learn divides the square by M. Its tolerance is absolute, hence a problem scaled to the penalty 1.
    scale = penalty / len(code_M)
    A, b = (tensor.detach().cpu().double().numpy() for tensor in (dictionary_MN, code_M))
    _, _, z = lars_path(A, b / scale, alpha_min=1.0, method="lasso", return_path=False)
    return torch.from_numpy(z) * scale


class SparseCoding(Relaxation):
    """A code b for each node, whose sparse solution z chooses operations; z is kept within an epoch.

    Edges of a node compete where the space drops edges; else each edge is a node of its own here, and keeps one
    operation. Logits of the space, and weights of edges, have no part in it.

    Args:
        code_size: entries of a code, where edges compete; else half of an edge's operations.
        penalty: lambda of the LASSO.
        code_scale: standard deviation of the first codes.
    """

    rows_sum_to_one: bool = False
    trains_space: bool = False
    solved: Tensor

    def __init__(self, code_size: int, penalty: float, code_scale: float) -> None:
        super().__init__()
        self.code_size, self.penalty_weight, self.code_scale = code_size, penalty, code_scale

    def check(self, space: SearchSpace) -> None:
        """Raises ValueError for a space with peaked logits, or whose own logits or derivation would be ignored."""
        if space.peaked:
            raise ValueError(
                "--method ista cannot start from peaked logits (--init hb): it trains codes instead of logits; use "
                "--init zero"
            )
        for name in ("unmasked_logits", "edge_weights", "derive"):
            if getattr(type(space), name) is not getattr(SearchSpace, name):
                raise ValueError(f"--method ista does not use {name}, which --space {type(space).__name__} overrides")

    def begin(self, space: SearchSpace, *, seed: int) -> None:
        """Draws dictionaries and codes, and solves for the first time."""
        generator = torch.Generator().manual_seed(seed)
        edges, operations = len(space.topology.edges), len(space.operations)
        self.groups, self.kept = [[edge] for edge in range(edges)], 1
        size = -(-sum(name != "none" for name in space.operations) // 2)
        if space.edges_kept is not None:
            nodes = range(CELL_INPUTS, CELL_INPUTS + space.topology.nodes)
            self.groups, self.kept = [list(space.topology.entering(node)) for node in nodes], space.edges_kept
            size = self.code_size
        member_GE = torch.zeros(len(self.groups), edges)
        for g, group in enumerate(self.groups):
            member_GE[g, group] = 1
        like = space.alpha["normal"].detach()
        self.register_buffer("member", member_GE.to(like))
        self.register_buffer("solved", torch.tensor(-1))
        for kind in KINDS:
            dictionary_EOM = torch.rand(edges, operations, size, generator=generator)
            code_GM = self.code_scale * torch.randn(len(self.groups), size, generator=generator)
            self.register_buffer(f"{kind}_dictionary", dictionary_EOM.to(like))
            self.register_buffer(f"{kind}_solution", torch.zeros_like(like))
            self.register_buffer(f"{kind}_selected", torch.zeros_like(like, dtype=torch.bool))
            self.register_parameter(f"{kind}_code", nn.Parameter(code_GM.to(like)))
        self._entries = {
            kind: [[(e, o) for e in group for o in space.candidates(kind, e)] for group in self.groups]
            for kind in KINDS
        }
        self._solve()

    def schedule(self, epoch: int, epochs: int) -> None:
        """Solves at the start of an epoch; not again where a search goes on in the middle of one."""
        if int(self.solved) != epoch:
            self._solve()
            self.solved.fill_(epoch)

    @torch.no_grad()
    def _solve(self) -> None:
        for kind in KINDS:
            solution_EO = torch.zeros_like(self.get_buffer(f"{kind}_solution"))
            selected_EO = torch.zeros_like(self.get_buffer(f"{kind}_selected"))
            for chosen in self._chosen(kind):
                for entry, value in chosen.items():
                    solution_EO[entry], selected_EO[entry] = value, True
            self.get_buffer(f"{kind}_solution").copy_(solution_EO)
            self.get_buffer(f"{kind}_selected").copy_(selected_EO)

    def _chosen(self, kind: Kind) -> list[dict[tuple[int, int], float]]:
        """For each group the entries (edge, operation) of largest |z| of the present code, the first among equals."""
        dictionary_EOM = self.get_buffer(f"{kind}_dictionary").cpu()
        codes_GM = self.get_parameter(f"{kind}_code").detach().cpu()
        chosen = []
        for entries, code_M in zip(self._entries[kind], codes_GM, strict=True):
            columns_MN = torch.stack([dictionary_EOM[entry] for entry in entries], dim=1)
            z = lasso(columns_MN, code_M, self.penalty_weight).tolist()
            order = sorted(range(len(z)), key=lambda i: -abs(z[i]))[: self.kept]
            chosen.append({entries[i]: z[i] for i in sorted(order)})
        return chosen

    def expected_weights(self, space: SearchSpace) -> Weights:
        """The weights z + A'(b - A z) (E, O) on the chosen operations, and 0 on the others; may be negative."""
        weights: dict[Kind, Tensor] = {}
        for kind in KINDS:
            A_EOM, z_EO = self.get_buffer(f"{kind}_dictionary"), self.get_buffer(f"{kind}_solution")
            member_GE = self.get_buffer("member")
            rest_GM = self.get_parameter(f"{kind}_code") - member_GE @ (A_EOM * z_EO[:, :, None]).sum(dim=1)
            step_EO = (A_EOM * (member_GE.T @ rest_GM)[:, None]).sum(dim=2)
            weights[kind] = (z_EO + step_EO) * self.get_buffer(f"{kind}_selected")
        return weights

    def forward(self, space: SearchSpace, noise: Noise) -> Mixing:
        """The weights of the operations: edges have none."""
        return self.weights(space, noise)

    def expected(self, space: SearchSpace) -> Mixing:
        """The same."""
        return self.expected_weights(space)

    def derive(self, space: SearchSpace) -> Genotype:
        """The operations of largest |z| of the present codes, which are solved for it; two may be on one edge."""
        cells = {kind: self._cell(space, kind) for kind in KINDS}
        return Genotype(normal=cells["normal"], reduce=cells["reduce"])

    def _cell(self, space: SearchSpace, kind: Kind) -> CellGenotype:
        codes = self.get_parameter(f"{kind}_code")
        if not codes.isfinite().all():
            raise ValueError(f"codes of the {CELL_NAMES[kind]} cell are not finite")
        chosen = sorted(entry for entries in self._chosen(kind) for entry in entries)
        nodes = range(CELL_INPUTS, CELL_INPUTS + space.topology.nodes)
        edges = space.topology.edges
        return CellGenotype(
            nodes=tuple(
                tuple(Edge(operation=space.operations[o], source=edges[e][0]) for e, o in chosen if edges[e][1] == node)
                for node in nodes
            ),
            concat=tuple(nodes),
        )


@register("ista")
@dataclass(frozen=True, kw_only=True)
class ISTA(Method):
    """ISTA-NAS in two stages (Yang et al., NeurIPS 2020): a trained code for each node, solved once an epoch."""

    code_size: Count = 7
    """Entries of a node's code (ISTA-NAS's code: 7); in Space-HB it is half of the operations of an edge."""
    lasso_penalty: Annotated[float, MoreThan(0)] = 1e-5
    """Lambda of the LASSO (ISTA-NAS's code: 1e-5)."""
    code_scale: NotNegative = 1e-3
    """Standard deviation of the first codes (ISTA-NAS's code: 1e-3)."""

    def build(self) -> SparseCoding:
        """The sparse coding."""
        return SparseCoding(self.code_size, self.lasso_penalty, self.code_scale)
