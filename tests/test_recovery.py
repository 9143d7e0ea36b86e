"""Recovery: closer to the original, resumable to the bit, and never a network of NaN."""

from __future__ import annotations

import copy
import random
from itertools import product

import pytest
import torch
from helpers import image_batches, plan_for, tiny
from outer import write_images
from stopwatch import Clock
from torch import nn

from convswap import (
    ConvswapError,
    Preprocess,
    accuracy,
    convert,
    distill,
    fidelity,
    open_images,
    record_of,
)
from convswap.network.calls import read_batches
from convswap.network.outputs import Reference
from convswap.recovery import precision
from convswap.recovery.labels import right_beside
from convswap.recovery.rates import rate_for, schedule_for
from convswap.recovery.training import Training
from convswap.recovery.trials import Trials


@pytest.fixture(scope="module")
def pair():
    """A classifier with confident outputs, and a roughly converted copy."""
    model, size = tiny("residual")
    with torch.no_grad():
        model.head.weight.mul_(4)
    plan = plan_for(model, size, {"stem": ("separable", 1), "first": ("channel", 2),
                                  "second": ("spatial", 1)}, fit="weight")  # fmt: skip
    return model, convert(model, plan)


@pytest.fixture(scope="module")
def batches():
    return image_batches((3, 8, 8), count=8, size=8)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- it recovers ----------------------------------------------------------------------------


def test_the_outputs_come_closer_to_the_teachers(pair, batches):
    teacher, student = pair
    small = distill(student, teacher, batches, epochs=8, lr=5e-3)
    before = fidelity(student, teacher, batches, "logits")["kl"]
    after = fidelity(small, teacher, batches, "logits")["kl"]
    assert after < 0.5 * before


def test_images_not_trained_on_come_closer_too(pair, batches):
    teacher, student = pair
    small = distill(student, teacher, batches, epochs=8, lr=5e-3)
    others = image_batches((3, 8, 8), count=4, size=8, seed=5)
    before = fidelity(student, teacher, others, "logits")["kl"]
    assert fidelity(small, teacher, others, "logits")["kl"] < 0.8 * before


def test_an_image_to_image_network_comes_closer(batches):
    teacher, size = tiny("in place")
    student = convert(teacher, plan_for(teacher, size, {"second": ("channel", 1)}, fit="weight"))
    small = distill(student, teacher, batches, epochs=8, lr=1e-2)
    before = fidelity(student, teacher, batches, "values")["r2"]
    assert fidelity(small, teacher, batches, "values")["r2"] > before + 0.05


def test_a_network_of_several_outputs_comes_closer(batches):
    teacher, size = tiny("two outputs")
    student = convert(teacher, plan_for(teacher, size, {"trunk": ("channel", 2)}, fit="weight"))
    small = distill(student, teacher, batches, epochs=8, lr=1e-2)
    before = fidelity(student, teacher, batches, "values")["r2"]
    assert fidelity(small, teacher, batches, "values")["r2"] > before + 0.05


def test_an_epoch_is_kept_only_if_images_not_trained_on_say_so(pair, batches):
    """Training on images of another kind leads away from the original elsewhere."""
    teacher, student = pair
    others = [0.1 * x + 3 for x in batches]
    assert not same(state(distill(student, teacher, others, 4, lr=5e-3)), state(student))
    with pytest.warns(UserWarning, match="nothing is gained after 8 of 32 steps"):
        judged = distill(student, teacher, others, 4, lr=5e-3, judges=batches)
    assert same(state(judged), state(student))


def test_labels_are_not_used(pair, batches, one_thread):
    teacher, student = pair
    results = []
    for label in (0, 4):
        labelled = [(x, torch.full((len(x),), label)) for x in batches]
        results.append(state(distill(student, teacher, labelled, 1)))
    assert same(*results)


def test_a_one_way_iterable_is_enough(pair, batches):
    teacher, student = pair
    small = distill(student, teacher, (x for x in batches), epochs=3, lr=5e-3)
    before = fidelity(student, teacher, batches, "logits")["kl"]
    assert fidelity(small, teacher, batches, "logits")["kl"] < before


def test_no_batches_are_an_error(pair):
    with pytest.raises(ConvswapError, match="no images"):
        distill(pair[1], pair[0], [])


@pytest.mark.parametrize("given", [lambda xs: torch.cat(xs), lambda xs: {"x": xs[0]}],
                         ids=["one tensor", "one mapping"])  # fmt: skip
def test_batches_are_given_as_for_plan(given, pair, batches, one_thread):
    teacher, student = pair
    wanted = distill(student, teacher, read_batches(teacher, given(batches)), 2)
    assert same(state(distill(student, teacher, given(batches), 2)), state(wanted))


def test_empty_batches_are_passed_over(pair, batches):
    teacher, student = pair
    said, seen = [], []
    some = [batches[0][:0], *batches[:2], batches[0][:0], *batches[2:]]
    distill(student, teacher, some, 1, tell=said.append, progress=lambda *step: seen.append(step))
    assert (said, seen[-1][1:]) == ([], (10, 10))


LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
REFUSED = {
    "only empty batches": (lambda xs: [xs[0][:0]] * 2, {}, "no images"),
    "values that overflow": (lambda xs: [1e20 * x for x in xs], {"output": "values"},
                             "the loss is .* before the first step, on inputs of up to"),
    "whole numbers": (lambda xs: [x.long() for x in xs], {}, "Residual fails on an input of 3x8x8"),
    "bytes": (lambda xs: [x.byte() for x in xs], {}, "Residual fails on an input of 3x8x8"),
    "truth values": (lambda xs: [x > 0 for x in xs], {}, "Residual fails on an input of 3x8x8"),
    "complex numbers": (lambda xs: [x + 0j for x in xs], {}, "Residual fails on an input of 3x8x8"),
    "other channels later": (lambda xs: [xs[0], xs[1][:, :2]], {}, "fails on an input of 2x8x8"),
    "no labels": (lambda xs: xs, {"labels": True}, "the images have no labels"),
    "labels that are fractions": (lambda xs: [(x, LABELS.float()) for x in xs], {"labels": True},
                                  "the images have no labels"),
    "too few labels": (lambda xs: [(x, LABELS[:2]) for x in xs], {"labels": True},
                       "2 labels came with 8 images"),
    "a label below zero": (lambda xs: [(x, LABELS - 3) for x in xs], {"labels": True},
                           "label -3 is no class number"),
    "a late label beyond": (lambda xs: [*[(x, LABELS) for x in xs], (xs[0], LABELS + 1)],
                            {"labels": True}, "label 5 is beyond the network's 5 classes"),
    "no epochs": (lambda xs: xs, {"epochs": 0}, "epochs must be a number above 0, not 0"),
    "epochs that are no number": (lambda xs: xs, {"epochs": float("nan")}, "epochs must be"),
    "epochs without end": (lambda xs: xs, {"epochs": float("inf")}, "epochs must be"),
    "minutes without end": (lambda xs: xs, {"minutes": float("inf")}, "minutes must be"),
    "minutes below zero": (lambda xs: xs, {"minutes": -1}, "minutes must be"),
    "a rate below zero": (lambda xs: xs, {"lr": -1e-3}, "lr must be"),
    "a seed too long": (lambda xs: xs, {"seed": 1 << 70}, "seed must be a whole number of 64 bits"),
    "a judge that knows nothing": (lambda xs: xs, {"judge": lambda network: float("nan")},
                                   "the verdict on its start is NaN"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_on_is_refused_in_one_line_before_a_step(case, pair, batches):
    given, settings, says = REFUSED[case]
    steps = []
    with pytest.raises(ConvswapError, match=says) as caught:
        distill(pair[1], pair[0], given(batches), **settings,
                progress=lambda *step: steps.append(step))  # fmt: skip
    assert "\n" not in str(caught.value)
    assert steps == []


class Trunk(nn.Module):
    """A trunk and a head, both of which are replaced below."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return self.head(torch.tanh(self.trunk(x)))


class TrunkWithoutGradients(Trunk):
    def forward(self, x):
        with torch.no_grad():
            x = torch.tanh(self.trunk(x))
        return self.head(x)


class WithoutGradients(Trunk):
    forward = torch.no_grad()(Trunk.forward)


class InInference(Trunk):
    forward = torch.inference_mode()(Trunk.forward)


class CutOff(Trunk):
    def forward(self, x):
        return self.head(torch.tanh(self.trunk(x)).detach())


def frozen(names):
    def made():
        network = Trunk()
        for name in names:
            getattr(network, name).requires_grad_(False)
        return network

    return made


REACHED = {
    "as usual": (Trunk, {"trunk", "head"}),
    "a frozen trunk": (frozen(["trunk"]), {"head"}),
    "all frozen": (frozen(["trunk", "head"]), {"trunk", "head"}),
    "a trunk without gradients": (TrunkWithoutGradients, {"trunk", "head"}),
    "without gradients": (WithoutGradients, {"trunk", "head"}),
    "in inference mode": (InInference, {"trunk", "head"}),
    "a trunk cut off": (CutOff, {"trunk", "head"}),  # by what it writes itself
}


@pytest.mark.parametrize(("kind", "around"), [
    *((kind, torch.enable_grad) for kind in REACHED),
    *product(("as usual", "in inference mode"), (torch.no_grad, torch.inference_mode)),
])  # fmt: skip
def test_replaced_layers_are_trained_or_a_line_says_that_they_stay(kind, around, batches):
    make, wanted = REACHED[kind]
    torch.manual_seed(0)
    teacher, said = make(), []
    teacher.eval()
    rows = {"trunk": ("channel", 2), "head": ("channel", 2)}
    student = convert(teacher, plan_for(teacher, (3, 8, 8), rows, fit="weight"))
    with around():
        small = distill(student, teacher, batches, 2, lr=1e-2, tell=said.append)
    before, after = state(student), state(small)
    changed = {name.split(".")[0] for name in before if not before[name].equal(after[name])}
    assert changed == wanted
    left = {"trunk", "head"} - wanted
    assert [line.endswith("1 of 2 replaced layers, trunk") for line in said] == [True] * len(left)
    flags = [[p.requires_grad for p in network.parameters()] for network in (student, small)]
    assert flags[0] == flags[1]


def test_a_loss_without_gradients_is_refused_in_one_line(batches):
    network = Trunk().eval()
    with pytest.raises(ConvswapError, match="no gradient of the loss gets to the network"):
        distill(network, network, batches, loss=lambda ours, theirs, labels: ours.detach().sum())


def test_a_finished_run_that_is_called_again_tells_its_judgements(pair, batches, tmp_path):
    history = []
    distill(pair[1], pair[0], batches, 2, checkpoint=tmp_path / "c.pt")
    distill(pair[1], pair[0], batches, 2, checkpoint=tmp_path / "c.pt", judged=history.extend)
    assert history[-1].step == 16


@pytest.mark.parametrize("distance", [-1e-9, 0.0, 1e30])
def test_the_rate_is_a_number_for_any_distance(distance):
    assert 0 < rate_for(distance) < 1


# --- what stays as it was -------------------------------------------------------------------


def test_teacher_and_student_are_not_changed(pair, batches):
    teacher, student = pair
    before = state(teacher), state(student)
    small = distill(student, teacher, batches, 1)
    assert same(state(teacher), before[0])
    assert same(state(student), before[1])
    assert all(p.requires_grad for p in teacher.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert small is not student
    assert not small.training


def test_no_hooks_are_left(pair, batches):
    teacher, student = pair
    small = distill(student, teacher, batches, 1)
    for network in (teacher, student, small):
        assert not any(module._forward_hooks for module in network.modules())


def test_the_result_is_of_the_same_class_and_remembers_its_plan(pair, batches):
    teacher, student = pair
    small = distill(student, teacher, batches, 1)
    assert type(small) is type(teacher)
    assert record_of(small) == record_of(student)


def test_a_teacher_in_training_mode_teaches_as_in_evaluation(pair, batches, one_thread):
    teacher, student = pair
    wanted = state(distill(student, teacher, batches, 1))
    assert same(state(distill(student, copy.deepcopy(teacher).train(), batches, 1)), wanted)


# --- interrupted ----------------------------------------------------------------------------


class Interrupted(KeyboardInterrupt):
    """What Ctrl-C raises."""


def interrupt_at(step: int):
    def progress(what: str, done: int, total: int) -> None:
        if done == step:
            raise Interrupted

    return progress


@pytest.fixture
def every_step(monkeypatch):
    """The state is written after every step, and not every half minute."""
    monkeypatch.setattr("convswap.recovery.checkpoint.SECONDS", 0)


@pytest.fixture(scope="module")
def uninterrupted(pair, batches):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield state(distill(pair[1], pair[0], batches, epochs=3))
    torch.set_num_threads(before)


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("step", [1, 12, 16, 17, 24])  # of three epochs of eight
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    step, pair, batches, uninterrupted, tmp_path, one_thread
):
    teacher, student = pair
    assert not same(uninterrupted, state(student))
    with pytest.raises(Interrupted):
        distill(student, teacher, batches, epochs=3, checkpoint=tmp_path / "c.pt",
                progress=interrupt_at(step))  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]
    resumed = distill(student, teacher, batches, epochs=3, checkpoint=tmp_path / "c.pt")
    assert same(state(resumed), uninterrupted)


@pytest.mark.usefixtures("every_step")
def test_a_resumed_run_does_not_repeat_steps(pair, batches, tmp_path):
    teacher, student = pair
    with pytest.raises(Interrupted):
        distill(student, teacher, batches, epochs=3, checkpoint=tmp_path / "c.pt",
                progress=interrupt_at(17))  # fmt: skip
    seen = []
    distill(student, teacher, batches, epochs=3, checkpoint=tmp_path / "c.pt",
            progress=lambda *step: seen.append(step[1]))  # fmt: skip
    assert seen[0] == 18
    assert seen[-1] == 24


@pytest.mark.usefixtures("every_step")
def test_a_resumed_run_sees_images_augmented_as_they_would_have_been(pair, tmp_path, one_thread):
    teacher, student = pair
    source = write_images(tmp_path / "data", each=4)
    preprocess = Preprocess(input_size=(3, 8, 8), crop_pct=0.75)

    def epochs():
        images = open_images(str(source), preprocess, train=True)
        return images.batches(4, shuffle=True)

    settings = {"epochs": 2, "lr": 3e-4}
    distill(student, teacher, epochs(), **settings, checkpoint=tmp_path / "whole.pt")
    with pytest.raises(Interrupted):
        distill(student, teacher, epochs(), **settings, checkpoint=tmp_path / "c.pt",
                progress=interrupt_at(6))  # fmt: skip
    torch.rand(3), random.random()  # another process starts from another state
    distill(student, teacher, epochs(), **settings, checkpoint=tmp_path / "c.pt")
    wanted, resumed = (  # the last weights, whether or not they are the best
        torch.load(tmp_path / name, weights_only=True)["state"]["student"]
        for name in ("whole.pt", "c.pt")
    )
    assert not same(wanted, state(student))
    assert same(resumed, wanted)


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_a_damaged_checkpoint_is_named(content, pair, batches, tmp_path):
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(ConvswapError, match=r"c\.pt"):
        distill(pair[1], pair[0], batches, checkpoint=tmp_path / "c.pt")


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("damage", [
    {"lr": None}, {"lr": "x"}, {"steps": []}, {"step": "x"}, {"step": None}, {"least": {}},
    {"student": {}}, {"average": 3}, {"optimizer": []}, {"best": {"x": 1}}, {"history": []},
    {"history": [{}]}, {"history": [{"step": "x"}]},
], ids=str)  # fmt: skip
def test_a_checkpoint_with_a_damaged_state_is_named(damage, pair, batches, tmp_path):
    teacher, student = pair
    with pytest.raises(Interrupted):
        distill(student, teacher, batches, checkpoint=tmp_path / "c.pt", progress=interrupt_at(2))
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    torch.save(content | {"state": content["state"] | damage}, tmp_path / "c.pt")
    with pytest.raises(ConvswapError, match=r"cannot read .*c\.pt"):
        distill(student, teacher, batches, checkpoint=tmp_path / "c.pt")


def test_a_checkpoint_in_a_folder_that_does_not_exist_is_refused_at_once(pair, batches, tmp_path):
    with pytest.raises(ConvswapError, match="does not exist"):
        distill(pair[1], pair[0], batches, checkpoint=tmp_path / "no" / "c.pt")


def test_a_checkpoint_of_another_network_is_refused(pair, batches, tmp_path):
    teacher, student = pair
    distill(student, teacher, batches, 1, checkpoint=tmp_path / "c.pt")
    other = convert(teacher, plan_for(teacher, (3, 8, 8), {"first": ("channel", 3)}, fit="weight"))
    with pytest.raises(ConvswapError, match=r"c\.pt"):
        distill(other, teacher, batches, 1, checkpoint=tmp_path / "c.pt")


def test_a_checkpoint_that_holds_code_is_not_run(pair, batches, tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was run",))

    torch.save({"epoch": Trap()}, tmp_path / "c.pt")
    with pytest.raises(ConvswapError, match=r"c\.pt"):
        distill(pair[1], pair[0], batches, checkpoint=tmp_path / "c.pt")


# --- what goes wrong ------------------------------------------------------------------------


def test_a_loss_of_nan_is_said_and_the_best_so_far_is_kept(pair, batches):
    said = []
    small = distill(pair[1], pair[0], batches, lr=1e30, tell=said.append)
    assert len(said) == 1
    assert "the loss became NaN or infinite at step" in said[0]
    assert all(tensor.isfinite().all() for tensor in small.state_dict().values())


def test_a_last_step_that_diverges_is_not_what_comes_out(pair, batches):
    teacher, student = pair
    small = distill(student, teacher, batches[:1], 1, lr=1e30, tell=lambda line: None)
    assert all(tensor.isfinite().all() for tensor in small.state_dict().values())
    before = fidelity(student, teacher, batches[:1], "logits")["kl"]
    assert fidelity(small, teacher, batches[:1], "logits")["kl"] <= before + 1e-6


def test_a_learning_rate_too_high_never_makes_the_network_worse(pair, batches):
    teacher, student = pair
    small = distill(student, teacher, batches, epochs=2, lr=0.3)
    before = fidelity(student, teacher, batches[:4], "logits")["kl"]
    assert fidelity(small, teacher, batches[:4], "logits")["kl"] <= before + 1e-6


@pytest.mark.parametrize(
    ("by_distance", "asked", "used"),
    [(1.0, None, {1 / 2, 1 / 4, 1 / 8, 1 / 16}), (1e-6, None, {1e-6}), (1.0, 0.5, {0.5})],
    ids=["too fast", "slow", "as asked"],
)
def test_a_rate_that_throws_the_network_back_is_lowered_unless_asked_for(
    by_distance, asked, used, pair, batches, monkeypatch
):
    monkeypatch.setattr("convswap.recovery.distill.rate_for", lambda distance: by_distance)
    history = []
    distill(pair[1], pair[0], batches[:4], 4, lr=asked, judged=history.extend)
    highest = max(judgement.lr for judgement in history)
    assert any(highest == pytest.approx(rate, rel=0.2) for rate in used)  # of a short run's top


@pytest.mark.parametrize(
    ("noise", "kept"), [(0.5, [1.0, 0.4, 0.6, 0.6, 0.6]), (0.0, [1.0, 0.4, 0.4, 0.4, 0.4])],
    ids=["few images", "own judge"],
)  # fmt: skip
def test_a_later_state_is_kept_unless_it_lost_half_of_the_gain(noise, kept):
    verdicts = iter([1.0, 0.5, 0.4, 0.6, 0.65, 0.8, float("nan"), 1.5, 1.2])
    training = Training(nn.Identity(), nn.Linear(1, 1), lambda network: next(verdicts), 0.1, 4,
                        noise)  # fmt: skip
    for _ in range(4):
        training.have_judged(0)
    assert [judgement.best for judgement in training.history] == kept
    assert training.least == 0.4


@pytest.mark.parametrize(
    ("verdict", "told"), [(2.0, [False, True, False]), (0.5, [False] * 3)], ids=["no", "yes"]
)
def test_that_nothing_is_gained_is_known_once_and_early(verdict, told):
    verdicts = iter([1.0] + 6 * [verdict])
    training = Training(nn.Identity(), nn.Linear(1, 1), lambda network: next(verdicts), 0.1, 8)
    found = []
    for training.step in (1, 2, 8):
        training.have_judged(0)
        found.append(training.in_vain)
    assert found == told


@pytest.mark.parametrize(
    ("labels", "right"), [([0, 1, 2, 3], 75.0), ([0, 1, 2, 4], None), (None, None)],
    ids=["fit", "of other classes", "none"],
)  # fmt: skip
def test_labels_tell_how_often_networks_are_right(labels, right):
    network = nn.Identity()
    scores = torch.eye(4)
    scores[3] = scores[0]
    given = (scores,) if labels is None else (scores, torch.tensor(labels))
    found = right_beside(network, read_batches(network, [given]), "logits")(network)
    assert found == ({"top1": right, "original_top1": right} if right else {})


@pytest.mark.parametrize(("steps", "warm"), [(1, 0), (12, 3), (100, 8), (400, 20)])
def test_the_rate_rises_for_a_twentieth_of_all_steps_and_for_eight_at_least(steps, warm):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 1.0)
    schedule = schedule_for(optimizer, steps)
    rates = [schedule._get_lr(step)[0] for step in range(steps + 1)]
    assert rates[: warm + 1] == sorted(rates[: warm + 1])
    assert rates[warm:] == sorted(rates[warm:], reverse=True)
    assert warm == 0 or rates[0] == 0


@pytest.mark.parametrize(
    ("steps", "batches", "used"),
    [(50, 100, 1 / 16), (400, 100, 1.0), (400, 2, 1 / 16)],
    ids=["short", "long", "long, with few images"],
)
def test_a_longer_run_may_be_thrown_back_further(steps, batches, used, monkeypatch):
    monkeypatch.setattr(Trials, "_tried", lambda self, lr, judge: (1.0, 3.0, 0.0))
    trials = Trials(nn.Identity(), nn.Identity(), range(batches), lambda batch: batch, 0)
    assert trials.rate(1.0, steps, lambda network: 0.0) == used


def test_minutes_are_those_of_all_that_is_done(monkeypatch):
    clock = Clock(monkeypatch, "convswap.recovery.trials.time")
    monkeypatch.setattr(Trials, "_tried", lambda *args: (clock.advance(8), 0.0, 1.0))
    trials = Trials(nn.Identity(), nn.Identity(), range(9), lambda batch: batch, 0)
    steps = trials.steps_within(100, 1.0, lambda network: clock.advance(2), 4)
    assert steps == 100 - 2 * (2 + 8) - 2 * 4 * 2


def test_what_is_tried_beforehand_is_undone(pair, batches):
    teacher, student = pair
    history = []
    distill(student, teacher, batches, 1, judged=history.extend)
    reference = Reference(teacher, read_batches(teacher, batches[:4]), "logits")
    assert history[0].trained == pytest.approx(reference.distance(student), rel=1e-5)


@pytest.mark.parametrize(
    "kind", ["fast", "slow device", "double weights", "own loss", "fails", "far"]
)
def test_networks_run_in_bfloat16_where_that_is_faster_and_changes_little(
    kind, pair, batches, monkeypatch
):
    monkeypatch.setitem(precision.FAST, "cpu", lambda: kind != "slow device")
    types = set()
    teacher, student = (copy.deepcopy(network) for network in pair)
    if kind == "double weights":
        teacher, student = teacher.double(), student.double()
    if kind == "far":
        monkeypatch.setattr(precision, "CLOSE", -1.0)

    def look(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        types.add(output.dtype)
        if kind == "fails" and output.dtype == torch.bfloat16:
            raise RuntimeError("no such kernel")

    student.head.register_forward_hook(look)
    given = batches if kind != "double weights" else [x.double() for x in batches]
    loss = (
        (lambda ours, theirs, labels: (ours - theirs).square().mean())
        if kind == "own loss"
        else None
    )
    before = fidelity(student, teacher, given, "logits")["kl"]
    types.clear()
    small = distill(student, teacher, given, 2, loss=loss)
    assert fidelity(small, teacher, given, "logits")["kl"] < before
    assert (torch.bfloat16 in types) == (kind in ("fast", "fails", "far"))
    assert {p.dtype for p in small.parameters()} == {next(student.parameters()).dtype}


def test_progress_counts_every_step_once(pair, batches):
    seen = []
    distill(pair[1], pair[0], batches, epochs=2, progress=lambda *step: seen.append(step))
    assert [done for _, done, _ in seen] == list(range(1, 17))
    assert {total for _, _, total in seen} == {16}


def test_digits_are_recovered_in_a_moment(one_thread):
    """From real images to accuracy, with nothing but the library."""
    preprocess = Preprocess(input_size=(1, 8, 8), mean=(0.5,), std=(0.5,))
    known, held_out = (open_images("digits", preprocess, held_out=part) for part in (False, True))
    teacher = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1, stride=2), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Flatten(), nn.Linear(24 * 16, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(teacher.parameters(), 3e-3)
    for _ in range(3):
        for x, labels in known.batches(64, shuffle=True):
            loss = nn.functional.cross_entropy(teacher(x), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    teacher.eval()
    plan = plan_for(teacher, (1, 8, 8), {"3": ("spatial", 4)}, fit="weight")
    student = convert(teacher, plan)
    small = distill(student, teacher, known.batches(64, shuffle=True), epochs=2)
    tops = [accuracy(net, held_out.batches(128))["top1"] for net in (teacher, student, small)]
    assert tops[0] > 90
    assert tops[2] > max(tops[1], tops[0] - 4)
