"""Every test starts from the same random state, and generated tests are the same every time."""

import os

# Tests run on two workers: each, and every command it starts, on one thread.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("convswap", deadline=None, derandomize=True, database=None)
settings.load_profile("convswap")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
