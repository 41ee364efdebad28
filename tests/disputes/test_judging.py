"""What a juror finds on faults, payouts and segments."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from scene import FIRST, SECOND, THIRD, WORKER, Scene, moved, result_of

from proofyard.artifacts import cid_of_bytes
from proofyard.chain import ChallengeRecord, Kind, SlashRecord
from proofyard.disputes import judging
from proofyard.disputes.judging import Finding, judge
from proofyard.disputes.settled import Settled
from proofyard.protocol.audit import Verdict
from proofyard.protocol.cid import cid_digest
from proofyard.protocol.record import AuditedSegment, AuditVote, RecordedOperator
from proofyard.protocol.replay import RecordInvalid
from proofyard.protocol.seal import CANNOT_EXECUTE
from proofyard.protocol.settlement import FaultReason, OperatorId
from proofyard.protocol.types import Address, Digest, SegmentIndex, TaskIndex, Wei
from proofyard.workloads.errors import SegmentFailed

AUDITOR = Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
SEED = Digest(bytes(range(32)))
ZERO = Digest(bytes(32))
OPERATORS = tuple(RecordedOperator(OperatorId(i), node, node, 0) for i, node in ((1, WORKER), (2, AUDITOR)))


async def found(
    scene: Scene,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    *,
    segment: int = 0,
    accused: int = 1,
    reason: FaultReason = FaultReason.MISMATCH,
    audits: tuple[AuditedSegment, ...] = (),
    problem: str = "",
) -> Finding:
    """What a jury finds about the scene's batch; `problem` is what the record as a whole suffers from."""
    record = SimpleNamespace(**vars(scene.settled.record), operators=OPERATORS, audits=audits, seed=SEED)
    settled = replace(scene.settled, record=record)

    async def load(*_: object) -> Settled:
        return settled

    async def check(*_: object) -> None:
        if problem:
            raise RecordInvalid(1, problem)

    monkeypatch.setattr(judging, "load_settled", load)
    monkeypatch.setattr(Settled, "check", check)
    monkeypatch.setattr(Settled, "check_commitments", lambda *_: None)
    slash = SlashRecord(OperatorId(accused), Wei(1), 0, 0, TaskIndex(0), SegmentIndex(segment), int(reason))
    chain: Any = SimpleNamespace(slashes=lambda _: [slash])
    case: Any = SimpleNamespace(id=1, batch=1, kind=kind, task=0, segment=segment, entry=0, accused=accused)
    challenge: ChallengeRecord = case
    network: Any = scene
    return await judge(chain, network, scene, challenge, patience_s=0)


def honest() -> Scene:
    return Scene([FIRST, SECOND, THIRD], result_of(THIRD), [SECOND, THIRD])


def cheating() -> Scene:
    return Scene([FIRST, SECOND, THIRD], result_of(THIRD), [moved(FIRST, 0.02, done=1), THIRD])


async def test_a_right_segment_stands_and_a_wrong_or_withheld_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not (await found(honest(), monkeypatch, Kind.SEGMENT)).wrong
    assert (await found(cheating(), monkeypatch, Kind.SEGMENT)).wrong
    withheld = honest()
    withheld.states.clear()
    assert "nobody delivers" in (await found(withheld, monkeypatch, Kind.SEGMENT)).reason
    assert (await found(withheld, monkeypatch, Kind.SEGMENT)).wrong


async def test_a_payout_stands_as_long_as_the_record_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not (await found(honest(), monkeypatch, Kind.PAYOUT)).wrong
    bad = await found(honest(), monkeypatch, Kind.PAYOUT, problem="its payouts do not follow from its audits")
    assert bad.wrong and "do not follow" in bad.reason


async def test_a_fault_is_wrong_where_the_accused_is_innocent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await found(honest(), monkeypatch, Kind.FAULT)).wrong
    assert not (await found(cheating(), monkeypatch, Kind.FAULT)).wrong
    assert (await found(honest(), monkeypatch, Kind.FAULT, accused=2)).wrong, "somebody else did the task"
    swapped = Scene([FIRST, SECOND, THIRD], result_of(SECOND), [SECOND, THIRD])
    assert not (await found(swapped, monkeypatch, Kind.FAULT)).wrong, "the result is of its own making"
    late = await found(honest(), monkeypatch, Kind.FAULT, reason=FaultReason.WITHHELD)
    assert not late.wrong
    invalid = await found(cheating(), monkeypatch, Kind.FAULT, problem="its faults are not those that were settled")
    assert invalid.wrong


@pytest.mark.parametrize(("answer", "wrong"), [(SECOND, True), (moved(FIRST, 0.09, done=1), False), (None, True)])
async def test_an_auditors_fault_stands_if_executing_gives_another_answer(
    monkeypatch: pytest.MonkeyPatch, answer: bytes | None, wrong: bool
) -> None:
    """`answer`: the state that the accused auditor sealed; None where it did not audit at all."""
    votes = () if answer is None else (vote_for(cid_digest(cid_of_bytes(answer))),)
    audit = AuditedSegment(TaskIndex(0), SegmentIndex(0), votes, Verdict.VALID)
    finding = await found(honest(), monkeypatch, Kind.FAULT, accused=2, reason=FaultReason.FALSE_AUDIT, audits=(audit,))
    assert finding.wrong == wrong, finding.reason


@pytest.mark.parametrize(("failure", "wrong"), [(SegmentFailed(0, "a trap"), True), (None, False)])
async def test_an_auditor_that_could_not_execute_is_right_where_nobody_can(
    monkeypatch: pytest.MonkeyPatch, failure: Exception | None, wrong: bool
) -> None:
    audit = AuditedSegment(TaskIndex(0), SegmentIndex(0), (vote_for(CANNOT_EXECUTE),), Verdict.VALID)
    scene = Scene([FIRST, SECOND, THIRD], result_of(THIRD), [failure or SECOND, THIRD])
    finding = await found(scene, monkeypatch, Kind.FAULT, accused=2, reason=FaultReason.FALSE_AUDIT, audits=(audit,))
    assert finding.wrong == wrong, finding.reason


async def test_no_jury_convicts_for_a_workload_that_is_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "load_workload", lambda _: SimpleNamespace(exact=False))
    assert not (await found(cheating(), monkeypatch, Kind.SEGMENT)).wrong
    assert not (await found(cheating(), monkeypatch, Kind.FAULT, reason=FaultReason.DISAGREED)).wrong


def vote_for(answer: Digest) -> AuditVote:
    return AuditVote(AUDITOR, AUDITOR, ZERO, b"", answer, "", bytes(32))  # type: ignore[arg-type]
