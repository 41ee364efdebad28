"""What a record's audits and faults say of tasks and owners: who lied, who said so, whose work is accepted.

An outvoted auditor has lied, because executing a segment gives everybody the same 32 bytes. A split brings in more
auditors before anyone is accused. Once k + 1 owners share an answer, whoever gave another one is at fault. Where
auditors ran out before that, nobody is; nor in a workload that is not exact.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from proofyard.protocol.audit import Verdict, carried
from proofyard.protocol.mark import mark_cid
from proofyard.protocol.members import TaskKey
from proofyard.protocol.record import (
    AuditedSegment,
    AuditVote,
    BatchRecord,
    CommittedTask,
    RecordedFault,
    claimed_answer,
    faulty_audit,
)
from proofyard.protocol.seal import CANNOT_EXECUTE, keyed_digest, keyed_is_checked
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.types import Address, Cid, Digest, JobId, SegmentIndex, TaskIndex
from proofyard.protocol.view import BatchView

COPIED = "its keyed digest is not that of the state: it has not executed the segment"


def supporters(audit: AuditedSegment, claimed: Digest) -> tuple[Address, ...]:
    """The auditors whose equal answers carry a verdict; none where it rests on no votes, or is undecided."""
    answers = audit.answers()
    answer = carried(answers.values(), claimed, audit.verdict)
    return tuple(auditor for auditor, given in answers.items() if given == answer)


def false_audits(
    view: BatchView,
    tasks: Mapping[TaskKey, CommittedTask],
    audits: Iterable[AuditedSegment],
    exact: Mapping[JobId, bool],
) -> tuple[RecordedFault, ...]:
    """The faults of auditors that follow from the votes, in the order of `audits`; none in jobs that are not
    `exact`."""
    return tuple(
        RecordedFault(audit.job, audit.task, vote.auditor, FaultReason.FALSE_AUDIT, reason, audit.segment)
        for audit in audits
        if exact[audit.job]
        for vote in audit.votes
        if (reason := _why_false(view, audit, claimed_answer(tasks, audit), vote))
    )


def _why_false(view: BatchView, audit: AuditedSegment, claimed: Digest, vote: AuditVote) -> str:
    """Why a vote is false; empty where nobody says so."""
    if vote.auditor in audit.copied:
        return COPIED
    agreed = supporters(audit, claimed)
    if vote.auditor in agreed or len(agreed) <= view.jobs[audit.job].auditors_per_segment:
        return ""
    answer = audit.answers()[agreed[0]]
    return f"its answer is {told(vote.after)}, the other auditors' is {told(answer)}"


def accusers_of(record: BatchRecord, fault: RecordedFault) -> tuple[Address, ...]:
    """The auditors whose equal answers carried a fault; none where it rests on bytes that everybody can check."""
    key = (fault.job, fault.task, fault.segment)
    audit = next((audit for audit in record.audits if audit.key == key), None)
    if audit is None or fault.node in audit.copied:
        return ()
    return supporters(audit, claimed_answer(record.by_key, audit))


def guilty_owners(view: BatchView, record: BatchRecord) -> frozenset[Address]:
    """The owners with a fault in the batch, whose nodes are paid nothing in it."""
    return frozenset(view.owners[fault.node][1] for fault in record.faults)


def faulty_tasks(record: BatchRecord) -> frozenset[TaskKey]:
    """The tasks whose worker is at fault."""
    return frozenset(fault.task_key for fault in record.faults if fault.kind != FaultReason.FALSE_AUDIT)


def undecided_tasks(record: BatchRecord) -> frozenset[TaskKey]:
    return frozenset(audit.task_key for audit in record.audits if audit.verdict == Verdict.UNDECIDED)


def accepted_tasks(view: BatchView, record: BatchRecord) -> tuple[CommittedTask, ...]:
    """The tasks that are paid: right, computed from accepted results, and not paid elsewhere."""
    out = {*record.repeated, *record.stale}
    return tuple(task for task in right_tasks(view, record) if task.key not in out)


def thrown_away(view: BatchView, record: BatchRecord) -> tuple[CommittedTask, ...]:
    """Right tasks that rest on results which are not accepted, so that they are done again through no fault of their
    workers. What rests on nothing is never stale (`validate.validate_tasks`)."""
    stale = set(record.stale)
    return tuple(task for task in right_tasks(view, record) if task.key in stale)


def right_tasks(view: BatchView, record: BatchRecord) -> tuple[CommittedTask, ...]:
    """The work that is not faulty, not undecided, and not of an owner at fault. What nobody opens as work is none."""
    guilty = guilty_owners(view, record)
    out = faulty_tasks(record) | undecided_tasks(record) | record.decoys | record.unopened
    return tuple(t for t in record.tasks if t.key not in out and view.owners[t.commitment.node][1] not in guilty)


def accepted(view: BatchView, record: BatchRecord) -> dict[TaskKey, Cid]:
    """The tasks that a record pays, with their results; everything else of its batch has to be done again, unless it is
    paid elsewhere."""
    return {task.key: task.commitment.result for task in accepted_tasks(view, record)}


def withheld_by(record: BatchRecord, fault: RecordedFault) -> tuple[Cid, ...]:
    """What a worker is said to withhold; who can have all of it knows better."""
    task, audit = record.by_key[fault.task_key], faulty_audit(record, fault.task_key)
    if audit is None:
        return task.commitment.result, task.trace[-1]
    if fault.task_key in record.unopened:
        return (mark_cid(task.commitment.mark),)
    return (task.trace[audit.segment],)


@dataclass(frozen=True)
class KeyedCheck:
    """A state whose bytes show who has executed the segment that led to it (or that could not be executed from it)."""

    job: JobId
    task: TaskIndex
    segment: SegmentIndex
    state: Cid
    votes: tuple[AuditVote, ...]
    copied: frozenset[Address]

    def wrong(self, seed: Digest, state: bytes | memoryview) -> tuple[Address, ...]:
        """The auditors that the record judges otherwise than `state`'s bytes do: none in a record that holds."""
        false = {vote.auditor for vote in self.votes if keyed_digest(seed, vote.auditor, state) != vote.keyed}
        return tuple(sorted(false ^ self.copied))


def keyed_checks(view: BatchView, record: BatchRecord, exact: Mapping[JobId, bool]) -> tuple[KeyedCheck, ...]:
    """What everybody checks who can have the states: the drawn share of audited segments, and all with `copied`."""
    tasks = record.by_key
    return tuple(
        check
        for audit in record.audits
        if exact[audit.job]
        and keyed_is_checked(view.seed, tasks[audit.task_key].commitment.struct_hash(), audit.segment)
        for check in _checks(tasks[audit.task_key].trace, audit, claimed_answer(tasks, audit))
    )


def _checks(trace: tuple[Cid, ...], audit: AuditedSegment, claimed: Digest) -> Iterable[KeyedCheck]:
    for state, answer in ((trace[audit.segment + 1], claimed), (trace[audit.segment], CANNOT_EXECUTE)):
        votes = tuple(vote for vote in audit.votes if vote.after == answer)
        if votes:
            copied = frozenset(audit.copied) & {vote.auditor for vote in votes}
            yield KeyedCheck(audit.job, audit.task, audit.segment, state, votes, copied)


def told(answer: Digest) -> str:
    """An answer for people."""
    return "that it cannot be executed" if answer == CANNOT_EXECUTE else f"{answer.hex()[:12]}..."
