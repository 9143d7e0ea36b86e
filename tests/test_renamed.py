"""Weights under other names than a network's own are read where somebody says how."""

import re
from functools import partial

import pytest
import timm
import torch
from safetensors.torch import save_model
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from convswap import ConvswapError, open_model
from convswap.inputs.composed import composed

CODE = """
from torch import nn
from torch.nn.utils import parametrizations, weight_norm
from torchvision.models.vision_transformer import MLPBlock


def normed(by=parametrizations.weight_norm):
    layer = nn.Conv2d(3, 8, 3)
    return nn.Sequential(by(layer) if by else layer, nn.BatchNorm2d(8))


def perceptron():
    return MLPBlock(4, 8, 0.0)


def dense():
    layer = nn.ModuleDict({"conv1": nn.Conv2d(3, 4, 1), "norm2": nn.BatchNorm2d(4)})
    return nn.ModuleDict({"denselayer1": layer})


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)
        self.head.weight = self.embed.weight


class Lenient(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)

    def _load_from_state_dict(self, *_):
        pass


class WithoutAux(nn.Module):
    def __init__(self, name="head"):
        super().__init__()
        self.add_module(name, nn.Linear(2, 2))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A function that builds a network of those above."""
    path = tmp_path_factory.mktemp("user") / "nets.py"
    path.write_text(CODE)

    def make(name, **options):
        return open_model(f"{path}:{name}", **options)

    return make


def check_read(name, make, rename, tmp_path, said):
    """Check that a network finds its weights under other names, and that this is said."""
    network, lines = make(name), []
    wanted = {key: torch.rand_like(value.float()) for key, value in network.state_dict().items()}
    network.load_state_dict(wanted)
    torch.save(rename(network.state_dict()), tmp_path / "w.pth")
    found = make(name, weights=tmp_path / "w.pth", note=lines.append).state_dict()
    torch.testing.assert_close(found, network.state_dict())
    assert [line.partition(": ")[2] for line in lines] == [
        f"some names in it are not {type(network).__name__}'s: read {said}"
    ]


def of_old_norm(state):
    for number, part in enumerate(["weight_g", "weight_v"]):
        state[f"0.{part}"] = state.pop(f"0.parametrizations.weight.original{number}")
    return state


def of_old_perceptron(state):
    return {f"linear_{1 + (key[0] == '3')}.{key[2:]}": value for key, value in state.items()}


def of_old_densenet(state):
    return {re.sub("(conv1|norm2)", lambda at: f"{at[0][:4]}.{at[0][4]}", key): value
            for key, value in state.items()}  # fmt: skip


@pytest.mark.parametrize(("name", "rename", "who"), [
    ("normed", of_old_norm, "the network itself"),
    ("perceptron", of_old_perceptron, "the network itself"),
    ("dense", of_old_densenet, "torchvision"),
])  # fmt: skip
def test_older_names_are_known(name, rename, who, made, tmp_path):
    check_read(name, made, rename, tmp_path, f"as {who} does")


PARTED = {
    "weight norm": parametrizations.weight_norm,
    "weight norm, old": weight_norm,
    "along another axis": partial(parametrizations.weight_norm, dim=1),
    "of all": partial(weight_norm, dim=None),
    "pruned": partial(prune.random_unstructured, name="weight", amount=0.5),
    "pruned bias": partial(prune.random_unstructured, name="bias", amount=0.5),
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm, old": spectral_norm,
}
SAID = {"spectral": "spectral norm", "pruned": "pruning"}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("wrap", [dict, lambda state: {"generator": state}], ids=["", "wrapped"])
@pytest.mark.parametrize("name", PARTED)
def test_weights_kept_in_parts_are_put_together(name, wrap, made, tmp_path):
    network, lines = nn.Sequential(PARTED[name](nn.Conv2d(3, 8, 3)), nn.BatchNorm2d(8)), []
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1 + torch.rand_like(parameter))
    torch.save(wrap(network.state_dict()), tmp_path / "w.pth")
    found = made("normed", weights=tmp_path / "w.pth", kwargs={"by": None}, note=lines.append)
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(found.eval()(x), network.eval()(x))
    kind = SAID.get(name.split()[0], "weight norm")
    assert any(f"parts of {kind} in it are put together" in line for line in lines)


@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, spectral_norm])
@pytest.mark.parametrize("kind", [nn.ConvTranspose2d, nn.ConvTranspose1d, nn.Conv1d])
def test_a_spectral_norm_is_of_the_rows_that_its_layer_has(norm, kind):
    """Of as many inputs as outputs, so that sizes do not tell which axis has them."""
    torch.manual_seed(0)
    layer = norm(kind(8, 8, 3, bias=False))
    for _ in range(20):  # each call in training mode is a step of the power iteration
        layer(torch.rand(1, 8, *(9,) * (layer.weight.dim() - 2)))
    whole, kinds = composed(layer.state_dict(), ["weight"])
    assert kinds == ["spectral norm"]
    torch.testing.assert_close(whole, {"weight": layer.eval().weight.detach()})


def of_convnexts_authors(state):
    """Liu et al. 2022: https://github.com/facebookresearch/ConvNeXt."""
    found = {}
    for key, value in state.items():
        key = re.sub(r"stages\.(\d)\.blocks", r"stages.\1", key).replace(
            "stem", "stages.0.downsample"
        )
        key = re.sub(r"stages\.(\d)\.downsample", r"downsample_layers.\1", key)
        key = key.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        found[key.replace("head.norm", "norm").replace("head.fc", "head")] = value
    return found


def test_what_a_networks_authors_wrote_is_read_as_timm_does(tmp_path):
    def make(name, **options):
        if not options:
            options["random_weights"] = True
        return open_model(name, **options)

    assert of_convnexts_authors({"stages.0.blocks.1.conv_dw.bias": 1}) == {
        "stages.0.1.dwconv.bias": 1
    }
    check_read("timm:test_convnext", make, of_convnexts_authors, tmp_path, "as timm does")


def test_what_has_two_names_is_found_under_one(made, tmp_path):
    network, lines = made("Tied"), []
    save_model(network, tmp_path / "w.safetensors")
    found = made("Tied", weights=tmp_path / "w.safetensors", note=lines.append)
    assert torch.equal(found.head.weight, network.embed.weight)
    assert found.head.weight is found.embed.weight
    assert not lines


def test_a_network_that_passes_over_what_does_not_fit_is_not_believed(made, tmp_path):
    torch.save({"other": torch.ones(2)}, tmp_path / "w.pth")
    with pytest.raises(ConvswapError, match="weights do not fit Lenient: 2 missing"):
        made("Lenient", weights=tmp_path / "w.pth")


@pytest.mark.parametrize(("there", "wanted", "says"), [
    (["head", "aux_classifier"], "head", "aux_loss=true, in Python kwargs=dict(aux_loss=True)"),
    (["head", "aux1"], "head", "aux_logits=true, "),
    (["head"], "aux", "num_classes=10, "),
])  # fmt: skip
def test_heads_for_training_are_said_to_be_an_argument(there, wanted, says, made, tmp_path):
    network = nn.ModuleDict({name: nn.Linear(2, 2) for name in there})
    torch.save(network.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ConvswapError) as caught:
        made("WithoutAux", weights=tmp_path / "w.pth", kwargs={"name": wanted})
    assert f"--model-arg {says}" in str(caught.value)


def test_timms_own_names_are_read_without_a_word(tmp_path):
    network, lines = timm.create_model("test_convnext"), []
    torch.save(network.state_dict(), tmp_path / "w.pth")
    found = open_model("timm:test_convnext", weights=tmp_path / "w.pth", note=lines.append)
    assert torch.equal(found.head.fc.weight, network.head.fc.weight)
    assert not lines
