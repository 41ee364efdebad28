"""Following the chain: events are applied together with the cursor behind them, in one transaction.

Applying an event twice changes nothing, so a reorganisation only means reading again. A job that vanished with a
block is dropped as long as no work has begun on it; the chain itself refuses to settle what it does not know.
"""

import asyncio
import logging

from sqlmodel import Session, select

from proofyard.chain import Cursor as ChainCursor
from proofyard.chain import Event, JobOpened, Rollback
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.types import ProofyardError
from proofyard.verifier.context import Context
from proofyard.verifier.database import Cursor, Job, JobState
from proofyard.verifier.jobs import note_opened

logger = logging.getLogger(__name__)

POLL_S = 0.5
RETRY_S = 3.0


async def follow_chain(context: Context) -> None:
    """Apply new events until cancelled; an unreachable chain is waited for."""
    while True:
        try:
            more = await _advance(context)
        except ProofyardError as error:
            logger.warning("the chain cannot be followed: %s", error)
            more = False
            await asyncio.sleep(RETRY_S)
        if not more:
            await asyncio.sleep(POLL_S)


async def _advance(context: Context) -> bool:
    """One bounded range; whether there was anything new."""
    with context.database.session() as session:
        row = session.get(Cursor, 1)
        cursor = decode(row.state, ChainCursor) if row else ChainCursor(context.settings.from_block)
    events, after = await context.on_chain(lambda: context.chain.events.read(cursor))
    if after == cursor:
        return False
    with context.database.session() as session:
        for event in events:
            _apply(session, event)
        session.merge(Cursor(id=1, state=encode(after)))
    if events:
        context.changed()
    return True


def _apply(session: Session, event: Event | Rollback) -> None:
    if isinstance(event, JobOpened):
        note_opened(session, event)
    elif isinstance(event, Rollback):
        logger.warning("the chain went back to block %s", event.to_block)
        for job in session.exec(select(Job).where(Job.state == JobState.WAITING, Job.opened_block > event.to_block)):
            session.delete(job)
