"""Whether networks get as fast as asked: one JSON line per network and target.

    python tests/benchmarks/latency.py resnet18 resnet50 vgg16_bn hrnet_w18 --latency 0.5
    python tests/benchmarks/latency.py twenty --latency 0.8

Weights are random and the damage of a candidate is a stand-in, for only times matter here: it
grows with the share of multiply-adds taken away, and less so for the forms that keep more.
The networks are measured once more when all is chosen. `saved_time_per_saved_mac` is the
part of the time saved over the part of the multiply-adds saved; `table_s` what timing the
layers took (0 from the cache).
"""

import argparse
import json
import time
from collections import Counter

import torch

import convswap
from convswap.network.replace import blank
from convswap.planning.by_time import meet_latency
from convswap.planning.candidates import Candidate, costs_of

TWENTY = (
    "resnet34 resnet26d vgg11_bn densenet121 mobilenetv2_100 efficientnet_lite0 regnetx_008 "
    "regnety_008 dla34 repvgg_a0 res2net50_14w_8s seresnet33ts cspdarknet53 selecsls42 mnasnet_100 "
    "wide_resnet50_2 xception41 inception_v3 convnext_atto hardcorenas_a"
).split()
STAND_IN = {
    "bottleneck": 1.0, "blueprint": 1.2, "separable": 1.3, "tucker": 1.5, "spatial": 1.6,
    "channel": 2.0,
}  # fmt: skip


def rough_survey(
    model: torch.nn.Module, size: tuple[int, int, int], fold_norms: bool
) -> convswap.Survey:
    def damage(form: str, kept: float, macs: int) -> float:
        return STAND_IN[form] * macs**0.5 * (1 - min(kept, 1.0)) ** 3 / kept

    seen = convswap.observe(model, size).limited(convswap.Layers(fold_norms=fold_norms))
    options = {
        site.path: [
            Candidate(
                site.path, *way, cost, damage(way[0], cost.macs / site.cost.macs, site.cost.macs)
            )
            for way, cost in costs_of(site, bias=True).items()
        ]
        for site in seen.replaceable
    }
    return convswap.Survey(model, seen, options, "weight", 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", help="timm models, or `twenty` of them")
    parser.add_argument("--latency", type=float, default=0.5)
    parser.add_argument("--targets", nargs="+", default=["onnxruntime", "eager"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fold-norms", action="store_true", help="batch norms, into layers")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help="to measure each network")
    args = parser.parse_args()
    for name in TWENTY if args.names == ["twenty"] else args.names:
        model = convswap.open_model(f"timm:{name}", random_weights=True).eval()
        size = convswap.record_of(model).preprocess.input_size
        survey = rough_survey(model, size, args.fold_norms)
        for target_name in args.targets:
            target = convswap.open_target(target_name, threads=args.threads)
            row = {"network": name, "target": target_name, "asked": args.latency}
            row |= {"fold_norms": args.fold_norms}
            marks: dict[str, float] = {}

            def mark(what: str, done: int, total: int, marks: dict[str, float] = marks) -> None:
                marks[what] = time.perf_counter()

            start = time.perf_counter()
            try:
                plan = meet_latency(
                    survey, convswap.Budget(latency=args.latency), target, batch=args.batch,
                    progress=mark,
                )  # fmt: skip
            except convswap.ConvswapError as error:
                print(json.dumps(row | {"refused": str(error)}), flush=True)
                continue
            networks = {"dense": model, "small": blank(model, plan, survey.seen.norms)}
            times = convswap.measure(
                networks, size, batch=args.batch, seconds=args.seconds, target=target
            )
            ratio = times["small"].ms / times["dense"].ms
            kept = plan.planned.macs / plan.dense.macs
            row |= {
                "latency_ratio": round(ratio, 4),
                "predicted_ratio": round(plan.latency.ms_predicted / plan.latency.ms_dense, 4),
                "ms_dense": round(times["dense"].ms, 3),
                "ms": round(times["small"].ms, 3),
                "macs_kept": round(kept, 4),
                "saved_time_per_saved_mac": round((1 - ratio) / (1 - kept), 3),
                "converted": len(plan.choices),
                "of": len(survey.sites),
                "forms": dict(Counter(choice.form for choice in plan.choices)),
                "table_s": round(marks.get("latency", start) - start, 1),
                "total_s": round(time.perf_counter() - start, 1),
                "threads": args.threads,
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
