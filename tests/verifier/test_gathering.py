"""What several looks need of one worker is asked for together, and whoever asks is answered."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from proofyard.artifacts import BlockStore, cid_of_bytes
from proofyard.artifacts.gathering import Gatherer
from proofyard.protocol.types import Address, Cid
from proofyard.transport import RequestFailed

WORKER = Address("0xW")
STATES = [b"state %d" % number for number in range(20)]
CIDS = [cid_of_bytes(state) for state in STATES]


class Worker:
    """It has every second state; `trouble` is what it meets."""

    def __init__(self, trouble: Exception | None = None) -> None:
        self.asked: list[list[Cid]] = []
        self._trouble = trouble

    async def blocks(self, cids: Sequence[Cid]) -> AsyncGenerator[tuple[Cid, bytes | None], None]:
        self.asked.append(list(cids))
        await asyncio.sleep(0)
        if self._trouble is not None:
            raise self._trouble
        for cid in cids:
            number = CIDS.index(cid)
            yield cid, STATES[number] if number % 2 else None


async def test_what_becomes_due_together_is_asked_for_together(tmp_path: Path) -> None:
    worker, gatherer = Worker(), Gatherer(BlockStore(tmp_path))
    found = await asyncio.gather(*(gatherer.gather(WORKER, cast(Any, worker), [cid]) for cid in CIDS))
    sizes = {cid: size for each in found for cid, size in each.items()}
    assert worker.asked == [CIDS]
    assert sizes == {
        cid: len(state) if n % 2 else None for n, (cid, state) in enumerate(zip(CIDS, STATES, strict=True))
    }
    await gatherer.gather(WORKER, cast(Any, worker), CIDS[1:2])
    assert len(worker.asked) == 1, "what is here is not asked for again"


async def test_whoever_asks_is_answered_whenever_it_comes(tmp_path: Path) -> None:
    """One asks in every turn of the event loop, so one of them as the request before it ends."""
    worker, gatherer = Worker(), Gatherer(BlockStore(tmp_path))
    asking = []
    async with asyncio.timeout(60):
        for turn in range(400):
            asking.append(asyncio.create_task(gatherer.gather(WORKER, cast(Any, worker), [CIDS[turn % 20]])))
            await asyncio.sleep(0)
        await asyncio.gather(*asking)


@pytest.mark.parametrize("trouble", [RequestFailed("deadline", "no answer"), ZeroDivisionError("a slip")])
async def test_a_worker_that_gives_nothing_keeps_nobody_waiting(tmp_path: Path, trouble: Exception) -> None:
    gatherer = Gatherer(BlockStore(tmp_path))
    async with asyncio.timeout(60):
        for _ in range(2):
            assert await gatherer.gather(WORKER, cast(Any, Worker(trouble)), CIDS[:2]) == dict.fromkeys(CIDS[:2])
