"""Judgements as TensorBoard shows them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ..errors import ConvswapError
from .judging import Judgement


class Board:
    """Called with a judgement, it writes every figure as a scalar of that step.

    Args:
        folder: of this run; TensorBoard looks at the one it lies in.

    Raises:
        ConvswapError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConvswapError(
                "TensorBoard is not installed", do="pip install tensorboard"
            ) from None
        self._writer = SummaryWriter(str(folder))

    def __call__(self, judgement: Judgement) -> None:
        for name, value in asdict(judgement).items():
            if value is not None and name not in ("step", "steps"):
                self._writer.add_scalar(name, value, judgement.step)
        self._writer.flush()
