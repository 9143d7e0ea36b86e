"""Distillation that is killed, stopped, or in several processes ends as if nothing had been."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from helpers import image_batches, plan_for
from nursery import Nursery
from outer import as_torchrun_tells
from torch import Tensor, nn

from convswap import ConvswapError, convert, distill, record_of
from convswap.network.calls import read_batch
from convswap.network.outputs import Reference

STEPS = 24


class Dropout(nn.Module):
    """Draws random numbers in every pass, also in eval mode."""

    num_classes = 5

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = nn.functional.dropout(torch.relu(x + self.body(x)), 0.2, training=True)
        return 4 * self.head(x.mean((2, 3)))


def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    teacher = Dropout().eval()
    plan = plan_for(teacher, (3, 8, 8), {"body": ("channel", 2)}, fit="weight")
    return teacher, convert(teacher, plan.model_copy(update={"output": "logits"}))


def data() -> list[Tensor]:
    return image_batches((3, 8, 8), count=8, size=8)


def trained(folder: Path, **settings: object) -> nn.Module:
    teacher, student = pair()
    return distill(student, teacher, data(), 3, checkpoint=folder / "c.pt", **settings)


def run_slowly(hold: str = "-1") -> None:
    """In a process of its own: writes its state after every step, and its result at the end;
    waits at a step until there is a file `go`."""
    torch.set_num_threads(1)
    from convswap.recovery import checkpoint

    checkpoint.SECONDS = 0

    def progress(what: str, done: int, total: int) -> None:
        Path("step").write_text(str(done))
        while done >= int(hold) >= 0 and not Path("go").exists():
            time.sleep(0.01)

    small = trained(Path(), progress=progress)
    torch.save(small.state_dict(), "done.pt")


SLOWLY = "import sys, test_unbreakable_recovery as tests\ntests.run_slowly(*sys.argv[1:])"
TOGETHER = "import sys, test_unbreakable_recovery as tests\ntests.run_together(*sys.argv[1:])"


def stop_at(nursery: Nursery, folder: Path, step: int, how: int) -> int:
    """Start a run, and send it a signal once so many steps are made; how it ended."""
    for name in ("step", "go"):
        (folder / name).unlink(missing_ok=True)
    run, until = nursery.start(SLOWLY, step, cwd=folder), time.monotonic() + 600
    while not (seen := folder / "step").exists() or int(seen.read_text() or 0) < step:
        assert time.monotonic() < until
        time.sleep(0.01)
    run.send(how)
    (folder / "go").touch()
    return run.wait()


def ends_as(nursery: Nursery, folder: Path, wanted: dict[str, Tensor]) -> bool:
    """Whether a run that nobody disturbs ends with these weights."""
    done = nursery.run(SLOWLY, cwd=folder)
    assert done.code == 0, done.err
    found = torch.load(folder / "done.pt", weights_only=True)
    return all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.fixture(scope="module")
def wanted(tmp_path_factory) -> dict[str, Tensor]:
    """The weights of a run that nobody disturbed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return trained(tmp_path_factory.mktemp("whole")).state_dict()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_run_ends_with_the_same_weights(seed: int, nursery, wanted, tmp_path):
    """Twice killed, at random moments; dropout draws as if it had not been."""
    first, second = sorted(random.Random(seed).sample(range(1, STEPS - 2), 2))
    for step in (first, second):
        assert stop_at(nursery, tmp_path, step, signal.SIGKILL) == -signal.SIGKILL
    assert ends_as(nursery, tmp_path, wanted)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stopped_run_ends_between_two_steps_and_goes_on(how: int, nursery, wanted, tmp_path):
    assert stop_at(nursery, tmp_path, 5, how) != 0
    assert (tmp_path / "c.pt").exists()
    assert not (tmp_path / "done.pt").exists()
    assert ends_as(nursery, tmp_path, wanted)


def test_the_random_state_of_the_caller_is_not_touched():
    teacher, student = pair()
    torch.manual_seed(3)
    wanted = torch.rand(3)
    torch.manual_seed(3)
    distill(student, teacher, data(), 1)
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize(
    "other",
    [
        {"lr": 1e-4}, {"seed": 1}, {"epochs": 4}, {"output": "values"},
        {"batches": image_batches((3, 8, 8), count=8, size=8, seed=5)},
    ],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_a_checkpoint_of_another_job_is_refused(other: dict, tmp_path):
    trained(tmp_path)
    teacher, student = pair()
    settings = {"batches": data(), "epochs": 3} | other
    with pytest.raises(ConvswapError, match="is of another run: its networks, images") as caught:
        distill(student, teacher, checkpoint=tmp_path / "c.pt", **settings)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_said_once_per_writing_and_training_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("convswap.recovery.checkpoint.SECONDS", 0)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    said, (teacher, student) = [], pair()
    small = distill(student, teacher, data(), 1, checkpoint=tmp_path / "c.pt", tell=said.append)
    assert any("No space left on device" in line for line in said)
    assert not (tmp_path / "c.pt").exists()
    assert not small.training


def test_what_the_plan_says_is_compared(tmp_path):
    """Not what the first batch looks like: labels of one class name no classifier."""
    teacher, student = pair()
    assert record_of(student).plans[-1].output == "logits"
    del Dropout.num_classes
    try:
        history = []
        distill(student, teacher, data(), 1, judged=history.extend)
        found = history[0].best
        batches = [read_batch(teacher, batch) for batch in data()[:4]]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            reference = Reference(teacher, batches, "values")
        assert found != pytest.approx(reference.distance(student), rel=0.01)
    finally:
        Dropout.num_classes = 5


def test_labels_beside_the_teacher_are_learned():
    teacher, student = pair()
    labelled = [(x, torch.full((len(x),), 3)) for x in data()]
    small = distill(student, teacher, labelled, 8, lr=1e-2, labels=True)
    with torch.no_grad():
        ours, theirs = (n(data()[0]).softmax(1)[:, 3].mean() for n in (small, student))
    assert ours > theirs


def test_labels_that_are_not_there_are_asked_for():
    teacher, student = pair()
    with pytest.raises(ConvswapError, match="the images have no labels"):
        distill(student, teacher, data(), 1, labels=True)


def test_a_loss_and_a_judge_of_the_callers_own_are_used():
    teacher, student = pair()
    seen = []

    def loss(output: Tensor, target: Tensor, labels: Tensor | None) -> Tensor:
        return output.square().mean()

    def judge(network: nn.Module) -> float:
        with torch.no_grad():
            seen.append(network(data()[0]).square().mean().item())
        return seen[-1]

    small = distill(student, teacher, data(), 4, lr=1e-2, loss=loss, judge=judge)
    assert judge(small) < seen[0]


def test_it_trains_for_about_as_long_as_asked():
    teacher, student = pair()
    steps = []
    distill(student, teacher, data(), minutes=0.01, progress=lambda *p: steps.append(p))
    more = []
    distill(student, teacher, data(), minutes=0.05, progress=lambda *p: more.append(p))
    assert 1 <= len(steps) < len(more)


# --- several processes ----------------------------------------------------------------------


def run_together(rank: str, port: str) -> None:
    """One of two processes, told so as `torchrun` tells."""
    from convswap.support import ranks

    torch.set_num_threads(1)
    os.environ.update(as_torchrun_tells(rank, port))
    with ranks.joined("cpu"):
        _, size = ranks.place()
        teacher, student = pair()
        mine = [x[int(rank) :: size] for x in data()]
        small = distill(student, teacher, mine, 4, judges=data(), lr=5e-3)
        torch.save(small.state_dict(), f"{rank}.pt")


def test_processes_that_train_together_end_with_one_network(nursery, tmp_path, port):
    runs = [nursery.start(TOGETHER, rank, port, cwd=tmp_path) for rank in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    first, second = (torch.load(tmp_path / f"{i}.pt", weights_only=True) for i in range(2))
    _, student = pair()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], value) for name, value in student.state_dict().items())
