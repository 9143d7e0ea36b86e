"""Batch norms folded into the layers before them: where that is right, and nowhere else."""

from __future__ import annotations

import pytest
import timm
import torch
from helpers import image_batches, plan_for, relative, tiny
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from convswap import (
    Budget,
    Layers,
    Preprocess,
    convert,
    count,
    distill,
    export_program,
    fold_norms,
    load,
    open_model,
    plan,
    record_of,
    save,
    survey,
)
from convswap.errors import ConversionError, PlanError
from convswap.forms import Factorized
from convswap.network.norms import fold_
from convswap.record import remember

SIZE = (3, 32, 32)
NARROW = {"channels": [8, 8, 16, 16], "num_classes": 4, "zero_init_last": False}


@torch.no_grad()
def used(model: nn.Module) -> nn.Module:
    """A network whose batch norms have seen something."""
    torch.manual_seed(1)
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.weight is not None:
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
    return model.eval()


def row(*layers: nn.Module) -> nn.Module:
    return used(nn.Sequential(*layers))


FOLDED = {
    "of a convolution": lambda: (row(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), (3, 9, 9)),
    "of one without bias": lambda: (
        row(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()), (3, 9, 9)),
    "depthwise": lambda: (row(nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8)), (4, 9, 9)),
    "transposed": lambda: (
        row(nn.ConvTranspose2d(4, 6, 3, 2, groups=2), nn.BatchNorm2d(6)), (4, 5, 5)),
    "one axis": lambda: (row(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8)), (3, 9)),
    "three axes": lambda: (row(nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4)), (2, 4, 5, 5)),
    "of vectors": lambda: (row(nn.Linear(5, 7), nn.BatchNorm1d(7)), (5,)),
    "without gain": lambda: (row(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False)), (3, 9, 9)),
    "synchronised": lambda: (row(nn.Conv2d(3, 8, 3), nn.SyncBatchNorm(8)), (3, 9, 9)),
    "frozen": lambda: (row(nn.Conv2d(3, 8, 3), FrozenBatchNorm2d(8)), (3, 9, 9)),
    "with an activation": lambda: (row(nn.Conv2d(3, 8, 3), BatchNormAct2d(8)), (3, 9, 9)),
    "with one that has weights": lambda: (
        row(nn.Conv2d(3, 8, 3), BatchNormAct2d(8, act_layer=nn.PReLU)), (3, 9, 9)),
    "frozen, with an activation": lambda: (
        row(nn.Conv2d(3, 8, 3), FrozenBatchNormAct2d(8)), (3, 9, 9)),
    "synchronised, with one": lambda: (
        convert_sync_batchnorm(row(nn.Conv2d(3, 8, 3), BatchNormAct2d(8))), (3, 9, 9)),
    "behind what does nothing": lambda: (
        row(nn.Conv2d(3, 8, 3), nn.Dropout(), nn.Identity(), nn.BatchNorm2d(8)), (3, 9, 9)),
    "double precision": lambda: (row(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).double(), (3, 9, 9)),
    "half precision": lambda: (row(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).bfloat16(), (3, 9, 9)),
}  # fmt: skip
CLOSE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("kind", FOLDED)
@torch.no_grad()
def test_outputs_stay_and_nothing_of_the_norm_is_left(kind):
    model, size = FOLDED[kind]()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = fold_norms(model, size)
    x = torch.randn(2, *size, dtype=next(model.parameters()).dtype)
    assert relative(folded(x), model(x)) < CLOSE[x.dtype]
    assert not any("running_mean" in name for name in folded.state_dict())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert [p.dtype for p in folded.parameters()] == [x.dtype] * len([*folded.parameters()])


class Block(nn.Module):
    """A convolution and a norm, and what else is done with either."""

    def __init__(self, way: str):
        super().__init__()
        self.way = way
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> object:
        if self.way == "norm first":
            return self.conv(self.norm(x))
        y = self.conv(x)
        if self.way == "changed between":
            y.mul_(2)
        if self.way == "another function between":
            y = y.relu()
        z = self.norm(y)
        if self.way == "added":
            return y + z
        if self.way == "put out as well":
            return y, z
        if self.way == "called twice":
            return self.norm(self.conv(z))
        if self.way == "gain is read":
            return z * self.norm.weight.mean()
        return z


class OverTokens(nn.Module):
    """A norm over as many positions as there are channels."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))


class OwnNorm(nn.BatchNorm2d):
    """Computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).tanh()


def tied() -> nn.Module:
    model = row(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3))
    model[2].weight = model[0].weight
    return model


def hooked() -> nn.Module:
    model = row(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))
    model[0].register_forward_hook(lambda module, args, output: 2 * output)
    return model


LEFT = {
    **{way: (lambda way=way: (used(Block(way)), (3, 9, 9))) for way in (
        "norm first", "changed between", "another function between", "added", "called twice",
        "put out as well", "gain is read",
    )},
    "over tokens": lambda: (used(OverTokens()), (6, 6)),
    "of one's own": lambda: (row(nn.Conv2d(3, 3, 3), OwnNorm(3)), (3, 9, 9)),
    "shared weight": lambda: (tied(), (3, 9, 9)),
    "hook between": lambda: (hooked(), (3, 9, 9)),
    "parametrised": lambda: (
        row(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3)), nn.BatchNorm2d(3)),
        (3, 9, 9)),
    "of the batch": lambda: (
        row(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)), (3, 9, 9)),
    "other norms": lambda: (row(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)), (3, 9, 9)),
    "none": lambda: (row(nn.Conv2d(3, 4, 3)), (3, 9, 9)),
}  # fmt: skip


@pytest.mark.parametrize("kind", LEFT)
def test_what_cannot_be_folded_is_told(kind):
    model, size = LEFT[kind]()
    with pytest.raises(ConversionError, match=r"no batch norm|puts out something else"):
        fold_norms(model, size)


@pytest.fixture(scope="module")
def dense() -> nn.Module:
    model = used(open_model("timm:resnet18", random_weights=True, kwargs=NARROW))
    return remember(model, preprocess=Preprocess(input_size=SIZE))


@pytest.fixture(scope="module")
def small(dense) -> nn.Module:
    choices = {"layer2.0.conv2": ("bottleneck", 6), "layer3.1.conv1": ("spatial", 4)}
    return convert(dense, plan_for(dense, SIZE, choices), image_batches(SIZE))


@pytest.fixture(scope="module")
def folded(small) -> nn.Module:
    return fold_norms(small)


@torch.no_grad()
def test_all_of_a_converted_network_are_folded(folded, small):
    x = image_batches(SIZE)[0]
    assert relative(folded(x), small(x)) < 1e-5
    assert len(record_of(folded).norms) == 21
    assert record_of(folded).norms["layer2.0.bn2"] == "layer2.0.conv2.expand"
    assert not record_of(small).norms


@torch.no_grad()
def test_it_is_written_and_opened_as_it_is(folded, tmp_path):
    save(folded, tmp_path / "art")
    x = image_batches(SIZE)[0]
    again = load(tmp_path / "art")
    assert torch.equal(again(x), folded(x))
    assert record_of(again).norms == record_of(folded).norms
    by_timm = timm.create_model(f"local-dir:{tmp_path / 'art'}", pretrained=True).eval()
    assert torch.equal(by_timm(x), folded(x))


def test_it_is_converted_and_distilled_further(folded, dense, tmp_path):
    batches = image_batches(SIZE)
    choices = {"layer2.0.conv2.expand": ("channel", 4), "layer1.0.conv1": ("bottleneck", 5)}
    for fit in ("weight", "corrected"):
        made = convert(folded, plan_for(folded, SIZE, choices, fit=fit), batches)
        save(made, tmp_path / fit)
        with torch.no_grad():
            assert torch.equal(load(tmp_path / fit)(batches[0]), made(batches[0]))
    said = []
    trained = distill(made, dense, batches, epochs=1, tell=said.append)
    assert record_of(trained).norms == record_of(folded).norms
    assert all("nothing is gained" in line for line in said)  # three steps may be too few


def test_the_original_may_be_folded_first(dense, tmp_path):
    first = fold_norms(dense)
    choices = {"layer2.0.conv2": ("bottleneck", 6), "layer3.1.conv1": ("spatial", 4)}
    for fit in ("weight", "corrected"):
        made = convert(first, plan_for(first, SIZE, choices, fit=fit), image_batches(SIZE))
        save(made, tmp_path / fit)
        x = image_batches(SIZE)[0]
        with torch.no_grad():
            assert torch.equal(load(tmp_path / fit)(x), made(x))
        assert isinstance(made.get_submodule("layer2.0.conv2"), Factorized)


@pytest.mark.parametrize("fit", ["weight", "corrected"])
def test_a_plan_that_folds_counts_what_comes_out(dense, fit, tmp_path):
    batches, layers = image_batches(SIZE), Layers(fold_norms=True, only=("layer2*",))
    made = plan(dense, batches, Budget(macs=0.99), fit=fit, layers=layers)
    assert made.fold_norms
    assert made.planned.params < made.dense.params
    plain = convert(dense, made.model_copy(update={"fold_norms": False}), batches)
    small = convert(dense, made, batches)
    assert count(small, SIZE) == made.planned == record_of(small).plans[-1].planned
    with torch.no_grad():
        assert relative(small(batches[0]), plain(batches[0])) < 1e-5
    assert len(record_of(small).norms) == 21
    save(small, tmp_path / "art")
    assert record_of(load(tmp_path / "art")) == record_of(small)


def test_there_must_be_something_to_fold():
    model, size = tiny("two outputs")
    batches, fold = image_batches(size), Layers(fold_norms=True)
    with pytest.raises(PlanError, match="no batch norm"):
        plan(model, batches, Budget(macs=0.9), layers=fold)
    made = plan(model, batches, Budget(macs=0.9)).model_copy(update={"fold_norms": True})
    with pytest.raises(PlanError, match="none that could be"):
        convert(model, made, batches)


def test_what_reads_a_norm_is_told_before_the_long_part():
    model = row(*(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)))
    model.register_forward_hook(lambda module, args, output: output * module[1].weight.mean())
    with pytest.raises(ConversionError, match="puts out something else"):
        survey(model, image_batches(SIZE), layers=Layers(fold_norms=True))


def test_it_is_exported(folded, tmp_path):
    assert export_program(folded, image_batches(SIZE)[0], tmp_path / "o.pt2") < 1e-4


def test_how_a_network_is_called_must_be_known():
    model, _ = tiny("residual")
    with pytest.raises(PlanError, match="input_size"):
        fold_norms(model)


@pytest.mark.parametrize("norms", [
    {"nowhere": "conv1"}, {"bn1": "nowhere"}, {"bn1": "bn1"}, {"conv1": "bn1"}, {"": "conv1"},
    {"layer2.0.bn1": "conv1"}, {"act1": "conv1"}, {"layer1": "conv1"},
])  # fmt: skip
def test_what_a_record_may_not_ask_for(norms):
    with pytest.raises(PlanError, match=r"cannot be folded|has no modules"):
        fold_(timm.create_model("resnet18", **NARROW), norms)
