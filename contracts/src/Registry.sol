// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {SafeTransferLib} from "solady/utils/SafeTransferLib.sol";

import {IRegistry, OperatorId, JobId, BatchId} from "./interfaces/IRegistry.sol";
import {Anchors} from "./libraries/Anchors.sol";
import {Headers} from "./libraries/Headers.sol";
import {Jobs} from "./libraries/Jobs.sol";
import {Marks} from "./libraries/Marks.sol";
import {Merkle} from "./libraries/Merkle.sol";
import {Operators} from "./libraries/Operators.sol";
import {Settling} from "./libraries/Settling.sol";
import {Books, JobBook, State} from "./libraries/State.sol";
import {TypedData} from "./libraries/TypedData.sol";
import {Verdicts} from "./libraries/Verdicts.sol";
import {VerifierSet} from "./libraries/VerifierSet.sol";

/// @title Registry
contract Registry is IRegistry, ReentrancyGuardTransient {
    using SafeTransferLib for address;
    using VerifierSet for VerifierSet.Set;

    /// @dev Payouts whose claimed bit lies in the batch itself.
    uint256 private constant INLINE_CLAIMS = 16;
    uint256 private constant BPS = 10_000;

    // ----------------------------------------------------------------------------------------------- storage

    address private immutable TOKEN;
    address private immutable COURT;
    uint96 private immutable NODE_STAKE;
    uint96 private immutable VERIFIER_STAKE;
    uint96 private immutable SETTLE_PENALTY;
    uint40 private immutable CHALLENGE_WINDOW;
    uint40 private immutable UNSTAKE_DELAY;
    uint40 private immutable SETTLE_TIME;
    uint40 private immutable SETTLE_GRACE;
    uint40 private immutable RECEIPT_TIME;
    uint40 private immutable TAKEOVER_TIMEOUT;
    uint40 private immutable SEAT_DELAY;
    uint40 private immutable IDLE_PERIOD;
    uint16 private immutable DRAW_DELAY;
    uint16 private immutable COLLUSION_BPS;
    uint16 private immutable SLASH_REQUESTER_BPS;
    uint16 private immutable SLASH_AUDITOR_BPS;
    uint16 private immutable SLASH_REDRESS_BPS;
    uint16 private immutable LEADER_BPS;
    uint16 private immutable EXPOSURE_BPS;

    State private _s;

    /// @param court_ Where the Court will be; its constructor checks the parameters against its own.
    constructor(address token_, Params memory p, address court_) {
        require(token_.code.length > 0, BadParams("token has no code"));
        require(IERC20(token_).totalSupply() <= type(uint96).max, BadParams("supply beyond 96 bits"));
        require(court_ != address(0), BadParams("no court"));
        require(p.nodeStake > 0 && p.verifierStake > 0, BadParams("zero stake"));
        require(p.challengeWindow > 0 && p.drawDelay > 0, BadParams("zero window or draw delay"));
        require(p.settleTime <= p.settleGrace, BadParams("settleTime beyond settleGrace"));
        uint256 longest = uint256(p.settleGrace) + p.challengeWindow;
        require(p.unstakeDelay > longest, BadParams("unstakeDelay must exceed grace and window"));
        require(p.seatDelay > p.challengeWindow, BadParams("seatDelay must exceed the window"));
        require(p.idlePeriod > 0, BadParams("zero idlePeriod"));
        require(p.collusionBps < BPS, BadParams("collusionBps"));
        uint256 shared = uint256(p.slashRequesterBps) + p.slashAuditorBps + p.slashRedressBps;
        require(shared < BPS, BadParams("some of a slash must be burned"));
        require(p.leaderBps <= BPS, BadParams("leaderBps"));
        TOKEN = token_;
        COURT = court_;
        NODE_STAKE = p.nodeStake;
        VERIFIER_STAKE = p.verifierStake;
        SETTLE_PENALTY = p.settlePenalty;
        CHALLENGE_WINDOW = p.challengeWindow;
        UNSTAKE_DELAY = p.unstakeDelay;
        SETTLE_TIME = p.settleTime;
        SETTLE_GRACE = p.settleGrace;
        RECEIPT_TIME = p.receiptTime;
        TAKEOVER_TIMEOUT = p.takeoverTimeout;
        SEAT_DELAY = p.seatDelay;
        IDLE_PERIOD = p.idlePeriod;
        DRAW_DELAY = p.drawDelay;
        COLLUSION_BPS = p.collusionBps;
        SLASH_REQUESTER_BPS = p.slashRequesterBps;
        SLASH_AUDITOR_BPS = p.slashAuditorBps;
        SLASH_REDRESS_BPS = p.slashRedressBps;
        LEADER_BPS = p.leaderBps;
        EXPOSURE_BPS = p.exposureBps;
    }

    modifier onlyCourt() {
        require(msg.sender == COURT, NotCourt(msg.sender));
        _;
    }

    modifier restsOn(Anchor calldata anchor) {
        Anchors.check(anchor);
        _;
    }

    // --------------------------------------------------------------------------------------------- operators

    /// @inheritdoc IRegistry
    function registerNode(address key, uint96 stake, uint64 workloads, string calldata endpoint, bytes calldata consent)
        external
        nonReentrant
        returns (OperatorId id)
    {
        id = Operators.registerNode(_s, params(), key, stake, workloads, endpoint, consent);
        _pull(stake);
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
        id = Operators.enlistVerifier(_s, key, endpoint, consent);
        Operators.seatVerifier(_s, params(), id, stake, publicKey, possession);
        _pull(stake);
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
        Operators.retire(_s, params(), id);
    }

    /// @inheritdoc IRegistry
    function joinBench(uint64 workloads) external {
        Operators.joinBench(_s, params(), workloads);
    }

    /// @inheritdoc IRegistry
    function attend() external {
        Operators.attend(_s, params());
    }

    /// @inheritdoc IRegistry
    function unseatIdle(uint8 slot) external {
        Operators.unseatIdle(_s, params(), slot);
    }

    /// @inheritdoc IRegistry
    function addStake(uint96 amount) external nonReentrant {
        Operators.addStake(_s, amount);
        _pull(amount);
    }

    /// @inheritdoc IRegistry
    function requestUnstake(uint96 amount) external {
        Operators.requestUnstake(_s, params(), amount);
    }

    /// @inheritdoc IRegistry
    function withdraw() external nonReentrant {
        TOKEN.safeTransfer(msg.sender, Operators.withdraw(_s));
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
        uint256 amount = uint256(p.reward) + p.auditFee + p.verifierFee;
        // A permit that was front-run has already set the allowance; without one the transfer fails.
        // slither-disable-next-line reentrancy-benign
        try IERC20Permit(TOKEN).permit(msg.sender, address(this), amount, permitDeadline, v, r, s) {} catch {}
        return _openJob(p);
    }

    /// @inheritdoc IRegistry
    function topUp(JobId id, uint96 amount, Anchor calldata anchor) external nonReentrant restsOn(anchor) {
        Jobs.topUp(_s, id, amount);
        _pull(amount);
    }

    /// @inheritdoc IRegistry
    function closeJob(JobId id, Anchor calldata anchor) external restsOn(anchor) {
        Jobs.close(_s, id);
    }

    /// @inheritdoc IRegistry
    function refund(JobId id) external nonReentrant {
        (address to, uint96 amount) = Jobs.refund(_s, params(), id);
        if (amount > 0) TOKEN.safeTransfer(to, amount);
    }

    /// @inheritdoc IRegistry
    function takeJob(JobId id, Anchor calldata anchor) external restsOn(anchor) {
        Jobs.take(_s, params(), id);
    }

    /// @inheritdoc IRegistry
    function takeJobs(JobId[] calldata ids, Anchor calldata anchor) external restsOn(anchor) {
        Jobs.takeAll(_s, params(), ids);
    }

    function _openJob(JobParams calldata p) private returns (JobId id) {
        uint96 amount;
        (id, amount) = Jobs.open(_s, p);
        _pull(amount);
    }

    // ----------------------------------------------------------------------------------------------- batches

    /// @inheritdoc IRegistry
    function commitBatch(bytes32 root, uint32 size, bytes32 members, uint256[] calldata lines, Anchor calldata anchor)
        external
        restsOn(anchor)
        returns (BatchId)
    {
        return Jobs.commit(_s, params(), root, size, members, lines);
    }

    /// @inheritdoc IRegistry
    function draw(BatchId id) external returns (bytes32) {
        return Settling.draw(_s, id, DRAW_DELAY);
    }

    /// @inheritdoc IRegistry
    function recommit(BatchId id) external {
        Settling.recommit(_s, params(), id);
    }

    /// @inheritdoc IRegistry
    function takeBatch(BatchId id, Header calldata header) external {
        Jobs.takeBatch(_s, params(), id, header);
    }

    /// @inheritdoc IRegistry
    function dropBatch(BatchId id, Header calldata header) external {
        Jobs.dropBatch(_s, params(), id, header);
    }

    // -------------------------------------------------------------------------------------------- settlement

    /// @inheritdoc IRegistry
    function settleBatch(
        Settlement calldata settlement,
        Header calldata header,
        uint256 signers,
        bytes calldata signature
    ) external {
        Settling.settle(_s, params(), settlement, header, signers, signature);
    }

    /// @inheritdoc IRegistry
    function finalize(BatchId id) external {
        _requireFinal(id, _s.batches[BatchId.unwrap(id)].settled);
        Settling.finalize(_s, params(), id);
    }

    // ----------------------------------------------------------------------------------------------- payouts

    /// @inheritdoc IRegistry
    function claim(Claim[] calldata claims) external {
        bool paid;
        for (uint256 i = 0; i < claims.length; ++i) {
            paid = _claim(claims[i]) || paid;
        }
        require(paid, NothingClaimed());
    }

    /// @dev Everything is written before the token is called, so a token that re-enters finds the payout claimed.
    function _claim(Claim calldata c) private returns (bool) {
        (BatchId id, uint256 index) = (c.batch, c.index);
        Batch storage b = _s.batches[BatchId.unwrap(id)];
        Settled memory t = b.settled;
        if (t.settledAt == 0 || t.openChallenges != 0 || _isClaimed(id, t.claimed, index)) return false;
        require(block.timestamp >= t.claimableAt, WindowOpen(id, t.claimableAt));
        if (t.unfinal) {
            Settling.finalize(_s, params(), id);
            t = b.settled;
        }
        (bytes32 root, bool fits) = Merkle.climb(Merkle.payoutLeaf(c), index, t.payoutCount, c.proof);
        require(fits && Merkle.node(root, c.bound) == b.header, BadPayoutProof(id, index));
        uint96 amount = c.amount;
        if (c.cause == 0) {
            if (t.pooled) amount += uint96(uint256(b.pool) * c.audits / b.auditUnits);
            require(amount <= t.remaining, PayoutsExceedTotal(id));
            t.remaining -= amount;
        } else {
            bool known;
            (known, amount) = Settling.redress(_s, params(), id, c.cause, amount);
            if (!known) return false;
            t.remaining = b.settled.remaining;
        }
        if (index < INLINE_CLAIMS) t.claimed |= uint16(1 << index);
        else _s.claimed[BatchId.unwrap(id)][index >> 8] |= 1 << (index & 0xff);
        b.settled = t;
        _payOut(c, amount, t);
        return true;
    }

    function _payOut(Claim calldata c, uint96 amount, Settled memory t) private {
        uint32 id = OperatorId.unwrap(c.operator);
        Operator storage o = _s.operators[id];
        (address owner, uint32 valid) = (o.owner, o.consecutiveValid);
        (bool forfeit, bool counts_) = Marks.judge(_s, owner, id, BatchId.unwrap(c.batch), t.settledAt, t.claimableAt);
        if (forfeit) {
            _s.books.burned += amount;
            emit Forfeited(c.batch, c.operator, amount);
            return;
        }
        if (c.valid > 0 && counts_) {
            valid = Marks.sum(valid, c.valid);
            o.consecutiveValid = valid;
        }
        emit Claimed(c.batch, c.operator, owner, amount, valid);
        if (amount > 0) TOKEN.safeTransfer(owner, amount);
    }

    function _requireFinal(BatchId id, Settled memory t) private view {
        require(t.settledAt != 0, NotSettled(id));
        require(block.timestamp >= t.claimableAt, WindowOpen(id, t.claimableAt));
        // slither-disable-next-line incorrect-equality
        require(t.openChallenges == 0, Contested(id));
    }

    function _isClaimed(BatchId id, uint16 first, uint256 index) private view returns (bool) {
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

    // ----------------------------------------------------------------------------------------- for the Court

    /// @inheritdoc IRegistry
    function chargeBond(address caller, uint96 amount) external onlyCourt returns (address) {
        return Verdicts.chargeBond(_s, params(), caller, amount);
    }

    /// @inheritdoc IRegistry
    function chargeFrozen(BatchId id, uint256 index, uint96 amount) external onlyCourt {
        Verdicts.chargeFrozen(_s, id, index, amount);
    }

    /// @inheritdoc IRegistry
    function give(address owner, uint96 amount) external onlyCourt {
        Verdicts.give(_s, owner, amount);
    }

    /// @inheritdoc IRegistry
    function giveJob(JobId id, uint96 amount) external onlyCourt {
        Verdicts.giveJob(_s, id, amount);
    }

    /// @inheritdoc IRegistry
    function burn(uint96 amount) external onlyCourt {
        Verdicts.burn(_s, amount);
    }

    /// @inheritdoc IRegistry
    function slash(address owner, uint96 amount) external onlyCourt returns (uint96) {
        return Verdicts.slash(_s, params(), owner, amount);
    }

    /// @inheritdoc IRegistry
    function hold(BatchId id) external onlyCourt {
        Verdicts.hold(_s, id);
    }

    /// @inheritdoc IRegistry
    function release(BatchId id) external onlyCourt {
        Verdicts.release(_s, id);
    }

    /// @inheritdoc IRegistry
    function convict(BatchId id, OperatorId operator, JobId jobId, uint32 task, uint32 segment) external onlyCourt {
        Verdicts.convict(_s, id, operator, jobId, task, segment);
    }

    /// @inheritdoc IRegistry
    function absolve(BatchId id, uint256 index) external onlyCourt {
        Verdicts.absolve(_s, id, index);
    }

    /// @inheritdoc IRegistry
    function void(BatchId id, bool slashSigners) external onlyCourt returns (uint96) {
        return Verdicts.void(_s, params(), id, slashSigners);
    }

    // ------------------------------------------------------------------------------------------------- views

    /// @inheritdoc IRegistry
    function params() public view returns (Params memory) {
        return Params({
            nodeStake: NODE_STAKE,
            verifierStake: VERIFIER_STAKE,
            challengeWindow: CHALLENGE_WINDOW,
            unstakeDelay: UNSTAKE_DELAY,
            settleTime: SETTLE_TIME,
            settleGrace: SETTLE_GRACE,
            receiptTime: RECEIPT_TIME,
            takeoverTimeout: TAKEOVER_TIMEOUT,
            seatDelay: SEAT_DELAY,
            idlePeriod: IDLE_PERIOD,
            drawDelay: DRAW_DELAY,
            collusionBps: COLLUSION_BPS,
            slashRequesterBps: SLASH_REQUESTER_BPS,
            slashAuditorBps: SLASH_AUDITOR_BPS,
            slashRedressBps: SLASH_REDRESS_BPS,
            leaderBps: LEADER_BPS,
            settlePenalty: SETTLE_PENALTY,
            exposureBps: EXPOSURE_BPS
        });
    }

    /// @inheritdoc IRegistry
    function token() external view returns (address) {
        return TOKEN;
    }

    /// @inheritdoc IRegistry
    function court() external view returns (address) {
        return COURT;
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
    function operatorState(OperatorId id) external view returns (Operator memory) {
        return _s.operators[OperatorId.unwrap(id)];
    }

    /// @inheritdoc IRegistry
    function ownerOf(OperatorId id) external view returns (address) {
        return _s.operators[OperatorId.unwrap(id)].owner;
    }

    /// @inheritdoc IRegistry
    function payee(address key) external view returns (address) {
        return Operators.ownerOf(_s, key);
    }

    /// @inheritdoc IRegistry
    function nodeOf(address key) external view returns (OperatorId, address) {
        uint32 id = _s.operatorOf[key];
        Operator storage o = _s.operators[id];
        return o.key == key && o.role == Role.Node ? (OperatorId.wrap(id), o.owner) : (OperatorId.wrap(0), address(0));
    }

    /// @inheritdoc IRegistry
    function endpointOf(OperatorId id) external view returns (string memory) {
        return _s.endpoints[OperatorId.unwrap(id)];
    }

    /// @inheritdoc IRegistry
    function operatorOf(address key) external view returns (OperatorId) {
        return OperatorId.wrap(_s.operatorOf[key]);
    }

    /// @inheritdoc IRegistry
    function nodeAt(uint256 index) external view returns (OperatorId) {
        return OperatorId.wrap(_s.nodes[index]);
    }

    /// @inheritdoc IRegistry
    function counts() external view returns (uint256, uint256, uint256, uint256, uint256) {
        Books storage b = _s.books;
        return (b.operators, _s.nodes.length, b.jobs, b.batches, _s.verifiers.version);
    }

    /// @inheritdoc IRegistry
    function seats() external view returns (uint256) {
        return _s.verifiers.taken;
    }

    /// @inheritdoc IRegistry
    function seatHolder(uint8 slot, uint256 time) external view returns (OperatorId) {
        return OperatorId.wrap(_s.verifiers.holderAt(slot, time));
    }

    /// @inheritdoc IRegistry
    function seatKey(uint8 slot) external view returns (bytes memory) {
        return _s.verifiers.keyOf(slot);
    }

    /// @inheritdoc IRegistry
    function seatCountsFrom(uint8 slot) external view returns (uint256) {
        return _s.verifiers.seats[slot].countsFrom;
    }

    /// @inheritdoc IRegistry
    function quorum(uint24 version) external view returns (uint256) {
        return _s.verifiers.quorums[version].seats;
    }

    /// @inheritdoc IRegistry
    function benchLength(uint8 workload) external view returns (uint256) {
        return _s.benches[workload].entries.length;
    }

    /// @inheritdoc IRegistry
    function benchAt(uint8 workload, uint256 index) external view returns (BenchEntry memory) {
        return _s.benches[workload].entries[index];
    }

    /// @inheritdoc IRegistry
    function job(JobId id) external view returns (Job memory) {
        JobBook memory j = _s.jobs[JobId.unwrap(id)];
        require(j.requester != address(0), UnknownJob(id));
        uint48 paid = j.units - j.unitsUnpaid;
        return Job({
            units: j.units,
            unitsOpen: j.unitsTaken - j.unitsReturned - paid,
            unitsPaid: paid,
            verifier: j.verifier,
            lastActive: j.lastActive,
            end: j.end,
            escrow: j.escrow,
            surplus: j.surplus,
            surplusFrom: j.surplusFrom,
            price: j.price,
            verifierFee: j.verifierFee,
            former: j.former,
            formerUntil: j.formerUntil,
            requester: j.requester,
            openBlock: j.openBlock,
            auditorsPerSegment: j.auditorsPerSegment,
            segmentsPerAudit: j.segmentsPerAudit,
            workload: j.workload,
            closed: j.closed
        });
    }

    /// @inheritdoc IRegistry
    function batch(BatchId id) external view returns (Batch memory b) {
        b = _batch(id);
        if (b.leaderSince == 0) b.leaderSince = b.committedAt;
        if (b.openedAt == 0) b.openedAt = b.committedAt;
    }

    /// @inheritdoc IRegistry
    function standing(BatchId id) external view returns (Standing memory) {
        Batch storage b = _batch(id);
        return Standing(b.header, b.verifier, b.attempt, b.committedAt, b.settled.settledAt, b.dropped);
    }

    /// @inheritdoc IRegistry
    function terms(JobId id) external view returns (address, uint8, uint256) {
        JobBook storage j = _s.jobs[JobId.unwrap(id)];
        require(j.units != 0, UnknownJob(id));
        return (j.requester, j.workload, j.end);
    }

    /// @inheritdoc IRegistry
    function slashes(BatchId id) external view returns (SlashRecord[] memory) {
        return _s.slashes[BatchId.unwrap(id)];
    }

    /// @inheritdoc IRegistry
    function isClaimed(BatchId id, uint256 index) external view returns (bool) {
        return _isClaimed(id, _batch(id).settled.claimed, index);
    }

    /// @inheritdoc IRegistry
    function settlementDigest(Settlement calldata s, Header calldata header) external view returns (bytes32) {
        Batch storage b = _batch(s.batch);
        bytes32 seed = header.seed == 0 ? b.seed : header.seed;
        return TypedData.digest(TypedData.settlement(s, Headers.committed(header), seed, b.attempt));
    }

    function _batch(BatchId id) private view returns (Batch storage b) {
        b = _s.batches[BatchId.unwrap(id)];
        require(b.header != 0, UnknownBatch(id));
    }
}
