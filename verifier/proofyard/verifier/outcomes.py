"""What a batch's record means for the tasks of this verifier's jobs: valid, or to be done again, and by whom not.

A task that its record does not pay is done again whatever the reason, unless an earlier batch has paid it. How often a
task may come out undecided is bounded: then its job fails, and what was valid stays paid.
"""

from collections.abc import Collection, Iterable

import msgspec
from sqlmodel import Session, col, select

from proofyard.protocol.audit import Verdict
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.findings import accepted, guilty_owners, undecided_tasks
from proofyard.protocol.members import TaskKey
from proofyard.protocol.messages import SubmitCommitment
from proofyard.protocol.record import BatchRecord, claimed_answer
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.types import Address
from proofyard.protocol.view import BatchView
from proofyard.verifier import database
from proofyard.verifier.database import Batch, BatchState, Fault, Job, JobState, Task, TaskState, log, log_batch

MAX_UNDECIDED = 3
"""So often a task may come out undecided."""


def apply_record(session: Session, batch: Batch, view: BatchView, record: BatchRecord) -> None:
    """Move the tasks of this verifier's jobs on. Applying the same record again changes nothing."""
    paid, undecided, guilty = accepted(view, record), undecided_tasks(record), guilty_owners(view, record)
    faults = {fault.task_key: fault.reason for fault in record.faults if fault.kind != FaultReason.FALSE_AUDIT}
    for member in record.tasks:
        task = session.get(Task, member.key)
        if task is None or task.state != TaskState.JUDGING or task.batch != batch.id:
            continue
        node = member.commitment.node
        if member.key in record.decoys and view.owners[node][1] not in guilty:
            settle_decoy(task)
            text = "a decoy, which was opened; the commitment itself follows"
            log(session, task.job, "decoy", text, task=task.index, node=node)
        elif member.key in paid or member.key in record.repeated:
            drawn = any(audit.task_key == member.key for audit in record.audits)
            task.state = TaskState.VALID
            text = "audited and valid" if drawn else "valid, not drawn"
            log(session, task.job, "valid", text, task=task.index, node=node)
        elif member.key in undecided and member.key not in faults:
            _repeat_undecided(session, task, _dissenters(record, member.key))
        else:
            unopened = "nobody opens its mark" if member.key in record.unopened else "its node's owner was caught"
            text = faults.get(member.key) or f"{unopened}: done again"
            kind = "fault" if member.key in faults else "caught"
            log(session, task.job, kind, text, task=task.index, node=node)
            bar(task, [node])
            release(task)
    _note_faults(session, batch, view, record)


def _dissenters(record: BatchRecord, key: TaskKey) -> set[Address]:
    """Who made a task undecidable by contradicting its worker, if anybody did: these, and the worker itself."""
    tasks = record.by_key
    found: set[Address] = set()
    for audit in (a for a in record.audits if a.task_key == key and a.verdict == Verdict.UNDECIDED):
        claimed = claimed_answer(tasks, audit)
        found |= {auditor for auditor, answer in audit.answers().items() if answer != claimed} | set(audit.copied)
    return found | {tasks[key].commitment.node} if found else found


def _repeat_undecided(session: Session, task: Task, barred: Collection[Address]) -> None:
    task.undecided += 1
    log(session, task.job, "undecided", "its audits came to no verdict; done again", task=task.index, node=task.node)
    bar(task, barred)
    release(task)
    job = session.get(Job, task.job)
    if task.undecided >= MAX_UNDECIDED and job is not None and job.state == JobState.RUNNING:
        job.state = JobState.FAILED
        job.reason = f"task {task.index} came out undecided {task.undecided} times"
        log(session, job.id, "failed", job.reason, task=task.index)


def _note_faults(session: Session, batch: Batch, view: BatchView, record: BatchRecord) -> None:
    for fault in record.faults:
        operator, owner = view.owners[fault.node]
        session.merge(
            Fault(
                batch=batch.id or 0,
                job=fault.job,
                task=fault.task,
                node=fault.node,
                owner=owner,
                operator=operator,
                segment=fault.segment,
                kind=fault.kind,
                reason=fault.reason,
            )
        )


def give_up(session: Session, batch: Batch, reason: str) -> None:
    """A batch that comes to nothing: its tasks are done again, but for those that it held a decoy of."""
    batch.state, batch.reason, batch.final = BatchState.DROPPED, reason, True
    for task in session.exec(select(Task).where(Task.batch == batch.id, Task.state == TaskState.JUDGING)):
        if task.decoy:
            settle_decoy(task)
        else:
            release(task)
    log_batch(session, batch.id or 0, "dropped", reason)


def bar(task: Task, nodes: Iterable[Address]) -> None:
    """These nodes may not have the task again."""
    task.barred = " ".join(sorted({*task.barred.split(), *nodes}))


def settle_decoy(task: Task) -> None:
    """A task whose decoy has had its batch: its own commitment waits for one."""
    submission = decode(task.submission or b"", SubmitCommitment)
    task.submission = encode(msgspec.structs.replace(submission, decoy=None))
    task.state, task.batch, task.decoy = TaskState.COMMITTED, None, False


def release(task: Task) -> None:
    """Back on the list, for anybody."""
    task.state, task.node, task.owner, task.lease_until = TaskState.READY, None, None, 0.0
    task.submission, task.leaf, task.batch, task.result, task.decoy = None, None, None, None, False


def faulty_owners(session: Session) -> set[str]:
    """Owners with a fault that costs stake: none of their nodes gets work."""
    return set(session.exec(select(Fault.owner).where(col(Fault.kind) != FaultReason.DISAGREED)))


def absolve(session: Session, chain_id: int, operator: int) -> None:
    """The Court found an operator innocent."""
    batch = database.row_of(session, chain_id)
    if batch is not None:
        for fault in session.exec(select(Fault).where(Fault.batch == batch.id, Fault.operator == operator)):
            session.delete(fault)


__all__ = ["absolve", "apply_record", "bar", "faulty_owners", "give_up", "release"]
