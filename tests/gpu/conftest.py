"""Tests that need a GPU, for `make test-gpu`: all others hide it."""

import pytest
import torch


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device; with one, `make test-gpu`")
    return torch.device("cuda", 0)
