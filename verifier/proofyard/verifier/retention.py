"""What a verifier's store keeps, and for how long.

Everything that an open job needs stays, and so does every state of a batch until its challenge window has closed. What
tells of a finished job (manifest, records, result) stays for `keep_s` more. The rest is a cache of `cache_bytes`.
"""

import asyncio
import logging
import time
from functools import partial

from sqlmodel import Session, col, select

from proofyard.artifacts import Keeper, cid_of_bytes
from proofyard.artifacts.keeper import GRACE_SECONDS
from proofyard.protocol.codec import decode
from proofyard.protocol.types import BatchId, Cid, ProofyardError
from proofyard.verifier.context import Context
from proofyard.verifier.database import Batch, BatchState, Job, JobState, Line, tasks_of
from proofyard.verifier.drawing import MAX_COUNTED_BYTES
from proofyard.verifier.membership import members_of

logger = logging.getLogger(__name__)

PASS_S = 300.0
LEASE_S = 3600.0
"""Each pass renews the leases of what is needed, well before they end."""


async def look_after_store(context: Context) -> None:
    """Tidy the store again and again until cancelled."""
    while True:
        try:
            await tidy(context)
        except ProofyardError as error:
            logger.warning("the store could not be tidied: %s", error)
        except Exception:
            logger.exception("the store could not be tidied")
        await asyncio.sleep(PASS_S)


async def tidy(context: Context, *, grace_s: float = GRACE_SECONDS) -> None:
    """One pass: note which batches have become final, renew the leases of what is needed, delete the rest."""
    with context.database.session() as session:
        settled = session.exec(
            select(Batch).where(Batch.state == BatchState.SETTLED, col(Batch.final).is_(False))
        ).all()
    for batch in settled:
        if await context.on_chain(partial(_is_final, context, BatchId(batch.chain_id or 0))):
            with context.database.session() as session:
                session.merge(batch).final = True
    await asyncio.to_thread(_collect, context, time.time(), grace_s)


def _is_final(context: Context, batch: BatchId) -> bool:
    state = context.chain.batch(batch)
    settled = bool(state.settled_at) and not state.voided and not state.open_challenges
    return settled and state.claimable_at <= context.chain.now()


def _collect(context: Context, now: float, grace_s: float) -> None:
    keeper = Keeper(context.store)
    with context.database.session() as session:
        needed = {cid for job in session.exec(select(Job)) for cid in _needed(session, context, job, now)}
        for batch in session.exec(select(Batch).where(col(Batch.final).is_(False))):
            needed |= _named(batch)
    for cid in needed:
        if context.store.has(cid):
            keeper.pin(cid, until=now + LEASE_S)
    found = keeper.collect(now, quota_bytes=context.settings.cache_bytes, grace_s=grace_s)
    if found.blocks:
        logger.info("%s bytes of cache deleted, %s are left", found.bytes, found.bytes_left)


def _needed(session: Session, context: Context, job: Job, now: float) -> set[Cid]:
    """What must stay because of one job."""
    query = select(Batch).join(Line, col(Line.batch) == col(Batch.id)).where(Line.job == job.id)
    batches = session.exec(query).all()
    unfinal = [batch for batch in batches if not batch.final]
    ended = max((batch.settled_at for batch in batches), default=float(job.deadline))
    over = job.state in (JobState.DONE, JobState.FAILED) and not unfinal
    if over and ended + context.settings.keep_s < now:
        return set()
    manifest = Cid(job.manifest)
    needed: set[Cid | None] = {manifest, Cid(job.result) if job.result else None}
    needed |= {Cid(batch.record) for batch in batches if batch.record}
    if not over:
        needed |= {Cid(task.result) for task in tasks_of(session, job.id) if task.result}
        if context.store.has(manifest):
            content = context.manifest(manifest)
            needed |= {content.model, content.data}
    return {cid for cid in needed if cid is not None}


def _named(batch: Batch) -> set[Cid]:
    """What others may ask for until a batch is final: its states and results, its record, and the member lists that its
    plan was drawn with, its own among them."""
    named = {cid for member in members_of(batch) for cid in (member.commitment.result, *member.trace)}
    if batch.record:
        named.add(Cid(batch.record))
    if batch.counted:
        named |= {cid for _, cid in decode(batch.counted, list[tuple[BatchId, Cid]], max_bytes=MAX_COUNTED_BYTES)}
    return named | {cid_of_bytes(batch.members)}
