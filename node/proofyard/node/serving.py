"""Serving blocks: what this node owes is made again before anybody is told that it is not here.

A peer waits some seconds for a request, a damaged state may take longer. So a request waits as long as peers do, and
whoever asks again finds the state, which is computed meanwhile.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from proofyard.artifacts import ArtifactError, BlockStore, serve_blocks
from proofyard.artifacts.exchange import OnSent
from proofyard.node.aside import aside, at_once
from proofyard.node.journal import HeldTask
from proofyard.node.repair import Debts
from proofyard.node.work import Owed
from proofyard.protocol.types import Cid
from proofyard.transport import Endpoint

MEND_S = 10.0
"""Peers wait 15 s for blocks."""

Mend = Callable[[Owed], Awaitable[None]]
"""Returns once something owed is whole again, or cannot be made so."""


OpenMark = Callable[[HeldTask], Awaitable[None]]
"""Has what opens a task's mark in the store, if it may be told."""


def serve_owed_blocks(
    endpoint: Endpoint,
    store: BlockStore,
    debts: Debts,
    mend: Mend,
    open_mark: OpenMark | None = None,
    on_sent: OnSent = lambda peer, size: None,
) -> None:
    """Answer requests for blocks from `store`, and have `mend` make what is owed and missing or damaged. What is owed
    counts as here: it can be had from this node and perhaps from nobody else."""

    async def prepare(cids: Sequence[Cid], to_send: bool) -> None:
        for held in filter(None, map(debts.marked, cids)):
            if open_mark is not None:
                await open_mark(held)
        owed = [cid for cid in cids if debts.of(cid) is not None] if to_send else []
        size = sum(store.block_size(cid) or 0 for cid in owed)
        missing = await aside(size, _lacking, store, debts, owed)
        if not missing:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MEND_S):
                await asyncio.gather(*map(mend, missing))

    def owes(cid: Cid) -> bool:
        return debts.of(cid) is not None

    serve_blocks(endpoint, store, short=at_once, prepare=prepare, owes=owes, on_sent=on_sent)


def _lacking(store: BlockStore, debts: Debts, cids: Sequence[Cid]) -> list[Owed]:
    """What is owed of blocks that are not here, or damaged: a damaged one is deleted when it is read."""
    found: dict[Cid, Owed] = {}
    for cid in cids:
        owed = debts.of(cid)
        if owed is not None and owed.cid not in found:
            try:
                store.get_block(cid)
            except ArtifactError:
                found[owed.cid] = owed
    return list(found.values())
