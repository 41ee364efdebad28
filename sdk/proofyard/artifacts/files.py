"""Files that are written whole or not at all: aside, and renamed."""

import contextlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

import psutil

from proofyard.runtime.paths import require_replaceable


def new_name() -> str:
    """A name that nobody else takes, which begins with this process's number."""
    return f"{os.getpid()}-{secrets.token_hex(8)}"


def is_being_written(temporary: Path) -> bool:
    """Whether the process that this name begins with is alive and not this one, which has begun nothing yet."""
    process = temporary.name.partition("-")[0]
    return process.isdecimal() and int(process) != os.getpid() and psutil.pid_exists(int(process))


def write_whole(target: Path, pieces: Iterable[bytes], *, aside: Path | None = None, executable: bool = False) -> None:
    """Write a file. `aside` is a folder on the same file system to write it in first; else that is done beside it,
    under a name that does not grow with its own. Raises `OSError`."""
    if aside is None:
        require_replaceable(target)
    temporary = _temporary(target, aside)
    try:
        with temporary.open("wb") as file:
            for piece in pieces:
                file.write(piece)
            if executable:
                os.fchmod(file.fileno(), os.fstat(file.fileno()).st_mode | 0o111)
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_link(target: Path, to: str) -> None:
    """Make a symbolic link, instead of a file or link that is there. Raises `OSError`."""
    require_replaceable(target)
    temporary = _temporary(target, None)
    temporary.symlink_to(to)
    try:
        temporary.replace(target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Have a file or folder on the disk itself. Raises `OSError`."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _temporary(target: Path, aside: Path | None) -> Path:
    return target.with_name(f".{new_name()}.part") if aside is None else aside / new_name()
