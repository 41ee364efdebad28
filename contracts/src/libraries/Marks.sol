// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {FixedPointMathLib} from "solady/utils/FixedPointMathLib.sol";

import {IRegistry, OperatorId, JobId, BatchId} from "../interfaces/IRegistry.sol";
import {Lines} from "./Lines.sol";
import {Mark, Stakes, State} from "./State.sol";

/// @title Marks
/// @notice What faults take and how they are undone. An owner's faults are kept in the order of time; undoing one gives back
/// what it took to the fault that came next, if there is one, since that one would have taken it; and to the owner if not.
library Marks {
    uint256 private constant MAX_ACCUSERS = 256;
    /// @dev Reasons of faults, see `proofyard.protocol.settlement.FaultReason`: 1 to 3 cost stake, 4 does not.
    uint8 private constant MISMATCH = 1;
    uint8 private constant DISAGREED = 4;
    uint8 private constant CONVICTED = type(uint8).max;

    /// @notice That a fault is about work of one of the batch's jobs, and that its accusers, where anybody's answers carried
    /// it, are more than the job has auditors for a segment: distinct owners other than the accused one.
    function checkFault(State storage s, IRegistry.Fault calldata f, uint256[] memory lines) internal view {
        address owner = s.operators[OperatorId.unwrap(f.operator)].owner;
        require(owner != address(0), IRegistry.BadSettlement("fault of an unknown operator"));
        require(f.reason >= MISMATCH && f.reason <= DISAGREED, IRegistry.BadSettlement("unknown reason of a fault"));
        bool own;
        for (uint256 i = 0; i < lines.length; ++i) {
            own = own || Lines.job(lines[i]) == f.job;
        }
        require(own, IRegistry.BadSettlement("fault in another job"));
        uint256 accusers = f.accusers.length;
        require(accusers <= MAX_ACCUSERS, IRegistry.BadSettlement("too many accusers"));
        bool carried = f.reason == DISAGREED || accusers == 0 || accusers > s.jobs[f.job].auditorsPerSegment;
        require(carried, IRegistry.BadSettlement("too few accusers"));
        address[] memory owners = new address[](accusers + 1);
        owners[accusers] = owner;
        for (uint256 i = 0; i < accusers; ++i) {
            owners[i] = s.operators[f.accusers[i]].owner;
            bool distinct = owners[i] != address(0) && owners[i] != owner;
            for (uint256 n = 0; n < i; ++n) {
                distinct = distinct && owners[n] != owners[i];
            }
            require(distinct, IRegistry.BadSettlement("accusers must be other owners"));
        }
    }

    /// @notice Records fault number `index` of a batch; what it froze of the owner's stake lies in `bonds`.
    function record(State storage s, BatchId batch, uint256 index, IRegistry.Fault calldata f)
        internal
        returns (uint96 amount)
    {
        uint32 id = OperatorId.unwrap(f.operator);
        IRegistry.Operator storage o = s.operators[id];
        bool costly = f.reason != DISAGREED;
        if (costly) {
            amount = Stakes.take(s, o.owner, type(uint256).max);
            s.accounts[o.owner].frozen += amount;
        }
        IRegistry.SlashRecord storage r = s.slashes[BatchId.unwrap(batch)].push();
        (r.operator, r.amount, r.consecutiveValid, r.lastFault) = (id, amount, o.consecutiveValid, o.lastFault);
        (r.task, r.segment, r.reason, r.forfeits, r.job) = (f.task, f.segment, f.reason, o.forfeits, f.job);
        r.mark = uint32(s.marks[o.owner].length);
        r.accusers = f.accusers;
        _mark(s, batch, id, uint8(index), costly);
        emit IRegistry.Faulted(batch, f.operator, JobId.wrap(f.job), f.task, f.segment, f.reason, amount);
    }

    /// @notice A conviction by the Court, which is never undone.
    function convict(State storage s, BatchId batch, OperatorId operator, JobId job, uint32 task, uint32 segment)
        internal
    {
        _mark(s, batch, OperatorId.unwrap(operator), CONVICTED, true);
        emit IRegistry.Faulted(batch, operator, job, task, segment, MISMATCH, 0);
    }

    /// @notice Undoes fault `index` of a batch: its stake, still frozen, and the reputation that it took.
    function undo(State storage s, BatchId batch, uint256 index) internal {
        IRegistry.SlashRecord storage f = s.slashes[BatchId.unwrap(batch)][index];
        f.absolved = true;
        address owner = s.operators[f.operator].owner;
        s.marks[owner][f.mark].undone = true;
        uint96 amount = f.amount;
        s.batches[BatchId.unwrap(batch)].frozen -= amount;
        uint96 returned = amount > 0 ? _giveBack(s, owner, f.mark, amount) : 0;
        _restore(s, owner, f.mark);
        emit IRegistry.Absolved(batch, OperatorId.wrap(f.operator), returned, s.operators[f.operator].consecutiveValid);
    }

    /// @notice Whether a payout of a batch is forfeit, because a fault cost its owner stake before the window closed or a
    /// jury convicted it of work in the batch; and whether its audits count, because nothing came after the settlement.
    function judge(State storage s, address owner, uint32 operator, uint256 batch, uint40 settledAt, uint40 claimableAt)
        internal
        view
        returns (bool forfeit, bool counts)
    {
        counts = true;
        Mark[] storage marks = s.marks[owner];
        for (uint256 i = marks.length; i > 0; --i) {
            Mark memory m = marks[i - 1];
            if (m.time < settledAt) return (forfeit, counts);
            if (m.undone) continue;
            if (m.costly && (m.time < claimableAt || m.batch == batch)) forfeit = true;
            if (m.operator == operator) counts = false;
        }
    }

    /// @dev Adds without wrapping or reverting: a count that cannot rise must not hold back pay.
    function sum(uint32 a, uint32 b) internal pure returns (uint32) {
        return uint32(FixedPointMathLib.min(uint256(a) + b, type(uint32).max));
    }

    function _mark(State storage s, BatchId batch, uint32 operator, uint8 entry, bool costly) private {
        IRegistry.Operator storage o = s.operators[operator];
        s.marks[o.owner].push(
            Mark({
                time: uint40(block.timestamp),
                operator: operator,
                consecutiveValid: o.consecutiveValid,
                batch: uint64(BatchId.unwrap(batch)),
                entry: entry,
                costly: costly,
                undone: false
            })
        );
        o.consecutiveValid = 0;
        if (costly || !o.forfeits) (o.lastFault, o.forfeits) = (uint40(block.timestamp), costly);
    }

    /// @dev Where the owner was found at fault again since, the money goes on to that fault, or is burned if it is final.
    function _giveBack(State storage s, address owner, uint256 mark, uint96 amount) private returns (uint96) {
        Mark[] storage marks = s.marks[owner];
        for (uint256 i = mark + 1; i < marks.length; ++i) {
            Mark memory m = marks[i];
            if (m.undone || !m.costly) continue;
            if (m.entry != CONVICTED && s.batches[m.batch].settled.unfinal) {
                s.slashes[m.batch][m.entry].amount += amount;
                s.batches[m.batch].frozen += amount;
                return 0;
            }
            s.accounts[owner].frozen -= amount;
            s.books.bonds -= amount;
            s.books.burned += amount;
            return 0;
        }
        s.accounts[owner].frozen -= amount;
        Stakes.give(s, owner, amount);
        return amount;
    }

    /// @dev Reputation goes to the operator, or to its next fault; its last fault is the last that stands.
    function _restore(State storage s, address owner, uint256 mark) private {
        Mark[] storage marks = s.marks[owner];
        (uint32 operator, uint32 valid) = (marks[mark].operator, marks[mark].consecutiveValid);
        IRegistry.Operator storage o = s.operators[operator];
        bool passed;
        for (uint256 i = mark + 1; i < marks.length && !passed; ++i) {
            if (marks[i].operator != operator || marks[i].undone) continue;
            marks[i].consecutiveValid = sum(marks[i].consecutiveValid, valid);
            passed = true;
        }
        if (!passed) o.consecutiveValid = sum(o.consecutiveValid, valid);
        (o.lastFault, o.forfeits) = _last(marks, operator);
    }

    /// @dev The last fault that cost stake, or if there is none the last one.
    function _last(Mark[] storage marks, uint32 operator) private view returns (uint40 time, bool forfeits) {
        for (uint256 i = marks.length; i > 0; --i) {
            Mark memory m = marks[i - 1];
            if (m.operator != operator || m.undone) continue;
            if (m.costly) return (m.time, true);
            if (time == 0) time = m.time;
        }
    }
}
