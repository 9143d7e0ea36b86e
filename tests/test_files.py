"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path

import pytest

from convswap.errors import ConvswapError
from convswap.support import files
from convswap.support.files import (
    PARTS,
    check_new,
    claimed,
    new_file,
    new_folder,
    one_writer,
    read_text,
    user_cache,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_and_fail(path: Path) -> None:
    with new_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("disk full")


# check_new


def test_new_path_may_be_written(tmp_path: Path):
    assert check_new(str(tmp_path / "new"), force=False) == tmp_path / "new"


def test_existing_path_is_refused(tmp_path: Path):
    with pytest.raises(ConvswapError, match=r"exists - choose .*--force \(in Python force=True\)"):
        check_new(tmp_path, force=False, signs=["sign"])


def test_existing_path_may_be_forced(tmp_path: Path):
    (tmp_path / "file").write_text("old")
    assert check_new(tmp_path / "file", force=True) == tmp_path / "file"
    assert check_new(tmp_path, force=True, signs=["file"]) == tmp_path


def test_force_does_not_turn_a_folder_into_a_file_nor_a_file_into_a_folder(tmp_path: Path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(ConvswapError, match="is a folder"):
        check_new(tmp_path, force=True)
    with pytest.raises(ConvswapError, match="is a file"):
        check_new(tmp_path / "file", force=True, signs=["sign"])


def test_a_folder_that_may_not_be_written_to_is_refused_at_once(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root always may
    with pytest.raises(ConvswapError, match="may not be written to"):
        check_new(tmp_path, force=True, signs=["sign"])


@pytest.mark.parametrize("name", ["/", ".", "", "..", "a/.."])
def test_an_output_without_a_name_is_refused(tmp_path: Path, monkeypatch, name: str):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConvswapError, match="has no name"):
        check_new(name, force=True, signs=["sign"])


def test_force_replaces_what_is_ours_or_empty(tmp_path: Path):
    signs = ["sign", "folder/sign"]
    check_new(tmp_path, force=True, signs=signs)
    (tmp_path / "file").write_text("precious")
    for force in (True, False):  # which is not offered in vain
        with pytest.raises(ConvswapError, match="holds something else"):
            check_new(tmp_path, force=force, signs=signs)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "sign").write_text("")
    check_new(tmp_path, force=True, signs=signs)


@pytest.mark.parametrize("name", PARTS)
def test_a_file_of_an_artifact_is_not_replaced_by_another(tmp_path: Path, name: str):
    (tmp_path / "convswap.json").write_text("{}")
    with pytest.raises(ConvswapError, match=f"{name} is a part of an artifact"):
        check_new(tmp_path / name, force=True)
    (tmp_path / "convswap.json").unlink()
    assert check_new(tmp_path / name, force=True) == tmp_path / name


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


def test_files_follow_the_umask(tmp_path: Path):
    before = os.umask(0o027)
    try:
        with new_file(tmp_path / "a") as temporary:
            temporary.write_text("whole")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_file_in_a_folder_that_does_not_exist_is_refused_at_once(tmp_path: Path):
    with pytest.raises(OSError, match="folder does not exist"), new_file(tmp_path / "no" / "a"):
        pass


def test_a_folder_that_goes_meanwhile_is_told(tmp_path: Path):
    (tmp_path / "gone").mkdir()

    def write_and_remove() -> None:
        with new_file(tmp_path / "gone" / "a") as temporary:
            temporary.write_text("whole")
            shutil.rmtree(tmp_path / "gone")

    with pytest.raises(FileNotFoundError):
        write_and_remove()
    assert names(tmp_path) == []


# new_folder


def test_a_folder_appears_whole_or_its_files_take_their_places(tmp_path: Path):
    with new_folder(tmp_path / "out") as new:
        (new / "a").write_text("first")
        assert "out" not in names(tmp_path)
    (tmp_path / "out" / "mine").write_text("kept")
    with new_folder(tmp_path / "out") as new:
        (new / "a").write_text("second")
        assert (tmp_path / "out" / "a").read_text() == "first"
    assert names(tmp_path) == ["out"]
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {
        "a": "second", "mine": "kept",
    }  # fmt: skip


def test_a_folder_that_fails_is_not_there(tmp_path: Path):
    def write_and_fail() -> None:
        with new_folder(tmp_path / "out") as new:
            (new / "a").write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_and_fail()
    assert names(tmp_path) == []


# links and other things that are no files


@pytest.mark.parametrize("target", ["file", "nowhere"])
def test_a_link_to_a_file_is_never_replaced(tmp_path: Path, target: str):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(ConvswapError, match="symbolic link"):
        check_new(tmp_path / "link", force=True)
    assert (tmp_path / "link").is_symlink()


def test_a_link_to_a_folder_is_followed(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert check_new(tmp_path / "link", force=True, signs=["sign"]) == tmp_path / "link"


@pytest.mark.parametrize(
    "make",
    [
        lambda lock: os.mkfifo(lock),
        lambda lock: lock.symlink_to("nowhere/at/all"),
    ],
)
def test_a_lock_that_is_none_is_not_waited_for(tmp_path: Path, make):
    (tmp_path / ".a.convswap").mkdir()
    make(tmp_path / ".a.convswap" / "lock")
    with pytest.raises(OSError, match="lock"), claimed(tmp_path / "a"):
        pass


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="Linux")
def test_a_place_where_nothing_can_be_made_is_named_and_not_waited_for():
    with pytest.raises(OSError, match="'/proc/a'"), claimed("/proc/a"):
        pass


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), KeyboardInterrupt()]
)
def test_a_room_without_a_lock_does_not_stay(tmp_path: Path, monkeypatch, error: BaseException):
    def fails(*args: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fails)
        with pytest.raises(type(error)), claimed(tmp_path / "a"):
            pass
    assert names(tmp_path) == []


def test_a_stop_while_a_room_is_made_leaves_nothing(tmp_path: Path, monkeypatch):
    opened = os.open

    def stopped(path: object, *args: object) -> int:
        descriptor = opened(path, *args)
        if Path(path).name == "lock":
            signal.raise_signal(signal.SIGINT)
        return descriptor

    monkeypatch.setattr(os, "open", stopped)
    with pytest.raises(KeyboardInterrupt), claimed(tmp_path / "a"):
        pass
    assert names(tmp_path) == []


def test_a_pipe_is_neither_written_nor_read(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConvswapError, match="device or pipe"):
        check_new(tmp_path / "pipe", force=True)
    with pytest.raises(OSError, match="not a regular file"):
        read_text(tmp_path / "pipe")


def test_a_large_text_is_not_read(tmp_path: Path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="larger than 4096 KiB"):
        read_text(tmp_path / "large")


# one writer at a time

HOLD = """
import sys, time
from convswap.support.files import check_new, one_writer
with one_writer():
    check_new(sys.argv[1], True, signs=["sign"])
    print("mine", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other_writer(nursery, tmp_path: Path):
    """Another process that writes `out`."""
    run = nursery.start(HOLD, tmp_path / "out", cwd=tmp_path)
    assert run.says("mine")
    yield run
    run.end()


@pytest.mark.parametrize("exists", [False, True])
def test_a_second_run_on_one_output_is_refused_at_its_start(exists, other_writer, tmp_path: Path):
    if exists:  # made by the first run meanwhile
        (tmp_path / "out").mkdir()
    with one_writer(), pytest.raises(ConvswapError, match="another run is writing"):
        check_new(tmp_path / "out", force=True, signs=["sign"])


def test_what_a_killed_run_left_is_removed_by_the_next(other_writer, tmp_path: Path):
    (tmp_path / ".out.convswap" / "half").write_text("half")
    other_writer.end()
    assert names(tmp_path) == [".out.convswap"]
    with one_writer():
        check_new(tmp_path / "out", force=False, signs=["sign"])
    assert names(tmp_path) == []


def test_one_process_may_claim_an_output_again_and_nothing_is_left(tmp_path: Path):
    with one_writer():
        check_new(tmp_path / "a", force=False)
        with new_file(tmp_path / "a") as temporary:
            temporary.write_text("whole")
    assert names(tmp_path) == ["a"]


def test_being_stopped_while_it_clears_away_leaves_nothing(tmp_path: Path, monkeypatch):
    clear, seen = files._clear, []

    def stopped(room: Path) -> None:
        seen.append(room)
        if len(seen) == 2:  # the first time is before anything is written
            signal.raise_signal(signal.SIGINT)
        clear(room)

    def write() -> None:
        with new_file(tmp_path / "a") as temporary:
            temporary.write_text("whole")

    monkeypatch.setattr(files, "_clear", stopped)
    with pytest.raises(KeyboardInterrupt):
        write()
    assert names(tmp_path) == ["a"]


def test_a_room_that_is_a_link_is_refused(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_text("data")
    (tmp_path / ".a.convswap").symlink_to("elsewhere")
    with pytest.raises(ConvswapError, match="symbolic link"), claimed(tmp_path / "a"):
        pass
    assert names(tmp_path / "elsewhere") == ["kept"]


@pytest.mark.skipif(os.name != "posix", reason="who owns what is POSIX")
def test_what_another_user_has_left_is_told(tmp_path: Path, monkeypatch):
    (tmp_path / ".a.convswap").mkdir()
    (tmp_path / ".a.convswap" / "lock").touch()
    (tmp_path / "b").write_text("theirs")
    tmp_path.chmod(0o1777)

    def refuse(path, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    with pytest.raises(ConvswapError, match="b may not be written to"):
        check_new(tmp_path / "b", force=True)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match=r"another user's run .*a\.convswap"), claimed(tmp_path / "a"):
        pass
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OSError, match=r"Permission denied: .*/c'"), claimed(tmp_path / "c"):
        pass


def test_writers_of_one_file_wait_for_each_other(nursery, tmp_path: Path):
    code = (
        "import sys\nfrom convswap.support.files import new_file\nfor _ in range(20):\n"
        "    with new_file(sys.argv[1]) as file:\n        file.write_text('whole')\n"
    )
    writers = [nursery.start(code, tmp_path / "a", cwd=tmp_path) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert names(tmp_path) == ["a"]


# user_cache


def test_what_is_kept_lies_where_the_user_wants_it(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache("latency") == tmp_path / "convswap" / "latency"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert user_cache("latency").parts[-3:] == (".cache", "convswap", "latency")


def test_without_a_home_nothing_is_kept(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "~nobody-of-this-name/cache")
    with pytest.raises(OSError, match=os.devnull):
        user_cache("latency").mkdir(parents=True)
