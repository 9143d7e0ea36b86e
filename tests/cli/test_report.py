"""convswap report."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from outer import fail, names, succeed


def test_a_folder_alone_needs_no_weights_and_no_code(here):
    Path("weights.safetensors").unlink()
    done = succeed("report", "art")
    assert done.err.splitlines()[-1] == "wrote art/report.html"
    page = Path("art/report.html").read_text()
    assert "quality was not measured" in page
    assert "<span>body</span>" in page
    assert "<span>stem</span>" not in page


def test_the_architecture_tells_what_was_left_alone(here):
    succeed("report", "art", "--model", "model.py:build", "--out", "page.html")
    assert "<span>stem</span>" in Path("page.html").read_text()


def test_with_images_it_judges_and_shows_where_answers_differ(here):
    succeed("report", "art", "--model", "model.py:build", "--data", "data", "--out", "page.html")
    page = Path("page.html").read_text()
    assert "KL nats" in page  # random weights guess
    assert "Where they differ most" in page
    assert "data:image/png;base64," in page
    assert "labelled" in page


def test_images_without_labels_tell_how_close_it_is(here):
    succeed("report", "art", "--model", "model.py:build", "--data", "flat", "--out", "page.html")
    assert "variance kept" in Path("page.html").read_text()


def test_an_image_in_and_an_image_out_are_shown_side_by_side(here):
    model = ("model.py:painter", "--input-size", "3,16,16")
    succeed("convert", *model, "--data", "flat", "--macs", "0.6", "--out", "painted")
    succeed("report", "painted", "--model", "model.py:painter", "--data", "flat")
    page = Path("painted/report.html").read_text()
    assert page.count("<figcaption>after</figcaption>") == page.count("<li>\n<div>") > 0
    assert "convswap convert model.py:painter" in page


def test_what_a_run_wrote_has_a_page_and_gets_another(here):
    done = succeed("run", "tiny.yaml", "--model", "model.py:build", "--out", "o")
    assert done.err.splitlines()[-1] == "wrote o/report.html"
    page = Path("o/report.html").read_text()
    for words in ("recovered", "Recovery", "Where they differ most", "ms / image", "<span>stem<",
                  "convswap run tiny.yaml --model model.py:build --out o"):  # fmt: skip
        assert words in page
    shutil.rmtree("o/recovered")
    succeed("report", "o", "--model", "model.py:build", "--out", "again.html")
    assert "recovered" not in Path("again.html").read_text()


def test_a_sweep_has_a_page(here):
    done = succeed("sweep", "model.py:build", "--data", "data", "--points", "2", "--least", "0.5",
                   "--out", "s")  # fmt: skip
    assert done.err.splitlines()[-1] == "wrote s/report.html"
    page = Path("s/report.html").read_text()
    assert "At the knee" in page
    assert "<svg" in page


def test_no_path_of_the_machine_is_on_a_page(here):
    command = ["convert", "model.py:build", "--data", here / "data", "--macs", "0.6", "--out",
               here / "made", "--weights", here / "weights.safetensors"]  # fmt: skip
    succeed(*command, "--input-size", "3,16,16")
    succeed("report", here / "made", "--out", "page.html")
    page = Path("page.html").read_text()
    assert "--data data" in page
    assert str(here) not in page


def test_a_page_that_cannot_be_is_refused_before_anything_is_written(here):
    before = names("art")
    assert "no such folder" in fail("report", "art", "--model", "model.py:build", "--data", "none")
    assert names("art") == before


def test_threads_of_the_drawing_do_not_matter(here):
    succeed("report", "art", "--out", "one.html")
    succeed("report", "art", "--out", "two.html", "--threads", torch.get_num_threads())
    assert Path("one.html").read_bytes() == Path("two.html").read_bytes()
