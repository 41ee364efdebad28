// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, BatchId, ChallengeId, JobId} from "./IRegistry.sol";

/// @title ICourt
/// @notice Challenges of what was settled: opened with a bond from the stake account, decided by a drawn jury, appealed
/// once. The Registry does what the Court decides and nothing else of it.
///
/// Nobody connected with a case sits on it, by owner: worker, requester, challenger, appellant, the batch's leader, its
/// signers, the accusers of a fault. No jury, or a silent one, never confirms what was settled: the batch is voided and
/// has to be settled again; nobody is slashed for that.
///
/// Known limits, stated bluntly:
/// - Whoever owns the majority of a drawn jury, and of a larger one on appeal, decides what is right.
/// - Where fewer owners than a jury (and the parties besides) offer a workload, a first jury may have 3 of them; where not
///   even so many do, anybody can have its batches voided at the price of a bond each time. A first verdict is the last
///   one where they are fewer than both juries together.
/// - The Court does not know whose work a batch holds: a worker may be drawn for the record that pays it.
/// - A state that no juror could get counts against its worker: it has to be there until the dispute is over.
/// - Of a bench of more than 1,024 places a draw looks at so many.
interface ICourt {
    /// @notice Immutable parameters. Times in seconds, shares in 1/10,000.
    struct Params {
        uint96 bond;
        uint96 appealBond;
        /// What a juror pays that does not reveal, or reveals the opposite of what is decided without having executed.
        uint96 jurorFine;
        /// What a verifier pays whose receipt no batch honoured.
        uint96 receiptPenalty;
        /// What a worker pays whose withheld state turned up before the jury, and the leader that said so.
        uint96 lateFine;
        /// Paid out of the bond to whoever draws a jury.
        uint96 drawReward;
        uint32 voteTime;
        uint32 revealTime;
        uint32 appealTime;
        /// Within this time of a challenge or an appeal a jury must have been drawn.
        uint32 drawTime;
        /// How long a verifier has to show the batch that honours a receipt.
        uint32 answerTime;
        /// Blocks from a challenge or an appeal to the block whose hash draws the jury.
        uint16 juryDelay;
        uint8 jurySize;
        uint8 appealJurySize;
        /// How often a round is drawn again after a jury that stayed silent.
        uint8 redraws;
        /// Of the losers' money, at most a node's stake: to the winner, to the requester (or to whom a false fault wronged),
        /// to the jury's majority; all the rest is burned. So accusing oneself never pays, and no verdict is a prize.
        uint16 winnerBps;
        uint16 requesterBps;
        uint16 juryBps;
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
        /// Seals whether it is work or a decoy.
        bytes32 mark;
    }

    /// @notice A segment of a commitment that a batch holds, and what its worker committed to as the state after it.
    struct Step {
        Commitment commitment;
        /// The worker's, as the record has it.
        bytes signature;
        /// Position of the commitment among the batch's leaves, and its proof.
        uint256 index;
        bytes32[] proof;
        uint32 segment;
        /// The 36 bytes of the state's CID, leaf `segment + 1` of the trace, and its proof.
        bytes afterCid;
        bytes32[] traceProof;
        /// Opens the commitment's mark as work, as the record does: a decoy's states are false, and no fault of its worker.
        bytes32 salt;
    }

    /// @notice What a challenge is about.
    enum Kind {
        None,
        /// A segment that was settled as valid.
        Segment,
        /// The record as a whole: it cannot be fetched, or does not validate.
        Record,
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
        /// No jury came together: the batch was voided, bonds went back.
        Dismissed
    }

    struct Challenge {
        /// The owner whose stake the bond came from.
        address challenger;
        uint64 batch;
        Kind kind;
        Phase phase;
        /// 0, or 1 on appeal.
        uint8 round;
        uint8 redraws;
        /// The worker of the segment or of the fault, the batch's leader, or the verifier that signed the receipt.
        uint32 accused;
        uint64 job;
        uint32 task;
        uint32 segment;
        /// Index of the fault, or position of the commitment among the batch's leaves.
        uint32 entry;
        uint40 openedAt;
        /// The block whose hash draws the jury. For a receipt its deadline (Unix seconds).
        uint40 drawBlock;
        /// End of the voting (revealing follows), of the time to appeal, of the time to answer, or of the time to draw.
        uint40 until;
        uint8 votesWrong;
        uint8 votesRight;
        /// The last verdict: what is challenged is wrong.
        bool wrong;
        /// Of the batch at the opening. Once it is another the challenge is stale: bonds go back, nobody pays.
        uint8 attempt;
        address appellant;
        uint96 fines;
        /// What is left of the challenger's bond: drawing juries is paid out of it, on appeal too.
        uint96 bond;
        bytes32 subject;
        bytes32 leaf;
        /// For a segment: the digest that the worker committed to as its state afterwards.
        bytes32 claimed;
        /// Length of the workload's bench when the challenge was opened.
        uint32 bench;
        uint8 workload;
    }

    /// @notice A challenge sealed in advance, so that nobody can copy one that is on its way.
    event ChallengeSealed(address indexed challenger, bytes32 indexed seal);
    event ChallengeOpened(
        ChallengeId indexed challenge,
        BatchId indexed batch,
        OperatorId indexed accused,
        Kind kind,
        uint64 job,
        uint32 task,
        uint32 segment,
        uint32 entry,
        address challenger
    );
    event JuryDrawn(ChallengeId indexed challenge, uint8 round, address[] jurors, uint256 voteEnds, uint256 revealEnds);
    event JuryRedrawn(ChallengeId indexed challenge, uint256 drawBlock);
    event VoteCommitted(ChallengeId indexed challenge, address indexed juror, OperatorId operator);
    /// @notice `evidence` is what the juror found: for a segment the digest of the state it leads to (or of the answer that it
    /// cannot be executed or had); for a fault the same, with its lowest bit set if the fault is false and cleared if not;
    /// for a record 1 for wrong and 2 for right. `keyed` binds it to juror and draw.
    event VoteRevealed(
        ChallengeId indexed challenge, address indexed juror, bool wrong, bytes32 evidence, bytes32 keyed
    );
    event JurorFined(ChallengeId indexed challenge, address indexed juror, uint256 amount);
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
    /// @notice A verifier signed two settlements of one attempt at a batch.
    event Equivocated(BatchId indexed batch, OperatorId indexed verifier, uint256 slashed);

    error NotSealed(address challenger, bytes32 seal);
    error BadCommitmentProof(BatchId batch, uint256 index);
    /// The salt does not show the commitment to be work.
    error NotWork(BatchId batch, uint256 index);
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
    error NotEquivocation(BatchId batch);

    /// @notice Seals a challenge that is opened in a later block: keccak256(abi.encode(caller's owner, subject, salt)), with
    /// `subject` as each function below says. Whoever copies an open challenge has no seal for it.
    function seal(bytes32 sealed_) external;

    /// @notice Challenges one segment of a commitment in a settled batch: the state that the worker committed to after it is
    /// not what it leads to. Only work that the worker signed can be challenged.
    /// Subject: keccak256(abi.encode(batch, attempt, Kind, index, segment)).
    function challengeSegment(BatchId batch, IRegistry.Header calldata header, Step calldata step, bytes32 salt)
        external
        returns (ChallengeId);

    /// @notice Challenges a settlement as a whole: its record cannot be had, or does not validate. Needs no leaf.
    /// `workload` is that of the batch's first line. Subject: keccak256(abi.encode(batch, attempt, Kind, 0, 0)).
    function challengeRecord(BatchId batch, IRegistry.Header calldata header, bytes32 salt)
        external
        returns (ChallengeId);

    /// @notice Challenges the fault at `index` of `slashes(batch)`: the operator is innocent. The accused's own owner may take
    /// the bond from what the fault holds. Subject: keccak256(abi.encode(batch, attempt, Kind, index, 0)).
    function challengeFault(BatchId batch, uint32 index, bytes32 salt) external returns (ChallengeId);

    /// @notice The same for the fault of an auditor, with the segment that it was seated on: if the jury clears it, and what the
    /// jurors found is not what the segment's worker committed to, the worker is convicted with it. Same subject and bond.
    function challengeAudit(
        BatchId batch,
        uint32 index,
        IRegistry.Header calldata header,
        Step calldata step,
        bytes32 salt
    ) external returns (ChallengeId);

    /// @notice Shows a verifier's signed receipt (EIP-712 `Receipt(bytes32 leaf,uint256 job,uint64 deadline)`) after its
    /// deadline, if a batch could be made until then. If nobody answers with a batch of that job in time, it pays. Needs no
    /// seal: only the worker has the receipt.
    function challengeReceipt(bytes32 leaf, JobId job, uint64 deadline, bytes calldata signature)
        external
        returns (ChallengeId);

    /// @notice Shows that a batch of the job, committed before the receipt's deadline, holds the commitment; anyone may.
    function answerReceipt(
        ChallengeId challenge,
        BatchId batch,
        IRegistry.Header calldata header,
        uint256 index,
        bytes32[] calldata proof
    ) external;

    /// @notice Draws the jury once its block has a hash; anyone may call, and is paid. Sets a new block when nobody called
    /// while the hash could be had, within the same time. A challenge (or an appeal) whose jury could be drawn in time and
    /// was not loses its bond and has no effect; what it was about can be challenged again while the window is open.
    function drawJury(ChallengeId challenge) external returns (address[] memory jurors);

    /// @notice A node's hot key seals its owner's vote, once:
    /// keccak256(abi.encode(challenge, round, redraws, owner, evidence, keyed, salt)).
    function commitVote(ChallengeId challenge, bytes32 sealedVote) external;

    /// @notice Opens the vote after the voting time. For a segment it counts as right if `evidence` is what the worker
    /// committed to, for a fault if its lowest bit is 0, for a record if it is 2.
    function revealVote(ChallengeId challenge, bytes32 evidence, bytes32 keyed, bytes32 salt) external;

    /// @notice Takes a first verdict to a larger jury, with the appeal bond; anyone may, once. The owner accused of a fault may
    /// take that bond from what the fault holds, too. Where an appeal gets no jury the first verdict stands.
    function appeal(ChallengeId challenge) external;

    /// @notice Moves a challenge on when its time has come: counts the votes, or carries out the decision; however late, it
    /// comes to the same. A majority of the revealed votes decides, a tie rejects. Where no more than half reveal, another
    /// jury of others is drawn, up to `redraws` times.
    ///
    /// Upheld: of a segment, the worker's owner loses all stake. Of a record, the settlement is voided, and the leader and all
    /// signers lose theirs. Of a fault, it is undone, and the owners of its accusers lose all stake if the reason was an
    /// answer that others contradicted, the leader's where it had no accusers; for a state that had been withheld the
    /// accused and the leader pay `lateFine` each. Of a receipt, the verifier's owner pays `receiptPenalty`. Rejected: the
    /// challenger loses its bond; the winner is the accused's owner, or nobody if a fault stands.
    ///
    /// Jurors who found what was decided, and the same as most of them, share the jury's part. A juror whose state or answer is
    /// another loses up to `nodeStake`, burned, where more than two thirds of all that voted found the same; whoever
    /// opened the opposite otherwise pays `jurorFine`.
    function resolve(ChallengeId challenge) external;

    /// @notice Two settlements of one attempt at a batch, each with the signature of whoever had seat `slot` last: its owner
    /// loses all stake, of which `winnerBps` go to the caller and the rest is burned, once for each attempt. `header` is
    /// that of the batch when they were signed.
    function reportEquivocation(
        IRegistry.Settlement calldata one,
        IRegistry.Settlement calldata other,
        IRegistry.Header calldata header,
        uint8 slot,
        bytes calldata signatureOne,
        bytes calldata signatureOther
    ) external;

    function registry() external view returns (IRegistry);
    function params() external view returns (Params memory);
    function challenge(ChallengeId id) external view returns (Challenge memory);
    function jurors(ChallengeId id, uint256 round) external view returns (address[] memory);
    function challengeCount() external view returns (uint256);

    /// @notice The longest time from a challenge to its end, in seconds.
    function longestDispute() external view returns (uint256);
}
