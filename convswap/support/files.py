"""Reading and writing without loss: nothing but regular files of a sane size is read, everything
is written under a temporary name, then renamed, and one output has one writer at a time."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TextIO

from ..errors import ConvswapError
from .signals import collected

try:
    import fcntl
except ImportError:  # Windows: two writers are not told apart there
    fcntl = None

# The files of an artifact folder.
DESCRIPTION, WEIGHTS, CONFIG = PARTS = "convswap.json", "model.safetensors", "config.json"
FRONTIER = "frontier.json"  # of the folder of a sweep
TEXT_BYTES = 4 << 20  # most that a description, a plan or a recipe may have
_LOCK = os.O_WRONLY | os.O_CREAT
_LOCK |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # no link, no pipe
_rooms: dict[Path, Path] = {}  # what this process is writing -> the room it is written in
_command: ContextVar[ExitStack | None] = ContextVar("command", default=None)


def read_text(path: str | Path, most: int = TEXT_BYTES) -> str:
    """The content of a small text file.

    Raises:
        OSError: it cannot be read, is no regular file (a pipe never ends), or is too large.
        ValueError: it is no text in UTF-8.
    """
    check_regular(path, most)
    try:
        return Path(path).read_text(encoding="utf-8-sig")  # some editors begin with a mark
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None


def check_regular(path: str | Path, most: int | None = None) -> None:
    """Raise `OSError` unless there is a regular file of at most so many bytes, and some: those of
    /proc say none, and reading them may never end."""
    found = Path(path).stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(None, "not a regular file", str(path))
    if not found.st_size:
        raise OSError(None, "an empty file", str(path))
    if most is not None and found.st_size > most:
        raise OSError(None, f"larger than {most >> 10} KiB", str(path))


def is_there(path: Path) -> bool:
    """Whether a path leads to anything; what can be no name does not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def check_new(path: str | Path, force: bool, signs: Sequence[str] = ()) -> Path:
    """The path, if it may be written: nothing is there yet, or `force` is set and it is of ours.

    Inside `one_writer` nobody else may write it from here on.

    Args:
        signs: the files that what convswap writes there is known by, if it is a folder.

    Raises:
        ConvswapError: it exists, or is of the other kind, or holds something else, or has no name,
            or its parent folder does not exist, or it is a part of an artifact, or another run is
            writing it, or this one something else there.
    """
    path = Path(path)
    if path.name in ("", ".."):
        raise ConvswapError(f"{path} has no name of its own", do="name what is to be written")
    if path.is_symlink() and not (signs and path.is_dir()):
        raise ConvswapError(f"{path} is a symbolic link", do="name the place it leads to")
    if path.name in PARTS and is_there(path.with_name(DESCRIPTION)):
        raise ConvswapError(f"{path} is a part of an artifact", do="choose another name")
    if path.exists():
        if not (path.is_dir() if signs else path.is_file()):
            kind = "folder" if path.is_dir() else "file" if path.is_file() else "device or pipe"
            raise ConvswapError(f"{path} is a {kind}", do="choose another name")
        if signs and not _may_hold(path, signs):
            raise ConvswapError(f"{path} holds something else", do="choose another name")
        if not _may_change(path):
            raise ConvswapError(f"{path} may not be written to", do="choose another name")
        if not force:
            raise ConvswapError(
                f"{path} exists", do="choose another name, or pass --force (in Python force=True)"
            )
    check_parent(path)
    if command := _command.get():
        if not signs and _place(path) in _rooms:
            raise ConvswapError(f"{path} would be written twice", do="choose another name")
        command.enter_context(claimed(path))
    return path


def _may_change(path: Path) -> bool:
    """Whether files may be put in a folder, or another in the place of a file: not where it is
    another user's, in a folder such as /tmp."""
    if path.is_dir():
        return os.access(path, os.W_OK)
    folder = path.absolute().parent
    sticky = folder.stat().st_mode & stat.S_ISVTX
    return not (sticky and _is_anothers(path) and _is_anothers(folder))


def _is_anothers(path: Path) -> bool:
    """Whether another user owns what is at a path; root may do what they may."""
    return os.name == "posix" and os.geteuid() not in (0, path.stat().st_uid)


def _may_hold(folder: Path, signs: Sequence[str]) -> bool:
    """Whether a folder is empty, but for rooms, or holds one of the files that what convswap writes
    there is known by."""
    return any((folder / sign).exists() for sign in signs) or all(
        path.name.endswith(".convswap") for path in folder.iterdir()
    )


def check_parent(path: Path) -> None:
    """Raise `ConvswapError` unless the folder that a path lies in exists."""
    if not (parent := path.absolute().parent).is_dir():
        raise ConvswapError(f"folder {parent} does not exist", do="create it first")


def user_cache(what: str) -> Path:
    """The user's folder for what was found out once and is kept; a place where nothing can be
    where a user has no home, as in containers."""
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:
        root = Path(os.devnull)
    return root / "convswap" / what


@contextmanager
def one_writer() -> Iterator[None]:
    """What `check_new` allows inside is this process's alone to write until the end."""
    with ExitStack() as stack:
        token = _command.set(stack)
        try:
            yield
        finally:
            _command.reset(token)


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """A temporary name to write to; it takes the name `path` if all went well."""
    path = Path(path)
    with claimed(path, wait=True) as room, named(path, room):
        temporary = room / path.name
        yield temporary
        settle(temporary)
        os.replace(temporary, path)
        settle(path.parent)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder to write files in; it takes the name `path` if all went well. Where that
    exists, the files take the places of those of the same names, and others stay."""
    path = Path(path)
    with claimed(path, wait=True) as room, named(path, room):
        new = room / "new"
        new.mkdir()
        yield new
        for each in (*new.iterdir(), new):
            settle(each)
        if path.is_dir():
            for file in new.iterdir():
                os.replace(file, path / file.name)
            settle(path)
        else:
            new.rename(path)
            settle(path.absolute().parent)


@contextmanager
def claimed(path: str | Path, *, wait: bool = False) -> Iterator[Path]:
    """An empty folder beside `path` to write it in, of this process alone: a room. What a killed
    run left there is removed.

    Args:
        wait: until another process is done, rather than give up.

    Raises:
        ConvswapError: another process is writing `path`.
    """
    path = _place(Path(path))
    if path in _rooms:
        yield _rooms[path]
        return
    room = path.with_name(f".{path.name}.convswap")
    if path.is_dir() and not os.access(path.parent, os.W_OK):  # such as a mounted volume
        room = path / ".convswap"
    with ExitStack() as stack:
        with nullcontext() if wait else collected():  # nobody stops before there is what clears it
            stack.enter_context(_enter(room, wait, path))
            _rooms[path] = room
            stack.callback(_leave, path)
        _clear(room)
        yield room


def _leave(path: Path) -> None:
    """Remove the room that `path` was written in."""
    room = _rooms.pop(path)
    with collected():  # whoever is asked to stop here clears all of it
        try:
            _clear(room)
        finally:
            (room / "lock").unlink(missing_ok=True)
            with suppress(OSError):  # the next owner may have come in already
                room.rmdir()


def _place(path: Path) -> Path:
    """A path by the one name that its folder has; the path itself may be a link."""
    path = path.absolute()
    return path.parent.resolve() / path.name


@contextmanager
def named(path: Path, room: Path) -> Iterator[None]:
    """The system's errors that name no file, as where a disk is full, or one in the room that
    `path` is written in, name `path`."""
    try:
        yield
    except OSError as error:
        if error.errno and str(error.filename or room).startswith(str(room)):
            error.filename = str(path)
        raise


def settle(path: Path) -> None:
    """Have a file, or the names in a folder, written to the disk itself: a rename may otherwise
    outlive a power cut that the content does not."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _enter(room: Path, wait: bool, path: Path) -> TextIO:
    """The lock of a room, held while the file is open: it goes with a process that is killed."""
    if room.is_symlink():
        raise ConvswapError(f"{room} is a symbolic link", do="remove it")
    while True:
        try:
            lock = _opened(room)
        except PermissionError as error:
            if is_there(room) and _is_anothers(room):
                said = "another user's run is writing here, or has left this"
                raise PermissionError(error.errno, said, str(room)) from None
            raise PermissionError(error.errno, error.strerror, str(path)) from None
        except FileExistsError:
            if room.exists() and not room.is_dir():
                raise
            continue
        except FileNotFoundError as error:
            if error.filename == str(room / "lock"):  # the last owner has just left
                continue
            if room.parent.is_dir():  # where nothing can be made, such as /proc
                raise FileNotFoundError(error.errno, error.strerror, str(path)) from None
            raise FileNotFoundError(
                errno.ENOENT, "folder does not exist", str(room.parent)
            ) from None
        try:
            if fcntl:
                fcntl.lockf(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except (BlockingIOError, PermissionError):
            lock.close()
            raise ConvswapError(
                f"another run is writing {path}", do="wait for it, or choose another name"
            ) from None
        if os.fstat(lock.fileno()).st_nlink:
            return lock
        lock.close()  # the last owner has removed it meanwhile


def _opened(room: Path) -> TextIO:
    """The file of a lock, in a room that is made if need be, and does not stay without one."""
    room.mkdir(exist_ok=True)
    try:
        return os.fdopen(os.open(room / "lock", _LOCK, 0o666), "w")
    except BaseException:  # such as too many open files, a umask of 777, being stopped
        with suppress(OSError):  # it is not empty
            room.rmdir()
        raise


def _clear(room: Path) -> None:
    for child in room.iterdir() if room.is_dir() else ():  # gone with the folder it was in
        if child.name != "lock":
            shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
