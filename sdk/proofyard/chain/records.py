"""What the Registry says, as frozen records: operators, jobs, batches, claims. Times are Unix seconds."""

from dataclasses import dataclass
from enum import IntEnum
from typing import NewType

from proofyard.protocol.bls import PublicKey
from proofyard.protocol.settlement import OperatorId
from proofyard.protocol.types import Address, BatchId, Digest, JobId, SegmentIndex, TaskIndex, Wei

ChallengeId = NewType("ChallengeId", int)


class Role(IntEnum):
    NONE = 0
    NODE = 1
    VERIFIER = 2


_NODE_STAKE = Wei(100 * 10**18)
_VERIFIER_STAKE = Wei(1000 * 10**18)
_BOND = Wei(50 * 10**18)
_APPEAL_BOND = Wei(150 * 10**18)
_JUROR_FINE = Wei(5 * 10**18)
_RECEIPT_PENALTY = Wei(100 * 10**18)


@dataclass(frozen=True)
class CourtParams:
    """How challenges go; `IRegistry.CourtParams` describes each. `quarantine` is set by the Registry."""

    bond: Wei = _BOND
    appeal_bond: Wei = _APPEAL_BOND
    vote_time: int = 60
    reveal_time: int = 60
    juror_fine: Wei = _JUROR_FINE
    receipt_penalty: Wei = _RECEIPT_PENALTY
    appeal_time: int = 60
    round_expiry: int = 600
    answer_time: int = 60
    jury_delay: int = 2
    jury_size: int = 5
    appeal_jury_size: int = 11
    winner_bps: int = 4000
    requester_bps: int = 1000
    jury_bps: int = 3000
    quarantine: int = 0


_COURT = CourtParams()


@dataclass(frozen=True)
class Params:
    """Immutable parameters of a Registry; `IRegistry.Params` describes each. The defaults are those of a devnet."""

    node_stake: Wei = _NODE_STAKE
    verifier_stake: Wei = _VERIFIER_STAKE
    challenge_window: int = 60
    unstake_delay: int = 2400
    settle_grace: int = 3600
    takeover_timeout: int = 600
    draw_delay: int = 2
    collusion_bps: int = 1000
    slash_requester_bps: int = 4000
    slash_auditor_bps: int = 3000
    court: CourtParams = _COURT


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
    """What a job is opened with. `manifest`: sha2-256 digest of the manifest; `deadline`: Unix seconds; `workload`: the
    workload's bit in the operators' bitmaps."""

    manifest: Digest
    task_count: int
    reward: Wei
    audit_fee: Wei
    auditors_per_segment: int
    segments_per_audit: int
    deadline: int
    workload: int = 0


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
    workload: int


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
    committed_at: int
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
    """What a fault took from an operator's owner, and what its reputation was before. `forfeits`: whether the fault at
    `last_fault` had cost stake, and so forfeits pay that was not final then."""

    operator: OperatorId
    amount: Wei
    consecutive_valid: int
    last_fault: int
    task: TaskIndex
    segment: SegmentIndex
    reason: int
    forfeits: bool = False


class Kind(IntEnum):
    """What a challenge is about."""

    NONE = 0
    SEGMENT = 1
    PAYOUT = 2
    FAULT = 3
    RECEIPT = 4


class Phase(IntEnum):
    NONE = 0
    DRAW = 1
    VOTE = 2
    VERDICT = 3
    ANSWER = 4
    UPHELD = 5
    REJECTED = 6
    DISMISSED = 7


@dataclass(frozen=True)
class ChallengeRecord:
    """A challenge on chain. `until` ends the voting, the time to appeal or the time to answer; `entry` is the index of
    the payout or fault; `wrong` the last verdict on what is challenged; `leaf` the commitment of a receipt."""

    id: ChallengeId
    kind: Kind
    phase: Phase
    challenger: Address
    appellant: Address
    batch: BatchId
    round: int
    accused: OperatorId
    task: TaskIndex
    segment: SegmentIndex
    entry: int
    draw_block: int
    until: int
    expires_at: int
    votes_wrong: int
    votes_right: int
    wrong: bool
    attempt: int
    bond: Wei
    leaf: Digest


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
