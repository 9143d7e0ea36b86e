"""The moments of all sites, gathered in one walk over the calibration images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from ..errors import ConversionError
from ..network.calls import Batch
from ..network.lockstep import walk
from ..network.sites import Site
from ..network.sums import undo_norms
from ..support.ranks import gathered, share
from .moments import SAMPLES, Moments


def gather(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    seed: int,
    changed: nn.Module | None = None,
    samples: int = SAMPLES,
) -> Iterator[tuple[Site, Moments]]:
    """Walk over the images once and yield every site with its moments, in execution order.

    A site comes when its last call has been seen; its moments are then the caller's only. Sites
    that no image comes by do not come.

    Args:
        changed: a network run side by side: x is what it reads, y what `model` writes. It goes
            on through a site only after the caller has asked for the next one. Where a site
            feeds a sum, y also makes up for what differs in the other addend by then, so that
            the sum is matched (as He et al. 2017 do for residual blocks).
        samples: positions looked at of all images together, for each number that a layer reads.

    Raises:
        ConversionError: images give a site nothing that it could be fitted to.
    """
    waiting = {site.path: site for site in sites}
    calls = dict.fromkeys(waiting, 0)
    images = sum(gathered(sum(map(len, batches))))
    moments: dict[str, Moments] = {}
    sums = {s.path: s.sum for s in sites if s.sum} if changed is not None else {}
    taps = {path: each.other for path, each in sums.items()}
    for stop in walk(model, list(waiting), batches, changed, taps) if sites else ():
        if stop.path not in waiting:
            continue
        if share()[1] > 1 and len(stop.pairs) < len(batches):  # others would wait for another site
            raise ConversionError(
                "batches take different ways through the network", do="use one process"
            )
        site = waiting[stop.path]
        if site.path not in moments:
            layer = model.get_submodule(site.path)
            crossed = changed is not None
            moments[site.path] = Moments(layer, seed, images, crossed, samples)
        nothing = [(None, None)] * len(stop.pairs)
        for (x, y), (ours, theirs) in zip(stop.pairs, stop.kept or nothing, strict=True):
            if ours is not None and theirs is not None:
                y = y + (theirs - ours) * undo_norms(model, sums[site.path].norms, y)
            moments[site.path].update(x, y)
        calls[site.path] += 1
        if calls[site.path] == site.calls:
            del waiting[site.path]
            yield site, _whole(site, moments.pop(site.path))
    for path, seen in moments.items():  # it ran less often than for the first image
        yield waiting[path], _whole(waiting[path], seen)


def _whole(site: Site, seen: Moments) -> Moments:
    """Of the images of all processes, if something can be fitted to them."""
    seen.join_()
    if not seen.count:
        raise ConversionError(
            f"{site.path} gets nothing to read from these images",
            do="give others, or a plan without it",
        )
    if not seen.finite:
        raise ConversionError(
            f"what {site.path} reads or should write is too large to be squared",
            do="look for inputs that are not scaled as the network wants them",
        )
    return seen
