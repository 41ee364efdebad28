"""Transactions that are no batch's own, and what is asked of the chain after a reorganisation.

Jobs are taken together: a transaction costs 50,000 gas whatever it takes, and those of one wallet are mined one after
the other, so jobs that come while one is in flight lose nothing by waiting for the next, which takes them all.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial

from proofyard.chain import Anchor, Refused
from proofyard.chain.refusals import AlreadySettled, AnchorGone, JobTakenBy
from proofyard.protocol.types import BatchId, Digest, JobId, ProofyardError
from proofyard.verifier.context import Context, Taking
from proofyard.verifier.engine import effects
from proofyard.verifier.engine.rows import Batch, BatchState, Job, JobState
from proofyard.verifier.engine.world import Rows
from proofyard.verifier.runner import Permanent

SEEN_S = 60.0
TAKEN_AT_ONCE = 64
"""Jobs of one transaction: half of what the contract takes, and a subject that PostgreSQL can still index."""
LINGER_S = 0.1
"""How long a job waits for others of its block."""
GIVEN_UP = (BatchState.DROPPED, BatchState.TAKEN)
"""Batches that this verifier commits and settles no more."""


def anchor_of(job: Job) -> Anchor:
    """What a transaction rests on that means this job by its number, or older ones."""
    return Anchor(job.opened_block, Digest(job.opened_hash))


def commit_subject(batch: Batch, anchor: Anchor) -> str:
    """A batch is committed again under another anchor: no chain takes both."""
    return f"commit {batch.id} {_word(anchor)}"


def _word(anchor: Anchor) -> str:
    return f"0x{anchor.hash.hex()}"


def youngest(rows: Rows, batch: Batch) -> Job | None:
    """The job of a batch that was opened last."""
    return rows.jobs.get(max((job for job, _ in batch.lines), default=JobId(0)))


def wanted(context: Context, subject: str) -> bool:
    """Whether a transaction that went with its block, or was not mined in time, is to be sent again. What the rows do
    not tell, the contract does. Called from a thread."""
    kind, *rest = subject.split()
    numbers = [int(word) for word in rest if word.isdecimal()]
    rows = context.rows
    if kind == "commit":
        batch = rows.batches.get(numbers[0])
        if batch is None:
            return True
        job = youngest(rows, batch)
        return batch.state not in GIVEN_UP and (job is None or _word(anchor_of(job)) in rest)
    if kind == "settle":
        batch = rows.by_chain_id.get(BatchId(numbers[0]))
        return batch is None or (batch.state not in GIVEN_UP and batch.attempt == numbers[1])
    if kind == "take-jobs":
        jobs = zip(numbers[::3], numbers[1::3], strict=False)
        last = rows.jobs.get(JobId(max(numbers[::3])))
        if last is not None and _word(anchor_of(last)) not in rest:
            return False
        return any(_is_to_be_taken(rows.jobs.get(JobId(job)), block) for job, block in jobs)
    return True


def _is_to_be_taken(job: Job | None, opened_block: int) -> bool:
    if job is None or job.gone or job.state in (JobState.DONE, JobState.FAILED):
        return False
    return job.opened_block == opened_block


async def take_job(context: Context, effect: effects.TakeJob) -> float:
    """Make the job this verifier's on chain. A job is published to one verifier; the others only co-sign for it.
    Whether the one that has it was silent for so long that it is free the contract knows."""
    row = context.rows.jobs.get(effect.job)
    if row is None:
        return SEEN_S
    block, anchor = row.opened_block, anchor_of(row)
    record, own = await context.on_chain(partial(context.chain.job, effect.job)), await context.own()
    if record.closed:
        raise Permanent("its requester has closed it")
    if record.verifier == own:
        await read_job(context, effects.ReadJob(effect.job))
        return SEEN_S
    taking = Taking(effect.job, f"{effect.job} {block} {record.last_active}", anchor)
    try:
        if not await _together(context, taking):
            await _alone(context, taking)
    except JobTakenBy:
        raise TakenByAnother(effect.job) from None
    except AnchorGone:
        # The chain tells soon what the number stands for.
        raise
    except Refused as error:
        raise Permanent(str(error)) from None
    return SEEN_S


async def _together(context: Context, taking: Taking) -> bool:
    """Whether it was taken, alone or with the others that wait now."""
    context.takings.append(taking)
    if len(context.takings) == 1:
        context.spawn(_take_waiting(context))
    return await taking.done


async def _take_waiting(context: Context) -> None:
    """Take what waits once nothing that takes jobs is in flight."""
    await asyncio.sleep(LINGER_S)
    async with context.takes:
        waiting, context.takings = context.takings, []
        for first in range(0, len(waiting), TAKEN_AT_ONCE):
            some = waiting[first : first + TAKEN_AT_ONCE]
            try:
                taken = await _take(context, some)
            except Exception as error:
                for each in some:
                    if not each.done.done():
                        each.done.set_exception(error)
                continue
            for each in some:
                if not each.done.done():
                    each.done.set_result(each.job in taken)


async def _take(context: Context, some: Sequence[Taking]) -> frozenset[JobId]:
    """Which of them were taken. Why others were not the contract says of one alone."""
    if len(some) == 1:
        await _alone(context, some[0])
        return frozenset((some[0].job,))
    jobs, anchor = [each.job for each in some], max(some, key=lambda each: each.job).anchor
    try:
        return await context.send(_take_subject(some, anchor), lambda chain: chain.take_jobs(jobs, anchor))
    except Refused:
        return frozenset()


async def _alone(context: Context, taking: Taking) -> None:
    subject = _take_subject([taking], taking.anchor)
    await context.send(subject, lambda chain: chain.take_job(taking.job, taking.anchor))


def _take_subject(some: Sequence[Taking], anchor: Anchor) -> str:
    return f"take-jobs {' '.join(each.subject for each in some)} {_word(anchor)}"


class TakenByAnother(ProofyardError):
    """Another verifier schedules a job now; it is looked at again whether it is free."""

    def __init__(self, job: int) -> None:
        super().__init__(f"job {job} is scheduled by another verifier")


async def take_batch(context: Context, effect: effects.TakeBatch) -> None:
    with contextlib.suppress(AlreadySettled):
        subject = f"take-batch {effect.chain_id} {effect.attempt}"
        await context.send(subject, lambda chain: chain.take_batch(effect.chain_id))


async def read_job(context: Context, effect: effects.ReadJob) -> float:
    """Have the follower say what a job is on chain: as of the last event that was told, and not of a later one."""
    context.asked_jobs[effect.job] = None
    return SEEN_S
