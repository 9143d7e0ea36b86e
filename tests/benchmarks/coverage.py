"""Every network of timm: which of its layers can be replaced, and does what replaces them fit?

    OMP_NUM_THREADS=1 python tests/benchmarks/coverage.py --processes 2 --page docs/coverage.md
    OMP_NUM_THREADS=1 python tests/benchmarks/coverage.py 'resnet*'

Networks are built without weights, as far as they can be. Every layer that can be replaced is,
by each form in turn; the network has to run, and to execute the multiply-adds that were planned.
Every geometry of a layer that was met is then tried on a few channels: each form is to compute
what the layer does at full rank. Rows of the JSON file that did not fail are not run again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import signal
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import timm
import torch
from timm.layers import Conv2dSame
from torch import nn

from convswap.artifact.timm_config import ARCHITECTURE
from convswap.errors import ConvswapError
from convswap.forms import (
    FORMS,
    PLAIN,
    TRANSPOSED,
    Kernel,
    build,
    in_groups,
    ranks,
    unit_of,
    write_,
)
from convswap.forms.group_fits import GroupFits, joined
from convswap.forms.least_squares import working_dtype
from convswap.inputs.networks import declared_preprocess, open_structure
from convswap.network.copies import meta_copy
from convswap.network.observe import Observation, check_planned, observe
from convswap.network.price import price
from convswap.network.replace import install_
from convswap.network.sites import Site
from convswap.plans import Choice, Plan
from convswap.statistics.moments import weight_problems

SECONDS = 300  # for a network
CLOSE = {torch.float64: 1e-8, torch.float32: 1e-5}  # relative error at full rank
POPULAR = """
    resnet18 resnet50 resnet101 wide_resnet50_2 resnext50_32x4d seresnet50 resnest50d resnetv2_50
    vgg16_bn densenet121 inception_v3 xception41 dpn68 res2net50_26w_4s hrnet_w18 dla34
    regnety_032 nfnet_l0 efficientnet_b0 tf_efficientnetv2_s mobilenetv2_100
    mobilenetv3_large_100 mnasnet_100 ghostnet_100 repvgg_a2 convnext_tiny convnextv2_base
    vit_base_patch16_224 deit_small_patch16_224 swin_tiny_patch4_window7_224 mixer_b16_224
    maxvit_tiny_tf_224
""".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("only", nargs="*", help="patterns of timm's names")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("coverage.json"))
    parser.add_argument("--page", type=Path, help="write a table of what --out holds")
    args = parser.parse_args()
    found = json.loads(args.out.read_text()) if args.out.exists() else {}
    names = [name for name in timm.list_models(args.only or "*") if name != ARCHITECTURE]
    left = [name for name in names if "failed" in found.get(name, {"failed": "not yet run"})]
    with multiprocessing.get_context("fork").Pool(args.processes, maxtasksperchild=1) as pool:
        for at, (name, row) in enumerate(pool.imap_unordered(try_network, left, chunksize=1)):
            found[name] = row
            args.out.write_text(json.dumps(found, indent=1) + "\n")
            print(f"{at + 1}/{len(left)} {name}: {one_line(row)}", flush=True)
    rows = {name: found[name] for name in names}
    geometries = {geometry for row in rows.values() for geometry in row.get("geometries", ())}
    inexact = list(tried(geometries))
    if args.page:
        args.page.write_text(page(rows, len(geometries), inexact), encoding="utf-8")
    wrong = [f"{name}: {row['failed']}" for name, row in rows.items() if "failed" in row]
    print(f"{len(rows) - len(wrong)} of {len(rows)} networks, {len(geometries)} geometries; wrong:")
    print("\n".join(wrong + inexact) or "nothing")


def one_line(row: dict) -> str:
    if "failed" in row:
        return f"FAILED {row['failed']}"
    return f"{row['replaceable']} of {row['layers']} layers, {row['share']:.1%}, {row['seconds']} s"


# a network


def try_network(name: str) -> tuple[str, dict]:
    """What was found of a network, or how it failed."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(SECONDS)
    start = time.process_time()
    try:
        row = structure(name)
    except Exception as error:
        kind = "" if isinstance(error, ConvswapError) else f"{type(error).__name__}: "
        row = {"failed": f"{kind}{error}".splitlines()[0][:300]}
    row["family"] = timm.models.model_entrypoint(name).__module__.rpartition(".")[2]
    row["seconds"] = round(time.process_time() - start, 1)
    row["mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return name, row


def out_of_time(*args: object) -> None:
    raise TimeoutError(f"took over {SECONDS} s")


def structure(name: str) -> dict:
    model = open_structure(f"timm:{name}")
    seen = observe(model, declared_preprocess(model).input_size)
    check_planned(install_(meta_copy(model), plan := each_in_turn(seen)), plan, seen)
    total = max(seen.dense.macs, 1)
    reasons = Counter()
    for site in seen.sites:
        if site.reason:
            reasons[site.reason] += site.cost.macs
    return {
        "layers": len(seen.sites),
        "replaceable": len(seen.replaceable),
        "dry": seen.dry,
        "macs": seen.dense.macs,
        "share": sum(site.cost.macs for site in seen.replaceable) / total,
        "reasons": {why: macs / total for why, macs in reasons.most_common() if macs},
        "geometries": sorted({geometry(site) for site in seen.replaceable}),
    }


def each_in_turn(seen: Observation) -> Plan:
    """A small rank at every layer that can be replaced, its form one after another."""
    choices = []
    for at, site in enumerate(seen.replaceable):
        form = site.forms[at % len(site.forms)]
        rank = ranks(form, site.unit, 8)[0]
        choices.append(Choice(site=site.path, form=form, rank=rank))
    rough = Plan(
        inputs=seen.example.inputs, fit="weight", dense=seen.dense, planned=seen.dense,
        choices=choices,
    )  # fmt: skip
    return price(rough, seen)


# geometries


def geometry(site: Site) -> str:
    """All that a layer's replacement depends on but channels and values."""
    if not site.kernel[2:]:
        return json.dumps({"kind": "Linear"})
    padding = site.padding if site.pads in (None, "same") else site.pads
    kind = "Conv2dSame" if site.pads == "same" or site.kind.endswith("Same") else "plain"
    return json.dumps({
        "kind": "transposed" if site.transposed else kind, "size": site.kernel[2:],
        "stride": site.stride, "padding": padding,
        "mode": site.padding_mode, "dilation": site.dilation, "groups": min(site.groups, 2),
        "output_padding": site.output_padding if site.transposed else None,
    })  # fmt: skip


def tried(geometries: set[str]) -> Iterator[str]:
    """Where a form is not exact at full rank, one line each."""
    for text in sorted(geometries):
        torch.manual_seed(0)
        layer, x = small_layer(json.loads(text))
        for form in FORMS:
            if form != "blueprint" and FORMS[form].applies(unit_of(layer)):
                error = error_at_full_rank(layer, x, form)
                if not error < CLOSE[working_dtype(unit_of(layer).patch)]:
                    yield f"{form} is off by {error:.1g} at full rank: {text}"


def small_layer(known: dict) -> tuple[nn.Module, torch.Tensor]:
    """A layer of a geometry, with few channels, and inputs for it."""
    if known["kind"] == "Linear":
        return nn.Linear(6, 5).double().requires_grad_(False), torch.randn(2, 7, 6).double()
    size, groups = known["size"], known["groups"]
    settings = {
        "kernel_size": tuple(size), "stride": tuple(known["stride"]), "groups": groups,
        "dilation": tuple(known["dilation"]),
        "padding": p if isinstance(p := known["padding"], str) else tuple(p),
    }  # fmt: skip
    if known["kind"] == "transposed":
        kind, settings["output_padding"] = TRANSPOSED[len(size)], tuple(known["output_padding"])
    elif known["kind"] == "Conv2dSame":
        kind = Conv2dSame
    else:
        kind, settings["padding_mode"] = PLAIN[len(size)], known["mode"]
    layer = kind(2 * groups, 3 * groups, **settings).double().requires_grad_(False)
    reach = [d * (k - 1) + 1 for d, k in zip(settings["dilation"], size, strict=True)]
    lengths = [far + 2 * stride for far, stride in zip(reach, settings["stride"], strict=True)]
    return layer, torch.randn(1, 2 * groups, *lengths).double()


def error_at_full_rank(layer: nn.Module, x: torch.Tensor, form: str) -> float:
    kernel: Kernel = unit_of(layer)
    rank, groups = FORMS[form].full_rank(kernel), getattr(layer, "groups", 1)
    row = build(in_groups(FORMS[form].layers(kernel, rank), groups), layer, True)
    write_(row, joined(GroupFits(weight_problems(layer), kernel).fit(form, rank, 0)), layer.bias)
    wanted = layer(x)
    return ((row(x) - wanted).norm() / wanted.norm()).item()


# the page


def page(rows: dict[str, dict], geometries: int, inexact: list[str]) -> str:
    """What was found, as Markdown."""
    fine = {name: row for name, row in rows.items() if "failed" not in row}
    families = defaultdict(list)
    for row in fine.values():
        families[row["family"]].append(row)
    lines = [
        "# Every network of timm",
        "",
        f"{date.today()}, timm {timm.__version__}, "
        f"PyTorch {torch.__version__.partition('+')[0]}, by",
        "",
        "    OMP_NUM_THREADS=1 python tests/benchmarks/coverage.py --processes 2 "
        "--page docs/coverage.md",
        "",
        f"{len(fine)} of {len(rows)} networks run with every layer that can be replaced replaced, "
        "and execute what was planned.",
        f"{geometries} geometries of layers (sizes, strides, padding, dilation, groups) were met; "
        f"on {geometries - len({line.partition(': ')[2] for line in inexact})} every form that has "
        "a full rank is exact there.",
        f"To look at one takes {max(row['seconds'] for row in fine.values()):.0f} s of processor "
        f"time at most, {sorted(row['seconds'] for row in fine.values())[len(fine) // 2]} s in the "
        "middle.",
        "",
        "Shares are of multiply-adds; depthwise layers count as what cannot be replaced.",
        "",
        "| popular networks | layers | replaceable | share | most of the rest |",
        "|---|---:|---:|---:|---|",
    ]
    popular = [name for name in POPULAR if name in fine]
    for name in popular:
        row = fine[name]
        lines.append(
            f"| {name} | {row['layers']} | {row['replaceable']} | {row['share']:.1%} "
            f"| {most(row['reasons'])} |"
        )
    if popular:
        mean = sum(fine[name]["share"] for name in popular) / len(popular)
        lines.append(f"| mean of {len(popular)} | | | {mean:.1%} | |")
    lines += [
        "",
        "| family (timm's module) | networks | share, least - most | most of the rest |",
        "|---|---:|---:|---|",
    ]
    for family, members in sorted(families.items()):
        shares, reasons = [row["share"] for row in members], Counter()
        for row in members:
            reasons.update({why: part / len(members) for why, part in row["reasons"].items()})
        low, high = f"{min(shares):.0%}", f"{max(shares):.0%}"
        span = low if low == high else f"{low} - {high}"
        lines.append(f"| {family} | {len(members)} | {span} | {most(reasons)} |")
    failed = [f"- `{name}`: {row['failed']}" for name, row in rows.items() if "failed" in row]
    if failed or inexact:
        lines += ["", "## What failed", "", *failed, *(f"- {line}" for line in inexact)]
    return "\n".join(lines) + "\n"


def most(reasons: dict[str, float]) -> str:
    """The reason that most multiply-adds are left alone for, if that is a hundredth of all."""
    why, part = max(reasons.items(), key=lambda pair: pair[1], default=("", 0.0))
    return f"{part:.0%} {why}" if part >= 0.01 else ""


if __name__ == "__main__":
    main()
