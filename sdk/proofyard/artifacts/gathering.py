"""Small artifacts from one peer that should have them: what several pieces of work need of it is asked for in one
request, and nobody else is asked. What does not come this way is left to `fetch`.

A state of up to a block's size is one raw block. It is stored as it comes, checked against its CID; a root of a larger
artifact is stored as well, and what is below it is not asked for here.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from contextlib import aclosing
from functools import partial

from proofyard.artifacts.errors import ArtifactTooLarge, CorruptArtifact
from proofyard.artifacts.exchange import MAX_BLOCKS, PeerBlocks
from proofyard.artifacts.fetcher import FORGERY_POINTS
from proofyard.artifacts.store import BlockStore
from proofyard.artifacts.unixfs import MAX_BLOCK_BYTES
from proofyard.protocol.cid import RAW, cid_codec
from proofyard.protocol.types import Address, Cid, ProofyardError
from proofyard.runtime.hops import SMALL_BYTES, Aside
from proofyard.transport import Connection

logger = logging.getLogger(__name__)

AT_ONCE = 16
"""Requests under way; each holds at most `MAX_BLOCKS` blocks in memory."""
PATIENCE_S = 20.0
"""For one request, its turn included: whoever trickles is left to `fetch`, which asks others as well."""


class Gatherer:
    """One queue for each peer. Everything that came while a request was under way goes into the next one, but for what
    that request asks for already."""

    def __init__(self, store: BlockStore, short: Aside = asyncio.to_thread, *, largest: int = MAX_BLOCK_BYTES) -> None:
        """`short` runs what takes a moment in some thread. Larger artifacts than `largest` bytes are not asked for."""
        self._store, self._short, self._largest = store, short, largest
        self._wanted: defaultdict[Address, dict[Cid, asyncio.Future[int | None]]] = defaultdict(dict)
        self._asked: defaultdict[Address, dict[Cid, asyncio.Future[int | None]]] = defaultdict(dict)
        self._running: dict[Address, asyncio.Task[None]] = {}
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def gather(self, peer: Address, connection: Connection | None, cids: Sequence[Cid]) -> dict[Cid, int | None]:
        """The bytes of each artifact that is a single block and here, once the peer was asked for it; None for what
        is not here or more than one block."""
        loop, wanted, asked = asyncio.get_running_loop(), self._wanted[peer], self._asked[peer]
        waiting = {cid: asked.get(cid) or wanted.setdefault(cid, loop.create_future()) for cid in cids}
        if peer not in self._running:
            self._running[peer] = loop.create_task(self._drain(peer, connection))
        # Those of one request are there together: the first of them is waited for.
        return {
            cid: future.result() if future.done() else await asyncio.shield(future) for cid, future in waiting.items()
        }

    async def _drain(self, peer: Address, connection: Connection | None) -> None:
        # Whatever becomes due in this turn of the loop goes together.
        await asyncio.sleep(0)
        while wanted := self._wanted.pop(peer, None):
            futures = list(wanted.items())
            self._asked[peer] = wanted
            for start in range(0, len(futures), MAX_BLOCKS):
                part = dict(futures[start : start + MAX_BLOCKS])
                sizes: dict[Cid, int | None] = {}
                try:
                    async with self._turn, asyncio.timeout(PATIENCE_S):
                        sizes = await self._have(peer, connection, list(part))
                except (ProofyardError, TimeoutError) as error:
                    logger.debug("%s gives nothing: %s", peer, error)
                except Exception:
                    logger.exception("what %s gives cannot be taken", peer)
                finally:
                    for cid, future in part.items():
                        if not future.done():
                            future.set_result(sizes.get(cid))
        # At once, so that whoever comes now begins anew.
        self._asked.pop(peer, None)
        del self._running[peer]

    async def _have(self, peer: Address, connection: Connection | None, cids: Sequence[Cid]) -> dict[Cid, int | None]:
        sizes: dict[Cid, int | None] = await self._short(partial(self._sizes, cids))
        lacking = [cid for cid, size in sizes.items() if size is None]
        if not lacking or connection is None:
            return sizes
        found: list[tuple[Cid, bytes]] = []
        source = PeerBlocks(connection, self._largest) if isinstance(connection, Connection) else connection
        async with aclosing(source.blocks(lacking)) as blocks:
            async for cid, data in blocks:
                if data is not None:
                    found.append((cid, data))
        small = sum(len(data) for _, data in found) <= SMALL_BYTES
        forged = await (self._short if small else asyncio.to_thread)(partial(self._put, found))
        if forged is not None:
            connection.penalise(FORGERY_POINTS, f"{peer} sent something else as block {forged}")
            found = found[: [cid for cid, _ in found].index(forged)]
        sizes |= {cid: len(data) for cid, data in found if cid_codec(cid) == RAW}
        return sizes

    def _sizes(self, cids: Sequence[Cid]) -> dict[Cid, int | None]:
        return {cid: self._store.block_size(cid) if cid_codec(cid) == RAW else None for cid in cids}

    def _put(self, blocks: Sequence[tuple[Cid, bytes]]) -> Cid | None:
        """Store what is what it should be, up to the first block that is not, which is returned."""
        try:
            self._store.put_blocks(blocks)
        except (CorruptArtifact, ArtifactTooLarge) as error:
            return Cid(error.cid)
        return None
