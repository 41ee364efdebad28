"""Which puts are under way in a store, in whichever process: files that are locked while they are, and as old as their
beginning. Times are those of the disk's clock (Unix seconds), which the times of blocks are by."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from proofyard.artifacts.files import new_name

STALE_SECONDS = 60.0
"""A file that is not locked is one of a process that died, unless it is so new that its lock may follow."""

TICK_SECONDS = 0.001


class Leases:
    """The leases in one folder. Its methods raise `OSError`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """A lease until the end, however that comes."""
        lease = self._folder / new_name()
        handle = os.open(lease, os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            lease.unlink(missing_ok=True)
            os.close(handle)

    def oldest(self) -> float:
        """When the oldest lease began that is held, or else now. Takes as long as the clock's tick, so that whatever
        was put before is older."""
        mark = self._folder / new_name()
        mark.touch()
        first = oldest = mark.stat().st_mtime
        while oldest <= first:
            time.sleep(TICK_SECONDS)
            os.utime(mark)
            oldest = mark.stat().st_mtime
        mark.unlink()
        for lease in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError), lease.open() as file:
                at = os.fstat(file.fileno()).st_mtime
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    oldest = min(oldest, at)
                else:
                    if at < oldest - STALE_SECONDS:
                        lease.unlink(missing_ok=True)
        return oldest
