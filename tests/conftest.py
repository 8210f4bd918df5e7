"""What holds for every test."""

from __future__ import annotations

import os

import pytest
import torch

# The tests run side by side and their tensors are tiny: threads would only wait for each other. The variable
# is for the commands that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
