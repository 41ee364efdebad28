"""False audits: an outvoted auditor has lied, because executing a segment gives everybody the same 32 bytes.

A split brings in more auditors before anyone is accused. Once k + 1 owners share an answer, whoever gave another one is
at fault. Where auditors ran out before that, nobody is; nor in a workload that is not exact.
"""

from collections.abc import Iterable, Mapping

from proofyard.protocol.audit import carried
from proofyard.protocol.record import AuditedSegment, AuditVote, RecordedFault
from proofyard.protocol.seal import CANNOT_EXECUTE
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.types import Digest, SegmentIndex, TaskIndex


def false_audits(
    audits: Iterable[AuditedSegment],
    claimed: Mapping[tuple[TaskIndex, SegmentIndex], Digest],
    auditors_per_segment: int,
) -> tuple[RecordedFault, ...]:
    """The faults of auditors that follow from the votes of an exact batch, in the order of its `audits`; `claimed` are
    the workers' own answers (`record.claimed_answers`)."""
    return tuple(
        RecordedFault(audit.task, vote.auditor, FaultReason.FALSE_AUDIT, _reason(vote, answer), audit.segment)
        for audit in audits
        if (answer := _shared(audit, claimed[audit.task, audit.segment], auditors_per_segment)) is not None
        for vote in audit.votes
        if vote.after != answer
    )


def _shared(audit: AuditedSegment, claimed: Digest, auditors_per_segment: int) -> Digest | None:
    """The answer that carried the verdict, if k + 1 owners gave it."""
    answers = list(audit.answers().values())
    answer = carried(answers, claimed, audit.verdict)
    return answer if answer is not None and answers.count(answer) > auditors_per_segment else None


def _reason(vote: AuditVote, answer: Digest) -> str:
    return f"its answer is {told(vote.after)}, the other auditors' is {told(answer)}"


def told(answer: Digest) -> str:
    """An answer for people."""
    return "that it cannot be executed" if answer == CANNOT_EXECUTE else f"{answer.hex()[:12]}..."
