"""Files that appear whole or not at all, and sentences for a disk that takes no more.

What is not finished lies in the hidden folder `.unfinished` beside its place, each
piece in a folder of its own that the process locks. The system lets go of the lock
however the process ends, so the next writer knows what was left, and removes it.
"""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

from fsgan.validation import check_name

try:
    import fcntl
except ImportError:  # on Windows, what a killed process left stays
    fcntl = None

UNFINISHED = ".unfinished"
LONGEST_NAME = 255  # bytes, on all common disks
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def unfinished(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder on the disk of `path`, where it can be prepared.

    The folder is removed at the end, with all that is still in it; after a kill, by
    the next call beside `path`.

    Args:
        path: output; its folders are created, and removed if they stay empty.

    Raises:
        OSError, ValueError: as of `check_output`, or the folder cannot be created or
            written to, or the disk is full.
    """
    check_output(Path(path))
    parent = Path(path).parent
    with preparing(Path(path)):
        new = [*takewhile(lambda it: not it.exists(), (parent, *parent.parents))]
        parent.mkdir(parents=True, exist_ok=True)
        folder, lock = _make_folder(parent / UNFINISHED)
    try:
        with full_disk_named(path):
            yield folder
    finally:
        try:
            folder.rmdir()  # ten times as fast as rmtree
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)
        with suppress(OSError):  # others use it
            for empty in (folder.parent, *new):
                empty.rmdir()


@contextmanager
def write_beside(path: str | Path) -> Iterator[Path]:
    """Yield the name of a hidden file that becomes `path` on a clean exit.

    Any exception removes the hidden file and leaves what was at `path` before.

    Args:
        path: file to write; its folder is created.

    Raises:
        IsADirectoryError: `path` is a folder.
        OSError: the folder cannot be created or written to, or the disk is full.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path} is a folder; give the name of a file")
    with unfinished(path) as folder:
        temporary = folder / f"_{path.suffix}"  # short, whatever the name
        yield temporary
        os.replace(temporary, path)


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file, whole or not at all.

    Args:
        path: the file.
        content: of JSON's own types.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    with write_beside(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


def check_output(path: Path) -> None:
    """Refuse a name that no output can have.

    Raises:
        ValueError: it is empty, too long or not UTF-8, or that of a pipe or a device.
        NotADirectoryError: its folder is a file.
    """
    check_name(path)
    if path.name in ("", ".."):
        raise ValueError(f"{path} is no name of its own: give one to write to")
    too_long = max(len(os.fsencode(part)) for part in path.parts) - LONGEST_NAME
    if too_long > 0:
        raise ValueError(f"{path} is too long a name by {too_long} bytes: shorten it")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path} is a pipe or a device: give another name")
    there = next(filter(os.path.lexists, path.parents), Path())
    if not there.is_dir():
        raise NotADirectoryError(
            f"{path} cannot be written: {there} is no folder; choose another output "
            "folder"
        )


@contextmanager
def preparing(path: Path) -> Iterator[None]:
    """Say in one sentence that an output cannot be written where it should be."""
    with full_disk_named(path):
        try:
            yield
        except OSError as error:
            if error.errno in _DISK_FULL:
                raise
            raise type(error)(
                f"{path} cannot be written ({error.strerror}); choose another output "
                "folder"
            ) from error


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Say in one sentence that the disk or the quota is full; `errno` is kept."""
    try:
        yield
    except Exception as error:  # those of FFmpeg are no OSError
        number = getattr(error, "errno", None)
        if number not in _DISK_FULL:
            raise
        told = OSError(
            f"{path} cannot be written: the disk is full; make room and start again"
        )
        told.errno = number
        raise told from error


def _make_folder(shared: Path) -> tuple[Path, int | None]:
    """Make a folder in `shared`; returns its lock, too, where there are locks."""
    for _ in range(100):
        # Others may remove either folder until it is locked.
        with suppress(FileNotFoundError):
            try:
                shared.mkdir()
            except FileExistsError:
                _clean(shared)
            folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=shared))
            if fcntl is None:
                return folder, None
            lock = os.open(folder, os.O_DIRECTORY)
            with suppress(OSError):  # some network disks have no locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)
    raise FileNotFoundError(errno.ENOENT, "it vanishes", shared)


def _clean(shared: Path) -> None:
    """Remove what no process holds."""
    for folder in shared.glob("[0-9]*-*") if fcntl else ():
        with suppress(OSError):
            lock = os.open(folder, os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)
