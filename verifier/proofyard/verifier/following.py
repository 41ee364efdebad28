"""A batch that another verifier leads now: what its settlement means for the tasks of this verifier's jobs."""

import asyncio
from functools import partial

from proofyard.disputes.settled import load_settled
from proofyard.protocol.types import BatchId, Cid
from proofyard.verifier.context import Context
from proofyard.verifier.database import Batch
from proofyard.verifier.outcomes import apply_record
from proofyard.verifier.settling import note_settled

POLL_S = 5.0


async def follow_settlement(context: Context, batch: Batch) -> None:
    """Once the batch is settled, take over what its record says: a verdict of others counts as one's own, if it
    follows. Raises `RecordInvalid` for a record that does not hold; a challenge is to void it."""
    chain_id = BatchId(batch.chain_id or 0)
    state = await context.on_chain(partial(context.chain.batch, chain_id))
    if not state.settled_at or state.voided:
        await context.wait(POLL_S)
        return

    async def read(cid: Cid, max_bytes: int) -> bytes:
        return await context.find(cid, max_bytes=max_bytes)

    settled = await load_settled(context.chain, read, chain_id)
    await asyncio.to_thread(settled.check_record)
    with context.database.session() as session:
        row = session.merge(batch)
        row.record = settled.event.record
        apply_record(session, row, settled.view, settled.record)
        note_settled(session, row, settled.record)
