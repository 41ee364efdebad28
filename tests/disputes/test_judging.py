"""What a juror finds on faults, records and segments, and what it shows the Court for it."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from scene import FIRST, JOB, SECOND, TASK, THIRD, WORKER, Scene, moved, result_of

from proofyard.artifacts import ArtifactUnavailable, cid_of_bytes
from proofyard.chain import ChallengeRecord, Kind, SlashRecord, Wallet
from proofyard.disputes import judging
from proofyard.disputes.errors import ListWithheld, RecordWithheld
from proofyard.disputes.judging import RIGHT, WRONG, Finding, judge, on_fault
from proofyard.protocol.audit import Verdict
from proofyard.protocol.cid import cid_digest
from proofyard.protocol.commitment import Domain
from proofyard.protocol.record import AuditedSegment, AuditVote
from proofyard.protocol.seal import (
    CANNOT_EXECUTE,
    REFUSED_STATE,
    UNAVAILABLE,
    UNKEYED,
    Opening,
    jury_seed,
    keyed_digest,
    seal_of,
    seal_struct_hash,
)
from proofyard.protocol.settlement import RESULT, FaultReason, OperatorId
from proofyard.protocol.types import Address, BatchId, Digest, SegmentIndex, TaskIndex, Wei
from proofyard.protocol.validate import RecordInvalid
from proofyard.workloads.errors import SegmentFailed

AUDITOR = Wallet.generate()
OWNER = Address("0x" + "0b" * 20)
DOMAIN = Domain(31_337, WORKER)
SEED = Digest(bytes(range(32)))
IDS = {WORKER: OperatorId(1), AUDITOR.address: OperatorId(2)}
CLAIMED = cid_digest(cid_of_bytes(SECOND))


async def found(
    scene: Scene,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    *,
    segment: int = 0,
    accused: int = 1,
    reason: FaultReason = FaultReason.MISMATCH,
    votes: tuple[AuditVote, ...] = (),
    problem: Exception | None = None,
    listed: bool = True,
    task: int = TASK,
) -> Finding:
    """What a jury finds about the scene's batch. `problem`: why its record does not hold or cannot be had; `listed`:
    whether the member list can be had."""

    async def committed(*_: object) -> Any:
        if not listed:
            raise ListWithheld(BatchId(1), ["nobody has it"])
        return scene.committed

    async def settled(*_: object) -> Any:
        if isinstance(problem, RecordWithheld):
            raise problem
        audit = AuditedSegment(JOB, TASK, SegmentIndex(segment), votes, (), Verdict.VALID)
        view = SimpleNamespace(
            batch=BatchId(1), seed=SEED, domain=DOMAIN, owners={key: (number, key) for key, number in IDS.items()}
        )

        async def check(_read: object) -> None:
            if problem:
                raise problem

        record = SimpleNamespace(audits=(audit,), unopened=frozenset())
        return SimpleNamespace(record=record, view=view, check=check, member=scene.committed.member)

    monkeypatch.setattr(judging, "load_committed", committed)
    monkeypatch.setattr(judging, "load_settled", settled)
    monkeypatch.setattr(judging, "cid_of_record", lambda *_: scene.committed.record)
    slash = SlashRecord(
        *(OperatorId(accused), Wei(1), 0, 0, TASK, SegmentIndex(segment), int(reason), False, JOB, False, ())
    )
    slash = replace(slash, task=TaskIndex(task))
    chain: Any = SimpleNamespace(slashes=lambda _: [slash], operator_of=IDS.get)
    claimed = cid_digest(scene.member.trace[min(segment, 1) + 1])
    case: Any = SimpleNamespace(
        id=7,
        batch=1,
        kind=kind,
        job=JOB,
        task=TASK,
        segment=segment,
        entry=0,
        round=0,
        draw_block=50,
        accused=accused,
        claimed=claimed,
    )
    challenge: ChallengeRecord = case
    network: Any = scene
    return await judge(chain, network, scene, challenge, owner=OWNER, patience_s=0)


def honest() -> Scene:
    return Scene([FIRST, SECOND, THIRD], result_of(THIRD), [SECOND, THIRD])


def cheating() -> Scene:
    return Scene([FIRST, SECOND, THIRD], result_of(THIRD), [moved(FIRST, 0.02, done=1), THIRD])


def keyed(state: bytes) -> Digest:
    return keyed_digest(jury_seed(7, 0, 50), OWNER, state)


async def test_the_evidence_on_a_segment_is_the_jurors_own_state_keyed_for_its_owner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = await found(honest(), monkeypatch, Kind.SEGMENT)
    assert (right.wrong, right.evidence, right.keyed) == (False, CLAIMED, keyed(SECOND))
    own = moved(FIRST, 0.02, done=1)
    wrong = await found(cheating(), monkeypatch, Kind.SEGMENT)
    assert (wrong.wrong, wrong.evidence, wrong.keyed) == (True, cid_digest(cid_of_bytes(own)), keyed(own))


async def test_a_state_that_cannot_be_had_or_used_is_evidence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    withheld = honest()
    withheld.states.clear()
    away = await found(withheld, monkeypatch, Kind.SEGMENT)
    assert (away.wrong, away.evidence, away.keyed) == (True, UNAVAILABLE, UNKEYED)
    assert "nobody delivers" in away.reason
    stale = await found(Scene([SECOND, THIRD, THIRD], result_of(THIRD), [THIRD, THIRD]), monkeypatch, Kind.SEGMENT)
    assert (stale.wrong, stale.evidence, stale.keyed) == (True, REFUSED_STATE, keyed(SECOND))
    trap = Scene([FIRST, SECOND, THIRD], result_of(THIRD), [SegmentFailed(0, "a trap"), THIRD])
    failed = await found(trap, monkeypatch, Kind.SEGMENT)
    assert (failed.wrong, failed.evidence, failed.keyed) == (True, CANNOT_EXECUTE, keyed(FIRST))


async def test_a_segment_is_judged_without_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = RecordWithheld(BatchId(1), cid_of_bytes(b""), "nobody has it")
    assert (await found(cheating(), monkeypatch, Kind.SEGMENT, problem=gone)).wrong
    assert not (await found(honest(), monkeypatch, Kind.SEGMENT, problem=gone)).wrong


async def test_a_worker_does_not_answer_for_a_list_that_verifiers_withhold(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = await found(cheating(), monkeypatch, Kind.SEGMENT, listed=False)
    assert (finding.wrong, finding.evidence) == (False, CLAIMED)


@pytest.mark.parametrize(
    "problem",
    [
        RecordInvalid(BatchId(1), "payouts", "they do not follow"),
        RecordWithheld(BatchId(1), cid_of_bytes(b""), "nobody has it"),
        ArtifactUnavailable(cid_of_bytes(b""), 1, ["the state that was called refused is gone"]),
    ],
    ids=["invalid", "withheld", "unproven"],
)
async def test_a_record_that_does_not_hold_or_cannot_be_had_is_wrong(
    monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    right = await found(honest(), monkeypatch, Kind.RECORD)
    assert (right.wrong, right.evidence, right.keyed) == (False, RIGHT, UNKEYED)
    wrong = await found(honest(), monkeypatch, Kind.RECORD, problem=problem)
    assert (wrong.wrong, wrong.evidence, wrong.keyed) == (True, WRONG, UNKEYED)


async def test_a_fault_is_wrong_where_the_accused_is_innocent(monkeypatch: pytest.MonkeyPatch) -> None:
    innocent = await found(honest(), monkeypatch, Kind.FAULT)
    assert (innocent.wrong, innocent.evidence, innocent.keyed) == (True, on_fault(CLAIMED, True), keyed(SECOND))
    own = moved(FIRST, 0.02, done=1)
    guilty = await found(cheating(), monkeypatch, Kind.FAULT)
    assert (guilty.wrong, guilty.evidence) == (False, on_fault(cid_digest(cid_of_bytes(own)), False))
    assert (await found(honest(), monkeypatch, Kind.FAULT, accused=2)).wrong, "somebody else did the task"
    swapped = Scene([FIRST, SECOND, THIRD], result_of(SECOND), [SECOND, THIRD])
    assert not (await found(swapped, monkeypatch, Kind.FAULT, segment=RESULT)).wrong, "the result is of its own making"
    assert (await found(honest(), monkeypatch, Kind.FAULT, segment=RESULT)).wrong


@pytest.mark.parametrize("reason", [FaultReason.MISMATCH, FaultReason.WITHHELD, FaultReason.FALSE_AUDIT])
@pytest.mark.parametrize(("task", "segment"), [(7, 0), (2**32 - 1, RESULT), (0, 99)])
async def test_nobody_is_guilty_of_what_the_batch_does_not_hold(
    monkeypatch: pytest.MonkeyPatch, reason: FaultReason, task: int, segment: int
) -> None:
    """The contract takes any place of a line's job. A jury that found no answer would be fined for its silence, and the
    accused's own node would not even challenge."""
    finding = await found(honest(), monkeypatch, Kind.FAULT, reason=reason, task=task, segment=segment)
    assert (finding.wrong, finding.evidence) == (True, on_fault(UNAVAILABLE, True)), finding.reason


async def test_whoever_withheld_a_state_is_acquitted_by_a_jury_that_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    late = await found(honest(), monkeypatch, Kind.FAULT, reason=FaultReason.WITHHELD)
    assert late.wrong, late.reason
    wrong = await found(cheating(), monkeypatch, Kind.FAULT, reason=FaultReason.WITHHELD)
    assert not wrong.wrong, "it turned up and is wrong"
    away = honest()
    away.states.clear()
    assert not (await found(away, monkeypatch, Kind.FAULT, reason=FaultReason.WITHHELD)).wrong


async def test_the_guilty_do_not_go_free_for_what_a_leader_did_to_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    invalid = RecordInvalid(BatchId(1), "payouts", "they do not follow")
    assert not (await found(cheating(), monkeypatch, Kind.FAULT, problem=invalid)).wrong


@pytest.mark.parametrize(("answer", "wrong"), [(SECOND, True), (moved(FIRST, 0.09, done=1), False), (None, True)])
async def test_an_auditors_fault_stands_if_executing_gives_another_answer(
    monkeypatch: pytest.MonkeyPatch, answer: bytes | None, wrong: bool
) -> None:
    """`answer`: the state that the accused auditor sealed; None where it did not audit at all."""
    votes = () if answer is None else (vote_for(cid_digest(cid_of_bytes(answer)), answer),)
    finding = await found(honest(), monkeypatch, Kind.FAULT, accused=2, reason=FaultReason.FALSE_AUDIT, votes=votes)
    assert finding.wrong == wrong, finding.reason
    seen = UNAVAILABLE if answer is None else CLAIMED
    assert finding.evidence == on_fault(seen, wrong), "what executing gave, and not only a verdict"


def test_the_lowest_bit_of_evidence_on_a_fault_is_the_verdict() -> None:
    for last in (0x40, 0x41):
        answer = Digest(bytes(31) + bytes([last]))
        assert (on_fault(answer, False)[-1], on_fault(answer, True)[-1]) == (0x40, 0x41)


@pytest.mark.parametrize(("failure", "wrong"), [(SegmentFailed(0, "a trap"), True), (None, False)])
async def test_an_auditor_that_could_not_execute_is_right_where_nobody_can(
    monkeypatch: pytest.MonkeyPatch, failure: Exception | None, wrong: bool
) -> None:
    scene = Scene([FIRST, SECOND, THIRD], result_of(THIRD), [failure or SECOND, THIRD])
    votes = (vote_for(CANNOT_EXECUTE, FIRST),)
    finding = await found(scene, monkeypatch, Kind.FAULT, accused=2, reason=FaultReason.FALSE_AUDIT, votes=votes)
    assert finding.wrong == wrong, finding.reason


async def test_an_answer_that_somebody_else_executed_is_false_where_everybody_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copied = replace_keyed(vote_for(CLAIMED, SECOND), keyed_digest(SEED, WORKER, SECOND))
    for checked, wrong in ((True, False), (False, True)):
        monkeypatch.setattr(judging, "keyed_is_checked", lambda *_, checked=checked: checked)
        finding = await found(
            honest(), monkeypatch, Kind.FAULT, accused=2, reason=FaultReason.FALSE_AUDIT, votes=(copied,)
        )
        assert finding.wrong == wrong, finding.reason


async def test_an_auditor_is_not_held_to_a_vote_that_it_never_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    forged = vote_for(cid_digest(cid_of_bytes(THIRD)), THIRD, signer=Wallet.generate())
    finding = await found(honest(), monkeypatch, Kind.FAULT, accused=2, reason=FaultReason.FALSE_AUDIT, votes=(forged,))
    assert finding.wrong, finding.reason


async def test_no_jury_convicts_for_a_workload_that_is_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "workload_of", lambda _: SimpleNamespace(exact=False))
    assert not (await found(cheating(), monkeypatch, Kind.SEGMENT)).wrong
    assert not (await found(cheating(), monkeypatch, Kind.FAULT, reason=FaultReason.DISAGREED)).wrong
    assert (await found(cheating(), monkeypatch, Kind.FAULT, reason=FaultReason.WITHHELD)).wrong, "its states are there"


def vote_for(answer: Digest, state: bytes, signer: Wallet = AUDITOR) -> AuditVote:
    opening = Opening(answer, keyed_digest(SEED, AUDITOR.address, state), "", bytes(32))
    return signed(opening, signer)


def replace_keyed(vote: AuditVote, other: Digest) -> AuditVote:
    return signed(replace(vote.opening(), keyed=other), AUDITOR)


def signed(opening: Opening, signer: Wallet) -> AuditVote:
    seal = seal_of(opening, AUDITOR.address)
    digest = DOMAIN.typed_digest(seal_struct_hash(BatchId(1), JOB, TASK, SegmentIndex(0), SEED, AUDITOR.address, seal))
    return AuditVote(
        AUDITOR.address, seal, signer.sign_digest(digest), opening.after, opening.keyed, opening.reason, opening.salt
    )
