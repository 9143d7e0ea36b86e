"""Every target computes what the network computes, and leaves network and input alone."""

from __future__ import annotations

import copy
import sys
from collections import Counter
from typing import get_args

import pytest
import torch
from helpers import plan_for, tiny
from outer import narrow_resnet
from timm.layers import Conv2dSame
from torch import nn

from convswap import ConvswapError, open_target
from convswap.errors import TargetError
from convswap.network.outputs import tensors
from convswap.network.replace import blank
from convswap.plans import TargetName
from convswap.runtimes import TARGETS, device_for, running
from convswap.runtimes.export import onnx_graph
from convswap.runtimes.onnx_graphs import OnnxGraphs

TOLERANCE = 1e-4
ROUGH = {"onnxruntime-int8": 0.1, "litert-int8": 0.1}  # of the largest output
PACKAGES = {
    "litert": "litert_torch", "litert-int8": "litert_torch", "onnxruntime-int8": "onnxruntime",
}  # fmt: skip


def row_of_layers() -> nn.Sequential:
    """All that is written to ONNX without the exporter, in rows within a row."""
    norm = nn.BatchNorm2d(6)
    nn.init.uniform_(norm.running_mean, -1, 1)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return nn.Sequential(
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 2), bias=False),
        nn.Sequential(norm, nn.ReLU(), Conv2dSame(6, 6, 3, stride=2, dilation=2)),
        Conv2dSame(6, 6, (4, 2), stride=1, groups=6),
        nn.Conv2d(6, 8, (5, 3), padding="same", dilation=(1, 2)),
        nn.Conv2d(8, 8, 3, padding="valid", groups=2),
    )


NETWORKS = {
    "row of layers": lambda: (row_of_layers(), torch.randn(2, 4, 15, 14)),
    "network of timm's": lambda: (narrow_resnet(), torch.randn(2, 3, 32, 32)),
    "several outputs": lambda: (tiny("two outputs")[0], torch.randn(1, 3, 8, 8)),
    "padded by reflection": lambda: (
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")),
        torch.randn(1, 3, 8, 8),
    ),
}


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name == "compile"))
                        for name in TARGETS])  # fmt: skip
def target(request):
    package = PACKAGES.get(request.param, request.param)
    if package not in ("eager", "compile"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    return open_target(request.param, threads=1)


def outputs_of(run) -> list[torch.Tensor]:
    found = run()
    return tensors(found) or [torch.from_numpy(array) for array in found]


@pytest.mark.parametrize("network", NETWORKS)
def test_outputs_are_those_of_the_network_and_nothing_is_changed(network, target):
    module, x = NETWORKS[network]()
    module.train()
    state, image = copy.deepcopy(module.state_dict()), x.clone()
    runners = target.variants(module, x)
    with torch.no_grad():
        wanted = tensors(copy.deepcopy(module).eval()(x.clone()))
    for run in runners.values():
        for _ in range(2):
            for found, tensor in zip(outputs_of(run), wanted, strict=True):
                rough = ROUGH.get(target.name, 0) * tensor.abs().max()
                assert (found - tensor).abs().max() < TOLERANCE + rough
    assert module.training
    assert torch.equal(x, image)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, state[name])
        assert tensor.stride() == state[name].stride()


def test_a_target_says_what_its_times_depend_on(target):
    found = target.fingerprint()
    assert {"target", "threads", "dtype", "device", "processor", "cores", "torch"} <= found.keys()
    assert found["target"] == target.name
    assert found["threads"] == "1"
    assert all(isinstance(value, str) and value for value in found.values())


def test_eager_has_a_runner_per_memory_layout():
    module, x = NETWORKS["network of timm's"]()
    runners = open_target("eager").variants(module, x)
    assert list(runners) == ["contiguous", "channels_last"]


def test_threads_are_those_of_the_target_only_while_it_runs():
    seen, before = [], torch.get_num_threads()

    class Network(nn.Conv2d):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return super().forward(x)

    target = open_target("eager", threads=before + 1)
    for run in target.variants(Network(3, 3, 1), torch.randn(1, 3, 4, 4)).values():
        run()
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_every_network_is_compiled_however_many_there_are():
    """By default PyTorch compiles 8 networks of a class and runs the others in eager."""
    target, x = open_target("compile", threads=1), torch.randn(1, 3, 4, 4)
    strict = {"recompile_limit": 1, "fail_on_recompile_limit_hit": True}
    with torch._dynamo.config.patch(strict):
        runners = [
            run
            for width in (2, 3, 4)
            for run in target.variants(nn.Sequential(nn.Conv2d(3, width, 1)), x).values()
        ]
        assert [outputs_of(run)[0].shape[1] for run in runners] == [2, 2, 3, 3, 4, 4]


def test_a_network_in_another_type_is_run_in_that_of_the_target(target):
    if target.name == "compile":
        pytest.skip("compiled as eager, which is tried here")
    module, x = NETWORKS["network of timm's"]()
    for run in target.variants(module.bfloat16(), x).values():
        assert outputs_of(run)[0].dtype == torch.float32


def test_eager_casts_a_copy():
    module, x = NETWORKS["row of layers"]()
    for run in open_target("eager", dtype="bfloat16").variants(module, x).values():
        assert run().dtype == torch.bfloat16
    assert module[1].weight.dtype == torch.float32


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_row_of_layers_does_without_the_exporter(name, monkeypatch):
    pytest.importorskip(name, reason=f"{name} is not installed")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert open_target(name).variants(row_of_layers(), torch.randn(1, 4, 9, 9))


AFTERWARDS = """
import gc
import signal

import torch
from convswap import open_target

target = open_target("openvino", threads=1)
network, images = torch.nn.Conv2d(3, 4, 1), torch.zeros(1, 3, 4, 4)
first, second = (target.variants(network, images) for _ in range(2))
del first
gc.collect()
del second, target
gc.collect()
signal.signal(signal.SIGINT, lambda number, frame: print("handled"))
signal.raise_signal(signal.SIGINT)
"""


def test_signals_are_handled_after_openvino_has_run(nursery, tmp_path):
    pytest.importorskip("openvino", reason="openvino is not installed")
    done = nursery.run(AFTERWARDS, cwd=tmp_path)
    assert (done.code, done.out) == (0, "handled\n")


# --- networks made from the graph of one like them -----------------------------------------------


def count_exports(monkeypatch) -> list[nn.Module]:
    """Every network that goes through PyTorch's exporter from now on."""
    seen: list[nn.Module] = []

    def counted(model, *args, **kwargs):
        seen.append(model)
        return onnx_graph(model, *args, **kwargs)

    monkeypatch.setattr("convswap.runtimes.onnx_graphs.onnx_graph", counted)
    return seen


class Padded(nn.Module):
    """A convolution of every way to pad, and one that is called twice."""

    def __init__(self):
        super().__init__()
        self.same = Conv2dSame(3, 6, 3, stride=2)
        self.word = nn.Conv2d(6, 6, 3, padding="same", dilation=2)
        self.odd = nn.Conv2d(6, 6, (5, 3), stride=(2, 1), padding=(2, 1))
        self.mirror = nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect", bias=False)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x):
        x = self.word(self.word(self.same(x)))
        return self.norm(self.mirror(self.odd(x)))


@pytest.fixture(scope="module")
def padded():
    """A network, an image, and its graph, which was exported once, with the file."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    torch.manual_seed(0)
    model, x, graphs = Padded().eval(), torch.randn(1, 3, 17, 16), OnnxGraphs()
    return model, x, graphs, graphs.file(model, x)


@pytest.mark.parametrize("form", [("bottleneck", 4), ("separable", 2), ("spatial", 3),
                                  ("channel", 2), ("tucker", (3, 2))])  # fmt: skip
def test_a_converted_network_is_made_from_the_graph_of_the_dense_one(form, padded, monkeypatch):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model, x, known, _ = padded
    graphs = copy.copy(known)
    size = (3, 17, 16)
    sites = ["same", "word", "odd", "mirror"]
    small = blank(model, plan_for(model, size, dict.fromkeys(sites, form)))
    exports = count_exports(monkeypatch)
    made = graphs.file(small, x)
    assert not exports
    exported = OnnxGraphs().file(small, x)
    assert len(exports) == 1
    for file in (made, exported):
        session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(None, {"images": x.numpy()})[0])
        with torch.no_grad():
            assert (found - small(x)).abs().max() < TOLERANCE
    padding = Counter(Pad=2)  # "same" padding of both axes may be one node in place of two
    assert operators(made) - padding == operators(exported) - padding
    assert kernels(made) == kernels(exported)  # the dense ones are gone


def operators(file: bytes) -> Counter:
    import onnx

    return Counter(node.op_type for node in onnx.load_from_string(file).graph.node)


def kernels(file: bytes) -> Counter:
    import onnx

    shapes = (tuple(tensor.dims) for tensor in onnx.load_from_string(file).graph.initializer)
    return Counter(shape for shape in shapes if len(shape) == 4)


def other_weight(model: nn.Module) -> None:
    model.norm.weight.data[0] = 7


def other_stride(model: nn.Module) -> None:
    model.odd.stride = (1, 1)


def other_layer(model: nn.Module) -> None:
    model.norm = nn.Identity()


def one_layer_more(model: nn.Module) -> None:
    model.word = nn.Sequential(model.word, nn.ReLU())


@pytest.mark.parametrize("change", [other_weight, other_stride, other_layer, one_layer_more])
def test_a_network_that_differs_in_more_is_exported_anew(change, padded, monkeypatch):
    model, x, known, before = padded
    graphs, other, exports = copy.copy(known), copy.deepcopy(model), count_exports(monkeypatch)
    assert graphs.file(other, x) == before
    assert not exports
    change(other)
    assert graphs.file(other, x) != before
    assert len(exports) == 1


def test_another_size_is_exported_anew(monkeypatch):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    exports, graphs, model = count_exports(monkeypatch), OnnxGraphs(), Padded().eval()
    for size in (16, 20):
        graphs.file(model, torch.randn(1, 3, size, size))
    assert len(exports) == 2


def test_batch_norm_and_activations_are_part_of_the_convolutions():
    """In the file as written, and in the graph ONNX Runtime makes of it."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    file = OnnxGraphs().file(narrow_resnet(), torch.randn(1, 3, 32, 32))
    assert "BatchNormalization" not in operators(file)


# --- settings ----------------------------------------------------------------------------------


def test_layers_of_the_compiler_are_timed_in_eager():
    target = open_target("compile", threads=1, dtype="bfloat16").layer_target
    assert (target.name, target.threads, target.dtype) == ("eager", 1, "bfloat16")


@pytest.mark.parametrize("name", ["eager", "onnxruntime", "openvino"])
def test_other_targets_time_layers_themselves(name):
    if name != "eager":
        pytest.importorskip(name, reason=f"{name} is not installed")
    target = open_target(name)
    assert target.layer_target is target


@pytest.mark.parametrize(("name", "package"), [
    ("onnxruntime", "onnxruntime"), ("onnxruntime", "onnx"), ("openvino", "openvino"),
    ("openvino", "onnx"),
])  # fmt: skip
def test_a_target_that_is_not_installed_says_what_is_missing(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    extra = {"onnxruntime": "onnx", "openvino": "openvino"}[name]
    with pytest.raises(ConvswapError, match=rf"needs {package} - .*convswap\[{extra}\]"):
        open_target(name)


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++")
    with pytest.raises(ConvswapError, match=r"needs a C\+\+ compiler.*/nowhere/c\+\+"):
        open_target("compile")


@pytest.mark.parametrize(("settings", "words"), [
    ({"name": "tensorflow"}, "tensorflow.*eager, compile, onnxruntime, onnxruntime-int8, openvino"),
    *(({"name": "eager", "threads": threads}, "threads must be a whole number from 1 to")
      for threads in (0, -1, 1 << 20, 1.5)),
    ({"name": "eager", "dtype": "int8"}, "int8 is not a floating-point type"),
    ({"name": "eager", "dtype": "nonsense"}, "nonsense is not a floating-point type"),
    ({"name": "eager", "device": "nonsense"}, "device nonsense"),
    ({"name": "eager", "device": "meta"}, "device meta"),
    ({"name": "onnxruntime", "dtype": "float16"}, "onnxruntime.*float32.*float16"),
    ({"name": "openvino", "device": "cuda"}, "openvino.*cpu.*cuda"),
])  # fmt: skip
def test_what_a_target_cannot_do_is_refused_in_one_line(settings, words):
    with pytest.raises(ConvswapError, match=words) as caught:
        open_target(**settings)
    assert "\n" not in str(caught.value)


def test_what_a_runtime_raises_names_the_target_and_what_it_ran():
    wanted = r"^target eager cannot run layer stem: no such kernel$"
    with pytest.raises(TargetError, match=wanted), running(open_target("eager"), "layer stem"):
        raise RuntimeError("no such kernel\nand a long trace")


@pytest.mark.parametrize(("target", "device"), [
    ("eager", "cuda"), ("compile", "cuda"), ("onnxruntime", "cpu"), ("openvino", "cpu"),
])  # fmt: skip
def test_what_is_fitted_on_a_gpu_is_timed_where_the_target_runs(target, device):
    assert device_for(target, "cuda") == device


def test_the_names_in_help_are_those_of_the_targets():
    assert get_args(TargetName) == tuple(TARGETS)
