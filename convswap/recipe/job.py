"""The whole job of a recipe: plan, convert, distil, measure; the story of convswap in one page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from torch import nn

from ..artifact import read_description, save
from ..errors import ArtifactError
from ..inputs.calibration import calibration_batches
from ..inputs.images import training_batches
from ..inputs.preprocess import settle_preprocess
from ..inputs.synthetic import real_or_made_up
from ..network.cost import count
from ..network.observe import observe
from ..planning import plan
from ..plans import Plan
from ..recovery.distill import distill
from ..recovery.judging import History, Judgement, write_history
from ..results.classes import number_classes_
from ..results.differences import differing
from ..results.evaluation import open_judges, quality_beside
from ..results.folders import report_on_folder
from ..results.report import write_report
from ..runtimes import device_for, open_target
from ..support.files import new_file, new_folder, user_cache
from ..support.progress import Note, Progress, once, silent, unheard
from ..surgery.convert import convert
from ..timing import measure
from ..timing.turns import BUSY
from .mark import MARK, digest_of, unfinished
from .recipe import Recipe


def run(
    recipe: Recipe,
    dense: nn.Module,
    folder: Path,
    *,
    command: str = "",
    cache: Path | None = None,
    progress: Progress = silent,
    note: Note = unheard,
    heard: Sequence[Callable[[Judgement], None]] = (),
) -> dict[str, dict[str, float]]:
    """Do what a recipe says to a network, and measure every stage.

    Writes `plan.json`, the artifacts `converted` and `recovered`, `report.json` with the figures,
    and the page `report.html`.

    Args:
        dense: the network, opened.
        folder: written to; created if need be.
        command: what the person called, to be kept with the results.
        cache: as for `plan`.
        note: told what had to be assumed, and about images that were left out.
        heard: called with each judgement of the training.

    Returns:
        For `dense`, `converted` and (with a `distill` section) `recovered`: quality on the test
        images, MACs, parameters, bytes (of an integer target: of its file),
        milliseconds per image on the recipe's target and their spread.
    """
    sources, seed, note = recipe.data, recipe.seed, once(note)
    device = device_for(recipe.target.name, str(next(dense.parameters()).device))
    target = open_target(recipe.target.name, threads=recipe.target.threads, device=device)
    preprocess = settle_preprocess(
        dense, sources.calibration, input_size=sources.input_size, mean=sources.mean,
        std=sources.std, note=note,
    )  # fmt: skip
    made_up = partial(real_or_made_up, model=dense, preprocess=preprocess, seed=seed,
                      cache=user_cache("synthetic"), progress=progress, note=note)  # fmt: skip
    source = made_up(sources.calibration)
    batches = calibration_batches(
        dense, source, count=sources.images, batch_size=sources.batch_size,
        seed=seed, note=note,
    )  # fmt: skip
    test = open_judges(dense, sources.test or sources.calibration, note)
    if recipe.distill:
        settings = recipe.distill.model_dump()
        source = made_up(sources.train) if sources.train else source
        batch_size = settings.pop("batch_size")
        training, judges = training_batches(source, preprocess, batch_size, seed=seed, note=note)
        number_classes_(dense, judges.images, training.images)
    networks, goes_on = {"dense": dense}, unfinished(recipe, folder)
    if goes_on:  # times are never the same again: another plan would waste what was trained
        chosen = Plan.load(folder / "plan.json")
    else:
        chosen = plan(
            dense, batches, recipe.budget, fit=recipe.fit, output=recipe.output,
            layers=recipe.layers, target=target, batch=recipe.target.batch, seed=seed,
            cache=cache, progress=progress,
        )  # fmt: skip
    networks["converted"] = convert(dense, chosen, batches, progress=progress)
    checkpoint, history = folder / "checkpoint.pt", History(heard)
    before = _weights_in(folder) if goes_on else {}
    with new_folder(folder) as new:
        (new / MARK).write_text(digest_of(recipe), encoding="utf-8")
        chosen.save(new / "plan.json")
    made = {"command": command, "data": sources.model_dump(), "seed": seed,
            "target": target.fingerprint()}  # fmt: skip
    save(networks["converted"], folder / "converted", provenance=made, force=True)
    if _weights_in(folder) != before:
        checkpoint.unlink(missing_ok=True)  # of another network
    if recipe.distill:
        networks["recovered"] = distill(
            networks["converted"], dense, training, **settings, judges=judges,
            seed=seed, checkpoint=checkpoint, progress=progress, tell=note,
            judged=history,
        )  # fmt: skip
        made |= {"distilled": recipe.distill.model_dump(exclude_none=True)}
        save(networks["recovered"], folder / "recovered", provenance=made, force=True)
        write_history(history.rows, folder / "recovered")
    shown = {name: target.computed(network, batches) for name, network in networks.items()}
    quality = quality_beside(dense, test, chosen.output, progress)
    rows = {name: quality(network) for name, network in shown.items()}
    batch = recipe.target.batch
    times = measure(networks, preprocess.input_size, batch=batch, target=target, progress=progress)
    if (spread := max(time.spread for time in times.values())) > BUSY:
        note(f"the machine is busy: times of one network vary by {spread:.0%}, ms tell little")
    for name, network in networks.items():
        rows[name] |= vars(count(network, preprocess.input_size)) | {
            "ms": times[name].ms / batch,
            "spread": times[name].spread,
        }
        if shown[name] is not network:  # a file of the runtime's own
            rows[name]["bytes"] = shown[name].bytes
    with new_file(folder / "report.json") as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    cases = differing(dense, [*shown.values()][-1], test, chosen.output, progress)
    seen = observe(dense, preprocess.input_size)
    write_report(report_on_folder(folder, rows, seen, cases), folder / "report.html")
    checkpoint.unlink(missing_ok=True)  # now only: a run that is killed meanwhile trains once
    (folder / MARK).unlink()
    return rows


def _weights_in(folder: Path) -> dict[str, str]:
    """Digests of the weights of the converted network in a folder, if there is one."""
    try:
        return read_description(folder / "converted").tensors
    except ArtifactError:
        return {}
