"""Every test starts from the same random state, and generated tests are the same every time."""

import os
import shutil
import signal
import socket

# Tests run on two workers: each, and every command it starts, on one thread.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from hypothesis import settings
from nursery import nursery_in

from convswap.support.after_import import after_import
from convswap.support.files import user_cache

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of shells
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored by what `nohup` starts
after_import("torch.onnx._internal.exporter._registration", "operators")
settings.register_profile("convswap", deadline=None, derandomize=True, database=None)
settings.load_profile("convswap")


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory):
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True, scope="session")
def _rough_times():
    """Two workers disturb each other: medians never get as certain as is waited for elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convswap.timing.turns.PRECISION", 0.2)
        yield


@pytest.fixture(scope="session")
def nursery(_cache, tmp_path_factory):
    with nursery_in(tmp_path_factory.mktemp("nursery")) as found:
        yield found


@pytest.fixture
def port() -> int:
    """One that is free."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(autouse=True)
def _start(_cache):
    torch.default_generator.manual_seed(0)
    shutil.rmtree(user_cache("surveys"), ignore_errors=True)
