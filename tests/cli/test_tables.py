"""What people see."""

from __future__ import annotations

import pytest
import torch
from helpers import plan_for, priced, tiny
from rich.console import Console
from torch import nn

from convswap import count, find_sites, observe
from convswap.cli import console, tables
from convswap.plans import Latency

ODD = "\x1b[31mred\nerror: forged"


def text_of(table: object, width: int = 120) -> str:
    paper = Console(width=width, record=True, force_terminal=False)
    with paper.capture() as capture:
        paper.print(table)
    return capture.get()


@pytest.mark.parametrize(("number", "text"), [
    (0, "0"), (999, "999"), (1000, "1.00 k"), (40_600_000, "40.6 M"), (4_090_000_000, "4.09 G"),
    (999_999, "1.00 M"), (999_600_000, "1.00 G"), (1234, "1.23 k"),
])  # fmt: skip
def test_quantity_has_three_digits_and_a_suffix(number, text):
    assert tables.quantity(number) == text


@pytest.mark.parametrize(("damage", "text"), [
    (0.0123, "0.012"), (3e-9, "3e-09"), (1.2e-29, "0"), (-2e-17, "0"), (0.0, "0"), (-0.5, "-0.5"),
])  # fmt: skip
def test_damage_of_no_more_than_rounding_is_shown_as_none(damage, text):
    assert tables.damage(damage) == text


def test_results_go_to_stdout_and_notes_to_stderr(capsys):
    console.out.print("a result")
    console.note("a note")
    captured = capsys.readouterr()
    assert captured.out == "a result\n"
    assert captured.err == "a note\n"


@pytest.mark.parametrize("text", ["pip install 'convswap[onnx]'", "[bold]", "[/]", "a [1, 2] b"])
def test_brackets_in_a_note_are_text(text, capsys):
    console.note(text)
    assert capsys.readouterr().err == f"{text}\n"


def test_a_note_is_one_line_however_long(capsys):
    console.note("word " * 60)
    assert capsys.readouterr().err.count("\n") == 1


def test_quiet_progress_writes_nothing(capsys):
    with console.progress(quiet=True) as progress:
        progress("fit", 1, 2)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_a_log_has_a_line_for_each_quarter_of_a_step(capsys):
    with console.progress() as progress:
        for done in range(41):
            progress("fit", done, 40)
        progress("evaluate", 3, 0)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"fit: {done} of 40 done" for done in (10, 20, 30, 40)]


def test_progress_never_writes_to_stdout(capsys):
    with console.progress() as progress:
        progress("fit", 1, 2)
        progress("fit", 2, 2)
        progress("evaluate", 3, 0)
    assert capsys.readouterr().out == ""


def test_comparison_has_a_row_per_network_and_a_column_per_figure():
    rows = {"dense": {"top1": 91.25, "macs": 40_600_000, "bytes": 1_234_567},
            "small": {"top1": 90.5, "macs": 20_300_000, "bytes": 654_321, "ms": 1.5}}  # fmt: skip
    header, dense, small = text_of(tables.comparison_table(rows)).splitlines()
    assert header.split() == ["top-1", "%", "MACs", "size", "ms", "/", "image"]
    assert dense.split() == ["dense", "91.25", "40.6", "M", "1.23", "MB", "-"]
    assert small.split() == ["small", "90.50", "20.3", "M", "0.65", "MB", "1.50"]


def test_comparison_of_outputs_fits_a_terminal_and_keeps_the_names():
    figures = {"r2": 0.5, "psnr": 30.0, "kl": 0.1, "agreement": 99.0, "macs": 20_300_000,
               "params": 1_000_000, "bytes": 4_000_000, "images": 5000}  # fmt: skip
    assert "r18-half" in text_of(tables.comparison_table({"r18-half": figures}), width=80)


def test_comparison_shows_equal_outputs():
    row = text_of(tables.comparison_table({"same": {"r2": 1.0, "psnr": float("inf")}}))
    assert row.split()[-3:] == ["same", "1.0000", "inf"]


def test_brackets_in_the_name_of_a_network_are_text():
    assert "out[dim]" in text_of(tables.comparison_table({"out[dim]": {"top1": 1.0}}))


def test_sites_are_listed_with_a_reason_or_with_their_forms():
    model, size = tiny("grouped")
    sites, _ = find_sites(model, size)
    text = text_of(tables.sites_table(sites, count(model, size)))
    lines = {line.split()[0]: line for line in text.splitlines()[1:]}
    assert "all" in lines["stem"].split()
    assert "all" in lines["grouped"].split()
    assert "already depthwise" in lines["depthwise"]


def test_layer_names_of_real_depth_are_readable_in_a_terminal():
    model, size = tiny("residual")
    sites, _ = find_sites(model, size)
    deep = [type(s)(**vars(s) | {"path": f"layer{i}.0.downsample.conv{i}"})
            for i, s in enumerate(sites)]  # fmt: skip
    text = text_of(tables.sites_table(deep, count(model, size)), width=80)
    assert all(site.path in text for site in deep)


def test_a_plan_is_shown_choice_by_choice():
    model, size = tiny("residual")
    plan = plan_for(model, size, {"first": ("tucker", (2, 3)), "second": ("channel", 2)})
    plan = priced(plan, model, size)
    lines = text_of(tables.plan_table(plan)).splitlines()
    assert lines[1].split()[:4] == ["first", "tucker", "2,", "3"]
    assert lines[2].split()[:3] == ["second", "channel", "2"]
    assert tables.plan_summary(plan).startswith("2 layers converted: MACs ")


def test_what_a_plan_says_gives_the_terminal_no_commands():
    model, size = tiny("residual")
    plan = priced(plan_for(model, size, {"second": ("channel", 2)}), model, size)
    time = Latency(target=ODD, threads=1, device="cpu", dtype="float32", batch=1, ms_dense=2, ms=1,
                   ms_predicted=1, layout=ODD, problems=(ODD,))  # fmt: skip
    summary = tables.plan_summary(plan.model_copy(update={"notes": (ODD,), "latency": time}))
    assert len(summary.splitlines()) == 4
    assert all(line.isprintable() for line in summary.splitlines())
    assert summary.count("\\x1b[31mred\\nerror: forged") == 4


def test_what_is_answered_gives_the_terminal_no_commands(capsys):
    console.answer(False, {}, f"two\n{ODD}")
    assert capsys.readouterr().out == "two\n\\x1b[31mred\nerror: forged\n"


def test_a_plan_of_one_layer_is_spelled_in_the_singular():
    model, size = tiny("residual")
    plan = plan_for(model, size, {"second": ("channel", 2)})
    assert tables.plan_summary(plan).startswith("1 layer converted")


@pytest.mark.parametrize(("stride", "shown"), [(1, "8x3x3x3 "), (2, "3x3 /2 "), ((2, 1), "/2x1 ")])
def test_strides_are_shown_along_both_axes_where_they_differ(stride, shown):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride, padding=1)).eval()
    sites, _ = find_sites(model, (3, 8, 8))
    assert shown in text_of(tables.sites_table(sites, count(model, (3, 8, 8))))


class Transposed(nn.Module):
    """A linear layer in a class of its own, as GPT-2's."""

    def __init__(self):
        super().__init__()
        self.conv, self.weight = nn.Conv2d(3, 4, 1), nn.Parameter(torch.rand(4, 12))

    def forward(self, x):
        return self.conv(x).flatten(2).mT @ self.weight


@pytest.mark.parametrize(("network", "says"), [
    (Transposed(), "80.0% of the MACs are in none of these layers"),
    (nn.Sequential(nn.Conv2d(3, 4, 1)), ""),
])  # fmt: skip
def test_work_outside_of_all_layers_is_told(network, says):
    seen = observe(network, (3, 8, 8))
    text = tables.sites_summary(seen.sites, seen.dense, (3, 8, 8))
    assert says in text
    assert bool(says) == ("none of these" in text)


def test_where_a_table_is_wider_than_the_terminal_names_fold_and_figures_do_not():
    row = {"r2": 0.9993, "psnr": 71.74, "kl": 0.0, "agreement": 100.0, "macs": 51.1e6,
           "params": 232e3, "bytes": 94e4, "images": 16}  # fmt: skip
    lines = text_of(tables.comparison_table({"r50-half-recovered": row}), 80).splitlines()
    assert lines[0].endswith("size  images")
    assert lines[1].endswith("0.94 MB      16")
    assert "".join(line.split()[0] for line in lines[1:]) == "r50-half-recovered"
