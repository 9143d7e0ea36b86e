"""Pages as a browser lays them out: at no width does anything stick out."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import pytest

from convswap.results.differences import Case
from convswap.results.frontier import Point
from convswap.results.pictures import frontier_svg, recovery_svg
from convswap.results.report import Chart, Layer, Report, stages_table, write_report

CHROMIUM = shutil.which("chromium")
LONG = "backbone.body.a_very_long_module_path_that_never_ends.layer4.0.downsample.0.conv" * 2
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGA"
    "WjR9awAAAABJRU5ErkJggg=="
)
COUNT = """<script>
const root = document.documentElement, edge = root.clientWidth + 0.5;
const wide = [...document.body.querySelectorAll("*")].filter(
  each => !each.closest(".scroll") && each.getBoundingClientRect().right > edge);
parent.document.documentElement.dataset.found = [innerWidth, root.scrollWidth - root.clientWidth,
  document.querySelectorAll(".layers li").length, ...wide.map(each => each.tagName)];
</script></body>"""


def full_report() -> Report:
    """A report with every section, and words too long for their places."""
    figures = {"top1": 76.123, "top5": 93.5, "macs": 4.1e9, "params": 25.6e6, "bytes": 1.2e8,
               "ms": 123.4, "images": 50_000}  # fmt: skip
    points = [Point(kept, 100 * kept, 10 * kept, "eager", {"top1": 1.0}, None)
              for kept in (1.0, 0.5, 0.2)]  # fmt: skip
    history = [{"step": step, "trained": 1 / (1 + step), "averaged": 0.9 / (1 + step),
                "best": 0.8 / (1 + step)} for step in range(9)]  # fmt: skip
    layers = [Layer(LONG, "bottleneck", 9_000, 3_000, f"rank 3, damage 1e-5; then {LONG}"),
              Layer("head", "", 10, 10, "it works on one vector for each sample")]  # fmt: skip
    case = Case(LONG, "KL 0.1 nats", LONG, {"input": PIXEL, "before": PIXEL, "after": PIXEL},
                {"before": [(LONG, 0.7)], "after": [("cat", 0.6)]})  # fmt: skip
    return Report(
        name=f"timm:{LONG}", headline="1.9x faster on onnxruntime, measured; 0.30 points lost",
        table=stages_table({"dense": figures, "converted": figures, "recovered": figures}),
        remark="times: target onnxruntime, threads 1", layers=layers, cases=[case] * 4,
        charts=[Chart("Frontier", "Quality.", frontier_svg(points, points[1])),
                Chart("Recovery", "Distance.", recovery_svg(history))],
        commands=[f"convswap convert {LONG} --out {LONG}"], facts={LONG: LONG, "seed": "0"},
    )  # fmt: skip


@pytest.mark.skipif(CHROMIUM is None, reason="the browser `chromium` is absent")
@pytest.mark.parametrize("width", [400, 800, 1400])
def test_nothing_sticks_out_at_any_width(width, tmp_path):
    page = tmp_path / "page.html"
    write_report(full_report(), page)
    text = page.read_text(encoding="utf-8")
    assert "Content-Security-Policy" in text  # which keeps the script below from running
    text = re.sub(r"<meta http-equiv=[^>]*>", "", text).replace("</body>", COUNT)
    # subtle: a window is never narrower than 500 pixels, a frame is
    frame = f'<iframe srcdoc="{escape(text)}" style="width: {width}px; height: 900px; border: 0">'
    (tmp_path / "frame.html").write_text(frame, encoding="utf-8")
    shown, beyond, layers, *wide = dumped(tmp_path / "frame.html", tmp_path).split(",")
    assert (int(shown), int(layers)) == (width, 2)
    assert (int(beyond), wide) == (0, [])


def dumped(page: Path, folder: Path) -> str:
    """What the script of a page wrote down."""
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-sync",
        "--disable-background-networking", "--disable-component-update",
        f"--user-data-dir={folder / 'profile'}", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    return re.search(r'data-found="([^"]*)"', done.stdout)[1]
