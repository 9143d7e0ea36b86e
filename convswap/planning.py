"""What to choose: a budget, and the plan that meets it, as plain data."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from .candidates import find_candidates, replacement_cost, weight_candidates
from .cost import Cost, count
from .errors import ConversionError, ModelError, PlanError
from .files import new_file
from .forms import Kernel, check_rank
from .graph import first_tensor
from .knapsack import solve
from .outputs import Kind, output_kind
from .progress import Progress, silent
from .sites import Site, find_sites

Fit = Literal["weight", "moments", "corrected"]
Fraction = Annotated[float, Field(gt=0, le=1)]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Budget(_Data):
    """Upper bounds, each the fraction kept of the dense network's total.

    Example: `Budget(macs=0.5)` keeps at most half of the multiply-adds.
    """

    macs: Fraction | None = None
    params: Fraction | None = None
    bytes: Fraction | None = None

    def bounds(self, dense: Cost) -> dict[str, float]:
        """The bounds that are set, as totals of a network that costs `dense` before."""
        shares = self.model_dump(exclude_none=True)
        return {name: share * getattr(dense, name) for name, share in shares.items()}


class Totals(_Data):
    """Whole-network cost for one image; see `convswap.cost.Cost`."""

    macs: int
    params: int
    bytes: int


class Choice(_Data):
    """What becomes of one site.

    Attributes:
        site: module path.
        form, rank: the replacement.
        macs, params: of the replacement.
        macs_dense: of the convolution it replaces.
        damage: predicted harm to the output, in nats (classifiers) or relative squared error.
    """

    site: str
    form: str
    rank: int | tuple[int, int]
    macs: int = 0
    params: int = 0
    macs_dense: int = 0
    damage: float = 0.0


class Plan(_Data):
    """One choice per converted site; every other layer stays. Readable, editable JSON.

    To edit by hand change `form` and `rank`, or delete a choice to keep its layer; the other
    figures are recomputed when the plan is used.

    Attributes:
        input_size: `(channels, height, width)` the costs are counted at.
        fit: how weights are fitted: to the dense weights alone, to the activations of the
            dense network, or in sequence, correcting for what was converted before.
    """

    version: Literal[1] = 1
    input_size: tuple[int, int, int]
    fit: Fit = "corrected"
    seed: int = 0
    budget: Budget = Budget()
    dense: Totals
    planned: Totals
    damage: float = 0.0
    choices: tuple[Choice, ...]

    def priced(self, model: nn.Module, input_size: tuple[int, int, int]) -> Plan:
        """The same choices, with all costs counted on a network at an input size.

        Raises:
            PlanError: a choice names no replaceable site, or a site twice.
            RankError: a form or rank does not fit its site.
        """
        known = {site.path: site for site in find_sites(model, input_size)[0]}
        dense = count(model, input_size)
        names = [choice.site for choice in self.choices]
        if unknown := [name for name in names if name not in known or known[name].reason]:
            raise PlanError(
                f"the plan names layers that cannot be replaced here: {', '.join(unknown[:5])}",
                do="see `convswap inspect` for those that can",
            )
        if len(set(names)) < len(names):
            raise PlanError("the plan names a layer twice")
        choices, planned = [], dense
        for choice in self.choices:
            site = known[choice.site]
            check_rank(choice.form, Kernel(*site.kernel), choice.rank)
            cost = replacement_cost(site, choice.form, choice.rank, self.fit != "weight")
            planned = planned - site.cost + cost
            priced = {"macs": cost.macs, "params": cost.params, "macs_dense": site.cost.macs}
            choices.append(choice.model_copy(update=priced))
        return self.model_copy(update={
            "choices": tuple(choices),
            "input_size": input_size,
            "dense": Totals(**vars(dense)),
            "planned": Totals(**vars(planned)),
            "damage": sum(choice.damage for choice in choices),
        })  # fmt: skip

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan file.

        Raises:
            PlanError: it is missing, not JSON, or not a plan; all problems in one message.
        """
        try:
            return cls.model_validate_json(Path(path).read_text())
        except OSError as error:
            raise PlanError(f"cannot read plan {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise PlanError(f"cannot read plan {path}: it is not a text file") from None
        except ValidationError as error:
            raise PlanError(f"not a valid plan: {problems(error)}", where=str(path)) from None

    def save(self, path: str | Path) -> None:
        """Write the plan as indented JSON."""
        with new_file(path) as temporary:
            temporary.write_text(json.dumps(self.model_dump(mode="json"), indent=1) + "\n")


def problems(error: ValidationError) -> str:
    """All validation problems in one line."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'document'}: {e['msg'].lower()}" for e in error.errors()
    )


def plan(
    model: nn.Module,
    batches: Iterable[Tensor | tuple] = (),
    budget: Budget | None = None,
    *,
    fit: Fit = "corrected",
    input_size: tuple[int, int, int] | None = None,
    output: Kind | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Plan:
    """Choose a form and rank per convolution so that the network meets a budget.

    Args:
        model: any network; it is put into eval mode and otherwise not changed.
        batches: calibration inputs `[n, channels, height, width]`, or tuples whose first is
            one. Labels are not needed. May be empty for `fit="weight"`.
        budget: `Budget(macs=0.5)` and the like.
        input_size: `(channels, height, width)`, needed only without batches.
        output: `logits` (judge by KL divergence) or `values` (by relative squared error);
            found out from the network where not given.

    Raises:
        ConversionError: no convolution can be replaced; the reasons are in the message.
        BudgetError: the budget cannot be met; the message says the least reachable.
    """
    if budget is None or not budget.model_dump(exclude_none=True):
        raise PlanError("no budget given", do="say Budget(macs=0.5) or another fraction to keep")
    batches = list(batches)
    images = [first_tensor(batch) for batch in batches]
    if not images and fit != "weight":
        raise PlanError(f"fit {fit!r} needs images", do='give batches, or say fit="weight"')
    if not images and input_size is None:
        raise PlanError("without images a plan needs an input_size", do="say (3, 224, 224) or so")
    input_size = input_size or tuple(images[0].shape[1:])
    model.eval()
    check_finite(model)
    sites = replaceable_sites(model, input_size)
    if fit == "weight":
        options = weight_candidates(model, sites, progress)
    else:
        kind = output or output_kind(model, batches[0])
        options = find_candidates(model, sites, images, kind, seed, progress)
    dense = count(model, input_size)
    chosen = solve(
        [options[site.path] for site in sites],
        [site.cost for site in sites],
        dense,
        budget.bounds(dense),
    )
    return Plan(
        input_size=input_size,
        fit=fit,
        seed=seed,
        budget=budget,
        dense=Totals(**vars(dense)),
        planned=Totals(**vars(dense)),
        choices=tuple(
            Choice(site=c.site, form=c.form, rank=c.rank, damage=c.damage) for c in chosen if c
        ),
    ).priced(model, input_size)


def replaceable_sites(model: nn.Module, input_size: tuple[int, int, int]) -> list[Site]:
    """The sites that can be replaced.

    Raises:
        ConversionError: there are none; the message gives every reason.
    """
    sites, _ = find_sites(model, input_size)
    found = [site for site in sites if not site.reason]
    if not found:
        reasons = [f"{site.path}: {site.reason}" for site in sites] or ["it has no convolution"]
        raise ConversionError(f"nothing to convert in {type(model).__name__}: {'; '.join(reasons)}")
    return found


def check_finite(model: nn.Module) -> None:
    """Raise `ModelError` naming the parameters and buffers that hold NaN or infinity."""
    bad = [name for name, tensor in model.state_dict().items()
           if tensor.is_floating_point() and not tensor.isfinite().all()]  # fmt: skip
    if bad:
        shown = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
        raise ModelError(f"weights are NaN or infinite: {shown}", do="check the weights file")
