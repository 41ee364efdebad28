// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {LibBit} from "solady/utils/LibBit.sol";
import {SafeTransferLib} from "solady/utils/SafeTransferLib.sol";

import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "./interfaces/IRegistry.sol";
import {Court} from "./libraries/Court.sol";
import {Dial} from "./libraries/Dial.sol";
import {Merkle} from "./libraries/Merkle.sol";
import {Operators} from "./libraries/Operators.sol";
import {Settling} from "./libraries/Settling.sol";
import {Books, Stakes, State} from "./libraries/State.sol";
import {TypedData} from "./libraries/TypedData.sol";
import {VerifierSet} from "./libraries/VerifierSet.sol";

/// @title Registry
contract Registry is IRegistry, ReentrancyGuardTransient {
    using SafeTransferLib for address;
    using VerifierSet for VerifierSet.Set;

    /// @dev Payouts whose claimed bit lies in the batch itself.
    uint256 private constant INLINE_CLAIMS = 40;
    uint256 private constant BPS = 10_000;

    // ----------------------------------------------------------------------------------------------- storage

    address private immutable TOKEN;
    uint96 private immutable NODE_STAKE;
    uint96 private immutable VERIFIER_STAKE;
    uint40 private immutable CHALLENGE_WINDOW;
    uint40 private immutable UNSTAKE_DELAY;
    uint40 private immutable SETTLE_GRACE;
    uint40 private immutable TAKEOVER_TIMEOUT;
    uint16 private immutable DRAW_DELAY;
    uint16 private immutable COLLUSION_BPS;
    uint16 private immutable SLASH_REQUESTER_BPS;
    uint16 private immutable SLASH_AUDITOR_BPS;

    State private _s;

    constructor(address token_, Params memory p) {
        require(token_.code.length > 0, BadParams("token has no code"));
        require(IERC20(token_).totalSupply() <= type(uint96).max, BadParams("supply beyond 96 bits"));
        CourtParams memory c = p.court;
        uint256 round = uint256(c.roundExpiry) + c.voteTime + c.revealTime;
        uint256 longest = p.challengeWindow + 2 * round + c.appealTime;
        require(p.unstakeDelay > longest, BadParams("unstakeDelay must exceed the longest challenge"));
        require(c.jurySize > 0 && c.appealJurySize > c.jurySize, BadParams("jury sizes"));
        require(c.juryDelay > 0 && c.bond > 0 && c.appealBond > 0, BadParams("zero jury delay or bond"));
        bool burns = uint256(c.winnerBps) + c.requesterBps + c.juryBps < BPS;
        require(burns, BadParams("some of the losers' money must be burned"));
        require(p.challengeWindow > 0 && p.drawDelay > 0, BadParams("zero window or draw delay"));
        require(p.collusionBps < BPS, BadParams("collusionBps"));
        require(uint256(p.slashRequesterBps) + p.slashAuditorBps < BPS, BadParams("some of a slash must be burned"));
        require(p.nodeStake > 0 && p.verifierStake > 0, BadParams("zero stake"));
        TOKEN = token_;
        NODE_STAKE = p.nodeStake;
        VERIFIER_STAKE = p.verifierStake;
        CHALLENGE_WINDOW = p.challengeWindow;
        UNSTAKE_DELAY = p.unstakeDelay;
        SETTLE_GRACE = p.settleGrace;
        TAKEOVER_TIMEOUT = p.takeoverTimeout;
        DRAW_DELAY = p.drawDelay;
        COLLUSION_BPS = p.collusionBps;
        SLASH_REQUESTER_BPS = p.slashRequesterBps;
        SLASH_AUDITOR_BPS = p.slashAuditorBps;
        c.quarantine = uint32(p.unstakeDelay);
        _s.court = c;
    }

    // ----------------------------------------------------------------------------------------------- staking

    /// @inheritdoc IRegistry
    function registerNode(address key, uint96 stake, uint64 workloads, string calldata endpoint, bytes calldata consent)
        external
        nonReentrant
        returns (OperatorId id)
    {
        id = Operators.registerNode(_s, key, workloads, endpoint, consent);
        _addStake(stake);
    }

    /// @inheritdoc IRegistry
    function registerVerifier(
        address key,
        uint96 stake,
        string calldata endpoint,
        bytes calldata consent,
        bytes calldata publicKey,
        bytes calldata possession
    ) external nonReentrant returns (OperatorId id) {
        id = Operators.registerVerifier(_s, key, endpoint, consent, publicKey, possession);
        _addStake(stake);
    }

    /// @inheritdoc IRegistry
    function rotateKey(OperatorId id, address key, bytes calldata consent) external {
        Operators.rotateKey(_s, id, key, consent);
    }

    /// @inheritdoc IRegistry
    function setEndpoint(OperatorId id, string calldata endpoint) external {
        Operators.setEndpoint(_s, id, endpoint);
    }

    /// @inheritdoc IRegistry
    function retire(OperatorId id) external {
        Operators.retire(_s, id, NODE_STAKE, VERIFIER_STAKE);
    }

    /// @inheritdoc IRegistry
    function addStake(uint96 amount) external nonReentrant {
        _addStake(amount);
    }

    /// @inheritdoc IRegistry
    function requestUnstake(uint96 amount) external {
        Account storage a = _s.accounts[msg.sender];
        uint256 required = Stakes.required(a, NODE_STAKE, VERIFIER_STAKE);
        require(a.stake >= required + amount, StakeTooLow(msg.sender, a.stake, required + amount));
        a.stake -= amount;
        a.unbonding += amount;
        a.releaseAt = uint40(block.timestamp) + UNSTAKE_DELAY;
        _s.books.stakes -= amount;
        _s.books.unbonding += amount;
        emit UnstakeRequested(msg.sender, amount, a.releaseAt);
    }

    /// @inheritdoc IRegistry
    function withdraw() external nonReentrant {
        Account storage a = _s.accounts[msg.sender];
        uint96 amount = a.unbonding;
        require(amount > 0, NothingToWithdraw(msg.sender));
        require(block.timestamp >= a.releaseAt, StillBonded(msg.sender, a.releaseAt));
        a.unbonding = 0;
        _s.books.unbonding -= amount;
        emit Withdrawn(msg.sender, amount);
        TOKEN.safeTransfer(msg.sender, amount);
    }

    function _addStake(uint96 amount) private {
        Account storage a = _s.accounts[msg.sender];
        a.stake += amount;
        _s.books.stakes += amount;
        uint256 required = Stakes.required(a, NODE_STAKE, VERIFIER_STAKE);
        require(a.stake >= required, StakeTooLow(msg.sender, a.stake, required));
        emit StakeAdded(msg.sender, amount);
        _pull(amount);
    }

    // -------------------------------------------------------------------------------------------------- jobs

    /// @inheritdoc IRegistry
    function openJob(JobParams calldata p) external nonReentrant returns (JobId) {
        return _openJob(p);
    }

    /// @inheritdoc IRegistry
    function openJobWithPermit(JobParams calldata p, uint256 permitDeadline, uint8 v, bytes32 r, bytes32 s)
        external
        nonReentrant
        returns (JobId)
    {
        uint256 amount = uint256(p.reward) + p.auditFee;
        // A permit that was front-run has already set the allowance; without one the transfer fails.
        // slither-disable-next-line reentrancy-benign
        try IERC20Permit(TOKEN).permit(msg.sender, address(this), amount, permitDeadline, v, r, s) {} catch {}
        return _openJob(p);
    }

    /// @inheritdoc IRegistry
    function topUp(JobId id, uint96 reward, uint96 auditFee) external nonReentrant {
        Job storage j = _openedJob(id);
        uint96 amount = reward + auditFee;
        j.reward += reward;
        j.auditFee += auditFee;
        _s.books.escrow += amount;
        emit JobToppedUp(id, reward, auditFee);
        _pull(amount);
    }

    /// @inheritdoc IRegistry
    function closeJob(JobId id) external nonReentrant {
        Job storage j = _openedJob(id);
        bool may = msg.sender == j.requester || (j.verifier != 0 && msg.sender == _s.operators[j.verifier].key);
        require(may, NotYourJob(id, msg.sender));
        j.closed = true;
        emit JobClosed(id);
        _refund(id, j);
    }

    /// @inheritdoc IRegistry
    function refund(JobId id) external nonReentrant {
        Job storage j = _job(id);
        require(j.closed || block.timestamp > j.deadline, JobStillOpen(id, j.deadline));
        _refund(id, j);
    }

    /// @inheritdoc IRegistry
    function takeJob(JobId id) external {
        Job storage j = _openedJob(id);
        _take(id, j, _callingVerifier());
        j.lastActive = uint40(block.timestamp);
    }

    function _openJob(JobParams calldata p) private returns (JobId id) {
        require(p.taskCount > 0, BadJob("no tasks"));
        require(p.deadline > block.timestamp, BadJob("deadline in the past"));
        require(p.auditorsPerSegment > 0 && p.segmentsPerAudit > 0, BadJob("no audits"));
        require(p.workload < 64, BadJob("workload is no bit of 64"));
        id = JobId.wrap(++_s.books.jobs);
        uint96 amount = p.reward + p.auditFee;
        _s.jobs[JobId.unwrap(id)] = Job({
            requester: msg.sender,
            deadline: p.deadline,
            taskCount: p.taskCount,
            auditorsPerSegment: p.auditorsPerSegment,
            segmentsPerAudit: p.segmentsPerAudit,
            closed: false,
            manifest: p.manifest,
            spent: 0,
            openTasks: 0,
            verifier: 0,
            lastActive: 0,
            reward: p.reward,
            auditFee: p.auditFee,
            openBlock: uint40(block.number),
            workload: p.workload
        });
        _s.books.escrow += amount;
        emit JobOpened(
            id,
            msg.sender,
            p.manifest,
            p.taskCount,
            p.reward,
            p.auditFee,
            p.auditorsPerSegment,
            p.segmentsPerAudit,
            p.deadline
        );
        _pull(amount);
    }

    /// @dev Committed tasks keep their share of the job's money until they are settled or the grace is over.
    function _refund(JobId id, Job storage j) private {
        uint256 kept;
        if (block.timestamp <= uint256(j.deadline) + SETTLE_GRACE) {
            kept = (uint256(j.reward) + j.auditFee) * j.openTasks / j.taskCount;
        }
        uint96 escrow = Stakes.escrow(j);
        if (kept >= escrow) return;
        uint96 amount = escrow - uint96(kept);
        j.spent += amount;
        _s.books.escrow -= amount;
        emit JobRefunded(id, j.requester, amount);
        TOKEN.safeTransfer(j.requester, amount);
    }

    function _take(JobId id, Job storage j, uint32 verifier) private {
        uint32 holder = j.verifier;
        // slither-disable-next-line incorrect-equality
        if (holder == verifier) return;
        uint256 freeAt = uint256(j.lastActive) + TAKEOVER_TIMEOUT;
        bool free = holder == 0 || !_s.operators[holder].listed || block.timestamp > freeAt;
        require(free, JobTakenBy(id, OperatorId.wrap(holder), freeAt));
        j.verifier = verifier;
        emit JobTaken(id, OperatorId.wrap(verifier));
    }

    function _job(JobId id) private view returns (Job storage j) {
        j = _s.jobs[JobId.unwrap(id)];
        require(j.requester != address(0), UnknownJob(id));
    }

    function _openedJob(JobId id) private view returns (Job storage j) {
        j = _job(id);
        require(!j.closed, JobIsClosed(id));
        require(block.timestamp <= j.deadline, DeadlinePassed(id, j.deadline));
    }

    function _callingVerifier() private view returns (uint32 id) {
        id = _s.operatorOf[msg.sender];
        Operator storage o = _s.operators[id];
        bool may = o.key == msg.sender && o.role == Role.Verifier && o.listed;
        require(may, NotVerifier(msg.sender));
    }

    // ----------------------------------------------------------------------------------------------- batches

    /// @inheritdoc IRegistry
    function commitBatch(JobId jobId, bytes32 root, uint32 size) external returns (BatchId id) {
        Job storage j = _openedJob(jobId);
        require(size > 0 && size <= j.taskCount, BadBatchSize(size, j.taskCount));
        uint32 verifier = _callingVerifier();
        _take(jobId, j, verifier);
        j.openTasks += size;
        j.lastActive = uint40(block.timestamp);
        id = BatchId.wrap(++_s.books.batches);
        Batch storage b = _s.batches[BatchId.unwrap(id)];
        b.root = root;
        (b.job, b.size, b.verifier) = (uint64(JobId.unwrap(jobId)), size, verifier);
        (b.commitBlock, b.committedAt) = (uint40(block.number), uint40(block.timestamp));
        emit BatchCommitted(id, jobId, OperatorId.wrap(verifier), root, size);
    }

    /// @inheritdoc IRegistry
    function draw(BatchId id) external returns (bytes32) {
        return Settling.draw(_s, id, DRAW_DELAY);
    }

    /// @inheritdoc IRegistry
    function recommit(BatchId id) external {
        Settling.recommit(_s, id, DRAW_DELAY);
    }

    function _batch(BatchId id) private view returns (Batch storage b) {
        b = _s.batches[BatchId.unwrap(id)];
        require(b.job != 0, UnknownBatch(id));
    }

    // -------------------------------------------------------------------------------------------- settlement

    /// @inheritdoc IRegistry
    function settleBatch(Settlement calldata s, uint256 signers, bytes calldata signature) external {
        Settling.settle(_s, s, signers, signature, DRAW_DELAY, SETTLE_GRACE, CHALLENGE_WINDOW);
    }

    /// @inheritdoc IRegistry
    function finalize(BatchId id) external {
        _requireFinal(id, _s.batches[BatchId.unwrap(id)].settled);
        Settling.finalize(_s, id, SLASH_REQUESTER_BPS, SLASH_AUDITOR_BPS);
    }

    // ----------------------------------------------------------------------------------------------- payouts

    /// @inheritdoc IRegistry
    function claim(Claim[] calldata claims) external {
        for (uint256 i = 0; i < claims.length; ++i) {
            _claim(claims[i]);
        }
    }

    /// @dev Everything is written before the token is called, so a token that re-enters finds the payout claimed.
    function _claim(Claim calldata c) private {
        (BatchId id, uint256 index, uint96 amount) = (c.batch, c.index, c.amount);
        Batch storage b = _s.batches[BatchId.unwrap(id)];
        Settled memory t = b.settled;
        _requireFinal(id, t);
        if (t.faulted) {
            Settling.finalize(_s, id, SLASH_REQUESTER_BPS, SLASH_AUDITOR_BPS);
            if (b.auditUnits != 0) amount += uint96(uint256(b.pool) * c.audits / b.auditUnits);
            t.remaining = b.settled.remaining;
        }
        bool proven = Merkle.verify(b.payoutRoot, Merkle.payoutLeaf(c), index, t.payoutCount, c.proof);
        require(proven, BadPayoutProof(id, index));
        require(!_isClaimed(id, t.claimed, index), AlreadyClaimed(id, index));
        if (index < INLINE_CLAIMS) b.settled.claimed = t.claimed | uint40(1 << index);
        else _s.claimed[BatchId.unwrap(id)][index >> 8] |= 1 << (index & 0xff);
        require(amount <= t.remaining, PayoutsExceedTotal(id));
        unchecked {
            b.settled.remaining = t.remaining - amount;
        }

        // A fault that cost stake between settlement and the end of the window forfeits the pay, any after settlement the
        // reputation.
        Operator storage o = _s.operators[OperatorId.unwrap(c.operator)];
        (address owner, uint40 lastFault) = (o.owner, o.lastFault);
        if (o.forfeits && lastFault >= t.settledAt && lastFault < t.claimableAt) {
            Stakes.refill(_s, _s.jobs[b.job], amount);
            emit Forfeited(id, c.operator, amount);
            return;
        }
        uint32 valid = c.valid;
        if (valid > 0 && t.settledAt > lastFault) o.consecutiveValid += valid;
        emit Claimed(id, c.operator, owner, amount);
        if (amount > 0) TOKEN.safeTransfer(owner, amount);
    }

    function _requireFinal(BatchId id, Settled memory t) private view {
        require(t.settledAt != 0, NotSettled(id));
        require(block.timestamp >= t.claimableAt, WindowOpen(id, t.claimableAt));
        // slither-disable-next-line incorrect-equality
        require(t.openChallenges == 0, Contested(id));
    }

    function _isClaimed(BatchId id, uint40 first, uint256 index) private view returns (bool) {
        if (index < INLINE_CLAIMS) return first >> index & 1 == 1;
        // slither-disable-next-line incorrect-equality
        return _s.claimed[BatchId.unwrap(id)][index >> 8] >> (index & 0xff) & 1 == 1;
    }

    /// @dev Takes exactly `amount` from the caller; a token that takes a fee or lies is refused.
    function _pull(uint256 amount) private {
        if (amount == 0) return;
        uint256 before = TOKEN.balanceOf(address(this));
        TOKEN.safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = TOKEN.balanceOf(address(this)) - before;
        require(received == amount, TransferMismatch(amount, received));
    }

    // -------------------------------------------------------------------------------------------- challenges

    /// @inheritdoc IRegistry
    function challengeSegment(
        BatchId id,
        Commitment calldata commitment,
        uint256 index,
        bytes32[] calldata proof,
        uint32 segment
    ) external nonReentrant returns (ChallengeId opened) {
        opened = Court.challengeSegment(_s, id, commitment, index, proof, segment);
        _pull(_s.court.bond);
    }

    /// @inheritdoc IRegistry
    function challengePayout(Claim calldata payout) external nonReentrant returns (ChallengeId opened) {
        opened = Court.challengePayout(_s, payout);
        _pull(_s.court.bond);
    }

    /// @inheritdoc IRegistry
    function challengeFault(BatchId id, uint32 index) external nonReentrant returns (ChallengeId opened) {
        opened = Court.challengeFault(_s, id, index);
        _pull(_s.court.bond);
    }

    /// @inheritdoc IRegistry
    function challengeReceipt(bytes32 leaf, uint64 deadline, bytes calldata signature)
        external
        nonReentrant
        returns (ChallengeId opened)
    {
        opened = Court.challengeReceipt(_s, leaf, deadline, signature, CHALLENGE_WINDOW);
        _pull(_s.court.bond);
    }

    /// @inheritdoc IRegistry
    function answerReceipt(ChallengeId id, BatchId batch_, uint256 index, bytes32[] calldata proof) external {
        Court.answerReceipt(_s, id, batch_, index, proof);
    }

    /// @inheritdoc IRegistry
    function drawJury(ChallengeId id) external returns (uint32[] memory) {
        return Court.drawJury(_s, id, NODE_STAKE);
    }

    /// @inheritdoc IRegistry
    function commitVote(ChallengeId id, bytes32 sealedVote) external {
        Court.commitVote(_s, id, sealedVote);
    }

    /// @inheritdoc IRegistry
    function revealVote(ChallengeId id, bool wrong, bytes32 salt) external {
        Court.revealVote(_s, id, wrong, salt);
    }

    /// @inheritdoc IRegistry
    function appeal(ChallengeId id) external nonReentrant {
        _pull(Court.appeal(_s, id));
    }

    /// @inheritdoc IRegistry
    function resolve(ChallengeId id) external {
        Court.resolve(_s, id);
    }

    // ------------------------------------------------------------------------------------------------- views

    /// @inheritdoc IRegistry
    function challenge(ChallengeId id) external view returns (Challenge memory) {
        return _s.challenges[ChallengeId.unwrap(id)];
    }

    /// @inheritdoc IRegistry
    function jurors(ChallengeId id, uint256 round) external view returns (uint32[] memory) {
        return _s.jurors[ChallengeId.unwrap(id)][round];
    }

    /// @inheritdoc IRegistry
    function params() external view returns (Params memory) {
        return Params({
            nodeStake: NODE_STAKE,
            verifierStake: VERIFIER_STAKE,
            challengeWindow: CHALLENGE_WINDOW,
            unstakeDelay: UNSTAKE_DELAY,
            settleGrace: SETTLE_GRACE,
            takeoverTimeout: TAKEOVER_TIMEOUT,
            drawDelay: DRAW_DELAY,
            collusionBps: COLLUSION_BPS,
            slashRequesterBps: SLASH_REQUESTER_BPS,
            slashAuditorBps: SLASH_AUDITOR_BPS,
            court: _s.court
        });
    }

    /// @inheritdoc IRegistry
    function token() external view returns (address) {
        return TOKEN;
    }

    /// @inheritdoc IRegistry
    function domainSeparator() external view returns (bytes32) {
        return TypedData.domainSeparator();
    }

    /// @inheritdoc IRegistry
    function totals() external view returns (Totals memory) {
        Books storage b = _s.books;
        return Totals(b.stakes, b.unbonding, b.bonds, b.burned, b.escrow);
    }

    /// @inheritdoc IRegistry
    function account(address owner) external view returns (Account memory) {
        return _s.accounts[owner];
    }

    /// @inheritdoc IRegistry
    function operator(OperatorId id) public view returns (OperatorView memory) {
        Operator storage o = _s.operators[OperatorId.unwrap(id)];
        Account storage a = _s.accounts[o.owner];
        return OperatorView({
            id: id,
            role: o.role,
            active: o.listed && a.stake >= Stakes.required(a, NODE_STAKE, VERIFIER_STAKE),
            key: o.key,
            owner: o.owner,
            stake: a.stake,
            consecutiveValid: o.consecutiveValid,
            lastFault: o.lastFault,
            workloads: o.workloads,
            endpoint: _s.endpoints[OperatorId.unwrap(id)]
        });
    }

    /// @inheritdoc IRegistry
    function operatorOf(address key) external view returns (OperatorId) {
        return OperatorId.wrap(_s.operatorOf[key]);
    }

    /// @inheritdoc IRegistry
    function counts() external view returns (uint256, uint256, uint256, uint256, uint256) {
        Books storage b = _s.books;
        return (b.operators, _s.nodes.length, b.jobs, b.batches, b.challenges);
    }

    /// @inheritdoc IRegistry
    function nodes(uint256 cursor, uint256 limit) external view returns (OperatorView[] memory page) {
        uint256 length = _s.nodes.length;
        if (cursor >= length) return page;
        page = new OperatorView[](limit < length - cursor ? limit : length - cursor);
        for (uint256 i = 0; i < page.length; ++i) {
            page[i] = operator(OperatorId.wrap(_s.nodes[cursor + i]));
        }
    }

    /// @inheritdoc IRegistry
    function verifiers(uint256 from, uint256 to) external view returns (VerifierView[] memory page) {
        uint256 selected = _s.verifiers.active >> from << from;
        if (to < VerifierSet.SLOTS) selected &= (1 << to) - 1;
        page = new VerifierView[](LibBit.popCount(selected));
        for (uint256 i = 0; i < page.length; ++i) {
            uint256 slot = LibBit.ffs(selected);
            selected &= selected - 1;
            uint32 id = _s.verifiers.operatorAt[slot];
            Operator storage o = _s.operators[id];
            page[i] = VerifierView({
                id: OperatorId.wrap(id),
                slot: uint8(slot),
                key: o.key,
                owner: o.owner,
                stake: _s.accounts[o.owner].stake,
                publicKey: _s.verifiers.keyAt(slot),
                endpoint: _s.endpoints[id]
            });
        }
    }

    /// @inheritdoc IRegistry
    function activeVerifiers() external view returns (uint256) {
        return _s.verifiers.active;
    }

    /// @inheritdoc IRegistry
    function job(JobId id) external view returns (Job memory) {
        return _job(id);
    }

    /// @inheritdoc IRegistry
    function batch(BatchId id) external view returns (Batch memory) {
        return _batch(id);
    }

    /// @inheritdoc IRegistry
    function slashes(BatchId id) external view returns (SlashRecord[] memory) {
        return _s.slashes[BatchId.unwrap(id)];
    }

    /// @inheritdoc IRegistry
    function claimable(uint256 from, uint256 to) external view returns (uint256 sum) {
        for (uint256 id = from; id < to && id <= _s.books.batches; ++id) {
            sum += _s.batches[id].settled.remaining;
        }
    }

    /// @inheritdoc IRegistry
    function isClaimed(BatchId id, uint256 index) external view returns (bool) {
        return _isClaimed(id, _batch(id).settled.claimed, index);
    }

    /// @inheritdoc IRegistry
    function settlementDigest(Settlement calldata s) external view returns (bytes32) {
        return Settling.digest(s, _batch(s.batch));
    }

    /// @inheritdoc IRegistry
    function auditProbability(
        OperatorId id,
        uint256 tasksInFlight,
        uint256 rewardInFlight,
        uint256 segments,
        uint256 segmentsPerAudit
    ) external view returns (uint256, uint256) {
        Operator storage o = _s.operators[OperatorId.unwrap(id)];
        uint256 stake = _s.accounts[o.owner].stake;
        return
            Dial.odds(
                o.consecutiveValid, stake, tasksInFlight, rewardInFlight, COLLUSION_BPS, segments, segmentsPerAudit
            );
    }

    /// @inheritdoc IRegistry
    function payoutWeight(OperatorId id) external view returns (uint256) {
        return Dial.weight(_s.operators[OperatorId.unwrap(id)].consecutiveValid);
    }
}
