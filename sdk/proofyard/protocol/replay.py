"""Replaying a batch record without executing anything: does everything in it follow from everything else?

Signatures, the batch root, the audit plan, seals and their openings, verdicts and payouts are recomputed. What
remains is whether the states are right, which only execution tells (`proofyard verifier dispute replay`).
"""

from collections.abc import Sequence

from proofyard.protocol import merkle
from proofyard.protocol.audit import WORKERS, BatchEntry, Operator, Verdict, audit_plan, tally
from proofyard.protocol.cid import cid_bytes, cid_digest
from proofyard.protocol.commitment import Domain
from proofyard.protocol.earnings import earnings
from proofyard.protocol.false_audit import false_audits
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.record import AuditedSegment, AuditVote, BatchRecord, CommittedTask
from proofyard.protocol.seal import Opening, seal_of, seal_struct_hash
from proofyard.protocol.signature import require_signer
from proofyard.protocol.types import Address, ProofyardError, SegmentIndex, TaskIndex


class RecordInvalid(ProofyardError):
    """A batch record contradicts itself or the chain."""

    exit_code = 4

    def __init__(self, batch: int, reason: str) -> None:
        self.batch, self.reason = batch, reason
        super().__init__(f"the record of batch {batch} does not hold: {reason}")


def check_record(record: BatchRecord, manifest: Manifest, specs: Sequence[TaskSpec]) -> None:
    """Raise `RecordInvalid` or `SignatureInvalid` for the first thing that does not follow.

    `manifest` is the record's own, `specs` its task graph; that `root`, `seed`, `operators` and the job's terms are
    those on chain is for the caller to compare.
    """
    check_commitments(record, specs)
    plan = audit_plan(
        record.seed,
        [
            BatchEntry(
                t.commitment.task, t.commitment.node, t.commitment.segments, t.commitment.struct_hash(), t.audit_wad
            )
            for t in record.tasks
        ],
        [Operator(operator.node, operator.owner) for operator in record.operators],
        auditors_per_segment=record.auditors_per_segment,
        segments_per_audit=record.segments_per_audit,
    )
    planned = {(audit.task, audit.segment): audit.auditors for audit in plan.audits}
    recorded = {(audit.task, audit.segment): audit for audit in record.audits}
    _require(record, planned.keys() == recorded.keys(), "its audits are not those of the plan")
    for place, audit in recorded.items():
        _check_audit(record, manifest, audit, planned[place])
    _check_faults(record, manifest)
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


def _trace_fits(task: CommittedTask) -> bool:
    return (
        len(task.trace) == task.commitment.segments + 1
        and merkle.root([cid_bytes(cid) for cid in task.trace]) == task.commitment.trace_root
    )


def _check_audit(record: BatchRecord, manifest: Manifest, audit: AuditedSegment, auditors: Sequence[Address]) -> None:
    name = f"task {audit.task} segment {audit.segment}"
    owners = {operator.node: operator.owner for operator in record.operators}
    for vote in audit.votes:
        _require(record, vote.auditor in auditors, f"{vote.auditor} has no seat at {name}")
        _require(record, owners[vote.auditor] == vote.owner, f"{vote.auditor} at {name} has another owner")
        _check_vote(record, manifest, audit.task, audit.segment, vote)
    votes = {vote.owner: vote.answer for vote in audit.votes}
    _require(record, len(votes) == len(audit.votes), f"an owner voted twice on {name}")
    verdict = tally(votes, record.auditors_per_segment, exhausted=True)
    if audit.votes:
        _require(record, verdict == audit.verdict, f"the votes on {name} say {verdict}")
    else:
        _require(record, audit.verdict != Verdict.VALID, f"nobody voted on {name}")


def _check_vote(
    record: BatchRecord, manifest: Manifest, task: TaskIndex, segment: SegmentIndex, vote: AuditVote
) -> None:
    name = f"{vote.auditor} on task {task} segment {segment}"
    opened = seal_of(Opening(vote.sketch, vote.after, vote.salt), vote.auditor)
    _require(record, opened == vote.seal, f"the opening by {name} does not fit its seal")
    struct_hash = seal_struct_hash(record.batch, task, segment, vote.auditor, vote.seal)
    digest = Domain(record.chain_id, record.registry).typed_digest(struct_hash)
    require_signer(digest, vote.signature, vote.auditor, f"the seal by {name}")
    _require(
        record,
        vote.match == (vote.distance <= manifest.tolerance) == (vote.answer == WORKERS),
        f"the vote by {name} contradicts its distance",
    )


def _check_faults(record: BatchRecord, manifest: Manifest) -> None:
    """Every fault verdict and every false audit has its fault, and no other auditor has one. A worker's fault without
    a verdict is a result or state that failed an exact check."""
    nodes = {task.commitment.task: task.commitment.node for task in record.tasks}
    workers = {fault.task: fault.node for fault in record.faults if fault.segment is None}
    auditors = [fault for fault in record.faults if fault.segment is not None]
    _require(record, len(workers) + len(auditors) == len(record.faults), "a task is at fault twice")
    _require(record, workers.items() <= nodes.items(), "a fault names a task or node that is not in the batch")
    judged = {audit.task for audit in record.audits if audit.verdict == Verdict.FAULT}
    _require(record, judged <= workers.keys(), "a faulty task is not named as a fault")
    false = {(f.task, f.segment, f.node) for f in auditors}
    found = false_audits(record.audits, manifest.tolerance, record.auditors_per_segment)
    _require(record, false == {(f.task, f.segment, f.node) for f in found}, "its false auditors are not those outvoted")


def _require(record: BatchRecord, holds: bool, reason: str) -> None:
    if not holds:
        raise RecordInvalid(record.batch, reason)
