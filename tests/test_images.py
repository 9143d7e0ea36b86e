"""Image files as cameras, scanners and programs write them, and those that nobody should open."""

from __future__ import annotations

import os
import random
import re
import resource
import signal
import socket
import struct
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from outer import SIZE, truncate, write_images
from PIL import Image

from convswap import ConvswapError, Preprocess, open_images
from convswap.inputs.formats import SUFFIXES
from convswap.inputs.images import native_size

RAW = Preprocess(input_size=(3, SIZE, SIZE), mean=(0, 0, 0), std=(1, 1, 1))
GRAY = Preprocess(input_size=(1, SIZE, SIZE), mean=(0,), std=(1,))
BLACK, WHITE, HALF, RED, BLUE = (0, 0, 0), (1, 1, 1), (0.5, 0.5, 0.5), (1, 0, 0), (0, 0, 1)
TURN = 0x0112  # the EXIF tag of orientation


def halves(mode: str, left: object, right: object, size: tuple[int, int] = (SIZE, SIZE)):
    """An image of two colours."""
    image = Image.new(mode, size, right)
    image.paste(left, (0, 0, size[0] // 2, size[1]))
    return image


def saved(name: str, image: Image.Image, **options: object) -> Callable[[Path], object]:
    """What writes an image under a name."""
    return lambda folder: image.copy().save(folder / name, **options)


def deep(name: str, dtype: str, left: float, right: float) -> Callable[[Path], object]:
    """What writes gray values of any type of number."""
    values = np.full((SIZE, SIZE), right, dtype)
    values[:, : SIZE // 2] = left
    return saved(name, Image.fromarray(values))


def written(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def png(width: int, height: int, bits: int = 8, row: bytes = bytes(4)) -> bytes:
    """A PNG file that claims a size and holds one row, by default of one pixel."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + body


def palette(name: str, **options: object) -> Callable[[Path], object]:
    image = halves("P", 0, 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    return saved(name, image, **options)


def turned(name: str, orientation: int, **options: object) -> Callable[[Path], object]:
    """A file that is red on top of blue as stored, to be turned before it is seen."""
    exif = Image.Exif()
    exif[TURN] = orientation
    return saved(name, COLOUR.rotate(-90), exif=exif, **options)


COLOUR = halves("RGB", "red", "blue")
LOSSLESS = {"lossless": True}
FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (SIZE, SIZE), "lime")]}
PAIR = {"save_all": True, "append_images": [COLOUR.copy()]}
FINE = {"quality": 100, "subsampling": 0}
WRITTEN = sorted(  # one suffix of each format that this build of PIL reads
    {".avif", ".bmp", ".gif", ".jp2", ".jpg", ".png", ".ppm", ".tga", ".tif", ".webp"} & SUFFIXES
)

READ = {  # what writes the file, and the colours of its halves
    "BMP": (saved("a.bmp", COLOUR), RED, BLUE),
    "GIF": (saved("a.gif", COLOUR), RED, BLUE),
    "JPEG": (saved("a.jpeg", COLOUR, **FINE), RED, BLUE),
    "PNG": (saved("a.png", COLOUR), RED, BLUE),
    "PPM": (saved("a.ppm", COLOUR), RED, BLUE),
    "JPEG as Windows names it": (saved("a.jfif", COLOUR, format="JPEG", **FINE), RED, BLUE),
    "JPEG by its short name": (saved("a.jpe", COLOUR, **FINE), RED, BLUE),
    "JPEG of two pictures, by its name": (saved("a.mpo", COLOUR, **PAIR, **FINE), RED, BLUE),
    "PNM": (saved("a.pnm", COLOUR), RED, BLUE),
    "PBM": (saved("a.pbm", halves("1", 0, 1)), BLACK, WHITE),
    "TGA": (saved("a.tga", COLOUR), RED, BLUE),
    "TIFF": (saved("a.tif", COLOUR), RED, BLUE),
    "TIFF by its long name": (saved("a.tiff", COLOUR, compression="tiff_lzw"), RED, BLUE),
    "WebP": (saved("a.webp", COLOUR, **LOSSLESS), RED, BLUE),
    "upper case": (saved("A.JPG", COLOUR, **FINE), RED, BLUE),
    "one format under another's name": (saved("a.png", COLOUR, format="BMP"), RED, BLUE),
    "progressive JPEG": (saved("a.jpg", COLOUR, progressive=True, **FINE), RED, BLUE),
    "JPEG of two pictures": (saved("a.jpg", COLOUR, format="MPO", **PAIR, **FINE), RED, BLUE),
    "animated GIF": (saved("a.gif", COLOUR, **FRAMES), RED, BLUE),
    "animated WebP": (saved("a.webp", COLOUR, **FRAMES, **LOSSLESS), RED, BLUE),
    "animated PNG": (saved("a.png", COLOUR, **FRAMES), RED, BLUE),
    "TIFF of two pages": (saved("a.tif", COLOUR, **FRAMES), RED, BLUE),
    "gray": (saved("a.png", halves("L", 0, 255)), BLACK, WHITE),
    "black and white": (saved("a.png", halves("1", 0, 1)), BLACK, WHITE),
    "black and white fax": (saved("a.tif", halves("1", 0, 1), compression="group4"), BLACK, WHITE),
    "palette": (palette("a.png"), RED, BLUE),
    "palette with a transparent colour": (palette("a.png", transparency=1), RED, WHITE),
    "GIF with a transparent colour": (palette("a.gif", transparency=1), RED, WHITE),
    "gray with alpha": (saved("a.png", halves("LA", (0, 255), (0, 0))), BLACK, WHITE),
    "alpha": (saved("a.png", halves("RGBA", (255, 0, 0, 255), (0, 0, 0, 0))), RED, WHITE),
    "half alpha": (saved("a.png", halves("RGBA", (0, 0, 0, 255), (0, 0, 0, 128))), BLACK, HALF),
    "WebP with alpha": (
        saved("a.webp", halves("RGBA", (255, 0, 0, 255), (0, 0, 0, 0)), **LOSSLESS), RED, WHITE),
    "a transparent colour": (saved("a.png", COLOUR, transparency=(0, 0, 255)), RED, WHITE),
    "CMYK JPEG": (saved("a.jpg", halves("CMYK", (0, 255, 255, 0), (0, 0, 0, 0)), **FINE),
                  RED, WHITE),
    "CMYK TIFF": (saved("a.tif", halves("CMYK", (0, 255, 255, 0), (0, 0, 0, 0))), RED, WHITE),
    "16-bit PNG": (deep("a.png", "uint16", 0, 32768), BLACK, HALF),
    "16-bit TIFF": (deep("a.tif", "uint16", 65535, 32768), WHITE, HALF),
    "16-bit TIFF of the other byte order": (deep("a.tif", ">u2", 65535, 32768), WHITE, HALF),
    "16-bit PGM": (deep("a.pgm", "int32", 65535, 32768), WHITE, HALF),
    "signed 32-bit TIFF": (deep("a.tif", "int32", 2**31 - 1, 2**30), WHITE, HALF),
    "float TIFF": (deep("a.tif", "float32", 1, 0.5), WHITE, HALF),
    "stored turned to the left": (turned("a.jpg", 8, **FINE), RED, BLUE),
    "stored turned, PNG": (turned("a.png", 8), RED, BLUE),
    "stored turned, WebP": (turned("a.webp", 8, **LOSSLESS), RED, BLUE),
    "stored turned, TIFF": (turned("a.tif", 8), RED, BLUE),
    "stored turned to the right": (turned("a.png", 6), BLUE, RED),
    "large JPEG": (saved("a.jpg", halves("RGB", "red", "blue", (9000, 9000)), **FINE), RED, BLUE),
    "large PNG": (saved("a.png", halves("RGB", "red", "blue", (4800, 4800))), RED, BLUE),
    "large gray PNG of 16 bits": (
        saved("a.png", Image.fromarray(np.full((4200, 4200), 32768, "uint16"))), HALF, HALF),
}  # fmt: skip


READ |= {  # where PIL's build reads them
    name: (saved(f"a{suffix}", COLOUR, **options), RED, BLUE)
    for name, suffix, options in (("AVIF", ".avif", {"quality": 100}), ("JPEG 2000", ".jp2", {}))
    if suffix in SUFFIXES
}


def pixels(images, **kwargs) -> torch.Tensor:
    return torch.cat([batch[0] for batch in images.batches(4, **kwargs)])


@pytest.mark.parametrize(("write", "left", "right"), READ.values(), ids=READ.keys())
def test_an_image_is_read_as_people_see_it(write, left, right, tmp_path):
    write(tmp_path)
    (x,) = pixels(open_images(str(tmp_path), RAW))
    assert x[:, 8, 3].tolist() == pytest.approx(left, abs=0.01)
    assert x[:, 8, 12].tolist() == pytest.approx(right, abs=0.01)


@pytest.mark.parametrize("name", ["gray", "16-bit PNG", "float TIFF", "half alpha"])
def test_a_network_of_one_channel_reads_gray_values_of_any_depth(name, tmp_path):
    write, left, right = READ[name]
    write(tmp_path)
    (x,) = pixels(open_images(str(tmp_path), GRAY))
    assert [x[0, 8, 3].item(), x[0, 8, 12].item()] == pytest.approx([left[0], right[0]], abs=0.01)


@pytest.mark.parametrize("name", ["16-bit PNG", "float TIFF", "palette", "stored turned, PNG"])
def test_every_image_can_be_trained_on(name, tmp_path):
    READ[name][0](tmp_path)
    (x,) = pixels(open_images(str(tmp_path), RAW, train=True))
    assert x.shape == (3, SIZE, SIZE)
    assert 0 <= x.min() < x.max() <= 1


def test_the_size_of_an_image_is_that_of_the_image_as_it_is_seen(tmp_path):
    exif = Image.Exif()
    exif[TURN] = 6
    Image.new("RGB", (20, 12)).save(tmp_path / "a.jpg", exif=exif)
    assert native_size(str(tmp_path), 3) == (3, 20, 12)


WHITES = {  # what writes the file, what its brightest value is read as, and a word of what is said
    "8 bits in 32": (deep("a.tif", "int32", 255, 0), 1, "of 32 bits, of which 1 .* use 8"),
    "16 bits in 32": (deep("a.tif", "int32", 65535, 300), 1, "use 16: white is 65535"),
    "20 bits in 32": (deep("a.tif", "int32", 2**20, 0), 2**-11, "black: .* above 0.05% of white"),
    "12 bits in 16": (deep("a.png", "uint16", 4095, 0), 1 / 16, "above 6.25% of white"),
    "13 bits in 16": (deep("a.png", "uint16", 8191, 0), 1 / 8, None),
    "12 bits of colour in 16": (
        written("a.png", png(1, 1, bits=16, row=b"\0" + b"\x0f\xff" * 3)), 1 / 16, "above 6.25%"),
    "a dark image of 8 bits": (saved("a.png", Image.new("L", (SIZE, SIZE), 3)), 3 / 255, None),
    "dark floats": (deep("a.tif", "float32", 0.01, 0), 0.01, None),
}  # fmt: skip


@pytest.mark.parametrize(("write", "brightest", "words"), WHITES.values(), ids=WHITES.keys())
def test_what_is_taken_for_white_is_said_where_it_may_be_another(write, brightest, words, tmp_path):
    write(tmp_path)
    said = []
    x = pixels(open_images(str(tmp_path), RAW, note=said.append))
    assert x.max().item() == pytest.approx(brightest, abs=0.005)
    assert [bool(re.search(words or "nothing", line)) for line in said] == [True] * bool(words)


def test_one_image_that_is_brighter_decides_for_all(tmp_path):
    deep("a.tif", "int32", 255, 0)(tmp_path)
    deep("b.tif", "int32", 2**31 - 1, 0)(tmp_path)
    said = []
    dark, bright = pixels(open_images(str(tmp_path), RAW, note=said.append))
    assert (dark.max() < 1e-6, bright.max(), said) == (True, 1, [])


# --- files that are no image, or more than one asked for ------------------------------------


def cut(name: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), "uint8")
        Image.fromarray(noise).save(folder / name)
        truncate(folder / name)

    return write


def patched(name: str, place: int, size: bytes) -> Callable[[Path], object]:
    """A file whose header claims another size."""

    def write(folder: Path) -> None:
        COLOUR.copy().save(folder / name)
        content = bytearray((folder / name).read_bytes())
        content[place : place + len(size)] = size
        (folder / name).write_bytes(content)

    return write


def listening(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "a.jpg"))


def sparse(folder: Path) -> None:
    with (folder / "a.bmp").open("wb") as file:
        file.truncate(1 << 40)


UNREADABLE = {  # what writes the file, and a word of the reason that is given
    "empty": (written("a.png", b""), "empty"),
    "of the system, without end": (
        lambda folder: (folder / "a.jpg").symlink_to("/proc/self/pagemap"), "a.jpg"),
    "text": (written("a.jpg", b"hello"), "no image"),
    "a header alone": (written("a.png", b"\x89PNG\r\n\x1a\n"), ""),
    "a program for a printer": (written("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n"), "no image"),
    **{f"truncated {suffix[1:]}": (cut(f"a{suffix}"), "") for suffix in WRITTEN},
    "floats beyond 0..1": (deep("a.tif", "float32", 0, 300), "values from 0 to 300"),
    "NaN": (deep("a.tif", "float32", 0, float("nan")), "values from"),
    "a line": (saved("a.png", Image.new("1", (9000, 2))), "too narrow"),
    "a width of 2^31 - 1": (written("a.png", png(2**31 - 1, 2**31 - 1)), "decompression bomb"),
    "a BMP of 2^31 - 1": (patched("a.bmp", 18, b"\xff\xff\xff\x7f\xff\xff\xff\x7f"), "bomb"),
    "a GIF of 65535 x 65535": (patched("a.gif", 6, b"\xff" * 4), "bomb"),
    "169 megapixels": (saved("a.png", Image.new("1", (13000, 13000))), "13000 x 13000 pixels"),
    "169 megapixels in steps": (
        saved("a.jpg", Image.new("L", (13000, 13000)), progressive=True), "13000 x 13000 pixels"),
    "a pipe": (lambda folder: os.mkfifo(folder / "a.jpg"), "not a regular file"),
    "a device": (lambda folder: (folder / "a.jpg").symlink_to("/dev/zero"), "not a regular file"),
    "a socket": (listening, "not a regular file"),
    "a link to nothing": (lambda folder: (folder / "a.jpg").symlink_to("nowhere"), "No such file"),
    "a link to itself": (lambda folder: (folder / "a.jpg").symlink_to("a.jpg"), "symbolic links"),
    "a terabyte": (sparse, "more than 1024 MiB"),
}  # fmt: skip


@contextmanager
def bounded(seconds: int = 20, bytes_: int = 1 << 30):
    """Ends what hangs, and what fills memory, with an error."""

    def stop(*_):
        raise TimeoutError

    before, (soft, hard) = (
        signal.signal(signal.SIGALRM, stop),
        resource.getrlimit(resource.RLIMIT_AS),
    )
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + bytes_, hard))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is bounded on Linux")
@pytest.mark.parametrize(("write", "word"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_cannot_be_read_is_left_out_and_the_reason_said(write, word, tmp_path):
    write_images(tmp_path, classes=(), each=1)
    write(tmp_path)
    said = []
    with bounded():
        assert native_size(str(tmp_path), 3) in (None, RAW.input_size)
        images = open_images(str(tmp_path), RAW, note=said.append)
        x = pixels(images)
    assert len(x) == images.skipped == 1
    (line,) = said
    assert line.startswith(f"skipped 1 unreadable images of {tmp_path}; the first is a.")
    assert word.lower() in line.lower()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is bounded on Linux")
def test_the_largest_images_that_are_read_take_bounded_memory(tmp_path):
    Image.new("L", (13000, 13000), 128).save(tmp_path / "a.jpg")  # a baseline JPEG: 169 megapixels
    for side in (8191, 8192):  # the largest that is not shrunk, and the largest of all
        opaque = Image.new("RGBA", (side, side), (128, 128, 128, 255))
        opaque.save(tmp_path / f"{side}.png")
    with bounded(seconds=60):
        x = pixels(open_images(str(tmp_path), RAW))
    assert x.shape == (3, 3, SIZE, SIZE)
    assert (x - 0.5).abs().max() < 0.01


def test_a_folder_named_like_an_image_is_a_folder(tmp_path):
    write_images(tmp_path, classes=(), each=2)
    (tmp_path / "a.jpg").mkdir()
    images = open_images(str(tmp_path), RAW)
    assert len(pixels(images)) == 2
    assert images.skipped == 0


def test_where_nothing_can_be_read_the_first_file_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"hello")
    with pytest.raises(ConvswapError, match=r"1 of 1 images cannot be read .* a\.png: it is no im"):
        pixels(open_images(str(tmp_path), RAW))


def test_what_was_left_out_is_said_once_however_often_images_are_read(tmp_path):
    write_images(tmp_path, classes=(), each=3)
    (tmp_path / "a.png").write_bytes(b"hello")
    said = []
    images = open_images(str(tmp_path), RAW, note=said.append)
    batches = images.batches(2, shuffle=True)
    for _ in range(3):
        assert sum(len(x) for (x,) in batches) == 3
    assert images.skipped == len(said) == 1


COUNTS = [pytest.param(20, 1), pytest.param(1000, 2, marks=pytest.mark.slow)]


@pytest.mark.parametrize("suffix", WRITTEN)
@pytest.mark.parametrize(("count", "seed"), COUNTS)
def test_a_damaged_file_is_an_image_still_or_is_left_out_with_a_reason(
    count, seed, suffix, tmp_path
):
    COLOUR.copy().save(tmp_path / f"a{suffix}")
    content, dice = (tmp_path / f"a{suffix}").read_bytes(), random.Random(seed)
    images = open_images(str(tmp_path), RAW)
    for _ in range(count):
        spoiled = bytearray(content)
        for place in dice.choices(range(len(content)), k=dice.randrange(1, 4)):
            spoiled[place] = dice.randrange(256)
        (tmp_path / f"a{suffix}").write_bytes(spoiled)
        with bounded():
            item = images.items[0, 0]
        if isinstance(item, str):
            assert item.startswith(f"a{suffix}: ")
            assert item.isprintable()
        else:
            assert item[0].shape == (3, SIZE, SIZE)


def test_an_image_that_fails_while_it_is_cropped_leaves_the_random_state_alone(tmp_path):
    def fails(image: Image.Image) -> None:
        random.random(), torch.rand(1)
        raise OSError(None, "gone")

    write_images(tmp_path, classes=(), each=1)
    images = open_images(str(tmp_path), RAW, train=True)
    images.items.transform = fails
    before = random.getstate(), torch.get_rng_state()
    assert images.items[0, 7] == "00.png: gone"
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
