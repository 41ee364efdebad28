"""What the work of each job takes of memory at least, told to the engine: it is not offered to who has shown less."""

import asyncio
import logging

from proofyard.artifacts.dag import claimed_size
from proofyard.protocol.capability import BLOCK_BYTES, MOST_BLOCKS
from proofyard.protocol.cid import RAW, cid_codec
from proofyard.protocol.types import Cid, JobId, ProofyardError
from proofyard.verifier.context import Context
from proofyard.verifier.engine.events import JobSized
from proofyard.verifier.engine.rows import JobState

logger = logging.getLogger(__name__)

POLL_S = 5.0
SHARES = {"exact8": 2, "exact4": 4}
"""By what a model's content is divided, under a precision, to know what its weights take at least."""


async def watch_sizes(context: Context) -> None:
    """Until cancelled: of jobs that run and were not looked at when they came, such as after a restart, and of those
    whose model was not here."""
    context.runner.recall.append(lambda: [JobSized(job, size) for job, size in context.sizes.items()])
    while True:
        jobs = context.rows.jobs
        for gone in [job for job in context.sizes if job not in jobs]:
            del context.sizes[gone]
        for number, job in list(jobs.items()):
            if number not in context.sizes and job.state in (JobState.TAKING, JobState.RUNNING):
                await tell_size(context, number, job.manifest)
        await asyncio.sleep(POLL_S)


async def tell_size(context: Context, job: JobId, manifest: Cid) -> None:
    """Tell the engine what the work of a job takes, as far as that is known."""
    try:
        found = await asyncio.to_thread(least_bytes, context, manifest)
    except ProofyardError as error:
        logger.debug("what job %s takes is not known: %s", job, error)
        return
    if found is not None and context.sizes.get(job) != found:
        context.sizes[job] = found
        context.runner.post(JobSized(job, found))


def least_bytes(context: Context, manifest_cid: Cid) -> int | None:
    """The bytes of a job's model as its weights are held under its precision. The sizes are those that the model's
    folder states, which its requester made; None while that is not here. Raises `ProofyardError`."""
    manifest = context.manifest(manifest_cid)
    if manifest.model is None or cid_codec(manifest.model) == RAW:
        return 0
    if not context.store.has(manifest.model):
        return None
    size = claimed_size(manifest.model, context.store.get_block(manifest.model))
    return min(size // SHARES.get(manifest.precision, 1), MOST_BLOCKS * BLOCK_BYTES)
