"""When an outvoted auditor has lied rather than rounded: what makes its answer a fault.

A split brings in more auditors before anyone is accused. Once k + 1 owners agree on an answer, the outvoted ones are
looked at: one that is far from it cannot come from executing the segment. Far is `MARGIN` times the tolerance, which is
itself several times the largest distance ever measured between honest answers (docs/verification.md); between the two
an outvoted auditor earns nothing for that seat, and loses nothing. Where auditors ran out before k + 1 agreed, nobody
but the worker can be at fault.
"""

from collections.abc import Iterable

from proofyard.protocol.audit import WORKERS, carried
from proofyard.protocol.record import AuditedSegment, AuditVote, RecordedFault

MARGIN = 10.0
"""Times the tolerance."""
LARGEST = 3.0
"""No two changes are farther apart than about 2; much more is recorded for sketches of different shapes."""


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
    """The votes against the verdict, each with its distance from the answer that carried it.

    What the record holds are distances from the worker's answer. The one that carried VALID is the worker's, up to the
    tolerance; a vote for a worker that was found wrong is at the worker's own distance from the others. How far an
    accuser is from the accusers that carried FAULT is not known: it goes unpaid, and that is all.
    """
    answer = carried((vote.answer for vote in audit.votes), audit.verdict)
    winners = [vote for vote in audit.votes if vote.answer == answer]
    if answer is None or len(winners) <= auditors_per_segment:
        return []
    if answer == WORKERS:
        return [(vote, vote.distance) for vote in audit.votes if vote.answer != WORKERS]
    nearest = min(vote.distance for vote in winners)
    return [(vote, nearest) for vote in audit.votes if vote.answer == WORKERS]


def _reason(audit: AuditedSegment, distance: float, tolerance: float) -> str:
    how_far = f"{distance:.3g} of the update away from" if distance <= LARGEST else "not comparable with"
    return (
        f"its answer to task {audit.task} segment {audit.segment} is {how_far} the one of the other auditors, "
        f"allowed is {MARGIN * tolerance:.3g}"
    )
