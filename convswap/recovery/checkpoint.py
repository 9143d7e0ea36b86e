"""What a run that is interrupted goes on from: one file, written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConvswapError
from ..network.calls import Batch
from ..support.files import check_parent, check_regular, new_file

SECONDS = 30.0  # between two writings


def digest(*parts: object) -> str:
    """A fingerprint of all that a run depends on: tensors by content, the rest by its spelling."""
    found = hashlib.sha256()
    for part in _leaves(parts):
        if isinstance(part, Tensor):
            found.update(f"{part.dtype}{list(part.shape)}".encode())
            values = part.detach().cpu().to_dense().contiguous().flatten()
            part = values.view(torch.uint8).numpy().tobytes()
        found.update(part if isinstance(part, bytes) else repr(part).encode())
    return found.hexdigest()


def _leaves(parts: Iterable) -> Iterable:
    for part in parts:
        if isinstance(part, Batch):
            yield from _leaves([*part.tensors, part.labels])
        elif isinstance(part, dict):
            yield from _leaves(part.items())
        elif isinstance(part, (list, tuple)):
            yield from _leaves(part)
        else:
            yield part


class Checkpoint:
    """A file with the state of one job.

    Args:
        path: None to keep nothing.
        job: `digest` of what the run depends on.
        tell: gets a line if the state cannot be written; the run goes on without.

    Raises:
        ConvswapError: the folder it is to lie in does not exist.
    """

    def __init__(self, path: str | Path | None, job: str, tell: Callable[[str], None]):
        self.path, self.job, self.tell = path and Path(path), job, tell
        if self.path:
            check_parent(self.path)
        self.written = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to write again."""
        return time.monotonic() - self.written >= SECONDS

    def read(self) -> dict[str, Any] | None:
        """The state to go on from, if there is one.

        Raises:
            ConvswapError: the file is damaged, or of another job.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            check_regular(self.path)
            content = torch.load(self.path, weights_only=True, map_location="cpu")
            job, state = content["job"], content["state"]
        except Exception as error:  # whatever a damaged or foreign file leads to
            raise self._unreadable() from error
        if job != self.job:
            raise ConvswapError(
                f"{self.path} is of another run: its networks, images, settings or seed differ",
                do="remove it to start anew, or write elsewhere",
            )
        return state

    def _unreadable(self) -> ConvswapError:
        return ConvswapError(f"cannot read {self.path}", do="remove it to start anew")

    def write(self, state: dict[str, Any]) -> None:
        """Put the state in place of the last one, if that can be done."""
        if self.path is None:
            return
        content = io.BytesIO()  # subtle: torch's own writer ends the process on a full disk
        torch.save({"job": self.job, "state": state}, content)
        try:
            with new_file(self.path) as temporary:
                temporary.write_bytes(content.getbuffer())
        except OSError as error:
            self.tell(f"cannot write {self.path}, training goes on without: {error.strerror}")
        self.written = time.monotonic()

    @contextmanager
    def taken_over(self) -> Iterator[None]:
        """What fails inside does so because the state is damaged."""
        try:
            yield
        except Exception as error:  # whatever a damaged state leads to
            raise self._unreadable() from error

    def remove(self) -> None:
        """Nothing is left to go on with."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
