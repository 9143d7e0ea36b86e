"""Files for other runtimes: equal outputs, free batch size, no convswap needed."""

from __future__ import annotations

import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import image_batches, tiny
from outer import converted, narrow_resnet
from torch import nn

from convswap import ConvswapError, export_onnx, export_program
from convswap.network.batch import Batch
from convswap.runtimes.export import OnnxNetwork
from convswap.runtimes.gap import largest_gap

FREE_SIZES = pytest.mark.skipif(
    torch.__version__ < "2.10",
    reason="PyTorch 2.9 writes no ONNX of sizes that depend on one another",
)
SEPARATE = """
import sys
import warnings


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("convswap", "timm"):
            raise ImportError(f"{name} is not on this machine")


sys.meta_path.insert(0, Blocker())
import torch

images, wanted = torch.load(sys.argv[2], weights_only=True)
found = torch.export.load(sys.argv[1]).module()(images)
print((found - wanted).abs().max().item())
assert "convswap" not in sys.modules
"""


@pytest.fixture(scope="module")
def network():
    model, size = tiny("residual")
    return converted(model, size, first=("separable", 2), second=("bottleneck", 5))


@pytest.fixture(scope="module")
def images():
    return image_batches((3, 8, 8), size=5)[0]


@pytest.fixture(scope="module")
def exported(network, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    gaps = {
        "onnx": export_onnx(network, images, folder / "net.onnx"),
        "pt2": export_program(network, images, folder / "net.pt2"),
    }
    return folder, gaps


def test_the_network_itself_stays_as_it_is(tmp_path):
    model = tiny("residual")[0].train()
    export_onnx(model, torch.randn(2, 3, 8, 8), tmp_path / "net.onnx")
    export_program(model, torch.randn(2, 3, 8, 8), tmp_path / "net.pt2")
    assert model.training


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_the_difference_from_pytorch_is_small(kind, exported):
    assert 0 <= exported[1][kind] < 1e-4


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_onnx_takes_any_batch_size(batch, network, images, exported):
    import onnxruntime

    path = exported[0] / "net.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images[:batch].numpy()})
    with torch.no_grad():
        assert np.abs(found - network(images[:batch]).numpy()).max() < 1e-4


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_program_takes_any_batch_size(batch, network, images, exported):
    found = torch.export.load(exported[0] / "net.pt2").module()(images[:batch])
    assert (found - network(images[:batch])).abs().max() < 1e-4


def test_a_program_runs_where_convswap_is_not_installed(network, images, exported, tmp_path):
    with torch.no_grad():
        torch.save((images, network(images)), tmp_path / "wanted.pt")
    (tmp_path / "run.py").write_text(SEPARATE)
    arguments = [sys.executable, "run.py", exported[0] / "net.pt2", "wanted.pt"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-4


def test_the_onnx_file_is_one_file_about_as_large_as_the_weights(exported):
    folder = exported[0]
    assert sorted(path.name for path in folder.iterdir()) == ["net.onnx", "net.pt2"]
    weights = 4 * sum(p.numel() for p in torch.export.load(folder / "net.pt2").parameters())
    assert weights < (folder / "net.onnx").stat().st_size < weights + 10_000


def test_the_onnx_file_holds_convolutions_and_nothing_foreign(exported):
    import onnx

    graph = onnx.load(exported[0] / "net.onnx").graph
    operators = {node.op_type for node in graph.node}
    assert "Conv" in operators
    assert {node.domain for node in graph.node} <= {""}
    assert [value.name for value in graph.input] == ["images"]


def test_a_timm_network_goes_through_both_formats(tmp_path):
    model = narrow_resnet()
    small = converted(model, (3, 32, 32), **{"layer1__0__conv1": ("spatial", 2)})
    images = torch.randn(3, 3, 32, 32)
    assert export_onnx(small, images, tmp_path / "n.onnx") < 1e-4
    assert export_program(small, images, tmp_path / "n.pt2") < 1e-4


@pytest.mark.parametrize("opset", [9, 13, 17, 18, 21])
def test_old_and_new_operators(opset, network, images, tmp_path):
    import onnx

    assert export_onnx(network, images, tmp_path / "n.onnx", opset=opset) < 1e-4
    assert [each.version for each in onnx.load(tmp_path / "n.onnx").opset_import] == [opset]


@pytest.mark.parametrize("opset", [3, 999])
def test_operators_of_no_known_version_are_refused(opset, network, images, tmp_path):
    with pytest.raises(ConvswapError, match=f"opset {opset}"):
        export_onnx(network, images, tmp_path / "n.onnx", opset=opset)
    assert list(tmp_path.iterdir()) == []


@FREE_SIZES
@pytest.mark.parametrize("opset", [None, 13])
def test_sizes_are_free_or_fixed_as_asked(opset, network, images, tmp_path):
    def runs(*shape: int) -> bool:
        try:
            return len(OnnxNetwork(tmp_path / "n.onnx")(torch.randn(shape))[0]) == shape[0]
        except Exception:  # the runtime's own
            return False

    assert export_onnx(network, images, tmp_path / "n.onnx", free_size=True, opset=opset) < 1e-4
    assert runs(1, 3, 20, 12)
    assert runs(7, 3, 8, 8)
    assert export_onnx(network, images, tmp_path / "n.onnx", batch=7, opset=opset) < 1e-4
    assert runs(7, 3, 8, 8)
    assert not runs(1, 3, 8, 8)
    assert not runs(7, 3, 20, 12)


def test_a_network_of_one_size_is_not_written_for_any(tmp_path):
    class OneSize(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 64, 2)

        def forward(self, x):
            return self.head(self.conv(x).flatten(1))

    with pytest.raises(ConvswapError):
        export_onnx(OneSize(), torch.randn(2, 3, 8, 8), tmp_path / "n.onnx", free_size=True)
    assert list(tmp_path.iterdir()) == []


class Norms(nn.Module):
    """Batch norms that can be folded (three), and that cannot: after a linear layer, after what
    something else reads as well, after weights that are used twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 1, bias=False)
        self.c, self.d = nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 4)
        self.norms = nn.ModuleList([
            nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False),
            nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm1d(4),
        ])  # fmt: skip
        for norm in self.norms:
            nn.init.uniform_(norm.running_mean, -1, 1)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 2)
                nn.init.uniform_(norm.bias, -1, 1)

    def forward(self, x):
        one, two, three, four, five, six = self.norms
        x = three(self.c(two(self.b(one(self.a(x))))))
        y = self.d(x)
        x = y + four(y) + five(self.d(x))
        return six(self.head(x.mean((2, 3))))


def test_batch_norms_of_a_program_are_folded_where_they_can_be(tmp_path):
    torch.manual_seed(0)
    model, x = Norms().eval(), torch.randn(3, 3, 16, 16)
    assert export_program(model, x, tmp_path / "net.pt2") < 1e-5
    program = torch.export.load(tmp_path / "net.pt2")
    left = program.graph.find_nodes(op="call_function", target=torch.ops.aten.batch_norm.default)
    assert len(left) == 3
    assert {name.split(".")[1] for name in program.state_dict if "running" in name} == set("345")
    assert "norms.0.weight" not in program.state_dict
    for size in (1, 5):
        x = torch.randn(size, 3, 16, 16)
        with torch.no_grad():
            assert (program.module()(x) - model(x)).abs().max() < 1e-5


class Finds(nn.Module):
    """Puts out as many rows as it finds, and goes on by their number."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        rows = self.conv(x).movedim(1, 3)[0].flatten(0, 1)
        found = rows[rows[:, 0] > 0]
        return found if len(found) else rows[:1]


class Turns(Finds):
    """Goes two ways."""

    def forward(self, x):
        return self.conv(x) if x.mean() > 0 else -self.conv(x)


def test_what_a_network_finds_may_vary_in_number(images, tmp_path, capfd):
    assert export_onnx(Finds().eval(), images, tmp_path / "n.onnx", batch=1) < 1e-4
    with pytest.raises(ConvswapError, match="cannot write a program of the network: Could not"):
        export_program(Finds().eval(), images, tmp_path / "n.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["n.onnx"]
    assert capfd.readouterr() == ("", "")


def test_a_way_that_other_images_do_not_take_is_not_written(images, tmp_path):
    both = torch.stack([images[0].abs(), -images[1].abs()])
    with pytest.raises(ConvswapError, match="outputs differ from PyTorch's"):
        export_onnx(Turns().eval(), both, tmp_path / "n.onnx", batch=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [export_onnx, export_program])
def test_several_outputs_are_all_compared(write, tmp_path):
    model, size = tiny("two outputs")
    small = converted(model, size, boxes=("channel", 3))
    assert write(small, image_batches(size)[0], tmp_path / "net") < 1e-4


Both = namedtuple("Both", "left right")
OUTPUTS = {
    "classes only": lambda y: y.argmax(1),
    "many": lambda y: {
        "scores": y, "mask": y > 0, "best and where": tuple(torch.topk(y, 2, 1)),
        "bytes": (255 * y.sigmoid()).byte(), "infinity": y.relu().log(), "nothing": None,
    },
    "zeros over next to nothing": lambda y: (y - y) / (1e-15 + (y - y).sum(1, keepdim=True)),
    "best and where, by name": lambda y: {"best": y.max(1), "both": Both(y, y.relu())},
    "axes that are not squeezed": lambda y: (
        y.squeeze(1), torch.squeeze(input=y, dim=-1), y.mean(2, True).squeeze((1, 2)),
        y.relu().squeeze_(1), y.amax(3, True).squeeze(dim=3),
    ),
    "numbers and words": lambda y: {"scores": y, "classes": 6, "size": y.shape, "name": "a"},
}  # fmt: skip


class Puts(nn.Module):
    """A convolution, and something of what it says."""

    def __init__(self, out):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 6, 3), out

    def forward(self, x):
        return self.out(self.conv(x))


def test_a_program_holds_nothing_of_a_weight_of_which_the_type_is_read(tmp_path):
    model, size = tiny("reads attributes")
    small = converted(model, size, first=("channel", 3), second=("bottleneck", 3))
    images = image_batches(size)[0]
    assert export_program(small, images, tmp_path / "net.pt2", batch=6) < 1e-4
    program = torch.export.load(tmp_path / "net.pt2")
    called = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert torch.ops.aten.conv2d.default in called
    assert torch.ops.aten.einsum.default not in called


@pytest.mark.parametrize("write", [export_onnx, export_program])
@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_of_any_type_are_compared(kind, write, images, tmp_path):
    torch.manual_seed(0)
    assert write(Puts(OUTPUTS[kind]).eval(), images, tmp_path / "net") < 1e-4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda y: (y, y.argmax(1) + 1), "100 % of .* whole numbers differ"),
        (lambda y: (y, y.argmax(1)[:1]), "differ from PyTorch's in number or size"),
        (lambda y: (y,), "differ from PyTorch's in number or size"),
        (lambda y: (y.log(), y.argmax(1)), "differ from PyTorch's by inf"),
    ],
    ids=["other classes", "fewer images", "fewer outputs", "NaN"],
)
def test_outputs_that_differ_are_told(change, says, images):
    torch.manual_seed(0)
    model = Puts(lambda y: (y, y.argmax(1))).eval()
    with pytest.raises(ConvswapError, match=says):
        largest_gap(model, Batch((images,)), change(model(images)[0]))


@pytest.mark.parametrize("write", [export_onnx, export_program])
def test_a_network_that_draws_its_output_is_told_apart(write, images, tmp_path):
    model = Puts(lambda y: y + torch.randn_like(y)).eval()
    with pytest.raises(ConvswapError, match=r"draws numbers at random: .* as an input$"):
        write(model, images, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_a_few_whole_numbers_may_fall_the_other_way_by_rounding(images):
    torch.manual_seed(0)
    model = Puts(lambda y: y.argmax(1)).eval()
    found = model(images)
    found[0, 0, 0] += 1
    assert largest_gap(model, Batch((images,)), found) == 0


def test_a_wrong_file_is_not_written(network, images, tmp_path, monkeypatch):
    import onnxruntime

    class Wrong(onnxruntime.InferenceSession):
        def run(self, *args, **kwargs):
            return [output + 0.5 for output in super().run(*args, **kwargs)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Wrong)
    with pytest.raises(ConvswapError, match=r"differ from PyTorch's by 0\.5 - say how many"):
        export_onnx(network, images, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [export_onnx, export_program])
def test_nothing_is_left_of_an_export_that_fails(write, tmp_path):
    class Stubborn(nn.Module):
        def forward(self, x):
            return x * float(x.sum().item() > 0) if x.mean() > 0 else x

    with pytest.raises(Exception):  # noqa: B017, PT011 - the exporter's own
        write(Stubborn(), torch.randn(2, 3, 8, 8), tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_missing_onnx_packages_are_named(network, images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConvswapError, match=r"onnxscript.*convswap\[onnx\]"):
        export_onnx(network, images, tmp_path / "net.onnx")


def test_the_network_goes_on_working(network, images, tmp_path):
    with torch.no_grad():
        before = network(images)
        export_program(network, images, Path(tmp_path) / "net.pt2")
        assert torch.equal(network(images), before)
    assert not network.training


@dataclass
class Halves:
    left: torch.Tensor
    right: torch.Tensor


class PutsOutHalves(nn.Conv2d):
    def forward(self, x):
        y = super().forward(x)
        return Halves(*y.chunk(2, dim=1))


@pytest.mark.parametrize(
    "settings", [pytest.param({}, marks=FREE_SIZES), {"batch": 2}, {"opset": 17}], ids=str
)
def test_batch_norms_may_norm_by_what_they_are_given(settings, tmp_path):
    class Adaptive(nn.Module):
        """As MUNIT does (Huang et al. 2018), by a batch norm: each image by itself."""

        def __init__(self):
            super().__init__()
            self.conv, self.style = nn.Conv2d(3, 8, 3), nn.Linear(4, 8)
            self.register_buffer("mean", torch.zeros(8))

        def forward(self, x, code):
            n, x = x.shape[0], self.conv(x)
            kept, gain = self.mean.repeat(n), self.style(code).flatten()
            rows = x.reshape(1, 8 * n, *x.shape[2:])
            return nn.functional.batch_norm(rows, kept, kept + 1, gain, training=True).view_as(x)

    given = torch.rand(4, 3, 8, 8), torch.randn(4, 4)
    settings = {"batch": 2} | settings if "opset" in settings else settings
    assert export_onnx(Adaptive(), given, tmp_path / "out.onnx", **settings) < 1e-4


def test_outputs_of_a_class_of_the_users_own_are_written_in_order(tmp_path):
    model, images = PutsOutHalves(3, 4, 3).eval(), torch.randn(3, 3, 8, 8)
    export_onnx(model, images, tmp_path / "net.onnx")
    left, right = OnnxNetwork(tmp_path / "net.onnx")(images)
    torch.testing.assert_close(left, model(images).left)
    torch.testing.assert_close(right, model(images).right)


class Takes(nn.Module):
    """A convolution of one input, and what is computed of others."""

    def __init__(self):
        super().__init__()
        self.conv, self.words = nn.Conv2d(3, 4, 3), nn.Embedding(9, 4)


class Pair(Takes):
    def forward(self, a, b):
        return self.conv(a) - 2 * self.conv(b)


class Whole(Takes):
    def forward(self, batch: dict):
        return {"map": self.conv(batch["image"]) * batch["mask"]}


class Named(Takes):
    def forward(self, x, *, scale, flag=True):
        return self.conv(x) * scale


class Counted(Takes):
    def forward(self, x, step):
        return self.conv(x) + self.words(step)[..., None, None]


class Once(Takes):
    def forward(self, x, shift):
        return self.conv(x) + shift.sum(0)[:, None, None]


class Pieces(Takes):
    def forward(self, x: list[torch.Tensor]):
        return [self.conv(each[None]) for each in x]


class Cached(Takes):
    def forward(self, x):
        return {"map": self.conv(x), "cache": object()}


class LeavesOut(Takes):
    def forward(self, x, mask, y):
        return self.conv(x) + y


class Doubles(Takes):
    def forward(self, x):
        return self.conv(x.mul_(2))


class HandsOn(Takes):
    def forward(self, x, lengths):
        return self.conv(x), lengths


class Bounded(Takes):
    def forward(self, x, y):
        return self.conv(x.contiguous() if x.shape[0] >= 64 else x) + y


def given(*size: int) -> torch.Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(1))


MAP = ["batch", 3, 8, 8]
INPUTS = {
    "a tuple": (Pair, (given(5, 3, 8, 8), given(5, 3, 8, 8) - 1), {"a": MAP, "b": MAP}),
    "a dict that is passed whole": (
        Whole,
        {"image": given(5, 3, 8, 8), "mask": given(5, 4, 6, 6)},
        {"batch.image": MAP, "batch.mask": ["batch", 4, 6, 6]},
    ),
    "keyword-only": (
        Named,
        {"scale": given(5, 1, 1, 1), "x": given(5, 3, 8, 8), "flag": False},
        {"scale": ["batch", 1, 1, 1], "x": MAP},
    ),
    "integers": (
        Counted,
        {"x": given(5, 3, 8, 8), "step": torch.arange(5)},
        {"x": MAP, "step": ["batch"]},
    ),
    "a number": (Counted, (given(5, 3, 8, 8), torch.tensor(3)), {"x": MAP, "step": []}),
    "there once for all": (Once, (given(5, 3, 8, 8), given(2, 4)), {"x": MAP, "shift": [2, 4]}),
    "a limit of its own": (
        Bounded,
        (given(5, 3, 8, 8), given(5, 4, 6, 6)),
        {"x": MAP, "y": ["batch", 4, 6, 6]},
    ),
    "one that it does not use": (
        LeavesOut,
        (given(5, 3, 8, 8), given(5, 3), given(5, 4, 6, 6)),
        {"x": MAP, "mask": ["batch", 3], "y": ["batch", 4, 6, 6]},
    ),
    "one that it changes": (Doubles, given(5, 3, 8, 8), {"images": MAP}),
    "one that it hands on": (
        HandsOn,
        (given(5, 3, 8, 8), torch.tensor([9, 2, 3, 9, 5])),
        {"x": MAP, "lengths": ["batch"]},
    ),
    "labels beside": (Cached, (given(5, 3, 8, 8), torch.arange(5)), {"images": MAP}),
}


def inputs_of_the_file(path: Path) -> dict[str, list]:
    import onnx

    return {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in onnx.load(path).graph.input
    }


@FREE_SIZES
@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_of_any_kind_have_names_and_a_free_batch_size(kind, tmp_path):
    network, batch, named = INPUTS[kind]
    torch.manual_seed(0)
    model = network().eval()
    assert export_onnx(model, batch, tmp_path / "n.onnx") < 1e-4
    assert inputs_of_the_file(tmp_path / "n.onnx") == named
    assert export_program(model, batch, tmp_path / "n.pt2") < 1e-4


def test_a_program_of_several_inputs_is_called_as_the_network_is(tmp_path):
    model, x, step = Counted().eval(), given(4, 3, 8, 8), torch.arange(4)
    export_program(model, {"x": x, "step": step}, tmp_path / "n.pt2")
    program = torch.export.load(tmp_path / "n.pt2").module()
    torch.testing.assert_close(program(x=x[:1], step=step[:1]), model(x[:1], step[:1]))


def test_old_operators_lack_inputs_that_are_not_used(tmp_path):
    batch = given(3, 3, 8, 8), given(3, 3), given(3, 4, 6, 6)
    assert export_onnx(LeavesOut().eval(), batch, tmp_path / "n.onnx", opset=13) < 1e-4
    assert list(inputs_of_the_file(tmp_path / "n.onnx")) == ["x", "y"]


@FREE_SIZES
@pytest.mark.parametrize("settings", [{"batch": 3, "opset": 13}, {"free_size": True}])
def test_several_inputs_are_fixed_or_free_alike(settings, tmp_path):
    pair = given(5, 3, 8, 8), given(5, 3, 8, 8) - 1
    assert export_onnx(Pair().eval(), pair, tmp_path / "n.onnx", **settings) < 1e-4
    shape = [3, 3, 8, 8] if "batch" in settings else ["batch", 3, "height", "width"]
    assert inputs_of_the_file(tmp_path / "n.onnx") == {"a": shape, "b": shape}


def test_a_list_of_images_is_written_for_so_many(tmp_path):
    model, images = Pieces().eval(), [*given(3, 3, 8, 8)]
    assert export_onnx(model, images, tmp_path / "n.onnx", batch=2) < 1e-4
    assert inputs_of_the_file(tmp_path / "n.onnx") == {"x.0": MAP[1:], "x.1": MAP[1:]}
    assert export_program(model, images, tmp_path / "n.pt2", batch=2) < 1e-4


@pytest.mark.parametrize("write", [export_onnx, export_program])
@pytest.mark.parametrize(
    ("model", "inputs", "says"),
    [
        (Pieces(), [*given(3, 3, 8, 8)], "cannot be free: samples come in a list - say batch=1"),
        (Cached(), given(1, 3, 8, 8), "cannot be free: one sample does not show how"),
        (Cached(), given(2, 3, 8, 8) / 0, "holds NaN or infinite"),
        (Cached(), "a path", "no tensor in a batch"),
    ],
)
def test_inputs_that_nothing_can_be_written_for(model, inputs, says, write, tmp_path):
    with pytest.raises(ConvswapError, match=says):
        write(model.eval(), inputs, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [export_onnx, export_program])
def test_a_network_may_keep_the_grids_that_it_makes(write, tmp_path):
    class Grids(Takes):
        @cache  # noqa: B019 - users do so
        def grid(self, width):
            return torch.linspace(0, 1, width)

        def forward(self, x):
            return self.conv(x + self.grid(x.shape[-1]))

    assert write(Grids().eval(), given(3, 3, 8, 8), tmp_path / "net") < 1e-4


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_a_type_that_onnx_runtime_does_not_know_is_told(kind, tmp_path):
    with pytest.raises(ConvswapError, match=r"model\.float\(\)"):
        export_onnx(nn.Conv2d(3, 6, 3).to(kind), given(2, 3, 8, 8).to(kind), tmp_path / "n.onnx")


def test_maps_of_several_sizes_are_not_free(tmp_path):
    pair = given(2, 3, 8, 8), given(2, 3, 9, 9)
    with pytest.raises(ConvswapError, match="inputs are not of one size"):
        export_onnx(Pair().eval(), pair, tmp_path / "n.onnx", free_size=True)
