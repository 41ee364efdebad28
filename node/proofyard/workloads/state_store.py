"""A task's states on disk, written durably one by one, so that a crash costs at most the segment in progress
and the one before it."""

import errno
import hashlib
import os
import queue
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from proofyard.protocol.codec import encode
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.workloads.errors import OutOfDisk
from proofyard.workloads.workload import Inputs


def task_folder(root: Path, manifest: Manifest, task: TaskSpec, inputs: Inputs) -> Path:
    """Where a task's states lie. Another manifest, task or input is another folder, so nothing stale is resumed."""
    digests = [hashlib.sha256(result).digest() for result in inputs.results]
    return job_folder(root, manifest) / hashlib.sha256(encode([manifest, task, digests])).hexdigest()[:32]


def job_folder(root: Path, manifest: Manifest) -> Path:
    """What the folders of a job's tasks lie in."""
    return root / hashlib.sha256(encode(manifest)).hexdigest()[:32]


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
        return write_durably(self._folder / state_name(number, state_digest(state)), state)

    def read(self, number: int) -> tuple[Path, bytes] | None:
        """State `number`, or None where it is missing or damaged."""
        for path in self._folder.glob(f"{number:05}-*.safetensors"):
            state = path.read_bytes()
            if path.stem.endswith(state_digest(state)):
                return path, state
            with suppress(OSError):  # in the sandbox nothing is removed
                path.unlink()
        return None


class Outbox:
    """Where a process in the sandbox puts what it has computed: a few files that are there already, each free again
    once whoever started it has taken what is in it (`taken`)."""

    def __init__(self, folder: Path, slots: Sequence[str]) -> None:
        self._folder = folder
        self._free: queue.Queue[str] = queue.Queue()
        self._slots = len(slots)
        for slot in slots:
            self._free.put(slot)

    def write(self, data: bytes) -> str:
        """Write durably to the next free file, and return which it is. Raises `OutOfDisk`."""
        slot = self._free.get()
        try:
            end = os.open(self._folder / slot, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(end, "wb") as stream:
                stream.write(data)
                stream.truncate()
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            self._free.put(slot)
            raise _out_of_disk(error, len(data), self._folder) from None
        return slot

    def taken(self, slot: str) -> None:
        self._free.put(slot)

    def settle(self) -> None:
        """Wait until all is taken."""
        for slot in [self._free.get() for _ in range(self._slots)]:
            self._free.put(slot)


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
        raise _out_of_disk(error, len(data), path.parent) from None
    return path


def _out_of_disk(error: OSError, size: int, folder: Path) -> Exception:
    """What to raise for an error of writing."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutOfDisk(f"{size} bytes cannot be written to {folder}: {error.strerror}")
    return error


def state_name(number: int, digest: str) -> str:
    """What the file of a state is called."""
    return f"{number:05}-{digest}.safetensors"


def state_digest(state: bytes) -> str:
    """What of a state's content is in its file's name."""
    return hashlib.sha256(state).hexdigest()[:32]
