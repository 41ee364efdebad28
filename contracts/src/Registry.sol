// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Blockhash} from "@openzeppelin/contracts/utils/Blockhash.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {LibBit} from "solady/utils/LibBit.sol";

import {IRegistry, OperatorId, JobId, BatchId} from "./interfaces/IRegistry.sol";
import {Dial} from "./libraries/Dial.sol";
import {Merkle} from "./libraries/Merkle.sol";
import {TypedData} from "./libraries/TypedData.sol";
import {VerifierSet} from "./libraries/VerifierSet.sol";

/// @title Registry
contract Registry is IRegistry, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using VerifierSet for VerifierSet.Set;

    uint256 private constant MAX_FAULTS = 32;
    uint256 private constant MAX_ENDPOINT_BYTES = 128;
    uint256 private constant MAX_PAYOUTS = type(uint24).max;
    uint256 private constant CID_BYTES = 36;
    /// @dev Payouts whose claimed bit lies in the batch itself.
    uint256 private constant INLINE_CLAIMS = 48;
    uint256 private constant BPS = 10_000;

    // ----------------------------------------------------------------------------------------------- storage

    IERC20 private immutable TOKEN;
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

    Totals private _totals;
    uint64 private _jobCount;
    uint64 private _batchCount;
    uint32 private _operatorCount;
    VerifierSet.Set private _verifierSet;
    uint32[] private _nodes;

    mapping(address owner => Account) private _accounts;
    mapping(uint32 operator => Operator) private _operators;
    mapping(uint32 operator => string) private _endpoints;
    mapping(address key => uint32 operator) private _operatorOf;
    mapping(uint256 job => Job) private _jobs;
    mapping(uint256 batch => Batch) private _batches;
    mapping(uint256 batch => SlashRecord[]) private _slashes;
    mapping(uint256 batch => mapping(uint256 word => uint256)) private _claimed;

    constructor(address token_, Params memory p) {
        require(token_.code.length > 0, BadParams("token has no code"));
        require(p.unstakeDelay > p.challengeWindow, BadParams("unstakeDelay must exceed challengeWindow"));
        require(p.challengeWindow > 0 && p.drawDelay > 0, BadParams("zero window or draw delay"));
        require(p.collusionBps < BPS, BadParams("collusionBps"));
        require(p.slashRequesterBps + p.slashAuditorBps < BPS, BadParams("some of a slash must be burned"));
        require(p.nodeStake > 0 && p.verifierStake > 0, BadParams("zero stake"));
        TOKEN = IERC20(token_);
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
    }

    // ----------------------------------------------------------------------------------------------- staking

    /// @inheritdoc IRegistry
    function registerNode(address key, uint96 stake, uint64 workloads, string calldata endpoint, bytes calldata consent)
        external
        nonReentrant
        returns (OperatorId)
    {
        uint32 id = _enlist(Role.Node, key, workloads, endpoint, consent);
        Account storage a = _accounts[msg.sender];
        require(a.nodes < type(uint8).max, TooManyOperators(msg.sender));
        a.nodes += 1;
        _operators[id].index = uint32(_nodes.length);
        _nodes.push(id);
        _addStake(a, stake);
        return OperatorId.wrap(id);
    }

    /// @inheritdoc IRegistry
    function registerVerifier(
        address key,
        uint96 stake,
        string calldata endpoint,
        bytes calldata consent,
        bytes calldata publicKey,
        bytes calldata possession
    ) external nonReentrant returns (OperatorId) {
        uint32 id = _enlist(Role.Verifier, key, 0, endpoint, consent);
        Account storage a = _accounts[msg.sender];
        require(a.verifierSlot == 0, TooManyOperators(msg.sender));
        bytes32 digest = _typed(TypedData.verifierKey(msg.sender, key, publicKey));
        uint8 slot = _verifierSet.add(id, publicKey, digest, possession);
        a.verifierSlot = uint16(slot) + 1;
        _operators[id].verifierSlot = slot;
        _addStake(a, stake);
        return OperatorId.wrap(id);
    }

    /// @inheritdoc IRegistry
    function rotateKey(OperatorId id, address key, bytes calldata consent) external {
        Operator storage o = _owned(id);
        _takeKey(OperatorId.unwrap(id), key, consent);
        o.key = key;
        emit KeyRotated(id, key);
    }

    /// @inheritdoc IRegistry
    function setEndpoint(OperatorId id, string calldata endpoint) external {
        Operator storage o = _operators[OperatorId.unwrap(id)];
        require(msg.sender == o.owner || msg.sender == o.key, NotOwner(id, msg.sender, o.owner));
        _setEndpoint(OperatorId.unwrap(id), endpoint);
        emit EndpointSet(id, endpoint);
    }

    /// @inheritdoc IRegistry
    function retire(OperatorId id) external {
        Operator storage o = _operators[OperatorId.unwrap(id)];
        require(o.listed, NotListed(id));
        require(msg.sender == o.owner || !_isBacked(_accounts[o.owner]), StillBacked(id));
        if (o.role == Role.Verifier) _unlistVerifier(_accounts[o.owner]);
        else _unlistNode(o);
    }

    /// @inheritdoc IRegistry
    function addStake(uint96 amount) external nonReentrant {
        _addStake(_accounts[msg.sender], amount);
    }

    /// @inheritdoc IRegistry
    function requestUnstake(uint96 amount) external {
        Account storage a = _accounts[msg.sender];
        uint256 required = _required(a);
        require(a.stake >= required + amount, StakeTooLow(msg.sender, a.stake, required + amount));
        a.stake -= amount;
        a.unbonding += amount;
        a.releaseAt = uint40(block.timestamp) + UNSTAKE_DELAY;
        _totals.stakes -= amount;
        _totals.unbonding += amount;
        emit UnstakeRequested(msg.sender, amount, a.releaseAt);
    }

    /// @inheritdoc IRegistry
    function withdraw() external nonReentrant {
        Account storage a = _accounts[msg.sender];
        uint96 amount = a.unbonding;
        require(amount > 0, NothingToWithdraw(msg.sender));
        require(block.timestamp >= a.releaseAt, StillBonded(msg.sender, a.releaseAt));
        a.unbonding = 0;
        _totals.unbonding -= amount;
        emit Withdrawn(msg.sender, amount);
        TOKEN.safeTransfer(msg.sender, amount);
    }

    function _enlist(Role role, address key, uint64 workloads, string calldata endpoint, bytes calldata consent)
        private
        returns (uint32 id)
    {
        id = _operatorOf[key];
        Operator storage o = _operators[id];
        if (id == 0) {
            id = ++_operatorCount;
            o = _operators[id];
            _takeKey(id, key, consent);
            (o.owner, o.role, o.key) = (msg.sender, role, key);
        } else {
            bool same = o.owner == msg.sender && o.role == role && o.key == key && !o.listed;
            require(same, KeyTaken(key, OperatorId.wrap(id)));
        }
        o.listed = true;
        o.workloads = workloads;
        _setEndpoint(id, endpoint);
        emit OperatorRegistered(OperatorId.wrap(id), msg.sender, role, key, workloads, endpoint);
    }

    function _takeKey(uint32 id, address key, bytes calldata consent) private {
        require(_operatorOf[key] == 0, KeyTaken(key, OperatorId.wrap(_operatorOf[key])));
        (address signer,,) = ECDSA.tryRecover(_typed(TypedData.register(msg.sender, key)), consent);
        require(signer == key && key != address(0), BadConsent(key, signer));
        _operatorOf[key] = id;
    }

    function _setEndpoint(uint32 id, string calldata endpoint) private {
        uint256 length = bytes(endpoint).length;
        require(length <= MAX_ENDPOINT_BYTES, EndpointTooLong(length, MAX_ENDPOINT_BYTES));
        _endpoints[id] = endpoint;
    }

    function _addStake(Account storage a, uint96 amount) private {
        a.stake += amount;
        _totals.stakes += amount;
        uint256 required = _required(a);
        require(a.stake >= required, StakeTooLow(msg.sender, a.stake, required));
        emit StakeAdded(msg.sender, amount);
        _pull(amount);
    }

    function _unlistNode(Operator storage o) private {
        uint32 last = _nodes[_nodes.length - 1];
        emit OperatorRetired(OperatorId.wrap(_nodes[o.index]));
        _nodes[o.index] = last;
        _operators[last].index = o.index;
        _nodes.pop();
        o.listed = false;
        _accounts[o.owner].nodes -= 1;
    }

    function _unlistVerifier(Account storage a) private {
        uint256 slot = a.verifierSlot - 1;
        uint32 id = _verifierSet.operatorAt[slot];
        a.verifierSlot = 0;
        _operators[id].listed = false;
        _verifierSet.remove(slot);
        emit OperatorRetired(OperatorId.wrap(id));
    }

    function _owned(OperatorId id) private view returns (Operator storage o) {
        o = _operators[OperatorId.unwrap(id)];
        require(msg.sender == o.owner, NotOwner(id, msg.sender, o.owner));
    }

    function _required(Account storage a) private view returns (uint256) {
        return uint256(a.nodes) * NODE_STAKE + (a.verifierSlot == 0 ? 0 : VERIFIER_STAKE);
    }

    function _isBacked(Account storage a) private view returns (bool) {
        return a.stake >= _required(a);
    }

    /// @dev Takes an owner's whole stake, unbonding included, into `bonds`, and its verifier out of the quorum.
    function _seize(address owner) private returns (uint96 amount) {
        Account storage a = _accounts[owner];
        amount = a.stake + a.unbonding;
        _totals.stakes -= a.stake;
        _totals.unbonding -= a.unbonding;
        _totals.bonds += amount;
        a.stake = 0;
        a.unbonding = 0;
        if (a.verifierSlot != 0) _unlistVerifier(a);
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
        try IERC20Permit(address(TOKEN)).permit(msg.sender, address(this), amount, permitDeadline, v, r, s) {} catch {}
        return _openJob(p);
    }

    /// @inheritdoc IRegistry
    function topUp(JobId id, uint96 reward, uint96 auditFee) external nonReentrant {
        Job storage j = _openedJob(id);
        uint96 amount = reward + auditFee;
        j.reward += reward;
        j.auditFee += auditFee;
        j.escrow += amount;
        _totals.escrow += amount;
        emit JobToppedUp(id, reward, auditFee);
        _pull(amount);
    }

    /// @inheritdoc IRegistry
    function closeJob(JobId id) external nonReentrant {
        Job storage j = _openedJob(id);
        bool may = msg.sender == j.requester || (j.verifier != 0 && msg.sender == _operators[j.verifier].key);
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
        id = JobId.wrap(++_jobCount);
        uint96 amount = p.reward + p.auditFee;
        _jobs[JobId.unwrap(id)] = Job({
            requester: msg.sender,
            deadline: p.deadline,
            taskCount: p.taskCount,
            auditorsPerSegment: p.auditorsPerSegment,
            segmentsPerAudit: p.segmentsPerAudit,
            closed: false,
            manifest: p.manifest,
            escrow: amount,
            openTasks: 0,
            verifier: 0,
            lastActive: 0,
            reward: p.reward,
            auditFee: p.auditFee,
            openBlock: uint40(block.number)
        });
        _totals.escrow += amount;
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
        if (kept >= j.escrow) return;
        uint96 amount = j.escrow - uint96(kept);
        j.escrow -= amount;
        _totals.escrow -= amount;
        emit JobRefunded(id, j.requester, amount);
        TOKEN.safeTransfer(j.requester, amount);
    }

    function _take(JobId id, Job storage j, uint32 verifier) private {
        uint32 holder = j.verifier;
        if (holder == verifier) return;
        uint256 freeAt = uint256(j.lastActive) + TAKEOVER_TIMEOUT;
        bool free = holder == 0 || !_operators[holder].listed || block.timestamp > freeAt;
        require(free, JobTakenBy(id, OperatorId.wrap(holder), freeAt));
        j.verifier = verifier;
        emit JobTaken(id, OperatorId.wrap(verifier));
    }

    function _job(JobId id) private view returns (Job storage j) {
        j = _jobs[JobId.unwrap(id)];
        require(j.requester != address(0), UnknownJob(id));
    }

    function _openedJob(JobId id) private view returns (Job storage j) {
        j = _job(id);
        require(!j.closed, JobIsClosed(id));
        require(block.timestamp <= j.deadline, DeadlinePassed(id, j.deadline));
    }

    function _callingVerifier() private view returns (uint32 id) {
        id = _operatorOf[msg.sender];
        Operator storage o = _operators[id];
        bool may = o.key == msg.sender && o.role == Role.Verifier && o.listed;
        require(may, NotVerifier(msg.sender));
    }

    // ----------------------------------------------------------------------------------------------- batches

    /// @inheritdoc IRegistry
    function commitBatch(JobId jobId, bytes32 root, uint32 size) external returns (BatchId id) {
        require(size > 0, EmptyBatch());
        Job storage j = _openedJob(jobId);
        uint32 verifier = _callingVerifier();
        _take(jobId, j, verifier);
        j.openTasks += size;
        j.lastActive = uint40(block.timestamp);
        id = BatchId.wrap(++_batchCount);
        Batch storage b = _batches[BatchId.unwrap(id)];
        b.root = root;
        (b.job, b.size, b.verifier) = (uint64(JobId.unwrap(jobId)), size, verifier);
        b.commitBlock = uint40(block.number);
        emit BatchCommitted(id, jobId, OperatorId.wrap(verifier), root, size);
    }

    /// @inheritdoc IRegistry
    function draw(BatchId id) external returns (bytes32) {
        return _draw(id, _batch(id));
    }

    /// @inheritdoc IRegistry
    function recommit(BatchId id) external {
        Batch storage b = _batch(id);
        uint256 drawBlock = uint256(b.commitBlock) + DRAW_DELAY;
        require(b.seed == 0 && block.number > drawBlock && Blockhash.blockHash(drawBlock) == 0, SeedAvailable(id));
        b.commitBlock = uint40(block.number);
        emit BatchRecommitted(id, block.number);
    }

    function _draw(BatchId id, Batch storage b) private returns (bytes32 seed) {
        seed = b.seed;
        if (seed != 0) return seed;
        uint256 drawBlock = uint256(b.commitBlock) + DRAW_DELAY;
        require(block.number > drawBlock, TooEarlyToDraw(id, drawBlock));
        bytes32 entropy = Blockhash.blockHash(drawBlock);
        require(entropy != 0, SeedLost(id, drawBlock));
        seed = keccak256(abi.encode(entropy, id, b.root));
        b.seed = seed;
        emit BatchDrawn(id, seed);
    }

    function _batch(BatchId id) private view returns (Batch storage b) {
        b = _batches[BatchId.unwrap(id)];
        require(b.job != 0, UnknownBatch(id));
    }

    // -------------------------------------------------------------------------------------------- settlement

    /// @inheritdoc IRegistry
    function settleBatch(Settlement calldata s, uint256 signers, bytes calldata signature) external nonReentrant {
        Batch storage b = _batch(s.batch);
        JobId jobId = JobId.wrap(b.job);
        Job storage j = _jobs[b.job];
        require(b.settledAt == 0, AlreadySettled(s.batch));
        uint256 lastMoment = uint256(j.deadline) + SETTLE_GRACE;
        require(block.timestamp <= lastMoment, DeadlinePassed(jobId, lastMoment));
        require(s.payoutCount <= MAX_PAYOUTS, BadSettlement("too many payouts"));
        require(s.faults.length <= MAX_FAULTS, BadSettlement("too many faults"));
        require(s.record.length == CID_BYTES, BadSettlement("record is not a CID"));
        require(j.escrow >= s.payoutTotal, EscrowTooLow(jobId, j.escrow, s.payoutTotal));
        _draw(s.batch, b);
        _verifierSet.check(_settlementDigest(s, b), signers, signature);

        uint40 claimableAt = uint40(block.timestamp) + CHALLENGE_WINDOW;
        b.payoutRoot = s.payoutRoot;
        b.remaining = s.payoutTotal;
        b.settledAt = uint40(block.timestamp);
        b.claimableAt = claimableAt;
        b.payoutCount = uint24(s.payoutCount);
        b.signers = signers;
        j.escrow -= s.payoutTotal;
        j.openTasks -= b.size;
        j.lastActive = uint40(block.timestamp);
        _totals.escrow -= s.payoutTotal;
        _totals.claimable += s.payoutTotal;
        if (s.faults.length > 0) _recordFaults(s, b);
        emit BatchSettled(
            s.batch, jobId, s.payoutRoot, s.payoutCount, s.payoutTotal, s.auditRoot, s.record, signers, claimableAt
        );
    }

    /// @inheritdoc IRegistry
    function finalize(BatchId id) external {
        Batch storage b = _batch(id);
        _requireFinal(id, b);
        _finalize(id, b);
    }

    /// @dev The stake of each faulty owner is frozen in `bonds` until the window closes; reputation falls at once.
    function _recordFaults(Settlement calldata s, Batch storage b) private {
        uint96 frozen;
        for (uint256 i = 0; i < s.faults.length; ++i) {
            Fault calldata f = s.faults[i];
            uint32 id = OperatorId.unwrap(f.operator);
            Operator storage o = _operators[id];
            require(o.owner != address(0), BadSettlement("fault of an unknown operator"));
            uint96 amount = _seize(o.owner);
            frozen += amount;
            _slashes[BatchId.unwrap(
                    s.batch
                )].push(SlashRecord(id, amount, o.consecutiveValid, o.lastFault, f.task, f.reason));
            o.consecutiveValid = 0;
            o.lastFault = uint40(block.timestamp);
            emit Faulted(s.batch, f.operator, f.task, f.segment, f.reason, amount);
        }
        b.frozen = frozen;
        b.auditUnits = s.auditUnits;
    }

    function _requireFinal(BatchId id, Batch storage b) private view {
        require(b.settledAt != 0, NotSettled(id));
        require(block.timestamp >= b.claimableAt, WindowOpen(id, b.claimableAt));
        require(b.openChallenges == 0, Contested(id));
    }

    function _finalize(BatchId id, Batch storage b) private {
        uint96 frozen = b.frozen;
        if (frozen == 0) return;
        uint96 toRequester = _share(frozen, SLASH_REQUESTER_BPS);
        uint96 toAuditors = b.auditUnits == 0 ? 0 : _share(frozen, SLASH_AUDITOR_BPS);
        uint96 burned = frozen - toRequester - toAuditors;
        b.frozen = 0;
        b.pool = toAuditors;
        b.remaining += toAuditors;
        _jobs[b.job].escrow += toRequester;
        _totals.bonds -= frozen;
        _totals.escrow += toRequester;
        _totals.claimable += toAuditors;
        _totals.burned += burned;
        emit SlashFinal(id, toRequester, toAuditors, burned);
    }

    function _share(uint96 amount, uint256 bps) private pure returns (uint96) {
        return uint96(uint256(amount) * bps / BPS);
    }

    // ----------------------------------------------------------------------------------------------- payouts

    /// @inheritdoc IRegistry
    function claim(Claim[] calldata claims) external nonReentrant {
        uint256 released;
        for (uint256 i = 0; i < claims.length; ++i) {
            Claim calldata c = claims[i];
            Batch storage b = _batch(c.batch);
            _requireFinal(c.batch, b);
            _finalize(c.batch, b);
            _markClaimed(c, b);
            uint96 amount = c.amount;
            if (b.auditUnits != 0) amount += uint96(uint256(b.pool) * c.audits / b.auditUnits);
            require(amount <= b.remaining, PayoutsExceedTotal(c.batch));
            b.remaining -= amount;
            released += amount;
            Operator storage o = _operators[OperatorId.unwrap(c.operator)];
            if (o.lastFault >= b.settledAt && o.lastFault < b.claimableAt) {
                _jobs[b.job].escrow += amount;
                _totals.escrow += amount;
                emit Forfeited(c.batch, c.operator, amount);
                continue;
            }
            if (c.valid > 0 && b.settledAt > o.lastFault) o.consecutiveValid += c.valid;
            emit Claimed(c.batch, c.operator, o.owner, amount);
            if (amount > 0) TOKEN.safeTransfer(o.owner, amount);
        }
        _totals.claimable -= uint128(released);
    }

    function _markClaimed(Claim calldata c, Batch storage b) private {
        bytes32 leaf = Merkle.leaf(abi.encode(c.batch, c.index, c.operator, c.amount, c.valid, c.audits));
        bool proven = Merkle.verify(b.payoutRoot, leaf, c.index, b.payoutCount, c.proof);
        require(proven, BadPayoutProof(c.batch, c.index));
        require(!_isClaimed(c.batch, b, c.index), AlreadyClaimed(c.batch, c.index));
        if (c.index < INLINE_CLAIMS) b.claimed |= uint48(1 << c.index);
        else _claimed[BatchId.unwrap(c.batch)][c.index >> 8] |= 1 << (c.index & 0xff);
    }

    function _isClaimed(BatchId id, Batch storage b, uint256 index) private view returns (bool) {
        if (index < INLINE_CLAIMS) return b.claimed >> index & 1 == 1;
        return _claimed[BatchId.unwrap(id)][index >> 8] >> (index & 0xff) & 1 == 1;
    }

    /// @dev Takes exactly `amount` from the caller; a token that takes a fee or lies is refused.
    function _pull(uint256 amount) private {
        if (amount == 0) return;
        uint256 before = TOKEN.balanceOf(address(this));
        TOKEN.safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = TOKEN.balanceOf(address(this)) - before;
        require(received == amount, TransferMismatch(amount, received));
    }

    // ------------------------------------------------------------------------------------------------- views

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
            slashAuditorBps: SLASH_AUDITOR_BPS
        });
    }

    /// @inheritdoc IRegistry
    function token() external view returns (address) {
        return address(TOKEN);
    }

    /// @inheritdoc IRegistry
    function domainSeparator() external view returns (bytes32) {
        return TypedData.domainSeparator();
    }

    /// @inheritdoc IRegistry
    function totals() external view returns (Totals memory) {
        return _totals;
    }

    /// @inheritdoc IRegistry
    function account(address owner) external view returns (Account memory) {
        return _accounts[owner];
    }

    /// @inheritdoc IRegistry
    function operator(OperatorId id) public view returns (OperatorView memory) {
        Operator storage o = _operators[OperatorId.unwrap(id)];
        Account storage a = _accounts[o.owner];
        return OperatorView({
            id: id,
            role: o.role,
            active: o.listed && _isBacked(a),
            key: o.key,
            owner: o.owner,
            stake: a.stake,
            consecutiveValid: o.consecutiveValid,
            lastFault: o.lastFault,
            workloads: o.workloads,
            endpoint: _endpoints[OperatorId.unwrap(id)]
        });
    }

    /// @inheritdoc IRegistry
    function operatorOf(address key) external view returns (OperatorId) {
        return OperatorId.wrap(_operatorOf[key]);
    }

    /// @inheritdoc IRegistry
    function counts() external view returns (uint256, uint256, uint256, uint256) {
        return (_operatorCount, _nodes.length, _jobCount, _batchCount);
    }

    /// @inheritdoc IRegistry
    function nodes(uint256 cursor, uint256 limit) external view returns (OperatorView[] memory page) {
        uint256 length = _nodes.length;
        if (cursor >= length) return page;
        page = new OperatorView[](limit < length - cursor ? limit : length - cursor);
        for (uint256 i = 0; i < page.length; ++i) {
            page[i] = operator(OperatorId.wrap(_nodes[cursor + i]));
        }
    }

    /// @inheritdoc IRegistry
    function verifiers(uint256 from, uint256 to) external view returns (VerifierView[] memory page) {
        uint256 selected = _verifierSet.active >> from << from;
        if (to < VerifierSet.SLOTS) selected &= (1 << to) - 1;
        page = new VerifierView[](LibBit.popCount(selected));
        for (uint256 i = 0; i < page.length; ++i) {
            uint256 slot = LibBit.ffs(selected);
            selected &= selected - 1;
            uint32 id = _verifierSet.operatorAt[slot];
            Operator storage o = _operators[id];
            page[i] = VerifierView({
                id: OperatorId.wrap(id),
                slot: uint8(slot),
                key: o.key,
                owner: o.owner,
                stake: _accounts[o.owner].stake,
                publicKey: _verifierSet.publicKey(slot),
                endpoint: _endpoints[id]
            });
        }
    }

    /// @inheritdoc IRegistry
    function activeVerifiers() external view returns (uint256) {
        return _verifierSet.active;
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
        return _slashes[BatchId.unwrap(id)];
    }

    /// @inheritdoc IRegistry
    function isClaimed(BatchId id, uint256 index) external view returns (bool) {
        return _isClaimed(id, _batch(id), index);
    }

    /// @inheritdoc IRegistry
    function settlementDigest(Settlement calldata s) external view returns (bytes32) {
        return _settlementDigest(s, _batch(s.batch));
    }

    /// @inheritdoc IRegistry
    function auditProbability(OperatorId id, uint256 tasksInFlight, uint256 rewardInFlight)
        external
        view
        returns (uint256)
    {
        Operator storage o = _operators[OperatorId.unwrap(id)];
        uint256 floor = Dial.floor(_accounts[o.owner].stake, tasksInFlight, rewardInFlight, COLLUSION_BPS);
        uint256 trust = Dial.trust(o.consecutiveValid);
        return floor > trust ? floor : trust;
    }

    /// @inheritdoc IRegistry
    function payoutWeight(OperatorId id) external view returns (uint256) {
        return Dial.weight(_operators[OperatorId.unwrap(id)].consecutiveValid);
    }

    function _settlementDigest(Settlement calldata s, Batch storage b) private view returns (bytes32) {
        return _typed(TypedData.settlement(s, b.root, b.seed, b.attempt));
    }

    function _typed(bytes32 structHash) private view returns (bytes32) {
        return TypedData.digest(structHash);
    }
}
