"""Every test starts from the same random state, and generated tests are the same every time."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("convswap", deadline=None, derandomize=True, database=None)
settings.load_profile("convswap")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
