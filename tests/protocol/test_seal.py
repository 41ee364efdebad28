"""What an auditor's answer is on the wire: its size, and what is refused."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from proofyard.protocol.cid import raw_cid
from proofyard.protocol.codec import CodecError, decode, encode
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.messages import Ack, AuditOffer, OpenSeal, SealOpened, SubmitSeal
from proofyard.protocol.record import AuditVote
from proofyard.protocol.seal import CANNOT_EXECUTE, MAX_REASON, Opening, plain_reason, seal_of
from proofyard.protocol.types import Address, BatchId, Digest, JobId, SegmentIndex, Signature, TaskIndex

AUDITOR = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
LARGEST = SealOpened(CANNOT_EXECUTE, "r" * MAX_REASON, bytes(32))
PLACE: Any = (BatchId(2**63 - 1), TaskIndex(2**32 - 1), SegmentIndex(2**32 - 1))
SEAL = SubmitSeal(PLACE[0], JobId(2**63 - 1), *PLACE[1:], Digest(bytes(32)), Signature(bytes(65)))


def test_beyond_the_state_before_an_audit_moves_less_than_a_kilobyte() -> None:
    moved = [SEAL, Ack(), OpenSeal(*PLACE), LARGEST]
    assert sum(len(encode(message)) for message in moved) < 1024
    task = TaskSpec(index=TaskIndex(9), kind="train", deps=(TaskIndex(1),), segments=64, label="round 2, shard 3")
    cid = raw_cid(b"x")
    offer = AuditOffer(BatchId(9), JobId(9), cid, task, SegmentIndex(3), cid, (), 15.0)
    usual = [offer, Ack(), SEAL, Ack(), OpenSeal(*PLACE), msgspec.structs.replace(LARGEST, reason="")]
    assert sum(len(encode(message)) for message in usual) < 1024, "with the offer, where there is no failure to tell of"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"after": bytes(31)}, "after"),
        ({"after": bytes(33)}, "after"),
        ({"salt": bytes(31)}, "salt"),
        ({"reason": "r" * (MAX_REASON + 1)}, "reason"),
        ({"reason": "\x1b[2J"}, "reason"),
        ({"reason": "a line\n"}, "reason"),
        ({"reason": "\u202e"}, "reason"),
    ],
)
def test_malformed_openings_are_refused_by_the_fields_name(changes: dict[str, Any], field: str) -> None:
    opened = msgspec.to_builtins(LARGEST, builtin_types=(bytes,)) | changes
    with pytest.raises(CodecError, match=rf"\$\.{field}"):
        decode(encode(opened), SealOpened)
    vote = AuditVote(AUDITOR, AUDITOR, CANNOT_EXECUTE, Signature(bytes(65)), CANNOT_EXECUTE, "", bytes(32))
    with pytest.raises(CodecError, match=rf"\$\.{field}"):
        decode(encode(msgspec.to_builtins(vote, builtin_types=(bytes,)) | changes), AuditVote)


def test_a_seal_binds_every_part_of_its_opening() -> None:
    opening = Opening(Digest(bytes(32)), "", bytes(32))
    seals = {
        seal_of(opening, AUDITOR),
        seal_of(replace(opening, after=CANNOT_EXECUTE), AUDITOR),
        seal_of(replace(opening, reason="r"), AUDITOR),
        seal_of(replace(opening, salt=b"s" * 32), AUDITOR),
        seal_of(opening, Address("0x" + "1" * 40)),
    }
    assert len(seals) == 5


def test_any_reason_can_be_made_to_travel() -> None:
    told = plain_reason("loss is\tNaN \u2013 " + "x" * 1000)
    assert told.startswith("loss is?NaN ? x")
    opened = SealOpened(CANNOT_EXECUTE, told, bytes(32))
    assert decode(encode(opened), SealOpened) == opened
