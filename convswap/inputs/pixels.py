"""One file to one image: whatever cameras, scanners and programs write, read as people see it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageMode, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import DataError
from ..record import Preprocess
from ..support.quiet import quiet
from .formats import FORMATS

PIXELS = 1 << 26  # the most that are decoded
LARGE = 1 << 24  # images with more pixels are shrunk by a whole number first
LEAST = 0.35  # of an image, by area, that training sees at once
NARROW = 64  # times as long as wide: enlarged to the input size, such an image fills memory
WIDE = (1 << 16) - 1  # the largest of the integers that cameras and scanners write
_BITS_PER_SAMPLE, _SAMPLE_FORMAT, _SIGNED = 258, 339, 2  # of TIFF


def read_colour(stream: BinaryIO, white: int | None = None) -> Image.Image:
    """Read an image: turned as its EXIF orientation says, on white where it is transparent, the
    first frame or page of several.

    Memory is bounded, by 0.8 GiB, and by 1.6 GiB where decoders hold an image several times (WebP,
    AVIF, JPEG 2000): at most `PIXELS` are decoded, and of large JPEG files a part.

    Args:
        white: what integers of more than 16 bits are fractions of, in place of the largest.

    Returns:
        Mode `RGB`. Files of gray values with more than 8 bits have mode `F`: integers as
        fractions of the largest of their type, floating point, which must lie in 0..1, as it is.

    Raises:
        DataError: it is damaged, too large or too narrow, or its values lie outside that range.
    """
    return _read(stream, "RGB", white)


def read_gray(stream: BinaryIO, white: int | None = None) -> Image.Image:
    """The same without colours: mode `L` in place of `RGB`."""
    return _read(stream, "L", white)


def brightest(stream: BinaryIO) -> tuple[float, float] | None:
    """The largest value in an image of integers of more than 8 bits, and the largest there can be;
    None for other images.

    Raises:
        DataError: it is damaged, or too large.
    """
    with _opened(stream) as image:
        _check_pixels(image)
        if image.mode.startswith("I"):
            return float(np.asarray(image).max()), _largest(image)
        if any(";16" in str(tile[3]) for tile in image.tile):  # colours, of which PIL keeps 8 bits
            high = max(high for _, high in image.convert("RGB").getextrema())
            return high * 256.0 + 255, WIDE
    return None


def has_colours(stream: BinaryIO) -> bool:
    """Whether an image is stored in colour, without decoding it; palettes are not looked into.

    Raises:
        DataError: it is no image.
    """
    with _opened(stream) as image:
        return ImageMode.getmode(image.mode).basemode == "RGB"


def size_of(stream: BinaryIO) -> tuple[int, int]:
    """Height and width of an image as it is seen, without decoding it.

    Raises:
        DataError: it is no image, or too large.
    """
    with _opened(stream) as image:
        _check_pixels(image)
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) > 4
    return (width, height) if turned else (height, width)


class ImageTransform:
    """From an image to the input `[channels, height, width]` of a network.

    Args:
        train: a part of the image (down to `LEAST`, as far as it need not be enlarged) cropped at
            a random place, not the whole in the centre. Original and student see the same, so any
            part will do, and few images last longer (Beyer et al. 2022, arXiv:2106.05237).

    Raises:
        DataError: on being called: the image would become too large for that.
    """

    def __init__(self, preprocess: Preprocess, train: bool):
        from timm.data import create_transform
        from torchvision.transforms import CenterCrop, RandomCrop

        self.resize = create_transform(
            input_size=preprocess.input_size,
            interpolation=preprocess.interpolation,
            crop_pct=preprocess.crop_pct,
            crop_mode=preprocess.crop_mode,
            mean=preprocess.mean,  # the colour of a border
            normalize=False,
        )
        self.train = train
        if train:
            self.resize.transforms = [
                RandomCrop(step.size, pad_if_needed=True) if isinstance(step, CenterCrop) else step
                for step in self.resize.transforms
            ]
        self.channels, *size = preprocess.input_size
        self.least = [side / preprocess.crop_pct for side in size]
        self.mean, self.std = (
            torch.tensor(values).view(-1, 1, 1) for values in (preprocess.mean, preprocess.std)
        )

    def __call__(self, image: Image.Image) -> Tensor:
        sides = (image.height, image.width)
        factor = max(least / side for least, side in zip(self.least, sides, strict=True))
        if math.prod(sides) * factor**2 > PIXELS:  # as a folder may say, or a narrow image leads to
            raise DataError(
                f"{image.width} x {image.height} pixels, at the size that the network reads, are "
                f"more than {PIXELS:,}"
            )
        x = self.resize(self._part(image, factor) if self.train else image)
        x = x.clamp(0, 1) if x.is_floating_point() else x / 255  # bicubic overshoots
        return (x.expand(self.channels, -1, -1) - self.mean) / self.std

    @staticmethod
    def _part(image: Image.Image, factor: float) -> Image.Image:
        """A random part of an image that the network sees `factor` times as large as it is: what
        would have to be enlarged led ResNet-20 away from the original."""
        from torchvision.transforms import RandomCrop

        least = min(max(factor**2, LEAST), 1.0)
        side = torch.empty(()).uniform_(least, 1).sqrt().item()
        return RandomCrop([math.ceil(side * image.height), math.ceil(side * image.width)])(image)


def _read(stream: BinaryIO, mode: str, white: int | None) -> Image.Image:
    with _opened(stream) as image:
        if max(image.size) > NARROW * min(image.size):
            raise DataError(f"{image.width} x {image.height} pixels are too narrow")
        if image.format in ("JPEG", "MPO") and not image.info.get("progressive"):
            image.draft(None, tuple(side // _shrink(image) for side in image.size))
        _check_pixels(image)
        ImageOps.exif_transpose(image, in_place=True)
        deep = image.mode == "F" or image.mode.startswith("I")
        values = _from_deep(image, _largest(image, white)) if deep else image
        factor = _shrink(values)
        return _flat(values.reduce(factor) if factor > 1 else values, mode)


def _check_pixels(image: Image.Image) -> None:
    if math.prod(image.size) > PIXELS:
        raise DataError(f"{image.width} x {image.height} pixels are more than {PIXELS:,}")


@contextmanager
def _opened(stream: BinaryIO) -> Iterator[Image.Image]:
    """An image file, not decoded yet; whatever decoders raise inside becomes a DataError."""
    try:
        with quiet(), Image.open(stream, formats=FORMATS) as image:
            yield image
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError("it is no image, or of a kind that Pillow does not read") from None
    except Exception as error:  # what damaged files make of decoders has no common type
        raise DataError(" ".join(str(error).split()) or type(error).__name__) from None


def _shrink(image: Image.Image) -> int:
    """By how much to shrink both sides of a large image; 1 for others."""
    return max(1, math.isqrt(math.prod(image.size) // LARGE))


def _largest(image: Image.Image, white: int | None = None) -> float:
    """The largest value that the type of an image file's numbers has; of floating point 1."""
    if image.mode == "F":
        return 1.0
    tags = getattr(image, "tag_v2", {})
    (bits, *_), (kind, *_) = tags.get(_BITS_PER_SAMPLE, (16,)), tags.get(_SAMPLE_FORMAT, (1,))
    largest = 2.0 ** (bits - (kind == _SIGNED)) - 1
    return white if white and largest > WIDE else largest


def _from_deep(image: Image.Image, largest: float) -> Image.Image:
    """Gray values as fractions of the largest there can be."""
    values = np.asarray(image).astype(np.float32)
    low, high = values.min(), values.max()
    if not (low >= -1e-3 and high <= largest * (1 + 1e-3)):  # so written, NaN is refused too
        raise DataError(f"values from {low:g} to {high:g}, not from 0 to {largest:g}")
    values /= largest
    return Image.fromarray(values.clip(0, 1, out=values))


def _flat(image: Image.Image, mode: str) -> Image.Image:
    """Without palette and transparency: what is transparent lies on white, as on a page."""
    if image.mode == "F":
        return image
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        page = Image.new("RGB", image.size, "white")
        page.paste(image, mask=image.getchannel("A"))
        return page if mode == "RGB" else page.convert(mode)
    return image.convert(mode)
