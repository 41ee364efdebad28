// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, BatchId} from "../src/interfaces/IRegistry.sol";
import {Jobs} from "../src/libraries/Jobs.sol";
import {Marks} from "../src/libraries/Marks.sol";
import {JobBook} from "../src/libraries/State.sol";
import {Verdicts} from "../src/libraries/Verdicts.sol";
import {Proof} from "./Proof.sol";

/// @notice No counter can come to a value at which a batch is stuck.
contract CountersProof is Proof {
    function release() external {
        Verdicts.release(s, BatchId.wrap(ID));
    }

    function hold() external {
        Verdicts.hold(s, BatchId.wrap(ID));
    }

    function void() external {
        IRegistry.Params memory p;
        Verdicts.void(s, p, BatchId.wrap(ID), false);
    }

    function drop(IRegistry.Params calldata p, IRegistry.Header calldata h) external {
        Jobs.dropBatch(s, p, BatchId.wrap(ID), h);
    }

    /// @notice A challenge can always be ended, and gives back what it held.
    function check_release_never_reverts() external {
        uint24 open = s.batches[ID].settled.openChallenges;
        try this.release() {}
        catch {
            assert(false);
        }
        assert(s.batches[ID].settled.openChallenges == (open == 0 ? 0 : open - 1));
    }

    /// @notice 2^24 - 1 challenges can be open at once.
    function check_challenges_do_not_lock_each_other_out() external {
        IRegistry.Settled memory t = s.batches[ID].settled;
        vm.assume(t.settledAt != 0 && t.openChallenges < type(uint24).max);
        try this.hold() {}
        catch {
            assert(false);
        }
        assert(s.batches[ID].settled.openChallenges == t.openChallenges + 1);
    }

    /// @notice A settled batch can be voided however often it was before; the count of its attempts ends at 255.
    function check_voiding_never_locks(uint40 time) external when(time) {
        IRegistry.Batch memory was = s.batches[ID];
        vm.assume(was.settled.settledAt != 0 && s.slashes[ID].length == 0);
        _assumeExposed();
        vm.assume(uint256(s.books.escrow) + was.settled.remaining + was.fees <= type(uint96).max);
        try this.void() {}
        catch {
            assert(false);
        }
        uint8 attempt = s.batches[ID].attempt;
        assert(attempt == (was.attempt == 255 ? 255 : was.attempt + 1));
    }

    /// @notice A batch that nobody settled in its time can be dropped in any attempt, if its job counts what it reserves. Its
    /// second line is empty, it was not taken over, and its leader has neither seat nor stake.
    function check_batch_can_always_be_dropped(uint40 time, IRegistry.Params memory p, TwoLines memory l)
        external
        when(time)
    {
        _assumeExposed();
        delete l.b;
        IRegistry.Header memory h = store(l, true);
        IRegistry.Batch storage b = s.batches[ID];
        b.committer = 0;
        vm.assume(b.settled.settledAt == 0 && !b.dropped && b.openedAt != 0 && b.attempt != 0);
        vm.assume(time > uint256(b.openedAt) + p.settleGrace);
        _assumeCounted(A, l.a, b.voided);
        IRegistry.Account storage a = s.accounts[s.operators[b.verifier].owner];
        (a.verifierSlot, a.stake, a.unbonding) = (0, 0, 0);
        try this.drop(p, h) {}
        catch {
            assert(false);
        }
    }

    function _assumeCounted(uint256 job, Line memory line, bool voided) private view {
        JobBook storage j = s.jobs[job];
        uint48 back = voided ? line.paidUnits : line.units;
        vm.assume(uint256(j.unitsReturned) + back <= j.unitsTaken);
        vm.assume(!voided || uint256(j.unitsUnpaid) + line.paidUnits <= type(uint48).max);
        vm.assume(uint256(j.escrow) + (voided ? line.amount : line.budget) <= type(uint96).max);
    }

    /// @notice Valid audits are counted up to the largest number, and never wrap or revert.
    function check_valid_audits_saturate(uint32 a, uint32 b) external pure {
        uint256 exact = uint256(a) + b;
        assert(Marks.sum(a, b) == (exact > type(uint32).max ? type(uint32).max : exact));
    }

    /// @dev An owner's sum holds what each of its batches adds to it (`invariant_what_owners_have_open_is_what_their_batches_hold`).
    function _assumeExposed() private view {
        IRegistry.Batch storage b = s.batches[ID];
        vm.assume(s.accounts[s.operators[b.verifier].owner].exposed >= b.exposure);
    }
}
