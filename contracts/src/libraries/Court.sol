// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Blockhash} from "@openzeppelin/contracts/utils/Blockhash.sol";

import {IRegistry, OperatorId, BatchId, ChallengeId} from "../interfaces/IRegistry.sol";
import {Jury} from "./Jury.sol";
import {Merkle} from "./Merkle.sol";
import {Settling} from "./Settling.sol";
import {Stakes, State} from "./State.sol";
import {TypedData} from "./TypedData.sol";
import {VerifierSet} from "./VerifierSet.sol";

/// @title Court
/// @notice Challenges: opened with a bond, decided by a drawn jury, appealed once. A linked library that runs in the
/// Registry's storage. The functions are documented in `IRegistry`, whose functions of the same names call them.
library Court {
    using VerifierSet for VerifierSet.Set;

    uint256 private constant FIRST = 0;
    uint256 private constant APPEAL = 1;
    bytes32 private constant RIGHT = bytes32(uint256(1));
    bytes32 private constant WRONG = bytes32(uint256(2));

    // ------------------------------------------------------------------------------------------------ opening

    function challengeSegment(
        State storage s,
        BatchId batch,
        IRegistry.Commitment calldata c,
        uint256 index,
        bytes32[] calldata proof,
        uint32 segment
    ) external returns (ChallengeId) {
        IRegistry.Batch storage b = s.batches[BatchId.unwrap(batch)];
        bytes32 leaf = Merkle.leaf(abi.encode(TypedData.commitment(c)));
        require(Merkle.verify(b.root, leaf, index, b.size, proof), IRegistry.BadCommitmentProof(batch, index));
        require(segment < c.segments, IRegistry.NoSuchSegment(segment, c.segments));
        uint32 worker = s.operatorOf[c.node];
        require(worker != 0, IRegistry.NotListed(OperatorId.wrap(0)));
        IRegistry.Challenge memory x;
        (x.kind, x.accused, x.task, x.segment) = (IRegistry.Kind.Segment, worker, c.task, segment);
        return _open(s, batch, x, keccak256(abi.encode(batch, b.attempt, IRegistry.Kind.Segment, index, segment)));
    }

    function challengePayout(State storage s, IRegistry.Claim calldata c) external returns (ChallengeId) {
        IRegistry.Batch storage b = s.batches[BatchId.unwrap(c.batch)];
        bytes32 leaf = Merkle.payoutLeaf(c);
        bool proven = Merkle.verify(b.payoutRoot, leaf, c.index, b.settled.payoutCount, c.proof);
        require(proven, IRegistry.BadPayoutProof(c.batch, c.index));
        IRegistry.Challenge memory x;
        (x.kind, x.accused, x.entry) = (IRegistry.Kind.Payout, b.verifier, c.index);
        return _open(s, c.batch, x, keccak256(abi.encode(c.batch, b.attempt, IRegistry.Kind.Payout, c.index)));
    }

    function challengeFault(State storage s, BatchId batch, uint32 index) external returns (ChallengeId) {
        IRegistry.Batch storage b = s.batches[BatchId.unwrap(batch)];
        IRegistry.SlashRecord[] storage faults = s.slashes[BatchId.unwrap(batch)];
        require(index < faults.length, IRegistry.NoSuchFault(batch, index));
        IRegistry.Challenge memory x;
        (x.kind, x.accused, x.entry) = (IRegistry.Kind.Fault, b.verifier, index);
        (x.task, x.segment) = (faults[index].task, faults[index].segment);
        return _open(s, batch, x, keccak256(abi.encode(batch, b.attempt, IRegistry.Kind.Fault, index)));
    }

    function challengeReceipt(State storage s, bytes32 leaf, uint64 deadline, bytes calldata signature, uint256 window)
        external
        returns (ChallengeId id)
    {
        bool timely = block.timestamp > deadline && block.timestamp <= deadline + window;
        require(timely, IRegistry.OutsideWindow(deadline, deadline + window));
        // slither-disable-next-line unused-return
        (address signer,,) = ECDSA.tryRecover(TypedData.digest(TypedData.receipt(leaf, deadline)), signature);
        uint32 verifier = s.operatorOf[signer];
        require(s.operators[verifier].role == IRegistry.Role.Verifier, IRegistry.NotVerifier(signer));
        IRegistry.Challenge memory x;
        (x.kind, x.accused, x.leaf) = (IRegistry.Kind.Receipt, verifier, leaf);
        (x.phase, x.until) = (IRegistry.Phase.Answer, uint40(block.timestamp) + s.court.answerTime);
        x.expiresAt = uint40(deadline);
        return _file(s, x, keccak256(abi.encode(IRegistry.Kind.Receipt, verifier, leaf)));
    }

    function _open(State storage s, BatchId batch, IRegistry.Challenge memory x, bytes32 subject)
        private
        returns (ChallengeId)
    {
        IRegistry.Batch storage b = s.batches[BatchId.unwrap(batch)];
        require(b.settled.settledAt != 0, IRegistry.NotSettled(batch));
        require(
            block.timestamp < b.settled.claimableAt, IRegistry.OutsideWindow(b.settled.settledAt, b.settled.claimableAt)
        );
        b.settled.openChallenges += 1;
        x.batch = uint64(BatchId.unwrap(batch));
        x.attempt = b.attempt;
        x.phase = IRegistry.Phase.Draw;
        x.drawBlock = uint40(block.number) + s.court.juryDelay;
        x.expiresAt = uint40(block.timestamp) + s.court.roundExpiry;
        return _file(s, x, subject);
    }

    function _file(State storage s, IRegistry.Challenge memory x, bytes32 subject) private returns (ChallengeId id) {
        uint256 earlier = s.subjects[subject];
        require(earlier == 0, IRegistry.AlreadyChallenged(ChallengeId.wrap(earlier)));
        id = ChallengeId.wrap(++s.books.challenges);
        s.subjects[subject] = ChallengeId.unwrap(id);
        x.challenger = msg.sender;
        x.bond = s.court.bond;
        x.subject = subject;
        s.challenges[ChallengeId.unwrap(id)] = x;
        s.books.bonds += x.bond;
        emit IRegistry.ChallengeOpened(
            id, BatchId.wrap(x.batch), OperatorId.wrap(x.accused), x.kind, x.task, x.segment, x.entry, msg.sender
        );
    }

    // ------------------------------------------------------------------------------------------------- juries

    function drawJury(State storage s, ChallengeId id, uint256 nodeStake) external returns (uint32[] memory jury) {
        IRegistry.Challenge storage x = _inPhase(s, id, IRegistry.Phase.Draw);
        require(block.timestamp < x.expiresAt, IRegistry.TooLate(id, x.expiresAt));
        require(block.number > x.drawBlock, IRegistry.TooEarly(id, x.drawBlock));
        bytes32 entropy = Blockhash.blockHash(x.drawBlock);
        if (entropy == 0) {
            // Nobody drew while the hash could be had: a new block decides, and everybody sees it.
            x.drawBlock = uint40(block.number) + s.court.juryDelay;
            emit IRegistry.JuryRedrawn(id, x.drawBlock);
            return jury;
        }
        uint256 size = x.round == FIRST ? s.court.jurySize : s.court.appealJurySize;
        IRegistry.Job storage j = s.jobs[s.batches[x.batch].job];
        address[4] memory barred = [s.operators[x.accused].owner, x.challenger, j.requester, x.appellant];
        if (x.kind == IRegistry.Kind.Fault) barred[0] = s.operators[s.slashes[x.batch][x.entry].operator].owner;
        bytes32 seed = keccak256(abi.encode(entropy, id, x.round));
        jury = Jury.draw(s, seed, Jury.Bench(size, j.workload, nodeStake, barred));
        require(jury.length == size, IRegistry.JuryTooSmall(id, jury.length, size));
        s.jurors[ChallengeId.unwrap(id)][x.round] = jury;
        x.phase = IRegistry.Phase.Vote;
        x.until = uint40(block.timestamp) + s.court.voteTime;
        emit IRegistry.JuryDrawn(id, x.round, jury, x.until, x.until + s.court.revealTime);
    }

    function commitVote(State storage s, ChallengeId id, bytes32 sealedVote) external {
        IRegistry.Challenge storage x = _inPhase(s, id, IRegistry.Phase.Vote);
        require(block.timestamp < x.until, IRegistry.TooLate(id, x.until));
        require(uint256(sealedVote) > uint256(WRONG), IRegistry.BadVote(id));
        uint32 juror = _juror(s, id, x.round);
        s.votes[ChallengeId.unwrap(id)][x.round][juror] = sealedVote;
        emit IRegistry.VoteCommitted(id, OperatorId.wrap(juror));
    }

    function revealVote(State storage s, ChallengeId id, bool wrong, bytes32 salt) external {
        IRegistry.Challenge storage x = _inPhase(s, id, IRegistry.Phase.Vote);
        require(block.timestamp >= x.until, IRegistry.TooEarly(id, x.until));
        uint256 end = uint256(x.until) + s.court.revealTime;
        require(block.timestamp < end, IRegistry.TooLate(id, end));
        uint32 juror = _juror(s, id, x.round);
        bytes32 sealedVote = keccak256(abi.encode(id, x.round, juror, wrong, salt));
        bytes32 held = s.votes[ChallengeId.unwrap(id)][x.round][juror];
        require(held == sealedVote, IRegistry.BadVote(id));
        s.votes[ChallengeId.unwrap(id)][x.round][juror] = wrong ? WRONG : RIGHT;
        if (wrong) x.votesWrong += 1;
        else x.votesRight += 1;
        emit IRegistry.VoteRevealed(id, OperatorId.wrap(juror), wrong);
    }

    /// @dev The caller's number, if its hot key sits on the jury. Juries are small.
    function _juror(State storage s, ChallengeId id, uint256 round) private view returns (uint32 juror) {
        juror = s.operatorOf[msg.sender];
        require(s.operators[juror].key == msg.sender, IRegistry.NotJuror(id, msg.sender));
        uint32[] storage jury = s.jurors[ChallengeId.unwrap(id)][round];
        for (uint256 i = 0; i < jury.length; ++i) {
            if (jury[i] == juror) return juror;
        }
        revert IRegistry.NotJuror(id, msg.sender);
    }

    // ---------------------------------------------------------------------------------------------- decisions

    function appeal(State storage s, ChallengeId id) external returns (uint96 bond) {
        IRegistry.Challenge storage x = _inPhase(s, id, IRegistry.Phase.Verdict);
        require(x.round == FIRST, IRegistry.WrongPhase(id, x.phase));
        require(block.timestamp < x.until, IRegistry.TooLate(id, x.until));
        bond = s.court.appealBond;
        s.books.bonds += bond;
        x.appellant = msg.sender;
        x.round = uint8(APPEAL);
        x.phase = IRegistry.Phase.Draw;
        (x.votesWrong, x.votesRight) = (0, 0);
        x.drawBlock = uint40(block.number) + s.court.juryDelay;
        x.expiresAt = uint40(block.timestamp) + s.court.roundExpiry;
        emit IRegistry.Appealed(id, msg.sender, x.drawBlock);
    }

    function answerReceipt(State storage s, ChallengeId id, BatchId batch, uint256 index, bytes32[] calldata proof)
        external
    {
        IRegistry.Challenge storage x = _inPhase(s, id, IRegistry.Phase.Answer);
        IRegistry.Batch storage b = s.batches[BatchId.unwrap(batch)];
        // For a receipt `expiresAt` holds the promise's own deadline.
        bool honoured = b.job != 0 && b.committedAt <= x.expiresAt;
        bytes32 leaf = Merkle.leaf(abi.encode(x.leaf));
        honoured = honoured && Merkle.verify(b.root, leaf, index, b.size, proof);
        require(honoured, IRegistry.BadCommitmentProof(batch, index));
        x.batch = uint64(BatchId.unwrap(batch));
        _close(s, id, x, false);
    }

    function resolve(State storage s, ChallengeId id) external {
        IRegistry.Challenge storage x = s.challenges[ChallengeId.unwrap(id)];
        IRegistry.Phase phase = x.phase;
        if (phase == IRegistry.Phase.Draw) {
            // No jury came together in time. Without a verdict everybody gets the bond back; one on appeal stands.
            require(block.timestamp >= x.expiresAt || _isStale(s, x), IRegistry.TooEarly(id, x.expiresAt));
            if (x.round == FIRST || _isStale(s, x)) return _dismiss(s, id, x);
            Stakes.give(s, x.appellant, s.court.appealBond);
            x.appellant = address(0);
            return _close(s, id, x, x.wrong);
        }
        if (phase == IRegistry.Phase.Vote) {
            uint256 end = uint256(x.until) + s.court.revealTime;
            require(block.timestamp >= end, IRegistry.TooEarly(id, end));
            return _tally(s, id, x);
        }
        require(phase == IRegistry.Phase.Verdict || phase == IRegistry.Phase.Answer, IRegistry.WrongPhase(id, phase));
        require(block.timestamp >= x.until, IRegistry.TooEarly(id, x.until));
        _close(s, id, x, phase == IRegistry.Phase.Answer || x.wrong);
    }

    /// @dev Counts a round. Where less than a majority revealed, the silent pay and another jury is drawn.
    function _tally(State storage s, ChallengeId id, IRegistry.Challenge storage x) private {
        uint32[] storage jury = s.jurors[ChallengeId.unwrap(id)][x.round];
        uint256 size = jury.length;
        for (uint256 i = 0; i < size; ++i) {
            if (uint256(s.votes[ChallengeId.unwrap(id)][x.round][jury[i]]) > uint256(WRONG)) {
                delete s.votes[ChallengeId.unwrap(id)][x.round][jury[i]];
            }
            if (s.votes[ChallengeId.unwrap(id)][x.round][jury[i]] == 0) {
                uint96 fine = Stakes.take(s, s.operators[jury[i]].owner, s.court.jurorFine);
                x.fines += fine;
                emit IRegistry.JurorFined(id, OperatorId.wrap(jury[i]), fine);
            }
        }
        if (uint256(x.votesWrong + x.votesRight) * 2 <= size) {
            for (uint256 i = 0; i < size; ++i) {
                delete s.votes[ChallengeId.unwrap(id)][x.round][jury[i]];
            }
            delete s.jurors[ChallengeId.unwrap(id)][x.round];
            (x.votesWrong, x.votesRight, x.phase) = (0, 0, IRegistry.Phase.Draw);
            x.drawBlock = uint40(block.number) + s.court.juryDelay;
            emit IRegistry.JuryRedrawn(id, x.drawBlock);
            return;
        }
        bool wrong = x.votesWrong > x.votesRight;
        emit IRegistry.Verdict(id, x.round, wrong, x.votesWrong, x.votesRight);
        if (x.round == APPEAL) {
            bool first = x.wrong;
            x.wrong = wrong;
            // The appellant argued against the first verdict: it has its bond back if the second one differs.
            if (first != wrong) {
                Stakes.give(s, x.appellant, s.court.appealBond);
                x.appellant = address(0);
            }
            return _close(s, id, x, wrong);
        }
        x.wrong = wrong;
        x.phase = IRegistry.Phase.Verdict;
        x.until = uint40(block.timestamp) + s.court.appealTime;
    }

    /// @dev Everybody's bond back; the same may be challenged again. The silent jurors' fines are burned.
    function _dismiss(State storage s, ChallengeId id, IRegistry.Challenge storage x) private {
        IRegistry.Batch storage b = s.batches[x.batch];
        if (!_isStale(s, x)) b.settled.openChallenges -= 1;
        Stakes.give(s, x.challenger, x.bond);
        if (x.appellant != address(0)) Stakes.give(s, x.appellant, s.court.appealBond);
        _burn(s, x.fines);
        x.phase = IRegistry.Phase.Dismissed;
        delete s.subjects[x.subject];
        emit IRegistry.ChallengeClosed(id, x.phase, 0, 0, 0, 0);
    }

    /// @dev Carries out the decision: the losers' money is one pot, shared by winner, requester and jury, partly burned.
    function _close(State storage s, ChallengeId id, IRegistry.Challenge storage x, bool upheld) private {
        if (x.batch != 0 && x.kind != IRegistry.Kind.Receipt) {
            if (_isStale(s, x)) return _dismiss(s, id, x);
            s.batches[x.batch].settled.openChallenges -= 1;
        }
        x.phase = upheld ? IRegistry.Phase.Upheld : IRegistry.Phase.Rejected;
        uint96 pot = x.appellant == address(0) ? 0 : s.court.appealBond;
        address winner = s.operators[x.accused].owner;
        if (upheld) {
            pot += _punish(s, x);
            winner = x.challenger;
            Stakes.give(s, x.challenger, x.bond);
        } else {
            pot += x.bond;
        }
        uint96 toWinner = Stakes.share(pot, s.court.winnerBps);
        Stakes.give(s, winner, toWinner);
        uint96 toRequester;
        if (x.kind != IRegistry.Kind.Receipt) {
            toRequester = Stakes.share(pot, s.court.requesterBps);
            s.books.bonds -= toRequester;
            Stakes.refill(s, s.jobs[s.batches[x.batch].job], toRequester);
        }
        uint96 toJury = _payJury(s, id, x, Stakes.share(pot, s.court.juryBps) + x.fines, upheld ? WRONG : RIGHT);
        uint96 burned = pot + x.fines - toWinner - toRequester - toJury;
        _burn(s, burned);
        emit IRegistry.ChallengeClosed(id, x.phase, toWinner, toRequester, toJury, burned);
    }

    function _punish(State storage s, IRegistry.Challenge storage x) private returns (uint96) {
        IRegistry.Operator storage accused = s.operators[x.accused];
        if (x.kind == IRegistry.Kind.Receipt) return Stakes.take(s, accused.owner, s.court.receiptPenalty);
        IRegistry.Batch storage b = s.batches[x.batch];
        if (x.kind != IRegistry.Kind.Segment) return Settling.void(s, BatchId.wrap(x.batch), b);
        accused.consecutiveValid = 0;
        (accused.lastFault, accused.forfeits) = (uint40(block.timestamp), true);
        // The worker's pay in this batch is forfeit too, however long the jury took.
        if (b.settled.claimableAt <= block.timestamp) b.settled.claimableAt = uint40(block.timestamp) + 1;
        return Stakes.take(s, accused.owner, type(uint256).max);
    }

    /// @dev Equal parts of `amount` for the jurors of either round whose revealed vote is the final decision.
    function _payJury(State storage s, ChallengeId id, IRegistry.Challenge storage x, uint96 amount, bytes32 vote)
        private
        returns (uint96 paid)
    {
        uint256 agreeing;
        for (uint256 pass = 0; pass < 2; ++pass) {
            if (pass == 1 && agreeing == 0) return 0;
            for (uint256 round = 0; round <= x.round; ++round) {
                uint32[] storage jury = s.jurors[ChallengeId.unwrap(id)][round];
                for (uint256 i = 0; i < jury.length; ++i) {
                    if (s.votes[ChallengeId.unwrap(id)][round][jury[i]] != vote) continue;
                    if (pass == 0) {
                        ++agreeing;
                    } else {
                        uint96 part = uint96(amount / agreeing);
                        Stakes.give(s, s.operators[jury[i]].owner, part);
                        paid += part;
                    }
                }
            }
        }
    }

    function _burn(State storage s, uint96 amount) private {
        s.books.bonds -= amount;
        s.books.burned += amount;
    }

    /// @dev The settlement that this challenge is about was voided by another one.
    function _isStale(State storage s, IRegistry.Challenge storage x) private view returns (bool) {
        return s.batches[x.batch].attempt != x.attempt;
    }

    function _inPhase(State storage s, ChallengeId id, IRegistry.Phase phase)
        private
        view
        returns (IRegistry.Challenge storage x)
    {
        x = s.challenges[ChallengeId.unwrap(id)];
        require(x.phase == phase, IRegistry.WrongPhase(id, x.phase));
    }
}
