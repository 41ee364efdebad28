"""Whatever is changed in an honest record: it is refused, or nothing comes of it."""

from dataclasses import is_dataclass, replace
from enum import Enum
from random import Random
from typing import Any

import msgspec
import pytest
from drawn import worlds
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from worlds import World

from proofyard.protocol.cid import raw_cid
from proofyard.protocol.codec import CodecError
from proofyard.protocol.record import BatchRecord, RecordedFault, decode_record, encode_record
from proofyard.protocol.settlement import FaultReason, Settlement
from proofyard.protocol.settling import settlement_of
from proofyard.protocol.validate import RecordInvalid

pytestmark = pytest.mark.usefixtures("known_signatures")

Path = tuple[str | int, ...]


def places(value: Any, path: Path = ()) -> list[Path]:
    """Every value inside of a record."""
    found = [path] if path else []
    if isinstance(value, tuple):
        return found + [place for i, item in enumerate(value) for place in places(item, (*path, i))]
    if isinstance(value, msgspec.Struct) or is_dataclass(value):
        names = value.__struct_fields__ if isinstance(value, msgspec.Struct) else value.__dataclass_fields__
        return found + [place for name in names for place in places(getattr(value, name), (*path, name))]
    return found


def interesting(record: BatchRecord) -> list[Path]:
    """Places by depth, so that the many votes and traces do not hide the rest: each kind of path as often as the
    others."""
    kinds: dict[Path, list[Path]] = {}
    for place in places(record):
        kinds.setdefault(tuple(part if isinstance(part, str) else 0 for part in place), []).append(place)
    return [found[i % len(found)] for found in kinds.values() for i in range(8)]


def at(value: Any, path: Path) -> Any:
    for part in path:
        value = value[part] if isinstance(part, int) else getattr(value, part)
    return value


def put(value: Any, path: Path, new: Any) -> Any:
    if not path:
        return new
    part, rest = path[0], path[1:]
    if isinstance(part, int):
        return (*value[:part], put(value[part], rest, new), *value[part + 1 :])
    inner = put(getattr(value, part), rest, new)
    return (
        msgspec.structs.replace(value, **{part: inner})
        if isinstance(value, msgspec.Struct)
        else replace(value, **{part: inner})
    )


def tampered(rng: Random, record: BatchRecord, everywhere: list[Path]) -> BatchRecord:
    """The record with one value changed, taken from elsewhere in it, left out, doubled or moved."""
    place = rng.choice(everywhere)
    old = at(record, place)
    others = [at(record, rng.choice(everywhere)) for _ in range(30)]
    choices: list[Any] = [value for value in others if type(value) is type(old) and value != old][:2]
    if isinstance(old, tuple) and old:
        i = rng.randrange(len(old))
        choices += [(*old[:i], *old[i + 1 :]), (*old, old[i]), tuple(reversed(old)), (), old[:1]]
    elif isinstance(old, Enum):
        choices += list(type(old))
    elif isinstance(old, int):
        choices += [old + 1, max(0, old - 1), 0]
    elif isinstance(old, bytes) and old:
        i = rng.randrange(len(old))
        choices += [old[:i] + bytes((old[i] ^ 1,)) + old[i + 1 :]]
    elif isinstance(old, str):
        choices += ["", "0", "1", old + "0"]
    new = rng.choice(choices) if choices else old
    note(f"{place}: {old!r} -> {new!r}"[:600])
    found: BatchRecord = put(record, place, new)
    return found


def unseen(record: BatchRecord) -> set[object]:
    """The faults that rest on no votes, which everybody looks for with the bytes, or by asking for them; the same goes
    for marks that are not opened."""
    faults = [fault for fault in record.faults if fault.kind != FaultReason.FALSE_AUDIT]
    return {fault.place for fault in faults if not voted(record, fault)} | set(record.unopened)


def voted(record: BatchRecord, fault: RecordedFault) -> bool:
    return any(audit.votes for audit in record.audits if audit.key == (*fault.task_key, fault.segment))


def outcome(world: World, record: BatchRecord) -> tuple[object, ...]:
    """What a record does: everything on chain but its name and the root of its evidence."""
    settlement: Settlement = settlement_of(record, world.view, raw_cid(b"record"))
    return settlement.payouts, settlement.faults, settlement.shares, record.tasks


@given(worlds(), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_a_changed_value_is_refused_or_changes_nothing(world: World, seed: int) -> None:
    rng, everywhere = Random(seed), interesting(world.record)
    for _ in range(10):
        record = tampered(rng, world.record, everywhere)
        if record == world.record:
            continue
        try:
            record = decode_record(encode_record(record))
            world.check(record)
        except (RecordInvalid, CodecError):
            continue
        if unseen(record) != unseen(world.record):
            continue
        assert outcome(world, record) == outcome(world, world.record)


@given(worlds(), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_changed_values_with_the_payouts_that_follow_are_refused_or_change_nothing(world: World, seed: int) -> None:
    """As a leader would do it, who makes the rest fit."""
    rng, everywhere = Random(seed), interesting(world.record)
    for _ in range(10):
        record = world.record
        for _ in range(rng.randint(1, 3)):
            record = tampered(rng, record, everywhere if record is world.record else interesting(record))
        try:
            record = decode_record(encode_record(record))
            record = msgspec.structs.replace(record, faults=tuple(sorted(record.faults, key=lambda f: f.place)))
            record = world.paying(record)
        except (ArithmeticError, CodecError, KeyError, IndexError, ValueError, AssertionError, TypeError):
            continue
        try:
            world.check(record)
        except RecordInvalid:
            continue
        if unseen(record) != unseen(world.record):
            continue
        assert outcome(world, record) == outcome(world, world.record)
