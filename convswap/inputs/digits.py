"""scikit-learn's 8x8 handwritten digits: images that come with a package."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import DataError
from ..record import Preprocess
from .arrays import by

HELD_OUT_DIGITS = 597  # of 1,797: never used to train, calibrate or distil


class Digits(Dataset):
    """The digits, enlarged to the input size.

    Args:
        held_out: those never used to train, calibrate or distil, in place of the others.

    Raises:
        DataError: the network wants colour, or scikit-learn is not installed.
    """

    def __init__(self, preprocess: Preprocess, held_out: bool):
        shape = preprocess.input_size
        if len(shape) != 3 or shape[0] != 1:
            raise DataError(f"digits are images of 1 channel; the network wants {by(shape)}")
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise DataError(
                "the digit images come with scikit-learn", do="pip install 'convswap[demo]'"
            ) from None
        digits = load_digits()
        order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
        chosen = order[:HELD_OUT_DIGITS] if held_out else order[HELD_OUT_DIGITS:]
        images = torch.tensor(digits.images, dtype=torch.float32)[chosen, None] / 16
        images = torch.nn.functional.interpolate(
            images, shape[1:], mode="bilinear", align_corners=False
        )
        self.images = (images - preprocess.mean[0]) / preprocess.std[0]
        self.labels = digits.target[chosen].tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        index, _ = key
        return self.images[index], self.labels[index]
