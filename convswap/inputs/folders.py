"""What folders are there for that are no classes: parts of a data set, and masks of its images."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate

TRAIN = ("train", "training")  # each in order: where there are several, the first is taken
JUDGE = ("val", "valid", "validation", "eval", "evaluation", "dev", "test", "testing")
_LONGEST_FIRST = "|".join(sorted((*TRAIN, *JUDGE), key=len, reverse=True))
_PART = re.compile(rf"(?<![A-Za-z])(?i:{_LONGEST_FIRST})(?![a-z])")  # trainA, but not trains
_IMAGES = re.compile("jpegimages|leftimgbit|images?|imgs?|photos?|pictures?|inputs?|rgb")
_MASKS = re.compile(
    "segmentation(class|object)?(raw|aug)?|segs?|masks?|labels?|annotations?|annots?"
    "|gt(fine|coarse)?|groundtruths?|trimaps?|targets?|depths?"
)


def below_the_shared(files: Sequence[str]) -> list[list[str]]:
    """The parts of each path, without the folders that all of them lie in."""
    depth = len(parts_of(posixpath.commonpath([posixpath.dirname(name) for name in files])))
    return [parts_of(name)[depth:] for name in files]


def parts_of(name: str) -> list[str]:
    """The folders of a path, and its name."""
    return [part for part in name.split("/") if part not in ("", ".")]


def one_split(source: str, files: list[str], held_out: bool) -> tuple[list[str], str]:
    """The files to train on, or those to judge by, of a source that has both; what was taken.

    The names of the two folders are alike but for the words and for numbers, as train2017 and
    val2017, trainA and testA; classes of which one is a train are not.
    """
    below = below_the_shared(files)
    alike: dict[str, dict[str, str]] = defaultdict(dict)
    for folder in dict.fromkeys(parts[0] for parts in below if len(parts) > 1):
        if word := _PART.search(folder):
            rest = _letters(folder[: word.start()] + folder[word.end() :])
            alike[rest].setdefault(word[0].lower(), folder)
    for words in alike.values():
        train, judge = (next((words[w] for w in kind if w in words), None)
                        for kind in (TRAIN, JUDGE))  # fmt: skip
        if train and judge:
            taken = judge if held_out else train
            note = f"of {source}, which has {train}/ and {judge}/, {taken}/ is used"
            return [n for n, parts in zip(files, below, strict=True) if parts[0] == taken], note
    return files, ""


def without_masks(source: str, files: list[str]) -> tuple[list[str], str]:
    """The files but for those of folders like masks/ beside one like images/; what was left out.

    The names of the two folders are alike but for the words and for numbers, as train_images and
    train_masks: classes of which one is a mask stay.
    """
    holding = {posixpath.dirname(name) for name in files}
    above = {folder: [*accumulate(parts_of(folder), posixpath.join)] for folder in holding}
    named = {path: _letters(posixpath.basename(path)) for paths in above.values() for path in paths}
    images = {
        (posixpath.dirname(path), _IMAGES.sub("", name))
        for path, name in named.items()
        if _IMAGES.search(name)
    }
    masks = {
        path
        for path, name in named.items()
        if _MASKS.search(name)
        and (posixpath.dirname(path), _IMAGES.sub("", _MASKS.sub("", name))) in images
    }
    kept = [name for name in files if masks.isdisjoint(above[posixpath.dirname(name)])]
    if not masks:
        return files, ""
    names = ", ".join(sorted({f"{posixpath.basename(path)}/" for path in masks}))
    left = len(files) - len(kept)
    return kept, f"left out {left} files of {source} in {names}, for they lie beside images"


def _letters(folder: str) -> str:
    return re.sub(r"[\W\d_]", "", folder.lower())
