"""What folders are there for that are no classes: parts of a data set, masks of its images, and
what those should become."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
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
# Of pairs: what goes into a network, and what should come out of it.
_GIVEN = re.compile(
    "lr(bicubic|bic|unknown|mild|difficult|wild)?x?(sub)?|lq|blur(red|ry)?|nois[ye]|hazy|haze|rainy?"
    "|degraded|(?:(?<=^train)|(?<=^test)|(?<=^val)|^)a$"
)
_WANTED = re.compile(
    "hr(sub)?|hq|gt(mod)?|original|sharp|clean|clear|norain"
    "|(?:(?<=^train)|(?<=^test)|(?<=^val)|^)b$"
)
# after the name of an image, in the same folder: cat_mask.png, cat_mask_1.png
_MASK_OF = re.compile(rf"(?i)(.+)[ _.-](?:{_MASKS.pattern})(?:[ _.-]?\d+)?$")
_SCALE = re.compile(r"[xX]\d+(_sub)?$")  # of the same images, made smaller


def below_the_shared(files: Sequence[str]) -> list[list[str]]:
    """The parts of each path, without the folders that all of them lie in."""
    depth = len(shared_by(files))
    return [parts_of(name)[depth:] for name in files]


def shared_by(files: Sequence[str]) -> list[str]:
    """The folders that all files lie in, one within the other."""
    return parts_of(posixpath.commonpath([posixpath.dirname(name) for name in files]))


def parts_of(name: str) -> list[str]:
    """The folders of a path, and its name."""
    return [part for part in name.split("/") if part not in ("", ".")]


def classes_of(files: Sequence[str]) -> list[str]:
    """The folders where paths part."""
    return list(dict.fromkeys(parts[0] for parts in below_the_shared(files) if len(parts) > 1))


def one_split(source: str, files: list[str], held_out: bool) -> tuple[list[str], list[str], str]:
    """The files to train on, or those to judge by, of a source that has both; the others of the
    two; what was taken.

    The names of the two folders are alike but for the words and for numbers, as train2017 and
    val2017, trainA and testA; classes of which one is a train are not.
    """
    below = below_the_shared(files)
    alike: dict[str, dict[str, str]] = defaultdict(dict)
    for folder in dict.fromkeys(parts[0] for parts in below if len(parts) > 1):
        part, rest = part_of(folder)
        if part:
            alike[rest].setdefault(part, folder)
    for words in alike.values():
        train, judge = (next((words[w] for w in kind if w in words), None)
                        for kind in (TRAIN, JUDGE))  # fmt: skip
        if train and judge:
            taken, other = (judge, train) if held_out else (train, judge)
            note = f"of {source}, which has {train}/ and {judge}/, {taken}/ is used"
            within: dict[str, list[str]] = defaultdict(list)
            for name, (folder, *_) in zip(files, below, strict=True):
                within[folder].append(name)
            return within[taken], within[other], note
    return files, [], ""


def part_of(name: str) -> tuple[str, str]:
    """The word for a part of a data set in a name, as `train` in `X_train`, and the rest of it, in
    small letters; nothing and the name if there is no such word."""
    word = _PART.search(name)
    rest = name[: word.start()] + name[word.end() :] if word else name
    return (word[0].lower() if word else ""), _letters(rest)


def without_masks(source: str, files: list[str]) -> tuple[list[str], str]:
    """The files but for those of folders like masks/ beside one like images/; what was left out.

    The names of the two folders are alike but for the words and for numbers, as train_images and
    train_masks: classes of which one is a mask stay.
    """
    above = _folders_above(files)
    masks = {mask for mask, _ in _beside(above, _MASKS, _IMAGES)}
    return _left_out(source, files, above, masks, "they lie beside images")


def without_masks_of(source: str, files: list[str]) -> tuple[list[str], str]:
    """The files but for those named like another in the same folder, with a word like mask after
    its name; what was left out."""
    stems = {posixpath.splitext(name)[0] for name in files}
    masks = {
        name
        for name in files
        if (found := _MASK_OF.match(posixpath.splitext(name)[0])) and found[1] in stems
    }
    if not masks:
        return files, ""
    first = posixpath.basename(min(masks))
    note = f"left out {len(masks)} files of {source} like {first}, for they lie beside images"
    return [name for name in files if name not in masks], note


def one_of_pairs(source: str, files: list[str]) -> tuple[list[str], str]:
    """The files but for those that others should become, as of LR/ and HR/, blur/ and sharp/,
    trainA/ and trainB/; what was left out.

    They are pairs if the two folders hold files of the same names, and no others lie beside them:
    noisy/ and clean/ may be classes as well.
    """
    above = _folders_above(files)
    names: dict[str, set[str]] = defaultdict(set)
    for name in files:
        for folder in above[posixpath.dirname(name)]:
            below = name[len(folder) :].rpartition(".")[0]
            names[folder].add(re.sub(r"x\d+([mdw]\d*)?$", "", posixpath.basename(below)))
    pairs = [
        (wanted, given)
        for wanted, given in _beside(above, _WANTED, _GIVEN)
        if names[wanted] == names[given] or _PART.match(posixpath.basename(wanted))
    ]
    paired = {folder for pair in pairs for folder in pair}
    parents = {posixpath.dirname(folder) for folder in paired}
    if any(posixpath.dirname(folder) in parents and folder not in paired for folder in names):
        return files, ""
    given = ", ".join(sorted({f"{posixpath.basename(given)}/" for _, given in pairs}))
    return _left_out(
        source, files, above, {wanted for wanted, _ in pairs},
        f"they are what those in {given} should become",
    )  # fmt: skip


def _folders_above(files: Sequence[str]) -> dict[str, list[str]]:
    """By folder that holds files, the paths of all folders above it, and its own."""
    holding = {posixpath.dirname(name) for name in files}
    return {folder: [*accumulate(parts_of(folder), posixpath.join)] for folder in holding}


def _beside(
    above: Mapping[str, Sequence[str]], some: re.Pattern, others: re.Pattern
) -> list[tuple[str, str]]:
    """Folders named like `some`, each with one beside it that is named like `others`: their names
    are alike but for those words and for numbers."""
    named = {path: _letters(posixpath.basename(path)) for paths in above.values() for path in paths}
    rests: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path, name in named.items():
        if others.search(name):
            rests[posixpath.dirname(path), others.sub("", name)].append(path)
    found = []
    for path, name in named.items():
        rest = posixpath.dirname(path), others.sub("", some.sub("", name))
        if some.search(name):
            found += [(path, other) for other in rests.get(rest, ()) if other != path]
    return found


def are_scales(folders: Sequence[str]) -> bool:
    """Whether folders hold the same images in several sizes, as X2/ and X3/ do."""
    return all(_SCALE.match(folder) for folder in folders)


def _left_out(
    source: str, files: list[str], above: Mapping[str, Sequence[str]], folders: set[str], why: str
) -> tuple[list[str], str]:
    """The files that do not lie in some folders, and a line on those that do."""
    if not folders:
        return files, ""
    kept = [name for name in files if folders.isdisjoint(above[posixpath.dirname(name)])]
    names = ", ".join(sorted({f"{posixpath.basename(path)}/" for path in folders}))
    return kept, f"left out {len(files) - len(kept)} files of {source} in {names}, for {why}"


def _letters(folder: str) -> str:
    return re.sub(r"[\W\d_]", "", folder.lower())
