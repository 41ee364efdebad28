// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Credit} from "../src/Credit.sol";
import {Registry} from "../src/Registry.sol";
import {IRegistry, BatchId, OperatorId} from "../src/interfaces/IRegistry.sol";
import {Causes} from "../src/libraries/Causes.sol";
import {Books, JobBook} from "../src/libraries/State.sol";
import {Settling} from "../src/libraries/Settling.sol";
import {Proof} from "./Proof.sol";

/// @notice Nothing of a batch is paid before its window has closed and all challenges are decided; then it is paid once. The
/// Registry's own code runs here, on what is stored here.
contract FinalProof is Proof {
    Credit private immutable CREDIT = new Credit(type(uint96).max);
    address private immutable REGISTRY = address(new Registry(address(CREDIT), _params(), address(1)));

    function _params() private pure returns (IRegistry.Params memory p) {
        (p.nodeStake, p.verifierStake, p.idlePeriod, p.drawDelay) = (1, 1, 1, 1);
        (p.challengeWindow, p.unstakeDelay, p.seatDelay) = (1, 2, 2);
    }

    /// @dev Of payout 1 of 2, whose claimed bit lies in the batch, or of 20 of 32, whose bit does not.
    function _claim(IRegistry.Claim memory c, bytes32 sibling, bool late) private returns (bool ok) {
        s.batches[ID].settled.payoutCount = late ? 32 : 2;
        (c.batch, c.index, c.proof) = (BatchId.wrap(ID), late ? 20 : 1, new bytes32[](late ? 5 : 1));
        c.proof[0] = sibling;
        IRegistry.Claim[] memory claims = new IRegistry.Claim[](1);
        claims[0] = c;
        (ok,) = REGISTRY.delegatecall(abi.encodeCall(IRegistry.claim, (claims)));
    }

    function _isClaimed(bool late) private view returns (bool) {
        return (late ? s.claimed[ID][0] >> 20 : s.batches[ID].settled.claimed >> 1) & 1 == 1;
    }

    function _assumeNotFinal(uint40 time) private view {
        IRegistry.Settled memory t = s.batches[ID].settled;
        vm.assume(t.settledAt == 0 || time < t.claimableAt || t.openChallenges > 0);
    }

    function check_no_claim_before_the_end(uint40 time, IRegistry.Claim memory c, bytes32 sibling, bool late)
        external
        when(time)
    {
        _assumeNotFinal(time);
        assert(!_claim(c, sibling, late));
    }

    function check_no_fee_before_the_end(uint40 time) external when(time) {
        _assumeNotFinal(time);
        (bool ok,) = REGISTRY.delegatecall(abi.encodeCall(IRegistry.finalize, (BatchId.wrap(ID))));
        assert(!ok);
    }

    /// @notice A claim sends or burns what the batch pays less then. Of a batch whose fees are paid,
    /// to an owner with one fault at most; a pool of slashed stake is for one audited segment.
    function check_claim_pays_what_remains(
        uint40 time,
        IRegistry.Claim memory c,
        bytes32 sibling,
        bool late,
        bool faulted
    ) external when(time) {
        address owner = s.operators[OperatorId.unwrap(c.operator)].owner;
        vm.assume(owner != address(this) && s.marks[owner].length == (faulted ? 1 : 0));
        IRegistry.Settled storage t = s.batches[ID].settled;
        t.unfinal = false;
        (s.batches[ID].auditUnits, c.audits, c.cause) = (1, 1, 0);
        (Books memory books, uint96 remaining) = (s.books, t.remaining);
        uint256 balance = CREDIT.balanceOf(address(this));
        vm.assume(_claim(c, sibling, late));
        unchecked {
            uint96 paid = remaining - t.remaining;
            uint96 sent = uint96(balance - CREDIT.balanceOf(address(this)));
            assert(paid <= remaining && paid >= c.amount && (sent == paid || sent == 0));
            books.burned += paid - sent;
            assertBooks(books);
        }
        assert(_isClaimed(late));
    }

    function check_nothing_is_claimed_twice(uint40 time, IRegistry.Claim memory c, bytes32 sibling, bool late)
        external
        when(time)
    {
        s.batches[ID].settled.unfinal = false;
        vm.assume(_isClaimed(late));
        assert(!_claim(c, sibling, late));
    }

    /// @notice The fees of a batch of two signers become stake of theirs, whole.
    function check_fees_become_stake(uint40 time, IRegistry.Params memory p) external when(time) {
        IRegistry.Batch storage b = s.batches[ID];
        (b.absent, b.quorum) = (0, uint24(A));
        s.verifiers.quorums[A].seats = 3;
        (s.verifiers.seats[0].version, s.verifiers.seats[1].version) = (0, 0);
        vm.assume(s.slashes[ID].length == 0 && b.settled.unfinal);
        (Books memory books, uint96 fees) = (s.books, b.fees);
        Settling.finalize(s, p, BatchId.wrap(ID));
        unchecked {
            books.stakes += fees;
            assertBooks(books);
        }
        assert(b.fees == 0 && !b.settled.unfinal);
    }

    /// @notice What a fault froze goes to the job, to the auditors' pool, aside for what it made worthless and is burned, whole. Its owner has no seat.
    function check_slash_is_distributed_whole(uint40 time, IRegistry.Params memory p) external when(time) {
        IRegistry.Batch storage b = s.batches[ID];
        b.fees = 0;
        vm.assume(s.slashes[ID].length == 1 && b.settled.unfinal);
        IRegistry.SlashRecord storage f = s.slashes[ID][0];
        f.job = uint64(A);
        s.accounts[s.operators[f.operator].owner].verifierSlot = 0;
        (Books memory books, uint96 frozen, JobBook memory was) = (s.books, b.frozen, s.jobs[A]);
        uint96 remaining = b.settled.remaining;
        Settling.finalize(s, p, BatchId.wrap(ID));
        unchecked {
            uint96 toJob = putIn(A, was);
            uint96 toPool = b.settled.remaining - remaining;
            assert(uint256(b.pool) + (f.amount == 0 || f.absolved ? 0 : f.redress) == toPool && b.frozen == 0);
            assert(uint256(toJob) + toPool <= frozen);
            books.bonds -= frozen;
            books.escrow += toJob;
            books.burned += frozen - toJob - toPool;
            assertBooks(books);
        }
    }

    /// @notice What a fault pays for work that it made worthless is no more than what is set aside of it and leaves its batch,
    /// and no more than the settlement says that pays it; nothing before it is final, nor in another attempt.
    function check_redress_leaves_what_is_set_aside(uint40 time, IRegistry.Params memory p, uint8 attempt, uint96 price)
        external
        when(time)
    {
        IRegistry.Batch storage b = s.batches[ID];
        vm.assume(s.slashes[ID].length == 1);
        b.settled.unfinal = false;
        Books memory books = s.books;
        (bool known, uint96 amount) = _redressed(p, Causes.pack(uint64(ID), attempt, 0, 1), price);
        if (!known) assert(amount == 0);
        else assert(attempt == b.attempt && time >= b.settled.claimableAt && b.settled.openChallenges == 0);
        assertBooks(books);
    }

    /// @dev Pays it out in another batch's name, and asserts that it is missing where it came from.
    function _redressed(IRegistry.Params memory p, uint256 cause, uint96 price)
        private
        returns (bool known, uint96 amount)
    {
        (IRegistry.Settled storage t, IRegistry.SlashRecord storage f) = (s.batches[ID].settled, s.slashes[ID][0]);
        (uint96 remaining, uint96 aside, uint96 said) = (t.remaining, f.redress, s.batches[B].redress);
        (known, amount) = Settling.redress(s, p, BatchId.wrap(B), cause, price);
        unchecked {
            assert(amount <= aside && f.redress == aside - amount && t.remaining == remaining - amount);
            assert(amount <= said && s.batches[B].redress == said - amount);
        }
    }
}
