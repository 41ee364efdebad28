"""Transactions that are no batch's own, and what is asked of the chain after a reorganisation."""

import contextlib
from functools import partial

from proofyard.chain import Refused
from proofyard.chain.refusals import AlreadySettled, JobTakenBy
from proofyard.protocol.types import BatchId, JobId, ProofyardError
from proofyard.verifier.context import Context
from proofyard.verifier.engine import effects
from proofyard.verifier.engine.rows import BatchState, JobState
from proofyard.verifier.runner import Permanent

SEEN_S = 60.0
GIVEN_UP = (BatchState.DROPPED, BatchState.TAKEN)
"""Batches that this verifier commits and settles no more."""


def wanted(context: Context, subject: str) -> bool:
    """Whether a transaction that went with its block, or was not mined in time, is to be sent again. What the rows do
    not tell, the contract does. Called from a thread."""
    kind, *rest = subject.split()
    numbers = [int(word) for word in rest if word.isdecimal()]
    rows = context.rows
    if kind == "commit":
        batch = rows.batches.get(numbers[0])
        return batch is None or batch.state not in GIVEN_UP
    if kind == "settle":
        batch = rows.by_chain_id.get(BatchId(numbers[0]))
        return batch is None or (batch.state not in GIVEN_UP and batch.attempt == numbers[1])
    if kind == "take-job":
        job = rows.jobs.get(JobId(numbers[0]))
        if job is None or job.gone or job.state in (JobState.DONE, JobState.FAILED):
            return False
        return numbers[1:2] == [job.opened_block]
    return True


async def take_job(context: Context, effect: effects.TakeJob) -> float:
    """Make the job this verifier's on chain. A job is published to one verifier; the others only co-sign for it.
    Whether the one that has it was silent for so long that it is free the contract knows."""
    record, own = await context.on_chain(partial(context.chain.job, effect.job)), await context.own()
    if record.closed:
        raise Permanent("its requester has closed it")
    if record.verifier != own:
        row = context.rows.jobs.get(effect.job)
        subject = f"take-job {effect.job}" + (f" {row.opened_block} {row.taken_block}" if row else "")
        try:
            await context.send(subject, lambda chain: chain.take_job(effect.job))
        except JobTakenBy:
            raise TakenByAnother(effect.job) from None
        except Refused as error:
            raise Permanent(str(error)) from None
    else:
        await read_job(context, effects.ReadJob(effect.job))
    return SEEN_S


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
