"""Fitted to what layers see, or to their weights alone: a network for each kind of layer.

    OMP_NUM_THREADS=1 python tests/benchmarks/kinds.py --macs 0.5
    OMP_NUM_THREADS=1 python tests/benchmarks/kinds.py transposed video

Random weights, with the batch-norm statistics of the images; photographs from `--bench`, also as
short videos that pan over them and, line by line, as signals. Prints the relative squared error
of the output on photographs that nothing was fitted to.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import convswap

IMAGES, BATCH, SIZE = 160, 16, 112
CALIBRATION = 96  # the others are for testing


class UNet(nn.Module):
    """Ronneberger et al. 2015, with transposed convolutions and batch norm."""

    def __init__(self, width: int = 12):
        super().__init__()
        wide = [width * 2**level for level in range(4)]
        self.down = nn.ModuleList(map(double, [3, *wide], wide))
        pairs = list(zip(wide[:0:-1], wide[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, stride=2) for i, o in pairs)
        self.join = nn.ModuleList(double(2 * o, o) for _, o in pairs)
        self.head = nn.Conv2d(width, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        skipped = []
        for level, layers in enumerate(self.down):
            x = layers(F.max_pool2d(x, 2) if level else x)
            skipped.append(x)
        skipped.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([up(x), skipped.pop()], 1))
        return self.head(x)


def double(i: int, o: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(),
        nn.Conv2d(o, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(),
    )  # fmt: skip


def one_dimensional() -> nn.Module:
    """A temporal network (Bai et al. 2018): dilated convolutions."""
    layers: list[nn.Module] = []
    for level in range(5):
        i, far = (48 if level else 3), 2**level
        layers += [nn.Conv1d(i, 48, 5, padding=2 * far, dilation=far), nn.BatchNorm1d(48)]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv1d(48, 10, 1))


def pan(images: Tensor) -> Tensor:
    """Videos `[n, 3, 8, h, w]`: the images, moving."""
    frames = [images.roll((3 * t, 5 * t), (2, 3)) for t in range(8)]
    return F.avg_pool3d(torch.stack(frames, 2), (1, 2, 2))


def same(images: Tensor) -> Tensor:
    return images


def lines(images: Tensor) -> Tensor:
    """A line in the middle of each, `[n, 3, w]`."""
    return images[:, :, images.shape[2] // 2]


KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor], Tensor]]] = {
    "groups": (lambda: timm.create_model("resnext26ts"), same),
    "linear": (lambda: timm.create_model("convnext_atto"), same),
    "tokens": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=SIZE, depth=6), same),
    "standardised": (lambda: timm.create_model("nf_resnet26"), same),
    "signals": (one_dimensional, lines),
    "video": (torchvision.models.video.r3d_18, pan),
    "transposed": (UNet, same),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--bench", type=Path, default=Path(__file__).parents[3] / "shared/bench")
    args = parser.parse_args()
    images = photographs(args.bench)
    for kind in args.kinds:
        make, shape = KINDS[kind]
        torch.manual_seed(0)
        given = [shape(batch) for batch in images]
        model = settled(make(), given[: CALIBRATION // BATCH])
        seen, unseen = given[: CALIBRATION // BATCH], given[CALIBRATION // BATCH :]
        lost = {}
        for fit in ("weight", "moments", "corrected"):
            plan = convswap.plan(model, seen, convswap.Budget(macs=args.macs), fit=fit)
            small = convswap.convert(model, plan, seen)
            lost[fit] = 1 - convswap.fidelity(small, model, unseen, "values")["r2"]
        figures = "  ".join(f"{fit} {error:.4f}" for fit, error in lost.items())
        print(f"{kind:13} {figures}  {lost['corrected'] / lost['weight']:.2f} of it", flush=True)


def photographs(bench: Path) -> list[Tensor]:
    preprocess = convswap.Preprocess(input_size=(3, SIZE, SIZE))
    source = convswap.open_images(str(bench / "photos.tar"), preprocess)
    return [images for images, *_ in source.batches(BATCH, count=IMAGES)]


@torch.no_grad()
def settled(model: nn.Module, given: list[Tensor]) -> nn.Module:
    """The network with batch-norm statistics of its inputs, and no residual of zero."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = None
            module.reset_running_stats()
            nn.init.ones_(module.weight)
        for name in ("gamma", "skipinit_gain"):
            if isinstance(getattr(module, name, None), nn.Parameter):
                nn.init.constant_(getattr(module, name), 1 / math.sqrt(2))
    model.train()
    for batch in given:
        model(batch)
    return model.eval()


if __name__ == "__main__":
    main()
