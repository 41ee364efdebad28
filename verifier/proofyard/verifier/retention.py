"""What a verifier's store keeps, and for how long.

Everything that an open job needs stays, and so does every state of a batch until its challenge window has closed. What
tells of a finished job (manifest, records, result) stays for `keep_s` more. Copies of others' results stay as long as
their batches can be challenged (`copies`). The rest is a cache of `cache_bytes`.
"""

import asyncio
import logging
import time
from collections import defaultdict

from proofyard.artifacts import Keeper, cid_of_bytes
from proofyard.artifacts.keeper import GRACE_SECONDS
from proofyard.protocol.codec import decode
from proofyard.protocol.messages import SubmitCommitment
from proofyard.protocol.types import BatchId, Cid, JobId, ProofyardError
from proofyard.verifier.context import Context
from proofyard.verifier.engine.rows import Batch, BatchState, Job, JobState, Work
from proofyard.verifier.leading import MAX_COUNTED_BYTES
from proofyard.verifier.membership import members_of
from proofyard.verifier.store.tables import TABLES
from proofyard.workloads.workload import carries

logger = logging.getLogger(__name__)

PASS_S = 300.0
LEASE_S = 3600.0
"""Each pass renews the leases of what is needed, well before they end."""


async def look_after_store(context: Context) -> None:
    """Tidy the store again and again until cancelled."""
    while True:
        try:
            # Processes of one verifier share their artifacts.
            if context.leads:
                await tidy(context)
        except ProofyardError as error:
            logger.warning("the store could not be tidied: %s", error)
        except Exception:
            logger.exception("the store could not be tidied")
        await asyncio.sleep(PASS_S)


async def tidy(context: Context, *, grace_s: float = GRACE_SECONDS) -> None:
    """One pass: renew the leases of what is needed, delete the rest."""
    copied = {cid for each in context.copies.values() for cids in (each.named, *each.results.values()) for cid in cids}
    await asyncio.to_thread(_collect, context, time.time(), grace_s, copied)


def _collect(context: Context, now: float, grace_s: float, copied: set[Cid]) -> None:
    keeper, database = Keeper(context.store), context.database
    batches: defaultdict[JobId, list[Batch]] = defaultdict(list)
    needed = copied
    for batch in database.rows(Batch):
        if isinstance(batch, Batch):
            for job, _ in batch.lines:
                batches[job].append(batch)
            if batch.state not in (BatchState.FINAL, BatchState.DROPPED):
                needed |= _named(batch)
    for row in database.rows(Job):
        if isinstance(row, Job):
            needed |= _needed(context, row, batches[row.id], now)
    for cid in needed:
        if context.store.has(cid):
            keeper.pin(cid, until=now + LEASE_S)
    found = keeper.collect(now, quota_bytes=context.settings.cache_bytes, grace_s=grace_s)
    if found.blocks:
        logger.info("%s bytes of cache deleted, %s are left", found.bytes, found.bytes_left)


def _needed(context: Context, job: Job, batches: list[Batch], now: float) -> set[Cid]:
    """What must stay because of one job."""
    unfinal = any(batch.state not in (BatchState.FINAL, BatchState.DROPPED) for batch in batches)
    ended = max((batch.claimable_at for batch in batches), default=job.deadline)
    over = job.state in (JobState.DONE, JobState.FAILED) and not unfinal
    if over and ended + context.settings.keep_s < now:
        return set()
    needed: set[Cid | None] = {job.manifest, job.result, *(batch.record for batch in batches)}
    if job.workers:
        # Which rounds are closed is read from the lists of all its batches, those that were dropped included.
        needed |= {cid_of_bytes(batch.members) for batch in batches}
    if not over:
        rows = context.database.rows(Work, TABLES[Work].c.job == job.id)
        works = [work for work in rows if isinstance(work, Work)]
        needed |= {work.result for work in works}
        if context.store.has(job.manifest):
            content = context.manifest(job.manifest)
            needed |= {content.model, content.data}
            if carries(context.workload(content), content):
                # Named in results: a task that is done again later is made of them as well.
                submitted = [work.submission for work in works if work.submission]
                needed |= {decode(each, SubmitCommitment).trace[-1] for each in submitted}
    return {cid for cid in needed if cid is not None}


def _named(batch: Batch) -> set[Cid]:
    """What others may ask for until a batch is final: its states and results, its record, and the member lists that its
    plan was drawn with, its own among them."""
    named = {cid for member in members_of(batch) for cid in (member.commitment.result, *member.trace)}
    if batch.record:
        named.add(batch.record)
    if batch.counted:
        named |= {cid for _, cid in decode(batch.counted, list[tuple[BatchId, Cid]], max_bytes=MAX_COUNTED_BYTES)}
    return named | {cid_of_bytes(batch.members)}
