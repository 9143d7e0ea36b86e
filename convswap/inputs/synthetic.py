"""Images made up from what a network's batch norms remember of those it was trained on, for people
who have none (Yin et al. 2020, arXiv:1912.08795; Cai et al. 2020, arXiv:2001.00281)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache as once_only
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import __version__
from ..errors import DataError
from ..network.calls import Batch
from ..network.copies import deep_copy, in_eval_mode
from ..network.layout import lay_out_, run_with_channels_last
from ..network.wrappers import unwrapped
from ..record import Preprocess
from ..support.files import check_regular, new_file
from ..support.progress import Note, Progress, silent, unheard
from ..support.tensors import digests
from .arrays import ArrayFile
from .names import SYNTHETIC

IMAGES = 256  # each takes as long as some 180 forward passes
AT_ONCE = 64  # whose statistics are those of a batch
STEPS = 60
RATE = 0.1
SMOOTH = 1e-3  # weight of the squared difference of neighbours
FILES = 8  # that are kept


def real_or_made_up(
    source: str | None,
    model: nn.Module,
    preprocess: Preprocess,
    cache: Path,
    *,
    seed: int = 0,
    progress: Progress = silent,
    note: Note = unheard,
) -> str | None:
    """A source to read: the same, but for `synthetic` a `.npy` file of images that are made up for
    the network if they were not kept from before.

    Args:
        preprocess: how images become inputs of the network.
        cache: folder to keep them in; the oldest beyond `FILES` go. Where it cannot be written,
            they go with the process.

    Raises:
        DataError: nothing can be made up for the network.
    """
    if source != SYNTHETIC:
        return source
    path = cache / f"{_digest(model, preprocess, seed)}.npy"
    if not _is_whole(path, preprocess):
        images = made_up(model, preprocess, IMAGES, seed=seed, progress=progress).numpy()
        try:
            _write(images, path)
        except OSError:
            path = Path(_room().name) / path.name
            _write(images, path)
    note(f"{IMAGES} images made up from batch norms ({path}): weaker than real ones")
    return str(path)


def _is_whole(path: Path, preprocess: Preprocess) -> bool:
    try:
        check_regular(path)
        images = ArrayFile(path).x
    except (OSError, DataError):
        return False
    return images.dtype == np.uint8 and images.shape == (IMAGES, *preprocess.input_size)


def _write(images: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, images)
    kept = sorted(path.parent.glob("*.npy"), key=lambda each: each.stat().st_mtime)
    for old in kept[:-FILES]:
        old.unlink()


@once_only
def _room() -> TemporaryDirectory:
    """A folder for as long as the process lives."""
    return TemporaryDirectory(prefix="convswap-")


def made_up(
    model: nn.Module,
    preprocess: Preprocess,
    count: int,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> Tensor:
    """Images whose mean and deviation at every batch norm are those it remembers.

    Args:
        preprocess: how images become inputs of the network.

    Returns:
        `[count, channels, height, width]`, uint8, as in an image file.

    Raises:
        DataError: the network has no batch norms that keep statistics, or does not read images.
    """
    model = in_eval_mode(deep_copy(unwrapped(model))).float().requires_grad_(False)
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_var is not None]
    if not norms or len(preprocess.input_size) != 3:
        raise DataError(
            f"no images can be made up for {type(model).__name__}: "
            + ("it does not read images" if norms else "it has no batch norms that remember any"),
            do="give real ones (--data), or none (--fit weight)",
        )
    example = torch.zeros(2, *preprocess.input_size, device=next(model.parameters()).device)
    lay_out_(model, last=run_with_channels_last([model], Batch((example,))))
    parts = -(-count // AT_ONCE)
    images = []
    for part in range(parts):
        size = count // parts + (part < count % parts)
        progress("make up", part * STEPS, parts * STEPS)
        images.append(
            _batch(
                model, norms, preprocess, size, seed * parts + part,
                lambda step, part=part: progress("make up", part * STEPS + step, parts * STEPS),
            )
        )  # fmt: skip
    return torch.cat(images)


def _batch(
    model: nn.Module,
    norms: list[nn.Module],
    preprocess: Preprocess,
    size: int,
    seed: int,
    made: Callable[[int], None],
) -> Tensor:
    """Start from noise, and follow the gradient of the gap to what the norms remember."""
    device = next(model.parameters()).device
    mean, std = (
        torch.tensor(values, device=device).view(-1, 1, 1)
        for values in (preprocess.mean, preprocess.std)
    )
    low, high = -mean / std, (1 - mean) / std
    random = torch.Generator().manual_seed(seed)
    images = torch.randn(size, *preprocess.input_size, generator=random).to(device)
    images = images.clamp(low, high).requires_grad_()
    optimizer = torch.optim.Adam([images], RATE, betas=(0.5, 0.9))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        with _gaps(norms) as gaps:
            model(images.clone())
        if not gaps:
            raise DataError(f"no batch norm of {type(model).__name__} runs in a forward pass")
        loss = sum(gaps) + SMOOTH * sum(images.diff(dim=d).square().mean() for d in (-1, -2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            images.copy_(images.clamp(low, high))
        made(step + 1)
    return ((images.detach() * std + mean) * 255).round().byte().cpu().contiguous()


@contextmanager
def _gaps(norms: list[nn.Module]) -> Iterator[list[Tensor]]:
    """How far from what it remembers is what each norm sees inside, in units of its deviation."""
    gaps: list[Tensor] = []

    def compare(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        variance, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
        deviation = (norm.running_var + norm.eps).sqrt()
        gaps.append(((mean - norm.running_mean) / deviation).square().mean())
        gaps.append(((variance + norm.eps).sqrt() / deviation - 1).square().mean())

    handles = [norm.register_forward_pre_hook(compare) for norm in norms]
    try:
        yield gaps
    finally:
        for handle in handles:
            handle.remove()


def _digest(model: nn.Module, preprocess: Preprocess, seed: int) -> str:
    settings = [
        __version__, torch.__version__, seed, IMAGES, STEPS,
        preprocess.model_dump(), digests(dict(model.state_dict())),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]
