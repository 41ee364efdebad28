// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

type OperatorId is uint32;

type JobId is uint256;

type BatchId is uint256;

type ChallengeId is uint256;

/// @title IRegistry
/// @notice Stakes, escrow, batches, settlement by quorum and payouts of the Proofyard network.
///
/// An *owner* is an address that holds stake and is paid. An *operator* is a hot key under an owner: a node, or a
/// verifier that also has a BLS12-381 key. An operator has one id for life, whatever its key.
///
/// What each role is trusted for, plainly:
/// - One verifier alone can schedule badly, and hold up a job until the takeover timeout, which costs it no more than the
///   fees of work that it does not commit. It can hold up a batch until it is overdue, at `settlePenalty`, and what it
///   commits until it is dropped, at as much as the batch's budget. It cannot pay, accuse or take anything: that takes
///   signatures of two thirds of the seats.
/// - Two thirds of the seats can settle a batch with any record. Within the window anybody with a bond can have a jury
///   look: a record that does not validate is voided and costs all who signed it their stake. A wrong settlement that
///   nobody challenges in its window stands.
/// - A majority of a drawn jury, and of a larger one on appeal, decides what is right. Jurors are drawn from the owners
///   that were listed for the workload when the challenge was opened; whoever owns most of them owns the court.
/// - A requester can close its job, not take back what is committed. A node is trusted for nothing.
/// - A block proposer can discard a block, at the price of its reward, to change a draw.
///
/// Other limits: verifiers are counted, not weighted. Tokens that take fees on transfer are refused; tokens that rebase
/// must not be used. Inputs and results are readable by whoever has their CID. A node restored by a successful challenge
/// gets back its stake and reputation, not the work it missed.
interface IRegistry {
    enum Role {
        None,
        Node,
        Verifier
    }

    /// @notice Immutable parameters of one Registry. Times in seconds, shares in 1/10,000.
    struct Params {
        /// Stake that an owner needs for each of its nodes, and for its verifier.
        uint96 nodeStake;
        uint96 verifierStake;
        /// How long a settled batch can be challenged; its payouts are claimable afterwards.
        uint40 challengeWindow;
        /// From a request to unstake to its withdrawal; longer than settleGrace and the longest dispute together.
        uint40 unstakeDelay;
        /// How long a batch's leader has to settle it; afterwards another verifier may take it over, and the leader pays.
        uint40 settleTime;
        /// How long after its commit (or its voiding) a batch that nobody settled is dropped, and its budget released.
        uint40 settleGrace;
        /// How long after a job's end (its deadline, or its closing) batches of it can still be committed. A receipt falls
        /// due within this time of its signature.
        uint40 receiptTime;
        /// Time without a commit after which any verifier may take over a job.
        uint40 takeoverTimeout;
        /// From a verifier's registration until its seat counts; longer than the window and the longest dispute. Seats
        /// taken before the first batch of all count at once.
        uint40 seatDelay;
        /// A seat that signed nothing, and did not attend, in the period before this one may be taken away.
        uint40 idlePeriod;
        /// Blocks from a commitment to the block whose hash seeds its audits.
        uint16 drawDelay;
        /// Share of auditors assumed to collude (r of the audit dial).
        uint16 collusionBps;
        /// What a node slashed at settlement pays to the requester and to the batch's auditors, of at most `nodeStake` a
        /// fault that has accusers, so that a false one is no prize; the rest is burned.
        uint16 slashRequesterBps;
        uint16 slashAuditorBps;
        /// What of the same is set aside for work that rested on the faulty task and is thrown away (`Claim.cause`). What of
        /// it nobody claims stays there.
        uint16 slashRedressBps;
        /// The leader's part of a batch's verifier fee; the rest is shared by all signers, the leader among them.
        uint16 leaderBps;
        /// What a leader pays (burned) whose batch is taken over or drawn anew because nobody drew it in time; at least
        /// this much if it is dropped.
        uint96 settlePenalty;
        /// Share of its owner's stake that what a verifier leads may hold open (`Account.exposed`); 0 for no bound.
        uint16 exposureBps;
    }

    /// @notice An owner's money and what it has to back.
    struct Account {
        uint96 stake;
        uint96 unbonding;
        /// The `Batch.exposure` of all batches that the owner's verifiers lead and that are not final, in 1/10,000 of
        /// `verifierStake`.
        uint40 exposed;
        uint8 nodes;
        /// Slot of the owner's verifier plus one, 0 for none.
        uint16 verifierSlot;
        /// What faults of unsettled windows hold of its stake; it counts as backing for `retire` and on juries.
        uint96 frozen;
        uint40 releaseAt;
        /// Until when `verifierStake` stays bound after the seat was left (Unix seconds).
        uint40 boundUntil;
    }

    struct Operator {
        address owner;
        /// When its last fault was recorded (Unix seconds, 0 for never). One that costs no stake never hides one that did.
        uint40 lastFault;
        /// Audits passed since, counted when the payouts are claimed.
        uint32 consecutiveValid;
        Role role;
        /// Registered and not retired; whether its stake suffices is `OperatorView.active`.
        bool listed;
        /// Whether the fault at `lastFault` cost stake, and so forfeits what was settled and not final then.
        bool forfeits;
        address key;
        uint64 workloads;
        uint32 index;
    }

    struct OperatorView {
        OperatorId id;
        Role role;
        /// Listed, and its owner's stake backs all of the owner's operators; of a verifier, half of `verifierStake`.
        bool active;
        address key;
        address owner;
        uint96 stake;
        uint32 consecutiveValid;
        uint40 lastFault;
        uint64 workloads;
        string endpoint;
    }

    struct VerifierView {
        OperatorId id;
        uint8 slot;
        /// Whether the seat counts for batches that are committed now.
        bool counts;
        address key;
        address owner;
        uint96 stake;
        /// x and y of the G1 public key as 48-byte big-endian numbers, each padded to 64 bytes (EIP-2537).
        bytes publicKey;
        string endpoint;
    }

    /// @notice An owner's place on the bench of a workload: juries are drawn among those that were on it when a challenge
    /// was opened (`since` <= opened, and `until` 0 or > opened). Places are never moved.
    struct BenchEntry {
        address owner;
        uint40 since;
        uint40 until;
    }

    /// @notice What the opener of a job asks for.
    struct JobParams {
        /// sha2-256 digest of the manifest.
        bytes32 manifest;
        uint96 reward;
        uint96 auditFee;
        /// For the verifiers that schedule, commit and co-sign.
        uint96 verifierFee;
        /// Work units of all tasks together.
        uint64 units;
        uint40 deadline;
        /// k, at least 2: auditors for each audited segment.
        uint8 auditorsPerSegment;
        /// m: segments drawn from each audited task.
        uint8 segmentsPerAudit;
        /// The workload's bit in the operators' bitmaps; juries are drawn among those who can execute it.
        uint8 workload;
        /// The verifier that has the job from the start, as if it had taken it then; 0 for whoever takes it first.
        OperatorId verifier;
    }

    /// @notice A block that a transaction rests on: what names jobs by their numbers is refused on a chain that has another
    /// block there, where these numbers may be other jobs'. The best is the one in which the youngest of the jobs was opened, so
    /// that a reorganisation which leaves them where they are changes nothing. One that is more than 256 blocks old is not
    /// looked at: what goes so deep is not guarded against.
    struct Anchor {
        uint64 number;
        bytes32 hash;
    }

    /// @notice What a job is now, as `job` shows it. What else it was opened with (manifest, reward, audit fee, deadline) is
    /// in the event `JobOpened` of block `openBlock`.
    struct Job {
        uint48 units;
        /// Units in batches that are committed and not settled, and units that settlements have paid.
        uint64 unitsOpen;
        uint48 unitsPaid;
        /// Operator that schedules the job, 0 for none.
        uint32 verifier;
        /// Last take or commit, or when it was opened for a verifier.
        uint32 lastActive;
        /// Its deadline, or when it was closed.
        uint32 end;
        /// What is neither reserved by a batch nor given back. What a batch that is not final has left over is `surplus`,
        /// which only further batches can use until `surplusFrom`: `seatDelay` after the settlement, when no dispute about
        /// it can be open any more.
        uint96 escrow;
        uint96 surplus;
        uint40 surplusFrom;
        /// Reward, audit fee and verifier fee together, for all units; and the last alone.
        uint96 price;
        uint96 verifierFee;
        /// The verifier before it, which may still commit what it owes until `formerUntil`.
        uint32 former;
        uint32 formerUntil;
        address requester;
        uint40 openBlock;
        uint8 auditorsPerSegment;
        uint8 segmentsPerAudit;
        uint8 workload;
        bool closed;
    }

    /// @notice What a batch is, whose hash alone is stored (`Headers.stored`): callers bring it along, events show it. Each line
    /// is a job's part of it in one word (`Lines`): `units` of work were committed, and `budget` of the job's escrow is
    /// reserved for them and bounds what the batch may pay. `paid`, `seed` and `payoutRoot` are those of the settlement, none
    /// and 0 where there is none; `paid` says of each line what was paid, operators' pay and verifiers' fee together.
    struct Header {
        bytes32 root;
        uint32 size;
        /// sha2-256 digest in the CID of the member list (`proofyard.protocol.members`).
        bytes32 members;
        uint256[] lines;
        uint256[] paid;
        bytes32 seed;
        bytes32 payoutRoot;
    }

    /// @notice What claims need of a settled batch, in one slot.
    struct Settled {
        /// Settled pay that nobody has claimed.
        uint96 remaining;
        uint40 settledAt;
        uint40 claimableAt;
        uint24 payoutCount;
        uint24 openChallenges;
        /// Whether `finalize` has something to do: faults, fees of verifiers, or exposure.
        bool unfinal;
        /// Whether what its faults froze left the auditors a share, which claims add.
        bool pooled;
        /// Claimed bits of the first 16 payouts; the others are in a mapping.
        uint16 claimed;
    }

    struct Batch {
        /// Hash of the header, see `Headers.stored`.
        bytes32 header;
        /// What it holds open of its leader's owner: the budgets of its lines in 1/10,000 of `verifierStake`, rounded up;
        /// from the commit until it is final, 0 while it is void, dropped, or where `exposureBps` is 0.
        uint24 exposure;
        /// Nobody settled it in time.
        bool dropped;
        /// The leader: who committed the batch, or took it over.
        uint32 verifier;
        uint32 commitBlock;
        uint32 committedAt;
        /// Goes up with each voiding and each taking, so that nobody's signature serves another leader's record.
        uint8 attempt;
        /// Of the quorum (`quorum(version)`) at the commit, or at the last taking of the voided batch.
        uint24 quorum;
        /// Verifiers' fees of this batch, paid when it is final.
        uint96 fees;
        /// Of an open batch that was drawn; a settlement puts it into the header.
        bytes32 seed;
        Settled settled;
        /// Seats of the quorum that did not sign the settlement.
        uint256 absent;
        /// The auditors' share of what was slashed in this batch, and the audited segments it is shared by.
        uint96 pool;
        uint32 auditUnits;
        /// Stake frozen by this batch's faults until its window closes.
        uint96 frozen;
        /// Since when `verifier` is the leader; it has `settleTime`. What follows is 0 in the first attempt.
        uint40 leaderSince;
        /// Commit or last voiding; `settleGrace` runs from it.
        uint40 openedAt;
        /// Who committed the batch, once another has taken it over; it owes its budget if it is dropped.
        uint32 committer;
        /// Voided, and waiting for a verifier to take it over.
        bool voided;
        /// A settlement of it was voided: what it holds was known, and nobody owes its budget.
        bool wasSettled;
        /// What faults are still to pay at most for work of this batch that they made worthless.
        uint96 redress;
    }

    /// @notice A fault in a batch record: the operator's owner loses its stake, and the pay of all its nodes that is settled
    /// and not final; the operator loses its reputation. Where auditors of an inexact workload disagreed (reason 4) that
    /// alone; where a state came late (reason 5) its owner pays `lateFine` of the Court's parameters instead.
    struct Fault {
        OperatorId operator;
        uint64 job;
        uint32 task;
        uint32 segment;
        /// Code of the reason, see `proofyard.protocol.settlement.FaultReason`.
        uint8 reason;
        /// The auditors whose equal answers carried it: more owners than the job has auditors for a segment, or none where
        /// other evidence did. They pay if a jury overturns it.
        uint32[] accusers;
    }

    /// @notice What disputes need of a batch; `settledAt` 0 while it is open.
    struct Standing {
        bytes32 header;
        uint32 leader;
        uint8 attempt;
        uint32 committedAt;
        uint40 settledAt;
        bool dropped;
    }

    /// @notice What a fault took, so that a successful challenge can give it back.
    struct SlashRecord {
        uint32 operator;
        uint96 amount;
        uint32 consecutiveValid;
        uint40 lastFault;
        uint32 task;
        uint32 segment;
        uint8 reason;
        /// What `Operator.forfeits` was before.
        bool forfeits;
        uint64 job;
        /// Undone by the Court.
        bool absolved;
        /// Its place among the faults of the operator's owner.
        uint32 mark;
        /// What of its stake is there, once it is final, for work that rested on the faulty task.
        uint96 redress;
        uint32[] accusers;
    }

    /// @notice The record of a batch as the verifiers sign it.
    struct Settlement {
        BatchId batch;
        /// Merkle root of the payouts (leaf: abi.encode(batch, index, operator, amount, valid, audits, cause)), their count, and the
        /// sum of those without a cause.
        bytes32 payoutRoot;
        uint32 payoutCount;
        uint96 payoutTotal;
        /// Sum of the payouts' `audits`.
        uint32 auditUnits;
        Fault[] faults;
        /// What is paid of each line, in the order of the header's, in one word (`Lines.packPaid`): units, operators' pay,
        /// and the prices that faults are to pay for its work. The verifiers' fee, verifierFee * units / units of the job, comes on
        /// top; all of it stays within the line's budget, though faults do not pay from that.
        uint256[] shares;
        /// Merkle root of the audit results.
        bytes32 auditRoot;
        /// The 36 bytes of the record artifact's CID.
        bytes record;
    }

    /// @notice One payout with its proof. `valid` raises the operator's reputation; `audits` is the number of segments it
    /// audited in the batch, its share of the slash pool.
    struct Claim {
        BatchId batch;
        uint32 index;
        OperatorId operator;
        uint96 amount;
        uint32 valid;
        uint32 audits;
        /// 0 for what the batch itself pays. Else `amount` is the price of work that a fault made worthless, and paid from what
        /// is set aside of that fault's stake (`Causes`), once the fault is final and as far as it stands.
        uint256 cause;
        /// What the header holds besides the root of the payouts: the hash of its seed and of what was committed.
        bytes32 bound;
        bytes32[] proof;
    }

    /// @notice Where the contract's tokens are. Its token balance is the sum, and `claimable` of all batches.
    struct Totals {
        uint128 stakes;
        uint128 unbonding;
        uint128 bonds;
        uint128 burned;
        /// Escrow of jobs: free, surplus, and reserved by batches that are not settled.
        uint128 escrow;
    }

    // ------------------------------------------------------------------------------------------------ events

    event OperatorRegistered(
        OperatorId indexed operator,
        address indexed owner,
        Role indexed role,
        address key,
        uint64 workloads,
        string endpoint
    );
    event VerifierKey(OperatorId indexed operator, uint8 slot, bytes publicKey);
    event OperatorRetired(OperatorId indexed operator);
    event KeyRotated(OperatorId indexed operator, address key);
    event EndpointSet(OperatorId indexed operator, string endpoint);
    /// @notice Emitted whenever either changes, so that past stakes follow from events: what they are now.
    event StakeChanged(address indexed owner, uint256 stake, uint256 unbonding);
    event UnstakeRequested(address indexed owner, uint256 amount, uint256 releaseAt);
    event Withdrawn(address indexed owner, uint256 amount);
    /// @notice A new quorum: the slots of the seats that count for batches committed from now on.
    event QuorumChanged(uint24 indexed version, uint256 seats);

    event JobOpened(
        JobId indexed job,
        address indexed requester,
        bytes32 indexed manifest,
        uint256 reward,
        uint256 auditFee,
        uint256 verifierFee,
        uint64 units,
        uint40 deadline,
        uint8 auditorsPerSegment,
        uint8 segmentsPerAudit,
        uint8 workload
    );
    event JobTaken(JobId indexed job, OperatorId indexed verifier);
    event JobToppedUp(JobId indexed job, uint256 amount);
    event JobClosed(JobId indexed job);
    event JobRefunded(JobId indexed job, address indexed requester, uint256 amount);

    event BatchCommitted(
        BatchId indexed batch,
        OperatorId indexed verifier,
        bytes32 indexed root,
        uint32 size,
        bytes32 members,
        uint256[] lines,
        uint24 quorum
    );
    /// @notice Job `job` has a line in the batch, whose event says which: for those who follow one job.
    event JobCommitted(JobId indexed job, BatchId batch);
    event BatchRecommitted(BatchId indexed batch, uint256 commitBlock);
    event BatchDrawn(BatchId indexed batch, bytes32 seed);
    /// @notice Another leader, because the last one was late or the settlement was voided. `lines` are those from now on.
    /// A voided batch is settled by the quorum of its taking, and so is one none of whose quorum is left.
    event BatchTaken(
        BatchId indexed batch,
        OperatorId indexed verifier,
        OperatorId indexed before,
        uint256[] lines,
        uint24 quorum,
        uint8 attempt
    );
    event BatchDropped(BatchId indexed batch);
    event BatchSettled(
        BatchId indexed batch,
        uint8 attempt,
        bytes32 payoutRoot,
        uint32 payoutCount,
        uint256 payoutTotal,
        uint256 fees,
        bytes32 auditRoot,
        bytes record,
        uint256 signers,
        uint256 claimableAt,
        uint256[] lines,
        uint256[] paid
    );
    event Faulted(
        BatchId indexed batch,
        OperatorId indexed operator,
        JobId indexed job,
        uint32 task,
        uint32 segment,
        uint8 reason,
        uint256 slashed
    );
    /// @notice A fault was undone: the operator's stake and reputation are back.
    event Absolved(BatchId indexed batch, OperatorId indexed operator, uint256 returned, uint32 consecutiveValid);
    event SlashFinal(
        BatchId indexed batch, uint256 toRequesters, uint256 toAuditors, uint256 toRedress, uint256 burned
    );
    event FeesPaid(BatchId indexed batch, uint256 amount, uint256 signers);
    event BatchVoided(BatchId indexed batch, uint8 attempt);
    event Penalised(OperatorId indexed operator, BatchId indexed batch, uint256 amount);
    /// @notice `consecutiveValid` is the operator's reputation afterwards.
    event Claimed(
        BatchId indexed batch,
        OperatorId indexed operator,
        address indexed owner,
        uint256 amount,
        uint32 consecutiveValid
    );
    event Forfeited(BatchId indexed batch, OperatorId indexed operator, uint256 amount);

    // ------------------------------------------------------------------------------------------------ errors

    error BadParams(string reason);
    error NotOwner(OperatorId operator, address caller, address owner);
    error KeyTaken(address key, OperatorId operator);
    error BadConsent(address key, address recovered);
    error EndpointTooLong(uint256 length, uint256 limit);
    error StakeTooLow(address owner, uint256 stake, uint256 required);
    error NothingToWithdraw(address owner);
    error StillBonded(address owner, uint256 releaseAt);
    error TooManyOperators(address owner);
    error VerifierSetFull();
    error BadPublicKey();
    error BadPossessionProof();
    error NotListed(OperatorId operator);
    error StillBacked(OperatorId operator);
    error NotIdle(uint256 slot);
    error TransferMismatch(uint256 expected, uint256 received);
    error NotCourt(address caller);

    error UnknownJob(JobId job);
    error BadJob(string reason);
    error NotYourJob(JobId job, address caller);
    error JobIsClosed(JobId job);
    error JobStillOpen(JobId job, uint256 until);
    error DeadlinePassed(JobId job, uint256 deadline);
    error NotVerifier(address caller);
    error SeatTooNew(OperatorId verifier, uint256 countsFrom);
    error JobTakenBy(JobId job, OperatorId verifier, uint256 freeAt);
    error TooManyJobs(uint256 jobs, uint256 most);
    error NothingTaken();
    /// @notice The chain's block `number` has the hash `found` (0: it has none yet), not `hash`.
    error AnchorGone(uint256 number, bytes32 hash, bytes32 found);
    /// @notice What the owner's verifiers would hold open, and what its stake allows (base units).
    error Overexposed(address owner, uint256 exposed, uint256 limit);
    error TooManyUnits(JobId job, uint256 units, uint256 left);

    error UnknownBatch(BatchId batch);
    error BadBatch(string reason);
    error BadHeader(BatchId batch);
    error NotOverdue(BatchId batch, uint256 from);
    error BatchExpired(BatchId batch, uint256 end);
    error TooEarlyToDraw(BatchId batch, uint256 drawBlock);
    error SeedLost(BatchId batch, uint256 drawBlock);
    error SeedAvailable(BatchId batch);
    error AlreadySettled(BatchId batch);
    error NotSettled(BatchId batch);
    error BadSettlement(string reason);
    error LeaderMissing(BatchId batch, OperatorId leader);
    error NoQuorum(uint256 signed, uint256 counting);
    error UnknownSigner(uint256 signers, uint256 counting);
    error BadSignature();
    error OverBudget(JobId job, uint256 budget, uint256 amount);
    error WindowOpen(BatchId batch, uint256 claimableAt);
    error Contested(BatchId batch);
    error NothingClaimed();
    error BadPayoutProof(BatchId batch, uint256 index);
    error PayoutsExceedTotal(BatchId batch);

    // --------------------------------------------------------------------------------------------- operators

    /// @notice Registers a node under the caller, or lists a retired one of the caller's again, and adds `stake`. Its owner
    /// takes a place on the bench of each workload in the bitmap, unless it left that bench less than `unstakeDelay` ago
    /// (`joinBench` then does it later). `consent` is the hot key's EIP-712 signature over
    /// `Register(address owner,address key)`, so that nobody can register another's key. An owner has at most 255 nodes.
    function registerNode(address key, uint96 stake, uint64 workloads, string calldata endpoint, bytes calldata consent)
        external
        returns (OperatorId);

    /// @notice Registers the caller's verifier (one for each owner) and adds `stake`; a seat that was lost or left can be had
    /// again. `publicKey` is 128 bytes (EIP-2537 G1), `possession` 256 bytes: a BLS signature, under the tag of proofs of
    /// possession, over the EIP-712 digest of `VerifierKey(address owner,address key,bytes publicKey)`. The seat counts
    /// after `seatDelay`.
    function registerVerifier(
        address key,
        uint96 stake,
        string calldata endpoint,
        bytes calldata consent,
        bytes calldata publicKey,
        bytes calldata possession
    ) external returns (OperatorId);

    /// @notice Replaces the hot key; id and reputation stay. An old key can never be registered again.
    function rotateKey(OperatorId operator, address key, bytes calldata consent) external;

    /// @notice Where the operator can be reached, host:port; its owner or its hot key may say so.
    function setEndpoint(OperatorId operator, string calldata endpoint) external;

    /// @notice Takes an operator out of the active set: its owner at any time, anybody once its stake is too low (what
    /// faults of an open window hold counts as stake; a verifier's is too low below half of `verifierStake`, whatever nodes
    /// there are).
    function retire(OperatorId operator) external;

    /// @notice Puts the caller (or the owner of the calling hot key) on the bench of those `workloads` that its listed nodes
    /// offer, where it left long enough ago.
    function joinBench(uint64 workloads) external;

    /// @notice A verifier's hot key shows that it is there: its seat is not idle in this period.
    function attend() external;

    /// @notice Takes an idle seat away; anybody may. The stake stays, bound for a quarantine.
    function unseatIdle(uint8 slot) external;

    /// @notice Adds stake. An account needs no operator: a challenger's bonds come from its stake.
    function addStake(uint96 amount) external;

    /// @notice Starts the release of stake that backs neither a listed operator nor what is open (`exposed`). It can be slashed until it is withdrawn;
    /// another request restarts the clock for all of it.
    function requestUnstake(uint96 amount) external;

    function withdraw() external;

    // -------------------------------------------------------------------------------------------------- jobs

    /// @notice Opens a job and takes `reward + auditFee + verifierFee` into escrow. The verifier that it names, whose seat must
    /// count, has it from then on as if it had taken it: it need not, owes nothing, and loses it where it commits nothing.
    function openJob(JobParams calldata params) external returns (JobId);

    /// @notice The same with an EIP-2612 permit for exactly that amount. A permit that someone else has already
    /// submitted does no harm.
    function openJobWithPermit(JobParams calldata params, uint256 permitDeadline, uint8 v, bytes32 r, bytes32 s)
        external
        returns (JobId);

    /// @notice Adds to a job's escrow, for audits and repetitions; the terms stay as they are.
    function topUp(JobId job, uint96 amount, Anchor calldata anchor) external;

    /// @notice Ends a job; what is committed stays reserved, and what receipts promise can be committed for `receiptTime`.
    /// The requester may do so at any time, the job's verifier once all units are paid.
    function closeJob(JobId job, Anchor calldata anchor) external;

    /// @notice Sends the requester the free escrow of a job for which nothing can be committed any more, and the surplus
    /// once it is free; anyone may call, any number of times.
    function refund(JobId job) external;

    /// @notice Makes the caller's verifier the job's scheduler, if it has none or that one has not committed for too long.
    /// Only commits renew it.
    function takeJob(JobId job, Anchor calldata anchor) external;

    /// @notice The same for at most 128 jobs at once. Those that are over, unknown or another verifier's are passed over, so
    /// that one of them does not keep the caller from the others; refused where none of them is the caller's then.
    function takeJobs(JobId[] calldata jobs, Anchor calldata anchor) external;

    // ----------------------------------------------------------------------------------------------- batches

    /// @notice Commits to `size` signed commitments of one or more jobs by their Merkle root, and reserves each line's share
    /// of its job's money: min(free escrow and surplus, ceil((reward + auditFee + verifierFee) * units / all units)).
    /// `lines` (`Lines.pack`) name at most 128 jobs, ascending, without a budget. The caller is a verifier whose seat counts,
    /// and holds (or has just lost) every job; it takes the free ones. What its owner has open then, this batch included, is
    /// at most `exposureBps` of its stake.
    function commitBatch(bytes32 root, uint32 size, bytes32 members, uint256[] calldata lines, Anchor calldata anchor)
        external
        returns (BatchId);

    /// @notice Fixes the batch's seed from the hash of block `commitBlock + drawDelay`; anyone may call.
    function draw(BatchId batch) external returns (bytes32 seed);

    /// @notice Moves the draw to a new block when nobody drew while the hash could be had (8,191 blocks); the leader pays.
    function recommit(BatchId batch) external;

    /// @notice Makes the caller's verifier the leader of a batch that is overdue or whose leader left its seat (the last
    /// leader pays `settlePenalty`), or voided. For a voided one each line gets back of its job's escrow and surplus what
    /// it had left over. The batch moves to what the caller's owner has open, within the same bound. The caller's seat is one of the batch's quorum; for a voided batch, or where none of the quorum is
    /// left, one that counts now.
    function takeBatch(BatchId batch, Header calldata header) external;

    /// @notice Settles a batch with one aggregate BLS signature of at least two thirds of the seats that counted at its commit
    /// and are still taken, the leader's among them; anyone may send it.
    /// @param signers Bitmap of the signing verifiers' slots.
    /// @param signature 256 bytes, EIP-2537 G2, over `settlementDigest(settlement, header)`.
    function settleBatch(
        Settlement calldata settlement,
        Header calldata header,
        uint256 signers,
        bytes calldata signature
    ) external;

    /// @notice Releases the budget of a batch that nobody settled within `settleGrace`. Who committed it pays `settlePenalty`
    /// or, where that is more, as much as the batch's budget, whoever leads it by then (once a settlement of it was voided,
    /// nobody does): who hides what it committed gains nothing. A leader that took it over pays `settlePenalty`.
    function dropBatch(BatchId batch, Header calldata header) external;

    /// @notice Pays the verifiers' fees, distributes what the batch's faults froze (a fault without accusers shares nothing),
    /// and frees what it held open, once its window has closed; `claim` does it by itself.
    function finalize(BatchId batch) external;

    /// @notice Pays settled work to the operators' owners; anyone may send it. A payout whose operator was found at a
    /// fault that cost stake between settlement and the end of the window is burned instead. What was claimed before, and
    /// what a challenge holds back or has voided, is passed over, so that nobody can make the claims of
    /// others fail by it; reverts if nothing is left.
    function claim(Claim[] calldata claims) external;

    // ----------------------------------------------------------------------------------------- for the Court

    /// @notice Takes a bond from the stake of `caller`'s owner (or of `caller` itself) into the bonds. It may leave nodes
    /// without backing, never a verifier, nor what it has open.
    function chargeBond(address caller, uint96 amount) external returns (address owner);

    /// @notice Takes a bond from what fault `index` of the batch holds, for its operator's own challenge.
    function chargeFrozen(BatchId batch, uint256 index, uint96 amount) external;

    /// @notice Moves money from the bonds: to an owner's stake, to a job's surplus, to the burned.
    function give(address owner, uint96 amount) external;
    function giveJob(JobId job, uint96 amount) external;
    function burn(uint96 amount) external;

    /// @notice Takes up to `amount` of an owner's stake, then of what is unbonding, into the bonds. An owner whose stake is
    /// below half of `verifierStake` loses its verifier's seat.
    function slash(address owner, uint96 amount) external returns (uint96 taken);

    /// @notice No payout of the batch can be claimed while a challenge is open.
    function hold(BatchId batch) external;
    function release(BatchId batch) external;

    /// @notice A node was convicted of a segment in a settled batch: reputation and all unsettled pay are gone.
    function convict(BatchId batch, OperatorId operator, JobId job, uint32 task, uint32 segment) external;

    /// @notice Undoes fault `index` of the batch.
    function absolve(BatchId batch, uint256 index) external;

    /// @notice Undoes a settlement: stakes, reputation and pay return, the batch can be taken over and settled again. With
    /// `slashSigners` the leader and every signer lose their owner's stake, which is returned as `seized` in the bonds.
    function void(BatchId batch, bool slashSigners) external returns (uint96 seized);

    // ------------------------------------------------------------------------------------------------- views

    function params() external view returns (Params memory);
    function token() external view returns (address);
    function court() external view returns (address);
    function domainSeparator() external view returns (bytes32);
    function totals() external view returns (Totals memory);
    function account(address owner) external view returns (Account memory);
    function operatorState(OperatorId id) external view returns (Operator memory);
    function ownerOf(OperatorId id) external view returns (address);

    /// @notice Whose stake account pays and is paid for `key`: its operator's owner's, or its own.
    function payee(address key) external view returns (address);

    /// @notice The node whose hot key this is now, listed or not, and its owner; 0 for none.
    function nodeOf(address key) external view returns (OperatorId, address owner);
    function endpointOf(OperatorId id) external view returns (string memory);
    function operatorOf(address key) external view returns (OperatorId);
    function nodeAt(uint256 index) external view returns (OperatorId);
    function counts()
        external
        view
        returns (uint256 operators, uint256 listedNodes, uint256 jobs, uint256 batches, uint256 quorumVersion);

    /// @notice The seats taken now; the operator that had `slot` at a time, or was the last to have it (0 for none); the BLS
    /// key of the last.
    function seats() external view returns (uint256 bitmap);
    function seatHolder(uint8 slot, uint256 time) external view returns (OperatorId);
    function seatKey(uint8 slot) external view returns (bytes memory);

    /// @notice From when the seat taken now counts for new batches (Unix seconds).
    function seatCountsFrom(uint8 slot) external view returns (uint256);

    /// @notice The slots that count for batches committed under a version of the quorum.
    function quorum(uint24 version) external view returns (uint256 bitmap);
    function benchLength(uint8 workload) external view returns (uint256);
    function benchAt(uint8 workload, uint256 index) external view returns (BenchEntry memory);
    function job(JobId id) external view returns (Job memory);
    function batch(BatchId id) external view returns (Batch memory);
    function standing(BatchId id) external view returns (Standing memory);

    /// @notice Who asked for a job, its workload's bit, and its deadline or when it was closed.
    function terms(JobId id) external view returns (address requester, uint8 workload, uint256 end);
    function slashes(BatchId id) external view returns (SlashRecord[] memory);
    function isClaimed(BatchId id, uint256 index) external view returns (bool);
    function settlementDigest(Settlement calldata settlement, Header calldata header) external view returns (bytes32);
}
