"""What holds for every test."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

import pytest
import torch

from genotypes.draw import picture

# The tests run side by side and their tensors are tiny: threads would only wait for each other. The variable
# is for the commands that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _each_picture_of_a_run_once() -> Iterator[None]:
    """Small runs draw the same cells again and again, which takes longer than their steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.runs.tensorboard.picture", functools.cache(picture))
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
