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
from proofyard.protocol.seal import (
    CANNOT_EXECUTE,
    KEYED_ONE_IN,
    MAX_REASON,
    UNKEYED,
    Opening,
    jury_seed,
    keyed_digest,
    keyed_is_checked,
    plain_reason,
    seal_of,
)
from proofyard.protocol.types import Address, BatchId, Digest, JobId, SegmentIndex, Signature, TaskIndex

AUDITOR = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
LARGEST = SealOpened(CANNOT_EXECUTE, UNKEYED, "r" * MAX_REASON, bytes(32))
PLACE: tuple[BatchId, JobId, TaskIndex, SegmentIndex] = (
    BatchId(2**63 - 1),
    JobId(2**63 - 1),
    TaskIndex(2**32 - 1),
    SegmentIndex(2**32 - 1),
)
SEAL = SubmitSeal(*PLACE, Digest(bytes(32)), Digest(bytes(32)), Signature(bytes(65)))


def test_beyond_the_state_before_an_audit_moves_less_than_a_kilobyte() -> None:
    moved = [SEAL, Ack(), OpenSeal(*PLACE), LARGEST]
    assert sum(len(encode(message)) for message in moved) < 1024
    task = TaskSpec(index=TaskIndex(9), kind="train", deps=(TaskIndex(1),), segments=64, label="round 2, shard 3")
    cid = raw_cid(b"x")
    offer = AuditOffer(BatchId(9), UNKEYED, JobId(9), cid, task, SegmentIndex(3), cid, (), 15.0)
    usual = [offer, Ack(), SEAL, Ack(), OpenSeal(*PLACE), msgspec.structs.replace(LARGEST, reason="")]
    assert sum(len(encode(message)) for message in usual) < 1024, "with the offer, where there is no failure to tell of"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"after": bytes(31)}, "after"),
        ({"after": bytes(33)}, "after"),
        ({"keyed": bytes(31)}, "keyed"),
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
    vote = AuditVote(AUDITOR, CANNOT_EXECUTE, Signature(bytes(65)), CANNOT_EXECUTE, UNKEYED, "", bytes(32))
    with pytest.raises(CodecError, match=rf"\$\.{field}"):
        decode(encode(msgspec.to_builtins(vote, builtin_types=(bytes,)) | changes), AuditVote)


def test_a_seal_binds_every_part_of_its_opening() -> None:
    opening = Opening(Digest(bytes(32)), UNKEYED, "", bytes(32))
    seals = {
        seal_of(opening, AUDITOR),
        seal_of(replace(opening, after=CANNOT_EXECUTE), AUDITOR),
        seal_of(replace(opening, keyed=CANNOT_EXECUTE), AUDITOR),
        seal_of(replace(opening, reason="r"), AUDITOR),
        seal_of(replace(opening, salt=b"s" * 32), AUDITOR),
        seal_of(opening, Address("0x" + "1" * 40)),
    }
    assert len(seals) == 6


def test_any_reason_can_be_made_to_travel() -> None:
    told = plain_reason("loss is\tNaN \u2013 " + "x" * 1000)
    assert told.startswith("loss is?NaN ? x")
    opened = SealOpened(CANNOT_EXECUTE, UNKEYED, told, bytes(32))
    assert decode(encode(opened), SealOpened) == opened


def test_a_leaked_answer_is_worth_nothing_under_another_key_seed_or_state() -> None:
    seed, other = Digest(b"s" * 32), Address("0x" + "1" * 40)
    keyed = {
        keyed_digest(seed, AUDITOR, b"state"),
        keyed_digest(seed, other, b"state"),
        keyed_digest(jury_seed(1, 0, 5), AUDITOR, b"state"),
        keyed_digest(jury_seed(1, 1, 5), AUDITOR, b"state"),
        keyed_digest(seed, AUDITOR, memoryview(b"stat")),
    }
    assert len(keyed) == 5


def test_one_audited_segment_in_eight_has_its_keyed_digests_checked() -> None:
    checked = sum(
        keyed_is_checked(Digest(bytes([i]) * 32), Digest(bytes(32)), SegmentIndex(j))
        for i in range(256)
        for j in range(16)
    )
    assert abs(checked - 4096 // KEYED_ONE_IN) < 80
