"""The life of a batch: formed, committed on chain, drawn, judged, settled; resumable anywhere.

Whoever leads a batch carries it, whether it formed it or took it over. Each round begins with what the chain says of
it: a batch may have been settled, voided, taken or dropped since.
"""

import asyncio
import contextlib
import logging

from sqlmodel import Session, select

from proofyard.chain import BatchState as ChainBatch
from proofyard.chain.refusals import AlreadySettled, UnknownBatch
from proofyard.protocol.cid import cid_digest
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.members import Member, encode_members, members_root
from proofyard.protocol.messages import Ack, Publish, SubmitCommitment
from proofyard.protocol.types import BatchId, Cid, Digest, JobId, ProofyardError
from proofyard.transport import Connection
from proofyard.verifier.context import Context
from proofyard.verifier.database import (
    OVER,
    Batch,
    BatchState,
    Job,
    JobState,
    Line,
    Task,
    TaskState,
    jobs_of,
    log,
    log_batch,
    tasks_of,
)
from proofyard.verifier.drawing import draw
from proofyard.verifier.following import follow_settlement
from proofyard.verifier.jobs import fail
from proofyard.verifier.judging import judge
from proofyard.verifier.membership import members_of
from proofyard.verifier.outcomes import give_up
from proofyard.verifier.settling import settle

logger = logging.getLogger(__name__)

RETRY_S = 1.0
MAX_RETRY_S = 60.0
VOIDED_POLL_S = 5.0
PUSH_S = 20.0
"""How long the other seats have to take a member list before it is committed to."""
RECEIPT_MARGIN_S = 300.0
"""A receipt that falls due within this time is honoured now: the chain may be away for a while."""


def form_batches(session: Session, at: float, *, batch_tasks: int) -> list[int]:
    """Put what is committed into batches: wherever a job can make no progress without its verdicts, `batch_tasks` of
    its commitments are there, a receipt falls due, or the job is over. A promise that no batch honours in time costs
    this verifier stake, whatever became of the job. `at`: Unix seconds of the chain's clock."""
    formed = []
    query = select(Task.job).where(Task.state == TaskState.COMMITTED).distinct()
    for number in session.exec(query).all():
        job = session.get(Job, number)
        assert job is not None
        tasks = tasks_of(session, job.id)
        committed = [task for task in tasks if task.state == TaskState.COMMITTED]
        due = any(task.promised_until < at + RECEIPT_MARGIN_S for task in committed)
        under_way = job.state == JobState.RUNNING and any(
            task.state in (TaskState.READY, TaskState.ASSIGNED) for task in tasks
        )
        if under_way and not due and len(committed) < batch_tasks:
            continue
        for start in range(0, len(committed), batch_tasks):
            formed.append(_form(session, job, committed[start : start + batch_tasks]))
    return formed


def _form(session: Session, job: Job, committed: list[Task]) -> int:
    marked = [_member(task) for task in committed]
    members, salts = [member for member, _ in marked], [salt for _, salt in marked]
    batch = Batch(root=members_root(members), members=encode_members(members), salts=encode(salts))
    session.add(batch)
    session.flush()
    assert batch.id is not None
    units = sum(member.commitment.work_units for member in members)
    session.add(Line(batch=batch.id, job=job.id, units=units))
    for task in committed:
        task.state, task.batch = TaskState.JUDGING, batch.id
    log(session, job.id, "batch", f"batch of {len(committed)} commitments formed")
    return batch.id


def _member(task: Task) -> tuple[Member, bytes]:
    """What comes into a batch for a task, its decoy first, with what opens its mark. Its own commitment follows when
    that batch is over (`outcomes`), so that no batch holds two of a task and nothing shows which is which."""
    submission = decode(task.submission or b"", SubmitCommitment)
    shown = submission.decoy or submission
    return Member(shown.commitment, shown.signature, shown.trace), shown.salt


async def run_batch(context: Context, row: int) -> None:
    """Carry a batch from whatever state it is in to its end, trying again, later each time, while something fails."""
    failures = 0
    while True:
        batch = load_batch(context, row)
        if batch.state in OVER:
            return
        try:
            await _round(context, batch)
            failures = 0
        except ProofyardError as error:
            failures += 1
            logger.warning("batch %s (%s): %s", batch.chain_id or f"row {row}", batch.state, error)
            _note(context, row, str(error))
            await asyncio.sleep(min(MAX_RETRY_S, RETRY_S * 2.0 ** min(failures - 1, 10)))
        context.changed()


def load_batch(context: Context, row: int) -> Batch:
    with context.database.session() as session:
        batch = session.get(Batch, row)
        assert batch is not None, f"batch row {row} has vanished"
        return batch


def _note(context: Context, row: int, reason: str) -> None:
    with context.database.session() as session:
        batch = session.get(Batch, row)
        assert batch is not None
        batch.reason = reason[:500]


async def _round(context: Context, batch: Batch) -> None:
    if batch.chain_id is None:
        await commit(context, batch)
        return
    if not await standing(context, batch):
        return
    steps = {
        BatchState.COMMITTED: draw,
        BatchState.AUDITING: judge,
        BatchState.JUDGED: settle,
        BatchState.TAKEN: follow_settlement,
    }
    await steps[BatchState(batch.state)](context, batch)


async def standing(context: Context, batch: Batch) -> bool:
    """Whether there is something to do for a batch as the chain has it; notes it where there is not."""
    chain_id = BatchId(batch.chain_id or 0)
    try:
        state = await context.on_chain(lambda: context.chain.batch(chain_id))
    except UnknownBatch:
        # Its commit went with a block: it is sent again.
        with context.database.session() as session:
            batch = session.merge(batch)
            batch.chain_id, batch.state = None, BatchState.FORMED
        return False
    if state.dropped:
        with context.database.session() as session:
            give_up(session, session.merge(batch), f"batch {chain_id} was dropped: nobody settled it in time")
        return False
    own = await context.own()
    if state.voided:
        if state.verifier == own:
            await _take_again(context, chain_id)
        else:
            await context.wait(VOIDED_POLL_S)
        return False
    _note_leader(context, batch, led=state.verifier == own, state=state)
    return state.verifier == own or batch.state == BatchState.TAKEN


def _note_leader(context: Context, batch: Batch, *, led: bool, state: ChainBatch) -> None:
    """Follow the chain: who leads the batch, and which attempt it is."""
    with context.database.session() as session:
        row = session.merge(batch)
        row.attempt = state.attempt
        if not led and row.state != BatchState.TAKEN:
            row.state = BatchState.TAKEN
            log_batch(session, row.id or 0, "batch", f"batch {state.id} is led by another verifier now")
        elif led and row.state == BatchState.TAKEN:
            row.state = BatchState.COMMITTED
        batch.state, batch.attempt = row.state, row.attempt


async def _take_again(context: Context, chain_id: BatchId) -> None:
    """A voided batch is settled again, first by whoever led it; others wait for their turn (`duties`)."""
    with contextlib.suppress(AlreadySettled):
        await context.on_chain(lambda: context.chain.take_batch(chain_id))


async def commit(context: Context, batch: Batch) -> None:
    """Show the member list to the other seats and post its root. Looks for an earlier post first, so that a crash after
    sending does not post twice."""
    batch_root, size = Digest(batch.root), len(members_of(batch))
    cid = await asyncio.to_thread(context.store.put_bytes, batch.members)
    chain_id = await _posted(context, batch)
    if chain_id is None:
        lines = await _admitted(context, batch)
        if lines is None:
            return
        await _push(context, cid, len(batch.members))
        chain_id = await context.on_chain(lambda: context.chain.commit_batch(batch_root, size, cid_digest(cid), lines))
    with context.database.session() as session:
        batch = session.merge(batch)
        batch.chain_id, batch.state = chain_id, BatchState.COMMITTED
        log_batch(session, batch.id or 0, "batch", f"batch {chain_id}: root of {size} commitments on chain")


async def _posted(context: Context, batch: Batch) -> BatchId | None:
    """The number that the batch has on chain already. The same work that is done again in the same way has the same
    root, so a number that another batch has is not meant."""
    root, own = Digest(batch.root), await context.own()
    with context.database.session() as session:
        jobs = [session.get(Job, job) for job in jobs_of(session, batch.id or 0)]
        taken = set(session.exec(select(Batch.chain_id).where(Batch.id != batch.id)))
    since = min((job.opened_block for job in jobs if job is not None), default=0)
    found = await context.on_chain(lambda: context.chain.find_batches(root, own, since=since))
    return next((event.batch for event in reversed(found) if event.batch not in taken), None)


async def _admitted(context: Context, batch: Batch) -> list[tuple[JobId, int]] | None:
    """The lines to commit; None, and the batch given up, where the chain takes none of a job any more. Raises for what
    another try may not meet: units that an unsettled batch still holds, a seat that does not count yet."""
    params, at = await context.params(), await context.on_chain(context.chain.now)
    with context.database.session() as session:
        lines = [(JobId(line.job), line.units) for line in session.exec(select(Line).where(Line.batch == batch.id))]
    for job, units in lines:
        record = await context.on_chain(lambda job=job: context.chain.job(job))  # type: ignore[misc]
        over = at >= record.commits_end(params.receipt_time)
        if over or record.units_paid + units > record.units:
            reason = "its time for commits is over" if over else "its units are paid already"
            with context.database.session() as session:
                give_up(session, session.merge(batch), f"job {job} takes no more work: {reason}")
                fail(session, job, f"it takes no more work: {reason}")
            return None
        if units > record.units_left:
            raise UnitsHeld(job, units, record.units_left)
    return lines


async def _push(context: Context, cid: Cid, size: int) -> None:
    """Have every other seat fetch the member list: it signs for no batch whose list it did not hold at the draw."""
    message = Publish(artifacts=(cid,), total_bytes=size)

    async def to(peer: Connection) -> None:
        with contextlib.suppress(ProofyardError):
            await peer.request(message, reply=Ack, timeout=PUSH_S)

    await asyncio.gather(*(to(peer) for peer in await context.others()))


class UnitsHeld(ProofyardError):
    """The batches of a job that are not settled hold so many of its units that these do not fit beside them."""

    def __init__(self, job: JobId, units: int, left: int) -> None:
        super().__init__(f"job {job} has {left} units free and the batch holds {units}; its open batches settle first")
