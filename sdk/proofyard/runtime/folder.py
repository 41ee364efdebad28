"""The folder of a service: made where it is missing, and never used by two at a time."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proofyard.protocol.types import ExitCode, ProofyardError

LOCK = ".lock"


class FolderTaken(ProofyardError):
    """Another running service keeps its files there."""

    exit_code = ExitCode.USAGE

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(
            f"data_dir: {folder} belongs to a node or verifier that is running; stop it, or give another --data-dir"
        )


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Keep `folder` for this process until it ends, however it ends. Raises `FolderTaken`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderTaken(folder) from None
        yield
