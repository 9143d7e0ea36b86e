"""How much forward passes hold: counted on shapes alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from helpers import tiny, walk
from torch import nn

from convswap import open_target
from convswap.network.memory import free_bytes, in_flight_bytes
from convswap.timing.peak_memory import peak_bytes

PIXELS = 16 * 16


def bytes_of(*layers: nn.Module) -> int:
    return in_flight_bytes(nn.Sequential(*layers), (3, 16, 16))


def conv(in_: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(in_, out, 3, padding=1)


def test_input_and_output_of_the_widest_layer_are_held_together():
    held = bytes_of(conv(3, 8), conv(8, 4))
    assert held == 4 * PIXELS * (3 + 8 + 4)  # the caller keeps the image


def test_what_is_done_in_place_holds_nothing_more():
    assert bytes_of(conv(3, 8), nn.ReLU(inplace=True)) == 4 * PIXELS * (3 + 8)
    assert bytes_of(conv(3, 8), nn.ReLU()) == 4 * PIXELS * (3 + 8 + 8)


def test_what_is_no_longer_needed_is_not_held():
    row = [conv(3, 8), *(conv(8, 8) for _ in range(5))]
    assert bytes_of(*row) == 4 * PIXELS * (3 + 8 + 8)


def test_weights_are_not_held_for_every_image():
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4096)]
    assert bytes_of(conv(3, 8), *head) < 4 * (PIXELS * (3 + 8) + 4096 + 100)


def test_it_grows_with_the_image():
    model = nn.Sequential(conv(3, 8))
    assert in_flight_bytes(model, (3, 32, 32)) == 4 * in_flight_bytes(model, (3, 16, 16))


def test_nothing_is_computed_and_nothing_is_changed():
    model = nn.Sequential(nn.Conv2d(3, 4096, 3), nn.BatchNorm2d(4096)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert in_flight_bytes(model, (3, 512, 512)) > 2**32  # more than could be computed here
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["residual", "concat"])
def test_no_batch_holds_more_while_layers_are_fitted(name: str):
    model, size = tiny(name)
    paths = [path for path, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    bound = 3 * in_flight_bytes(model, size)
    batches = [torch.randn(1, *size) for _ in range(3)]
    for stop in walk(model, paths, batches):
        held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
                for pair in stop.pairs for t in pair}  # fmt: skip
        assert sum(held.values()) <= bound


def test_free_memory_is_known_here_or_said_to_be_unknown():
    free = free_bytes(torch.device("cpu"))
    assert free is None or free > 2**20


# --- measured --------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how a process grew")
@pytest.mark.parametrize("name", ["eager", "onnxruntime"])
def test_weights_and_the_largest_maps_are_in_the_peak(name: str):
    if name != "eager":
        pytest.importorskip(name, reason=f"{name} is not installed")
    target, x = open_target(name, threads=1), torch.zeros(1, 8, 256, 256)
    small = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())
    large = nn.Sequential(nn.Conv2d(8, 256, 1), nn.ReLU(), nn.Conv2d(256, 8, 1))
    heavy = nn.Sequential(*small, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2**22))
    for network in (small, large, heavy):
        target.variants(network, x)  # what is done only once in a process
    least = peak_bytes(target, small, x)
    assert peak_bytes(target, large, x) - least > 0.9 * (256 - 8) * x[0, 0].nbytes
    assert peak_bytes(target, heavy, x) - least > 0.9 * heavy[-1].weight.nbytes


def test_where_the_system_does_not_say_there_is_no_figure(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert peak_bytes(open_target("eager"), nn.Conv2d(3, 3, 1), torch.zeros(1, 3, 4, 4)) is None


# limits of control groups


@pytest.mark.parametrize(
    ("lines", "files", "free"),
    [
        ("0::/job/step\n", {"job/step/memory.max": "max", "job/step/memory.current": "5"}, 10_240),
        (
            "0::/job/step\n",
            {
                "job/step/memory.max": "max", "job/step/memory.current": "5",
                "job/memory.max": "3000", "job/memory.current": "1000",
            },
            2000,
        ),
        ("0::/\n", {"memory.max": "900", "memory.current": "1000"}, 0),
        ("0::/\n", {"memory.max": "99000", "memory.current": "0"}, 10_240),
        (
            "5:cpu:/a\n4:memory:/a\n",
            {"memory/a/memory.limit_in_bytes": "700", "memory/a/memory.usage_in_bytes": "300"},
            400,
        ),
        ("0::/\n", {"memory.max": "nonsense"}, 10_240),
        ("", {}, 10_240),
    ],
    ids=["none", "above", "spent", "larger than the machine", "version 1", "damaged", "no groups"],
)  # fmt: skip
def test_free_memory_is_the_least_that_any_group_leaves(
    lines: str, files: dict[str, str], free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "meminfo").write_text("MemTotal: 20 kB\nMemAvailable: 10 kB\n")
    (tmp_path / "cgroup").write_text(lines)
    for name, content in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.setattr("convswap.network.memory._MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr("convswap.network.memory._GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr("convswap.network.memory._GROUP_FOLDER", tmp_path / "groups")
    assert free_bytes(torch.device("cpu")) == free
