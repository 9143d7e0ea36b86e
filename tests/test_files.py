"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from convswap.errors import ConvswapError
from convswap.support.files import check_new, new_file, new_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_and_fail(path: Path) -> None:
    with new_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("disk full")


def fill_and_fail(path: Path) -> None:
    with new_folder(path) as temporary:
        (temporary / "part").write_text("half")
        raise RuntimeError("disk full")


# check_new


def test_new_path_may_be_written(tmp_path: Path):
    assert check_new(str(tmp_path / "new"), force=False) == tmp_path / "new"


def test_existing_path_is_refused(tmp_path: Path):
    with pytest.raises(ConvswapError, match=r"exists - choose another name, or pass --force"):
        check_new(tmp_path, force=False)


def test_existing_path_may_be_forced(tmp_path: Path):
    (tmp_path / "file").write_text("old")
    assert check_new(tmp_path / "file", force=True) == tmp_path / "file"
    assert check_new(tmp_path, force=True, folder=True) == tmp_path


def test_force_does_not_turn_a_folder_into_a_file_nor_a_file_into_a_folder(tmp_path: Path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(ConvswapError, match="is a folder"):
        check_new(tmp_path, force=True)
    with pytest.raises(ConvswapError, match="is a file"):
        check_new(tmp_path / "file", force=True, folder=True)


def test_missing_parent_is_refused(tmp_path: Path):
    with pytest.raises(ConvswapError, match=r"none does not exist - create it first"):
        check_new(tmp_path / "none" / "new", force=True)


def test_relative_path_is_checked_in_the_current_folder(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert check_new("new", force=False) == Path("new")


# new_file


def test_file_is_written_and_nothing_beside_it(tmp_path: Path):
    with new_file(tmp_path / "a.json") as temporary:
        temporary.write_text("whole")
        assert names(tmp_path) != ["a.json"]
    assert names(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "whole"


def test_file_replaces_the_old_one(tmp_path: Path):
    (tmp_path / "a").write_text("old")
    with new_file(tmp_path / "a") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "a").read_text() == "old"
    assert (tmp_path / "a").read_text() == "new"


def test_failure_keeps_the_old_file_and_leaves_nothing(tmp_path: Path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError, match="disk full"):
        write_and_fail(tmp_path / "a")
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_file_in_the_current_folder(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with new_file("a") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "a").read_text() == "whole"


# new_folder


def test_folder_is_made_and_nothing_beside_it(tmp_path: Path):
    with new_folder(tmp_path / "out") as temporary:
        (temporary / "file").write_text("whole")
        assert not (tmp_path / "out").exists()
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["file"]
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("old", ["folder", "file"])
def test_folder_replaces_what_was_there(tmp_path: Path, old: str):
    if old == "folder":
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "stale").write_text("old")
    else:
        (tmp_path / "out").write_text("old")
    with new_folder(tmp_path / "out") as temporary:
        (temporary / "file").write_text("new")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["file"]


def test_failure_keeps_the_old_folder_and_leaves_nothing(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("old")
    with pytest.raises(RuntimeError, match="disk full"):
        fill_and_fail(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["kept"]
