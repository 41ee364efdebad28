"""Drawing a batch's audits: the chain's facts at the draw, everybody's member lists, and the protocol's own plan."""

import asyncio
import logging
from functools import partial

from sqlmodel import select

from proofyard.chain.errors import NotDrawn
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.members import MAX_MEMBERS_BYTES, decode_members
from proofyard.protocol.plan import plan_of
from proofyard.protocol.types import BatchId, Cid
from proofyard.protocol.view import BatchView
from proofyard.verifier.context import Context
from proofyard.verifier.database import Batch, BatchState, Segment, log_batch
from proofyard.verifier.membership import Lists, gather_lists, members_of

logger = logging.getLogger(__name__)

DRAW_POLL_S = 0.3
MAX_COUNTED_BYTES = 16 << 20


async def draw(context: Context, batch: Batch) -> None:
    """Once its block is there, compute the plan and write down what to audit.

    Safe to repeat with more member lists than before: answers that were given stay where they are on a list.
    """
    try:
        view = await context.on_chain(partial(context.chain.view, BatchId(batch.chain_id or 0)))
    except NotDrawn:
        await context.wait(DRAW_POLL_S)
        return
    lists = await gather_lists(context, view)
    lists.members[view.batch] = members_of(batch)
    lists.cids[view.batch] = await asyncio.to_thread(context.store.put_bytes, batch.members)
    plan = await asyncio.to_thread(plan_of, view, lists.members)
    with context.database.session() as session:
        batch = session.merge(batch)
        row = batch.id or 0
        planned = {audit.key: audit for audit in plan.audits}
        for old in session.exec(select(Segment).where(Segment.batch == row)):
            if (old.job, old.task, old.index) not in planned:
                session.delete(old)
        for (job, task, segment), audit in planned.items():
            here = session.get(Segment, (row, job, task, segment))
            order = " ".join(audit.auditors)
            if here is None:
                session.add(Segment(batch=row, job=job, task=task, index=segment, auditors=order))
            elif here.auditors != order:
                here.auditors, here.verdict, here.kind, here.reason, here.unvoted = order, "pending", 0, "", False
        batch.counted = encode(sorted(lists.cids.items()))
        batch.state = BatchState.AUDITING
        text = f"batch {view.batch}: {len(plan.audits)} segments drawn for audit, {len(plan.skipped)} tasks skipped"
        log_batch(session, row, "drawn", text)


async def counted_lists(context: Context, view: BatchView, batch: Batch) -> Lists:
    """The member lists that the plan was drawn with."""
    lists = Lists()
    for number, cid in decode(batch.counted, list[tuple[BatchId, Cid]], max_bytes=MAX_COUNTED_BYTES):
        data = await asyncio.to_thread(context.store.get_bytes, cid, max_bytes=MAX_MEMBERS_BYTES)
        lists.cids[number], lists.members[number] = cid, decode_members(data)
    lists.members[view.batch] = members_of(batch)
    return lists
