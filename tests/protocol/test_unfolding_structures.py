"""Structures of few bytes that would unfold to gigabytes: refused by their announced lengths, before any element."""

import tracemalloc

import msgspec
import pytest
from worlds import simple

from proofyard.protocol.codec import CodecError, encode
from proofyard.protocol.members import decode_members, encode_members
from proofyard.protocol.record import AuditedSegment, BatchRecord, decode_record, encode_record

ELEMENTS = 4_000_000
MOST_BYTES = 8 << 20


def swollen(encoded: bytes, field: str, element: bytes) -> bytes:
    """The same structure with a list of millions of `element`s in place of the empty one of a field."""
    name = encode(field)
    assert encoded.count(name + b"\x90") == 1, field
    before, after = encoded.split(name + b"\x90")
    return before + name + b"\xdd" + ELEMENTS.to_bytes(4, "big") + element * ELEMENTS + after


def refused(decoded: object) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            decoded()  # type: ignore[operator]
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("field", "element"),
    [
        ("counted", b"\x92\x00\xa0"),
        ("uncounted", b"\x00"),
        ("repeated", b"\x92\x00\x00"),
        ("audits", b"\x80"),
        ("faults", b"\x80"),
        ("payouts", b"\x80"),
        ("tasks", b"\x80"),
        ("jobs", b"\x80"),
    ],
)
def test_a_record_does_not_unfold(field: str, element: bytes) -> None:
    empty = msgspec.structs.replace(
        simple().record, jobs=(), tasks=(), counted=(), uncounted=(), repeated=(), audits=(), faults=(), payouts=()
    )
    data = swollen(encode_record(empty), field, element)
    refused(lambda: decode_record(data))


@pytest.mark.parametrize("field", ["votes", "absent", "copied", "alike"])
def test_an_audit_does_not_unfold(field: str) -> None:
    record: BatchRecord = simple().record
    audit: AuditedSegment = msgspec.structs.replace(record.audits[0], votes=(), absent=(), copied=(), alike=())
    data = swollen(encode_record(msgspec.structs.replace(record, audits=(audit,))), field, b"\xa0")
    refused(lambda: decode_record(data))


def test_a_member_list_does_not_unfold() -> None:
    member = msgspec.structs.replace(simple().record.tasks[0], trace=())
    data = swollen(encode_members([member]), "trace", b"\xa0")
    refused(lambda: decode_members(data))
