"""Tests that need a GPU of NVIDIA; each of them is skipped, with the reason, on a machine without one."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def gpu() -> torch.device:
    """The first GPU. Products of float32 stay float32 there, as in a replica."""
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no GPU of NVIDIA here")
    return torch.device("cuda", 0)
