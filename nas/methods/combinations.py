"""What cannot be combined in a search, and is refused before anything is written.

What concerns two flags of one block stands in the configuration of that block. Here is what concerns several blocks,
the space or the method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nas.methods.config import SearchConfig
from nas.methods.relaxation import Relaxation
from nas.methods.stages import Stage, check_drop
from nas.supernet.partial import check_partial_channels
from spaces import SearchSpace
from spaces.ops import is_random

#: By flag, whether a configuration uses it: what needs steps of the architecture, and what needs logits besides.
NEED_STEPS: dict[str, Callable[[SearchConfig], object]] = {
    "--unrolled": lambda config: config.bilevel.unrolled,
    "--warm-up-epochs": lambda config: config.stages.warm_up_epochs,
    "--stop": lambda config: config.stop.stop != "none",
}
NEED_LOGITS: dict[str, Callable[[SearchConfig], object]] = {
    "--beta-decay": lambda config: config.regularizer.beta_decay,
    "--entropy-weight": lambda config: config.regularizer.entropy_weight,
    "--cost-weight": lambda config: config.regularizer.cost_weight,
    "--perturb": lambda config: config.perturbation.perturb != "none",
    "--drop": lambda config: config.stages.drop,
    "--derivation projection": lambda config: config.projects,
    "--stop order": lambda config: config.stop.stop == "order",
    "--eigenvalue-every": lambda config: config.stop.eigenvalue_every,
}


def check(config: SearchConfig, space: SearchSpace, relaxation: Relaxation, stages: Sequence[Stage]) -> None:
    """Raises ValueError or UsageError, naming both, for two things that cannot be combined.

    Args:
        config: that of the search.
        space: which it names.
        relaxation: of its method.
        stages: which it goes through.
    """
    relaxation.check(space)
    if not relaxation.trains_architecture:
        _check_without_architecture(config)
    if not relaxation.trains_space:
        _check_without_logits(config)
    _check_partial_channels(config, relaxation, stages)
    _check_skip_dropout(config)
    _check_drawing_operations(config, space)
    check_drop(config.stages, space)
    config.stop.check(space)


def _check_without_architecture(config: SearchConfig) -> None:
    """Raises ValueError, naming both flags, for what a method that does not train the architecture cannot use."""
    for flag, given in (NEED_STEPS | NEED_LOGITS).items():
        if given(config):
            raise ValueError(
                f"{flag} does nothing with --method {config.method.method}, which does not train the architecture; "
                "drop one of the two"
            )


def _check_without_logits(config: SearchConfig) -> None:
    """Raises ValueError, naming both flags, for what needs the logits that a method does not train."""
    for flag, given in NEED_LOGITS.items():
        if given(config):
            raise ValueError(
                f"{flag} is about logits, which --method {config.method.method} does not train; drop one of the two"
            )


def _check_partial_channels(config: SearchConfig, relaxation: Relaxation, stages: Sequence[Stage]) -> None:
    supernets = [stage.supernet(config.supernet) for stage in stages]
    for supernet in supernets:
        check_partial_channels(supernet.partial_channels, supernet.init_channels)
    if any(supernet.partial_channels > 1 for supernet in supernets) and not relaxation.rows_sum_to_one:
        raise ValueError(
            "--partial-channels needs weights of the operations that sum to 1 on an edge, which those of --method "
            f"{config.method.method} do not; drop one of the two"
        )


def _check_skip_dropout(config: SearchConfig) -> None:
    if not any(config.stages.skip_dropout):
        return
    if config.bilevel.unrolled:
        raise ValueError(
            "--skip-dropout draws anew in each evaluation of the loss, of which a step of --unrolled compares several; "
            "drop one of the two"
        )
    if config.supernet.checkpoint_cells:
        raise ValueError(
            "--checkpoint-cells computes each cell twice, but --skip-dropout would drop other numbers the second time; "
            "drop one of the two"
        )


def _check_drawing_operations(config: SearchConfig, space: SearchSpace) -> None:
    drawing = [name for name in space.operations if is_random(name)]
    if config.bilevel.unrolled and drawing:
        raise ValueError(
            f"operation {drawing[0]!r} draws random numbers anew in each evaluation of the loss, of which a step "
            "of --unrolled compares several; drop one of the two"
        )
