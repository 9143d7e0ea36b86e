"""Run other people's networks through every step: a table of what works.

    OMP_NUM_THREADS=1 python tests/benchmarks/zoo.py                      # all that is installed
    OMP_NUM_THREADS=1 python tests/benchmarks/zoo.py monai torchvision/ssd300_vgg16 --onnx

Random weights and small inputs: only whether it works is looked at. To keep a row at seconds,
layers that read over 600 numbers at a position are left alone. Rows that are in the JSON file
already are not run again. The networks are listed in `zoo_networks.py`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_flatten
from zoo_networks import LIBRARIES

import convswap
from convswap.errors import BudgetError, ConvswapError
from convswap.network import observe
from convswap.network.calls import Batch, read_batch
from convswap.network.match import tensors
from convswap.network.state import state_of

SECONDS = 240  # of processor time for a row
MOST_READ = 600
SHARES = 0.6, 0.7, 0.8, 0.9, 0.97, 0.995  # of multiply-adds; the first that can be reached
STEPS = ["observe", "plan", "convert", "outputs", "counted", "loaded", "distill"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("only", nargs="*", help="libraries, or rows: library/name")
    parser.add_argument("--onnx", action="store_true", help="export each as well")
    parser.add_argument("--out", type=Path, default=Path("zoo.json"))
    args = parser.parse_args()
    found = json.loads(args.out.read_text()) if args.out.exists() else {}
    for row in wanted(args.only):
        if row not in found:
            found[row] = in_a_process(row, args.onnx)
            args.out.write_text(json.dumps(found, indent=1) + "\n")
        print(line(row, found[row]), flush=True)
    summary(found)


def wanted(only: list[str]) -> Iterator[str]:
    """The rows of all libraries that are installed, or of some."""
    for library in LIBRARIES:
        name = library.__name__
        if only and name not in [row.split("/")[0] for row in only]:
            continue
        try:
            rows = library()
        except ImportError as error:
            print(f"{name}: skipped: {error}")
            continue
        for row in rows:
            if not only or name in only or f"{name}/{row}" in only:
                yield f"{name}/{row}"


def in_a_process(row: str, onnx: bool) -> dict:
    """Subtle: forked, so that libraries are imported once."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        start = time.process_time()
        result = try_row(row, onnx)
        theirs.send(result | {"seconds": round(time.process_time() - start)})

    process = context.Process(target=work)
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        process.join()
        out_of_time = process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL)
        why = f"took over {SECONDS} s" if out_of_time else f"ended with {process.exitcode}"
        return {"failed": "process", "why": why, "seconds": SECONDS}
    finally:
        process.join()


def try_row(row: str, onnx: bool) -> dict:
    """Which steps passed, and why the first that did not failed."""
    warnings.simplefilter("ignore")
    observe.MOST_READ = MOST_READ
    torch.manual_seed(0)
    library, _, name = row.partition("/")
    make, inputs = next(each for each in LIBRARIES if each.__name__ == library)()[name]
    passed: dict[str, object] = {}
    steps = run_steps(make, inputs, onnx)
    while True:
        try:
            step, value = next(steps)
        except StopIteration:
            return {"passed": passed}
        except Exception as error:
            failed = next(step for step in [*STEPS, "onnx"] if step not in passed)
            kind = "" if isinstance(error, ConvswapError) else f"{type(error).__name__}: "
            return {"passed": passed, "failed": failed, "why": f"{kind}{error}"[:300]}
        passed[step] = value


def run_steps(
    make: Callable[[], nn.Module], inputs: Callable[[], object], onnx: bool
) -> Iterator[tuple[str, object]]:
    """Each step that has passed, with what it found."""
    given = [inputs(), inputs()]
    model = settled(make(), given)
    state = {name: value.clone() for name, value in state_of(model).items()}
    seen = observe.observe(model, given[0])
    yield "observe", f"{len(seen.replaceable)}/{len(seen.sites)}"
    plan, share = least_plan(model, given)
    yield "plan", share
    small = convswap.convert(model, plan, given)
    yield "convert", len(plan.choices)
    batch = read_batch(model, given[0])
    check_same_shape(batch, model, small)
    yield "outputs", True
    counted = convswap.count(small, given[0])
    # how much a network does may depend on what it finds, which differs once it is converted
    depends = convswap.count(model, given[0]) != convswap.count(model, given[1])
    assert counted == plan.planned or depends, f"{counted} counted, {plan.planned} planned"
    yield "counted", "depends" if depends else True
    check_loaded(batch, small, make())
    yield "loaded", True
    better = convswap.distill(small, model, given, epochs=1)
    check_same_shape(batch, model, better)
    now = state_of(model)
    assert all(torch.equal(value, now[name]) for name, value in state.items()), "it was changed"
    yield "distill", True
    if onnx:
        yield "onnx", export(small, batch)


@torch.no_grad()
def settled(model: nn.Module, given: list) -> nn.Module:
    """The network with batch-norm statistics of its inputs: with those of new networks, values
    fade to nothing, layer by layer."""
    norms = [module for module in model.eval().modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        for batch in given:
            read_batch(model, batch).forward(model)
    except ValueError:  # a batch norm over single values has no statistics
        pass
    return model.eval()


def least_plan(model: nn.Module, given: list) -> tuple[convswap.Plan, float]:
    for share in SHARES:
        try:
            return convswap.plan(model, given, convswap.Budget(macs=share)), share
        except BudgetError:
            if share == SHARES[-1]:
                raise
    raise AssertionError


@torch.no_grad()
def check_same_shape(batch: Batch, model: nn.Module, small: nn.Module) -> None:
    """The same tree of outputs; their lengths may differ where a network chooses among them."""
    (ours, our_tree), (theirs, their_tree) = (
        tree_flatten(batch.forward(n)) for n in (small, model)
    )
    assert our_tree == their_tree or len(ours) != len(theirs), "another tree of outputs"
    for a, b in zip(ours, theirs, strict=False):
        assert type(a) is type(b), f"{type(b).__name__} became {type(a).__name__}"
        assert not hasattr(a, "dim") or (a.dim(), a.dtype) == (b.dim(), b.dtype), "another shape"


@torch.no_grad()
def check_loaded(batch: Batch, small: nn.Module, fresh: nn.Module) -> None:
    with tempfile.TemporaryDirectory() as folder:
        convswap.save(small, f"{folder}/out")
        again = convswap.load(f"{folder}/out", model=fresh)
    outputs = []
    for network in (small, again):
        torch.manual_seed(0)
        outputs.append(tensors(batch.forward(network)))
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True)), "loaded is not equal"


def export(small: nn.Module, batch: Batch) -> float | str:
    """The largest difference of ONNX Runtime's outputs, for any number of samples or for one."""
    from convswap.runtimes.export import export_onnx

    with tempfile.TemporaryDirectory() as folder:
        if not batch.layout.lists and len(batch) > 1:
            try:
                return export_onnx(small, batch, f"{folder}/out.onnx")
            except ConvswapError as error:
                if "batch=1" not in str(error):
                    raise
        gap = export_onnx(small, batch.take(slice(1)), f"{folder}/out.onnx", batch=1)
        return f"{gap:.2g}, one sample"


def line(row: str, result: dict) -> str:
    passed = " ".join(f"{step}={value}" for step, value in result.get("passed", {}).items())
    failed = f" FAILED {result['failed']}: {result['why']}" if "failed" in result else ""
    return f"{row:<44} {result['seconds']:>4} s  {passed}{failed}"


def summary(found: dict[str, dict]) -> None:
    print(f"\n{'library':<30} rows  pass  partly  fail")
    for library in dict.fromkeys(row.split("/")[0] for row in found):
        rows = [result for row, result in found.items() if row.split("/")[0] == library]
        well = sum("failed" not in result for result in rows)
        partly = sum(
            "failed" in result and "convert" in result.get("passed", {}) for result in rows
        )
        print(f"{library:<30} {len(rows):>4} {well:>5} {partly:>7} {len(rows) - well - partly:>5}")


if __name__ == "__main__":
    main()
