"""Networks in 8-bit integers: as good as in float32, whatever the processor, and nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from helpers import image_batches, relative, tiny
from outer import converted, narrow_resnet
from torch import nn

from convswap import ConvswapError, Preprocess, fidelity, open_target, record_of
from convswap.record import remember
from convswap.runtimes.export import OnnxNetwork
from convswap.runtimes.int8 import equalised, export_int8


@pytest.fixture(scope="module")
def network():
    model, size = tiny("residual")
    return converted(model, size, first=("separable", 2), second=("bottleneck", 5))


@pytest.fixture(scope="module")
def batches():
    return [(images,) for images in image_batches((3, 8, 8), count=8, size=16)]


def operators(path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_the_file_is_close_to_the_network(network, batches, tmp_path):
    quantised, plain = export_int8(network, batches[:-1], tmp_path / "net.onnx")
    assert fidelity(plain, network, batches[-1:], "values")["r2"] > 1 - 1e-9
    assert 0.99 < fidelity(quantised, network, batches[-1:], "values")["r2"] < 1 - 1e-9
    again = OnnxNetwork(tmp_path / "net.onnx")
    assert all(map(torch.equal, again(batches[0][0]), quantised(batches[0][0])))


def test_weights_are_unsigned_and_have_a_range_per_channel(network, batches, tmp_path):
    export_int8(network, batches, tmp_path / "net.onnx")
    graph = onnx.load(tmp_path / "net.onnx").graph
    tensors = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    feeds = {node.output[0]: node for node in graph.node}
    weights = [feeds[node.input[1]] for node in graph.node if node.op_type == "Conv"]
    assert len(weights) == len([m for m in network.modules() if isinstance(m, nn.Conv2d)])
    for dequantised in weights:
        quantised, scale = (tensors[name] for name in dequantised.input[:2])
        assert quantised.dtype == np.uint8
        assert scale.shape == quantised.shape[:1]


def test_the_network_stays_as_it_is(network, batches, tmp_path):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    export_int8(network, batches, tmp_path / "net.onnx")
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_scaling_channels_evens_out_their_ranges(network, batches):
    def spread(model: nn.Module) -> float:
        """Largest over smallest range of the channels that a bottleneck's depthwise layer reads."""
        seen = []
        hook = model.second.depthwise.register_forward_pre_hook(
            lambda module, args: seen.append(args[0].abs().amax((0, 2, 3)))
        )
        model(torch.cat([images for (images,) in batches]))
        hook.remove()
        return (seen[0].max() / seen[0].min()).item()

    before = spread(network)
    model, size = tiny("residual")
    model = converted(model, size, first=("separable", 2), second=("bottleneck", 5))
    equalised(model, [images for (images,) in batches])
    assert spread(model) == pytest.approx(1, abs=1e-4)
    assert before > 1.2


@pytest.mark.parametrize("name", ["onnxruntime", "litert"])
def test_a_target_in_integers_times_and_computes_such(network, batches, name):
    if name == "litert":
        pytest.importorskip("litert_torch", reason="litert-torch is not installed (1 GB)")
    target = open_target(f"{name}-int8", threads=1)
    rounded, x = target.computed(network, batches), batches[0][0]
    assert record_of(rounded) == record_of(network)
    (run,) = target.variants(network, x).values()
    for outputs in (rounded(x), run()):
        with torch.no_grad():
            assert 1e-4 < relative(torch.as_tensor(outputs[0]), network(x)) < 0.1
    assert open_target(name, threads=1).computed(network, batches) is network


def test_one_image_is_enough_to_write(network, batches, tmp_path):
    quantised, _ = export_int8(network, [(batches[0][0][:1],)], tmp_path / "net.onnx")
    assert len(quantised(batches[0][0])[0]) == 16


def test_other_shapes_and_operators(tmp_path):
    model = remember(narrow_resnet(), preprocess=Preprocess(input_size=(3, 32, 32)))
    images = torch.randn(6, 3, 32, 32)
    path = tmp_path / "net.onnx"
    quantised, _ = export_int8(model, [(images,)], path, batch=3, opset=17)
    assert onnx.load(path).opset_import[0].version == 17
    assert len(quantised(images[:3])[0]) == 3
    quantised, _ = export_int8(model, [(images,)], path, free_size=True)
    assert quantised(torch.randn(1, 3, 48, 64))[0].shape == (1, 4)


def test_too_few_images_for_a_fixed_batch_are_refused(network, batches, tmp_path):
    with pytest.raises(ConvswapError, match="batch of 999"):
        export_int8(network, batches, tmp_path / "net.onnx", batch=999)
    assert not [*tmp_path.iterdir()]


def test_batches_may_lack_labels_be_empty_or_of_another_type(network, batches, tmp_path):
    images = [images for (images,) in batches]
    wanted, _ = export_int8(network, batches, tmp_path / "net.onnx")
    given = [images[0][:0], *[each.double() for each in images]]
    found, _ = export_int8(network, given, tmp_path / "net.onnx")
    assert torch.equal(found(images[0])[0], wanted(images[0])[0])


X = image_batches((3, 8, 8), count=1, size=8)[0]
REFUSED = {
    "no batches": ([], "no images to see ranges on"),
    "empty batches": ([X[:0]], "no images to see ranges on"),
    "NaN": ([X, X * float("nan")], "NaN or infinite values"),
    "whole numbers": ([X.long()], "Residual fails on an input of 3x8x8"),
    "ranges that overflow": ([X * 3e37], "cannot write the network in 8 bits"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_ranges_is_refused_in_one_line(case, network, tmp_path):
    given, says = REFUSED[case]
    with pytest.raises(ConvswapError, match=says) as caught:
        export_int8(network, given, tmp_path / "net.onnx")
    assert str(caught.value).isprintable()
    assert not [*tmp_path.iterdir()]
