"""The record of a batch as the chain sees it: payouts, faults, and the digest that the verifiers sign.

Everything here is mirrored by `TypedData.sol` and `Registry.sol`; the golden vectors in `tests/vectors` hold both to
the same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, NewType

from eth_abi.abi import encode as abi_encode

from proofyard.protocol import merkle
from proofyard.protocol.cid import cid_bytes
from proofyard.protocol.commitment import Domain
from proofyard.protocol.keccak import keccak
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, SegmentIndex, TaskIndex, Wei

OperatorId = NewType("OperatorId", int)
"""A node's or verifier's number in the Registry, for life, whatever its hot key; 0 is none."""

EMPTY_ROOT = Digest(bytes(32))
"""The payout or audit root of a batch that has none."""

NOTHING = Wei(0)
MAX_UNITS, MAX_AMOUNT = 2**48 - 1, 2**96 - 1
"""What a line of a batch can hold."""

MAX_FAULTS = 32
"""Faults that the Registry takes in one settlement."""

MAX_ACCUSERS = 32
"""Accusers that a fault names, or k + 1 where that is more; those with the lowest numbers stand for all that agree."""

RESULT = SegmentIndex(2**32 - 1)
"""Stands on chain for the segment of a fault that lies in the task's result."""

REGISTER_TYPE = "Register(address owner,address key)"
VERIFIER_KEY_TYPE = "VerifierKey(address owner,address key,bytes publicKey)"
SETTLEMENT_TYPE = (
    "Settlement(uint256 batch,uint8 attempt,bytes32 header,bytes32 seed,bytes32 payoutRoot,uint32 payoutCount,"
    "uint96 payoutTotal,uint32 auditUnits,bytes faults,bytes shares,bytes32 auditRoot,bytes record)"
)
REGISTER_TYPEHASH, VERIFIER_KEY_TYPEHASH, SETTLEMENT_TYPEHASH = (
    Digest(keccak(each.encode())) for each in (REGISTER_TYPE, VERIFIER_KEY_TYPE, SETTLEMENT_TYPE)
)


class FaultReason(IntEnum):
    """What an operator did wrong: all but `DISAGREED` and `LATE` cost its stake."""

    MISMATCH = 1
    """The audited segment does not lead to the committed state, or a state or result breaks a law of its workload."""
    WITHHELD = 2
    """An audited state or a result was not delivered in time."""
    FALSE_AUDIT = 3
    """An auditor's sealed answer is not that of the segment it was to execute, or not its own."""
    DISAGREED = 4
    """A workload that is not exact: auditors found another state. No pay and no reputation, but no stake is lost."""
    LATE = 5
    """A state that was withheld and that the jury had in time: a fine. Only the Court finds this."""


@dataclass(frozen=True)
class Line:
    """A job's part of a batch: `units` of work were committed, `budget` of its escrow bounds what the batch pays for
    them. `paid_units`, `amount` (operators' pay and verifiers' fee) and `redress` (what faults are to pay at most) are
    what was settled, 0 before."""

    job: JobId
    units: int
    budget: Wei = NOTHING
    paid_units: int = 0
    amount: Wei = NOTHING
    redress: Wei = NOTHING


@dataclass(frozen=True)
class Header:
    """What a batch is; the Registry stores its hash alone. `root` and `size` are those of the commitments' Merkle tree,
    `members` the sha2-256 digest in the CID of the member list, `lines` name each job once. `seed` and `payout_root`
    are those of the settlement, zero where there is none."""

    root: Digest
    size: int
    members: Digest
    lines: tuple[Line, ...]
    seed: Digest = EMPTY_ROOT
    payout_root: Digest = EMPTY_ROOT


@dataclass(frozen=True)
class Share:
    """What a settlement pays of one line, in the order of the header's; the verifiers' fee comes on top. `redress`: the
    sum of the prices that faults are to pay for its work. All of it stays within the line's budget."""

    paid_units: int
    amount: Wei
    redress: Wei = NOTHING


class Cause(NamedTuple):
    """A fault by its number in the settlement of an attempt at a batch."""

    batch: BatchId
    attempt: int
    fault: int


@dataclass(frozen=True)
class Payout:
    """What one operator earns in a batch, one for each operator at most, and one for each task of its that a fault made
    worthless. `valid` raises its reputation when this is claimed; `audits`: segments in which it found a fault with
    others, its share of the pool that the slashes feed. Where there is a `cause`, `amount` is a price that is paid from
    what the fault took, as far as that goes (`redress`); `prices` is that of all such work."""

    operator: OperatorId
    amount: Wei
    valid: int = 0
    audits: int = 0
    cause: Cause | None = None
    prices: Wei = NOTHING


@dataclass(frozen=True)
class Fault:
    """`segment` is `RESULT` where the fault lies in the result; `accusers` the auditors whose equal answers carried it,
    ascending, none where it rests on bytes that everybody can check or on what nobody delivered."""

    operator: OperatorId
    job: JobId
    task: TaskIndex
    segment: SegmentIndex
    reason: FaultReason
    accusers: tuple[OperatorId, ...] = ()


@dataclass(frozen=True)
class BatchRef:
    """The batch as committed and drawn: what a settlement is bound to. `header` is the hash that the Registry stores
    now, `attempt` counts the batch's settlements that a challenge voided."""

    batch: BatchId
    attempt: int
    header: Digest
    seed: Digest


@dataclass(frozen=True)
class Settlement:
    """What the verifiers sign. `record` is the CID of the full record, `audit_root` the Merkle root of its audits."""

    payouts: tuple[Payout, ...]
    faults: tuple[Fault, ...]
    shares: tuple[Share, ...]
    audit_root: Digest
    record: Cid

    @property
    def total(self) -> Wei:
        """What is paid from the escrow of the batch's jobs."""
        return Wei(sum(payout.amount for payout in self.payouts if payout.cause is None))

    @property
    def audit_units(self) -> int:
        return sum(payout.audits for payout in self.payouts)


def header_hash(header: Header) -> Digest:
    """keccak256(abi.encode(root, size, members, hash of the lines' words)) of what was committed: what verifiers sign,
    and what is stored until they have."""
    lines = keccak(b"".join(word.to_bytes(32, "big") for word in line_words(header)))
    kinds = ["bytes32", "uint32", "bytes32", "bytes32"]
    return Digest(keccak(abi_encode(kinds, [header.root, header.size, header.members, lines])))


def line_words(header: Header) -> list[int]:
    """The lines as the contract has them, as `Lines.pack`: budget (96 bits), units (48) and job (64)."""
    return [line_word(line.job, line.units, line.budget) for line in header.lines]


def line_word(job: JobId, units: int, budget: int = 0) -> int:
    return job << 144 | units << 96 | budget


def paid_words(header: Header) -> list[int]:
    """What a settlement paid of each line, as `Lines.packPaid`; none before one."""
    if header.seed == EMPTY_ROOT and header.payout_root == EMPTY_ROOT:
        return []
    return [paid_word(line) for line in header.lines]


def paid_word(paid: "Line | Share") -> int:
    """As `Lines.packPaid`: amount (96 bits), units (48) and redress (96)."""
    return paid.redress << 144 | paid.paid_units << 96 | paid.amount


def lines_of(words: Sequence[int], paid: Sequence[int] = ()) -> tuple[Line, ...]:
    """The lines that these words of the contract's are, and what was paid of them."""
    amounts = paid or [0] * len(words)
    return tuple(
        Line(
            JobId(word >> 144),
            word >> 96 & MAX_UNITS,
            Wei(word & MAX_AMOUNT),
            what >> 96 & MAX_UNITS,
            Wei(what & MAX_AMOUNT),
            Wei(what >> 144),
        )
        for word, what in zip(words, amounts, strict=True)
    )


def bound_hash(header: Header) -> Digest:
    """What a settled batch's header holds besides the root of the payouts: a claim shows it."""
    paid = keccak(b"".join(word.to_bytes(32, "big") for word in paid_words(header)))
    return Digest(merkle.node_hash(header.seed, merkle.node_hash(header_hash(header), paid)))


def stored_hash(header: Header) -> Digest:
    """What the Registry stores of a header, as `Headers.stored`."""
    if header.seed == EMPTY_ROOT and header.payout_root == EMPTY_ROOT:
        return header_hash(header)
    return Digest(merkle.node_hash(header.payout_root, bound_hash(header)))


def payout_leaf(batch: BatchId, index: int, payout: Payout) -> bytes:
    """abi.encode(batch, index, operator, amount, valid, audits, cause)."""
    return abi_encode(
        ["uint256", "uint32", "uint32", "uint96", "uint32", "uint32", "uint256"],
        [batch, index, payout.operator, payout.amount, payout.valid, payout.audits, cause_word(payout)],
    )


def cause_word(payout: Payout) -> int:
    """As `Causes.pack`: prices (96 bits), fault (8), attempt (8) and batch (64); 0 for what the batch itself pays."""
    if payout.cause is None:
        return 0
    batch, attempt, fault = payout.cause
    return batch << 112 | attempt << 104 | fault << 96 | payout.prices


def payout_leaves(batch: BatchId, payouts: Sequence[Payout]) -> list[bytes]:
    return [payout_leaf(batch, index, payout) for index, payout in enumerate(payouts)]


def payout_root(batch: BatchId, payouts: Sequence[Payout]) -> Digest:
    return merkle.root(payout_leaves(batch, payouts)) if payouts else EMPTY_ROOT


def payout_proof(batch: BatchId, payouts: Sequence[Payout], index: int) -> list[Digest]:
    return merkle.proof(payout_leaves(batch, payouts), index)


def encode_faults(faults: Sequence[Fault]) -> bytes:
    """abi.encode(Fault[])."""
    rows = [(f.operator, f.job, f.task, f.segment, int(f.reason), list(f.accusers)) for f in faults]
    return abi_encode(["(uint32,uint64,uint32,uint32,uint8,uint32[])[]"], [rows])


def encode_shares(shares: Sequence[Share]) -> bytes:
    """Their words, one after the other."""
    return b"".join(word.to_bytes(32, "big") for word in share_words(shares))


def share_words(shares: Sequence[Share]) -> list[int]:
    return [paid_word(share) for share in shares]


def draw_seed(block_hash: bytes, batch: BatchId, header: Digest) -> Digest:
    """The seed of a batch's audits: keccak256(abi.encode(hash of the draw block, batch, header hash at the commit))."""
    return Digest(keccak(abi_encode(["bytes32", "uint256", "bytes32"], [block_hash, batch, header])))


def settlement_digest(domain: Domain, ref: BatchRef, settlement: Settlement) -> Digest:
    """The 32 bytes that each verifier signs with its BLS key."""
    values = [
        SETTLEMENT_TYPEHASH,
        ref.batch,
        ref.attempt,
        ref.header,
        ref.seed,
        payout_root(ref.batch, settlement.payouts),
        len(settlement.payouts),
        settlement.total,
        settlement.audit_units,
        keccak(encode_faults(settlement.faults)),
        keccak(encode_shares(settlement.shares)),
        settlement.audit_root,
        keccak(cid_bytes(settlement.record)),
    ]
    kinds = ["bytes32", "uint256", "uint8", "bytes32", "bytes32", "bytes32", "uint32", "uint96", "uint32"]
    return domain.typed_digest(keccak(abi_encode([*kinds, *["bytes32"] * 4], values)))


def consent_digest(domain: Domain, owner: Address, key: Address) -> Digest:
    """What a hot key signs so that `owner`, and nobody else, can register it."""
    struct = abi_encode(["bytes32", "address", "address"], [REGISTER_TYPEHASH, owner, key])
    return domain.typed_digest(keccak(struct))


def possession_digest(domain: Domain, owner: Address, key: Address, public_key: bytes) -> Digest:
    """What a verifier's BLS key signs, under the tag of proofs of possession, to be registered by `owner`.
    `public_key` is the 128 bytes of EIP-2537."""
    values = [VERIFIER_KEY_TYPEHASH, owner, key, keccak(public_key)]
    return domain.typed_digest(keccak(abi_encode(["bytes32", "address", "address", "bytes32"], values)))
