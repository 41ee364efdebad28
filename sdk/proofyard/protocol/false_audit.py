"""When an outvoted auditor has lied rather than rounded: what makes its answer a fault.

A split brings in more auditors before anyone is accused. Once k + 1 owners agree, the outvoted answers are looked at:
one that is far from the winning ones cannot come from executing the segment. Far is `MARGIN` times the tolerance, which
is itself several times the largest distance ever measured between honest answers (docs/verification.md); between the
two an outvoted auditor earns nothing for that seat, and loses nothing. Where auditors ran out before k + 1 agreed,
nobody but the worker can be at fault.
"""

from collections.abc import Iterable

from proofyard.protocol.audit import Verdict
from proofyard.protocol.record import AuditedSegment, AuditVote, RecordedFault

MARGIN = 10.0
"""Times the tolerance."""


def false_audits(
    audits: Iterable[AuditedSegment], tolerance: float, auditors_per_segment: int
) -> tuple[RecordedFault, ...]:
    """The faults of auditors that follow from a batch's votes, in the order of its audits."""
    return tuple(
        RecordedFault(audit.task, vote.auditor, _reason(audit, distance, tolerance), audit.segment)
        for audit in audits
        for vote, distance in _outvoted(audit, auditors_per_segment)
        if distance > MARGIN * tolerance
    )


def _outvoted(audit: AuditedSegment, auditors_per_segment: int) -> list[tuple[AuditVote, float]]:
    """The votes against the verdict, each with its distance from the answers that carried it.

    What the record holds are distances from the worker's answer. Those that carried VALID are the worker's, up to the
    tolerance; a vote for a worker that was found wrong is at the worker's own distance from the others.
    """
    valid = audit.verdict == Verdict.VALID
    winners = [vote for vote in audit.votes if vote.match == valid]
    losers = [vote for vote in audit.votes if vote.match != valid]
    if audit.verdict not in (Verdict.VALID, Verdict.FAULT) or len(winners) <= auditors_per_segment:
        return []
    nearest = min(vote.distance for vote in winners)
    return [(vote, vote.distance if valid else nearest) for vote in losers]


def _reason(audit: AuditedSegment, distance: float, tolerance: float) -> str:
    return (
        f"its answer to task {audit.task} segment {audit.segment} is {distance:.3g} of the update away from "
        f"{len(audit.votes)} auditors' verdict, allowed is {MARGIN * tolerance:.3g}"
    )
