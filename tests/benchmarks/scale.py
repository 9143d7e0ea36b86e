"""What converting large networks takes: one JSON line per network and number of images.

    python tests/benchmarks/scale.py resnet50 --images 256
    python tests/benchmarks/scale.py resnet26 resnet50 --images 64 128     # how it grows
    python tests/benchmarks/scale.py resnet50 --images 256 --form bottleneck
    python tests/benchmarks/scale.py resnet18 --images 64 --rerun          # against re-running

Random weights and images: only time and memory are measured. Random kernels take the forms that
are fitted quickly; `--form` puts one form, at the share of multiply-adds nearest to `--macs`, into
every layer that can have it: trained 3x3 layers mostly take `bottleneck`, the slowest to fit.
Every line comes from a process of its own, so that its peak memory is its own. `--rerun` compares
one lockstep walk with running the network anew for every site, in one process.
"""

import argparse
import json
import multiprocessing
import resource
import time
from functools import partial

import torch

import convswap
from convswap.forms import FORMS
from convswap.network.calls import read_batches
from convswap.network.memory import in_flight_bytes
from convswap.statistics.gathering import gather
from convswap.statistics.moments import Moments, fit_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", help="timm models")
    parser.add_argument("--images", nargs="+", type=int, default=[256])
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--form", choices=FORMS)
    parser.add_argument("--rerun", action="store_true")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for name in args.names:
        for images in args.images:
            job = rerun if args.rerun else partial(whole_job, form=args.form)
            process = context.Process(target=job, args=(name, images, args.macs))
            process.start()
            process.join()


def opened(name: str, images: int) -> tuple[torch.nn.Module, tuple, list[torch.Tensor]]:
    model = convswap.open_model(f"timm:{name}", random_weights=True).eval()
    size = convswap.record_of(model).preprocess.input_size
    random = torch.Generator().manual_seed(0)
    return model, size, [torch.randn(32, *size, generator=random) for _ in range(images // 32)]


def whole_job(name: str, images: int, macs: float, form: str | None) -> None:
    model, size, batches = opened(name, images)
    start = time.perf_counter()
    survey, budget = convswap.survey(model, batches), convswap.Budget(macs=macs)
    plan = survey.plan_of(of_form(survey, form, macs), budget) if form else survey.plan(budget)
    planned = time.perf_counter()
    small = convswap.convert(model, plan, batches)
    done = time.perf_counter()
    assert convswap.count(small, size) == plan.planned
    estimated = 2 * images * in_flight_bytes(model, size) + fit_bytes(model)
    row = {
        "network": name,
        "images": images,
        "sites": len(convswap.observe(model, size).replaceable),
        "converted": len(plan.choices),
        "macs_kept": round(plan.planned.macs / plan.dense.macs, 4),
        "plan_s": round(planned - start, 1),
        "convert_s": round(done - planned, 1),
        "total_s": round(done - start, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "estimate_gib": round(estimated / 2**30, 2),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(row), flush=True)


def of_form(survey: convswap.Survey, form: str, macs: float) -> list:
    """Per layer the candidate of a form whose share of the multiply-adds is nearest, if any."""
    chosen = []
    for site in survey.sites:
        row = [each for each in survey.options[site.path] if each.form == form]
        most = macs * site.cost.macs
        chosen.append(min(row, key=lambda each: abs(each.cost.macs - most), default=None))
    return chosen


def rerun(name: str, images: int, macs: float) -> None:
    model, size, batches = opened(name, images)
    sites = convswap.observe(model, size).replaceable
    calls = read_batches(model, batches)
    start = time.perf_counter()
    for _ in gather(model, sites, calls, 0):
        pass
    lockstep = time.perf_counter() - start
    start = time.perf_counter()
    for site in sites:
        conv = model.get_submodule(site.path)
        moments = Moments(conv)
        hook = conv.register_forward_hook(lambda m, x, y, seen=moments: seen.update(x[0], y))
        with torch.no_grad():
            for batch in batches:
                model(batch)
        hook.remove()
    again = time.perf_counter() - start
    row = {
        "network": name,
        "images": images,
        "sites": len(sites),
        "lockstep_s": round(lockstep, 1),
        "rerun_s": round(again, 1),
        "ratio": round(again / lockstep, 2),
    }
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
