"""Tiny networks, and the few things several test files need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convswap.network import lockstep
from convswap.network.calls import read_batch, read_batches
from convswap.network.cost import count
from convswap.network.lockstep import Stop
from convswap.network.observe import observe
from convswap.network.outputs import Reference
from convswap.network.price import price
from convswap.network.sites import Site
from convswap.plans import Choice, Plan
from convswap.statistics import gathering
from convswap.statistics.moments import Moments


class Residual(nn.Module):
    """Convolution, batch norm and a block with a skip connection; classifies."""

    num_classes = 5

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.first = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(x)))
        x = F.relu(x + self.second(F.relu(self.first(x))))
        return self.head(x.mean((2, 3)))


class CalledTwice(nn.Module):
    """One convolution runs at two resolutions."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.shared = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.tail = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.shared(self.stem(x)))
        return self.tail(torch.tanh(self.shared(x)))


class TwoPaths(nn.Module):
    """One convolution stands under two names."""

    def __init__(self):
        super().__init__()
        self.near = nn.Conv2d(3, 8, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Tanh())
        self.alias = self.block[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.alias(self.block(self.near(x)))


class Grouped(nn.Module):
    """Grouped and depthwise convolutions between plain ones."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.tail = nn.Conv2d(8, 8, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(F.gelu(self.depthwise(self.grouped(self.stem(x)))))


class InPlace(nn.Module):
    """A functional activation overwrites what a convolution wrote."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1)
        self.second = nn.Conv2d(12, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x), inplace=True)), inplace=True)


class TwoOutputs(nn.Module):
    """Two heads, in a dict."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Conv2d(3, 8, 3, padding=1)
        self.boxes = nn.Conv2d(8, 8, 3, padding=1)
        self.scores = nn.Conv2d(8, 10, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = torch.tanh(self.trunk(x))
        return {"boxes": self.boxes(x), "scores": self.scores(x).mean((2, 3))}


class Uneven(nn.Module):
    """Kernels that are not square, stride along one axis."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(3, 8, (1, 3), stride=(1, 2), padding=(0, 1))
        self.tall = nn.Conv2d(8, 8, (5, 3), padding=(2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.tall(torch.sigmoid(self.wide(x)))


class Concat(nn.Module):
    """Two branches, joined along the channels."""

    def __init__(self):
        super().__init__()
        self.left = nn.Conv2d(3, 8, 3, padding=1)
        self.right = nn.Conv2d(3, 8, 5, padding=2)
        self.join = nn.Conv2d(16, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], dim=1))


class DataDependent(nn.Module):
    """A value decides, between two convolutions, how the image goes on: no tracer sees that."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        if x.mean() > 2:  # never, after tanh
            x = -x
        return self.second(x)


class KeepsAList(nn.Module):
    """Convolutions are run from a plain list and a plain dict, not as submodules."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 8, 3, padding=1)
        self.steps = [self.first, nn.Tanh()]
        self.more = {"second": self.second, "third": {"deep": (self.third,)}}

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return self.more["third"]["deep"][0](torch.tanh(self.more["second"](x)))


class ReadsAttributes(nn.Module):
    """Settings, weight and bias of a convolution are read in forward."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.to(self.first.weight.dtype)).view(-1, self.first.out_channels, 8, 8)
        assert self.second.weight.shape[:2] == (self.second.out_channels, self.second.in_channels)
        assert self.second.bias is not None
        size = [n // s for n, s in zip(x.shape[2:], self.second.stride, strict=True)]
        return self.second(torch.tanh(x)).reshape(len(x), -1, *size)


class AsksForTheClass(nn.Module):
    """What comes after a convolution depends on the class of the module."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(torch.tanh(self.first(x)))
        return self.third(torch.relu(x) if isinstance(self.second, nn.Conv2d) else x)


class FrozenTrunk(nn.Module):
    """The first layers run without gradients."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = torch.tanh(self.trunk(x))
        return self.head(x)


class InferenceMode(FrozenTrunk):
    """All of forward runs in inference mode."""

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.trunk(x)))


class CutOff(FrozenTrunk):
    """No gradient gets from the head to the trunk."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.trunk(x)).detach())


class Frames(nn.Module):
    """Quarters of an image are folded into the batch."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.view(n, c, 2, h // 2, 2, w // 2).transpose(1, 3).reshape(-1, c, h // 2, w // 2)
        return self.second(torch.tanh(self.first(x))).mean((2, 3)).view(n, -1)


class Remembers(nn.Module):
    """Keeps something from the first pass for all others."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.grid: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.grid is None or self.grid.device != x.device:
            self.grid = torch.linspace(0, 1, x.shape[-1], device=x.device, dtype=x.dtype).sin()
        return self.second(torch.tanh(self.first(x)) * self.grid)


class OwnConv2d(nn.Conv2d):
    """A subclass that changes nothing."""


class OwnClass(nn.Module):
    """A convolution of the user's own class, with something of the user's attached."""

    def __init__(self):
        super().__init__()
        self.first = OwnConv2d(3, 8, 3, padding=1)
        self.first.gain = 2.0
        self.second = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first.gain * self.first(x)))


class OwnToken(nn.Module):
    """Hands a parameter, in the shape of a batch, to a module (timm's cait)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.token = nn.Parameter(torch.ones(1, 8, 1, 1))
        self.mix = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        token = self.mix(self.token.expand(len(x), -1, -1, -1))
        return self.head((self.conv(x) * torch.sigmoid(token)).mean((2, 3)))


class ParameterProduct(nn.Module):
    """Multiplies a map with a parameter: which operation that is depends on whether a gradient
    is wanted (relative positions of timm's botnet)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.relative = nn.Parameter(torch.randn(6, 8))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.conv(x).mT.movedim(1, 3) @ self.relative.T
        return self.head(seen.mean((1, 2)))


class Windows(nn.Module):
    """A linear layer reads windows of a map, which lie in memory in no order (timm's twins)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        windows = self.stem(x).movedim(1, 3).unflatten(1, (2, -1)).unflatten(3, (2, -1))
        return self.head(torch.relu(self.mix(windows.transpose(2, 3))).mean((1, 2, 3, 4)))


@dataclass(frozen=True)
class Tiny:
    """A network of the table: how it is made, and what it reads."""

    make: Callable[[], nn.Module]
    input_size: tuple[int, int, int] = (3, 8, 8)


TINY: dict[str, Tiny] = {
    "residual": Tiny(Residual),
    "called twice": Tiny(CalledTwice, (3, 12, 12)),
    "two paths": Tiny(TwoPaths),
    "grouped": Tiny(Grouped),
    "in place": Tiny(InPlace),
    "two outputs": Tiny(TwoOutputs),
    "uneven": Tiny(Uneven, (3, 10, 8)),
    "concat": Tiny(Concat, (3, 9, 9)),
    "data-dependent": Tiny(DataDependent),
    "kept in a list": Tiny(KeepsAList),
    "reads attributes": Tiny(ReadsAttributes),
    "asks for the class": Tiny(AsksForTheClass),
    "frozen trunk": Tiny(FrozenTrunk),
    "inference mode": Tiny(InferenceMode),
    "cut off": Tiny(CutOff),
    "frames": Tiny(Frames),
    "own class": Tiny(OwnClass),
    "remembers": Tiny(Remembers),
    "token of its own": Tiny(OwnToken),
    "product with a parameter": Tiny(ParameterProduct),
    "windows": Tiny(Windows),
}


def tiny(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network of the table, in eval mode, the same at every call, and its input size."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TINY[name].make().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, 0, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 2)
    return model, TINY[name].input_size


def image_batches(
    input_size: tuple[int, ...], count: int = 3, size: int = 6, seed: int = 0
) -> list[Tensor]:
    """Random images, smooth enough that neighbouring pixels agree, as real ones do."""
    random = torch.Generator().manual_seed(seed)
    batches = [torch.randn(size, *input_size, generator=random) for _ in range(count)]
    return [batch + F.avg_pool2d(batch, 3, 1, 1) for batch in batches]


def moment(size: int, seed: int = 0, spread: float = 1.5) -> Tensor:
    """A random symmetric positive definite matrix; eigenvalues over about `4 * spread` decades."""
    random = torch.Generator().manual_seed(seed)
    square = torch.randn(size, size, dtype=torch.float64, generator=random)
    basis = torch.linalg.qr(square).Q
    values = 10 ** (spread * torch.randn(size, dtype=torch.float64, generator=random))
    values = values.clamp(10**-3, 10**3)
    return basis @ (values[:, None] * basis.T)


def plan_for(
    model: nn.Module,
    input_size: tuple[int, int, int],
    choices: Mapping[str, tuple[str, int | tuple[int, int]]],
    fit: str = "moments",
) -> Plan:
    """A plan written by hand: site -> (form, rank)."""
    dense = count(model, input_size)
    made = tuple(Choice(site=site, form=form, rank=rank) for site, (form, rank) in choices.items())
    return Plan(input_size=input_size, fit=fit, dense=dense, planned=dense, choices=made)


def priced(plan: Plan, model: nn.Module, input_size: tuple[int, int, int]) -> Plan:
    """A plan with its costs counted on a network."""
    return price(plan, observe(model, input_size))


def walk(model: nn.Module, paths: Sequence[str], batches: object, *rest: object) -> Iterator[Stop]:
    """A walk over plain tensors."""
    return lockstep.walk(model, paths, [read_batch(model, each) for each in batches], *rest)


def gather(
    model: nn.Module, sites: Sequence[Site], batches: object, *rest: object
) -> Iterator[tuple[Site, Moments]]:
    """The moments of sites over plain tensors."""
    return gathering.gather(model, sites, read_batches(model, batches), *rest)


def outputs_of(model: nn.Module, batches: object, kind: str) -> Reference:
    """A network's outputs on plain tensors."""
    return Reference(model, read_batches(model, batches), kind)


def relative(got: Tensor, wanted: Tensor) -> float:
    """Norm of the difference as a fraction of the norm wanted."""
    assert got.shape == wanted.shape
    got, wanted = got.detach().double(), wanted.detach().double()
    return ((got - wanted).norm() / wanted.norm().clamp_min(1e-300)).item()


def hooks_left(model: nn.Module) -> int:
    """Hooks registered anywhere in a network."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


CONVOLUTIONS: dict[str, dict] = {
    "plain": {},
    "stride 2": {"stride": 2, "padding": 1},
    "stride (2,1)": {"stride": (2, 1), "padding": 1},
    "padding 1": {"padding": 1},
    "padding (2,1)": {"padding": (2, 1)},
    "same": {"padding": "same"},
    "same, even kernel": {"kernel_size": (4, 2), "padding": "same"},
    "valid": {"padding": "valid", "stride": 2},
    "reflect": {"padding": (2, 1), "padding_mode": "reflect"},
    "replicate": {"padding": 2, "padding_mode": "replicate", "stride": 2},
    "circular": {"padding": 1, "padding_mode": "circular"},
    "same and reflect": {"padding": "same", "padding_mode": "reflect", "dilation": 2},
    "dilation 2": {"dilation": 2, "padding": 1},
    "dilation (1,2)": {"dilation": (1, 2), "padding": "same"},
    "all at once": {"stride": (2, 1), "padding": (1, 2), "dilation": (2, 1), "bias": False},
    "no bias": {"padding": 1, "bias": False},
    "kernel 5x3": {"kernel_size": (5, 3), "padding": (2, 1)},
    "kernel 1x3": {"kernel_size": (1, 3), "padding": (0, 1)},
    "kernel 1x3, padded 1": {"kernel_size": (1, 3), "padding": 1, "stride": 2},
    "kernel 1x1": {"kernel_size": 1, "stride": 2},
    "kernel 1x1, padded": {"kernel_size": 1, "padding": 1},
    "kernel 7x7": {"kernel_size": 7, "padding": 3, "stride": 2},
    "float32": {"padding": 1, "stride": 2, "dtype": torch.float32},
    "bfloat16": {"padding": 1, "dtype": torch.bfloat16},
    "timm's Conv2dSame": {"same": True, "stride": 2, "dtype": torch.float32},
    "timm's Conv2dSame 5x3": {
        "same": True, "kernel_size": (5, 3), "stride": (2, 1), "dilation": (1, 2),
        "bias": False, "dtype": torch.float32,
    },
}  # fmt: skip
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 3e-2}


def convolution(name: str) -> tuple[nn.Conv2d, Tensor]:
    """A convolution of the table, 4 to 6 channels, and images it can read."""
    from timm.layers import Conv2dSame

    settings = {"kernel_size": 3, "dtype": torch.float64, **CONVOLUTIONS[name]}
    kind = Conv2dSame if settings.pop("same", False) else nn.Conv2d
    dtype = settings.pop("dtype")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        conv = kind(4, 6, **settings).to(dtype).requires_grad_(False)
        x = torch.randn(2, 4, 11, 10, dtype=torch.float64).to(dtype)
    return conv, x
