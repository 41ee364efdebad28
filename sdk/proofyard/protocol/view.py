"""What the chain says of a batch, at fixed blocks: the facts that a record is held against.

Everything here follows from events, so that it can be had at any later time from any node of the chain. Addresses of
`operators` are hot keys; whoever an answer or a task is by is found by any key that an operator ever had.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from proofyard.protocol.commitment import Domain
from proofyard.protocol.settlement import BatchRef, Header, OperatorId, header_hash
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, Wei


@dataclass(frozen=True)
class JobFacts:
    """The terms that a job was opened with. `manifest` is the sha2-256 digest in its manifest's CID, `units` are the
    work units of all its tasks, `workload` its bit; `deadline` in Unix seconds."""

    manifest: Digest
    requester: Address
    reward: Wei
    audit_fee: Wei
    verifier_fee: Wei
    units: int
    auditors_per_segment: int
    segments_per_audit: int
    workload: int
    deadline: int


@dataclass(frozen=True)
class OperatorFacts:
    """A node at the draw block, retired ones included. `node` is its hot key then, `stake` what
    `Account.stake` of its owner was; `active`: listed, and that stake backs all of the owner's operators."""

    id: OperatorId
    node: Address
    owner: Address
    consecutive_valid: int
    stake: Wei
    listed: bool
    active: bool


@dataclass(frozen=True)
class Seat:
    """A verifier whose seat counts for the batch: one that may lead it, or sign its settlement."""

    slot: int
    operator: OperatorId
    owner: Address


@dataclass(frozen=True)
class OpenBatch:
    """A batch that was committed, and neither settled nor dropped; a voided one is open again."""

    batch: BatchId
    header: Header


@dataclass(frozen=True, kw_only=True)
class BatchView:
    """One batch as the chain shows it.

    Fixed by the commit: `commit_block`, and `quorum`, the seats of the version of the quorum that the batch remembers,
    each with its holder then. At the draw block, whose time is `drawn_at` (Unix seconds): `operators`, every node ever
    registered until then, in ascending order of id; `owners`, of every hot key that ever was registered until then, its
    operator and that one's owner; `open_batches`, this one among them, in ascending order; `jobs`, those of all batches
    that are named here. At the claim block, which is the draw block, or for a batch that was settled and voided the
    block in which it was taken over since: `claimed_before`, the other batches of its jobs that are open and have lower
    numbers (all of them, if it was voided), ascending; `settled_before`, those that are settled, with their records. A
    task of theirs is not paid again. Of the attempt that is, or was, to be settled: `attempt`, `leader`, and `header`
    with the budgets that are reserved."""

    chain_id: int
    registry: Address
    batch: BatchId
    attempt: int
    leader: OperatorId
    header: Header
    quorum: tuple[Seat, ...]
    commit_block: int
    draw_block: int
    drawn_at: int
    seed: Digest
    jobs: Mapping[JobId, JobFacts]
    operators: tuple[OperatorFacts, ...]
    owners: Mapping[Address, tuple[OperatorId, Address]]
    open_batches: tuple[OpenBatch, ...]
    claimed_before: tuple[OpenBatch, ...]
    settled_before: tuple[tuple[BatchId, Cid], ...]
    collusion_bps: int
    slash_requester_bps: int
    slash_auditor_bps: int
    slash_redress_bps: int

    @property
    def given_back_bps(self) -> int:
        """What of a slashed stake may come back to a cheat, through a requester, auditors or workers that are its
        friends."""
        return self.slash_requester_bps + self.slash_auditor_bps + self.slash_redress_bps

    @cached_property
    def domain(self) -> Domain:
        return Domain(self.chain_id, self.registry)

    @property
    def ref(self) -> BatchRef:
        """What a settlement of the batch is bound to now."""
        return BatchRef(self.batch, self.attempt, header_hash(self.header), self.seed)

    @cached_property
    def by_id(self) -> dict[OperatorId, OperatorFacts]:
        return {operator.id: operator for operator in self.operators}

    def operator_of(self, key: Address) -> OperatorFacts | None:
        """The node that a hot key belongs, or once belonged, to; None if no node ever had it."""
        known = self.owners.get(key)
        return self.by_id.get(known[0]) if known else None
