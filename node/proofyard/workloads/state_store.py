"""A task's states on disk, written durably one by one, so that a crash costs at most the segment in progress
and the one before it."""

import errno
import hashlib
import os
from pathlib import Path

from proofyard.protocol.codec import encode
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.workloads.errors import OutOfDisk
from proofyard.workloads.workload import Inputs


def task_folder(root: Path, manifest: Manifest, task: TaskSpec, inputs: Inputs) -> Path:
    """Where a task's states lie. Another manifest, task or input is another folder, so nothing stale is resumed."""
    digests = [hashlib.sha256(result).digest() for result in inputs.results]
    return root / hashlib.sha256(encode([manifest, task, digests])).hexdigest()[:32]


def states_to_keep(segments: int, state_bytes: int, budget_bytes: int) -> range:
    """Which of a task's states 0 .. `segments` to keep within a disk budget: every n-th, for the smallest n that fits.

    The others follow from the one before them (`Executor.advance`) at the cost of at most n - 1 segments.
    Raises `OutOfDisk` where not even the first fits.
    """
    affordable = budget_bytes // max(1, state_bytes)
    if affordable < 1:
        raise OutOfDisk(f"a state has {state_bytes} bytes, the disk budget for states is {budget_bytes}")
    return range(0, segments + 1, -(-(segments + 1) // affordable))


class StateStore:
    """The states of one task. A file's name carries its number and digest, so a damaged one is noticed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, number: int, state: bytes) -> Path:
        """Store state `number` durably. Raises `OutOfDisk`."""
        return write_durably(self._folder / f"{number:05}-{_digest(state)}.safetensors", state)

    def read(self, number: int) -> tuple[Path, bytes] | None:
        """State `number`, or None where it is missing or damaged."""
        for path in self._folder.glob(f"{number:05}-*.safetensors"):
            state = path.read_bytes()
            if path.stem.endswith(_digest(state)):
                return path, state
            path.unlink()
        return None


def write_durably(path: Path, data: bytes) -> Path:
    """Write a file so that after a power cut it is there whole or not at all. Raises `OutOfDisk`."""
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OutOfDisk(f"{len(data)} bytes cannot be written to {path.parent}: {error.strerror}") from None
        raise
    return path


def _digest(state: bytes) -> str:
    return hashlib.sha256(state).hexdigest()[:32]
