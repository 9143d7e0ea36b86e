"""Image files: the names they are looked for under, and what they may be; this list alone."""

from __future__ import annotations

from PIL import Image, features

_SUFFIXES = {  # by PIL's name of the format; EPS is left out, which would run another program
    "AVIF": (".avif",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "TGA": (".tga",),  # last: it has no mark of its own
}
_NEEDS = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # not in every build of PIL


Image.init()
FORMATS = tuple(
    name
    for name in _SUFFIXES
    if name in Image.OPEN and (name not in _NEEDS or features.check(_NEEDS[name]))
)
SUFFIXES = frozenset(suffix for name in FORMATS for suffix in _SUFFIXES[name])
