"""Audits and faults of a record: do they follow from the plan and from what auditors sealed?"""

from collections.abc import Mapping, Sequence

from proofyard.protocol.audit import AuditPlan, Verdict, asked_of, is_late, verdict_of
from proofyard.protocol.findings import false_audits
from proofyard.protocol.invalid import Ensure
from proofyard.protocol.record import (
    AuditedSegment,
    AuditVote,
    BatchRecord,
    CommittedTask,
    RecordedFault,
    claimed_answer,
    faulty_audit,
)
from proofyard.protocol.seal import CANNOT_EXECUTE, keyed_is_checked, seal_of, seal_struct_hash
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.signature import signed_by
from proofyard.protocol.types import Address, Digest, JobId
from proofyard.protocol.view import BatchView


def validate_audits(
    view: BatchView,
    record: BatchRecord,
    plan: AuditPlan,
    exact: Mapping[JobId, bool],
    now: int | None,
    ensure: Ensure,
) -> None:
    """`audits`: the plan's segments in its order, each with the auditors that it drew, what they signed, and the
    verdict that follows. `now` in Unix seconds, None where the settlement is past."""
    said, planned = [audit.key for audit in record.audits], [audit.key for audit in plan.audits]
    ensure(said == planned, f"they are of {len(said)} segments and not of the {len(planned)} of the plan")
    late = now is None or is_late(view.drawn_at, now)
    for audit, planned_audit in zip(record.audits, plan.audits, strict=True):
        task, listed = record.by_key[audit.task_key], planned_audit.auditors
        claimed = claimed_answer(record.by_key, audit)
        _validate_seats(audit, listed, ensure)
        for vote in audit.votes:
            _validate_vote(view, audit, vote, ensure)
        _validate_copied(view, audit, task, claimed, exact[audit.job], ensure)
        _validate_alike(audit, claimed, exact[audit.job], ensure)
        decoy = audit.task_key in record.decoys
        _validate_verdict(view, audit, claimed, listed, late, ensure, decoy=decoy)


def _validate_seats(audit: AuditedSegment, listed: Sequence[Address], ensure: Ensure) -> None:
    """Votes and absent auditors together are the first ones of the plan's list, each in its order, nobody twice: a
    leader chooses neither who is asked nor whom to leave out without saying so."""
    voters, absent = [vote.auditor for vote in audit.votes], list(audit.absent)
    asked = listed[: len(voters) + len(absent)]
    split = ([a for a in asked if a not in absent], [a for a in asked if a in absent])
    ensure((voters, absent) == split, f"the auditors of {_name(audit)} are not the first ones of the plan's list")


def _validate_vote(view: BatchView, audit: AuditedSegment, vote: AuditVote, ensure: Ensure) -> None:
    ensure(
        seal_of(vote.opening(), vote.auditor) == vote.seal, f"{vote.auditor} sealed something else on {_name(audit)}"
    )
    sealed = seal_struct_hash(view.batch, *audit.key, view.seed, vote.auditor, vote.seal)
    signed = signed_by(view.domain.typed_digest(sealed), vote.signature, vote.auditor)
    ensure(signed, f"the seal on {_name(audit)} is not signed by {vote.auditor}")


def _validate_copied(
    view: BatchView, audit: AuditedSegment, task: CommittedTask, claimed: Digest, exact: bool, ensure: Ensure
) -> None:
    """Only answers whose state somebody else has too can be shown to be copied, and only where everybody looks."""
    if not audit.copied:
        return
    shown = [vote.auditor for vote in audit.votes if vote.after in (claimed, CANNOT_EXECUTE)]
    checked = exact and keyed_is_checked(view.seed, task.commitment.struct_hash(), audit.segment)
    ensure(checked, f"the keyed digests of {_name(audit)} are not among those that are checked")
    copied = [auditor for auditor in shown if auditor in audit.copied]
    ensure(list(audit.copied) == copied, f"whoever copied on {_name(audit)} is no voter, or nobody can tell")


def _validate_alike(audit: AuditedSegment, claimed: Digest, exact: bool, ensure: Ensure) -> None:
    """Answers count as others only where workloads are not exact, and only as what somebody said."""
    if audit.alike:
        given = {vote.after for vote in audit.votes} - {CANNOT_EXECUTE}
        fits = not exact and all(one in given and other in given | {claimed} for one, other in audit.alike)
        ensure(fits and len(dict(audit.alike)) == len(audit.alike), f"answers on {_name(audit)} are counted as others")


def _validate_verdict(
    view: BatchView,
    audit: AuditedSegment,
    claimed: Digest,
    listed: Sequence[Address],
    late: bool,
    ensure: Ensure,
    *,
    decoy: bool,
) -> None:
    """The verdict is that of the votes (`verdict_of`). A fault without any is one of the state before
    (`validate_faults` looks for it). Where nothing is decided, everybody on the list is named."""
    if audit.verdict == Verdict.FAULT and not audit.votes:
        ensure(not audit.absent, f"auditors of {_name(audit)} are absent where nobody was to be asked")
        return
    voters, named = {vote.auditor for vote in audit.votes}, len(audit.votes) + len(audit.absent)
    undecided = audit.verdict == Verdict.UNDECIDED
    verdict = verdict_of(
        tuple(audit.answers().values()),
        claimed,
        view.jobs[audit.job].auditors_per_segment,
        votes=len(audit.votes),
        asked=asked_of(listed, voters) if undecided else named,
        listed=len(listed),
        late=late,
        decoy=decoy,
    )
    count = f", with {len(audit.absent)} of {named} auditors absent" if audit.absent else ""
    said = f"the votes on {_name(audit)} say {verdict}, not {audit.verdict}{count}"
    ensure(audit.verdict == verdict != Verdict.PENDING, said)
    ensure(not undecided or named == len(listed), f"{_name(audit)} is undecided and does not name its whole list")


def validate_faults(view: BatchView, record: BatchRecord, exact: Mapping[JobId, bool], ensure: Ensure) -> None:
    """`faults`: one for each task that was found faulty or whose result was, and one for each auditor that was
    outvoted."""
    places = [fault.place for fault in record.faults]
    ensure(places == sorted(set(places)), "they are not in order, or one is in it twice")
    workers = [fault for fault in record.faults if fault.kind != FaultReason.FALSE_AUDIT]
    for fault in workers:
        _validate_worker(record, fault, exact, ensure)
    charged = [fault.task_key for fault in workers]
    ensure(len(set(charged)) == len(charged), "a task is at fault twice")
    ensure(record.decoys.isdisjoint(charged), "a decoy is named as its worker's fault")
    judged = {audit.task_key for audit in record.audits if audit.verdict == Verdict.FAULT} - record.decoys
    ensure(judged <= set(charged), "a faulty task is not named as a fault")
    outvoted = {fault.place for fault in false_audits(view, record.by_key, record.audits, exact)}
    named = {fault.place for fault in record.faults if fault.kind == FaultReason.FALSE_AUDIT}
    ensure(named == outvoted, "the false auditors are not those that were outvoted or copied")


def _validate_worker(record: BatchRecord, fault: RecordedFault, exact: Mapping[JobId, bool], ensure: Ensure) -> None:
    """A worker's fault is that of its first faulty segment, or of its result, and of a kind that these can be. Where
    nobody can tell whether a faulty task is a decoy, its worker withholds that."""
    name, task = f"the fault in task {fault.task} of job {fault.job}", record.by_key.get(fault.task_key)
    ensure(task is not None and task.commitment.node == fault.node, f"{name} names nobody who did it")
    audit = faulty_audit(record, fault.task_key)
    if audit and fault.task_key in record.unopened:
        ensure((fault.segment, fault.kind) == (None, FaultReason.WITHHELD), f"{name} is not that of an unopened mark")
        return
    ensure(fault.segment == (audit.segment if audit else None), f"{name} is not at its first faulty segment")
    wrong = FaultReason.MISMATCH if exact[fault.job] else FaultReason.DISAGREED
    kinds = {wrong} if audit and audit.votes else {wrong, FaultReason.WITHHELD}
    ensure(fault.kind in kinds, f"{name} is of another kind than its votes")


def _name(audit: AuditedSegment) -> str:
    return f"segment {audit.segment} of task {audit.task} of job {audit.job}"
