"""The directory that a local network lives in: made anew for each run, and never shared by two."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proofyard.devnet.errors import DirectoryTaken

MARKER = ".proofyard-devnet"


@contextmanager
def fresh_directory(path: Path) -> Iterator[Path]:
    """`path`, emptied of an earlier run's files and locked against another network.

    Raises `DirectoryTaken` where a network runs in it, or where it holds files that no network made.
    """
    if path.exists() and not path.is_dir():
        raise DirectoryTaken(path, "is a file; choose another --dir")
    marker = path / MARKER
    if path.exists() and any(path.iterdir()) and not marker.exists():
        raise DirectoryTaken(path, "holds other files; choose another --dir")
    path.mkdir(parents=True, exist_ok=True)
    with marker.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DirectoryTaken(
                path, "belongs to a network that is running; stop it or choose another --dir"
            ) from None
        except OSError as error:
            raise DirectoryTaken(path, f"cannot be locked ({error.strerror}); choose another --dir") from None
        for entry in path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry != marker:
                entry.unlink()
        yield path
