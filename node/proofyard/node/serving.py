"""Serving blocks: what this node owes is made again before anybody is told that it is not here.

A peer waits some seconds for a request, a damaged state may take longer. So a request waits as long as peers do, and
whoever asks again finds the state, which is computed meanwhile.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

from proofyard.artifacts import ArtifactError, BlockStore, GetBlocks, serve_blocks
from proofyard.artifacts.exchange import HasBlocks, Held
from proofyard.node.journal import HeldTask
from proofyard.node.repair import Debts
from proofyard.node.work import Owed
from proofyard.protocol.cid import CID_BYTES, CidError, cid_from_bytes
from proofyard.protocol.types import Cid
from proofyard.transport import Body, Connection, Endpoint

MEND_S = 10.0
"""Peers wait 15 s for blocks."""

Mend = Callable[[Owed], Awaitable[None]]
"""Returns once something owed is whole again, or cannot be made so."""


OpenMark = Callable[[HeldTask], Awaitable[None]]
"""Has what opens a task's mark in the store, if it may be told."""


def serve_owed_blocks(
    endpoint: Endpoint, store: BlockStore, debts: Debts, mend: Mend, open_mark: OpenMark | None = None
) -> None:
    """Answer requests for blocks from `store`, and have `mend` make what is owed and missing or damaged."""
    plain: dict[type, Any] = {}
    serve_blocks(cast(Endpoint, SimpleNamespace(on=plain.__setitem__)), store)

    async def open_marks(cids: bytes) -> None:
        for held in filter(None, map(debts.marked, _split(cids))):
            if open_mark is not None:
                await open_mark(held)

    async def get_blocks(connection: Connection, request: GetBlocks, body: Body) -> Any:
        await open_marks(request.cids)
        wanted = {debts.of(cid) for cid in _split(request.cids)} - {None}
        missing = await asyncio.to_thread(_lacking, store, debts, _split(request.cids)) if wanted else []
        if missing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(MEND_S):
                    await asyncio.gather(*(mend(owed) for owed in missing))
        return await plain[GetBlocks](connection, request, body)

    async def has_blocks(connection: Connection, request: HasBlocks, body: Body) -> Held:
        """What is owed counts as here: it can be had from this node and perhaps from nobody else."""
        await open_marks(request.cids)
        answer = await plain[HasBlocks](connection, request, body)
        cids = _split(request.cids)
        return Held(bytes(here or debts.of(cid) is not None for here, cid in zip(answer.held, cids, strict=True)))

    endpoint.on(GetBlocks, get_blocks)
    endpoint.on(HasBlocks, has_blocks)


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


def _split(joined: bytes) -> list[Cid]:
    """The CIDs of a request; none of one that is malformed, which the plain handler refuses."""
    try:
        return [cid_from_bytes(joined[at : at + CID_BYTES]) for at in range(0, len(joined), CID_BYTES)]
    except CidError:
        return []
