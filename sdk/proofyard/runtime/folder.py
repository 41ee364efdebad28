"""The folder of a service: made where it is missing, and never used by two at a time."""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proofyard.protocol.types import ExitCode, ProofyardError

LOCK = ".lock"
SESSION = "session"


class FolderTaken(ProofyardError):
    """Another running service keeps its files there."""

    exit_code = ExitCode.USAGE

    def __init__(self, folder: Path, process: str = "") -> None:
        self.folder, self.process = folder, process
        who = f" as process {process}" if process else ""
        super().__init__(
            f"data_dir: {folder} belongs to a node or verifier that is running{who}; stop it, or give another wallet "
            "and --data-dir"
        )


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Keep `folder` for this process until it ends, however it ends. Raises `FolderTaken`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise FolderTaken(folder, lock.read(20).strip()) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def session_of(folder: Path) -> str:
    """What tells whoever runs from this folder from whoever runs from another: random, and kept in it."""
    file = folder / SESSION
    with contextlib.suppress(FileNotFoundError):
        if known := file.read_text().strip():
            return known[:64]
    session = secrets.token_hex(16)
    file.write_text(session)
    return session
