// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, BatchId, JobId, OperatorId} from "../src/interfaces/IRegistry.sol";
import {Headers} from "../src/libraries/Headers.sol";
import {Jobs} from "../src/libraries/Jobs.sol";
import {Lines} from "../src/libraries/Lines.sol";
import {Books, JobBook} from "../src/libraries/State.sol";
import {Verdicts} from "../src/libraries/Verdicts.sol";
import {Proof} from "./Proof.sol";

/// @notice A job's escrow goes to batches and comes back whole. The caller's verifier has the first seat; no seat waits.
contract JobsProof is Proof {
    uint256 private constant MAX_UNITS = type(uint48).max;

    // -------------------------------------------------------------------------------------------------- jobs

    /// @notice For anybody, or for a verifier that has the first seat.
    function check_opening_counts_what_it_takes(uint40 time, IRegistry.JobParams memory p) external when(time) {
        s.operators[OperatorId.unwrap(p.verifier)].index = 0;
        Books memory books = s.books;
        (JobId id, uint96 amount) = Jobs.open(s, p);
        JobBook storage j = s.jobs[JobId.unwrap(id)];
        unchecked {
            assert(amount == uint256(p.reward) + p.auditFee + p.verifierFee && j.escrow == amount);
            assert(j.units == p.units && p.units > 0 && p.units <= MAX_UNITS);
            books.escrow += amount;
            assertBooks(books);
        }
    }

    function check_top_up_is_counted(uint40 time, uint96 amount) external when(time) {
        (Books memory books, uint96 escrow) = (s.books, s.jobs[A].escrow);
        Jobs.topUp(s, JobId.wrap(A), amount);
        unchecked {
            assert(s.jobs[A].escrow == escrow + amount);
            books.escrow += amount;
            assertBooks(books);
        }
    }

    /// @notice A job gives back what is free, once nobody can commit for it any more, and never what a dispute may need.
    function check_refund_waits_and_takes_what_is_free(uint40 time, IRegistry.Params memory p) external when(time) {
        (Books memory books, JobBook memory was) = (s.books, s.jobs[A]);
        (address to, uint96 amount) = Jobs.refund(s, p, JobId.wrap(A));
        JobBook storage j = s.jobs[A];
        unchecked {
            assert(was.unitsUnpaid == 0 || time > uint256(was.end) + p.receiptTime);
            bool late = time >= was.surplusFrom;
            assert(to == was.requester && amount == was.escrow + (late ? was.surplus : 0));
            assert(j.escrow == 0 && j.surplus == (late ? 0 : was.surplus));
            books.escrow -= amount;
            assertBooks(books);
        }
    }

    // ----------------------------------------------------------------------------------------------- batches

    function _seatCaller() private {
        s.operators[s.operatorOf[msg.sender]].index = 0;
        s.verifiers.waiting = 0;
        s.verifiers.version = uint24(A);
        s.verifiers.quorums[A].seats = 1;
        s.batches[ID].quorum = uint24(A);
    }

    function _commit(IRegistry.Params memory p, uint64 units)
        private
        returns (IRegistry.Header memory h, bytes32 header)
    {
        _seatCaller();
        (h.size, h.lines) = (1, new uint256[](1));
        h.lines[0] = Lines.pack(uint64(A), uint48(units), 0);
        BatchId id = Jobs.commit(s, p, h.root, h.size, h.members, h.lines);
        header = s.batches[BatchId.unwrap(id)].header;
    }

    /// @notice What a commit reserves was free, and is the budget of its line. Of a job of one unit, whose price is any.
    function check_commit_reserves_what_is_free(uint40 time, IRegistry.Params memory p) external when(time) {
        s.jobs[A].units = uint48(A);
        (Books memory books, JobBook memory was) = (s.books, s.jobs[A]);
        (IRegistry.Header memory h, bytes32 header) = _commit(p, uint64(A));
        h.lines[0] |= takenOut(A, was);
        assert(header == Headers.stored(h));
        assertBooks(books);
    }

    /// @notice A commit takes no more units than are left. Of an open job without a price, by the verifier
    /// that holds it.
    function check_commit_takes_units_that_are_left(uint40 time, IRegistry.Params memory p, uint48 units)
        external
        when(time)
    {
        JobBook storage j = s.jobs[A];
        (j.price, j.verifierFee, j.closed) = (0, 0, false);
        j.verifier = s.operatorOf[msg.sender];
        JobBook memory was = j;
        _commit(p, units);
        unchecked {
            assert(j.unitsTaken == was.unitsTaken + units && j.unitsTaken > was.unitsTaken);
            assert(j.unitsUnpaid == was.unitsUnpaid && j.unitsReturned == was.unitsReturned);
            // What batches hold and what they have paid.
            assert(uint256(j.unitsTaken) <= uint256(j.units) + j.unitsReturned);
        }
    }

    /// @notice What a voided batch paid is reserved again, with what is free of the rest; its units are open again.
    /// Its second line is empty.
    function check_taking_a_voided_batch_reserves_again(uint40 time, IRegistry.Params memory p, TwoLines memory l)
        external
        when(time)
    {
        _seatCaller();
        delete l.b;
        IRegistry.Header memory h = store(l, true);
        s.batches[ID].voided = true;
        (Books memory books, JobBook memory was) = (s.books, s.jobs[A]);
        Jobs.takeBatch(s, p, BatchId.wrap(ID), h);
        unchecked {
            JobBook storage j = s.jobs[A];
            assert(j.unitsUnpaid == was.unitsUnpaid + l.a.paidUnits && j.unitsReturned == was.unitsReturned);
            assert(j.unitsTaken == was.unitsTaken + l.a.units - l.a.paidUnits);
            l.a.budget = l.a.amount + takenOut(A, was);
            (l.a.paidUnits, l.a.amount) = (0, 0);
            assert(s.batches[ID].header == Headers.committed(headerOf(l, false)));
        }
        assertBooks(books);
    }

    /// @notice What a dropped batch reserves is its jobs' again, whether it was voided or never settled. Of one that nobody
    /// took over.
    function check_dropping_gives_back(uint40 time, IRegistry.Params memory p, TwoLines memory l) external when(time) {
        s.batches[ID].committer = 0;
        _drop(p, l);
    }

    /// @notice The same of any, whose second line is empty.
    function check_dropping_what_was_taken_over_gives_back(uint40 time, IRegistry.Params memory p, TwoLines memory l)
        external
        when(time)
    {
        delete l.b;
        _strip(s.batches[ID].committer);
        _drop(p, l);
    }

    function _drop(IRegistry.Params memory p, TwoLines memory l) private {
        IRegistry.Header memory h = store(l, true);
        (uint96 escrow, bool voided) = (s.books.escrow, s.batches[ID].voided);
        (JobBook memory was, JobBook memory wasB) = (s.jobs[A], s.jobs[B]);
        _strip(s.batches[ID].verifier);
        Jobs.dropBatch(s, p, BatchId.wrap(ID), h);
        unchecked {
            assert(s.books.escrow == escrow);
            assert(putIn(A, was) == (voided ? l.a.amount : l.a.budget));
            assert(putIn(B, wasB) == (voided ? l.b.amount : l.b.budget));
            assert(s.jobs[A].unitsReturned == was.unitsReturned + (voided ? l.a.paidUnits : l.a.units));
            assert(s.jobs[A].unitsUnpaid == was.unitsUnpaid + (voided ? l.a.paidUnits : 0));
        }
    }

    /// @dev Who pays for a drop has neither seat nor stake here; penalties are proved in `StakesProof`.
    function _strip(uint32 operator) private {
        IRegistry.Account storage a = s.accounts[s.operators[operator].owner];
        (a.verifierSlot, a.stake, a.unbonding) = (0, 0, 0);
    }

    /// @notice Voiding a settlement without faults puts back into the escrow what it had taken out of it.
    function check_voiding_restores_the_escrow(uint40 time, IRegistry.Params memory p) external when(time) {
        _setFaults(0);
        (Books memory books, IRegistry.Batch memory was) = (s.books, s.batches[ID]);
        Verdicts.void(s, p, BatchId.wrap(ID), false);
        IRegistry.Batch memory b = s.batches[ID];
        unchecked {
            books.escrow += was.settled.remaining + was.fees;
            assertBooks(books);
        }
        assert(b.fees == 0 && b.settled.remaining == 0 && b.settled.settledAt == 0 && b.voided);
        assert(b.header == was.header);
    }

    function _setFaults(uint256 count) private {
        IRegistry.SlashRecord[] storage faults = s.slashes[ID];
        assembly {
            sstore(faults.slot, count)
        }
    }
}
