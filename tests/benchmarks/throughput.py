"""Images per second of recovery, teacher included, beside plain training of the same student.

    python tests/benchmarks/throughput.py r18-half timm:resnet18 --batch 32

Plain training is what timm's script does in a step: forward, cross-entropy, backward, AdamW, in
train mode, no teacher. Random images in memory; the two take turns, and the ratio is that of
medians.
"""

import argparse
import copy
import json
import statistics
import time

import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2

import convswap

STEPS, TURNS = 8, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", help="a folder written by convert")
    parser.add_argument("model", help="what it was made from")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.manual_seed(0)
    dense = convswap.open_model(args.model, random_weights=True).to(args.device)
    student = convswap.load(args.artifact, model=copy.deepcopy(dense)).to(args.device)
    size = convswap.record_of(student).preprocess.input_size
    images = [*torch.randn(STEPS, args.batch, *size, device=args.device)]
    rates: dict[str, list[float]] = {"distil": [], "train": []}
    for _ in range(TURNS):
        history = []
        convswap.distill(
            student, dense, images, 1, lr=1e-5, judges=images[:1], judged=history.extend
        )
        rates["distil"].append(statistics.median(row.images_per_second for row in history[-STEPS:]))
        rates["train"].append(trained(student, images))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    row = {"model": args.model, "size": size, "batch": args.batch}
    row |= {f"{name}, images per second": round(rate, 1) for name, rate in medians.items()}
    print(json.dumps(row | {"ratio": round(medians["distil"] / medians["train"], 2)}))


def trained(student: torch.nn.Module, images: list[torch.Tensor]) -> float:
    """Images per second of plain training."""
    student = copy.deepcopy(student).train()
    optimizer = create_optimizer_v2(student, "adamw", lr=1e-5)
    began = time.perf_counter()
    for batch in images:
        scores = student(batch)
        loss = F.cross_entropy(scores, torch.zeros(len(batch), dtype=torch.long).to(batch.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    loss.item()  # waits for the device
    return sum(map(len, images)) / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
