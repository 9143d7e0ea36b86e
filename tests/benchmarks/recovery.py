"""What distillation recovers: one JSON line per start, number of passes and seed.

    python tests/benchmarks/recovery.py resnet20 --macs 0.5 0.3 0.2 0.1 --epochs 2
    python tests/benchmarks/recovery.py resnet20 --macs 0.2 --epochs 16 --images 1000
    python tests/benchmarks/recovery.py resnet20 --macs 0.2 --epochs 1 2 4 \
        --start weight corrected --picture starts.png
    python tests/benchmarks/recovery.py srvgg --macs 0.3 --epochs 0.5
    python tests/benchmarks/recovery.py face --macs 0.5 --epochs 32

Starts are `convert`'s. Real weights and images are read from a folder beside the repository
(`--bench`), as for accuracy.py; none of the test images is used otherwise: of the face network's
300 photographs 200 calibrate, train and judge, the other 100 test.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import torch
from accuracy import SUBJECTS, batches, open_subject
from matplotlib.figure import Figure
from torch import nn

import convswap
from convswap.inputs.images import training_batches
from convswap.inputs.split import shuffled

PHOTOGRAPHS, JUDGES = 200, 24  # to know of, and of those to judge by


def many_images(bench: Path, subject: dict, count: int | None) -> tuple:
    """Batches to calibrate and to test on, and a function of a seed that gives those to train on
    and to judge by."""
    source = str(bench / subject["calibration"][0])

    def training_of(seed: int) -> tuple:
        training, judges = training_batches(source, subject["preprocess"], 64, seed=seed)
        every = len(training.order) // count if count else 1
        training.order = training.order[::every][:count]
        return training, judges

    return batches(bench, subject, "calibration"), batches(bench, subject, "test"), training_of


def few_photographs(bench: Path, subject: dict) -> tuple:
    """The same, where few images have to do."""
    source = str(bench / subject["calibration"][0])
    known, cropped = (
        convswap.open_images(source, subject["preprocess"], train=train) for train in (False, True)
    )
    order = shuffled(len(known), 0)
    own, others = order[:PHOTOGRAPHS], order[PHOTOGRAPHS:]

    def training_of(seed: int) -> tuple:
        training = cropped.batches(16, only=own[JUDGES:], shuffle=True, seed=seed)
        return training, known.batches(JUDGES, only=own[:JUDGES])

    return list(known.batches(32, only=own)), list(known.batches(32, only=others)), training_of


def draw(rows: Sequence[Mapping], path: Path) -> None:
    """Accuracy, or what there is, after so many passes: a line for each start."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    score = next(iter(rows[0]["after"]))
    for start in dict.fromkeys(row["start"] for row in rows):
        some = [row for row in rows if row["start"] == start]
        passes = [0, *(row["epochs"] for row in some)]
        scores = [some[0]["before"][score], *(row["after"][score] for row in some)]
        axes.plot(passes, scores, "o-", label=f"--fit {start}")
    axes.set_xlabel(f"passes over {rows[0]['images']} images")
    axes.set_ylabel({"top1": "top-1 %", "psnr": "dB", "r2": "R2"}[score])
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--macs", nargs="+", type=float, default=[0.2])
    parser.add_argument("--epochs", nargs="+", type=float, default=[2])
    parser.add_argument("--images", type=int, help="to train on; default: all")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--start", nargs="+", choices=["weight", "moments", "corrected"], default=["corrected"],
        help="the fit",
    )  # fmt: skip
    parser.add_argument("--picture", type=Path, help="draw what came after how many passes")
    parser.add_argument("--lr", type=float, help="default: as `distill` chooses")
    parser.add_argument("--bench", type=Path, default=Path(__file__).parents[3] / "shared/bench")
    args = parser.parse_args()
    subject = SUBJECTS[args.subject]
    dense = open_subject(args.bench, args.subject)
    if args.subject == "face":
        calibration, test, training_of = few_photographs(args.bench, subject)
    else:
        calibration, test, training_of = many_images(args.bench, subject, args.images)
    kind = "logits" if args.subject == "resnet20" else "values"

    def quality(network: nn.Module) -> dict[str, float]:
        found = convswap.fidelity(network, dense, test, kind)
        found |= {"top1": convswap.accuracy(network, test)["top1"]} if kind == "logits" else {}
        return {key: round(found[key], 4) for key in ("top1", "kl", "psnr", "r2") if key in found}

    rows = []
    for macs, fit in product(args.macs, args.start):
        plan = convswap.plan(dense, calibration, convswap.Budget(macs=macs))
        fitted = plan.model_copy(update={"fit": fit})
        start = convswap.convert(dense, fitted, calibration)
        before = quality(start)
        for epochs, seed in product(args.epochs, range(args.seeds)):
            training, judges = training_of(seed)
            began = time.process_time()
            small = convswap.distill(
                start, dense, training, epochs, lr=args.lr, judges=judges, seed=seed
            )
            row = {"subject": args.subject, "macs": macs, "start": fit}
            row |= {"images": len(training.order)}
            row |= {"epochs": epochs, "seed": seed, "before": before, "after": quality(small)}
            row |= {"processor_s": round(time.process_time() - began)}
            rows.append(row | {"threads": torch.get_num_threads()})
            print(json.dumps(rows[-1]), flush=True)
    if args.picture:
        draw(rows, args.picture)


if __name__ == "__main__":
    main()
