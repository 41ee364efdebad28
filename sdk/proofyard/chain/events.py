"""The events of Registry and Court, one frozen record each, with the names of `IRegistry.sol` and `ICourt.sol` in snake
case."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, cast

from eth_utils.abi import event_abi_to_log_topic
from web3 import Web3
from web3.exceptions import LogTopicError

from proofyard.chain.abi import contract, snake
from proofyard.chain.codec import codec
from proofyard.chain.records import ChallengeId
from proofyard.protocol.cid import CidError, cid_from_bytes, raw_cid
from proofyard.protocol.settlement import Line, OperatorId, lines_of
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, SegmentIndex, TaskIndex, Wei


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
    """Registered, or listed again after it had retired."""

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
class StakeChanged(Event):
    """What an owner's stake and unbonding are from now on."""

    owner: Address
    stake: Wei
    unbonding: Wei


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
class QuorumChanged(Event):
    """A new version of the quorum: `seats` is the bitmap of the slots that count for batches committed from now on."""

    version: int
    seats: int


@dataclass(frozen=True)
class JobOpened(Event):
    job: JobId
    requester: Address
    manifest: Digest
    reward: Wei
    audit_fee: Wei
    verifier_fee: Wei
    units: int
    deadline: int
    auditors_per_segment: int
    segments_per_audit: int
    workload: int


@dataclass(frozen=True)
class JobTaken(Event):
    job: JobId
    verifier: OperatorId


@dataclass(frozen=True)
class JobToppedUp(Event):
    job: JobId
    amount: Wei


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
    """`members` is the sha2-256 digest in the CID of the member list, `quorum` the version that decides on the
    batch."""

    batch: BatchId
    verifier: OperatorId
    root: Digest
    size: int
    members: Digest
    lines: tuple[Line, ...]
    quorum: int


@dataclass(frozen=True)
class JobCommitted(Event):
    """A job has a line in the batch, which `BatchCommitted` of the same transaction says."""

    job: JobId
    batch: BatchId


@dataclass(frozen=True)
class BatchRecommitted(Event):
    batch: BatchId
    commit_block: int


@dataclass(frozen=True)
class BatchDrawn(Event):
    batch: BatchId
    seed: Digest


@dataclass(frozen=True)
class BatchTaken(Event):
    """`verifier` leads the batch instead of `before`, in a new attempt; `lines` and the version of the `quorum` are
    those from now on."""

    batch: BatchId
    verifier: OperatorId
    before: OperatorId
    lines: tuple[Line, ...]
    quorum: int
    attempt: int


@dataclass(frozen=True)
class BatchDropped(Event):
    batch: BatchId


@dataclass(frozen=True)
class BatchSettled(Event):
    """`record` is the CID of the batch's record, `signers` the bitmap of the slots that signed."""

    batch: BatchId
    attempt: int
    payout_root: Digest
    payout_count: int
    payout_total: Wei
    fees: Wei
    audit_root: Digest
    record: Cid
    signers: int
    claimable_at: int
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Faulted(Event):
    """`slashed` is frozen until the batch's window closes."""

    batch: BatchId
    operator: OperatorId
    job: JobId
    task: TaskIndex
    segment: SegmentIndex
    reason: int
    slashed: Wei


@dataclass(frozen=True)
class Absolved(Event):
    """A fault was undone; `consecutive_valid` is what the operator has again."""

    batch: BatchId
    operator: OperatorId
    returned: Wei
    consecutive_valid: int


@dataclass(frozen=True)
class SlashFinal(Event):
    batch: BatchId
    to_requesters: Wei
    to_auditors: Wei
    to_redress: Wei
    burned: Wei


@dataclass(frozen=True)
class FeesPaid(Event):
    batch: BatchId
    amount: Wei
    signers: int


@dataclass(frozen=True)
class BatchVoided(Event):
    """A challenge found the settlement wrong, or no jury could decide; the batch can be settled again."""

    batch: BatchId
    attempt: int


@dataclass(frozen=True)
class Penalised(Event):
    """A leader paid for a batch that it did not settle or draw in time."""

    operator: OperatorId
    batch: BatchId
    amount: Wei


@dataclass(frozen=True)
class Claimed(Event):
    """`consecutive_valid` is the operator's reputation afterwards."""

    batch: BatchId
    operator: OperatorId
    owner: Address
    amount: Wei
    consecutive_valid: int


@dataclass(frozen=True)
class Forfeited(Event):
    batch: BatchId
    operator: OperatorId
    amount: Wei


@dataclass(frozen=True)
class ChallengeSealed(Event):
    challenger: Address
    seal: Digest


@dataclass(frozen=True)
class ChallengeOpened(Event):
    challenge: ChallengeId
    batch: BatchId
    accused: OperatorId
    kind: int
    job: JobId
    task: TaskIndex
    segment: SegmentIndex
    entry: int
    challenger: Address


@dataclass(frozen=True)
class JuryDrawn(Event):
    """`jurors` are owners."""

    challenge: ChallengeId
    round: int
    jurors: tuple[Address, ...]
    vote_ends: int
    reveal_ends: int


@dataclass(frozen=True)
class JuryRedrawn(Event):
    challenge: ChallengeId
    draw_block: int


@dataclass(frozen=True)
class VoteCommitted(Event):
    """`operator` is the node whose hot key sealed the vote of its owner, the `juror`."""

    challenge: ChallengeId
    juror: Address
    operator: OperatorId


@dataclass(frozen=True)
class VoteRevealed(Event):
    challenge: ChallengeId
    juror: Address
    wrong: bool
    evidence: Digest
    keyed: Digest


@dataclass(frozen=True)
class JurorFined(Event):
    challenge: ChallengeId
    juror: Address
    amount: Wei


@dataclass(frozen=True)
class Verdict(Event):
    challenge: ChallengeId
    round: int
    wrong: bool
    votes_wrong: int
    votes_right: int


@dataclass(frozen=True)
class Appealed(Event):
    challenge: ChallengeId
    appellant: Address
    draw_block: int


@dataclass(frozen=True)
class ChallengeClosed(Event):
    """`phase` is upheld, rejected or dismissed; the amounts are what became of the losers' money."""

    challenge: ChallengeId
    phase: int
    to_winner: Wei
    to_requester: Wei
    to_jury: Wei
    burned: Wei


@dataclass(frozen=True)
class Equivocated(Event):
    """A verifier signed two settlements of one attempt at a batch."""

    batch: BatchId
    verifier: OperatorId
    slashed: Wei


def topic_of(kind: type[Event]) -> str:
    """The first topic of an event's logs."""
    return next("0x" + topic.hex() for topic, shape in _EVENTS.items() if shape.kind is kind)


def word(number: int) -> str:
    """A number as a topic."""
    return "0x" + number.to_bytes(32, "big").hex()


@dataclass(frozen=True)
class _Shape:
    """How the logs of an event are read: names and types of what is in the topics, then of what is in the data."""

    kind: type[Event]
    names: tuple[str, ...]
    topics: tuple[str, ...]
    data: tuple[str, ...]


def decode_logs(logs: Sequence[Mapping[str, Any]]) -> list[Event]:
    """The events of Registry and Court among `logs`, as JSON-RPC has them or as web3 makes them; others are passed
    over."""
    events: list[Event] = []
    for log in logs:
        topics = [_bytes(topic) for topic in log["topics"]]
        shape = _EVENTS.get(topics[0]) if topics else None
        if shape is not None:
            position = Position(_number(log["blockNumber"]), Digest(_bytes(log["blockHash"])), _number(log["logIndex"]))
            values = _values(shape, topics[1:], _bytes(log["data"]))
            if "lines" in values:
                values["lines"] = lines_of(values["lines"], values.pop("paid", ()))
            events.append(shape.kind(position=position, **values))
    return events


def _values(shape: _Shape, topics: Sequence[bytes], data: bytes) -> dict[str, Any]:
    if len(topics) != len(shape.topics):
        raise LogTopicError(f"{shape.kind.__name__} has {len(shape.topics)} topics, and a log of it {len(topics)}")
    found = [*codec().decode(shape.topics, b"".join(topics)), *codec().decode(shape.data, data)]
    return {
        name: _convert(name, form, value)
        for name, form, value in zip(shape.names, shape.topics + shape.data, found, strict=True)
    }


def _bytes(value: bytes | str) -> bytes:
    return bytes.fromhex(value[2:]) if isinstance(value, str) else bytes(value)


def _number(value: int | str) -> int:
    return int(value, 16) if isinstance(value, str) else value


@lru_cache(4096)
def _checksummed(address: str) -> Address:
    return Address(Web3.to_checksum_address(address))


def _convert(name: str, form: str, value: Any) -> Any:
    if name == "record":
        return record_cid(value)
    if form == "address":
        return _checksummed(value)
    if form == "address[]":
        return tuple(map(_checksummed, value))
    return tuple(value) if isinstance(value, list) else value


def record_cid(value: bytes) -> Cid:
    """The record that a settlement names. The contract counts its bytes and no more: where they are no CID, it is that
    of an artifact which these bytes are, so that nobody can show a record, and the settlement is challenged like any
    other whose record cannot be read."""
    try:
        return cid_from_bytes(value)
    except CidError:
        return raw_cid(value)


def _event_table() -> dict[bytes, _Shape]:
    kinds = {kind.__name__: kind for kind in Event.__subclasses__()}
    table = {}
    for entry in [*contract("Registry").abi, *contract("Court").abi]:
        if entry["type"] == "event":
            kind = kinds[entry["name"]]
            # What was paid of the lines is part of them here.
            expected = [snake(item["name"]) for item in entry["inputs"] if item["name"] != "paid"]
            if expected != [field.name for field in fields(kind)[1:]]:
                raise TypeError(f"{kind.__name__} does not have the fields of its Solidity event: {expected}")
            inputs = [item for indexed in (True, False) for item in entry["inputs"] if item["indexed"] is indexed]
            topics, data = (tuple(i["type"] for i in inputs if i["indexed"] is where) for where in (True, False))
            names = tuple(snake(item["name"]) for item in inputs)
            table[event_abi_to_log_topic(cast(Any, entry))] = _Shape(kind, names, topics, data)
    return table


_EVENTS = _event_table()
