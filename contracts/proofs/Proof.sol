// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry} from "../src/interfaces/IRegistry.sol";
import {Headers} from "../src/libraries/Headers.sol";
import {Lines} from "../src/libraries/Lines.sol";
import {Books, JobBook, State} from "../src/libraries/State.sol";

/// @dev Those of Foundry's cheatcodes that the prover has too.
interface Cheats {
    function assume(bool condition) external pure;
    function setArbitraryStorage(address target) external;
    function warp(uint256 time) external;
}

/// @title Proof
/// @notice Halmos shows that the asserts of each `check_` function hold for every value of its parameters and of everything
/// that the Registry stores, whether or not it can come to be. Paths that revert count as nothing, so sums are written
/// `unchecked`, and what must not revert is called through `this`. Batches have two lines, of two jobs.
abstract contract Proof {
    Cheats internal constant vm = Cheats(address(uint160(uint256(keccak256("hevm cheat code")))));
    /// @dev The batch and its jobs; no constants, because the prover cannot tell a hash that the compiler made.
    uint256 internal immutable ID = 1;
    uint256 internal immutable A = 1;
    uint256 internal immutable B = 2;
    /// @dev At slot 0, as in the Registry.
    State internal s;

    /// @dev A line of a batch, and what was paid of it.
    struct Line {
        uint64 job;
        uint48 units;
        uint96 budget;
        uint48 paidUnits;
        uint96 amount;
        uint96 redress;
    }

    struct TwoLines {
        Line a;
        Line b;
    }

    function setUp() public virtual {
        vm.setArbitraryStorage(address(this));
    }

    modifier when(uint40 time) {
        vm.warp(time);
        _;
    }

    /// @dev That the books are these.
    function assertBooks(Books memory expected) internal view {
        Books memory b = s.books;
        uint96 differ = (b.stakes ^ expected.stakes) | (b.unbonding ^ expected.unbonding);
        differ |= (b.bonds ^ expected.bonds) | (b.burned ^ expected.burned) | (b.escrow ^ expected.escrow);
        assert(differ == 0);
    }

    /// @dev The header of a batch with these lines, with what was paid of them if it was settled.
    function headerOf(TwoLines memory l, bool settled) internal pure returns (IRegistry.Header memory h) {
        (h.root, h.size, h.members) = (bytes32(uint256(2)), 1, bytes32(uint256(3)));
        h.lines = new uint256[](2);
        (l.a.job, l.b.job) = (uint64(A), uint64(B));
        (h.lines[0], h.lines[1]) = (_word(l.a), _word(l.b));
        if (!settled) return h;
        h.paid = new uint256[](2);
        h.paid[0] = Lines.packPaid(l.a.paidUnits, l.a.amount, l.a.redress);
        h.paid[1] = Lines.packPaid(l.b.paidUnits, l.b.amount, l.b.redress);
    }

    function _word(Line memory l) private pure returns (uint256) {
        return Lines.pack(l.job, l.units, l.budget);
    }

    /// @dev Makes the batch one with these lines.
    function store(TwoLines memory l, bool settled) internal returns (IRegistry.Header memory h) {
        h = headerOf(l, settled);
        s.batches[ID].header = Headers.stored(h);
    }

    /// @dev What was taken out of a job that was like this; nothing came in.
    function takenOut(uint256 job, JobBook memory was) internal view returns (uint96 amount) {
        JobBook storage j = s.jobs[job];
        unchecked {
            (uint96 escrow, uint96 surplus) = (was.escrow - j.escrow, was.surplus - j.surplus);
            amount = escrow + surplus;
            assert(j.escrow <= was.escrow && j.surplus <= was.surplus && amount >= escrow);
        }
    }

    /// @dev What came into a job that was like this; nothing was taken out.
    function putIn(uint256 job, JobBook memory was) internal view returns (uint96 amount) {
        JobBook storage j = s.jobs[job];
        unchecked {
            (uint96 escrow, uint96 surplus) = (j.escrow - was.escrow, j.surplus - was.surplus);
            amount = escrow + surplus;
            assert(j.escrow >= was.escrow && j.surplus >= was.surplus && amount >= escrow);
        }
    }
}
