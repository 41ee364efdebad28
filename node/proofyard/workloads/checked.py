"""Which models were compared with transformers' own on this machine: files in this user's cache, named by model and
comparison.

A process in the sandbox writes none: it tells whoever started it, which writes it for that process's model alone. So
one model's code can say nothing of another's.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from proofyard.workloads.errors import ExecutionError

WRITTEN_S = 10.0
"""Whoever is told has written it by then."""
TURN_S, LOOK_S = 300.0, 0.1
_KEY = re.compile(r"[0-9a-f]{32}")


def checked_folder() -> Path:
    """Where the files are, made if it is not there."""
    folder = Path(platformdirs.user_cache_dir("proofyard")) / "checked"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


@dataclass(frozen=True)
class Checked:
    """What was found of one model, called `model`. `tell` is how a process in the sandbox has it written."""

    folder: Path
    model: str = ""
    tell: Callable[[str, float], None] | None = None

    def has(self, key: str) -> bool:
        """Whether the comparison `key`, 32 hexadecimal digits, was made and passed."""
        return self._file(key).exists()

    def add(self, key: str, apart: float) -> None:
        """Note that it was, and how far they were apart, or have it noted."""
        (self.tell or self._write)(key, apart)

    def wait(self, key: str) -> None:
        """Wait until it is written. Raises `ExecutionError` where nobody does."""
        until = time.monotonic() + WRITTEN_S
        while not self.has(key):
            if time.monotonic() > until:
                raise ExecutionError("that this model was compared with transformers' is not written down")
            time.sleep(0.005)

    @contextlib.contextmanager
    def turn(self, model: Path) -> Iterator[None]:
        """One process at a time compares the model in a directory: several nodes on one machine start at once. Whoever
        may read it can keep the lock, so nobody waits for it longer than `TURN_S`."""
        lock = os.open(model / "config.json", os.O_RDONLY | os.O_CLOEXEC)
        until = time.monotonic() + TURN_S
        try:
            while time.monotonic() < until:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                time.sleep(LOOK_S)
            yield
        finally:
            os.close(lock)

    def _write(self, key: str, apart: float) -> None:
        self._file(key).write_text(f"{apart:.6f}\n")

    def _file(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ExecutionError(f"{key[:64]!r} is no comparison's name")
        return self.folder / hashlib.sha256(f"{self.model}\0{key}".encode()).hexdigest()[:32]


_current: list[Checked] = []


def current() -> Checked:
    """What this process asks."""
    return _current[-1] if _current else Checked(checked_folder())


def use(checked: Checked) -> None:
    """Have this process ask `checked` from here on."""
    _current[:] = [checked]
