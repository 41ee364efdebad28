"""Artifacts from several peers at once.

Every provider pulls the next blocks it can deliver as soon as it is free, so fast ones deliver more. A block is
checked as it arrives and stored; a provider that sends a wrong one is reported and dropped. What is stored stays, so
a fetch that was cut off continues where it stopped.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing

from proofyard.artifacts.errors import ArtifactTooLarge, ArtifactUnavailable, CorruptArtifact, IpfsUnavailable
from proofyard.artifacts.exchange import BlockProvider, PeerBlocks
from proofyard.artifacts.store import BlockStore
from proofyard.artifacts.unixfs import Kind, Node, decode
from proofyard.protocol.cid import DAG_PB, cid_codec
from proofyard.protocol.types import Cid
from proofyard.transport import Connection, ProtocolViolation, TransportError

logger = logging.getLogger("proofyard.artifacts")

ATTEMPTS = 3
RETRY_SECONDS = 0.2

FIRST_BATCH = 2
MAX_BATCH = 16
BATCH_SECONDS = 0.25
"""A request asks for as many blocks as the provider delivers in this time, so a slow one never holds up many."""

LANES = 2
"""Requests under way at one provider, so that the next blocks follow without a pause."""

OVERHEAD_BYTES = 4 << 20
"""Room for the nodes and folders above an artifact's content."""

FORGERY_POINTS = 100.0

Progress = Callable[[int, int], object]
"""Called with the bytes fetched so far and the number of blocks known to be missing."""


class ForgedBlock(ProtocolViolation):
    """A provider sent bytes that are not the block it was asked for."""

    def __init__(self, provider: str, cid: Cid) -> None:
        super().__init__(f"{provider} sent something else as block {cid}")


async def fetch(
    store: BlockStore,
    cid: Cid,
    providers: Sequence[Connection | BlockProvider],
    *,
    max_bytes: int,
    on_progress: Progress | None = None,
) -> None:
    """Have the whole artifact in `store`, asking `providers` for what is missing.

    Raises `ArtifactUnavailable` when they do not have it all between them, `ArtifactTooLarge` as soon as it is known
    to exceed `max_bytes`, `CorruptArtifact` when its blocks are right but make no file or folder.
    """
    job = _Job(cid, max_bytes, store, await asyncio.to_thread(lambda: list(store.missing(cid))), on_progress)
    finished = asyncio.create_task(job.done.wait())
    sources = [PeerBlocks(each) if isinstance(each, Connection) else each for each in providers]
    workers = {asyncio.create_task(_provide(job, source)) for source in sources}
    try:
        pending = set(workers)
        while pending and not job.done.is_set():
            ended, _ = await asyncio.wait({*pending, finished}, return_when=asyncio.FIRST_COMPLETED)
            for task in ended & pending:
                task.result()
            pending -= ended
    finally:
        for task in (finished, *workers):
            task.cancel()
        await asyncio.gather(finished, *workers, return_exceptions=True)
    if not job.done.is_set():
        raise ArtifactUnavailable(cid, job.missing, job.reasons)


async def _provide(job: "_Job", provider: BlockProvider) -> None:
    """Ask one provider as long as it can help; after a failure again, up to `ATTEMPTS` times in all."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            await _all_lanes(job, provider)
        except ForgedBlock as error:
            provider.penalise(FORGERY_POINTS, str(error))
            job.reasons.append(str(error))
            return
        except (TransportError, IpfsUnavailable) as error:
            job.reasons.append(f"{provider.name}: {error}")
            await asyncio.sleep(RETRY_SECONDS * attempt)
        else:
            job.reasons.append(f"{provider.name} lacks blocks")
            return


async def _all_lanes(job: "_Job", provider: BlockProvider) -> None:
    lanes = [asyncio.create_task(_lane(job, provider)) for _ in range(LANES)]
    try:
        await asyncio.gather(*lanes)
    finally:
        for lane in lanes:
            lane.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)


async def _lane(job: "_Job", provider: BlockProvider) -> None:
    clock = asyncio.get_running_loop().time
    count = FIRST_BATCH
    while batch := await job.take(provider.name, count):
        left, start = set(batch), clock()
        try:
            async with aclosing(provider.blocks(batch)) as blocks:
                async for cid, data in blocks:
                    if data is None:
                        job.absent(cid, provider.name)
                    else:
                        await job.keep(cid, data, provider.name)
                    left.discard(cid)
        finally:
            job.give_back(left, provider.name)
        per_block = (clock() - start) / len(batch)
        count = max(1, min(MAX_BATCH, int(BATCH_SECONDS / max(per_block, 1e-6))))


class _Job:
    """Which blocks of one artifact are wanted, under way, or lacking where."""

    def __init__(
        self, cid: Cid, max_bytes: int, store: BlockStore, missing: list[Cid], on_progress: Progress | None
    ) -> None:
        self.done = asyncio.Event()
        self.received = 0
        self.reasons: list[str] = []
        self._cid = cid
        self._max_bytes = max_bytes
        self._store = store
        self._on_progress = on_progress
        self._wanted: dict[Cid, None] = dict.fromkeys(missing)
        self._under_way: dict[Cid, set[str]] = {}
        self._seen: set[Cid] = set(missing)
        self._lacking: dict[str, set[Cid]] = {}
        self._changed = asyncio.Event()
        self._notice()

    @property
    def missing(self) -> int:
        return len(self._wanted) + len(self._under_way)

    async def take(self, peer: str, count: int) -> list[Cid]:
        """At most `count` blocks to ask `peer` for; waits while others may bring news; empty when it can help no more.

        At the end, when all that is wanted is under way at others, one of those blocks is asked for a second time.
        """
        while True:
            lacking = self._lacking.get(peer, set())
            batch = list(itertools.islice((cid for cid in self._wanted if cid not in lacking), count))
            batch = batch or self._slowest(peer, lacking)
            if batch or not self._under_way:
                break
            await self._changed.wait()
        for cid in batch:
            self._wanted.pop(cid, None)
            self._under_way.setdefault(cid, set()).add(peer)
        return batch

    def _slowest(self, peer: str, lacking: set[Cid]) -> list[Cid]:
        for cid, holders in self._under_way.items():
            if peer not in holders and len(holders) == 1 and cid not in lacking:
                return [cid]
        return []

    async def keep(self, cid: Cid, data: bytes, peer: str) -> None:
        """Check and store a block, and want what it shows to be missing below it. Raises `ForgedBlock`."""
        self._require_room(len(data))
        try:
            await asyncio.to_thread(self._store.put_block, cid, data)
        except CorruptArtifact:
            raise ForgedBlock(peer, cid) from None
        if cid_codec(cid) == DAG_PB:
            node = decode(cid, data)
            claims = [link.tsize for link in node.links] if node.kind is Kind.DIRECTORY else [node.file_size or 0]
            self._require_room(sum(claims))
            self._want(await asyncio.to_thread(lambda: self._missing_below(node)))
        self.received += len(data)
        self._under_way.pop(cid, None)
        self._notice()
        if self._on_progress is not None:
            self._on_progress(self.received, self.missing)

    def _missing_below(self, node: Node) -> list[Cid]:
        return [cid for link in node.links for cid in self._store.missing(link.cid)]

    def _want(self, cids: list[Cid]) -> None:
        for cid in cids:
            if cid not in self._seen:
                self._seen.add(cid)
                self._wanted[cid] = None

    def absent(self, cid: Cid, peer: str) -> None:
        self._lacking.setdefault(peer, set()).add(cid)
        self.give_back({cid}, peer)

    def give_back(self, cids: set[Cid], peer: str) -> None:
        """`peer` did not deliver these: somebody else may try, unless somebody else is already at it."""
        for cid in cids:
            holders = self._under_way.get(cid)
            if holders is not None:
                holders.discard(peer)
                if not holders:
                    del self._under_way[cid]
                    self._wanted[cid] = None
        self._notice()

    def _require_room(self, size: int) -> None:
        """Raise `ArtifactTooLarge` when a part of `size` bytes, or what has come so far, exceeds the limit."""
        total = max(size, self.received)
        if total > self._max_bytes + OVERHEAD_BYTES:
            raise ArtifactTooLarge(self._cid, total, self._max_bytes)

    def _notice(self) -> None:
        if self.missing == 0:
            self.done.set()
        self._changed.set()
        self._changed = asyncio.Event()
