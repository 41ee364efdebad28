"""What the Registry says, as frozen records: operators, jobs, batches, claims. Times are Unix seconds."""

from dataclasses import dataclass
from enum import IntEnum

from proofyard.protocol.bls import PublicKey
from proofyard.protocol.settlement import OperatorId
from proofyard.protocol.types import Address, BatchId, Digest, JobId, TaskIndex, Wei


class Role(IntEnum):
    NONE = 0
    NODE = 1
    VERIFIER = 2


_NODE_STAKE = Wei(100 * 10**18)
_VERIFIER_STAKE = Wei(1000 * 10**18)


@dataclass(frozen=True)
class Params:
    """Immutable parameters of a Registry; `IRegistry.Params` describes each. The defaults are those of a devnet."""

    node_stake: Wei = _NODE_STAKE
    verifier_stake: Wei = _VERIFIER_STAKE
    challenge_window: int = 60
    unstake_delay: int = 600
    settle_grace: int = 3600
    takeover_timeout: int = 600
    draw_delay: int = 2
    collusion_bps: int = 1000
    slash_requester_bps: int = 4000
    slash_auditor_bps: int = 3000


@dataclass(frozen=True)
class NodeRecord:
    """An operator. `node` is its hot key, `stake` what its owner has at stake for all of its operators together;
    `active`: listed, and backed by that stake. `workloads` is a bitmap."""

    id: OperatorId
    role: Role
    active: bool
    node: Address
    owner: Address
    stake: Wei
    consecutive_valid: int
    last_fault: int
    workloads: int
    endpoint: str


@dataclass(frozen=True)
class VerifierRecord:
    """An active verifier. `slot` is its bit in a settlement's bitmap of signers."""

    id: OperatorId
    slot: int
    node: Address
    owner: Address
    stake: Wei
    public_key: PublicKey
    endpoint: str


@dataclass(frozen=True)
class Account:
    """An owner's money. `unbonding` can be withdrawn from `release_at` on."""

    stake: Wei
    unbonding: Wei
    release_at: int
    nodes: int
    has_verifier: bool


@dataclass(frozen=True)
class JobTerms:
    """What a job is opened with. `manifest`: sha2-256 digest of the manifest; `deadline`: Unix seconds."""

    manifest: Digest
    task_count: int
    reward: Wei
    audit_fee: Wei
    auditors_per_segment: int
    segments_per_audit: int
    deadline: int


@dataclass(frozen=True)
class JobRecord:
    """A job on chain. `escrow` is what is left; `open_tasks` are committed and not settled; `verifier` 0 for none."""

    id: JobId
    requester: Address
    manifest: Digest
    task_count: int
    reward: Wei
    audit_fee: Wei
    escrow: Wei
    auditors_per_segment: int
    segments_per_audit: int
    deadline: int
    closed: bool
    open_tasks: int
    verifier: OperatorId
    last_active: int
    open_block: int


@dataclass(frozen=True)
class BatchState:
    """A batch on chain. `seed` is zero until it is drawn, `settled_at` 0 until it is settled; `remaining` is settled
    pay that nobody has claimed, `frozen` the stake that its faults hold until the window closes."""

    id: BatchId
    job: JobId
    root: Digest
    size: int
    verifier: OperatorId
    commit_block: int
    attempt: int
    seed: Digest
    payout_root: Digest
    payout_count: int
    remaining: Wei
    settled_at: int
    claimable_at: int
    open_challenges: int
    signers: int
    pool: Wei
    frozen: Wei


@dataclass(frozen=True)
class SlashRecord:
    """What a fault took from an operator's owner, and the reputation it had before."""

    operator: OperatorId
    amount: Wei
    consecutive_valid: int
    last_fault: int
    task: TaskIndex
    reason: int


@dataclass(frozen=True)
class Drawn:
    """A batch's seed and the block whose hash it comes from; plans are computed from the state at that block."""

    seed: Digest
    block: int


@dataclass(frozen=True)
class Totals:
    """Where the Registry's tokens are; `sum` is its token balance."""

    stakes: Wei
    unbonding: Wei
    escrow: Wei
    claimable: Wei
    bonds: Wei
    burned: Wei

    @property
    def sum(self) -> Wei:
        return Wei(self.stakes + self.unbonding + self.escrow + self.claimable + self.bonds + self.burned)
