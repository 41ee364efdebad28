"""The states of a task that runs, on their way into the store.

Each is put there, and on the disk itself, while the next segment is computed, so that next to nothing is left to do
between a task's last step and its commitment.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from proofyard.artifacts import BlockStore
from proofyard.node.aside import aside
from proofyard.node.retention import Kept, Retention
from proofyard.protocol.messages import BLOCKS_WITH_BYTES, MAX_BLOCKS_WITH, SMALL_STATE_BYTES, SubmitCommitment
from proofyard.protocol.types import Cid, ProofyardError
from proofyard.workloads.executor import TaskTrace

logger = logging.getLogger("proofyard.node")


def small_artifacts(store: BlockStore, works: Sequence[SubmitCommitment]) -> tuple[bytes, ...]:
    """States and results of works as far as they are small, each once and no more than go with them. Nothing is sent of
    a work whose last state is large."""
    found: dict[Cid, bytes] = {}
    left = BLOCKS_WITH_BYTES
    for work in works:
        fresh = [cid for cid in (work.trace[-1], work.commitment.result, *work.trace) if cid not in found]
        here = store.small_artifacts(fresh, SMALL_STATE_BYTES)
        for cid in dict.fromkeys(fresh):
            data = here.get(cid)
            if not data:
                break
            left -= len(data)
            if left < 0 or len(found) >= MAX_BLOCKS_WITH:
                return tuple(found.values())
            found[cid] = data
    return tuple(found.values())


class Keeping:
    """For one task of `segments` segments; use in an `async with` statement. Where the disk budget does not hold all of
    its states, or one cannot be stored now, that is left to `finish`."""

    def __init__(self, retention: Retention, segments: int) -> None:
        self._retention = retention
        self._segments = segments
        self._stored: dict[Path, Cid] = {}
        self._arriving: asyncio.Queue[Path] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        self._retention.arrived(self._stored.values())

    def take(self, _number: int, path: Path) -> None:
        """A state has been written; its file stays as it is until the task is forgotten."""
        self._arriving.put_nowait(path)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())

    async def finish(self, trace: TaskTrace) -> Kept:
        """What `Retention.keep` returns."""
        await self._arriving.join()
        size = trace.states[-1].stat().st_size * len(trace.states) + trace.result.stat().st_size
        return await aside(size, self._retention.keep, trace, self._stored)

    @property
    def lasting(self) -> frozenset[Cid]:
        """What is on the disk itself."""
        return frozenset(self._stored.values())

    async def _work(self) -> None:
        room = self._retention.room()
        while True:
            path = await self._arriving.get()
            try:
                if path.stat().st_size * (self._segments + 1) <= room:
                    self._stored[path] = await asyncio.to_thread(self._retention.receive, path)
            except (OSError, ProofyardError) as error:
                logger.info("a state is stored later: %s", error)
            finally:
                self._arriving.task_done()
