"""Quality kept without training, per budget and kind of fit: one JSON line per result.

    python tests/benchmarks/accuracy.py resnet20 --macs 0.5 0.4 0.3 0.2
    python tests/benchmarks/accuracy.py face --macs 0.7 0.5
    python tests/benchmarks/accuracy.py srvgg --macs 0.5 0.3 --images 200
    python tests/benchmarks/accuracy.py resnet20 --macs 0.5 0.3 --fit corrected --synthetic

Real weights and images are read from a folder beside the repository (`--bench`), laid out as
the subjects below say. Takes about a minute per result on two cores.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import convswap
from convswap.inputs.synthetic import real_or_made_up
from convswap.record import Preprocess, remember
from convswap.runtimes.int8 import export_int8

SUBJECTS = {
    "resnet20": {
        "model": "cifar_resnet.py:resnet20",
        "weights": "resnet20.safetensors",
        "preprocess": Preprocess(input_size=(3, 32, 32)),
        "calibration": ("cifar10-jpeg/train.tar", 1000),
        "test": ("cifar10-jpeg/val.tar", None),
    },
    "srvgg": {
        "model": "srvgg/model.py:build",
        "preprocess": Preprocess(input_size=(3, 32, 32), mean=(0,) * 3, std=(1,) * 3),
        "calibration": ("cifar10-jpeg/train.tar", 1000),
        "test": ("cifar10-jpeg/val.tar", 200),
    },
    "face": {
        "model": "face_resnet/model.py:build",
        "preprocess": Preprocess(
            input_size=(3, 150, 150), mean=(0.4815, 0.4588, 0.4090), std=(1,) * 3
        ),
        "calibration": ("photos.tar", 128),
        "test": ("photos.tar", "the others"),
    },
}


def open_subject(bench: Path, name: str) -> nn.Module:
    subject = SUBJECTS[name]
    weights = bench / subject["weights"] if "weights" in subject else None
    model = convswap.open_model(str(bench / subject["model"]), weights=weights)
    return remember(model, preprocess=subject["preprocess"])


def batches(bench: Path, subject: dict, part: str, images: int | None = None) -> list:
    name, count = subject[part]
    count = images or count
    source = convswap.open_images(str(bench / name), subject["preprocess"])
    if count == "the others":  # one source: what calibration did not draw
        everything = source.batches(32)
        everything.order = sorted(
            set(range(len(source))) - set(source.batches(32, count=128).order)
        )
        return list(everything)
    return list(source.batches(64, count=count))


def synthetic(dense: nn.Module, subject: dict) -> list:
    """Images made up for a network, to calibrate with."""
    with tempfile.TemporaryDirectory() as folder:
        preprocess = subject["preprocess"]
        source = real_or_made_up("synthetic", dense, preprocess, Path(folder))
        return list(convswap.open_images(source, preprocess).batches(64))


def in_integers(small: nn.Module, calibration: list, test: list, kind: str) -> dict:
    """Figures of a network in 8-bit integers, beside itself in float32."""
    with tempfile.TemporaryDirectory() as folder:
        quantised, _ = export_int8(small, calibration, Path(folder) / "net.onnx")
    figures = convswap.fidelity(quantised, small, test, kind)
    if kind == "logits":
        figures["top1"] = convswap.accuracy(quantised, test)["top1"]
    return {key: round(value, 4) for key, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subjects", nargs="+", choices=SUBJECTS)
    parser.add_argument("--macs", nargs="+", type=float, default=[0.5])
    parser.add_argument("--fit", nargs="+", default=["weight", "moments", "corrected"])
    parser.add_argument("--images", type=int, help="to calibrate with; default: the subject's own")
    parser.add_argument("--synthetic", action="store_true", help="calibrate with made-up images")
    parser.add_argument("--int8", action="store_true", help="also in 8-bit integers")
    parser.add_argument("--bench", type=Path, default=Path(__file__).parents[3] / "shared/bench")
    args = parser.parse_args()
    for name in args.subjects:
        subject = SUBJECTS[name]
        dense = open_subject(args.bench, name)
        if args.synthetic:
            calibration = synthetic(dense, subject)
        else:
            calibration = batches(args.bench, subject, "calibration", args.images)
        test = batches(args.bench, subject, "test")
        kind = "logits" if name == "resnet20" else "values"
        before = convswap.accuracy(dense, test)["top1"] if kind == "logits" else None
        for macs in args.macs:
            for fit in args.fit:
                start = time.perf_counter()
                plan = convswap.plan(dense, calibration, convswap.Budget(macs=macs), fit=fit)
                planned = time.perf_counter()
                small = convswap.convert(dense, plan, calibration)
                done = time.perf_counter()
                counted = convswap.count(small, plan.input_size)
                row = {"subject": name, "macs": macs, "fit": fit}
                row |= convswap.fidelity(small, dense, test, kind)
                if kind == "logits":
                    row["top1"] = convswap.accuracy(small, test)["top1"]
                    row["points_lost"] = before - row["top1"]
                if args.int8:
                    row["int8"] = in_integers(small, calibration[:8], test, kind)
                row |= {
                    "macs_kept": counted.macs / plan.dense.macs,
                    "planned_equals_counted": counted == plan.planned,
                    "plan_s": planned - start,
                    "convert_s": done - planned,
                    "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
                    "threads": torch.get_num_threads(),
                    "torch": torch.__version__,
                }
                row = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
