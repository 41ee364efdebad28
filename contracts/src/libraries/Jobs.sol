// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {FixedPointMathLib} from "solady/utils/FixedPointMathLib.sol";

import {IRegistry, OperatorId, JobId, BatchId} from "../interfaces/IRegistry.sol";
import {Headers} from "./Headers.sol";
import {Lines} from "./Lines.sol";
import {Operators} from "./Operators.sol";
import {JobBook, JobSlots, Stakes, State} from "./State.sol";
import {VerifierSet} from "./VerifierSet.sol";

/// @title Jobs
/// @notice Jobs, their escrow, and the batches that reserve it, up to their settlement. A linked library that runs in the
/// Registry's storage; the functions are documented in `IRegistry`, whose functions of the same names call them and move
/// the tokens.
library Jobs {
    using JobSlots for JobBook;
    using VerifierSet for VerifierSet.Set;

    uint256 private constant MAX_LINES = 128;
    uint256 private constant MAX_TAKEN = 128;
    /// @dev Far from 64 bits, so that no number of batches that are voided and taken again overflows a job's open units.
    uint256 private constant MAX_UNITS = type(uint48).max;

    // -------------------------------------------------------------------------------------------------- jobs

    function open(State storage s, IRegistry.JobParams calldata p) external returns (JobId id, uint96 amount) {
        require(p.units > 0 && p.units <= MAX_UNITS, IRegistry.BadJob("no units, or too many"));
        require(p.deadline > block.timestamp, IRegistry.BadJob("deadline in the past"));
        require(p.deadline <= type(uint32).max, IRegistry.BadJob("deadline beyond 32 bits"));
        require(p.auditorsPerSegment > 1 && p.segmentsPerAudit > 0, IRegistry.BadJob("no audits"));
        require(p.workload < 64, IRegistry.BadJob("workload is no bit of 64"));
        id = JobId.wrap(++s.books.jobs);
        amount = p.reward + p.auditFee + p.verifierFee;
        JobBook storage j = s.jobs[JobId.unwrap(id)];
        (j.requester, j.openBlock) = (msg.sender, uint40(block.number));
        (j.auditorsPerSegment, j.segmentsPerAudit, j.workload) = (p.auditorsPerSegment, p.segmentsPerAudit, p.workload);
        (j.units, j.unitsUnpaid, j.end) = (uint48(p.units), uint48(p.units), uint32(p.deadline));
        (j.escrow, j.price, j.verifierFee) = (amount, amount, p.verifierFee);
        s.books.escrow += amount;
        emit IRegistry.JobOpened(
            id,
            msg.sender,
            p.manifest,
            p.reward,
            p.auditFee,
            p.verifierFee,
            p.units,
            p.deadline,
            p.auditorsPerSegment,
            p.segmentsPerAudit,
            p.workload
        );
        if (OperatorId.unwrap(p.verifier) != 0) _openFor(s, id, j, p.verifier);
    }

    /// @dev Has a job be a verifier's from the start, which could take it now.
    function _openFor(State storage s, JobId id, JobBook storage j, OperatorId verifier) private {
        IRegistry.Operator storage o = s.operators[OperatorId.unwrap(verifier)];
        bool seated = o.listed && o.role == IRegistry.Role.Verifier;
        require(seated, IRegistry.BadJob("its verifier has no seat"));
        uint256 from = s.verifiers.seats[o.index].countsFrom;
        require(block.timestamp >= from, IRegistry.SeatTooNew(verifier, from));
        (j.verifier, j.lastActive) = (OperatorId.unwrap(verifier), uint32(block.timestamp));
        emit IRegistry.JobTaken(id, verifier);
    }

    function topUp(State storage s, JobId id, uint96 amount) external {
        _opened(s, id).escrow += amount;
        s.books.escrow += amount;
        emit IRegistry.JobToppedUp(id, amount);
    }

    function close(State storage s, JobId id) external {
        JobBook storage j = _opened(s, id);
        bool done = j.unitsUnpaid == 0 && j.verifier != 0 && msg.sender == s.operators[j.verifier].key;
        require(msg.sender == j.requester || done, IRegistry.NotYourJob(id, msg.sender));
        (j.closed, j.end) = (true, uint32(block.timestamp));
        emit IRegistry.JobClosed(id);
    }

    /// @notice Takes the free money out of a job; the caller sends it.
    function refund(State storage s, IRegistry.Params memory p, JobId id) external returns (address to, uint96 amount) {
        JobBook storage j = _job(s, id);
        uint256 until = uint256(j.end) + p.receiptTime;
        require(j.unitsUnpaid == 0 || block.timestamp > until, IRegistry.JobStillOpen(id, until));
        (to, amount) = (j.requester, j.escrow);
        j.escrow = 0;
        if (block.timestamp >= j.surplusFrom) {
            amount += j.surplus;
            j.surplus = 0;
        }
        s.books.escrow -= amount;
        if (amount > 0) emit IRegistry.JobRefunded(id, to, amount);
    }

    function take(State storage s, IRegistry.Params memory p, JobId id) external {
        _take(s, p, id, _opened(s, id), _counting(s));
    }

    function takeAll(State storage s, IRegistry.Params memory p, JobId[] calldata ids) external {
        require(ids.length <= MAX_TAKEN, IRegistry.TooManyJobs(ids.length, MAX_TAKEN));
        uint32 verifier = _counting(s);
        bool any;
        for (uint256 i = 0; i < ids.length; ++i) {
            JobBook storage j = s.jobs[JobId.unwrap(ids[i])];
            if (!_isOpen(j) || block.timestamp <= _heldUntil(s, p, j, verifier)) continue;
            any = true;
            _hold(s, p, ids[i], j, verifier);
        }
        require(any, IRegistry.NothingTaken());
    }

    // ----------------------------------------------------------------------------------------------- batches

    function commit(
        State storage s,
        IRegistry.Params memory p,
        bytes32 root,
        uint32 size,
        bytes32 members,
        uint256[] calldata lines
    ) external returns (BatchId id) {
        require(size > 0, IRegistry.BadBatch("empty"));
        IRegistry.Header memory h = IRegistry.Header(root, size, members, lines, new uint256[](0), 0, 0);
        id = _commit(s, p, _counting(s), h);
    }

    function _commit(State storage s, IRegistry.Params memory p, uint32 verifier, IRegistry.Header memory h)
        private
        returns (BatchId id)
    {
        id = BatchId.wrap(++s.books.batches);
        uint256 budget = _reserve(s, p, id, verifier, h.lines);
        _record(s, p, id, verifier, h, budget);
    }

    function takeBatch(State storage s, IRegistry.Params memory p, BatchId id, IRegistry.Header calldata header)
        external
    {
        IRegistry.Batch storage b = unsettled(s, id, header);
        uint256 end = openedAt(b) + p.settleGrace;
        require(block.timestamp <= end, IRegistry.BatchExpired(id, end));
        // Its number in the digest is what keeps signatures of one attempt from serving another.
        require(b.attempt < type(uint8).max, IRegistry.BadBatch("too many attempts"));
        uint32 before = b.verifier;
        uint32 verifier = _successor(s, b);
        IRegistry.Header memory next = header;
        if (b.voided) {
            _reserveAgain(s, next.lines, next.paid);
            b.seed = next.seed;
            (next.paid, next.seed, next.payoutRoot) = (new uint256[](0), 0, 0);
            b.header = Headers.committed(next);
            b.voided = false;
        } else {
            uint256 due = leaderSince(b) + p.settleTime;
            bool late = block.timestamp > due || !s.operators[before].listed;
            require(late && verifier != before, IRegistry.NotOverdue(id, due));
            if (b.committer == 0) b.committer = before;
            Stakes.penalise(s, p, before, BatchId.unwrap(id), p.settlePenalty);
        }
        Stakes.unexpose(s, b);
        b.exposure = Stakes.expose(s, p, verifier, _budget(next.lines));
        (b.verifier, b.leaderSince, b.attempt) = (verifier, uint40(block.timestamp), b.attempt + 1);
        _reportTaken(id, b, before, next.lines);
    }

    function _reportTaken(BatchId id, IRegistry.Batch storage b, uint32 before, uint256[] memory lines) private {
        (OperatorId to, OperatorId from) = (OperatorId.wrap(b.verifier), OperatorId.wrap(before));
        emit IRegistry.BatchTaken(id, to, from, lines, b.quorum, b.attempt);
    }

    function dropBatch(State storage s, IRegistry.Params memory p, BatchId id, IRegistry.Header calldata header)
        external
    {
        IRegistry.Batch storage b = unsettled(s, id, header);
        uint256 end = openedAt(b) + p.settleGrace;
        require(block.timestamp > end, IRegistry.NotOverdue(id, end));
        b.dropped = true;
        uint256 budget;
        for (uint256 i = 0; i < header.lines.length; ++i) {
            uint256 line = header.lines[i];
            JobBook storage j = s.jobs[Lines.job(line)];
            if (b.voided) {
                uint48 paid = Lines.paidUnits(header.paid[i]);
                (j.unitsUnpaid, j.unitsReturned) = (j.unitsUnpaid + paid, j.unitsReturned + paid);
                j.escrow += Lines.amount(header.paid[i]);
            } else {
                j.unitsReturned += Lines.units(line);
                j.escrow += Lines.budget(line);
                budget += Lines.budget(line);
            }
        }
        Stakes.unexpose(s, b);
        emit IRegistry.BatchDropped(id);
        // A voided batch that nobody took has no leader.
        if (!b.voided) _penaliseDrop(s, p, id, b, budget);
    }

    function _penaliseDrop(
        State storage s,
        IRegistry.Params memory p,
        BatchId id,
        IRegistry.Batch storage b,
        uint256 budget
    ) private {
        (uint32 leader, uint32 committer) = (b.verifier, b.committer);
        bool successor = b.wasSettled || committer != 0 && committer != leader;
        uint256 penalty = successor ? p.settlePenalty : FixedPointMathLib.max(p.settlePenalty, budget);
        Stakes.penalise(s, p, leader, BatchId.unwrap(id), penalty);
        if (b.wasSettled || committer == 0 || committer == leader || budget <= p.settlePenalty) return;
        // When it was taken over from, it paid a part already.
        Stakes.penalise(s, p, committer, BatchId.unwrap(id), budget - p.settlePenalty);
    }

    // ------------------------------------------------------------------------------------------------- shared

    /// @notice A batch that is neither settled nor dropped, whose header was brought along. Unless it is voided, the hash
    /// that is stored is that of what was committed.
    function unsettled(State storage s, BatchId id, IRegistry.Header memory header)
        internal
        view
        returns (IRegistry.Batch storage b)
    {
        b = s.batches[BatchId.unwrap(id)];
        require(b.header != 0, IRegistry.UnknownBatch(id));
        require(b.settled.settledAt == 0, IRegistry.AlreadySettled(id));
        require(!b.dropped, IRegistry.BadBatch("dropped"));
        require(Headers.stored(header) == b.header, IRegistry.BadHeader(id));
    }

    function leaderSince(IRegistry.Batch storage b) internal view returns (uint256) {
        return b.leaderSince == 0 ? b.committedAt : b.leaderSince;
    }

    function openedAt(IRegistry.Batch storage b) internal view returns (uint256) {
        // In the first attempt its slot need not be read.
        return b.attempt == 0 || b.openedAt == 0 ? b.committedAt : b.openedAt;
    }

    function isVoid(IRegistry.Batch storage b) internal view returns (bool) {
        return b.attempt != 0 && b.voided;
    }

    // ------------------------------------------------------------------------------------------------ helpers

    function _job(State storage s, JobId id) private view returns (JobBook storage j) {
        j = s.jobs[JobId.unwrap(id)];
        require(j.units != 0, IRegistry.UnknownJob(id));
    }

    function _opened(State storage s, JobId id) private view returns (JobBook storage j) {
        j = _job(s, id);
        _requireOpen(id, j, 0);
    }

    /// @dev That a job's end, and `grace` after it, is still to come.
    function _requireOpen(JobId id, JobBook storage j, uint256 grace) private view {
        uint256 end = uint256(j.end) + grace;
        if (block.timestamp < end) return;
        require(!j.closed, IRegistry.JobIsClosed(id));
        require(block.timestamp <= end, IRegistry.DeadlinePassed(id, end));
    }

    /// @dev The same without grace, of a job that may be none: that one ended at zero.
    function _isOpen(JobBook storage j) private view returns (bool) {
        return block.timestamp < j.end || block.timestamp <= j.end && !j.closed;
    }

    /// @dev The caller's operator, whose seat must count for new batches.
    function _counting(State storage s) private returns (uint32 verifier) {
        verifier = Operators.callingVerifier(s);
        s.verifiers.mature(s.books.batches == 0);
        uint256 slot = s.operators[verifier].index;
        if (s.verifiers.quorums[s.verifiers.version].seats >> slot & 1 == 1) return verifier;
        revert IRegistry.SeatTooNew(OperatorId.wrap(verifier), s.verifiers.seats[slot].countsFrom);
    }

    /// @dev The caller as a batch's next leader. The quorum stays the one that the batch was committed to, unless a jury
    /// found against it or nobody of it is left.
    function _successor(State storage s, IRegistry.Batch storage b) private returns (uint32 verifier) {
        uint256 seats = s.verifiers.counting(b.quorum);
        if (b.voided || seats == 0) {
            verifier = _counting(s);
            b.quorum = s.verifiers.version;
            return verifier;
        }
        verifier = Operators.callingVerifier(s);
        uint256 own = 1 << s.operators[verifier].index;
        require(seats & own != 0, IRegistry.UnknownSigner(own, seats));
    }

    function _take(State storage s, IRegistry.Params memory p, JobId id, JobBook storage j, uint32 verifier) private {
        uint256 freeAt = _heldUntil(s, p, j, verifier);
        require(block.timestamp > freeAt, IRegistry.JobTakenBy(id, OperatorId.wrap(j.verifier), freeAt));
        _hold(s, p, id, j, verifier);
    }

    /// @dev Until when a job is another verifier's; 0 where it has none, or one that has left its seat.
    function _heldUntil(State storage s, IRegistry.Params memory p, JobBook storage j, uint32 verifier)
        private
        view
        returns (uint256)
    {
        uint32 holder = j.verifier;
        // slither-disable-next-line incorrect-equality
        if (holder == verifier || !_isSeated(s, holder)) return 0;
        return uint256(j.lastActive) + p.takeoverTimeout;
    }

    function _isSeated(State storage s, uint32 holder) private view returns (bool) {
        return holder != 0 && s.operators[holder].listed;
    }

    function _hold(State storage s, IRegistry.Params memory p, JobId id, JobBook storage j, uint32 verifier) private {
        uint32 holder = j.verifier;
        // slither-disable-next-line incorrect-equality
        if (holder == verifier) return;
        // Who left its seat cannot commit any more: who lost the job before it still can.
        if (_isSeated(s, holder)) {
            uint256 until = FixedPointMathLib.min(block.timestamp + p.receiptTime, type(uint32).max);
            (j.former, j.formerUntil) = (holder, uint32(until));
        }
        (j.verifier, j.lastActive) = (verifier, uint32(block.timestamp));
        emit IRegistry.JobTaken(id, OperatorId.wrap(verifier));
    }

    function _record(
        State storage s,
        IRegistry.Params memory p,
        BatchId id,
        uint32 verifier,
        IRegistry.Header memory h,
        uint256 budget
    ) private {
        IRegistry.Batch storage b = s.batches[BatchId.unwrap(id)];
        (uint24 quorum, uint24 exposure) = (s.verifiers.version, Stakes.expose(s, p, verifier, budget));
        b.header = Headers.committed(h);
        (b.exposure, b.verifier, b.quorum) = (exposure, verifier, quorum);
        (b.commitBlock, b.committedAt) = (uint32(block.number), uint32(block.timestamp));
        emit IRegistry.BatchCommitted(id, OperatorId.wrap(verifier), h.root, h.size, h.members, h.lines, quorum);
    }

    function _budget(uint256[] memory lines) private pure returns (uint256 budget) {
        for (uint256 i = 0; i < lines.length; ++i) {
            budget += Lines.budget(lines[i]);
        }
    }

    /// @dev Reserves the lines of a new batch, and writes their budgets into them; `total` is the sum.
    function _reserve(
        State storage s,
        IRegistry.Params memory p,
        BatchId batch,
        uint32 verifier,
        uint256[] memory lines
    ) private returns (uint256 total) {
        require(lines.length > 0 && lines.length <= MAX_LINES, IRegistry.BadBatch("no lines, or too many"));
        uint256 last;
        for (uint256 i = 0; i < lines.length; ++i) {
            uint256 line = lines[i];
            require(Lines.job(line) > last, IRegistry.BadBatch("jobs must ascend"));
            require(Lines.budget(line) == 0, IRegistry.BadBatch("line not empty"));
            last = Lines.job(line);
            JobId id = JobId.wrap(last);
            uint96 budget = _reserveUnits(s, p, id, verifier, Lines.units(line));
            lines[i] = line | budget;
            total += budget;
            emit IRegistry.JobCommitted(id, batch);
        }
    }

    /// @dev Takes units of a job into a batch, and reserves their part of its money. What settlements write is read only where
    /// the rest is not enough: each slot costs a line most of its gas.
    function _reserveUnits(State storage s, IRegistry.Params memory p, JobId id, uint32 verifier, uint48 units)
        private
        returns (uint96 budget)
    {
        JobBook storage j = s.jobs[JobId.unwrap(id)];
        (uint64 taken, uint96 escrow, uint32 end, uint32 holder, uint32 active) = j.taken();
        uint256 due = _due(id, j, units, taken);
        if (block.timestamp >= uint256(end) + p.receiptTime) _requireOpen(id, j, p.receiptTime);
        if (holder == verifier) {
            active = uint32(block.timestamp);
        } else {
            _enter(s, p, id, j, verifier);
            (holder, active) = (j.verifier, j.lastActive);
        }
        budget = uint96(FixedPointMathLib.min(due, escrow));
        j.setTaken(taken + units, escrow - budget, end, holder, active);
        if (budget < due) budget += _fromSurplus(j, due - budget);
    }

    /// @dev What units of a job are due, of which `taken` were taken before.
    function _due(JobId id, JobBook storage j, uint48 units, uint256 taken) private view returns (uint256 due) {
        // slither-disable-next-line unused-return
        (uint256 all, uint256 price,) = j.terms();
        require(all != 0, IRegistry.UnknownJob(id));
        due = FixedPointMathLib.divUp(price * units, all);
        if (units > 0 && taken + units <= all) return due;
        uint256 left = FixedPointMathLib.zeroFloorSub(all + j.unitsReturned, taken);
        require(units > 0 && units <= left, IRegistry.TooManyUnits(id, units, left));
        // Audits of units that came back took more than these units' part: that is missing from all that is left alike.
        return FixedPointMathLib.min(due, FixedPointMathLib.divUp((uint256(j.escrow) + j.surplus) * units, left));
    }

    function _fromSurplus(JobBook storage j, uint256 wanted) private returns (uint96 amount) {
        uint96 surplus = j.surplus;
        amount = uint96(FixedPointMathLib.min(wanted, surplus));
        j.surplus = surplus - amount;
    }

    /// @dev That a verifier may commit for a job that it does not hold: it takes it, or has just lost it.
    function _enter(State storage s, IRegistry.Params memory p, JobId id, JobBook storage j, uint32 verifier) private {
        bool owes = j.verifier != 0 && j.former == verifier && block.timestamp <= j.formerUntil;
        if (owes) return;
        _requireOpen(id, j, 0);
        _take(s, p, id, j, verifier);
    }

    /// @dev The lines of a voided batch: what was paid is still reserved, what was left over is taken back where it is.
    function _reserveAgain(State storage s, uint256[] memory lines, uint256[] memory paid) private {
        for (uint256 i = 0; i < lines.length; ++i) {
            (uint256 line, uint96 amount) = (lines[i], Lines.amount(paid[i]));
            JobBook storage j = s.jobs[Lines.job(line)];
            uint48 units = Lines.paidUnits(paid[i]);
            j.unitsUnpaid += units;
            j.unitsTaken += Lines.units(line) - units;
            uint96 wanted = Lines.budget(line) - amount;
            uint96 first = uint96(FixedPointMathLib.min(wanted, j.surplus));
            uint96 rest = uint96(FixedPointMathLib.min(wanted - first, j.escrow));
            (j.surplus, j.escrow) = (j.surplus - first, j.escrow - rest);
            lines[i] = Lines.pack(uint64(Lines.job(line)), Lines.units(line), amount + first + rest);
        }
    }
}
