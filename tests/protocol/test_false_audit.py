"""Who is at fault when auditors disagree."""

import pytest

from proofyard.protocol.audit import Verdict, tally
from proofyard.protocol.false_audit import MARGIN, false_audits
from proofyard.protocol.record import AuditedSegment, AuditVote
from proofyard.protocol.types import Address, Digest, SegmentIndex, Signature, TaskIndex

TOLERANCE = 1e-3
K = 2
HONEST, ROUNDING, LIE = 1e-4, 5e-3, 1.4


def audit(*distances: float) -> AuditedSegment:
    """A segment whose auditors 0, 1, ... answered at these distances from the worker, judged as the tally says."""
    votes = tuple(
        AuditVote(
            auditor=Address(f"0x{number:040x}"),
            owner=Address(f"0x{number + 100:040x}"),
            seal=Digest(bytes(32)),
            signature=Signature(bytes(65)),
            sketch=b"",
            after=Digest(bytes(32)),
            salt=bytes(32),
            distance=distance,
            match=distance <= TOLERANCE,
            answer=int(distance > TOLERANCE),
        )
        for number, distance in enumerate(distances)
    )
    verdict = tally({vote.owner: vote.answer for vote in votes}, K, exhausted=True)
    return AuditedSegment(TaskIndex(4), SegmentIndex(1), votes, verdict)


@pytest.mark.parametrize(
    ("distances", "verdict", "guilty"),
    [
        ((HONEST, HONEST, HONEST, LIE), Verdict.VALID, [3]),  # accuses an honest worker, or did no work
        ((LIE, HONEST, HONEST, HONEST), Verdict.VALID, [0]),
        ((LIE, LIE, HONEST, HONEST, HONEST), Verdict.VALID, [0, 1]),
        ((LIE, LIE, LIE, HONEST), Verdict.FAULT, [3]),  # covers for a cheat
        ((LIE, LIE), Verdict.FAULT, []),
        ((HONEST, HONEST), Verdict.VALID, []),
        ((HONEST, HONEST, HONEST, ROUNDING), Verdict.VALID, []),
        ((ROUNDING, LIE, LIE, HONEST), Verdict.FAULT, []),  # one accuser is close to the answer that was outvoted
        ((HONEST, HONEST, LIE), Verdict.VALID, []),  # auditors ran out before three agreed
        ((LIE, LIE, HONEST), Verdict.FAULT, []),
        ((HONEST, LIE), Verdict.UNDECIDED, []),
    ],
)
def test_an_outvoted_auditor_is_at_fault_only_where_k_and_one_more_agree_and_it_is_far_from_them(
    distances: tuple[float, ...], verdict: Verdict, guilty: list[int]
) -> None:
    judged = audit(*distances)
    assert judged.verdict == verdict
    faults = false_audits([judged], TOLERANCE, K)
    assert [int(fault.node, 16) for fault in faults] == guilty
    assert all((fault.task, fault.segment) == (4, 1) for fault in faults)


def test_the_margin_is_a_multiple_of_the_jobs_own_tolerance() -> None:
    judged = audit(HONEST, HONEST, HONEST, 0.02)
    assert len(false_audits([judged], 0.02 / MARGIN * 0.99, K)) == 1
    assert false_audits([judged], 0.02 / MARGIN * 1.01, K) == ()
