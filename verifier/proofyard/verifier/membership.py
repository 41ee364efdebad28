"""Member lists: what batches were made of, the own ones and those of others that a plan has to reckon with."""

import asyncio
import contextlib
import logging
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field

from proofyard.artifacts import ArtifactError
from proofyard.protocol.cid import DAG_PB, RAW, make_cid
from proofyard.protocol.members import MAX_MEMBERS_BYTES, Member, MemberTree, TaskKey, decode_members, members_fit
from proofyard.protocol.settlement import Header
from proofyard.protocol.types import BatchId, Cid, Digest, ProofyardError
from proofyard.protocol.view import BatchView, OpenBatch
from proofyard.transport import Connection
from proofyard.verifier.context import Context
from proofyard.verifier.engine.rows import Batch

logger = logging.getLogger(__name__)

LISTS_AT_ONCE = 4
BATCHES_KEPT = 8
LISTS_S = 120.0
"""All lists that are not here yet are waited for so long in all: however many hidden ones somebody commits to, they
delay nobody's batch for longer."""


@dataclass(frozen=True)
class Lists:
    """Member lists by batch, and under which CID each was had."""

    members: dict[BatchId, tuple[Member, ...]] = field(default_factory=dict)
    cids: dict[BatchId, Cid] = field(default_factory=dict)

    def without(self, batches: Iterable[BatchId]) -> list[BatchId]:
        """Those of `batches` whose list is not here, ascending."""
        return sorted(set(batches) - self.members.keys())


def members_of(batch: Batch) -> tuple[Member, ...]:
    """The batch's commitments in the order of its Merkle leaves."""
    return decode_members(batch.members)


async def members_by_key(context: Context, batch: Batch) -> Mapping[TaskKey, Member]:
    """The same by job and task."""
    return (await member_tree(context, batch)).by_key


async def own_list(context: Context, header: Header, batch: Batch) -> tuple[Cid, tuple[Member, ...]]:
    """An own batch's list with its CID, in the store, and kept for whoever needs that of `header`."""
    tree = await member_tree(context, batch)
    cid = await asyncio.to_thread(context.store.put_bytes, batch.members)
    context.lists.put(_key(cid, header), tree.members, len(batch.members))
    return cid, tree.members


async def list_of(context: Context, header: Header, cid: Cid) -> tuple[Member, ...]:
    """The list that `header` names, of which `cid` is in the store. Raises `ArtifactError` or `CodecError`."""
    known = context.lists.get(_key(cid, header))
    if known is not None:
        return known
    data = await asyncio.to_thread(context.store.get_bytes, cid, max_bytes=MAX_MEMBERS_BYTES)
    return await asyncio.to_thread(decode_members, data)


def _key(cid: Cid, header: Header) -> Hashable:
    return cid, header.root, header.size


async def member_tree(context: Context, batch: Batch) -> MemberTree:
    """The same as a tree; the last few batches' are kept, and decoded once however many ask."""
    kept = context.members_kept
    found = kept.get(batch.members)
    if found is None or (found.done() and (found.cancelled() or found.exception())):
        found = asyncio.ensure_future(asyncio.to_thread(lambda: MemberTree(decode_members(batch.members))))
    kept[batch.members] = found
    kept.move_to_end(batch.members)
    while len(kept) > BATCHES_KEPT:
        kept.popitem(last=False)
    return found.result() if found.done() else await asyncio.shield(found)


def batches_of(view: BatchView) -> dict[BatchId, Header]:
    """Every batch whose member list a record of `view`'s batch has to count."""
    named: tuple[OpenBatch, ...] = (*view.open_batches, *view.claimed_before)
    return {view.batch: view.header} | {each.batch: each.header for each in named}


async def gather_lists(context: Context, view: BatchView, *, first: Connection | None = None) -> Lists:
    """The member lists that a plan for `view`'s batch needs, as far as anybody delivers them. `first` is asked
    first."""
    found = Lists()
    limit = asyncio.Semaphore(LISTS_AT_ONCE)

    async def one(batch: BatchId, header: Header) -> None:
        async with limit:
            had = await find_members(context, header, first=first)
        if had is not None:
            found.cids[batch], found.members[batch] = had

    wanted = sorted(batches_of(view).items(), key=lambda each: not has_members(context, each[1].members))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LISTS_S):
            await asyncio.gather(*(one(batch, header) for batch, header in wanted))
    return found


async def find_members(
    context: Context, header: Header, *, first: Connection | None = None
) -> tuple[Cid, tuple[Member, ...]] | None:
    """A header's member list with its CID, from the store or whoever delivers it; None where nobody does, or where what
    its digest leads to is no list of its root."""
    for cid in _names(context, header.members):
        known = context.lists.get(_key(cid, header))
        if known is not None:
            return cid, known
        try:
            data = await context.find(cid, max_bytes=MAX_MEMBERS_BYTES, first=first)
            members = await asyncio.to_thread(decode_members, data)
        except ProofyardError as error:
            logger.info("member list %s: %s", cid, error)
            if not isinstance(error, ArtifactError):
                return None
            continue
        if not await asyncio.to_thread(members_fit, header, members):
            return None
        context.lists.put(_key(cid, header), members, len(data))
        return cid, members
    return None


def has_members(context: Context, digest: Digest) -> bool:
    """Whether the member list of a header's digest is in the store, whole."""
    return any(context.store.has(cid) and not any(context.store.missing(cid)) for cid in _names(context, digest))


def _names(context: Context, digest: Digest) -> list[Cid]:
    """A digest alone does not say whether it is that of a file in one block or in several (dag-pb)."""
    names = [make_cid(digest, RAW), make_cid(digest, DAG_PB)]
    return sorted(names, key=lambda cid: not context.store.has(cid))
