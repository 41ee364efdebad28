"""What the contracts say, as frozen records: operators, jobs, batches, challenges. Times are Unix seconds."""

from dataclasses import dataclass
from enum import IntEnum
from typing import NewType

from proofyard.protocol.bls import PublicKey
from proofyard.protocol.settlement import OperatorId
from proofyard.protocol.types import Address, BatchId, Digest, JobId, SegmentIndex, TaskIndex, Wei

ChallengeId = NewType("ChallengeId", int)

BPS = 10_000
"""The unit of shares on chain is 1 in 10,000."""
DELAY_MARGIN_S = 60
"""How far `Params` keep the delays above the least that the contracts accept."""


class Role(IntEnum):
    NONE = 0
    NODE = 1
    VERIFIER = 2


_NODE_STAKE = Wei(100 * 10**18)
_VERIFIER_STAKE = Wei(1000 * 10**18)
_SETTLE_PENALTY = Wei(20 * 10**18)
_BOND = Wei(50 * 10**18)
_APPEAL_BOND = Wei(50 * 10**18)
_NOTHING = Wei(0)
_JUROR_FINE = Wei(5 * 10**18)
_RECEIPT_PENALTY = Wei(100 * 10**18)
_LATE_FINE = Wei(5 * 10**18)
_DRAW_REWARD = Wei(1 * 10**18)


@dataclass(frozen=True)
class CourtParams:
    """How challenges go; `ICourt.Params` describes each. The defaults are those of a devnet."""

    bond: Wei = _BOND
    appeal_bond: Wei = _APPEAL_BOND
    juror_fine: Wei = _JUROR_FINE
    receipt_penalty: Wei = _RECEIPT_PENALTY
    late_fine: Wei = _LATE_FINE
    draw_reward: Wei = _DRAW_REWARD
    vote_time: int = 60
    reveal_time: int = 60
    appeal_time: int = 60
    draw_time: int = 300
    answer_time: int = 60
    jury_delay: int = 2
    jury_size: int = 5
    appeal_jury_size: int = 11
    redraws: int = 1
    winner_bps: int = 1000
    requester_bps: int = 500
    jury_bps: int = 3000

    @property
    def longest_dispute(self) -> int:
        """Seconds from a challenge to its end at most, as `ICourt.longestDispute`."""
        a_round = (1 + self.redraws) * (self.draw_time + self.vote_time + self.reveal_time)
        return 2 * a_round + self.appeal_time


_COURT = CourtParams()


@dataclass(frozen=True)
class Params:
    """Immutable parameters of a network; `IRegistry.Params` describes each, `court` those of its Court. The defaults
    are those of a devnet. A `seat_delay` of 0 stands for the shortest that the contracts accept with these windows,
    and a margin; an `unstake_delay` of 0 for one that lasts through one voiding."""

    node_stake: Wei = _NODE_STAKE
    verifier_stake: Wei = _VERIFIER_STAKE
    challenge_window: int = 60
    unstake_delay: int = 0
    settle_time: int = 900
    settle_grace: int = 3600
    receipt_time: int = 600
    takeover_timeout: int = 600
    seat_delay: int = 0
    idle_period: int = 86_400
    draw_delay: int = 2
    collusion_bps: int = 3000
    slash_requester_bps: int = 200
    slash_auditor_bps: int = 600
    slash_redress_bps: int = 2200
    leader_bps: int = 5000
    settle_penalty: Wei = _SETTLE_PENALTY
    exposure_bps: int = BPS
    court: CourtParams = _COURT

    def __post_init__(self) -> None:
        disputed = self.challenge_window + self.court.longest_dispute
        answered = self.receipt_time + self.challenge_window + self.court.answer_time
        if self.unstake_delay == 0:
            # A batch that was voided is settled again, and can be disputed again.
            shortest = max(2 * (self.settle_grace + disputed), answered)
            object.__setattr__(self, "unstake_delay", shortest + DELAY_MARGIN_S)
        if self.seat_delay == 0:
            object.__setattr__(self, "seat_delay", disputed + DELAY_MARGIN_S)

    @property
    def given_back_bps(self) -> int:
        """What of a slashed stake others get, who may be friends of whoever lost it."""
        return self.slash_requester_bps + self.slash_auditor_bps + self.slash_redress_bps

    def exposure(self, budget: Wei) -> int:
        """What a batch with these budgets holds open, in 1/10,000 of `verifier_stake`, rounded up."""
        return -(-budget * BPS // self.verifier_stake)

    def exposure_limit(self, stake: Wei) -> int | None:
        """How much an owner with this stake may have open, in the same unit; None for no bound."""
        return stake * self.exposure_bps // self.verifier_stake if self.exposure_bps else None

    def in_wei(self, exposure: int) -> Wei:
        return Wei(exposure * self.verifier_stake // BPS)

    def bound(self, account: "Account", at: int) -> Wei:
        """What can be neither unstaked nor taken for bonds at a time, as `Stakes.bound`."""
        seat = self.verifier_stake if account.has_verifier or at < account.bound_until else Wei(0)
        return max(seat, self.in_wei(account.exposed))


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
class OperatorState:
    """What the Registry stores of an operator. `last_fault` 0 for never; `forfeits`: whether that fault cost stake, and
    so forfeits pay that was not final then."""

    id: OperatorId
    owner: Address
    last_fault: int
    consecutive_valid: int
    role: Role
    listed: bool
    forfeits: bool
    key: Address
    workloads: int


@dataclass(frozen=True)
class VerifierRecord:
    """A seated verifier. `slot` is its bit in a settlement's bitmap of signers, `counts` whether the seat is part of
    the quorum of batches that are committed now."""

    id: OperatorId
    slot: int
    counts: bool
    node: Address
    owner: Address
    stake: Wei
    public_key: PublicKey
    endpoint: str


@dataclass(frozen=True)
class BenchEntry:
    """An owner's place on a workload's bench; `until` 0 while it holds it."""

    owner: Address
    since: int
    until: int


@dataclass(frozen=True)
class Account:
    """An owner's money. `exposed` is what its verifiers' batches hold open until they are final, in 1/10,000 of
    `verifier_stake` (`Params.exposure`). `unbonding` can be withdrawn from `release_at` on; `verifier_slot` is None
    without a verifier; `frozen` is what faults hold until their windows close; `bound_until` is when `verifier_stake`
    is free after its seat was left."""

    stake: Wei
    unbonding: Wei
    exposed: int
    nodes: int
    verifier_slot: int | None
    frozen: Wei
    release_at: int
    bound_until: int

    @property
    def has_verifier(self) -> bool:
        return self.verifier_slot is not None


@dataclass(frozen=True)
class JobTerms:
    """What a job is opened with. `manifest`: sha2-256 digest of the manifest; `units`: work units of all its tasks;
    `workload`: the workload's bit in the operators' bitmaps; `verifier`: whose the job is from the start, None for who
    takes it. Escrow takes the sum of the three amounts."""

    manifest: Digest
    units: int
    reward: Wei
    audit_fee: Wei
    verifier_fee: Wei
    auditors_per_segment: int
    segments_per_audit: int
    deadline: int
    workload: int = 0
    verifier: OperatorId | None = None

    @property
    def escrow(self) -> Wei:
        return Wei(self.reward + self.audit_fee + self.verifier_fee)


@dataclass(frozen=True)
class Anchor:
    """A block that a transaction rests on: where the chain has another one there, jobs may have other numbers, and the
    Registry refuses it (`AnchorGone`). Best is the block in which the youngest of the jobs was opened."""

    number: int
    hash: Digest


@dataclass(frozen=True)
class JobRecord:
    """A job on chain, and what it was opened with. `closed_at` 0 while it is open, `verifier` and `former` 0 for none.
    `escrow` is what is neither reserved by a batch nor given back, `surplus` what only further batches can use until
    `surplus_from`."""

    id: JobId
    requester: Address
    deadline: int
    closed_at: int
    auditors_per_segment: int
    segments_per_audit: int
    manifest: Digest
    units: int
    units_open: int
    units_paid: int
    verifier: OperatorId
    former: OperatorId
    escrow: Wei
    surplus: Wei
    surplus_from: int
    last_active: int
    reward: Wei
    audit_fee: Wei
    former_until: int
    workload: int
    verifier_fee: Wei
    open_block: int

    @property
    def closed(self) -> bool:
        return self.closed_at != 0

    @property
    def over(self) -> bool:
        """Whether nobody is to work for it any more: it is closed, or paid whole."""
        return self.closed or self.units_paid >= self.units

    @property
    def units_left(self) -> int:
        """Units that can still be committed."""
        return self.units - self.units_open - self.units_paid

    def commits_end(self, receipt_time: int) -> int:
        """Until when batches of the job can be committed, unless all of it is paid before."""
        end = min(self.closed_at, self.deadline) if self.closed else self.deadline
        return end + receipt_time


@dataclass(frozen=True)
class BatchState:
    """A batch on chain. `header` is the hash of what `ChainClient.header` tells in full. `attempt` goes up with each
    voiding and each taking. `seed` is zero until it is drawn, and again once it is settled (`RegistryReader.seed`);
    `exposure` is what it holds open of its leader's owner (`Account.exposed`). `settled_at` is 0 until then, `absent`
    are the seats of its quorum that did not sign; `remaining` is settled pay that nobody has claimed, `frozen` the
    stake that its faults hold until the window closes, `fees` what its verifiers get then; `unfinal`: `finalize` has
    work to do. `committer` is who committed it, once another has taken it over; `was_settled`: a settlement of it was
    voided."""

    id: BatchId
    header: Digest
    exposure: int
    verifier: OperatorId
    commit_block: int
    committed_at: int
    leader_since: int
    opened_at: int
    attempt: int
    quorum: int
    seed: Digest
    remaining: Wei
    settled_at: int
    claimable_at: int
    payout_count: int
    open_challenges: int
    unfinal: bool
    absent: int
    pool: Wei
    audit_units: int
    frozen: Wei
    fees: Wei
    committer: OperatorId
    dropped: bool
    voided: bool
    was_settled: bool


@dataclass(frozen=True)
class SlashRecord:
    """What a fault took from an operator's owner, and what its reputation was before. `forfeits`: whether the fault at
    `last_fault` had cost stake; `absolved`: undone by the Court; `accusers`: whose equal answers carried it; `redress`:
    what of the amount is left, once it is final, for work that it made worthless."""

    operator: OperatorId
    amount: Wei
    consecutive_valid: int
    last_fault: int
    task: TaskIndex
    segment: SegmentIndex
    reason: int
    forfeits: bool
    job: JobId
    absolved: bool
    accusers: tuple[OperatorId, ...]
    redress: Wei = _NOTHING


class Kind(IntEnum):
    """What a challenge is about."""

    NONE = 0
    SEGMENT = 1
    RECORD = 2
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
    """A challenge on chain. `challenger` and `appellant` are owners; `until` ends the voting, the time to appeal, to
    answer or to draw; `entry` is the index of the commitment or fault; `wrong` the last verdict on what is challenged;
    `leaf` the commitment of a receipt, whose deadline `draw_block` holds (Unix seconds); `claimed` the digest that the
    worker committed to as the segment's state afterwards; `bench` how long the workload's bench was when it was
    opened."""

    id: ChallengeId
    challenger: Address
    batch: BatchId
    kind: Kind
    phase: Phase
    round: int
    redraws: int
    accused: OperatorId
    job: JobId
    task: TaskIndex
    segment: SegmentIndex
    entry: int
    opened_at: int
    draw_block: int
    until: int
    votes_wrong: int
    votes_right: int
    wrong: bool
    attempt: int
    appellant: Address
    fines: Wei
    bond: Wei
    subject: Digest
    leaf: Digest
    claimed: Digest
    bench: int
    workload: int


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
