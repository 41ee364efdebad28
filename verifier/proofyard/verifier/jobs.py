"""A job from its event on chain to its result: taking it up, and closing it when everything is valid and settled."""

import asyncio
import logging
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlmodel import Session, col, func, select

from proofyard.chain import JobOpened
from proofyard.protocol.cid import make_cid
from proofyard.protocol.codec import encode
from proofyard.protocol.types import Cid, JobId, ProofyardError
from proofyard.verifier.context import Context, now
from proofyard.verifier.database import Batch, BatchState, Job, JobState, Task, TaskState, log, tasks_of
from proofyard.verifier.delivery import MAX_STATE_BYTES

logger = logging.getLogger(__name__)


def note_opened(session: Session, event: JobOpened) -> None:
    """Write down a job that was opened on chain. Applying the same event again changes nothing."""
    if session.get(Job, event.job) is None:
        session.add(
            Job(
                id=event.job,
                requester=event.requester,
                manifest=make_cid(event.manifest),
                tasks=event.task_count,
                reward=str(event.reward),
                audit_fee=str(event.audit_fee),
                auditors_per_segment=event.auditors_per_segment,
                segments_per_audit=event.segments_per_audit,
                deadline=event.deadline,
                opened_block=event.position.block,
            )
        )


async def take_up(context: Context) -> None:
    """Expand the manifests of new jobs into tasks. A job that cannot run is refused here, with its reason."""
    with context.database.session() as session:
        waiting = session.exec(select(Job).where(Job.state == JobState.WAITING)).all()
    for job in waiting:
        cid = Cid(job.manifest)
        if not context.store.has(cid):
            if job.deadline < now():
                _fail(context, job, f"nobody delivered the manifest {cid} before the deadline")
            continue
        if not await _take(context, job):
            continue
        try:
            manifest = context.manifest(cid)
            workload = context.workload(manifest)
            workload.check(manifest)
            graph = list(workload.graph(manifest))
        except ProofyardError as error:
            _fail(context, job, str(error))
            continue
        if len(graph) != job.tasks:
            _fail(context, job, f"the manifest makes {len(graph)} tasks, the job was opened with {job.tasks}")
            continue
        with context.database.session() as session:
            job = session.merge(job)
            job.state = JobState.RUNNING
            units = sum(spec.work_units for spec in graph)
            for spec in graph:
                reward = int(job.reward) * spec.work_units // units
                session.add(Task(job=job.id, index=spec.index, spec=encode(spec), reward=str(reward)))
            log(session, job.id, "opened", f"{manifest.workload} job of {len(graph)} tasks")


async def _take(context: Context, job: Job) -> bool:
    """Make the job this verifier's on chain. A job is published to one verifier; the others only co-sign for it."""
    chain, job_id = context.chain, JobId(job.id)
    record = await context.on_chain(lambda: chain.job(job_id))
    if record.closed:
        _fail(context, job, "its requester has closed it")
    elif record.verifier == 0:
        await context.on_chain(lambda: chain.take_job(job_id))
        return True
    return not record.closed and record.verifier == await context.on_chain(
        lambda: chain.operator_of(context.wallet.address)
    )


def _fail(context: Context, job: Job, reason: str) -> None:
    with context.database.session() as session:
        job = session.merge(job)
        job.state, job.reason = JobState.FAILED, reason
        log(session, job.id, "failed", reason)


async def expire(context: Context) -> None:
    """A job past its deadline takes no more work; the requester can have the rest of the escrow back."""
    with context.database.session() as session:
        for job in session.exec(select(Job).where(Job.state == JobState.RUNNING, Job.deadline < now())):
            job.state, job.reason = JobState.FAILED, "the deadline has passed"
            log(session, job.id, "failed", job.reason)


async def complete(context: Context) -> None:
    """Finish jobs whose tasks are all valid and whose batches are all settled."""
    with context.database.session() as session:
        running = session.exec(select(Job).where(col(Job.state).in_([JobState.RUNNING, JobState.SETTLING]))).all()
        finished = [job for job in running if all(t.state == TaskState.VALID for t in tasks_of(session, job.id))]
        open_batches = {
            job.id: session.exec(
                select(func.count()).select_from(Batch).where(Batch.job == job.id, Batch.state != BatchState.SETTLED)
            ).one()
            for job in finished
        }
        for job in finished:
            job.state = JobState.SETTLING
    for job in finished:
        if not open_batches[job.id]:
            await _deliver(context, job)


async def _deliver(context: Context, job: Job) -> None:
    """Package the last task's result for people, and give what was not spent back to the requester."""
    with context.database.session() as session:
        last = tasks_of(session, job.id)[-1]
    manifest = context.manifest(Cid(job.manifest))
    data = context.store.get_bytes(Cid(last.result or ""), max_bytes=MAX_STATE_BYTES)
    with TemporaryDirectory(dir=context.settings.data_dir) as folder:
        package = Path(folder) / "result"
        await asyncio.to_thread(context.workload(manifest).package, manifest, data, package)
        cid = await asyncio.to_thread(context.store.put_directory, package)
    if not await context.on_chain(lambda: context.chain.job(JobId(job.id)).closed):
        await context.on_chain(lambda: context.chain.close_job(JobId(job.id)))
    with context.database.session() as session:
        job = session.merge(job)
        job.state, job.result = JobState.DONE, cid
        log(session, job.id, "done", f"result {cid}")
