"""A node that a record calls absent looks at what was found without it."""

from types import SimpleNamespace
from typing import Any

import pytest

from proofyard.chain import BatchSettled, ChallengeId
from proofyard.chain.events import Position
from proofyard.node import absence as module
from proofyard.node.absence import Absence
from proofyard.node.duties import Duties
from proofyard.node.purse import OverBudget
from proofyard.protocol.audit import Verdict
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.record import AuditedSegment
from proofyard.protocol.types import Address, BatchId, Digest, JobId, SegmentIndex, TaskIndex, Wei

KEY, OTHER = Address("0x" + "1" * 40), Address("0x" + "2" * 40)
ZERO = Digest(bytes(32))
EVENT = BatchSettled(Position(1, ZERO, 0), BatchId(3), 0, ZERO, 0, Wei(0), Wei(0), ZERO, raw_cid(b"record"), 1, 100, ())


async def challenged(
    monkeypatch: pytest.MonkeyPatch,
    *,
    absent: Address = KEY,
    holds: bool | None = False,
    rich: bool = True,
    now: int = 50,
) -> list[Any]:
    """The segments that the node challenges in a settled batch, looked at twice."""
    opened: list[Any] = []
    audit = AuditedSegment(JobId(1), TaskIndex(2), SegmentIndex(1), (), (absent,), Verdict.VALID)
    batch = SimpleNamespace(
        manifests={JobId(1): Manifest(workload="lora", params={})},
        step=lambda *place: place,
    )

    async def load(*_: Any) -> Any:
        return batch

    async def segment(*_: Any) -> Any:
        return SimpleNamespace(holds=holds)

    async def read(*_: Any) -> bytes:
        return b""

    def afford(*_: Any, **__: Any) -> None:
        if not rich:
            raise OverBudget("too little")

    def challenge(*arguments: Any) -> ChallengeId:
        opened.append(arguments)
        return ChallengeId(1)

    record = SimpleNamespace(audits=(audit,), salt_of=lambda _: bytes(32))
    monkeypatch.setattr(module, "decode_record", lambda _: record)
    monkeypatch.setattr(module, "load_committed", load)
    monkeypatch.setattr(module, "Replayer", lambda *_, **__: SimpleNamespace(segment=segment))
    monkeypatch.setattr(module, "Court", lambda _: SimpleNamespace(challenge_segment=challenge))
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.0)
    params = SimpleNamespace(court=SimpleNamespace(bond=1))
    chain: Any = SimpleNamespace(recent_events=lambda _: [EVENT], params=lambda: params)
    network: Any = SimpleNamespace(read=read)
    purse: Any = SimpleNamespace(afford=afford)
    duties = Duties()
    unused: Any = None
    absence = Absence(chain, network, unused, duties, purse, KEY)
    for _ in range(2):
        await absence.consider(now)
        await duties.settle()
    return opened


async def test_a_wrong_segment_that_was_judged_without_this_node_is_challenged_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await challenged(monkeypatch) == [(BatchId(3), (JobId(1), TaskIndex(2), SegmentIndex(1), bytes(32)))]


@pytest.mark.parametrize(
    "case", [{"holds": True}, {"holds": None}, {"absent": OTHER}, {"rich": False}, {"now": 101}], ids=str
)
async def test_nothing_else_is(monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]) -> None:
    assert await challenged(monkeypatch, **case) == []
