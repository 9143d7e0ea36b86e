"""Predicted damage beside the divergence really measured, candidate by candidate.

    python tests/benchmarks/damage.py resnet20 --candidates 72

Each candidate is put into the network alone (`--fit moments`), and the KL divergence to the
original (nats; relative squared error for networks of values) is measured on 16 batches of test
images. One JSON line per candidate, and one with Spearman's rank correlation. Images as in
accuracy.py.
"""

import argparse
import json
import random
from pathlib import Path

from accuracy import SUBJECTS, batches, open_subject
from scipy.stats import spearmanr

import convswap
from convswap.plans import Choice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--candidates", type=int, default=72)
    parser.add_argument("--bench", type=Path, default=Path(__file__).parents[3] / "shared/bench")
    args = parser.parse_args()
    dense = open_subject(args.bench, args.subject)
    calibration = batches(args.bench, SUBJECTS[args.subject], "calibration")
    test = batches(args.bench, SUBJECTS[args.subject], "test")[:16]
    kind = "logits" if args.subject == "resnet20" else "values"
    survey = convswap.survey(dense, calibration, fit="moments")
    everything = [c for options in survey.options.values() for c in options]
    whole = survey.plan(convswap.Budget(macs=1.0))
    predicted, measured = [], []
    for candidate in random.Random(0).sample(everything, min(args.candidates, len(everything))):
        choice = Choice(site=candidate.site, form=candidate.form, rank=candidate.rank)
        plan = whole.model_copy(update={"choices": (choice,)})
        small = convswap.convert(dense, plan, calibration[:4])
        found = convswap.fidelity(small, dense, test, kind)
        predicted.append(candidate.damage)
        measured.append(found["kl"] if kind == "logits" else 1 - found["r2"])
        row = choice.model_dump(include={"site", "form", "rank"})
        row |= {"predicted": predicted[-1], "measured": measured[-1]}
        print(json.dumps(row), flush=True)
    correlation = spearmanr(predicted, measured).statistic
    print(json.dumps({"candidates": len(predicted), "rank_correlation": round(correlation, 4)}))


if __name__ == "__main__":
    main()
