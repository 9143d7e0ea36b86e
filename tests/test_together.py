"""Several processes that look at samples together find what one alone does."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from helpers import image_batches, tiny
from outer import as_torchrun_tells
from torch import Tensor, nn

from convswap import Budget, Plan, convert, plan, record_of
from convswap.network.calls import read_batches
from convswap.network.outputs import Reference
from convswap.planning import surveying
from convswap.support import ranks

NETWORKS = {  # of classes, of values, and of classes where the layers are looked at twice
    "classes": ("residual", math.inf), "values": ("two outputs", 0.0), "far": ("residual", 0.0),
}  # fmt: skip
TOGETHER = "import sys, test_together as tests\ntests.look(*sys.argv[1:])"


def samples(input_size: tuple[int, ...]) -> Tensor:
    return torch.cat(image_batches(input_size, count=8, size=8))


def converted(name: str, batches: list[Tensor]) -> nn.Module:
    network, far = NETWORKS[name]
    model, _ = tiny(network)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surveying, "FAR", far)
        made = plan(model, batches, Budget(macs=0.5))
    return convert(model, made, batches)


def look(name: str, rank: str, port: str) -> None:
    """What one of two processes does, with half of the samples."""
    torch.set_num_threads(1)
    os.environ.update(as_torchrun_tells(rank, port))
    _, input_size = tiny(NETWORKS[name][0])
    with ranks.joined("cpu", sharing=True):
        small = converted(name, [*samples(input_size)[int(rank) :: 2].split(8)])
    made = record_of(small).plans[-1]
    torch.save(small.state_dict(), f"{rank}.pt")
    Path(f"{rank}.json").write_text(made.model_dump_json())


@pytest.mark.parametrize("name", NETWORKS)
def test_what_two_processes_find_is_what_one_does(name: str, nursery, tmp_path, port):
    runs = [nursery.start(TOGETHER, name, rank, port, cwd=tmp_path) for rank in range(2)]
    ends = [run.finished() for run in runs]
    assert [end.code for end in ends] == [0, 0], ends[0].err + ends[1].err
    first, second = (torch.load(tmp_path / f"{i}.pt", weights_only=True) for i in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    plans = [json.loads((tmp_path / f"{i}.json").read_text()) for i in range(2)]
    assert plans[0] == plans[1]

    model, input_size = tiny(NETWORKS[name][0])
    batches = [*samples(input_size).split(16)]
    alone = converted(name, batches)
    together = convert(model, Plan.model_validate(plans[0]), batches)
    reference = Reference(model, read_batches(model, batches), plans[0]["output"])
    seen = [reference.distance(alone), reference.distance(together)]
    together.load_state_dict(first)
    # what tells how errors count is drawn at random by each process
    assert reference.distance(together) == pytest.approx(seen[1], rel=0.5)
    assert seen[1] == pytest.approx(seen[0], rel=0.5)
