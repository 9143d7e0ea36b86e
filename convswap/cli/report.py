"""convswap report: one page on what was gained, what it cost, and how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..inputs.names import check_artifact
from ..support.files import check_new
from . import console, early
from . import options as o

if TYPE_CHECKING:
    from torch import nn


EXAMPLE = "convswap report r18-half --data val/ --out r18-half.html"
Results = Annotated[
    str, Parameter(name="DIR", help="an artifact folder, or what `convswap run` wrote")
]
Page = Annotated[
    str | None, Parameter(metavar="FILE.html", help="to write; default: report.html in DIR")
]


def report(
    folder: Results,
    /,
    *,
    data: o.Data | None = None,
    out: Page = None,
    original: o.Original = o.Original(),
    machine: o.Machine = o.Machine(),
    force: o.Force = False,
) -> None:
    """Write a page of figures, layers and recovery; with images, of quality and what changed.

    Without --data it shows what the folder knows by itself, and no weights are needed.
    """
    check_artifact(folder)
    path = check_new(out or Path(folder) / "report.html", force)
    early.check(sources=[data])
    from ..results import folders
    from ..results.report import write_report

    rows, cases = folders.rows_of(folder), []
    if data:
        networks = _opened(folder, original, machine)
        with console.progress(machine.quiet) as progress:
            cases = folders.judge(rows, networks, data, progress, console.note)
    seen = folders.look(folder, original.architecture, original.kwargs)
    write_report(folders.report_on_folder(folder, rows, seen, cases), path)
    console.wrote(path)


def _opened(folder: str, original: o.Original, machine: o.Machine) -> dict[str, nn.Module]:
    """The network before conversion, and that of every stage."""
    from ..results import folders
    from . import opening

    networks = {
        name: opening.open_artifact(str(path), original, machine)
        for name, path in folders.stages(folder).items()
    }
    *_, last = networks.values()
    opening.settle(last)
    return {"dense": opening.open_original(last, original, machine.device)} | networks
