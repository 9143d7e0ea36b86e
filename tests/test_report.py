"""The page: what it says of a folder, and that nothing in a folder becomes markup."""

from __future__ import annotations

import json
import re

import pytest
import torch
from helpers import tiny
from outer import (
    CLASSES,
    SIZE,
    converted,
    fail,
    narrow_resnet,
    succeed,
    user_network,
    write_images,
    write_user_files,
)

from convswap import open_images, save
from convswap.artifact.description import digest_of
from convswap.plans import Choice
from convswap.record import Preprocess, record_of, remember
from convswap.results.differences import differing
from convswap.results.folders import judge, look, report_on_folder, rows_of, stages
from convswap.results.report import headline, layers_of, stages_table, write_report

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


@pytest.fixture(scope="module")
def small():
    return converted(narrow_resnet(), (3, 32, 32), layer1__0__conv1=("channel", 3))


@pytest.fixture
def folder(small, tmp_path):
    return save(small, tmp_path / "art", provenance={"data": "photos", "command": "convswap x"})


def page_of(folder) -> str:
    write_report(report_on_folder(folder, rows_of(folder), look(folder)), folder / "page.html")
    return (folder / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("after", "words"), [
    ({"ms": 2.0, "top1": 89.7}, "2.0x faster on there, measured; 0.30 points lost"),
    ({"ms": 2.0, "spread": 0.1, "top1": 90.0}, "2.0x faster on there, measured; no accuracy lost"),
    ({"ms": 2.0, "spread": 0.4, "top1": 91.0},
     "2.0x faster on there, measured on a busy machine; no accuracy lost"),
    ({"ms": 5.0, "top1": 90.0}, "1.25 of the time on there, measured; no accuracy lost"),
    ({"top1": 91.0}, "40% of the multiply-adds; no accuracy lost"),
    ({"r2": 0.987}, "40% of the multiply-adds; 98.70% of the output's variance kept"),
    ({}, "40% of the multiply-adds; quality was not measured"),
])  # fmt: skip
def test_the_headline_says_what_was_gained_and_what_it_cost(after, words):
    rows = {"dense": {"macs": 100, "ms": 4.0, "top1": 90.0}, "converted": {"macs": 40, **after}}
    assert headline(rows, {"target": "there"}) == words


def test_the_table_says_the_share_of_costs_that_is_kept():
    rows = {"dense": {"macs": 2e6, "top1": 90.0}, "converted": {"macs": 1e6, "top1": None}}
    table = stages_table(rows)
    assert table.heads == ["", "dense", "converted"]
    assert table.rows == [["top-1 %", "90.00", "-"], ["MACs", "2.00 M", "1.00 M (50%)"]]


def test_every_layer_is_shown_with_what_became_of_it(folder):
    seen = look(folder)
    page = page_of(folder)
    for site in seen.sites:
        assert f"<span>{site.path}</span>" in page
    assert "channel, rank 3, damage" in page
    assert {site.reason for site in seen.sites if site.reason}
    assert all(site.reason in page for site in seen.sites if site.reason)


def test_a_network_that_runs_with_values_alone_is_not_looked_into(folder):
    content = json.loads((folder / "convswap.json").read_text())
    del content["digest"]
    name = "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn"
    content["record"]["base"].update(name=name, kwargs={})
    (folder / "convswap.json").write_text(json.dumps(content))
    assert look(folder) is None


def test_a_later_plan_changes_what_an_earlier_put_in(small):
    (plan,) = record_of(small).plans
    inner = Choice(site=f"{plan.choices[0].site}.reduce", form="spatial", rank=2,
                   macs=10, macs_dense=30)  # fmt: skip
    (layer,) = layers_of([plan, plan.model_copy(update={"choices": (inner,)})], None)
    assert layer.after == plan.choices[0].macs - 20
    assert "then spatial, rank 2" in layer.why


def test_a_page_says_where_it_comes_from_and_fetches_nothing(folder):
    page = page_of(folder)
    assert "<pre>convswap x</pre>" in page
    assert "photos" in page
    assert torch.__version__ in page
    assert not re.search(r"<(script|link|iframe)\b|https?://(?!www\.w3\.org)|@import|url\(", page)
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_a_recovery_is_drawn_and_its_stage_named(small, tmp_path):
    save(small, tmp_path / "art", provenance={"distilled": {"epochs": 1, "command": "convswap y"}})
    row = {"step": 0, "trained": 0.5, "averaged": 0.5, "best": 0.5}
    history = [row, row | {"step": 9, "best": 0.1}]
    (tmp_path / "art" / "history.json").write_text(json.dumps(history))
    assert [*stages(tmp_path / "art")] == ["recovered"]
    page = page_of(tmp_path / "art")
    assert "<svg" in page
    assert "#010203" not in page
    assert "currentColor" in page
    assert "convswap y" in page


def test_nothing_of_a_folder_becomes_markup(folder):
    path = folder / "convswap.json"
    content = json.loads(path.read_text())
    plan = content["record"]["plans"][0]
    plan["choices"][0] |= {"site": EVIL, "form": EVIL}
    plan["notes"] = [EVIL, "a busy day"]
    plan["latency"] = {"target": EVIL, "threads": 1, "device": EVIL, "dtype": EVIL, "batch": 1,
                       "ms_dense": 2.0, "ms": 1.0, "ms_predicted": 1.0}  # fmt: skip
    content["provenance"] = {"command": EVIL, "data": EVIL, EVIL: {EVIL: EVIL},
                             "target": {"target": EVIL}, "distilled": EVIL}  # fmt: skip
    content["versions"] = {EVIL: EVIL}
    content["digest"] = digest_of(content)
    path.write_text(json.dumps(content))
    page = page_of(folder)
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert "a busy day" in page
    assert page.count("<style>") == 1


def test_a_page_holds_no_character_that_does_not_print(folder):
    path, odd = folder / "convswap.json", "\x1b[31m\u202e\ud800"
    content = json.loads(path.read_text())
    content["provenance"] = {"command": odd, odd: odd}
    content["digest"] = digest_of(content)
    path.write_text(json.dumps(content))
    page = page_of(folder)
    assert all(c.isprintable() for c in page.replace("\n", ""))
    assert "\\x1b[31m\\u202e\\ud800" in page


def test_a_folder_without_plans_is_refused(folder):
    path = folder / "convswap.json"
    content = json.loads(path.read_text())
    content["record"]["plans"] = []
    content["digest"] = digest_of(content)
    path.write_text(json.dumps(content))
    assert "it has no plans" in fail("report", folder)


def test_figures_that_are_not_known_do_not_hide_those_that_are(folder):
    known = rows_of(folder)
    rows = {name: dict.fromkeys(row) for name, row in known.items()}
    (folder / "report.json").write_text(json.dumps(rows))
    assert rows_of(folder) == known
    page_of(folder)


@pytest.mark.parametrize(("name", "content"), [
    ("report.json", "[]"), ("report.json", '{"dense": {"ms": NaN}}'), ("report.json", "{"),
    ("report.json", '{"dense": {"ms": 1e-300}}'), ("report.json", '{"dense": {"macs": 1e300}}'),
    ("history.json", '[{"step": 1, "trained": NaN, "averaged": 1, "best": 1}]'),
    ("history.json", '[{"step": 1, "trained": 1e300, "averaged": 1, "best": 1}]'),
    ("history.json", "{}"), ("history.json", "[]"), ("history.json", '[{"step": 1}]'),
    ("history.json", '[{"step": "x"}]'),
    ("history.json", '[{"step": 1, "step": 2, "trained": 1, "averaged": 1, "best": 1}]'),
    ("report.json", '{"dense": {}, "dense": {}}'),
])  # fmt: skip
def test_damaged_figures_are_refused_in_one_line(name, content, folder):
    (folder / name).write_text(content)
    assert name in fail("report", folder)
    assert not (folder / "report.html").exists()


def test_what_holds_no_artifact_is_refused(tmp_path):
    assert "neither" in fail("report", tmp_path)
    assert "no-such" in fail("report", tmp_path / "no-such")


def test_a_page_that_exists_is_kept_unless_forced(folder):
    succeed("report", folder)
    assert "exists" in fail("report", folder)
    assert "report.html" in succeed("report", folder, "--force").err


def test_the_images_that_differ_most_come_first_with_both_answers(tmp_path):
    dense = user_network(write_user_files(tmp_path), weights=True)
    small = converted(dense, (3, SIZE, SIZE), body=("channel", 1))
    images = open_images(str(tmp_path / "data"), record_of(dense).preprocess)
    cases = differing(dense, small, images, "logits")
    distances = [float(re.search(r"[\d.e+-]+", case.distance)[0]) for case in cases]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0
    for case in cases:
        assert case.name.startswith(case.truth)
        assert case.truth in CLASSES
        assert case.pictures["input"].startswith("data:image/png;base64,")
        for answers in case.answers.values():
            assert {name for name, _ in answers} < {*CLASSES}
            assert answers[0][1] >= answers[1][1]


def test_equal_networks_differ_nowhere(small, tmp_path):
    preprocess = Preprocess(input_size=(3, 32, 32))
    images = open_images(write_images(tmp_path / "val", each=2, size=(32, 32)), preprocess)
    assert differing(small, small, images) == []


@pytest.mark.parametrize(("channels", "size"), [(3, 8), (1, 8), (21, 16)])
def test_outputs_that_are_images_are_shown_as_such(channels, size, tmp_path):
    dense = torch.nn.Sequential(torch.nn.Conv2d(3, channels, 3, padding=1)).eval()
    remember(dense, preprocess=Preprocess(input_size=(3, size, size)))
    other = torch.nn.Sequential(torch.nn.Conv2d(3, channels, 3, padding=1)).eval()
    remember(other, preprocess=Preprocess(input_size=(3, size, size)))
    images = open_images(write_images(tmp_path / "a", (), 3, (size, size)),
                         record_of(dense).preprocess)  # fmt: skip
    first, *_ = differing(dense, other, images)
    assert [*first.pictures] == ["input", "before", "after"]
    assert first.answers == {}
    assert first.distance.startswith("relative squared error")


def test_outputs_that_are_no_images_are_told_by_their_distance(tmp_path):
    dense, size = tiny("frames")
    other = converted(dense, size, second=("channel", 2))
    preprocess = Preprocess(input_size=size)
    for network in (dense, other):
        remember(network, preprocess=preprocess)
    images = open_images(write_images(tmp_path / "a", (), 3, size[1:]), preprocess)
    first, *_ = differing(dense, other, images)
    assert [*first.pictures] == ["input"]


def test_quality_on_other_images_replaces_what_was_known(small, tmp_path):
    val = write_images(tmp_path / "val", each=2, size=(32, 32))
    rows = {"dense": {"macs": 9, "top1": 9.0}, "converted": {"macs": 5, "ms": 1.0, "top1": 5.0}}
    judge(rows, {"dense": narrow_resnet(), "converted": small}, val)
    assert rows["converted"].keys() >= {"r2", "macs", "ms", "images"}
    assert "top1" not in rows["converted"]  # random weights guess
