// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Blockhash} from "@openzeppelin/contracts/utils/Blockhash.sol";

import {ICourt} from "./interfaces/ICourt.sol";
import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "./interfaces/IRegistry.sol";
import {Equivocation} from "./libraries/Equivocation.sol";
import {Evidence} from "./libraries/Evidence.sol";
import {Faults} from "./libraries/Faults.sol";
import {Jury} from "./libraries/Jury.sol";
import {Lines} from "./libraries/Lines.sol";

/// @title Court
/// @dev Calls nobody but the Registry and precompiles, and holds no tokens: its money is the Registry's `bonds`.
contract Court is ICourt {
    // The Registry calls no token in what the Court calls, so that nothing comes back here.
    // slither-disable-start reentrancy-no-eth,reentrancy-benign
    uint256 private constant BPS = 10_000;
    uint8 private constant FIRST = 0;
    uint8 private constant APPEAL = 1;

    /// @dev The most that a juror can find of a record: 1 for wrong, 2 for right.
    uint256 private constant OF_RECORDS = 2;

    // ----------------------------------------------------------------------------------------------- storage

    /// @inheritdoc ICourt
    IRegistry public immutable registry;
    uint96 private immutable NODE_STAKE;
    uint40 private immutable CHALLENGE_WINDOW;
    uint40 private immutable RECEIPT_TIME;

    Params private _params;
    uint256 private _count;
    mapping(uint256 challenge => Challenge) private _challenges;
    mapping(bytes32 seal => uint256 blockNumber) private _seals;
    /// @dev What has been challenged, so that nothing is tried twice.
    mapping(bytes32 subject => uint256 challenge) private _subjects;
    /// @dev Open challenges of one attempt at a batch; the Registry holds the batch while there are any.
    mapping(uint256 batch => mapping(uint256 attempt => uint256 count)) private _open;
    mapping(uint256 challenge => Jury.Panel) private _panels;
    /// @dev Verifier and batch attempt of which two signatures have been shown.
    mapping(bytes32 offence => bool) private _reported;

    constructor(IRegistry registry_, Params memory p) {
        IRegistry.Params memory r = registry_.params();
        require(registry_.court() == address(this), IRegistry.BadParams("not the court of this registry"));
        require(p.jurySize > 0 && p.appealJurySize > p.jurySize, IRegistry.BadParams("jury sizes"));
        bool zero = p.juryDelay == 0 || p.drawTime == 0 || p.voteTime == 0 || p.revealTime == 0 || p.answerTime == 0;
        require(!zero, IRegistry.BadParams("zero time"));
        uint256 draws = 2 * (1 + uint256(p.redraws));
        require(p.bond > draws * p.drawReward && p.appealBond > 0, IRegistry.BadParams("bond must pay for all draws"));
        bool burns = uint256(p.winnerBps) + p.requesterBps + p.juryBps < BPS;
        require(burns, IRegistry.BadParams("some of the losers' money must be burned"));
        registry = registry_;
        (NODE_STAKE, CHALLENGE_WINDOW, RECEIPT_TIME) = (r.nodeStake, r.challengeWindow, r.receiptTime);
        _params = p;
        uint256 disputed = uint256(r.challengeWindow) + longestDispute();
        require(r.unstakeDelay > r.settleGrace + disputed, IRegistry.BadParams("unstakeDelay is too short"));
        uint256 promised = uint256(r.receiptTime) + r.challengeWindow + p.answerTime;
        require(r.unstakeDelay > promised, IRegistry.BadParams("unstakeDelay is too short for receipts"));
        require(r.seatDelay > disputed, IRegistry.BadParams("seatDelay is too short"));
    }

    // ----------------------------------------------------------------------------------------------- opening

    /// @inheritdoc ICourt
    function seal(bytes32 sealed_) external {
        // The first time counts: nobody makes a seal younger by repeating it.
        // slither-disable-next-line incorrect-equality
        if (_seals[sealed_] == 0) _seals[sealed_] = block.number;
        emit ChallengeSealed(_payee(msg.sender), sealed_);
    }

    /// @inheritdoc ICourt
    function challengeSegment(BatchId batch, IRegistry.Header calldata header, Step calldata step, bytes32 salt)
        external
        returns (ChallengeId)
    {
        IRegistry.Standing memory b = _contestable(batch);
        Challenge memory x;
        (x.accused, x.claimed) = _checkStep(batch, b.header, header, step);
        (x.kind, x.job) = (Kind.Segment, uint64(step.commitment.job));
        (x.task, x.segment, x.entry) = (step.commitment.task, step.segment, uint32(step.index));
        x.challenger = registry.chargeBond(msg.sender, _params.bond);
        return _openAbout(batch, b.attempt, x, step.index, step.segment, salt);
    }

    /// @inheritdoc ICourt
    function challengeRecord(BatchId batch, IRegistry.Header calldata header, bytes32 salt)
        external
        returns (ChallengeId id)
    {
        IRegistry.Standing memory b = _contestable(batch);
        Evidence.checkHeader(batch, b.header, header);
        Challenge memory x;
        (x.kind, x.accused, x.job) = (Kind.Record, b.leader, uint64(Lines.job(header.lines[0])));
        x.challenger = registry.chargeBond(msg.sender, _params.bond);
        id = _openAbout(batch, b.attempt, x, 0, 0, salt);
        for (uint256 i = 1; i < header.lines.length; ++i) {
            // slither-disable-next-line unused-return
            (address requester,,) = registry.terms(JobId.wrap(Lines.job(header.lines[i])));
            _panels[ChallengeId.unwrap(id)].barred.push(requester);
        }
    }

    /// @inheritdoc ICourt
    function challengeFault(BatchId batch, uint32 index, bytes32 salt) external returns (ChallengeId) {
        (IRegistry.Standing memory b, Challenge memory x,) = _accused(batch, index);
        return _openAbout(batch, b.attempt, x, index, 0, salt);
    }

    /// @inheritdoc ICourt
    function challengeAudit(
        BatchId batch,
        uint32 index,
        IRegistry.Header calldata header,
        Step calldata step,
        bytes32 salt
    ) external returns (ChallengeId id) {
        (IRegistry.Standing memory b, Challenge memory x, bool audit) = _accused(batch, index);
        bool same = x.job == step.commitment.job && x.task == step.commitment.task && x.segment == step.segment;
        require(audit && same, NoSuchFault(batch, index));
        uint32 worker;
        (worker, x.claimed) = _checkStep(batch, b.header, header, step);
        id = _openAbout(batch, b.attempt, x, index, 0, salt);
        Jury.Panel storage panel = _panels[ChallengeId.unwrap(id)];
        panel.worker = worker;
        panel.barred.push(_ownerOf(worker));
    }

    /// @dev A challenge of a fault, its bond paid, and whether the fault is an auditor's.
    function _accused(BatchId batch, uint32 index)
        private
        returns (IRegistry.Standing memory b, Challenge memory x, bool audit)
    {
        b = _contestable(batch);
        (x.kind, x.entry) = (Kind.Fault, index);
        (x.challenger, x.accused, x.job, x.task, x.segment, audit) =
            Faults.open(registry, batch, index, _params.bond, _payee(msg.sender));
    }

    function _checkStep(BatchId batch, bytes32 stored, IRegistry.Header calldata header, Step calldata step)
        private
        view
        returns (uint32, bytes32)
    {
        return Evidence.checkStep(registry, batch, stored, header, step);
    }

    /// @inheritdoc ICourt
    function challengeReceipt(bytes32 leaf, JobId job, uint64 deadline, bytes calldata signature)
        external
        returns (ChallengeId)
    {
        uint256 closes = uint256(deadline) + CHALLENGE_WINDOW;
        bool timely = block.timestamp > deadline && block.timestamp <= closes;
        require(timely && deadline <= _lastCommit(job), OutsideWindow(deadline, closes));
        (uint32 verifier, bytes32 receipt_) = Evidence.receipt(registry, leaf, job, deadline, signature);
        Challenge memory x;
        (x.kind, x.phase, x.accused, x.leaf) = (Kind.Receipt, Phase.Answer, verifier, leaf);
        (x.job, x.openedAt) = (uint64(JobId.unwrap(job)), uint40(block.timestamp));
        x.until = uint40(block.timestamp) + _params.answerTime;
        // There is no draw: its field holds until when the batch had to be committed.
        x.drawBlock = uint40(deadline);
        x.challenger = registry.chargeBond(msg.sender, _params.bond);
        return _file(x, keccak256(abi.encode(Kind.Receipt, verifier, receipt_)));
    }

    /// @dev Until when batches of a job can be committed (Unix seconds).
    function _lastCommit(JobId job) private view returns (uint256) {
        // slither-disable-next-line unused-return
        (,, uint256 end) = registry.terms(job);
        return end + RECEIPT_TIME;
    }

    /// @dev A settled batch within its window. That is counted from the settlement: nothing prolongs it.
    function _contestable(BatchId batch) private view returns (IRegistry.Standing memory b) {
        b = registry.standing(batch);
        uint256 opens = b.settledAt;
        require(opens != 0, IRegistry.NotSettled(batch));
        require(block.timestamp < opens + CHALLENGE_WINDOW, OutsideWindow(opens, opens + CHALLENGE_WINDOW));
    }

    /// @dev Opens a challenge of what was settled, sealed by its challenger in an earlier block.
    function _openAbout(BatchId batch, uint8 attempt, Challenge memory x, uint256 index, uint32 segment, bytes32 salt)
        private
        returns (ChallengeId)
    {
        bytes32 subject = keccak256(abi.encode(batch, attempt, x.kind, index, segment));
        bytes32 sealed_ = keccak256(abi.encode(x.challenger, subject, salt));
        uint256 sealedAt = _seals[sealed_];
        require(sealedAt != 0 && sealedAt < block.number, NotSealed(x.challenger, sealed_));
        delete _seals[sealed_];
        // slither-disable-next-line unused-return
        (, x.workload,) = registry.terms(JobId.wrap(x.job));
        x.bench = uint32(registry.benchLength(x.workload));
        (x.batch, x.attempt, x.phase) = (uint64(BatchId.unwrap(batch)), attempt, Phase.Draw);
        x.openedAt = uint40(block.timestamp);
        x.until = uint40(block.timestamp) + _params.drawTime;
        x.drawBlock = uint40(block.number) + _params.juryDelay;
        if (_open[x.batch][attempt]++ == 0) registry.hold(batch);
        return _file(x, subject);
    }

    function _file(Challenge memory x, bytes32 subject) private returns (ChallengeId id) {
        uint256 earlier = _subjects[subject];
        require(earlier == 0, AlreadyChallenged(ChallengeId.wrap(earlier)));
        id = ChallengeId.wrap(++_count);
        _subjects[subject] = ChallengeId.unwrap(id);
        (x.subject, x.bond) = (subject, _params.bond);
        _challenges[ChallengeId.unwrap(id)] = x;
        emit ChallengeOpened(
            id,
            BatchId.wrap(x.batch),
            OperatorId.wrap(x.accused),
            x.kind,
            x.job,
            x.task,
            x.segment,
            x.entry,
            x.challenger
        );
    }

    // ------------------------------------------------------------------------------------------------ juries

    /// @inheritdoc ICourt
    function drawJury(ChallengeId id) external returns (address[] memory jury) {
        Challenge storage x = _inPhase(id, Phase.Draw);
        require(!_isStale(x), WrongPhase(id, Phase.Dismissed));
        require(block.timestamp < x.until, TooLate(id, x.until));
        require(block.number > x.drawBlock, TooEarly(id, x.drawBlock));
        bytes32 entropy = Blockhash.blockHash(x.drawBlock);
        if (entropy == 0) {
            // Nobody drew while the hash could be had: a new block decides, and everybody sees it.
            _setDrawBlock(id, x);
            return jury;
        }
        uint256 size = _size(x);
        jury = Jury.draw(registry, id, x, _panels[ChallengeId.unwrap(id)], entropy, size);
        uint256 least = _least(x, size);
        require(jury.length >= least, JuryTooSmall(id, jury.length, least));
        if (jury.length < size) Jury.makeOdd(jury);
        _panels[ChallengeId.unwrap(id)].jurors[x.round] = jury;
        x.phase = Phase.Vote;
        x.until = uint40(block.timestamp) + _params.voteTime;
        x.bond -= _params.drawReward;
        _give(_payee(msg.sender), _params.drawReward);
        emit JuryDrawn(id, x.round, jury, x.until, x.until + _params.revealTime);
    }

    /// @inheritdoc ICourt
    function commitVote(ChallengeId id, bytes32 sealedVote) external {
        Challenge storage x = _inPhase(id, Phase.Vote);
        require(block.timestamp < x.until, TooLate(id, x.until));
        (address juror, OperatorId operator) = _juror(id, x.round);
        Jury.Vote storage vote = _panels[ChallengeId.unwrap(id)].votes[x.round][juror];
        require(sealedVote != 0 && vote.sealed_ == 0, BadVote(id));
        vote.sealed_ = sealedVote;
        emit VoteCommitted(id, juror, operator);
    }

    /// @inheritdoc ICourt
    function revealVote(ChallengeId id, bytes32 evidence, bytes32 keyed, bytes32 salt) external {
        Challenge storage x = _inPhase(id, Phase.Vote);
        require(block.timestamp >= x.until, TooEarly(id, x.until));
        uint256 end = _revealEnd(x);
        require(block.timestamp < end, TooLate(id, end));
        (address juror,) = _juror(id, x.round);
        Jury.Vote storage vote = _panels[ChallengeId.unwrap(id)].votes[x.round][juror];
        bytes32 sealedVote = keccak256(abi.encode(id, x.round, x.redraws, juror, evidence, keyed, salt));
        require(vote.sealed_ == sealedVote && vote.evidence == 0 && _isEvidence(x, evidence), BadVote(id));
        vote.evidence = evidence;
        bool wrong = Jury.isWrong(x, evidence);
        if (wrong) x.votesWrong += 1;
        else x.votesRight += 1;
        emit VoteRevealed(id, juror, wrong, evidence, keyed);
    }

    /// @dev The owner on the jury whose node the caller is, whether that is listed or not.
    function _juror(ChallengeId id, uint256 round) private view returns (address owner, OperatorId operator) {
        (operator, owner) = registry.nodeOf(msg.sender);
        bool node = owner != address(0);
        address[] storage jury = _panels[ChallengeId.unwrap(id)].jurors[round];
        for (uint256 i = 0; node && i < jury.length; ++i) {
            if (jury[i] == owner) return (owner, operator);
        }
        revert NotJuror(id, msg.sender);
    }

    function _isEvidence(Challenge storage x, bytes32 evidence) private view returns (bool) {
        return evidence != 0 && (x.kind != Kind.Record || uint256(evidence) <= OF_RECORDS);
    }

    function _size(Challenge storage x) private view returns (uint256) {
        return x.round == FIRST ? _params.jurySize : _params.appealJurySize;
    }

    /// @dev How many jurors are enough where a bench has no more. An appeal is nothing without its larger jury.
    function _least(Challenge storage x, uint256 size) private view returns (uint256) {
        return x.round == FIRST && size > Jury.LEAST ? Jury.LEAST : size;
    }

    function _revealEnd(Challenge storage x) private view returns (uint256) {
        return uint256(x.until) + _params.revealTime;
    }

    function _setDrawBlock(ChallengeId id, Challenge storage x) private {
        x.drawBlock = uint40(block.number) + _params.juryDelay;
        emit JuryRedrawn(id, x.drawBlock);
    }

    // --------------------------------------------------------------------------------------------- decisions

    /// @inheritdoc ICourt
    function appeal(ChallengeId id) external {
        Challenge storage x = _inPhase(id, Phase.Verdict);
        require(block.timestamp < x.until, TooLate(id, x.until));
        require(!_isStale(x), WrongPhase(id, Phase.Dismissed));
        uint96 bond = _params.appealBond;
        bool fault = x.kind == Kind.Fault;
        x.appellant =
            fault ? Faults.charge(registry, x, bond, _payee(msg.sender)) : registry.chargeBond(msg.sender, bond);
        (x.round, x.redraws, x.phase) = (APPEAL, 0, Phase.Draw);
        (x.votesWrong, x.votesRight) = (0, 0);
        x.until = uint40(block.timestamp) + _params.drawTime;
        x.drawBlock = uint40(block.number) + _params.juryDelay;
        emit Appealed(id, x.appellant, x.drawBlock);
    }

    /// @inheritdoc ICourt
    function answerReceipt(
        ChallengeId id,
        BatchId batch,
        IRegistry.Header calldata header,
        uint256 index,
        bytes32[] calldata proof
    ) external {
        Challenge storage x = _inPhase(id, Phase.Answer);
        IRegistry.Standing memory b = registry.standing(batch);
        bool honoured = b.committedAt != 0 && b.committedAt <= x.drawBlock && !b.dropped;
        honoured = honoured && Evidence.holds(b.header, header, x.job, x.leaf, index, proof);
        require(honoured, BadCommitmentProof(batch, index));
        x.batch = uint64(BatchId.unwrap(batch));
        _close(id, x, false);
    }

    /// @inheritdoc ICourt
    function resolve(ChallengeId id) external {
        Challenge storage x = _challenges[ChallengeId.unwrap(id)];
        Phase phase = x.phase;
        require(phase >= Phase.Draw && phase <= Phase.Answer, WrongPhase(id, phase));
        if (_isStale(x)) return _dismiss(id, x);
        uint256 end = phase == Phase.Vote ? _revealEnd(x) : x.until;
        require(block.timestamp >= end, TooEarly(id, end));
        if (phase == Phase.Draw) return _expire(id, x);
        if (phase == Phase.Vote) return _tally(id, x);
        _close(id, x, phase == Phase.Answer || x.wrong);
    }

    /// @dev Counts a round, whose silent jurors pay. Where no more than half revealed, another jury is drawn.
    function _tally(ChallengeId id, Challenge storage x) private {
        Jury.Panel storage panel = _panels[ChallengeId.unwrap(id)];
        Jury.fineSilent(registry, id, x, panel, _params.jurorFine);
        if (uint256(x.votesWrong) + x.votesRight <= panel.jurors[x.round].length / 2) return _redraw(id, x);
        bool wrong = x.votesWrong > x.votesRight;
        emit Verdict(id, x.round, wrong, x.votesWrong, x.votesRight);
        if (x.round == FIRST) {
            (x.wrong, x.phase) = (wrong, Phase.Verdict);
            x.until = uint40(block.timestamp) + _params.appealTime;
            return;
        }
        // The appellant argued against the first verdict: it has its bond back if the second one differs.
        if (x.wrong != wrong) _returnAppealBond(x);
        x.wrong = wrong;
        _close(id, x, wrong);
    }

    /// @dev Another jury of others, or none any more.
    function _redraw(ChallengeId id, Challenge storage x) private {
        Jury.dissolve(x, _panels[ChallengeId.unwrap(id)]);
        if (x.redraws == _params.redraws) return _endWithoutJury(id, x);
        x.redraws += 1;
        x.phase = Phase.Draw;
        x.until = uint40(block.timestamp) + _params.drawTime;
        _setDrawBlock(id, x);
    }

    /// @dev The time to draw is over. A jury that could have been drawn costs its bond whoever wanted it; the first verdict
    /// stands where there is one.
    function _expire(ChallengeId id, Challenge storage x) private {
        require(block.number > x.drawBlock, TooEarly(id, x.drawBlock));
        bytes32 entropy = Blockhash.blockHash(x.drawBlock);
        if (entropy == 0) entropy = blockhash(block.number - 1);
        uint256 size = _size(x);
        address[] memory jury = Jury.draw(registry, id, x, _panels[ChallengeId.unwrap(id)], entropy, size);
        if (jury.length < _least(x, size)) {
            // Whoever wanted a jury where there is none pays for the voiding; jurors that stayed silent are not its doing.
            if (x.round == FIRST && x.redraws == 0) {
                x.fines = x.bond;
                x.bond = 0;
            }
            return _endWithoutJury(id, x);
        }
        if (x.round == APPEAL) return _close(id, x, x.wrong);
        x.phase = Phase.Rejected;
        // No jury has looked: somebody else may have one look while the window is open.
        delete _subjects[x.subject];
        _release(x);
        uint96 burned = x.bond + x.fines;
        registry.burn(burned);
        emit ChallengeClosed(id, Phase.Rejected, 0, 0, 0, burned);
    }

    /// @dev Too few may sit, or all juries stayed silent. Nothing is confirmed by that: the batch has to be settled again. An
    /// appeal leaves the first jury's verdict.
    function _endWithoutJury(ChallengeId id, Challenge storage x) private {
        if (x.round == APPEAL) {
            _returnAppealBond(x);
            return _close(id, x, x.wrong);
        }
        _release(x);
        // slither-disable-next-line unused-return
        registry.void(BatchId.wrap(x.batch), false);
        _dismiss(id, x);
    }

    /// @dev Everybody's bond back, or what is left of it; fines are burned.
    function _dismiss(ChallengeId id, Challenge storage x) private {
        x.phase = Phase.Dismissed;
        _give(x.challenger, x.bond);
        if (x.appellant != address(0)) _returnAppealBond(x);
        registry.burn(x.fines);
        emit ChallengeClosed(id, Phase.Dismissed, 0, 0, 0, x.fines);
    }

    /// @dev Carries out the decision: the losers' money is one pot, shared by winner, requester and jury, the rest burned.
    function _close(ChallengeId id, Challenge storage x, bool upheld) private {
        x.phase = upheld ? Phase.Upheld : Phase.Rejected;
        if (x.kind != Kind.Receipt) _release(x);
        uint96 pot = x.appellant == address(0) ? 0 : _params.appealBond;
        address winner = x.challenger;
        Jury.Panel storage panel = _panels[ChallengeId.unwrap(id)];
        // Whom a false fault wronged; otherwise the job's requester.
        address wronged;
        if (upheld) {
            uint96 taken;
            (taken, wronged) = Faults.punish(registry, x, panel, _params.lateFine, _params.receiptPenalty);
            pot += taken;
            _give(winner, x.bond);
        } else {
            pot += x.bond;
            // A node whose fault stands has won nothing.
            winner = x.kind == Kind.Fault ? address(0) : _ownerOf(x.accused);
        }
        uint96 toWinner = winner == address(0) ? 0 : _share(pot, _params.winnerBps);
        _give(winner, toWinner);
        uint96 toRequester = _share(pot, _params.requesterBps);
        if (wronged != address(0)) _give(wronged, toRequester);
        else registry.giveJob(JobId.wrap(x.job), toRequester);
        uint96 shared = _share(pot, _params.juryBps);
        uint96 toJury = Jury.pay(registry, id, x, panel, _params.jurorFine, NODE_STAKE, shared);
        uint96 burned = pot + x.fines - toWinner - toRequester - toJury;
        registry.burn(burned);
        emit ChallengeClosed(id, x.phase, toWinner, toRequester, toJury, burned);
    }

    function _returnAppealBond(Challenge storage x) private {
        _give(x.appellant, _params.appealBond);
        x.appellant = address(0);
    }

    function _release(Challenge storage x) private {
        if (--_open[x.batch][x.attempt] == 0) registry.release(BatchId.wrap(x.batch));
    }

    /// @dev Shares are taken of no more than a node's stake, so that no verdict is a prize worth buying.
    function _share(uint96 pot, uint256 bps) private view returns (uint96) {
        return uint96((pot < NODE_STAKE ? pot : NODE_STAKE) * bps / BPS);
    }

    /// @dev The settlement that this challenge is about was voided by another one.
    function _isStale(Challenge storage x) private view returns (bool) {
        if (x.kind == Kind.Receipt) return false;
        IRegistry.Standing memory b = registry.standing(BatchId.wrap(x.batch));
        return b.attempt != x.attempt || b.settledAt == 0;
    }

    function _inPhase(ChallengeId id, Phase phase) private view returns (Challenge storage x) {
        x = _challenges[ChallengeId.unwrap(id)];
        require(x.phase == phase, WrongPhase(id, x.phase));
    }

    // ------------------------------------------------------------------------------------------ equivocation

    /// @inheritdoc ICourt
    function reportEquivocation(
        IRegistry.Settlement calldata one,
        IRegistry.Settlement calldata other,
        IRegistry.Header calldata header,
        uint8 slot,
        bytes calldata signatureOne,
        bytes calldata signatureOther
    ) external {
        (uint32 verifier, bytes32 offence) = Equivocation.show(
            registry, one, other, header, slot, signatureOne, signatureOther
        );
        require(!_reported[offence], NotEquivocation(one.batch));
        _reported[offence] = true;
        uint96 taken = _slash(verifier, type(uint96).max);
        uint96 reward = uint96(uint256(taken) * _params.winnerBps / BPS);
        _give(_payee(msg.sender), reward);
        registry.burn(taken - reward);
        emit Equivocated(one.batch, OperatorId.wrap(verifier), taken);
    }

    // ------------------------------------------------------------------------------------------------- people

    /// @dev Whose stake account pays and is paid for `key`: its operator's owner's, or its own.
    function _payee(address key) private view returns (address) {
        return registry.payee(key);
    }

    function _give(address owner, uint96 amount) private {
        registry.give(owner, amount);
    }

    function _slash(uint32 operator, uint96 amount) private returns (uint96) {
        return registry.slash(_ownerOf(operator), amount);
    }

    function _ownerOf(uint32 operator) private view returns (address) {
        return registry.ownerOf(OperatorId.wrap(operator));
    }

    // ------------------------------------------------------------------------------------------------- views

    /// @inheritdoc ICourt
    function params() external view returns (Params memory) {
        return _params;
    }

    /// @inheritdoc ICourt
    function challenge(ChallengeId id) external view returns (Challenge memory) {
        return _challenges[ChallengeId.unwrap(id)];
    }

    /// @inheritdoc ICourt
    function jurors(ChallengeId id, uint256 round) external view returns (address[] memory) {
        return _panels[ChallengeId.unwrap(id)].jurors[round];
    }

    /// @inheritdoc ICourt
    function challengeCount() external view returns (uint256) {
        return _count;
    }

    /// @inheritdoc ICourt
    function longestDispute() public view returns (uint256) {
        Params storage p = _params;
        uint256 draws = (1 + uint256(p.redraws)) * (uint256(p.drawTime) + p.voteTime + p.revealTime);
        return 2 * draws + p.appealTime;
    }
    // slither-disable-end reentrancy-no-eth,reentrancy-benign
}
