"""A process in the sandbox, and the files that it hands over: what an `Executor` starts for a job.

It writes to `SLOTS` files that it was given and to nothing else, so the disk that it can fill is known. A file is taken
by its name in a folder where the process can neither make nor move anything, and looked at through one descriptor: it
is a plain file of its own, of allowed size, or nothing is taken.
"""

import asyncio
import contextlib
import os
import stat
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec
import psutil

from proofyard.protocol.manifest import Manifest
from proofyard.runtime.processes import exit_code, start_process
from proofyard.workloads.errors import ExecutionError, ExecutorCrashed, OutOfDisk, TimeLimit
from proofyard.workloads.sandbox import Policy, Sandbox
from proofyard.workloads.sandbox.boxes import Command

SLOTS = ("0", "1", "2")
WORDS_BYTES = 64 << 10
"""Of what a process says on its standard error the last is kept."""
LOOK_S = 5.0
GONE_S = 10.0
SLACK = 1.5
"""A process may keep so many more cores busy than it has threads: states are written beside the computation."""
SCRATCH_BYTES = 1 << 30
SCRATCH_ENTRIES = 65536


@dataclass(frozen=True)
class Limit:
    """What is watched because the kernel has no limit for it. `threads`: cores that are kept busy; None for any."""

    threads: int | None = None


class Confined:
    """A running process; `close` ends it and removes its files, which are in `folder`. `broken`: the limit that it was
    ended for. `reports`, `checks`: how much it has said so far; `states`: of the order under way."""

    def __init__(self, process: asyncio.subprocess.Process, command: Command, folder: Path, limit: Limit) -> None:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        self.process = process
        self.stdin, self.stdout = process.stdin, process.stdout
        self.broken: ExecutionError | None = None
        self.reports = self.checks = self.states = 0
        self._command = command
        self.folder = folder
        self._limit = limit
        self._words: deque[bytes] = deque()
        self._listener = asyncio.create_task(self._listen(process.stderr))
        self._watch: asyncio.Task[None] | None = None
        self._job: tuple[Manifest, tuple[str, ...], int] | None = None

    @classmethod
    async def start(
        cls,
        parent: Path,
        sandbox: Sandbox,
        policy: Policy,
        settings: Callable[[Path, tuple[str, ...]], str],
        python: str,
        limit: Limit,
        env: dict[str, str],
    ) -> Self:
        """Start `proofyard.workloads.child` with a folder of its own in `parent`. Raises `SandboxRefused`."""
        folder = Path(tempfile.mkdtemp(prefix="box-", dir=parent))
        outbox, scratch = folder / "out", folder / "scratch"
        try:
            outbox.mkdir()
            writes = [str(outbox)]
            if policy.builds:
                scratch.mkdir()
                writes.append(str(scratch))
                env = env | {"TMPDIR": str(scratch), "TRITON_CACHE_DIR": str(scratch), "CUDA_CACHE_PATH": str(scratch)}
            command = sandbox.command(
                msgspec.structs.replace(policy, write=tuple(writes)),
                "proofyard.workloads.child",
                [settings(outbox, SLOTS)],
                python=python,
            )
            for slot in SLOTS:
                _make(outbox / slot, command.owner)
            if policy.builds and command.owner:
                os.chown(scratch, command.owner, -1)
            pipe = asyncio.subprocess.PIPE
            process = await start_process(*command.argv, stdin=pipe, stdout=pipe, stderr=pipe, env=env)
        except BaseException:
            erase(folder)
            raise
        return cls(process, command, folder, limit)

    def assign(self, manifest: Manifest, reads: tuple[str, ...], most: int) -> None:
        """Note which job it is for, and what it may read and write."""
        self._job = (manifest, reads, most)

    def is_for(self, manifest: Manifest, reads: tuple[str, ...], most: int) -> bool:
        return self._job is not None and self._job[:2] == (manifest, reads) and most <= self._job[2]

    def take(self, slot: str, path: Path) -> None:
        """Move what is in `slot` to `path`, and make the slot anew. Raises `ExecutorCrashed` for any other file."""
        if slot not in SLOTS:
            raise ExecutorCrashed(f"the executor names a file {slot[:64]!r}")
        source = self.folder / "out" / slot
        most = self._job[2] if self._job else 0
        try:
            end = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise ExecutorCrashed(f"the executor's file {slot} cannot be taken: {error.strerror}") from None
        try:
            found = os.fstat(end)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_size > most:
                raise ExecutorCrashed(f"the executor's file {slot} is no plain file of at most {most} bytes")
            if self._command.owner:
                os.fchown(end, os.getuid(), os.getgid())
            there = source.rename(path).lstat()
            if (there.st_dev, there.st_ino) != (found.st_dev, found.st_ino):
                path.unlink()
                raise ExecutorCrashed(f"the executor's file {slot} was exchanged while it was taken")
        finally:
            os.close(end)
        _settle(path.parent)
        _make(source, self._command.owner)

    def watch(self) -> None:
        """Look after the limits of an order that begins, until `rest`."""
        self.rest()
        self.states = 0
        self._watch = asyncio.create_task(self._look())

    def rest(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    async def ended(self) -> int:
        """How the process ended, once it has and all that it said is here."""
        code = await exit_code(self.process)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await asyncio.shield(self._listener)
        return code

    def last_words(self) -> str:
        return b"".join(self._words).decode(errors="replace")

    async def close(self) -> None:
        """End the process and all that it started, and remove its files."""
        self.rest()
        self._stop()
        await exit_code(self.process)
        with contextlib.suppress(TimeoutError):  # what it started ends with it, and has its standard error until then
            async with asyncio.timeout(GONE_S):
                await asyncio.shield(self._listener)
        self._listener.cancel()
        self.process._transport.close()  # type: ignore[attr-defined]  # pipes that were not read to their end
        if self._command.end:
            await asyncio.to_thread(subprocess.run, self._command.end, capture_output=True, check=False)
        await asyncio.to_thread(erase, self.folder)

    def _stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def _listen(self, stream: asyncio.StreamReader) -> None:
        size = 0
        while data := await stream.read(4096):
            self._words.append(data)
            size += len(data)
            while size > WORDS_BYTES:
                size -= len(self._words.popleft())

    async def _look(self) -> None:
        at, used = time.monotonic(), await asyncio.to_thread(_seconds, self.process.pid)
        while True:
            await asyncio.sleep(LOOK_S)
            now, then = time.monotonic(), await asyncio.to_thread(_seconds, self.process.pid)
            if self._limit.threads is not None:
                cores = (then - used) / (now - at)
                if cores > self._limit.threads + SLACK:
                    self._break(
                        TimeLimit(f"the job kept {cores:.1f} cores busy, this node's threads are {self._limit.threads}")
                    )
            if await asyncio.to_thread(_is_full, self.folder / "scratch"):
                self._break(OutOfDisk(f"the job wrote more than {SCRATCH_BYTES >> 20} MiB beside its states"))
            at, used = now, then

    def _break(self, why: ExecutionError) -> None:
        self.broken = self.broken or why
        self._stop()


def erase(folder: Path) -> None:
    """Remove a folder that a stranger's process may have filled: however deep, and no link is followed."""
    command = ["rm", "-rf", "--one-file-system", "--", str(folder)]
    subprocess.run(command, capture_output=True, check=False)  # noqa: S603


def _make(file: Path, owner: int) -> None:
    """An empty file that belongs to `owner`, 0 for this user."""
    end = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if owner:
            os.fchown(end, owner, -1)
    finally:
        os.close(end)


def _settle(folder: Path) -> None:
    """Have the names in a folder on the disk itself."""
    end = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(end)
    finally:
        os.close(end)


def _seconds(pid: int) -> float:
    """Of CPU that a process and those that it started have used."""
    total = 0.0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = each.cpu_times()
                total += times.user + times.system
    return total


def _is_full(folder: Path) -> bool:
    """Whether a scratch folder has more in it than it may."""
    size = entries = 0
    for path, folders, files in os.walk(folder):
        for name in (*folders, *files):
            entries += 1
            with contextlib.suppress(OSError):
                size += (Path(path) / name).lstat().st_blocks * 512
            if size > SCRATCH_BYTES or entries > SCRATCH_ENTRIES:
                return True
    return False
