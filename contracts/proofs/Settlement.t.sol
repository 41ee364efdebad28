// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, BatchId} from "../src/interfaces/IRegistry.sol";
import {Headers} from "../src/libraries/Headers.sol";
import {Books, JobBook} from "../src/libraries/State.sol";
import {Settling} from "../src/libraries/Settling.sol";
import {Proof} from "./Proof.sol";

/// @notice What a settlement pays, whatever its verifiers signed. One verifier signs; the batch is drawn.
contract SettlementProof is Proof {
    uint256 private immutable QUORUM = 1;

    /// @dev Of more redress, too, than a line can have.
    struct Share {
        uint48 paidUnits;
        uint96 amount;
        uint112 redress;
    }

    struct Shares {
        Share a;
        Share b;
    }

    struct Case {
        uint40 time;
        IRegistry.Params p;
        TwoLines l;
        Shares shares;
        uint96 total;
    }

    function _settle(Case memory c) private {
        vm.warp(c.time);
        IRegistry.Header memory h = store(c.l, false);
        s.batches[ID].seed = bytes32(uint256(1));
        s.batches[ID].quorum = uint24(QUORUM);
        s.verifiers.version = uint24(QUORUM);
        s.verifiers.quorums[QUORUM].seats = 1;
        // What does not matter here, so that it need not be looked at twice: the signer has attended already.
        c.p.idlePeriod = 1;
        s.verifiers.attendance[c.time] = 1;
        vm.assume(s.batches[ID].openedAt > 0);
        IRegistry.Settlement memory t;
        (t.batch, t.payoutCount, t.payoutTotal) = (BatchId.wrap(ID), 1, c.total);
        t.record = new bytes(36);
        t.shares = new uint256[](2);
        (t.shares[0], t.shares[1]) = (_shareWord(c.shares.a), _shareWord(c.shares.b));
        Settling.settle(s, c.p, t, h, 1, "");
    }

    function _shareWord(Share memory share) private pure returns (uint256) {
        return uint256(share.redress) << 144 | uint256(share.paidUnits) << 96 | share.amount;
    }

    /// @notice What leaves the escrow is what the batch can pay; the rest of each line's budget is its job's again.
    function check_settlement(Case memory c) external {
        Books memory books = s.books;
        (JobBook memory a, JobBook memory b) = (s.jobs[A], s.jobs[B]);
        _settle(c);
        unchecked {
            IRegistry.Batch storage batch = s.batches[ID];
            uint96 fees = batch.fees;
            books.escrow -= c.total + fees;
            assertBooks(books);
            uint96 paidA = c.l.a.budget - putIn(A, a);
            uint96 paidB = c.l.b.budget - putIn(B, b);
            (c.l.a.paidUnits, c.l.a.amount, c.l.a.redress) = (c.shares.a.paidUnits, paidA, uint96(c.shares.a.redress));
            (c.l.b.paidUnits, c.l.b.amount, c.l.b.redress) = (c.shares.b.paidUnits, paidB, uint96(c.shares.b.redress));
            IRegistry.Header memory h = headerOf(c.l, true);
            h.seed = bytes32(uint256(1));
            assert(batch.header == Headers.stored(h));
            assert(batch.settled.remaining == c.total && c.total == c.shares.a.amount + c.shares.b.amount);
            (uint96 feeA, uint96 feeB) = (_fee(a, c.shares.a.paidUnits), _fee(b, c.shares.b.paidUnits));
            assert(paidA == c.shares.a.amount + feeA && paidA >= feeA);
            assert(paidB == c.shares.b.amount + feeB && paidB >= feeB);
            assert(uint256(paidA) + c.shares.a.redress <= c.l.a.budget);
            assert(uint256(paidB) + c.shares.b.redress <= c.l.b.budget);
            assert(fees == feeA + feeB && fees >= feeA);
        }
    }

    function _fee(JobBook memory j, uint48 units) private pure returns (uint96) {
        return uint96(uint256(j.verifierFee) * units / j.units);
    }

    /// @notice Nothing that is left over leaves a job before a challenge could have been decided; claims wait for the window.
    function check_settlement_sets_its_windows(Case memory c) external {
        JobBook memory was = s.jobs[A];
        delete c.l.b;
        delete c.shares.b;
        _settle(c);
        assert(s.batches[ID].settled.claimableAt == uint256(c.time) + c.p.challengeWindow);
        assert(putIn(A, was) == 0 || s.jobs[A].surplusFrom >= uint256(c.time) + c.p.seatDelay);
    }

    /// @notice No job is paid more units than it has, no line more than it committed; what was open is not any more. Of a job
    /// without a fee, which has no part in this.
    function check_settlement_pays_no_unit_twice(Case memory c) external {
        delete c.l.b;
        delete c.shares.b;
        s.jobs[A].verifierFee = 0;
        JobBook memory was = s.jobs[A];
        _settle(c);
        JobBook storage j = s.jobs[A];
        unchecked {
            assert(c.shares.a.paidUnits <= c.l.a.units && c.shares.a.paidUnits <= was.unitsUnpaid);
            assert(j.unitsUnpaid == was.unitsUnpaid - c.shares.a.paidUnits && j.unitsTaken == was.unitsTaken);
            assert(j.unitsReturned == was.unitsReturned + c.l.a.units - c.shares.a.paidUnits);
        }
    }
}
