"""Artifacts from several peers at once.

Every provider pulls the next blocks it can deliver as soon as it is free, so fast ones deliver more. Of those it pulls
the ones that the most other providers lack, in no particular order among equals, so that peers which fetch at the same
time soon have something to give each other. A block is checked as it arrives and stored; a provider that sends a wrong
one is reported and dropped. What is stored stays, so a fetch that was cut off continues where it stopped.

No provider is waited for while another could deliver: a block that does not come for some seconds is asked for
elsewhere too, and a fetch that falls behind `SLOWEST_BYTES_PER_S` ends.
"""

import asyncio
import contextlib
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Self

from proofyard.artifacts.dag import BLOCK_COST, children_of, claimed_size
from proofyard.artifacts.errors import ArtifactTooLarge, ArtifactUnavailable, CorruptArtifact, IpfsUnavailable
from proofyard.artifacts.exchange import MAX_ASKED, MAX_BLOCKS, BlockProvider, PeerBlocks
from proofyard.artifacts.store import BlockStore
from proofyard.artifacts.walking import walk
from proofyard.protocol.cid import DAG_PB, cid_codec
from proofyard.protocol.types import Cid
from proofyard.runtime.chance import chance
from proofyard.runtime.hops import Hops
from proofyard.transport import Connection, ProtocolViolation, TransportError

logger = logging.getLogger("proofyard.artifacts")

ATTEMPTS = 3
RETRY_SECONDS = 0.2

FIRST_BATCH = 2
MAX_BATCH = MAX_BLOCKS
BATCH_SECONDS = 0.25
"""A request asks for as many blocks as the provider delivers in this time, so a slow one never holds up many."""

LANES = 2
"""Requests under way at one provider, so that the next blocks follow without a pause."""

AHEAD_BYTES = 1 << 20
"""Of one request's blocks that are stored while the next ones come; and one more."""

SURVEY_SECONDS = 2.0
"""How often a provider is asked again for what it lacked: it may be fetching the same artifact."""

HEDGE_SECONDS = 5.0
"""A block that one provider has not delivered for so long is asked for at one more."""

PATIENCE_SECONDS = 120.0
SLOWEST_BYTES_PER_S = 64 << 10
"""A fetch may take its patience and, beyond that, what the bytes that came need at this rate: whoever sends a byte now
and then holds nobody up for longer."""

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
    span: tuple[int, int] | None = None,
    on_progress: Progress | None = None,
    patience_s: float = PATIENCE_SECONDS,
    within_s: float | None = None,
) -> None:
    """Have the whole artifact in `store`, asking `providers` for what is missing, and then the store's own `fallback`.

    With `span` only the blocks that hold the bytes from its start up to its stop, of an artifact that is a file.
    Raises `ArtifactUnavailable` when they do not have it all between them, or bring it too slowly: nothing, or less
    than `SLOWEST_BYTES_PER_S`, for `patience_s` seconds in all, or not all of it `within_s`. Raises `ArtifactTooLarge`
    as soon as it is known to exceed `max_bytes`, as it comes or written out, `CorruptArtifact` when its blocks are
    right but make no file or folder.
    """
    sources = [PeerBlocks(each) if isinstance(each, Connection) else each for each in providers]
    try:
        async with asyncio.timeout(within_s):
            await _fetch_or_fall_back(store, cid, sources, max_bytes, span, on_progress, patience_s)
    except TimeoutError:
        raise ArtifactUnavailable(cid, 1, [f"it did not come within {within_s or 0:.0f} s"]) from None
    if span is None:
        await walk(partial(store.require_size, cid, max_bytes))


async def _fetch_or_fall_back(
    store: BlockStore,
    cid: Cid,
    sources: Sequence[BlockProvider],
    max_bytes: int,
    span: tuple[int, int] | None,
    on_progress: Progress | None,
    patience_s: float,
) -> None:
    try:
        await _fetch_from(store, cid, sources, max_bytes, span, on_progress, patience_s)
    except ArtifactUnavailable as error:
        if store.fallback is None:
            raise
        logger.info("asking %s: %s", store.fallback.name, error)
        await _fetch_from(store, cid, [store.fallback], max_bytes, span, on_progress, patience_s)


async def _fetch_from(
    store: BlockStore,
    cid: Cid,
    sources: Sequence[BlockProvider],
    max_bytes: int,
    span: tuple[int, int] | None,
    on_progress: Progress | None,
    patience_s: float,
) -> None:
    if span is None:
        missing = await walk(lambda go_on: list(store.missing(cid, go_on=go_on)))
        await _fetch_all(_Job(cid, max_bytes, store, missing, on_progress, len(sources)), sources, patience_s)
        return
    # The root says how much of the range there is; the other blocks are known level by level.
    start, stop = span
    missing = [] if store.has(cid) or start >= stop else [cid]
    while True:
        if missing:
            job = _Job(cid, max_bytes, store, missing, on_progress, len(sources), deep=False)
            await _fetch_all(job, sources, patience_s)
        if start < stop:
            await asyncio.to_thread(store.require_range, cid, start, stop, max_bytes)
            stop = min(stop, start + max_bytes)
        missing = await walk(partial(store.missing_of_range, cid, start, stop))
        if not missing:
            return


async def _fetch_all(job: "_Job", sources: Sequence[BlockProvider], patience_s: float) -> None:
    clock = asyncio.get_running_loop().time
    start = clock()
    finished = asyncio.create_task(job.done.wait())
    workers = {asyncio.create_task(_provide(job, source)) for source in sources}
    try:
        pending = set(workers)
        while pending and not job.done.is_set():
            left = start + patience_s + job.received / SLOWEST_BYTES_PER_S - clock()
            if left <= 0:
                job.reasons.append(f"only {job.received} bytes came in {clock() - start:.0f} s")
                break
            ended, _ = await asyncio.wait({*pending, finished}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for task in ended & pending:
                task.result()
            pending -= ended
    finally:
        for task in (finished, *workers):
            task.cancel()
        await asyncio.gather(finished, *workers, return_exceptions=True)
    if not job.done.is_set():
        raise ArtifactUnavailable(job.cid, job.missing, job.reasons)


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
    survey = asyncio.create_task(_survey(job, provider))
    try:
        await asyncio.gather(*lanes)
    finally:
        for task in (survey, *lanes):
            task.cancel()
        await asyncio.gather(survey, *lanes, return_exceptions=True)


async def _survey(job: "_Job", provider: BlockProvider) -> None:
    """Find out what a provider lacks, as long as there are others to have it from; nothing depends on the answer."""
    while job.providers > 1:
        asked = job.unsurveyed(provider.name)
        if asked:
            try:
                job.surveyed(provider.name, asked, await provider.lacks(asked))
            except (TransportError, IpfsUnavailable) as error:
                logger.debug("%s does not say what it has: %s", provider.name, error)
                return
        if len(asked) < MAX_ASKED:
            await asyncio.sleep(SURVEY_SECONDS)


async def _lane(job: "_Job", provider: BlockProvider) -> None:
    clock = asyncio.get_running_loop().time
    count = FIRST_BATCH
    while batch := await job.take(provider.name, count):
        left, start = set(batch), clock()
        try:
            async with aclosing(provider.blocks(batch)) as blocks, _Keeping(job, provider.name, left) as keeping:
                async for cid, data in blocks:
                    if data is None:
                        job.absent(cid, provider.name)
                        left.discard(cid)
                    else:
                        await keeping.add(cid, data)
        finally:
            job.give_back(left, provider.name)
        per_block = (clock() - start) / len(batch)
        count = max(1, min(MAX_BATCH, int(BATCH_SECONDS / max(per_block, 1e-6))))


class _Keeping:
    """What one request brought and is being stored, while more of it comes."""

    def __init__(self, job: "_Job", peer: str, left: set[Cid]) -> None:
        """What is stored goes from `left`."""
        self._job, self._peer, self._left = job, peer, left
        self._tasks: deque[tuple[asyncio.Task[None], int]] = deque()
        self._bytes = 0

    async def add(self, cid: Cid, data: bytes) -> None:
        """Raises what an earlier block raised, as leaving does."""
        self._bytes += len(data)
        self._tasks.append((asyncio.create_task(self._kept(cid, data)), len(data)))
        while self._bytes > AHEAD_BYTES or (self._tasks and self._tasks[0][0].done()):
            await self._first()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, error: type[BaseException] | None, *_rest: object) -> None:
        try:
            if error is not None and issubclass(error, Exception):
                # What has come is kept, however the request ended; what was wrong with it goes before how that was.
                await asyncio.gather(*(task for task, _ in self._tasks), return_exceptions=True)
            if error is None or issubclass(error, Exception):
                while self._tasks:
                    await self._first()
        finally:
            for task, _ in self._tasks:
                task.cancel()
            await asyncio.gather(*(task for task, _ in self._tasks), return_exceptions=True)

    async def _first(self) -> None:
        task, size = self._tasks[0]
        await task
        self._tasks.popleft()
        self._bytes -= size

    async def _kept(self, cid: Cid, data: bytes) -> None:
        await self._job.keep(cid, data, self._peer)
        self._left.discard(cid)


class _Job:
    """Which blocks of one artifact are wanted, under way, or lacking where."""

    def __init__(
        self,
        cid: Cid,
        max_bytes: int,
        store: BlockStore,
        missing: list[Cid],
        on_progress: Progress | None,
        providers: int,
        *,
        deep: bool = True,
    ) -> None:
        """`deep`: want what turns out to be missing below the blocks that come."""
        self.cid = cid
        self.providers = providers
        self.done = asyncio.Event()
        self.received = 0
        self._taken = 0
        self.reasons: list[str] = []
        self._deep = deep
        self._max_bytes = max_bytes
        self._store = store
        self._storing = Hops(None)
        self._on_progress = on_progress
        self._wanted = _Wanted()
        self._under_way: dict[Cid, set[str]] = {}
        self._asked: dict[Cid, float] = {}
        self._seen: set[Cid] = set()
        self._walked: set[Cid] = set()
        self._lacking: dict[str, set[Cid]] = {}
        self._known: dict[str, set[Cid]] = {}
        self._changed = asyncio.Event()
        self._walked.update(missing)
        self._want(missing)
        self._notice()

    @property
    def missing(self) -> int:
        return len(self._wanted) + len(self._under_way)

    async def take(self, peer: str, count: int) -> list[Cid]:
        """At most `count` blocks to ask `peer` for; waits while others may bring news; empty when it can help no more.

        At the end, when all that is wanted is under way at others, one of those blocks is asked for a second time, and
        again every `HEDGE_SECONDS` while it does not come.
        """
        while True:
            lacking = self._lacking.get(peer, set())
            batch = list(itertools.islice((cid for cid in self._wanted.rarest_first() if cid not in lacking), count))
            batch = batch or self._slowest(peer, lacking)
            if batch or not self._under_way:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEDGE_SECONDS):
                    await self._changed.wait()
        for cid in batch:
            self._wanted.discard(cid)
            self._asked[cid] = asyncio.get_running_loop().time()
            self._under_way.setdefault(cid, set()).add(peer)
        return batch

    def _slowest(self, peer: str, lacking: set[Cid]) -> list[Cid]:
        late = asyncio.get_running_loop().time() - HEDGE_SECONDS
        for cid, holders in self._under_way.items():
            if peer not in holders and cid not in lacking and (len(holders) == 1 or self._asked[cid] <= late):
                return [cid]
        return []

    async def keep(self, cid: Cid, data: bytes, peer: str) -> None:
        """Check and store a block, and want what it shows to be missing below it. Raises `ForgedBlock`."""
        self._require_room(len(data))
        try:
            await self._storing.run(partial(self._store.put_block, cid, data))
        except CorruptArtifact:
            raise ForgedBlock(peer, cid) from None
        if self._deep and cid_codec(cid) == DAG_PB:
            self._require_room(claimed_size(cid, data))
            # Known as walked only with what it found: whoever brings the block again meanwhile looks for itself.
            walked = _AlsoIn(self._walked)
            self._want(await walk(lambda go_on: self._missing_below(children_of(cid, data), walked, go_on)))
            self._walked |= walked
        self.received += len(data)
        self._taken += max(len(data), BLOCK_COST)
        self._under_way.pop(cid, None)
        self._notice()
        if self._on_progress is not None:
            self._on_progress(self.received, self.missing)

    def _missing_below(self, cids: Sequence[Cid], walked: set[Cid], go_on: Callable[[], None]) -> list[Cid]:
        # What was walked before is wanted already, so that blocks that share their children cost one walk in all.
        return list(self._store.missing(*cids, seen=walked, go_on=go_on))

    def _want(self, cids: list[Cid]) -> None:
        fresh = [cid for cid in dict.fromkeys(cids) if cid not in self._seen]
        self._seen.update(fresh)
        self._require_room(BLOCK_COST * len(self._seen))
        if self.providers > 1:
            chance.shuffle(fresh)
        for cid in fresh:
            self._wanted.add(cid, 0)

    def absent(self, cid: Cid, peer: str) -> None:
        self.surveyed(peer, [cid], [cid])
        self.give_back({cid}, peer)

    def unsurveyed(self, peer: str) -> list[Cid]:
        """Wanted blocks of which it is not known whether `peer` has them; when there are none, those that it lacked."""
        known, lacking = self._known.get(peer, set()), self._lacking.get(peer, set())
        unknown = (cid for cid in self._wanted.rarest_first() if cid not in known)
        again = (cid for cid in self._wanted.rarest_first() if cid in lacking)
        return list(itertools.islice(unknown, MAX_ASKED)) or list(itertools.islice(again, MAX_ASKED))

    def surveyed(self, peer: str, asked: Sequence[Cid], lacks: Sequence[Cid]) -> None:
        """Of the blocks `asked` for, `peer` has all but those that it `lacks`."""
        self._known.setdefault(peer, set()).update(asked)
        lacking = self._lacking.setdefault(peer, set())
        before = lacking & set(asked)
        lacking.difference_update(asked)
        lacking.update(lacks)
        for cid in before ^ set(lacks):
            self._wanted.move(cid, self._rarity(cid))
        if before - lacking:
            self._notice()

    def _rarity(self, cid: Cid) -> int:
        return sum(cid in lacking for lacking in self._lacking.values())

    def give_back(self, cids: set[Cid], peer: str) -> None:
        """`peer` did not deliver these: somebody else may try, unless somebody else is already at it."""
        for cid in cids:
            holders = self._under_way.get(cid)
            if holders is not None:
                holders.discard(peer)
                if not holders:
                    del self._under_way[cid]
                    self._wanted.add(cid, self._rarity(cid))
        self._notice()

    def _require_room(self, size: int) -> None:
        """Raise `ArtifactTooLarge` when a part of `size` bytes, or what has come so far, exceeds the limit."""
        total = max(size, self._taken)
        if total > self._max_bytes + OVERHEAD_BYTES:
            raise ArtifactTooLarge(self.cid, total, self._max_bytes)

    def _notice(self) -> None:
        if self.missing == 0:
            self.done.set()
        self._changed.set()
        self._changed = asyncio.Event()


class _AlsoIn(set[Cid]):
    """What is added to it, and what is in another set, which stays as it is."""

    def __init__(self, other: set[Cid]) -> None:
        super().__init__()
        self._other = other

    def __contains__(self, cid: object) -> bool:
        return super().__contains__(cid) or cid in self._other


class _Wanted:
    """Blocks in groups by how many providers are known to lack them."""

    def __init__(self) -> None:
        self._groups: dict[int, dict[Cid, None]] = {}
        self._group_of: dict[Cid, int] = {}

    def __len__(self) -> int:
        return len(self._group_of)

    def add(self, cid: Cid, rarity: int) -> None:
        self._group_of[cid] = rarity
        self._groups.setdefault(rarity, {})[cid] = None

    def discard(self, cid: Cid) -> None:
        rarity = self._group_of.pop(cid, None)
        if rarity is not None:
            del self._groups[rarity][cid]

    def move(self, cid: Cid, rarity: int) -> None:
        """Another number of providers lacks it now; nothing happens when it is not wanted."""
        if cid in self._group_of:
            self.discard(cid)
            self.add(cid, rarity)

    def rarest_first(self) -> Iterator[Cid]:
        for rarity in sorted(self._groups, reverse=True):
            yield from self._groups[rarity]
