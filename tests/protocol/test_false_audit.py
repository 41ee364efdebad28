"""Who is at fault when auditors disagree."""

import hashlib

import pytest

from proofyard.protocol.audit import Verdict, tally
from proofyard.protocol.false_audit import false_audits
from proofyard.protocol.record import AuditedSegment, AuditVote
from proofyard.protocol.seal import CANNOT_EXECUTE
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.types import Address, Digest, SegmentIndex, Signature, TaskIndex

K = 2
PLACE = TaskIndex(4), SegmentIndex(1)
CLAIMED, REAL, MADE_UP = (Digest(hashlib.sha256(text).digest()) for text in (b"claimed", b"real", b"made up"))


def audit(*answers: Digest) -> AuditedSegment:
    """A segment whose auditors 0, 1, ... gave these answers, judged as the tally says."""
    votes = tuple(
        AuditVote(
            auditor=Address(f"0x{number:040x}"),
            owner=Address(f"0x{number + 100:040x}"),
            seal=Digest(bytes(32)),
            signature=Signature(bytes(65)),
            after=answer,
            reason="",
            salt=bytes(32),
        )
        for number, answer in enumerate(answers)
    )
    verdict = tally({vote.owner: vote.after for vote in votes}, CLAIMED, K, exhausted=True)
    return AuditedSegment(*PLACE, votes, verdict)


@pytest.mark.parametrize(
    ("answers", "verdict", "guilty"),
    [
        ((CLAIMED, CLAIMED, CLAIMED, MADE_UP), Verdict.VALID, [3]),  # accuses an honest worker, or did no work
        ((CANNOT_EXECUTE, CLAIMED, CLAIMED, CLAIMED), Verdict.VALID, [0]),
        ((MADE_UP, REAL, CLAIMED, CLAIMED, CLAIMED), Verdict.VALID, [0, 1]),
        ((REAL, REAL, REAL, CLAIMED), Verdict.FAULT, [3]),  # covers for a cheat
        ((REAL, REAL, REAL, MADE_UP), Verdict.FAULT, [3]),  # the worker cheated, and so did one that accused it
        ((CANNOT_EXECUTE, CANNOT_EXECUTE, CANNOT_EXECUTE, CLAIMED), Verdict.FAULT, [3]),
        ((REAL, REAL), Verdict.UNDECIDED, []),
        ((REAL, REAL, REAL), Verdict.FAULT, []),
        ((CLAIMED, CLAIMED), Verdict.VALID, []),
        ((CLAIMED, CLAIMED, MADE_UP), Verdict.UNDECIDED, []),  # auditors ran out before three agreed
        ((REAL, REAL, CLAIMED), Verdict.UNDECIDED, []),
        ((CLAIMED, MADE_UP), Verdict.UNDECIDED, []),
    ],
)
def test_an_outvoted_auditor_is_at_fault_only_where_k_and_one_more_agree(
    answers: tuple[Digest, ...], verdict: Verdict, guilty: list[int]
) -> None:
    judged = audit(*answers)
    assert judged.verdict == verdict
    faults = false_audits([judged], {PLACE: CLAIMED}, K)
    assert [int(fault.node, 16) for fault in faults] == guilty
    assert all((fault.task, fault.segment, fault.kind) == (*PLACE, FaultReason.FALSE_AUDIT) for fault in faults)
