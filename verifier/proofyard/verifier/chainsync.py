"""Following the chain: events are applied together with the cursor behind them, in one transaction.

Applying an event twice changes nothing, so a reorganisation only means reading again. A job that vanished with a
block is dropped as long as no work has begun on it; the chain itself refuses to settle what it does not know.
"""

import asyncio
import logging

from sqlmodel import Session, col, select

from proofyard.chain import Cursor as ChainCursor
from proofyard.chain import Event, JobClosed, JobOpened, Rollback
from proofyard.chain.events import (
    Absolved,
    BatchCommitted,
    BatchDrawn,
    BatchDropped,
    BatchRecommitted,
    BatchSettled,
    BatchTaken,
    BatchVoided,
    JobTaken,
)
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.settlement import Header, OperatorId
from proofyard.protocol.types import BatchId, ProofyardError
from proofyard.verifier.context import Context
from proofyard.verifier.database import Batch, BatchState, Cursor, Held, Job, JobState, Known, row_of
from proofyard.verifier.jobs import note_closed, note_opened, note_taken
from proofyard.verifier.membership import find_members, has_members
from proofyard.verifier.outcomes import absolve

logger = logging.getLogger(__name__)

POLL_S = 0.5
RETRY_S = 3.0
AFTER_ERROR_S = 30.0
LIST_RETRY_S = 0.5


async def follow_chain(context: Context) -> None:
    """Apply new events until cancelled; an unreachable chain is waited for."""
    while True:
        try:
            more = await Follower(context).advance()
        except ProofyardError as error:
            logger.warning("the chain cannot be followed: %s", error)
            more = False
            await asyncio.sleep(RETRY_S)
        except Exception:
            logger.exception("an event cannot be applied; trying again")
            more = False
            await asyncio.sleep(AFTER_ERROR_S)
        if not more:
            await asyncio.sleep(POLL_S)


class Follower:
    """One bounded range of events at a time."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def advance(self) -> bool:
        """Whether there was anything new."""
        context = self._context
        with context.database.session() as session:
            row = session.get(Cursor, 1)
            cursor = decode(row.state, ChainCursor) if row else ChainCursor(context.settings.from_block)
        context.saw_block(await context.on_chain(context.chain.now))
        events, after = await context.on_chain(lambda: context.chain.events.read(cursor))
        if after == cursor:
            return False
        own, params = await context.own(), await context.params()
        head = await context.on_chain(context.chain.block_number)
        fresh = []
        with context.database.session() as session:
            for event in events:
                self._apply(session, event, own)
                if isinstance(event, BatchCommitted) and session.get(Known, event.batch) is None:
                    held = self._held(event, head, params.draw_delay)
                    block = event.position.block
                    session.add(Known(batch=event.batch, leader=event.verifier, commit_block=block, held=held))
                    fresh += [event] if held == Held.LATE else []
            session.merge(Cursor(id=1, state=encode(after)))
        for event in fresh:
            context.spawn(self._look_for_list(event, event.position.block + params.draw_delay))
        if events:
            context.changed()
        return True

    def _held(self, event: BatchCommitted, head: int, draw_delay: int) -> Held:
        """Whether the member list was here when its batch appeared. It counts as late until it is had before the draw;
        a draw that was over when this verifier came to see the commit says nothing."""
        if has_members(self._context, event.members):
            return Held.IN_TIME
        return Held.AWAY if head >= event.position.block + draw_delay else Held.LATE

    async def _look_for_list(self, event: BatchCommitted, draw_block: int) -> None:
        """Try to have the member list of a batch before its draw."""
        header = Header(event.root, event.size, event.members, event.lines)
        context = self._context
        while await context.on_chain(context.chain.block_number) < draw_block:
            if await find_members(context, header) is not None:
                if await context.on_chain(context.chain.block_number) < draw_block:
                    with context.database.session() as session:
                        known = session.get(Known, event.batch)
                        if known is not None:
                            known.held = Held.IN_TIME
                return
            await asyncio.sleep(LIST_RETRY_S)
        logger.warning("nobody showed the member list of batch %s before its draw", event.batch)

    def _apply(self, session: Session, event: Event | Rollback, own: OperatorId | None) -> None:
        match event:
            case JobOpened():
                note_opened(session, event)
            case JobClosed():
                note_closed(session, event.job)
            case JobTaken():
                note_taken(session, event.job, own=event.verifier == own)
            case Absolved():
                absolve(session, event.batch, event.operator)
            case Rollback():
                self._roll_back(session, event)
            case _:
                self._apply_to_batch(session, event, own)

    def _roll_back(self, session: Session, event: Rollback) -> None:
        logger.warning("the chain went back to block %s", event.to_block)
        late = select(Job).where(Job.state == JobState.WAITING, col(Job.opened_block) > event.to_block)
        for job in session.exec(late):
            session.delete(job)
        for known in session.exec(select(Known).where(col(Known.commit_block) > event.to_block)):
            session.delete(known)
        for batch in session.exec(select(Batch).where(col(Batch.chain_id).is_not(None), col(Batch.final).is_(False))):
            _look_up_again(batch)

    def _apply_to_batch(self, session: Session, event: Event, own: OperatorId | None) -> None:
        batch = getattr(event, "batch", None)
        known = None if batch is None else session.get(Known, batch)
        if known is None:
            return
        match event:
            case BatchDrawn():
                known.drawn = True
            case BatchRecommitted():
                known.drawn = False
            case BatchTaken():
                known.leader = event.verifier
            case BatchSettled():
                known.settled = True
            case BatchDropped():
                session.delete(known)
            case BatchVoided():
                known.settled = False
                _reopen(session, event.batch, event.attempt, led=known.leader == own)


def _look_up_again(batch: Batch) -> None:
    """Its commit or its settlement may have gone with a block. What this verifier led is looked for again by its root,
    and takes the steps again that are not there any more; its evidence stays."""
    if batch.state == BatchState.SETTLED:
        batch.state = BatchState.JUDGED
    elif batch.state in (BatchState.COMMITTED, BatchState.AUDITING, BatchState.JUDGED):
        batch.state, batch.chain_id = BatchState.FORMED, None


def _reopen(session: Session, chain_id: BatchId, attempt: int, *, led: bool) -> None:
    """A settlement was voided. The evidence of a batch that this verifier leads stands, and is settled again."""
    batch = row_of(session, chain_id)
    if batch is not None and batch.state in (BatchState.SETTLED, BatchState.JUDGED):
        batch.state = BatchState.JUDGED if led else BatchState.TAKEN
        batch.attempt, batch.final, batch.record = attempt, False, None
