"""Processor seconds of planning and converting, by phase and by form: one JSON line per network.

    python tests/benchmarks/phases.py resnet20 face srvgg
    python tests/benchmarks/phases.py timm:resnet18 timm:resnet50 --images 64

Subjects are those of `accuracy.py`, with real weights; networks of timm have random weights and
see photographs. A phase's seconds leave out those of the phases inside it; what is in none of
them, above all running the network, is `rest`. Processor time of one thread is counted, so that
other work on the machine hardly shows.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

import torch
from accuracy import SUBJECTS, batches, open_subject

import convswap
from convswap import fitting
from convswap.forms import FORMS
from convswap.planning import candidates, surveying
from convswap.statistics.moments import Moments

PHOTOGRAPHS = "photos.tar"


class Clock:
    """Processor seconds by label, of functions that may call each other."""

    def __init__(self):
        self.seconds: Counter[str] = Counter()
        self._inner = [0.0]

    def watch(self, owner: ModuleType | type, name: str, label: str) -> None:
        """Time a function from now on, wherever it is looked up in `owner`."""
        plain = getattr(owner, name)

        def timed(*args, **kwargs):
            self._inner.append(0.0)
            start = time.process_time()
            try:
                return plain(*args, **kwargs)
            finally:
                whole = time.process_time() - start
                self.seconds[label] += whole - self._inner.pop()
                self._inner[-1] += whole

        setattr(owner, name, timed)

    def lap(self) -> dict[str, float]:
        """Seconds by label since the last lap."""
        taken = {label: round(seconds, 2) for label, seconds in self.seconds.most_common()}
        self.seconds.clear()
        return taken


def watched() -> Clock:
    clock = Clock()
    for name, form in FORMS.items():
        clock.watch(form, "fit", name)
        clock.watch(form, "start_errors", name)
    for one_that_asks in (candidates, fitting):
        clock.watch(one_that_asks, "output_curvature", "curvature")
    clock.watch(candidates, "site_candidates", "judging")
    clock.watch(candidates, "damage_scale", "damage scale")
    clock.watch(Moments, "update", "moments")
    clock.watch(Moments, "problem", "targets")
    clock.watch(surveying, "solve", "integer program")
    clock.watch(convswap, "plan", "rest")
    clock.watch(convswap, "convert", "rest")
    return clock


def opened(bench: Path, name: str, images: int | None) -> tuple[torch.nn.Module, list]:
    if name in SUBJECTS:
        return open_subject(bench, name), batches(bench, SUBJECTS[name], "calibration", images)
    model = convswap.open_model(name, random_weights=True)
    source = convswap.open_images(str(bench / PHOTOGRAPHS), convswap.record_of(model).preprocess)
    return model, list(source.batches(32, count=images or 64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="+", help=f"{', '.join(SUBJECTS)}, or timm:NAME")
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--images", type=int, help="default: the subject's own, or 64")
    parser.add_argument("--bench", type=Path, default=Path(__file__).parents[3] / "shared/bench")
    args = parser.parse_args()
    torch.set_num_threads(1)  # with more, layers are fitted side by side: their seconds would mix
    clock = watched()
    for name in args.networks:
        model, calibration = opened(args.bench, name, args.images)
        plan = convswap.plan(model, calibration, convswap.Budget(macs=args.macs))
        planning = clock.lap()
        small = convswap.convert(model, plan, calibration)
        converting = clock.lap()
        measured = convswap.record_of(small).plans[-1].damage_measured
        row = {
            "network": name,
            "macs": args.macs,
            "images": sum(len(batch[0]) for batch in calibration),
            "plan_s": round(sum(planning.values()), 1),
            "convert_s": round(sum(converting.values()), 1),
            "plan": planning,
            "convert": converting,
            "damage_predicted": round(sum(choice.damage for choice in plan.choices), 5),
            "damage_measured": round(measured, 5),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
