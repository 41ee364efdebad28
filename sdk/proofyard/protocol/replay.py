"""Replaying a batch record without executing anything: does everything in it follow from everything else?

Signatures, the batch root, the audit plan, seals and their openings, verdicts and payouts are recomputed. What
remains is whether the states are right, which only execution tells (`proofyard verifier dispute replay`).
"""

from collections.abc import Sequence

from proofyard.protocol import merkle
from proofyard.protocol.audit import BatchEntry, Operator, Verdict, audit_plan, tally
from proofyard.protocol.cid import cid_bytes, cid_digest
from proofyard.protocol.commitment import Domain
from proofyard.protocol.dial import WAD, p_trust
from proofyard.protocol.earnings import earnings
from proofyard.protocol.false_audit import false_audits
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.record import (
    RECORD_VERSION,
    AuditedSegment,
    AuditVote,
    BatchRecord,
    CommittedTask,
    RecordedFault,
    claimed_answers,
    faulty_audit,
)
from proofyard.protocol.seal import CANNOT_EXECUTE, seal_of, seal_struct_hash
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.signature import require_signer
from proofyard.protocol.types import Address, Cid, Digest, ProofyardError, SegmentIndex, TaskIndex


class RecordInvalid(ProofyardError):
    """A batch record contradicts itself or the chain."""

    exit_code = 4

    def __init__(self, batch: int, reason: str) -> None:
        self.batch, self.reason = batch, reason
        super().__init__(f"the record of batch {batch} does not hold: {reason}")


def check_record(record: BatchRecord, specs: Sequence[TaskSpec], *, exact: bool) -> None:
    """Raise `RecordInvalid` or `SignatureInvalid` for the first thing that does not follow.

    `specs` is the job's task graph, `exact` whether its workload is; that `root`, `seed`, `operators` and the job's
    terms are those on chain is for the caller to compare. What a fault without votes says of a state or a result
    follows from these alone (`proofyard.disputes.refusals`).
    """
    _require(record, record.version == RECORD_VERSION, f"it has version {record.version}, known is {RECORD_VERSION}")
    check_commitments(record, specs)
    _check_draws(record)
    plan = audit_plan(
        record.seed,
        [
            BatchEntry(
                t.commitment.task,
                t.commitment.node,
                t.owner,
                t.commitment.segments,
                t.commitment.struct_hash(),
                t.audit_wad,
                t.drawn,
            )
            for t in record.tasks
        ],
        [Operator(operator.node, operator.owner) for operator in record.operators],
        auditors_per_segment=record.auditors_per_segment,
    )
    planned = {(audit.task, audit.segment): audit.auditors for audit in plan.audits}
    recorded = {(audit.task, audit.segment): audit for audit in record.audits}
    _require(record, planned.keys() == recorded.keys(), "its audits are not those of the plan")
    claimed = claimed_answers(record.traces, record.audits)
    for place, audit in recorded.items():
        _check_audit(record, audit, planned[place], claimed[place], exact)
    _check_faults(record, exact)
    _require(record, record.payouts == earnings(record, specs), "its payouts do not follow from its audits")


def check_commitments(record: BatchRecord, specs: Sequence[TaskSpec]) -> None:
    """The first part of `check_record`: every commitment is signed, fits its task and trace, and all give the root."""
    domain = Domain(record.chain_id, record.registry)
    _require(record, bool(record.tasks), "it has no tasks")
    for task in record.tasks:
        commitment = task.commitment
        name = f"task {commitment.task}"
        _require(record, 0 <= commitment.task < len(specs), f"the job has no {name}")
        require_signer(domain.typed_digest(commitment.struct_hash()), task.signature, commitment.node, name)
        spec = specs[commitment.task]
        fits = (
            commitment.job == record.job
            and commitment.manifest == cid_digest(record.manifest)
            and (commitment.segments, commitment.work_units) == (spec.segments, spec.work_units)
        )
        _require(record, fits, f"the commitment to {name} is to something else")
        _require(record, _trace_fits(task), f"the trace of {name} is not the committed one")
    root = merkle.root([task.commitment.struct_hash() for task in record.tasks])
    _require(record, root == record.root, "its commitments do not give its root")


def _check_draws(record: BatchRecord) -> None:
    """Every commitment was drawn as its worker's, and not less likely than its reputation and its job ask for; always,
    where its worker has left the active nodes since."""
    _require(record, len(record.traces) == len(record.tasks), "a task is in it twice")
    operators = {operator.node: operator for operator in record.operators}
    for task in record.tasks:
        name, worker = f"task {task.commitment.task}", operators.get(task.commitment.node)
        if worker is not None:
            known = (worker.id, worker.owner) == (task.operator, task.owner)
            _require(record, known, f"the worker of {name} is another operator")
        wad = p_trust(worker.consecutive_valid) if worker else WAD
        _require(
            record, task.audit_wad >= wad, f"the audit of {name} was less likely than its worker's record asks for"
        )
        least = min(record.segments_per_audit, task.commitment.segments)
        _require(record, task.drawn >= least, f"fewer segments of {name} were drawn than its job asks for")
        _require(record, not unusable(task.trace), f"the trace of {name} names the answer that it cannot be executed")


def unusable(trace: Sequence[Cid]) -> bool:
    """Whether a state of a trace is named by the digest that stands for a segment that cannot be executed."""
    return any(cid_digest(cid) == CANNOT_EXECUTE for cid in trace)


def _trace_fits(task: CommittedTask) -> bool:
    return (
        len(task.trace) == task.commitment.segments + 1
        and merkle.root([cid_bytes(cid) for cid in task.trace]) == task.commitment.trace_root
    )


def _check_audit(
    record: BatchRecord, audit: AuditedSegment, auditors: Sequence[Address], claimed: Digest, exact: bool
) -> None:
    name = f"task {audit.task} segment {audit.segment}"
    owners = {operator.node: operator.owner for operator in record.operators}
    for vote in audit.votes:
        _require(record, vote.auditor in auditors, f"{vote.auditor} has no seat at {name}")
        _require(record, owners[vote.auditor] == vote.owner, f"{vote.auditor} at {name} has another owner")
        _check_vote(record, audit.task, audit.segment, vote)
    answers = audit.answers()
    _require(record, len(answers) == len(audit.votes), f"an owner voted twice on {name}")
    given = {vote.after for vote in audit.votes} - {CANNOT_EXECUTE}
    fits = not exact and all(one in given and other in given | {claimed} for one, other in audit.alike)
    _require(record, fits or not audit.alike, f"answers on {name} are counted as others")
    verdict = tally(answers, claimed, record.auditors_per_segment, exhausted=True)
    if audit.votes:
        _require(record, verdict == audit.verdict, f"the votes on {name} say {verdict}")
    else:
        _require(record, audit.verdict != Verdict.VALID, f"nobody voted on {name}")


def _check_vote(record: BatchRecord, task: TaskIndex, segment: SegmentIndex, vote: AuditVote) -> None:
    name = f"{vote.auditor} on task {task} segment {segment}"
    opened = seal_of(vote.opening(), vote.auditor)
    _require(record, opened == vote.seal, f"the opening by {name} does not fit its seal")
    struct_hash = seal_struct_hash(record.batch, task, segment, vote.auditor, vote.seal)
    digest = Domain(record.chain_id, record.registry).typed_digest(struct_hash)
    require_signer(digest, vote.signature, vote.auditor, f"the seal by {name}")


def _check_faults(record: BatchRecord, exact: bool) -> None:
    """Every fault verdict and every false audit has its fault, and no other auditor has one. A worker's fault without
    votes is a result or state that was not delivered or failed an exact check."""
    nodes = {task.commitment.task: task.commitment.node for task in record.tasks}
    workers = {fault.task: fault.node for fault in record.faults if fault.segment is None}
    auditors = [fault for fault in record.faults if fault.segment is not None]
    _require(record, len(workers) + len(auditors) == len(record.faults), "a task is at fault twice")
    _require(record, workers.items() <= nodes.items(), "a fault names a task or node that is not in the batch")
    judged = {audit.task for audit in record.audits if audit.verdict == Verdict.FAULT}
    _require(record, judged <= workers.keys(), "a faulty task is not named as a fault")
    for fault in record.faults:
        if fault.segment is None:
            fits = fault.kind in _kinds(record, fault, exact)
            _require(record, fits, f"the fault in task {fault.task} is of another kind than its votes")
    false = {(f.task, f.segment, f.node, f.kind) for f in auditors}
    claimed = claimed_answers(record.traces, record.audits)
    found = false_audits(record.audits, claimed, record.auditors_per_segment) if exact else ()
    outvoted = {(f.task, f.segment, f.node, f.kind) for f in found}
    _require(record, false == outvoted, "its false auditors are not those outvoted")


def _kinds(record: BatchRecord, fault: RecordedFault, exact: bool) -> set[FaultReason]:
    """What kind a worker's fault may be: that of the first segment that was found faulty."""
    audit = faulty_audit(record, fault.task)
    if audit is None or not audit.votes:
        return {FaultReason.MISMATCH, FaultReason.WITHHELD}
    return {FaultReason.MISMATCH if exact else FaultReason.DISAGREED}


def _require(record: BatchRecord, holds: bool, reason: str) -> None:
    if not holds:
        raise RecordInvalid(record.batch, reason)
