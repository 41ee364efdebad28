"""The Registry's events, typed, read in bounded ranges with a cursor that survives a reorganisation.

A cursor is a few recent (block, hash) checkpoints. Where the chain no longer has the newest one, reading goes back to
the newest that it still has and says so with a `Rollback`; what lay behind it is read again. Applying an event twice
must therefore change nothing, which `position` makes easy.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

from eth_utils.abi import event_abi_to_log_topic
from web3 import Web3
from web3._utils.events import get_event_data
from web3.types import LogReceipt

from proofyard.chain.abi import contract
from proofyard.chain.rpc import mapped_errors
from proofyard.protocol.cid import cid_from_bytes
from proofyard.protocol.settlement import OperatorId
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, SegmentIndex, TaskIndex, Wei

MAX_RANGE = 2000
"""Blocks asked for at once; public endpoints refuse more."""
KEPT_CHECKPOINTS = 64


@dataclass(frozen=True)
class Position:
    """Where an event happened: block number and hash, and its index among the block's logs."""

    block: int
    block_hash: Digest
    index: int


@dataclass(frozen=True)
class Event:
    position: Position


@dataclass(frozen=True)
class OperatorRegistered(Event):
    operator: OperatorId
    owner: Address
    role: int
    key: Address
    workloads: int
    endpoint: str


@dataclass(frozen=True)
class VerifierKey(Event):
    operator: OperatorId
    slot: int
    public_key: bytes


@dataclass(frozen=True)
class OperatorRetired(Event):
    operator: OperatorId


@dataclass(frozen=True)
class KeyRotated(Event):
    operator: OperatorId
    key: Address


@dataclass(frozen=True)
class EndpointSet(Event):
    operator: OperatorId
    endpoint: str


@dataclass(frozen=True)
class StakeAdded(Event):
    owner: Address
    amount: Wei


@dataclass(frozen=True)
class UnstakeRequested(Event):
    owner: Address
    amount: Wei
    release_at: int


@dataclass(frozen=True)
class Withdrawn(Event):
    owner: Address
    amount: Wei


@dataclass(frozen=True)
class JobOpened(Event):
    job: JobId
    requester: Address
    manifest: Digest
    task_count: int
    reward: Wei
    audit_fee: Wei
    auditors_per_segment: int
    segments_per_audit: int
    deadline: int


@dataclass(frozen=True)
class JobTaken(Event):
    job: JobId
    verifier: OperatorId


@dataclass(frozen=True)
class JobToppedUp(Event):
    job: JobId
    reward: Wei
    audit_fee: Wei


@dataclass(frozen=True)
class JobClosed(Event):
    job: JobId


@dataclass(frozen=True)
class JobRefunded(Event):
    job: JobId
    requester: Address
    amount: Wei


@dataclass(frozen=True)
class BatchCommitted(Event):
    batch: BatchId
    job: JobId
    verifier: OperatorId
    root: Digest
    size: int


@dataclass(frozen=True)
class BatchRecommitted(Event):
    batch: BatchId
    commit_block: int


@dataclass(frozen=True)
class BatchDrawn(Event):
    batch: BatchId
    seed: Digest


@dataclass(frozen=True)
class BatchSettled(Event):
    batch: BatchId
    job: JobId
    payout_root: Digest
    payout_count: int
    payout_total: Wei
    audit_root: Digest
    record: Cid
    signers: int
    claimable_at: int


@dataclass(frozen=True)
class Faulted(Event):
    """`slashed` is frozen until the batch's window closes."""

    batch: BatchId
    operator: OperatorId
    task: TaskIndex
    segment: SegmentIndex
    reason: int
    slashed: Wei


@dataclass(frozen=True)
class SlashFinal(Event):
    batch: BatchId
    to_requester: Wei
    to_auditors: Wei
    burned: Wei


@dataclass(frozen=True)
class Claimed(Event):
    batch: BatchId
    operator: OperatorId
    owner: Address
    amount: Wei


@dataclass(frozen=True)
class Forfeited(Event):
    batch: BatchId
    operator: OperatorId
    amount: Wei


@dataclass(frozen=True)
class Rollback:
    """Everything behind block `to_block` that was read before is undone; what follows is read again."""

    to_block: int


@dataclass(frozen=True)
class Checkpoint:
    block: int
    block_hash: Digest


@dataclass(frozen=True)
class Cursor:
    """How far the events were read: `next_block` is the first one not yet read."""

    next_block: int = 0
    checkpoints: tuple[Checkpoint, ...] = ()


class EventReader:
    """Reads one Registry's events. Holds no state: store the cursor together with what the events changed."""

    def __init__(self, w3: Web3, rpc_url: str, registry: Address) -> None:
        self._w3 = w3
        self._rpc_url = rpc_url
        self._registry = registry

    def read(self, cursor: Cursor, *, confirmations: int = 0) -> tuple[list[Event | Rollback], Cursor]:
        """The next events, from at most `MAX_RANGE` blocks, and the cursor behind them; the same cursor when there is
        nothing new. Blocks younger than `confirmations` are left for later."""
        with mapped_errors(self._rpc_url):
            kept = list(cursor.checkpoints)
            while kept and self._hash(kept[-1].block) != kept[-1].block_hash:
                kept.pop()
            found: list[Event | Rollback] = []
            next_block = cursor.next_block
            if len(kept) < len(cursor.checkpoints):
                next_block = kept[-1].block + 1 if kept else 0
                found.append(Rollback(next_block - 1))
            last = min(self._w3.eth.block_number - confirmations, next_block + MAX_RANGE - 1)
            if last >= next_block:
                before = self._hash(last)
                found += self.between(next_block, last)
                if before is None or self._hash(last) != before:
                    return [], cursor  # it changed while reading: the next call starts over
                kept.append(Checkpoint(last, before))
                next_block = last + 1
        return found, Cursor(next_block, tuple(kept[-KEPT_CHECKPOINTS:]))

    def between(self, first: int, last: int, topics: Sequence[str | None] = ()) -> list[Event]:
        """The events of blocks `first` to `last`, both included, at most `MAX_RANGE` of them."""
        logs = self._w3.eth.get_logs(
            {
                "address": Web3.to_checksum_address(self._registry),
                "fromBlock": first,
                "toBlock": last,
                "topics": cast(Any, list(topics)),
            }
        )
        return decode_logs(logs)

    def _hash(self, number: int) -> Digest | None:
        if number > self._w3.eth.block_number:
            return None
        return Digest(bytes(self._w3.eth.get_block(number)["hash"]))


def topic_of(kind: type[Event]) -> str:
    """The first topic of an event's logs."""
    return next("0x" + topic.hex() for topic, (known, _) in _EVENTS.items() if known is kind)


def decode_logs(logs: Sequence[LogReceipt]) -> list[Event]:
    """The Registry's events among `logs`; others are passed over."""
    events: list[Event] = []
    for log in logs:
        known = _EVENTS.get(bytes(log["topics"][0])) if log["topics"] else None
        if known is not None:
            kind, abi = known
            arguments = get_event_data(_CODEC, abi, log)["args"]
            position = Position(log["blockNumber"], Digest(bytes(log["blockHash"])), log["logIndex"])
            values = {_snake(name): _convert(name, value) for name, value in arguments.items()}
            events.append(kind(position=position, **values))
    return events


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()


def _convert(name: str, value: Any) -> Any:
    return cid_from_bytes(value) if name == "record" else value


def _event_table() -> dict[bytes, tuple[type[Event], Any]]:
    kinds = {kind.__name__: kind for kind in Event.__subclasses__()}
    table = {}
    for entry in contract("Registry").abi:
        if entry["type"] == "event":
            kind = kinds[entry["name"]]
            expected = [_snake(item["name"]) for item in entry["inputs"]]
            if expected != [field.name for field in fields(kind)[1:]]:
                raise TypeError(f"{kind.__name__} does not have the fields of its Solidity event: {expected}")
            table[event_abi_to_log_topic(cast(Any, entry))] = (kind, entry)
    return table


_CODEC = Web3().codec
_EVENTS = _event_table()
