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
/// Known limits, stated bluntly:
/// - Verifiers are counted, not weighted: two thirds of the registered verifiers decide what is settled. What they
///   settle can be challenged, but a wrong settlement that nobody challenges in its window stands.
/// - The audit draw comes from a block hash: a block proposer can discard a block, at the price of its reward.
/// - A verifier that takes a job can stall it until the takeover timeout, and no longer.
/// - Tokens that take fees on transfer are refused; tokens that rebase must not be used.
/// - A node restored by a successful challenge gets back its stake and reputation, not the work it missed.
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
        /// From a request to unstake to its withdrawal; longer than any challenge can last.
        uint40 unstakeDelay;
        /// How long past a job's deadline a committed batch may still be settled.
        uint40 settleGrace;
        /// Silence after which any verifier may take over a job.
        uint40 takeoverTimeout;
        /// Blocks from a commitment to the block whose hash seeds its audits.
        uint16 drawDelay;
        /// Share of auditors assumed to collude (r of the audit dial).
        uint16 collusionBps;
        /// What a node slashed at settlement pays to the requester and to the batch's auditors; the rest is burned.
        uint16 slashRequesterBps;
        uint16 slashAuditorBps;
        CourtParams court;
    }

    /// @notice How challenges go. Times in seconds, shares in 1/10,000.
    struct CourtParams {
        uint96 bond;
        uint96 appealBond;
        uint32 voteTime;
        uint32 revealTime;
        /// What a juror that does not reveal pays, and a verifier whose receipt no batch honoured.
        uint96 jurorFine;
        uint96 receiptPenalty;
        uint32 appealTime;
        /// Within this time of a challenge or an appeal a jury must have come together.
        uint32 roundExpiry;
        /// How long a verifier has to show the batch that honours a receipt.
        uint32 answerTime;
        /// Blocks from a challenge or an appeal to the block whose hash draws the jury.
        uint16 juryDelay;
        uint8 jurySize;
        uint8 appealJurySize;
        /// Of the losers' money: to the winner, the requester, the jury's majority; the rest is burned.
        uint16 winnerBps;
        uint16 requesterBps;
        uint16 juryBps;
        /// How long a vacated verifier slot stays empty; set to `unstakeDelay` at construction.
        uint32 quarantine;
    }

    /// @notice An owner's money and what it has to back.
    struct Account {
        uint96 stake;
        uint96 unbonding;
        uint40 releaseAt;
        uint8 nodes;
        /// Slot of the owner's verifier plus one, 0 for none.
        uint16 verifierSlot;
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
        /// Listed, and its owner's stake backs all of the owner's operators.
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
        address key;
        address owner;
        uint96 stake;
        /// x and y of the G1 public key as 48-byte big-endian numbers, each padded to 64 bytes (EIP-2537).
        bytes publicKey;
        string endpoint;
    }

    /// @notice What the opener of a job asks for.
    struct JobParams {
        /// sha2-256 digest of the manifest.
        bytes32 manifest;
        uint96 reward;
        uint96 auditFee;
        uint32 taskCount;
        uint40 deadline;
        /// k: auditors for each audited segment.
        uint8 auditorsPerSegment;
        /// m: segments drawn from each audited task.
        uint8 segmentsPerAudit;
        /// The workload's bit in the operators' bitmaps; juries are drawn among those who can execute it.
        uint8 workload;
    }

    struct Job {
        address requester;
        uint40 deadline;
        uint32 taskCount;
        uint8 auditorsPerSegment;
        uint8 segmentsPerAudit;
        bool closed;
        bytes32 manifest;
        /// What was settled or refunded; the escrow is reward + auditFee - spent.
        uint96 spent;
        /// Tasks in batches that are committed and not settled.
        uint32 openTasks;
        /// Operator that schedules the job, 0 for none.
        uint32 verifier;
        uint40 lastActive;
        uint96 reward;
        uint96 auditFee;
        uint40 openBlock;
        uint8 workload;
    }

    /// @notice What claims need of a settled batch, in one slot.
    struct Settled {
        /// Settled pay that nobody has claimed.
        uint96 remaining;
        uint40 settledAt;
        uint40 claimableAt;
        uint24 payoutCount;
        uint8 openChallenges;
        /// Whether the batch has faults: only then is anything behind `signers` set in it.
        bool faulted;
        /// Claimed bits of the first 40 payouts; the others are in a mapping.
        uint40 claimed;
    }

    struct Batch {
        bytes32 root;
        uint64 job;
        uint32 size;
        uint32 verifier;
        uint40 commitBlock;
        uint40 committedAt;
        /// Times a settlement of this batch was voided by a challenge.
        uint8 attempt;
        bytes32 seed;
        bytes32 payoutRoot;
        Settled settled;
        /// Slots of the verifiers that signed.
        uint256 signers;
        /// The auditors' share of what was slashed in this batch, and the audited segments it is shared by.
        uint96 pool;
        uint32 auditUnits;
        /// Stake frozen by this batch's faults until its window closes.
        uint96 frozen;
    }

    /// @notice A fault in a batch record: this operator loses its owner's stake, its unsettled pay and its reputation.
    /// Where auditors of an inexact workload disagreed (reason 4) it loses its reputation only.
    struct Fault {
        OperatorId operator;
        uint32 task;
        uint32 segment;
        /// Code of the reason, see `proofyard.protocol.settlement.FaultReason`.
        uint8 reason;
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
    }

    /// @notice A commitment as its worker signed it, see `proofyard.protocol.commitment`.
    struct Commitment {
        uint256 job;
        uint32 task;
        address node;
        bytes32 manifest;
        bytes32 inputs;
        bytes32 traceRoot;
        uint32 segments;
        bytes result;
        uint64 workUnits;
    }

    /// @notice What a challenge is about.
    enum Kind {
        None,
        /// A segment that was settled as valid.
        Segment,
        /// A payout that contradicts the commitments or the record.
        Payout,
        /// A fault that was recorded against an innocent operator.
        Fault,
        /// A receipt for a commitment that no batch honoured in time.
        Receipt
    }

    enum Phase {
        None,
        Draw,
        Vote,
        Verdict,
        Answer,
        Upheld,
        Rejected,
        Dismissed
    }

    struct Challenge {
        address challenger;
        uint64 batch;
        Kind kind;
        Phase phase;
        /// 0, or 1 on appeal.
        uint8 round;
        /// The worker of the segment, or the verifier that committed the batch or signed the receipt.
        uint32 accused;
        uint32 task;
        uint32 segment;
        /// Index of the payout or the fault.
        uint32 entry;
        uint40 drawBlock;
        /// End of the voting (revealing follows), of the time to appeal, or of the time to answer.
        uint40 until;
        uint8 votesWrong;
        uint8 votesRight;
        /// The last verdict: what is challenged is wrong.
        bool wrong;
        uint8 attempt;
        address appellant;
        uint96 fines;
        uint96 bond;
        /// When this round is given up if no jury has come together.
        uint40 expiresAt;
        bytes32 subject;
        bytes32 leaf;
    }

    /// @notice The record of a batch as the verifiers sign it.
    struct Settlement {
        BatchId batch;
        /// Merkle root of the payouts (leaf: abi.encode(batch, index, operator, amount, valid, audits)), their count and sum.
        bytes32 payoutRoot;
        uint32 payoutCount;
        uint96 payoutTotal;
        /// Sum of the payouts' `audits`.
        uint32 auditUnits;
        Fault[] faults;
        /// Merkle root of the audit results.
        bytes32 auditRoot;
        /// The 36 bytes of the record artifact's CID.
        bytes record;
    }

    /// @notice One payout with its proof. `valid` audits raise the operator's reputation; `audits` is the number of
    /// segments it audited in the batch, its share of the slash pool.
    struct Claim {
        BatchId batch;
        uint32 index;
        OperatorId operator;
        uint96 amount;
        uint32 valid;
        uint32 audits;
        bytes32[] proof;
    }

    /// @notice Where the contract's tokens are. Its token balance is the sum, and `claimable` of all batches.
    struct Totals {
        uint128 stakes;
        uint128 unbonding;
        uint128 bonds;
        uint128 burned;
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
    event StakeAdded(address indexed owner, uint256 amount);
    event UnstakeRequested(address indexed owner, uint256 amount, uint256 releaseAt);
    event Withdrawn(address indexed owner, uint256 amount);

    event JobOpened(
        JobId indexed job,
        address indexed requester,
        bytes32 indexed manifest,
        uint32 taskCount,
        uint256 reward,
        uint256 auditFee,
        uint8 auditorsPerSegment,
        uint8 segmentsPerAudit,
        uint40 deadline
    );
    event JobTaken(JobId indexed job, OperatorId indexed verifier);
    event JobToppedUp(JobId indexed job, uint256 reward, uint256 auditFee);
    event JobClosed(JobId indexed job);
    event JobRefunded(JobId indexed job, address indexed requester, uint256 amount);

    event BatchCommitted(
        BatchId indexed batch, JobId indexed job, OperatorId indexed verifier, bytes32 root, uint32 size
    );
    event BatchRecommitted(BatchId indexed batch, uint256 commitBlock);
    event BatchDrawn(BatchId indexed batch, bytes32 seed);
    event BatchSettled(
        BatchId indexed batch,
        JobId indexed job,
        bytes32 payoutRoot,
        uint32 payoutCount,
        uint256 payoutTotal,
        bytes32 auditRoot,
        bytes record,
        uint256 signers,
        uint256 claimableAt
    );
    event Faulted(
        BatchId indexed batch, OperatorId indexed operator, uint32 task, uint32 segment, uint8 reason, uint256 slashed
    );
    event SlashFinal(BatchId indexed batch, uint256 toRequester, uint256 toAuditors, uint256 burned);
    event BatchVoided(BatchId indexed batch, uint8 attempt);
    event ChallengeOpened(
        ChallengeId indexed challenge,
        BatchId indexed batch,
        OperatorId indexed accused,
        Kind kind,
        uint32 task,
        uint32 segment,
        uint32 entry,
        address challenger
    );
    event JuryDrawn(ChallengeId indexed challenge, uint8 round, uint32[] jurors, uint256 voteEnds, uint256 revealEnds);
    event JuryRedrawn(ChallengeId indexed challenge, uint256 drawBlock);
    event VoteCommitted(ChallengeId indexed challenge, OperatorId indexed juror);
    event VoteRevealed(ChallengeId indexed challenge, OperatorId indexed juror, bool wrong);
    event JurorFined(ChallengeId indexed challenge, OperatorId indexed juror, uint256 amount);
    event Verdict(ChallengeId indexed challenge, uint8 round, bool wrong, uint8 votesWrong, uint8 votesRight);
    event Appealed(ChallengeId indexed challenge, address indexed appellant, uint256 drawBlock);
    event ChallengeClosed(
        ChallengeId indexed challenge,
        Phase phase,
        uint256 toWinner,
        uint256 toRequester,
        uint256 toJury,
        uint256 burned
    );
    event Claimed(BatchId indexed batch, OperatorId indexed operator, address indexed owner, uint256 amount);
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
    error TransferMismatch(uint256 expected, uint256 received);

    error UnknownJob(JobId job);
    error BadJob(string reason);
    error NotYourJob(JobId job, address caller);
    error JobIsClosed(JobId job);
    error JobStillOpen(JobId job, uint256 deadline);
    error DeadlinePassed(JobId job, uint256 deadline);
    error NotVerifier(address caller);
    error JobTakenBy(JobId job, OperatorId verifier, uint256 freeAt);

    error UnknownBatch(BatchId batch);
    error BadBatchSize(uint256 size, uint256 taskCount);
    error TooEarlyToDraw(BatchId batch, uint256 drawBlock);
    error SeedLost(BatchId batch, uint256 drawBlock);
    error SeedAvailable(BatchId batch);
    error AlreadySettled(BatchId batch);
    error NotSettled(BatchId batch);
    error BadSettlement(string reason);
    error NoQuorum(uint256 signed, uint256 active);
    error UnknownSigner(uint256 signers, uint256 active);
    error BadSignature();
    error EscrowTooLow(JobId job, uint256 escrow, uint256 payoutTotal);
    error WindowOpen(BatchId batch, uint256 claimableAt);
    error Contested(BatchId batch);
    error AlreadyClaimed(BatchId batch, uint256 index);
    error BadPayoutProof(BatchId batch, uint256 index);
    error PayoutsExceedTotal(BatchId batch);

    error BadCommitmentProof(BatchId batch, uint256 index);
    error NoSuchSegment(uint256 segment, uint256 segments);
    error NoSuchFault(BatchId batch, uint256 index);
    error OutsideWindow(uint256 opens, uint256 closes);
    error AlreadyChallenged(ChallengeId challenge);
    error WrongPhase(ChallengeId challenge, Phase phase);
    error TooEarly(ChallengeId challenge, uint256 opens);
    error TooLate(ChallengeId challenge, uint256 closed);
    error JuryTooSmall(ChallengeId challenge, uint256 found, uint256 wanted);
    error NotJuror(ChallengeId challenge, address caller);
    error BadVote(ChallengeId challenge);

    // --------------------------------------------------------------------------------------------- operators

    /// @notice Registers a node under the caller, or lists a retired one of the caller's again, and adds `stake`.
    /// `consent` is the hot key's EIP-712 signature over `Register(address owner,address key)`, so that nobody can
    /// register another's key. An owner has at most 255 nodes.
    function registerNode(address key, uint96 stake, uint64 workloads, string calldata endpoint, bytes calldata consent)
        external
        returns (OperatorId);

    /// @notice Registers the caller's verifier (one for each owner) and adds `stake`. `publicKey` is 128 bytes
    /// (EIP-2537 G1), `possession` 256 bytes: a BLS signature, under the tag of proofs of possession, over the
    /// EIP-712 digest of `VerifierKey(address owner,address key,bytes publicKey)`.
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

    /// @notice Takes an operator out of the active set: its owner at any time, anybody once its stake is too low.
    function retire(OperatorId operator) external;

    function addStake(uint96 amount) external;

    /// @notice Starts the release of stake that backs no listed operator. It can be slashed until it is withdrawn;
    /// another request restarts the clock for all of it.
    function requestUnstake(uint96 amount) external;

    function withdraw() external;

    // -------------------------------------------------------------------------------------------------- jobs

    /// @notice Opens a job and takes `reward + auditFee` into escrow.
    function openJob(JobParams calldata params) external returns (JobId);

    /// @notice The same with an EIP-2612 permit for exactly that amount. A permit that someone else has already
    /// submitted does no harm.
    function openJobWithPermit(JobParams calldata params, uint256 permitDeadline, uint8 v, bytes32 r, bytes32 s)
        external
        returns (JobId);

    function topUp(JobId job, uint96 reward, uint96 auditFee) external;

    /// @notice Ends a job: nothing more can be committed, and what no committed batch needs is refunded to the requester.
    /// The requester may do so at any time, the job's verifier when the work is done.
    function closeJob(JobId job) external;

    /// @notice Sends the requester what a closed or expired job does not need; anyone may call, any number of times.
    function refund(JobId job) external;

    /// @notice Makes the caller's verifier the job's scheduler, if it has none or that one has been silent too long.
    function takeJob(JobId job) external;

    // ----------------------------------------------------------------------------------------------- batches

    /// @notice Commits to `size` signed commitments, one for a task, by their Merkle root. Takes the job when it is free.
    function commitBatch(JobId job, bytes32 root, uint32 size) external returns (BatchId);

    /// @notice Fixes the batch's seed from the hash of block `commitBlock + drawDelay`; anyone may call.
    function draw(BatchId batch) external returns (bytes32 seed);

    /// @notice Moves the draw to a new block when nobody drew while the hash could be had (8,191 blocks).
    function recommit(BatchId batch) external;

    /// @notice Settles a batch with one aggregate BLS signature of at least two thirds of the active verifiers.
    /// @param signers Bitmap of the signing verifiers' slots.
    /// @param signature 256 bytes, EIP-2537 G2, over `settlementDigest(settlement)`.
    function settleBatch(Settlement calldata settlement, uint256 signers, bytes calldata signature) external;

    /// @notice Distributes what the batch's faults froze, once its window has closed; `claim` does it by itself.
    function finalize(BatchId batch) external;

    /// @notice Pays settled work to the operators' owners; anyone may send it. A payout whose operator was found at
    /// fault between settlement and the end of the window goes back to the job's escrow instead.
    function claim(Claim[] calldata claims) external;

    // -------------------------------------------------------------------------------------------- challenges

    /// @notice Challenges one segment of a commitment in a settled batch, with the bond: the committed state after it is
    /// not what it leads to. Whoever copies the call and is mined first takes the challenger's place, at its risk.
    /// @param index Position of the commitment among the batch's leaves.
    function challengeSegment(
        BatchId batch,
        Commitment calldata commitment,
        uint256 index,
        bytes32[] calldata proof,
        uint32 segment
    ) external returns (ChallengeId);

    /// @notice Challenges a settled payout, with the bond: it contradicts the commitments or the record.
    function challengePayout(Claim calldata payout) external returns (ChallengeId);

    /// @notice Challenges the fault at `index` of `slashes(batch)`, with the bond: the operator is innocent.
    function challengeFault(BatchId batch, uint32 index) external returns (ChallengeId);

    /// @notice Shows a verifier's signed receipt (EIP-712 `Receipt(bytes32 leaf,uint64 deadline)`) after its deadline,
    /// with the bond. If nobody answers with a batch in time, the verifier pays.
    function challengeReceipt(bytes32 leaf, uint64 deadline, bytes calldata signature) external returns (ChallengeId);

    /// @notice Shows that a batch committed before the receipt's deadline holds the commitment; anyone may.
    function answerReceipt(ChallengeId challenge, BatchId batch, uint256 index, bytes32[] calldata proof) external;

    /// @notice Draws the jury once its block has a hash; anyone may call. Distinct owners, none of them a party, the
    /// requester or a verifier's owner. Sets a new block when nobody called while the hash could be had.
    function drawJury(ChallengeId challenge) external returns (uint32[] memory jurors);

    /// @notice A juror's hot key seals its vote: keccak256(abi.encode(challenge, round, juror, wrong, salt)).
    function commitVote(ChallengeId challenge, bytes32 sealedVote) external;

    /// @notice Opens the vote after the voting time. `wrong`: what is challenged is wrong.
    function revealVote(ChallengeId challenge, bool wrong, bytes32 salt) external;

    /// @notice Takes a first verdict to a larger jury, with the appeal bond; anyone may, once.
    function appeal(ChallengeId challenge) external;

    /// @notice Moves a challenge on when its time has come: counts the votes, or carries out the decision. A majority of
    /// the revealed votes decides, a tie rejects. Where no more than half reveal, another jury is drawn; where none
    /// comes together in time, the bonds go back, or the verdict under appeal stands.
    function resolve(ChallengeId challenge) external;

    // ------------------------------------------------------------------------------------------------- views

    function challenge(ChallengeId id) external view returns (Challenge memory);
    function jurors(ChallengeId id, uint256 round) external view returns (uint32[] memory);

    function params() external view returns (Params memory);
    function token() external view returns (address);
    function domainSeparator() external view returns (bytes32);
    function totals() external view returns (Totals memory);
    function account(address owner) external view returns (Account memory);
    function operator(OperatorId id) external view returns (OperatorView memory);
    function operatorOf(address key) external view returns (OperatorId);
    function counts()
        external
        view
        returns (uint256 operators, uint256 listedNodes, uint256 jobs, uint256 batches, uint256 challenges);

    /// @notice Up to `limit` listed nodes from position `cursor`, active or not (`OperatorView.active` tells).
    function nodes(uint256 cursor, uint256 limit) external view returns (OperatorView[] memory);

    /// @notice The active verifiers with slots in [from, to).
    function verifiers(uint256 from, uint256 to) external view returns (VerifierView[] memory);
    function activeVerifiers() external view returns (uint256 bitmap);
    function job(JobId id) external view returns (Job memory);
    function batch(BatchId id) external view returns (Batch memory);
    function slashes(BatchId id) external view returns (SlashRecord[] memory);

    /// @notice The unclaimed pay of batches `from` to `to - 1`; their numbers begin at 1.
    function claimable(uint256 from, uint256 to) external view returns (uint256);
    function isClaimed(BatchId id, uint256 index) external view returns (bool);
    function settlementDigest(Settlement calldata settlement) external view returns (bytes32);

    /// @notice The audit dial for a task of `segments` segments in a job that draws `segmentsPerAudit` of them: the
    /// probability that it is audited, max(p_floor, p_trust) as a fraction of 1e18, and how many segments are drawn then.
    /// More than `segmentsPerAudit` are drawn where even auditing every task on so few would let one faked segment pay.
    /// @param rewardInFlight Unsettled reward of all nodes of the operator's owner, this task's included.
    /// @param tasksInFlight How many tasks with this one's reward `rewardInFlight` would be, rounded down.
    function auditProbability(
        OperatorId id,
        uint256 tasksInFlight,
        uint256 rewardInFlight,
        uint256 segments,
        uint256 segmentsPerAudit
    ) external view returns (uint256 probability, uint256 drawn);

    /// @notice 0.5 + 0.5 min(1, log2(1 + consecutiveValid) / 10) as a fraction of 1e18.
    function payoutWeight(OperatorId id) external view returns (uint256);
}
