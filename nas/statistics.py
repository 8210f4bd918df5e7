"""BatchNorm statistics that are left alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Within it, BatchNorms in training mode use the batch's statistics and leave the running ones alone.

    BatchNorms, `nas.stacked.StackedNorm` included, are known by their attribute `track_running_stats`. InstanceNorm has
    it too, but updates its statistics whatever it says.
    """
    tracking = [m for m in module.modules() if getattr(m, "track_running_stats", False)]
    for m in tracking:
        m.track_running_stats = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for m in tracking:
            m.track_running_stats = True  # type: ignore[assignment]
