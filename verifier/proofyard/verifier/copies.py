"""Copies of what others' jobs come to: where a job's own verifier is away, a result that is settled is to be had all
the same.

The first `COPIES` seats, in an order of each batch's own, fetch what a settled record names as part of a job's result,
and the record and manifest with it. All of it follows from `Known`: it is leased while its batch can be challenged, as
everything is that its leader owes, and a cache like any other afterwards.
"""

import asyncio
import contextlib
import logging
import time
from functools import partial

from sqlmodel import col, select

from proofyard.artifacts import ArtifactTooLarge, fetch
from proofyard.artifacts.exchange import MAX_BLOCKS
from proofyard.disputes.settled import cid_of_record
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES
from proofyard.protocol.record import MAX_RECORD_BYTES, BatchRecord, RecordedJob, decode_record
from proofyard.protocol.types import Address, BatchId, Cid, JobId, ProofyardError
from proofyard.transport import Connection, TransportError
from proofyard.verifier.context import Context, Copied
from proofyard.verifier.store.tables import Known
from proofyard.verifier.turns import in_turn
from proofyard.workloads.workload import possible_finals

logger = logging.getLogger(__name__)

COPIES = 3
JOB_BYTES = 1 << 30
"""Of one job's result, of all its batches that can still be challenged."""
BATCH_S, RESULT_S = 60.0, 20.0
"""For a batch and for one result in one attempt; what came stays for the next."""
AGAIN_S = 30.0


async def copy_results(context: Context) -> None:
    """One look at all settled batches of others that are not final. What fails is tried again later."""
    own = await context.own()
    chosen = select(Known).where(col(Known.settled), col(Known.leader) != own)
    batches = {BatchId(row.batch) for row in await context.database.ask(lambda session: session.exec(chosen).all())}
    context.copies = {batch: context.copies.get(batch) or Copied() for batch in sorted(batches)}
    for batch, known in context.copies.items():
        if known.whole or time.monotonic() < known.again_at:
            continue
        known.again_at = time.monotonic() + AGAIN_S
        try:
            async with asyncio.timeout(BATCH_S):
                known.whole = await _copy(context, batch, known)
        except (ProofyardError, TimeoutError) as error:
            logger.info("the results of batch %s are not all here: %s", batch, error)


async def _copy(context: Context, batch: BatchId, known: Copied) -> bool:
    """Whether nothing is left to do for a batch."""
    state = await context.on_chain(partial(context.chain.batch, batch))
    seats = await context.verifiers()
    leader = next((seat for seat in seats if seat.id == state.verifier), None)
    if context.wallet.address not in in_turn(batch, [seat.node for seat in seats if seat is not leader])[:COPIES]:
        return True
    cid = await context.on_chain(partial(cid_of_record, context.chain, batch))
    if cid is None:
        return False
    record = await asyncio.to_thread(decode_record, await context.find(cid, max_bytes=MAX_RECORD_BYTES))
    known.named.add(cid)
    connection = None
    if leader is not None:
        with contextlib.suppress(TransportError):
            connection = await context.dial(leader.node, leader.endpoint)
    return all([await _copy_job(context, known, record, job, connection) for job in record.jobs])


async def _copy_job(
    context: Context, known: Copied, record: BatchRecord, job: RecordedJob, leader: Connection | None
) -> bool:
    """Have a batch's part of a job's result, as far as there is room; whether nothing of it is left to be had."""
    await context.find(job.manifest, max_bytes=MAX_MANIFEST_BYTES)
    known.named.add(job.manifest)
    manifest, _ = await context.job_of(job.manifest)
    finals = possible_finals(context.workload(manifest), manifest)
    named = [task.commitment for task in record.tasks if task.commitment.job == job.job]
    workers = {each.result: each.node for each in named if each.task in finals}
    copied = known.results.setdefault(job.job, {})
    await _copy_small(context, job.job, [cid for cid in workers if cid not in copied], copied, leader)
    for cid in [cid for cid in workers if cid not in copied]:
        try:
            copied[cid] = await _copy_one(context, job.job, cid, workers[cid], leader)
        except ArtifactTooLarge as error:
            logger.warning("no room for a copy of the result of job %s: %s", job.job, error)
            return True
        except ProofyardError as error:
            logger.debug("a result of job %s: %s", job.job, error)
    return all(cid in copied for cid in workers)


async def _copy_small(
    context: Context, job: JobId, lacking: list[Cid], copied: dict[Cid, int], leader: Connection | None
) -> None:
    """What is one block each, a request full at a time, from its leader."""
    for start in range(0, len(lacking), MAX_BLOCKS):
        if leader is not None and _room(context, job) > 0:
            found = await context.gatherer.gather(leader.peer, leader, lacking[start : start + MAX_BLOCKS])
            copied.update({cid: size for cid, size in found.items() if size is not None})


async def _copy_one(context: Context, job: JobId, cid: Cid, worker: Address, leader: Connection | None) -> int:
    """Its bytes. Raises `ArtifactError`, of which `ArtifactTooLarge` where there is no room for it."""
    room = _room(context, job)
    if room <= 0:
        raise ArtifactTooLarge(cid, 1, room)
    peers = [*([] if leader is None else [leader]), *context.providers(worker)]
    await fetch(context.store, cid, peers, max_bytes=room, within_s=RESULT_S)
    return await asyncio.to_thread(context.store.size, cid)


def _room(context: Context, job: JobId) -> int:
    """Bytes that may still be copied for a job: all copies together may take half of the cache."""
    copies = context.copies.values()
    of_all = sum(sum(results.values()) for each in copies for results in each.results.values())
    of_job = sum(sum(each.results.get(job, {}).values()) for each in copies)
    return max(0, min(JOB_BYTES - of_job, context.settings.cache_bytes // 2 - of_all))
