"""Time of converted networks beside the dense ones, on any target: one JSON line per result.

    python tests/benchmarks/speed.py resnet18 vgg11_bn --macs 0.5

Random weights serve for timing; the plan is made from them alone (`--fit weight`). Networks take
turns in one process, in their faster memory layout; figures are ratios of medians.
"""

import argparse
import json

import torch

import convswap
from convswap.targets import TARGETS, open_target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", help="timm models")
    parser.add_argument("--macs", nargs="+", type=float, default=[0.5])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=8.0, help="per network")
    parser.add_argument("--target", choices=TARGETS, default="eager")
    args = parser.parse_args()
    target = open_target(args.target)
    for name in args.names:
        dense = convswap.open_model(f"timm:{name}", random_weights=True)
        size = convswap.record_of(dense).preprocess.input_size
        for macs in args.macs:
            plan = convswap.plan(
                dense, budget=convswap.Budget(macs=macs), fit="weight", input_size=size
            )
            small = convswap.convert(dense, plan)
            networks = {"dense": dense, "small": small}
            dense_time, time = convswap.measure(
                networks, size, batch=args.batch, seconds=args.seconds, target=target
            ).values()
            forms = [choice.form for choice in plan.choices]
            row = {
                "network": name,
                "batch": args.batch,
                "threads": target.threads,
                "macs_kept": round(plan.planned.macs / plan.dense.macs, 4),
                "target": target.name,
                "ms_dense": round(dense_time.ms, 2),
                "ms": round(time.ms, 2),
                "latency_ratio": round(time.ms / dense_time.ms, 3),
                "forms": {form: forms.count(form) for form in sorted(set(forms))},
                "torch": torch.__version__,
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
