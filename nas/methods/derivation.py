"""How the genotype is derived: the strongest, perhaps within limits or with few identities, or by measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from genotypes import Genotype
from genotypes.config import AtLeast, Common, NoneMeans, flag
from nas.errors import UsageError
from nas.methods.relaxation import Relaxation
from nas.networks.budget import BudgetConfig
from nas.networks.edge_costs import costs_in
from nas.networks.forms import Form, chosen
from nas.networks.latency_table import model_of
from spaces import Mixing, SearchSpace
from spaces.derivation import best_within, capped, check_possible
from spaces.limits import Limit, skip_limit
from spaces.sampling import Sampler


@dataclass(frozen=True, kw_only=True)
class DerivationConfig(BudgetConfig):
    """How the genotype is derived, and how large and slow its network may be; within limits it is the strongest."""

    derivation: Annotated[Literal["strongest", "projection"], Common] = "strongest"
    """Keep the strongest operations and edges (DARTS sec. 2.4), or those whose removal costs most accuracy, measured
    one after another in a second phase of the search (projection: DARTS-PT, Wang et al., ICLR 2021)."""
    max_skips: Annotated[int | None, AtLeast(0), NoneMeans("any number")] = None
    """Most identities in the normal cell (P-DARTS: 2). The weakest are replaced as in P-DARTS; with --max-params,
    --max-macs or --max-latency the genotype is the strongest within all limits, which is exact and may be another
    one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.derivation == "projection" and (flags := _limiting(self)):
            raise ValueError(
                f"--derivation projection chooses by measured accuracy, which {flags} cannot limit; drop one of the two"
            )


class Derivation:
    """The derivation of a search's genotypes.

    Args:
        config: its limits.
        space: the space of the search.
        relaxation: that of the search.
        own: the form of the networks that are trained on the images of the search.

    Attributes:
        form: that of the networks that are counted.
        latency: predicts how long they take; None without a table.

    Raises ValueError for a space or a method that the limits cannot be combined with, for a table of latencies that is
    not for these networks, and for limits that no genotype is within, which says how little is possible.
    """

    def __init__(self, config: DerivationConfig, space: SearchSpace, relaxation: Relaxation, own: Form) -> None:
        self._config, self.form = config, chosen(config, own)
        self.latency = model_of(config, self.form)
        if self.latency is not None:
            self.latency.costs(space)  # for what it refuses
        if config.limited:
            costs = costs_in(space, self.form)
            self._limits = costs.limits(config.max_params, config.max_macs)
            if self.latency is not None:
                self._limits += self.latency.limits(space, config.max_latency)
        if flags := _limiting(config):
            _check(config, space, relaxation, flags)
            self._check_possible(space)

    def derive(self, space: SearchSpace, relaxation: Relaxation) -> Genotype:
        """The genotype of the search's state; without limits, what the relaxation derives.

        Raises ValueError if operations that the limits need have been masked since the beginning.
        """
        if not _limiting(self._config):
            return relaxation.derive(space)
        return self._from(space, relaxation.expected(space))

    def state_dict(self) -> dict[str, str]:
        """The digest of the table of latencies; empty without one."""
        return {"latency_table": "" if self.latency is None else self.latency.digest}

    def load_state_dict(self, state: dict[str, str]) -> None:
        """Raises UsageError if the table is not the one that the search began with."""
        if state != self.state_dict():
            raise UsageError(
                f"--latency-table {self._config.latency_table} is not the file that the search began with; restore it, "
                "or start a new run in another --run-dir"
            )

    def sampler(self, space: SearchSpace) -> Sampler:
        """Draws random genotypes of the space within the limits."""
        return Sampler(space, self._all_limits(space))

    def _all_limits(self, space: SearchSpace) -> list[Limit]:
        most = self._config.max_skips
        limits = list(self._limits) if self._config.limited else []
        return limits if most is None else [*limits, skip_limit(space, most)]

    def _from(self, space: SearchSpace, mixing: Mixing) -> Genotype:
        most = self._config.max_skips
        if self._config.limited:
            return best_within(space, mixing, self._all_limits(space))
        assert most is not None
        return capped(space, mixing, most)

    def _check_possible(self, space: SearchSpace) -> None:
        """Raises ValueError if no genotype is within the limits."""
        try:
            check_possible(space, self._all_limits(space))
        except ValueError as error:
            if not self._config.limited:
                raise
            raise ValueError(
                f"{error}, or make the network smaller, which has {self.form} (--eval-layers, --eval-channels, "
                "--eval-form)"
            ) from error


def _limiting(config: DerivationConfig) -> str:
    """The flags that are set and limit the genotype; empty if there are none."""
    names = ("max_params", "max_macs", "max_latency", "max_skips")
    return ", ".join(flag(name) for name in names if getattr(config, name) is not None)


def _check(config: DerivationConfig, space: SearchSpace, relaxation: Relaxation, flags: str) -> None:
    for derives, base, what in ((relaxation, Relaxation, "--method"), (space, SearchSpace, "--space")):
        if type(derives).derive is not base.derive:
            raise ValueError(
                f"this {what} has a derivation of its own ({type(derives).__name__}), which {flags} cannot limit; drop "
                "one of the two"
            )
    if config.max_skips is not None and space.peaked:
        raise ValueError(
            f"--max-skips {config.max_skips} replaces identities, from which --init hb starts; drop it, or choose "
            "another --init"
        )
