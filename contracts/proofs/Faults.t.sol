// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, BatchId, OperatorId} from "../src/interfaces/IRegistry.sol";
import {Marks} from "../src/libraries/Marks.sol";
import {Books} from "../src/libraries/State.sol";
import {Verdicts} from "../src/libraries/Verdicts.sol";
import {Proof} from "./Proof.sol";

/// @notice What faults freeze is counted in the account, in the books and in the slash record alike.
contract FaultsProof is Proof {
    function record(IRegistry.Fault calldata f) external returns (uint96) {
        return Marks.record(s, BatchId.wrap(ID), 0, f);
    }

    function check_fault_freezes_what_it_takes(uint40 time, IRegistry.Fault memory f) external when(time) {
        f.accusers = new uint32[](0);
        vm.assume(s.slashes[ID].length == 0);
        s.slashes[ID].push();
        vm.assume(s.slashes[ID][0].accusers.length == 0);
        s.slashes[ID].pop();
        address owner = s.operators[OperatorId.unwrap(f.operator)].owner;
        (Books memory books, IRegistry.Account memory was) = (s.books, s.accounts[owner]);
        uint96 amount = this.record(f);
        IRegistry.Account memory a = s.accounts[owner];
        assert(s.slashes[ID][0].amount == amount);
        unchecked {
            assert(a.frozen == was.frozen + amount);
            assert(was.stake - a.stake + (was.unbonding - a.unbonding) == amount);
            books.stakes -= was.stake - a.stake;
            books.unbonding -= was.unbonding - a.unbonding;
            books.bonds += amount;
            assertBooks(books);
        }
    }

    /// @notice The only fault of an owner gives back what it froze.
    function check_only_fault_gives_back(uint256 index) external {
        IRegistry.SlashRecord storage f = s.slashes[ID][index];
        address owner = s.operators[f.operator].owner;
        f.mark = 0;
        vm.assume(s.marks[owner].length == 1);
        (Books memory books, IRegistry.Account memory was, uint96 amount) = (s.books, s.accounts[owner], f.amount);
        uint96 frozen = s.batches[ID].frozen;
        Verdicts.absolve(s, BatchId.wrap(ID), index);
        unchecked {
            assert(s.accounts[owner].stake == was.stake + amount && s.accounts[owner].frozen == was.frozen - amount);
            assert(s.batches[ID].frozen == frozen - amount && f.absolved);
            books.bonds -= amount;
            books.stakes += amount;
            assertBooks(books);
        }
    }

    /// @notice What an earlier fault took passes to the fault that came next, is burned if that is final, and is given back
    /// if that was undone or cost nothing: whichever, it is counted once.
    function check_earlier_fault_passes_on(uint256 index) external {
        IRegistry.SlashRecord storage f = s.slashes[ID][index];
        address owner = s.operators[f.operator].owner;
        f.mark = 0;
        vm.assume(s.marks[owner].length == 2);
        uint256 next = s.marks[owner][1].batch;
        vm.assume(next != ID);
        (Books memory books, IRegistry.Account memory was, uint96 amount) = (s.books, s.accounts[owner], f.amount);
        uint96 frozen = s.batches[next].frozen;
        Verdicts.absolve(s, BatchId.wrap(ID), index);
        unchecked {
            uint96 passed = s.batches[next].frozen - frozen;
            uint96 given = s.accounts[owner].stake - was.stake;
            uint96 burned = s.books.burned - books.burned;
            assert(
                passed == amount && given == 0 && burned == 0 || passed == 0 && given == amount && burned == 0
                    || passed == 0 && given == 0 && burned == amount
            );
            assert(s.accounts[owner].frozen == was.frozen - given - burned);
            books.bonds -= given + burned;
            books.stakes += given;
            books.burned += burned;
            assertBooks(books);
        }
    }

    /// @notice A bond out of what a fault froze is still in the bonds, and frozen no more.
    function check_bond_of_frozen_stake(uint256 index, uint96 amount) external {
        IRegistry.SlashRecord storage f = s.slashes[ID][index];
        address owner = s.operators[f.operator].owner;
        (Books memory books, uint96 held, uint96 frozen) = (s.books, f.amount, s.batches[ID].frozen);
        uint96 account = s.accounts[owner].frozen;
        Verdicts.chargeFrozen(s, BatchId.wrap(ID), index, amount);
        unchecked {
            assert(held >= amount && f.amount == held - amount);
            assert(s.batches[ID].frozen == frozen - amount && s.accounts[owner].frozen == account - amount);
        }
        assertBooks(books);
    }
}
