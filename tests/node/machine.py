"""A whole node around a real executor, a real store and a real journal, for tests; its verifier and chain stand in."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from stand_ins import CONNECTION, FakeChain, FakeLinks

from proofyard.artifacts import BlockStore, GetBlocks
from proofyard.artifacts.exchange import ABSENT
from proofyard.node.agent import Agent
from proofyard.node.journal import Journal
from proofyard.node.retention import Retention
from proofyard.protocol.cid import cid_bytes
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.messages import TaskOffer
from proofyard.protocol.types import Cid, JobId
from proofyard.workloads.lora import WORKLOAD

DEADLINE_S = 100.0
UNUSED: Any = None


@dataclass
class Node:
    """A node's parts around a real executor, a real store and a real journal."""

    agent: Agent
    retention: Retention
    store: BlockStore
    journal: Journal
    links: FakeLinks
    chain: FakeChain
    manifest: Cid
    asked: dict[type, Any] = field(default_factory=dict)

    async def get(self, cid: Cid) -> bool:
        """Whether a peer that asks this node for a block is given it."""
        answer, _ = await self.asked[GetBlocks](CONNECTION, GetBlocks(cid_bytes(cid)), UNUSED)
        return bool(answer.sizes[0] != ABSENT)

    async def given(self, cid: Cid) -> None:
        """A peer asks until it is given a block, which may have to be made again first."""
        async with asyncio.timeout(DEADLINE_S):
            while not await self.get(cid):
                await asyncio.sleep(0.05)

    def lose(self, cid: Cid) -> None:
        """The file of a block is gone."""
        assert self.store.has(cid)
        self.store.delete_block(cid)

    def file(self, cid: Cid) -> Path:
        return self.store.path / "blocks" / cid[-2:] / cid

    async def work(self, index: int = 0, *, decoy: bool = False) -> tuple[Cid, ...]:
        """Do a task; the names of its states."""
        answer = await self.agent.offer_task(CONNECTION, self.offer(index, decoy=decoy), UNUSED)
        assert answer.proceed, answer.reason
        await until(lambda: self.links.delivered and not self.journal.open_tasks())
        return self.links.delivered[-1].trace

    def offer(self, index: int, *, decoy: bool = False) -> TaskOffer:
        manifest = msgspec.msgpack.decode(self.store.get_bytes(self.manifest), type=Manifest)
        return TaskOffer(JobId(1), self.manifest, WORKLOAD.graph(manifest)[index], (), (), 15.0, decoy)


async def until(condition: Callable[[], object]) -> None:
    """Until something holds; the deadline only matters when it never does."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.05)
