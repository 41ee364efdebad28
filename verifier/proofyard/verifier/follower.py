"""Following the chain: its events are told to the engine with the cursor behind them, so both last together.

Where the chain went back, the engine is told first, and the range is read again. What a verifier owes the network
beside its own batches is written down here as well (`Known`).
"""

import asyncio
import logging
import time
from functools import partial

from sqlalchemy import delete, update
from sqlmodel import Session, col, select

from proofyard.chain import Cursor as ChainCursor
from proofyard.chain import Event as ChainNews
from proofyard.chain import JobClosed, Rollback
from proofyard.chain.events import (
    BatchCommitted,
    BatchDrawn,
    BatchDropped,
    BatchRecommitted,
    BatchSettled,
    BatchTaken,
    BatchVoided,
)
from proofyard.chain.refusals import UnknownJob
from proofyard.protocol.cid import make_cid
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.settlement import Header
from proofyard.protocol.types import BatchId, JobId, ProofyardError
from proofyard.verifier.context import Context
from proofyard.verifier.engine.events import ChainEvent, Event, JobRead, RolledBack
from proofyard.verifier.membership import find_members, has_members
from proofyard.verifier.sharing import of_this_process, take_over
from proofyard.verifier.standing import follow_members
from proofyard.verifier.store.tables import Cursor, Known

logger = logging.getLogger(__name__)

POLL_S, SOON_S = 0.5, 0.1
"""How often it is looked for a block, and how often once one is due by the chain's pace."""
RETRY_S = 3.0
AFTER_ERROR_S = 30.0
JOBS_AT_ONCE = 64
"""Jobs that are read from the chain between two ranges of events, at most."""
LIST_RETRY_S = 0.5
IN_TIME, SOUGHT, LATE, AWAY = "in-time", "sought", "late", "away"


async def follow_chain(context: Context) -> None:
    """Apply new events until cancelled; an unreachable chain is waited for."""
    follower = Follower(context)
    while True:
        try:
            more = await follower.advance()
        except ProofyardError as error:
            logger.warning("the chain cannot be followed: %s", error)
            more = False
            await asyncio.sleep(RETRY_S)
        except Exception:
            logger.exception("an event cannot be applied; trying again")
            more = False
            await asyncio.sleep(AFTER_ERROR_S)
        if not more:
            await asyncio.sleep(pause_s(context.next_block_in_s()))


def pause_s(left: float) -> float:
    """How long not to look for a block that is due in `left` seconds, or was that long ago where it is negative."""
    if left > SOON_S:
        return min(POLL_S, left - SOON_S)
    return SOON_S if left > -POLL_S else POLL_S


class Follower:
    """One bounded range of events at a time."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._cursor: ChainCursor | None = None
        self._looked_at = -1
        """The newest block when it was looked which lists are missing."""
        self._looking: set[BatchId] = set()
        """Batches whose member lists are looked for now."""
        self._leads_since: int | None = None
        """The newest block when this process began to lead; None while it stands by."""

    async def advance(self) -> bool:
        """Whether there was anything new."""
        context = self._context
        if await take_over(context):
            self._cursor = None
        if self._cursor is None:
            self._cursor = await self._stored()
            context.told_to = self._cursor.next_block - 1
        began = time.monotonic()
        head, now = await context.look_at_clock()
        await self._look_who_leads(head)
        cursor = self._cursor
        events, after = await context.on_chain(lambda: context.chain.events.read(cursor))
        asked = list(context.asked_jobs)[:JOBS_AT_ONCE]
        if self._looked_at != head:
            self._looked_at = head
            await self._look_again(head)
        if after == cursor and not asked:
            context.caught_up_at = began
            return False
        read = await context.on_chain(lambda: [self._read(job, after.next_block - 1) for job in asked])
        params = await context.params()
        fresh = await context.database.ask(lambda session: self._note_known(session, events, head, params.draw_delay))
        for event in fresh:
            header = Header(event.root, event.size, event.members, event.lines)
            self._begin_to_look(event.batch, header, event.position.block + params.draw_delay)
        await follow_members(context, events)
        told = await of_this_process(context, [await self._told(event, now) for event in events])
        await context.runner.tell_all([*told, *read], encode(after))
        self._cursor = after
        context.told_to = after.next_block - 1
        for job in asked:
            context.asked_jobs.pop(job, None)
        return True

    def _read(self, job: JobId, block: int) -> JobRead:
        """What a job is on chain after the last event that is told."""
        try:
            record = self._context.chain.job(job, block=block)
        except UnknownJob:
            return JobRead(job, None, 0, 0, 0, 0)
        return JobRead(
            job=job,
            manifest=make_cid(record.manifest),
            verifier=record.verifier,
            closed_at=record.closed_at,
            units_open=record.units_open,
            units_paid=record.units_paid,
        )

    async def _stored(self) -> ChainCursor:
        reader = self._context.database.reader
        row = await self._context.database.ask(lambda session: session.get(Cursor, reader))
        if row:
            return decode(row.state, ChainCursor)
        return ChainCursor(await self._context.on_chain(lambda: self._context.chain.first_block))

    async def _told(self, event: ChainNews | Rollback, now: int) -> Event:
        if isinstance(event, Rollback):
            logger.warning("the chain went back to block %s", event.to_block)
            self._context.went_back()
            return RolledBack(event.to_block)
        if isinstance(event, JobClosed):
            closed = await self._context.on_chain(lambda: self._context.chain.job(event.job).closed_at)
            return ChainEvent(event, closed or now)
        return ChainEvent(event, now)

    # What is owed to the network

    async def _look_who_leads(self, head: int) -> None:
        """Nobody saw the end of what an earlier process was looking for."""
        if not self._context.leads:
            self._leads_since = None
        elif self._leads_since is None:
            self._leads_since = head
            await self._context.database.ask(_give_up)

    def _note_known(
        self, session: Session, events: list[ChainNews | Rollback], head: int, draw_delay: int
    ) -> list[BatchCommitted]:
        self._context.database.lock(session, "known")
        fresh = []
        for event in events:
            if isinstance(event, Rollback):
                # At once: what a session is about to delete it still finds, and what comes back would be passed over.
                session.exec(delete(Known).where(col(Known.commit_block) > event.to_block))
            elif isinstance(event, BatchCommitted):
                if session.get(Known, event.batch) is None:
                    block, here = event.position.block, has_members(self._context, event.members)
                    held = IN_TIME if here else AWAY
                    session.add(Known(batch=event.batch, leader=event.verifier, commit_block=block, held=held))
                    fresh += [] if here or head >= block + draw_delay else [event]
            else:
                _apply(session, event)
        return fresh

    async def _look_again(self, head: int) -> None:
        """For the lists that nobody looks for any more, or that a process noted which stands by, while their draw is to
        come."""
        context, delay = self._context, (await self._context.params()).draw_delay
        missing = select(Known).where(Known.held == AWAY, col(Known.commit_block) > head - delay)
        for known in await context.database.ask(lambda session: session.exec(missing).all()):
            batch = BatchId(known.batch)
            if context.leads and batch not in self._looking:
                header = await context.on_chain(partial(context.chain.header, batch))
                self._begin_to_look(batch, header, known.commit_block + delay)

    def _begin_to_look(self, batch: BatchId, header: Header, draw_block: int) -> None:
        """Who leads looks: the others are connected with nobody."""
        if self._context.leads and batch not in self._looking:
            self._looking.add(batch)
            self._context.spawn(self._look_until(batch, header, draw_block))

    async def _look_until(self, batch: BatchId, header: Header, draw_block: int) -> None:
        try:
            await self._look_for_list(batch, header, draw_block)
        finally:
            self._looking.discard(batch)

    async def _look_for_list(self, batch: BatchId, header: Header, draw_block: int) -> None:
        """Try to have the member list of a batch before its draw. It is late where one process led from before the
        commit until the draw and was not shown it: one that came later, or went before, cannot tell why."""
        context, commit_block = self._context, draw_block - (await self._context.params()).draw_delay

        async def note(held: str) -> None:
            await context.database.ask(lambda session: _note_held(session, batch, commit_block, held))

        if self._leads_since is not None and self._leads_since < commit_block:
            await note(SOUGHT)
        while await context.on_chain(context.chain.block_number) < draw_block:
            if await find_members(context, header) is not None:
                if await context.on_chain(context.chain.block_number) < draw_block:
                    await note(IN_TIME)
                    return
                break
            await asyncio.sleep(LIST_RETRY_S)
        if context.leads:
            await note(LATE)
            logger.warning("nobody showed the member list of batch %s before its draw", batch)


def _note_held(session: Session, batch: int, commit_block: int, held: str) -> None:
    known = session.get(Known, batch)
    if known is not None and known.commit_block == commit_block and (held != LATE or known.held == SOUGHT):
        known.held = held


def _give_up(session: Session) -> None:
    session.exec(update(Known).where(col(Known.held) == SOUGHT).values(held=AWAY))


def _apply(session: Session, event: ChainNews) -> None:
    known = session.get(Known, getattr(event, "batch", None) or 0)
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
        case BatchVoided():
            known.settled = False
        case BatchDropped():
            session.delete(known)
