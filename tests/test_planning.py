"""Plans: within budget, priced as converted, repeatable, refused when they do not fit."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
import torch
from helpers import TINY, image_batches, outputs_of, plan_for, priced, tiny
from torch import Tensor, nn

from convswap.errors import (
    BudgetError,
    ConversionError,
    ModelError,
    PlanError,
    RankError,
    TargetError,
)
from convswap.network.calls import read_batches
from convswap.network.cost import Cost, count
from convswap.network.outputs import held_back
from convswap.planning import plan, survey
from convswap.plans import Budget, Choice, Input, Layers, Plan
from convswap.record import record_of
from convswap.surgery.convert import convert

# within budget, priced as converted


@pytest.mark.parametrize(("name", "fit"), [
    *((name, "corrected") for name in TINY),
    *((name, "weight") for name in ("residual", "called twice", "uneven")),
])  # fmt: skip
def test_planned_cost_is_the_cost_of_the_converted_network(name: str, fit: str):
    model, input_size = tiny(name)
    batches = image_batches(input_size)
    made = plan(model, batches, Budget(macs=0.7), fit=fit)
    assert made.dense == count(model, input_size)
    assert made.planned == count(convert(model, made, batches), input_size)
    assert made.planned.macs <= 0.7 * made.dense.macs
    assert made.choices


@pytest.mark.parametrize(
    "budget",
    [Budget(params=0.6), Budget(bytes=0.6), Budget(macs=0.6, params=0.7), Budget(macs=0.4)],
    ids=["params", "bytes", "two at once", "tight"],
)
def test_every_bound_is_met(budget: Budget):
    model, input_size = tiny("residual")
    made = plan(model, image_batches(input_size), budget)
    for name, share in budget.model_dump(exclude_none=True).items():
        assert getattr(made.planned, name) <= share * getattr(made.dense, name)


def test_costs_of_the_choices_add_up_to_the_plan():
    model, input_size = tiny("concat")
    made = plan(model, image_batches(input_size), Budget(macs=0.5))
    saved = sum(choice.macs_dense - choice.macs for choice in made.choices)
    assert made.dense.macs - saved == made.planned.macs
    assert made.damage == pytest.approx(sum(choice.damage for choice in made.choices))


def test_layers_that_the_output_does_not_depend_on_are_named():
    """As in networks of timm that are not trained: the last layer of each block is zero."""
    model, input_size = tiny("residual")
    nn.init.zeros_(model.second.weight)
    made = plan(model, image_batches(input_size), Budget(macs=0.5))
    assert any("does not depend on first, second: weights after" in note for note in made.notes)


def test_looser_budget_does_no_more_damage():
    model, input_size = tiny("residual")
    batches = image_batches(input_size)
    damages = [plan(model, batches, Budget(macs=m)).damage for m in (0.3, 0.6, 1.0)]
    assert damages == sorted(damages, reverse=True)
    assert damages[0] > 0


def test_full_budget_keeps_every_layer():
    model, input_size = tiny("residual")
    made = plan(model, image_batches(input_size), Budget(macs=1.0))
    assert made.choices == ()
    assert made.planned == made.dense


@pytest.mark.parametrize("output", ["logits", "values"])
def test_kind_of_output_can_be_said(output: str):
    model, input_size = tiny("residual")
    made = plan(model, image_batches(input_size), Budget(macs=0.5), output=output)
    assert made.planned.macs <= 0.5 * made.dense.macs


def test_plan_from_weights_needs_no_images():
    model, input_size = tiny("in place")
    made = plan(model, budget=Budget(macs=0.5), fit="weight", input_size=input_size)
    assert made.planned.macs <= 0.5 * made.dense.macs


def test_batches_may_be_tuples_and_lists():
    model, input_size = tiny("residual")
    batches = image_batches(input_size)
    labels = torch.zeros(6, dtype=torch.long)
    plain = plan(model, batches, Budget(macs=0.5))
    assert plan(model, [(batch, labels) for batch in batches], Budget(macs=0.5)) == plain
    assert plan(model, [[batch, "path"] for batch in batches], Budget(macs=0.5)) == plain


def test_batches_may_come_from_a_generator():
    model, input_size = tiny("residual")
    batches = image_batches(input_size)
    made = plan(model, (batch for batch in batches), Budget(macs=0.5))
    assert made == plan(model, batches, Budget(macs=0.5))


@pytest.mark.parametrize("fit", ["weight", "corrected"])
def test_same_seed_gives_the_same_plan(fit: str):
    plans = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        model, input_size = tiny("residual")
        batches = image_batches(input_size)
        plans.append(plan(model, batches, Budget(macs=0.5), fit=fit, seed=3))
    assert plans[0] == plans[1]


def test_progress_is_reported_for_every_site():
    model, input_size = tiny("residual")
    seen = []
    plan(
        model, image_batches(input_size), Budget(macs=0.5),
        progress=lambda *report: seen.append(report),
    )  # fmt: skip
    assert [report for report in seen if report[0] == "candidates"] == [
        ("candidates", done, 3) for done in (1, 2, 3)
    ]


@pytest.mark.parametrize("name", TINY)
def test_planning_changes_nothing(name: str):
    model, input_size = tiny(name)
    next(model.parameters()).requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainable = [p.requires_grad for p in model.parameters()]
    batches = image_batches(input_size)
    kept = [batch.clone() for batch in batches]
    plan(model.train(), batches, Budget(macs=0.7))
    torch.testing.assert_close(dict(model.state_dict()), before, atol=0, rtol=0)
    assert [p.requires_grad for p in model.parameters()] == trainable
    assert all(p.grad is None for p in model.parameters())
    assert all(map(torch.equal, batches, kept))


# networks out of the ordinary


class OneNumber(nn.Module):
    """A regression to one number per image."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((1, 2, 3))


class InPlaceInput(OneNumber):
    """Normalises the image it was given in place."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.sub_(0.5))


class SomeOnly(OneNumber):
    """A convolution that the first image reaches, and others do not."""

    def __init__(self):
        super().__init__()
        self.blank = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.blank(x) if len(x) == 1 else x)


def test_network_with_one_number_per_image_is_planned():
    made = plan(OneNumber(), image_batches((3, 8, 8)), Budget(macs=0.5))
    assert made.planned.macs <= 0.5 * made.dense.macs


def test_network_that_writes_to_its_input_is_planned():
    batches = image_batches((3, 8, 8))
    kept = [batch.clone() for batch in batches]
    made = plan(InPlaceInput(), batches, Budget(macs=0.5))
    assert made.planned.macs <= 0.5 * made.dense.macs
    assert all(map(torch.equal, batches, kept))


def test_layer_that_no_other_image_reaches_is_left_alone():
    made = plan(SomeOnly(), image_batches((3, 8, 8)), Budget(macs=0.7))
    assert [choice.site for choice in made.choices] == ["conv"]
    assert made.notes == ("hardly any image runs through blank: left alone",)


def test_network_whose_weights_are_frozen_is_planned():
    model, input_size = tiny("residual")
    wanted = plan(model, image_batches(input_size), Budget(macs=0.5))
    frozen = plan(model.requires_grad_(False), image_batches(input_size), Budget(macs=0.5))
    assert frozen == wanted
    assert not any(p.requires_grad for p in model.parameters())


# refused


@pytest.mark.parametrize("budget", [None, Budget(), 0.5, {"macs": 0.5}])
def test_no_budget_is_refused(budget: object):
    model, input_size = tiny("residual")
    with pytest.raises(PlanError, match=r"no budget given - say Budget\(macs=0.5\)"):
        plan(model, image_batches(input_size), budget)


def test_the_name_of_a_target_is_refused_before_long_work():
    model, input_size = tiny("residual")
    with pytest.raises(TargetError, match=r"say open_target\('onnxruntime'\)"):
        plan(model, image_batches(input_size), Budget(latency=0.5), target="onnxruntime")


@pytest.mark.parametrize("wrong", [Budget(macs=0.5), "plan.json", []], ids=repr)
def test_what_is_no_plan_is_refused(wrong: object):
    model, input_size = tiny("residual")
    with pytest.raises(PlanError, match=rf"^{type(wrong).__name__} is no plan"):
        convert(model, wrong, image_batches(input_size))


@pytest.mark.parametrize("fit", ["moments", "corrected"])
def test_fit_to_images_without_images_is_refused(fit: str):
    with pytest.raises(PlanError, match=f"fit '{fit}' needs images"):
        plan(tiny("residual")[0], [], Budget(macs=0.5), fit=fit, input_size=(3, 8, 8))


def test_fit_to_weights_without_an_input_size_is_refused():
    with pytest.raises(PlanError, match="input_size"):
        plan(tiny("residual")[0], budget=Budget(macs=0.5), fit="weight")


def test_budget_out_of_reach_is_refused_with_the_least_reachable():
    model, input_size = tiny("residual")
    with pytest.raises(BudgetError, match=r"macs 0.01 asked, 0\.\d+ is the least"):
        plan(model, image_batches(input_size), Budget(macs=0.01))


def test_network_with_nothing_to_convert_is_refused_with_every_reason():
    model = nn.Sequential(nn.ConvTranspose2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, groups=8))
    with pytest.raises(ConversionError) as caught:
        plan(model, [torch.randn(2, 8, 8, 8)], Budget(macs=0.5))
    assert "nothing to convert in Sequential" in str(caught.value)
    assert "Sequential: 0, 1: already depthwise" in str(caught.value)
    assert caught.value.exit_code == 3


def test_network_without_convolutions_is_refused():
    with pytest.raises(ConversionError, match=r"it has no layer that is an nn\.Conv or nn\.Linear"):
        plan(nn.Flatten(), [torch.randn(2, 3, 8, 8)], Budget(macs=0.5))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["second.weight", "norm.running_var"])
def test_weights_that_are_not_finite_are_refused(where: str, value: float):
    model, input_size = tiny("residual")
    model.state_dict()[where].view(-1)[0] = value
    with pytest.raises(ModelError, match=f"weights are NaN or infinite: {where} - check"):
        plan(model, image_batches(input_size), Budget(macs=0.5))


def test_many_weights_that_are_not_finite_are_counted():
    model, input_size = tiny("residual")
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="and 5 more"):
        plan(model, image_batches(input_size), Budget(macs=0.5))


def test_sparse_weights_are_refused():
    model, input_size = tiny("residual")
    model.second.weight = nn.Parameter(model.second.weight.detach().to_sparse())
    with pytest.raises(ModelError, match=r"weights are sparse: second\.weight"):
        plan(model, image_batches(input_size), Budget(macs=0.5))


SHARES = (0, -0.5, 1.5, float("nan"), float("inf"), "half", [0.5])
FIELDS = ("macs", "params", "bytes", "latency")


@pytest.mark.parametrize(("field", "share"), [*product(FIELDS, SHARES), ("mac", 0.5)])
def test_share_outside_zero_to_one_is_refused_in_one_line(field, share):
    with pytest.raises(PlanError, match=f"not a valid budget: {field}: ") as caught:
        Budget(**{field: share})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "make",
    [lambda: Layers(only="conv*"), lambda: Input(name="x\n", shape=(1,)),
     lambda: Choice(site="a", form="channel", rank="two"), lambda: Plan(choices=())],
    ids=["layers", "input", "choice", "plan"],
)  # fmt: skip
def test_what_is_no_plan_is_refused_in_one_line(make, request):
    kind = request.node.callspec.id
    with pytest.raises(PlanError, match=f"not a valid {kind}: ") as caught:
        make()
    assert str(caught.value).isprintable()


class Waves(nn.Module):
    """Takes what a scanner measures: complex numbers, or raw counts."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x):
        x = x.abs().float() if x.is_complex() else x.float() / 65535
        return self.second(torch.tanh(self.first(x)))


@pytest.mark.parametrize(
    "dtype", [torch.complex64, torch.complex128, torch.uint16, torch.uint32, torch.uint64]
)
def test_inputs_of_any_type_of_number_are_planned_for(dtype, tmp_path):
    batches = [(1000 * each.abs()).to(dtype) for each in image_batches((3, 8, 8))]
    plan(Waves().eval(), batches, Budget(macs=0.6)).save(tmp_path / "plan.json")
    [seen] = Plan.load(tmp_path / "plan.json").inputs
    assert f"torch.{seen.dtype}" == str(dtype)


# edited plans


@pytest.mark.parametrize(
    ("choices", "error", "says"),
    [
        ({"third": ("channel", 2)}, PlanError, "cannot be replaced here: third"),
        ({"head": ("channel", 2)}, PlanError, "cannot be replaced here: head"),
        ({"": ("channel", 2)}, PlanError, "cannot be replaced here"),
        ({"first": ("channel", 99)}, RankError, "rank 99 of form 'channel' is not in 1..8"),
        ({"first": ("tucker", 3)}, RankError, "rank 3 of form 'tucker'"),
        ({"first": ("fourier", 3)}, RankError, "unknown form 'fourier'"),
    ],
    ids=["unknown site", "not a convolution", "no name", "rank", "pair of ranks", "form"],
)
@pytest.mark.parametrize(
    "use",
    [
        lambda model, made: priced(made, model, made.input_size),
        lambda model, made: convert(model, made, image_batches(made.input_size)),
    ],
    ids=["priced", "converted"],
)
def test_choice_that_does_not_fit_is_refused(choices: dict, error: type, says: str, use):
    model, input_size = tiny("residual")
    made = plan_for(model, input_size, choices)
    with pytest.raises(error) as caught:
        use(model, made)
    assert says in str(caught.value)


def test_site_that_is_left_alone_is_refused():
    model, input_size = tiny("grouped")
    made = plan_for(model, input_size, {"depthwise": ("channel", 1)})
    with pytest.raises(PlanError, match="cannot be replaced here: depthwise"):
        priced(made, model, input_size)


def test_site_named_twice_is_refused():
    model, input_size = tiny("residual")
    made = plan_for(model, input_size, {"first": ("channel", 2)})
    made = made.model_copy(update={"choices": made.choices * 2})
    with pytest.raises(PlanError, match="the plan names a layer twice"):
        convert(model, made, image_batches(input_size))


def test_edited_plan_is_priced_anew():
    model, input_size = tiny("residual")
    made = plan_for(model, input_size, {"first": ("separable", 2)}, fit="weight")
    lying = Choice(site="first", form="separable", rank=2, macs=1, params=1, macs_dense=1)
    made = made.model_copy(update={"choices": (lying,)})
    again = priced(made, model, input_size)
    assert (again.choices[0].macs, again.choices[0].macs_dense) == (64 * (16 * 9 + 16 * 8), 36864)
    assert again.planned.macs == made.dense.macs - 36864 + again.choices[0].macs


# files


def full_plan() -> Plan:
    return Plan(
        input_size=(3, 8, 8),
        fit="moments",
        seed=7,
        budget=Budget(macs=0.5, params=0.25),
        dense=Cost(1000, 100, 400),
        planned=Cost(500, 50, 200),
        damage=0.125,
        choices=(
            Choice(site="a.0", form="separable", rank=2, macs=9, macs_dense=99, damage=0.1),
            Choice(site="b", form="tucker", rank=(3, 4)),
        ),
    )


def test_plan_survives_saving_and_loading(tmp_path: Path):
    full_plan().save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == full_plan()


def test_saved_plan_is_readable_json(tmp_path: Path):
    full_plan().save(tmp_path / "plan.json")
    text = (tmp_path / "plan.json").read_text()
    assert json.loads(text)["choices"][1]["rank"] == [3, 4]
    assert len(text.splitlines()) > 20


def test_real_plan_survives_saving_and_loading(tmp_path: Path):
    model, input_size = tiny("residual")
    made = plan(model, image_batches(input_size), Budget(macs=0.4))
    made.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == made
    text = (tmp_path / "plan.json").read_text()
    (tmp_path / "edited.json").write_text(text, encoding="utf-8-sig")  # as some editors do
    assert Plan.load(tmp_path / "edited.json") == made


def test_missing_plan_file_is_refused(tmp_path: Path):
    with pytest.raises(PlanError, match=r"cannot read plan .*none\.json: No such file"):
        Plan.load(tmp_path / "none.json")


def test_plan_file_that_is_no_text_is_told_so(tmp_path: Path):
    (tmp_path / "weights").write_bytes(b"\xc8\x00\x00\x00")
    with pytest.raises(PlanError, match=r"cannot read plan .*weights: it is not text$"):
        Plan.load(tmp_path / "weights")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"not json", b"[]", b"3", b'{"version": 1}', b"\xff\xfe\x00", b"\x89PNG\r\n"],
)
def test_file_that_is_no_plan_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(PlanError) as caught:
        Plan.load(path)
    assert "plan.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_problems_of_a_plan_file_are_named_at_once(tmp_path: Path):
    document = full_plan().model_dump(mode="json")
    document |= {"version": 2, "fit": "magic", "colour": "red"}
    document["budget"]["macs"] = 3
    document["choices"][0]["rank"] = "two"
    del document["choices"][1]["site"]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(document))
    with pytest.raises(PlanError) as caught:
        Plan.load(path)
    for problem in ("version", "fit", "colour", "budget.macs", "choices.0.rank", "choices.1.site"):
        assert f"{problem}" in str(caught.value)


@pytest.mark.parametrize("output", ["logits", "values"])
def test_damage_is_measured_as_it_was_predicted(output):
    """Whatever the network and the batches say when it is converted."""
    model, input_size = tiny("residual")
    batches = image_batches(input_size)
    made = plan(model, batches, Budget(macs=0.5), output=output)
    small = convert(model, made, batches)
    assert made.output == output
    wanted = outputs_of(model, held_back(read_batches(model, batches))[1], output).distance(small)
    measured = record_of(small).plans[-1].damage_measured
    assert measured == pytest.approx(
        wanted, rel=0.01, abs=1e-7
    )  # in another memory layout, other roundings


# layers that may be replaced


@pytest.mark.parametrize(
    ("layers", "allowed"),
    [
        (Layers(), ["first", "second", "stem"]),
        (Layers(only=("first",)), ["first"]),
        (Layers(only=("f*", "sec?nd")), ["first", "second"]),
        (Layers(exclude=("stem",)), ["first", "second"]),
        (Layers(only=("*s*",), exclude=("st*", "first")), ["second"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("fit", ["weight", "corrected"])
def test_only_layers_that_may_be_are_replaced(layers: Layers, allowed: list[str], fit: str):
    model, input_size = tiny("residual")
    seen = survey(model, image_batches(input_size), fit=fit, layers=layers)
    assert sorted(seen.options) == allowed
    reasons = {site.path: site.reason for site in seen.seen.sites}
    left = {"stem", "first", "second"}.difference(allowed)
    assert all(reasons[path] == "left alone as asked" for path in left)


@pytest.mark.parametrize("layers", [Layers(only=("layer9.*",)), Layers(exclude=("layer9.*",))])
def test_a_pattern_that_matches_nothing_is_refused(layers: Layers):
    model, input_size = tiny("residual")
    with pytest.raises(PlanError, match=r"no layer's path matches 'layer9\.\*'"):
        plan(model, image_batches(input_size), Budget(macs=0.9), layers=layers)
