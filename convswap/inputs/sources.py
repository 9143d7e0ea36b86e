"""Where inputs lie: the files of a folder or of a tar, in order, and the class of each."""

from __future__ import annotations

import io
import os
import re
import stat
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ..errors import DataError, one_line, reason
from .folders import (
    are_scales,
    below_the_shared,
    classes_of,
    one_of_pairs,
    one_split,
    parts_of,
    shared_by,
    without_masks,
    without_masks_of,
)
from .formats import SUFFIXES as IMAGES
from .names import check_source

ARRAYS = frozenset({".npy"})
PACKED = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "zstd",
    b"PK\x03\x04": "zip", b"7z\xbc\xaf": "7-Zip", b"Rar!": "RAR",
}  # fmt: skip
THUMBNAILS = ("@eaDir", "__MACOSX")  # folders that NAS systems and macOS put beside files
FILE_BYTES = 1 << 30  # the largest file that is read


@dataclass(frozen=True)
class Source:
    """The files of one kind that a folder or a tar holds, in natural order.

    Attributes:
        files: their paths in it, with slashes.
        labels: the index of the class of each.
        classes: the folders at the top, in natural order; None if all files lie in one.
        notes: what was decided, a line each, for the person to see.
        open: opens one of `files` for reading.
    """

    files: list[str]
    labels: list[int]
    classes: list[str] | None
    notes: list[str]
    open: Callable[[str], BinaryIO]

    @property
    def arrays(self) -> bool:
        """Whether the files are NumPy arrays, and not images."""
        return _suffix(self.files[0]) in ARRAYS


def open_source(source: str, held_out: bool = False) -> Source:
    """Find images, or where there are none, arrays.

    Folders within are searched too, hidden files and folders are not. Each folder at the top
    is a class, with all that is below it; where there are several, files beside the class
    folders are left out. The top is where paths part: what all of them begin with does not
    count. Of a source with `train/` and `val/` (or `test/`), only one of the two is taken, and of
    one with `images/` and `masks/`, or with `1.jpg` and `1_mask.png`, the images, and of pairs such
    as `LR/` and `HR/` what goes in.

    Args:
        source: a folder, or a `.tar`.
        held_out: take what is there to judge by, not to train on.

    Raises:
        DataError: there is no such folder or `.tar`, it is packed, or nothing in it to read.
    """
    check_source(source)
    root = Path(source)
    if root.is_file() and (packed := packing(root)):
        raise DataError(f"{source} is packed with {packed}", do="unpack it, and give the folder")
    if not root.is_dir() and (not root.is_file() or root.suffix.lower() != ".tar"):
        raise DataError(f"{source} is neither a folder nor a .tar, .npy or .npz file")
    opener = _Folder(root) if root.is_dir() else _Tar(root)
    kinds = Counter(map(_suffix, opener.names))
    kind = IMAGES if any(kinds[suffix] for suffix in IMAGES) else ARRAYS
    files = sorted((name for name in opener.names if _suffix(name) in kind), key=natural)
    passed_over = _named({k: n for k, n in kinds.items() if k not in kind})
    if not files:
        there = f", but {passed_over}" if passed_over else ""
        raise DataError(f"no images in {source}{there}", do="put .jpg, .png or .npy files there")
    notes = [
        f"passed over {sum(kinds.values()) - len(files)} files of {source}: {passed_over}"
        if passed_over
        else ""
    ]
    files, left_out = without_masks(source, files)
    files, beside = without_masks_of(source, files)
    files, answers = one_of_pairs(source, files)
    files, others, taken = one_split(source, files, held_out)
    notes += [left_out, beside, answers, taken]
    below = below_the_shared(files)
    classes = sorted(classes_of(files), key=natural)
    known = sorted(classes_of(others), key=natural) if others else []
    if not classes and (one := [name for name in shared_by(files) if name in known]):
        below, classes = [[one[-1], *parts] for parts in below], one[-1:]
    if classes and {*classes} < {*known}:  # of some there are images to train on alone
        classes = known
    if scales := len(classes) > 1 and are_scales(classes):
        notes.append(f"taken in several sizes: {', '.join(f'{name}/' for name in classes)}")
    if scales or len(classes) < 2:
        return Source(files, [0] * len(files), None, [*filter(None, notes)], opener)
    index = {folder: label for label, folder in enumerate(classes)}
    labelled = {
        name: index[parts[0]] for name, parts in zip(files, below, strict=True) if len(parts) > 1
    }
    if outside := len(files) - len(labelled):
        notes.append(f"left out {outside} files beside the class folders of {source}")
    if any(len(parts) > 2 for parts in below):
        notes.append(f"classes are the {len(classes)} folders at the top of {source}")
    files, labels = [*labelled], [*labelled.values()]
    return Source(files, labels, [*map(one_line, classes)], [*filter(None, notes)], opener)


def natural(name: str) -> tuple:
    """Sorts names as people do: a2 before a10, whatever the case."""
    parts: list = re.split(r"([0-9]+)", name.lower())
    digits = [part.lstrip("0") for part in parts[1::2]]
    parts[1::2] = [(len(number), number) for number in digits]
    return parts, name


def packing(path: Path) -> str | None:
    """What a file was packed with, by how it begins and not by its name."""
    try:
        with path.open("rb") as stream:
            begin = stream.read(8)
    except OSError:  # it is opened later, and said so
        return None
    return next((name for magic, name in PACKED.items() if begin.startswith(magic)), None)


class _Folder:
    """The files under a folder; what is reached twice, by links, counts once."""

    def __init__(self, root: Path):
        self.root, self.names = root, []
        waiting, seen = [""], set()
        while waiting:
            folder = waiting.pop()
            try:
                status = (root / folder).stat()
                with os.scandir(root / folder) as found:
                    entries = sorted((entry.name, _is_folder(entry)) for entry in found)
            except OSError as error:
                raise DataError(f"cannot read {root / folder}: {error.strerror}") from None
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            for entry, is_folder in entries:
                if not _is_hidden(entry):
                    name = f"{folder}/{entry}" if folder else entry
                    (waiting if is_folder else self.names).append(name)

    def __call__(self, name: str) -> BinaryIO:
        status = (self.root / name).stat()
        if not stat.S_ISREG(status.st_mode):  # to open a pipe or a device may never end
            raise DataError("not a regular file")
        _check_size(status.st_size)
        return (self.root / name).open("rb")


class _Tar:
    """The regular files of a tar. Each is read by its place, through a handle of its own, so that
    worker processes do not move one another's."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with tarfile.open(path, "r:") as archive:
                self.names = {
                    name: (member.offset_data, member.size)
                    for member in archive
                    if member.isfile() and not member.issparse()
                    if not any(map(_is_hidden, parts_of(member.name)))
                    for name in ["/".join(parts_of(member.name))]
                }
        except (OSError, tarfile.TarError, ValueError) as error:
            raise DataError(f"cannot read {path}: {reason(error)}") from None

    def __call__(self, name: str) -> BinaryIO:
        offset, size = self.names[name]
        _check_size(size)
        with self.path.open("rb") as archive:
            archive.seek(offset)
            return io.BytesIO(archive.read(size))


def _is_folder(entry: os.DirEntry) -> bool:
    """Whether it is, or leads to, a folder; of plain files the disk is not asked."""
    return Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir()


def _is_hidden(name: str) -> bool:
    """Whether a file or folder is none that people put there."""
    return name.startswith(".") or name in THUMBNAILS


def _check_size(size: int) -> None:
    if not size:  # of /proc, too, whose files may never end
        raise DataError("the file is empty")
    if size > FILE_BYTES:
        raise DataError(f"the file has more than {FILE_BYTES >> 20} MiB")


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _named(kinds: dict[str, int]) -> str:
    """How many files of what kinds there are."""
    common = sorted(kinds, key=lambda kind: (-kinds[kind], kind))
    named = [f"{kinds[kind]} {kind or 'without suffix'}" for kind in common[:5]]
    return ", ".join(named) + (", ..." if len(common) > 5 else "")
