"""The walk: every module once, every site in turn, nothing left behind."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from helpers import TINY, hooks_left, image_batches, tiny, walk
from torch import Tensor, nn

from convswap.network.lockstep import Tap
from convswap.network.observe import find_sites


class Probed(nn.Module):
    """A network with a module beside its sites, to count how often it runs."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.between = nn.Tanh()
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.between(self.first(x))))


PATHS = ["first", "second", "third"]


def site_paths(model: nn.Module, input_size: tuple) -> list[str]:
    return [site.path for site in find_sites(model, input_size)[0]]


def scale_(module: nn.Module) -> None:
    """A change of weights that shows in everything downstream."""
    with torch.no_grad():
        module.weight.mul_(0.7)


def calls_at(network: nn.Module, paths: list[str], batch: Tensor) -> list[tuple]:
    """Slow reference: one plain forward pass; every call as (path, what it reads, writes)."""
    calls = []
    handles = [
        network.get_submodule(path).register_forward_hook(
            lambda module, args, output, path=path: calls.append(
                (path, args[0].clone(), output.clone())
            )
        )
        for path in paths
    ]
    with torch.no_grad():
        network(batch)
    for handle in handles:
        handle.remove()
    return calls


@pytest.mark.parametrize("name", TINY)
def test_stops_are_the_calls_of_a_plain_pass(name: str):
    model, input_size = tiny(name)
    paths, batches = site_paths(model, input_size), image_batches(input_size)
    wanted = [calls_at(model, paths, batch) for batch in batches]
    stops = 0
    for index, stop in enumerate(walk(model, paths, batches)):
        if stop.path is None:
            break
        stops += 1
        for calls, (_, written) in zip(wanted, stop.pairs, strict=True):
            assert calls[index][0] == stop.path
            assert torch.equal(calls[index][2], written)
    assert stops == len(wanted[0])


@pytest.mark.parametrize("name", TINY)
def test_alone_a_network_reports_what_it_reads_and_writes(name: str):
    model, input_size = tiny(name)
    paths, batches = site_paths(model, input_size), image_batches(input_size, count=2)
    wanted = [calls_at(model, paths, batch) for batch in batches]
    for index, stop in enumerate(walk(model, paths, batches)):
        if stop.path is not None:
            for calls, pair in zip(wanted, stop.pairs, strict=True):
                assert torch.equal(calls[index][1], pair[0])
                assert torch.equal(calls[index][2], pair[1])
    assert index == len(wanted[0])


def test_taps_keep_what_a_module_read_or_wrote_in_both_networks():
    model, batches = Probed().eval(), image_batches((3, 8, 8))
    changed = copy.deepcopy(model)
    scale_(changed.first)
    taps = {"second": Tap("first", written=False), "third": Tap("between", written=True)}
    kept = {
        s.path: s.kept for s in walk(model, ["first", "second", "third"], batches, changed, taps)
    }
    assert kept.pop("first") == kept.pop(None) == []
    for index, batch in enumerate(batches):
        assert all(torch.equal(x, batch) for x in kept["second"][index])
        with torch.no_grad():
            wanted = [network.between(network.first(batch)) for network in (changed, model)]
        torch.testing.assert_close([*kept["third"][index]], wanted, atol=0, rtol=0)


@pytest.mark.parametrize("name", TINY)
def test_last_stop_has_the_outputs_of_both_networks(name: str):
    model, input_size = tiny(name)
    paths, batches = site_paths(model, input_size), image_batches(input_size)
    changed = copy.deepcopy(model)
    scale_(changed.get_submodule(paths[0]))
    *_, last = walk(model, paths, batches, changed)
    assert last.path is None
    for batch, (got, original) in zip(batches, last.pairs, strict=True):
        with torch.no_grad():
            wanted = [changed(batch), model(batch)]
        torch.testing.assert_close([got, original], wanted, atol=0, rtol=0)


@pytest.mark.parametrize("name", TINY)
def test_walk_equals_running_both_networks_again_for_every_site(name: str):
    """Weights set at a stop count from that very call on, as if all had been run again."""
    model, input_size = tiny(name)
    paths, batches = site_paths(model, input_size), image_batches(input_size)
    changed, reference = copy.deepcopy(model), copy.deepcopy(model)
    calls = Counter(path for path, *_ in calls_at(model, paths, batches[0]))
    reached: Counter[str] = Counter()
    for index, stop in enumerate(walk(model, paths, batches, changed)):
        if stop.path is None:
            break
        for batch, (read, written) in zip(batches, stop.pairs, strict=True):
            # before this stop's change: what a full run feeds to this call
            path, wanted, _ = calls_at(reference, paths, batch)[index]
            assert path == stop.path
            torch.testing.assert_close(read, wanted)
            torch.testing.assert_close(written, calls_at(model, paths, batch)[index][2])
        reached[stop.path] += 1
        if calls[stop.path] == 1:  # else the second call would differ from the first
            scale_(changed.get_submodule(stop.path))
            scale_(reference.get_submodule(stop.path))
    assert reached == calls


def test_without_a_change_both_networks_agree_everywhere():
    model, input_size = tiny("residual")
    paths, batches = site_paths(model, input_size), image_batches(input_size)
    wanted = [calls_at(model, paths, batch) for batch in batches]
    stops = list(walk(model, paths, batches, copy.deepcopy(model)))
    for index, stop in enumerate(stops[:-1]):
        for calls, (read, _) in zip(wanted, stop.pairs, strict=True):
            assert torch.equal(read, calls[index][1])
    assert all(torch.equal(got, original) for got, original in stops[-1].pairs)


@pytest.mark.parametrize("both", [False, True], ids=["alone", "two networks"])
def test_every_module_runs_once_per_batch_and_network(both: bool):
    model = Probed().eval()
    changed = copy.deepcopy(model) if both else None
    runs: Counter[str] = Counter()
    for name, network in (("model", model), ("changed", changed)):
        for path, module in network.named_modules() if network else ():
            key = f"{name}.{path}"
            module.register_forward_hook(lambda *_, key=key: runs.update([key]))
    for _ in walk(model, ["first", "second"], image_batches((3, 8, 8), count=4), changed):
        pass
    assert set(runs.values()) == {4}
    assert len(runs) == (10 if both else 5)


def test_nothing_has_run_past_a_stop_yet():
    model = Probed().eval()
    ran = []
    model.between.register_forward_hook(lambda *_: ran.append("between"))
    stops = walk(model, ["first", "second"], image_batches((3, 8, 8), count=2))
    assert next(stops).path == "first"
    assert ran == []
    assert next(stops).path == "second"
    assert ran == ["between"] * 2
    stops.close()


def test_site_that_is_not_asked_for_is_passed():
    model = Probed().eval()
    stops = walk(model, ["second"], image_batches((3, 8, 8)))
    assert [stop.path for stop in stops] == ["second", None]


def test_site_called_by_keyword_is_read():
    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(input=x)

    model, (batch,) = Keyword().eval(), image_batches((3, 8, 8), count=1)
    stop, _ = walk(model, ["conv"], [batch], copy.deepcopy(model))
    assert torch.equal(stop.pairs[0][0], batch)


@pytest.mark.parametrize("kind", [tuple, list], ids=["tuple", "list"])
def test_output_in_a_container_of_one_keeps_its_container(kind: type):
    class One(Probed):
        def forward(self, x: Tensor):
            return kind([super().forward(x)])

    *_, last = walk(One().eval(), ["first"], image_batches((3, 8, 8), count=2))
    assert all(type(output) is kind for pair in last.pairs for output in pair)


# what is left behind


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_closing_leaves_no_hooks(steps: int):
    model = Probed().eval()
    changed = copy.deepcopy(model)
    stops = walk(model, ["first", "second"], image_batches((3, 8, 8)), changed)
    for _ in range(steps):
        next(stops)
    stops.close()
    assert hooks_left(model) == hooks_left(changed) == 0
    assert model(image_batches((3, 8, 8))[0]).shape == (6, 4, 8, 8)


def test_running_to_the_end_leaves_no_hooks():
    model = Probed().eval()
    assert len(list(walk(model, ["first", "second"], image_batches((3, 8, 8))))) == 3
    assert hooks_left(model) == 0


def test_closing_unwinds_the_networks():
    """`finally` blocks of a suspended forward run when the walk is given up."""
    unwound = []

    class Guarded(Probed):
        def forward(self, x: Tensor) -> Tensor:
            try:
                return super().forward(x)
            finally:
                unwound.append(len(x))

    stops = walk(Guarded().eval(), ["second"], image_batches((3, 8, 8), count=3))
    next(stops)
    stops.close()
    assert unwound == [6, 6, 6]


@pytest.mark.parametrize("which", ["original", "changed"])
def test_error_inside_forward_reaches_the_caller(which: str):
    class Broken(Probed):
        def forward(self, x: Tensor) -> Tensor:
            self.first(x)
            raise ValueError("no such luck")

    model, broken = Probed().eval(), Broken().eval()
    pair = (broken, None) if which == "original" else (model, broken)
    stops = walk(pair[0], ["first"], image_batches((3, 8, 8)), pair[1])
    assert next(stops).path == "first"
    with pytest.raises(ValueError, match="no such luck"):
        next(stops)
    assert hooks_left(model) == hooks_left(broken) == 0


def test_error_of_the_caller_leaves_no_hooks():
    model = Probed().eval()

    def consume() -> None:
        for _ in walk(model, ["first"], image_batches((3, 8, 8))):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        consume()
    assert hooks_left(model) == 0


class PartsWays(Probed):
    """Bright images take a shorter way, which ends elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.third(x if x.shape[-1] > 8 else self.second(x))


def test_batches_that_part_ways_stop_where_they_come_by():
    model = PartsWays().eval()
    batches = [torch.ones(1, 3, n, n) for n in (8, 10, 8)]
    stops = [(s.path, [len(y[0, 0]) for _, y in s.pairs]) for s in walk(model, PATHS, batches)]
    assert stops == [("first", [8, 10, 8]), ("second", [8, 8]), ("third", [8, 10, 8]),
                     (None, [8, 10, 8])]  # fmt: skip


def test_a_network_that_goes_another_way_once_it_is_changed_is_walked_to_the_end():
    class Depends(Probed):
        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.third(x if x.sum() > 0 else self.second(x))

    model, images = Depends().eval(), torch.ones(1, 3, 8, 8)
    with torch.no_grad():
        model.first.weight.fill_(1)
    changed = copy.deepcopy(model)
    for stop in walk(model, PATHS, [images], changed):
        assert stop.path != "second"
        if stop.path == "first":
            with torch.no_grad():
                changed.first.weight.fill_(-1)
        assert len(stop.pairs) == 1


# the state of the caller


@pytest.mark.parametrize("enabled", [True, False])
def test_grad_mode_between_stops_is_the_callers(enabled: bool):
    model = Probed().eval()
    with torch.set_grad_enabled(enabled):
        for stop in walk(
            model, ["first", "second"], image_batches((3, 8, 8)), copy.deepcopy(model)
        ):
            assert torch.is_grad_enabled() is enabled
            assert not any(t.requires_grad for pair in stop.pairs for t in pair)
    assert torch.is_grad_enabled()


def test_autocast_inside_forward_stays_inside():
    class Mixed(Probed):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.third(self.second(self.between(self.first(x))))

    model, batches = Mixed().eval(), image_batches((3, 8, 8))
    wanted = [model(batch).detach() for batch in batches]
    try:
        *_, last = walk(model, ["first", "second"], batches)
        assert not torch.is_autocast_enabled("cpu")
    finally:
        torch.set_autocast_enabled("cpu", False)
    torch.testing.assert_close([output for _, output in last.pairs], wanted, atol=0, rtol=0)


def test_images_of_the_caller_are_not_written_to():
    """A network may normalise its input in place; the other one still gets the image."""

    class Normalising(Probed):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.sub_(0.5))

    model, batches = Normalising().eval(), image_batches((3, 8, 8), count=1)
    kept = batches[0].clone()
    stop, last = walk(model, ["first"], batches, copy.deepcopy(model))
    assert torch.equal(batches[0], kept)
    assert torch.equal(stop.pairs[0][0], kept - 0.5)
    assert torch.equal(*last.pairs[0])
