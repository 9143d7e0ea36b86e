"""The world outside the package: the command line in this process, and files a user brings."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from cyclopts import App
from helpers import plan_for
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from convswap import Preprocess, cli, convert, open_model, save
from convswap.record import remember

REPOSITORY = Path(__file__).parents[1]
BENCH = REPOSITORY.parent / "shared" / "bench"
CLASSES = ("ant", "bee", "cat", "dog")
SIZE = 16  # pixels of the images below
NARROW = {"channels": [8, 8, 16, 16], "layers": [1] * 4, "stem_width": 8, "num_classes": 4}
"""For timm:resnet18."""

USER = ("model.py:build", "--weights", "weights.safetensors")
RECIPE = """# A tiny job.
version: 1
model: {weights: weights.safetensors}
data: {calibration: data, images: 24, batch_size: 8, input_size: [3, 16, 16]}
budget: {macs: 0.5}
distill: {epochs: 1, batch_size: 8}
"""
WIDE = ("model.py:build", "--model-arg", "width=128", "--input-size", "3,32,32", "--fit", "weight",
        "--threads", 1, "--latency", "0.8", "--target", "eager")  # fmt: skip

SOURCE = '''"""What a user might have: plain code in a plain file."""

import torch
from torch import nn


class Small(nn.Module):
    num_classes = 4

    def __init__(self, channels=3, width=8):
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.body = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(torch.relu(self.body(x)).mean((2, 3)))


class Painter(nn.Module):
    """An image in, an image out."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def build(channels=3, width=8):
    return Small(channels, width)


def painter():
    return Painter()


def number():
    return 3


def broken():
    raise RuntimeError("the user's own mistake")


def ends():
    raise SystemExit("there is no GPU")
'''


def as_torchrun_tells(rank: object, port: object) -> dict[str, str]:
    """Variables that say which of two processes this is."""
    return {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}  # fmt: skip


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document that stdout is, by the letter of JSON: no NaN, no Infinity."""
        return json.loads(self.out, parse_constant=_not_json)


def _not_json(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def convswap(
    *arguments: object, out: io.StringIO | None = None, err: io.StringIO | None = None
) -> Finished:
    """Call the function of the console script in this process, as a shell would.

    Args:
        out, err: what it prints to.
    """
    out, err = out or io.StringIO(), err or io.StringIO()
    code: object = 0
    with (
        mock.patch.object(sys, "argv", ["convswap", *map(str, arguments)]),
        mock.patch.object(sys.modules["__main__"], "__package__", "", create=True),  # pytest's name
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
    assert isinstance(code, int), f"the exit code is no number: {code!r}"
    return Finished(code, out.getvalue(), err.getvalue())


def succeed(*arguments: object) -> Finished:
    """Run a command that must work."""
    done = convswap(*arguments)
    assert done.code == 0, done.err
    return done


def fail(*arguments: object, code: int = 2) -> str:
    """Run a command that must fail with one line that says why; the line."""
    done = convswap(*arguments)
    assert done.code == code, done
    assert done.out == ""
    *before, last = done.err.splitlines()
    assert last.startswith("error: "), done.err
    assert not any("error" in line.lower() or "Traceback" in line for line in before), done.err
    return last


@contextlib.contextmanager
def frugal(seconds: float = 2.0, megabytes: int = 300) -> Iterator[None]:
    """What happens inside takes no more processor time, and no more memory on top of what the
    process holds (where the system tells: Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    held, start = _memory("VmRSS"), time.process_time()
    yield
    assert time.process_time() - start < seconds
    assert _memory("VmHWM") - held < megabytes


def _memory(kind: str) -> float:
    """Megabytes of this process."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else ()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(kind)), 0.0)


def commands(app: App = cli.app, words: tuple[str, ...] = ()) -> dict[str, App]:
    """Every command of the live table, by the words that call it."""
    children = {name: app[name] for name in app if not name.startswith("-")}
    if not children:
        return {" ".join(words): app}
    return {
        called: command
        for name, child in children.items()
        for called, command in commands(child, (*words, name)).items()
    }


def options(command: App) -> set[str]:
    """Every option of a command."""
    names = [name for option in command.assemble_argument_collection() for name in option.names]
    return {name for name in names if name.startswith("--")}


def parsed(arguments: Sequence[str]) -> object:
    """The function that a command line, all of it understood, would call."""
    return cli.app.parse_args(arguments, exit_on_error=False, print_error=False)[0]


def write_images(
    folder: Path,
    classes: Sequence[str] = CLASSES,
    each: int = 10,
    size: tuple[int, int] = (SIZE, SIZE),
    mode: str = "RGB",
) -> Path:
    """Class folders of PNG images of noise that is brighter for later classes; flat without
    classes."""
    random = torch.Generator().manual_seed(0)
    for label, name in enumerate(classes or ("",)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(each):
            pixels = torch.randint(0, 120, (*size[::-1], 3), generator=random) + 30 * label
            image = Image.fromarray(pixels.to(torch.uint8).numpy()).convert(mode)
            image.save(folder / name / f"{index:02}.png")
    return folder


def write_tar(path: Path, folder: Path) -> Path:
    """A tar of what is in a folder."""
    with tarfile.open(path, "w") as archive:
        for child in sorted(folder.iterdir()):
            archive.add(child, child.name)
    return path


def truncate(path: Path, share: float = 0.6) -> None:
    """Cut the end of a file off, as a broken download does."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def write_user_files(folder: Path) -> Path:
    """`model.py`, `weights.safetensors` and the class folders `data`, as a user has them."""
    (folder / "model.py").write_text(SOURCE)
    save_file(user_network(folder).state_dict(), folder / "weights.safetensors")
    write_images(folder / "data")
    return folder


def user_network(folder: Path, weights: bool = False, factory: str = "build") -> nn.Module:
    """The network of the user's file, opened as the command line opens it."""
    path = folder / "weights.safetensors" if weights else None
    model = open_model(f"{folder / 'model.py'}:{factory}", weights=path, seed=1)
    return remember(model, preprocess=Preprocess(input_size=(3, SIZE, SIZE)))


def converted(model: nn.Module, size: tuple[int, int, int], **choices: tuple) -> nn.Module:
    """A network with some layers replaced, fitted to its weights: no images, no time."""
    named = {site.replace("__", "."): choice for site, choice in choices.items()}
    return convert(model, plan_for(model, size, named, fit="weight"))


def write_artifact(folder: Path) -> Path:
    """The user's network with one layer replaced, saved as `art`."""
    network = user_network(folder, weights=True)
    return save(converted(network, (3, SIZE, SIZE), body=("channel", 3)), folder / "art")


def narrow_resnet() -> nn.Module:
    """A small ResNet of timm's, opened by name."""
    model = open_model("timm:resnet18", random_weights=True, kwargs=NARROW)
    return remember(model, preprocess=Preprocess(input_size=(3, 32, 32)))


def write_plan(site: str, form: str, rank: int) -> str:
    """A plan with one choice, made of the `plan.json` in the working directory; its file."""
    plan = json.loads(Path("plan.json").read_text())
    plan["choices"] = [{"site": site, "form": form, "rank": rank}]
    Path("written.json").write_text(json.dumps(plan))
    return "written.json"


def tree(folder: Path) -> dict[str, bytes]:
    """Content of every file under a folder, and its empty folders: to see that nothing changed."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"folder"
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }


def names(folder: str | Path = ".") -> list[str]:
    """Names of what lies in a folder, in order."""
    return sorted(path.name for path in Path(folder).iterdir())


def squeezed(text: str) -> str:
    """Text without the box and the line breaks of help pages."""
    return re.sub(r"[\s│╭╮╰╯─]+", " ", text)
