"""Marks before a jury: who shows a decoy is acquitted, and only what is work can be challenged."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
from scene import JOB, TASK, Scene

from proofyard.artifacts import ArtifactUnavailable, cid_of_bytes
from proofyard.chain import SlashRecord
from proofyard.disputes import judging, settled
from proofyard.disputes.errors import NoSuchPlace, NotSettled, RecordWithheld
from proofyard.protocol.audit import Verdict
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.mark import UNOPENED, mark_of, opening_of
from proofyard.protocol.members import Member
from proofyard.protocol.record import AuditedSegment, BatchRecord, encode_record
from proofyard.protocol.settlement import RESULT, FaultReason, OperatorId
from proofyard.protocol.types import BatchId, Cid, SegmentIndex, Wei

SALT, NODE = b"s" * 32, OperatorId(7)
FAULT = SlashRecord(*(NODE, Wei(1), 0, 0, TASK, SegmentIndex(RESULT), int(FaultReason.WITHHELD), False, JOB, False, ()))


@dataclass
class Case:
    """A task that the record finds faulty, or not, and whose mark it opens, or not."""

    decoy: bool = False
    verdict: Verdict = Verdict.FAULT
    salt: bytes = UNOPENED
    shown: bytes | None = None

    def record(self) -> BatchRecord:
        scene = Scene([b"0", b"1", b"2"], b"r", [])
        commitment = replace(scene.member.commitment, mark=mark_of(SALT, decoy=self.decoy))
        member = Member(commitment, scene.member.signature, scene.member.trace)
        audit = AuditedSegment(JOB, TASK, SegmentIndex(0), (), (), self.verdict)
        facts: dict[str, Any] = {"chain_id": 1, "registry": commitment.node, "batch": BatchId(1), "attempt": 1}
        names = ("jobs", "counted", "uncounted", "over", "repeated", "faults", "stale", "redress", "payouts")
        empty: dict[str, Any] = dict.fromkeys(names, ())
        return BatchRecord(leader=NODE, tasks=(member,), salts=(self.salt,), audits=(audit,), **facts, **empty)

    async def opening(self, _record: Cid, _member: object) -> bytes:
        if self.shown is None:
            raise ArtifactUnavailable(raw_cid(b"mark"), 1, ["nobody has it"])
        return self.shown


async def judged(case: Case, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, str] | None:
    record = case.record()

    async def load(*_: object) -> Any:
        event = SimpleNamespace(record=raw_cid(b"record"))
        return SimpleNamespace(record=record, event=event, member=lambda job, task: record.by_key[job, task])

    monkeypatch.setattr(judging, "load_settled", load)
    network: Any = SimpleNamespace(opening=case.opening, read=None)
    unused: Any = None
    return await judging._judge_unopened(unused, network, BatchId(1), FAULT, 0.0)


async def test_whoever_shows_that_it_was_a_decoy_is_innocent(monkeypatch: pytest.MonkeyPatch) -> None:
    found = await judged(Case(decoy=True, shown=opening_of(SALT, decoy=True)), monkeypatch)
    assert found is not None and found[0] and "decoy" in found[1]


@pytest.mark.parametrize("shown", [None, opening_of(SALT, decoy=False), opening_of(bytes(32), decoy=True), b""])
async def test_a_fake_whose_mark_nobody_opens_or_that_is_work_is_not_acquitted(
    monkeypatch: pytest.MonkeyPatch, shown: bytes | None
) -> None:
    """Not even where result and states can all be had: what was found faulty is faulty."""
    found = await judged(Case(shown=shown), monkeypatch)
    assert found is not None and not found[0]


async def test_other_withheld_results_are_judged_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await judged(Case(salt=SALT), monkeypatch) is None
    assert await judged(Case(verdict=Verdict.VALID), monkeypatch) is None


async def test_only_work_that_the_record_opens_can_be_challenged() -> None:
    async def salt_of(case: Case, record: Cid | None = None) -> bytes:
        data = encode_record(case.record())

        async def read(cid: Cid, _max: int) -> bytes:
            if cid != cid_of_bytes(data):
                raise ArtifactUnavailable(cid, 1, [])
            return data

        return await settled.salt_in_record(read, BatchId(1), record or cid_of_bytes(data), (JOB, TASK))

    assert await salt_of(Case(salt=SALT)) == SALT
    for case in (Case(decoy=True, salt=SALT), Case(salt=UNOPENED), Case(salt=bytes(32))):
        with pytest.raises(NoSuchPlace):
            await salt_of(case)
    with pytest.raises(RecordWithheld):
        await salt_of(Case(salt=SALT), raw_cid(b"another"))

    async def nothing(*_: object) -> bytes:
        raise AssertionError("nothing is asked for")

    with pytest.raises(NotSettled):
        await settled.salt_in_record(nothing, BatchId(1), None, (JOB, TASK))
