// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, JobId} from "../src/interfaces/IRegistry.sol";
import {Operators} from "../src/libraries/Operators.sol";
import {Books, Stakes} from "../src/libraries/State.sol";
import {Verdicts} from "../src/libraries/Verdicts.sol";
import {Proof} from "./Proof.sol";

/// @notice Stake moves between an owner's account and the books alike, and leaves only when its time has come.
contract StakesProof is Proof {
    /// @dev In the first slot, or in none.
    function _seat(address owner, bool seated) private {
        if (seated) s.accounts[owner].verifierSlot = uint16(A);
        else s.accounts[owner].verifierSlot = 0;
    }

    function check_take_moves_stake_into_bonds(address owner, uint256 wanted) external {
        (Books memory books, IRegistry.Account memory was) = (s.books, s.accounts[owner]);
        uint96 taken = Stakes.take(s, owner, wanted);
        assert(taken <= wanted);
        unchecked {
            _assertTaken(books, was, owner, taken);
            books.bonds += taken;
            assertBooks(books);
        }
    }

    /// @dev `books` become what they are less what was taken.
    function _assertTaken(Books memory books, IRegistry.Account memory was, address owner, uint96 taken) private view {
        IRegistry.Account memory a = s.accounts[owner];
        unchecked {
            (uint96 staked, uint96 unbonding) = (was.stake - a.stake, was.unbonding - a.unbonding);
            assert(a.stake <= was.stake && a.unbonding <= was.unbonding);
            assert(staked + unbonding == taken && staked <= taken);
            assert(a.frozen == was.frozen);
            books.stakes -= staked;
            books.unbonding -= unbonding;
        }
    }

    function check_penalty_burns_what_it_takes(IRegistry.Params memory p, uint32 operator, uint256 wanted, bool seated)
        external
    {
        address owner = s.operators[operator].owner;
        _seat(owner, seated);
        (Books memory books, IRegistry.Account memory was) = (s.books, s.accounts[owner]);
        Stakes.penalise(s, p, operator, ID, wanted);
        unchecked {
            uint96 taken = s.books.burned - books.burned;
            assert(taken <= wanted);
            _assertTaken(books, was, owner, taken);
            books.burned += taken;
            assertBooks(books);
        }
    }

    function check_slash_takes_stake_into_bonds(IRegistry.Params memory p, address owner, uint96 wanted, bool seated)
        external
    {
        _seat(owner, seated);
        (Books memory books, IRegistry.Account memory was) = (s.books, s.accounts[owner]);
        uint96 taken = Verdicts.slash(s, p, owner, wanted);
        assert(taken <= wanted);
        unchecked {
            _assertTaken(books, was, owner, taken);
            books.bonds += taken;
            assertBooks(books);
        }
    }

    function check_bond_is_taken_whole(uint40 time, IRegistry.Params memory p, address caller, uint96 amount)
        external
        when(time)
    {
        address owner = Operators.ownerOf(s, caller);
        (Books memory books, uint96 stake) = (s.books, s.accounts[owner].stake);
        assert(Verdicts.chargeBond(s, p, caller, amount) == owner);
        unchecked {
            assert(stake >= amount && s.accounts[owner].stake == stake - amount);
            books.stakes -= amount;
            books.bonds += amount;
            assertBooks(books);
        }
    }

    function check_give_moves_bonds_into_stake(address owner, uint96 amount) external {
        (Books memory books, uint96 stake) = (s.books, s.accounts[owner].stake);
        Verdicts.give(s, owner, amount);
        unchecked {
            assert(books.bonds >= amount && s.accounts[owner].stake == stake + amount);
            books.bonds -= amount;
            books.stakes += amount;
            assertBooks(books);
        }
    }

    function check_credit_is_counted(address owner, uint96 amount) external {
        (Books memory books, uint96 stake) = (s.books, s.accounts[owner].stake);
        Stakes.credit(s, owner, amount);
        unchecked {
            assert(s.accounts[owner].stake == stake + amount);
            books.stakes += amount;
            assertBooks(books);
        }
    }

    function check_burning_and_giving_to_a_job_move_bonds(uint256 job, uint96 burned, uint96 given) external {
        (Books memory books, uint96 surplus) = (s.books, s.jobs[job].surplus);
        Verdicts.burn(s, burned);
        Verdicts.giveJob(s, JobId.wrap(job), given);
        unchecked {
            assert(s.jobs[job].surplus == surplus + given);
            books.bonds -= burned + given;
            books.burned += burned;
            books.escrow += given;
            assertBooks(books);
        }
    }

    /// @notice Who unstakes keeps what backs its nodes and its seat, and the seat's share for as long as it is bound. With
    /// nothing open: what is, is a product that no solver divides (test/Exposure.t.sol has it).
    function check_unstaking_waits_and_leaves_the_backing(uint40 time, IRegistry.Params memory p, uint96 amount)
        external
        when(time)
    {
        s.accounts[msg.sender].exposed = 0;
        (Books memory books, IRegistry.Account memory was) = (s.books, s.accounts[msg.sender]);
        Operators.requestUnstake(s, p, amount);
        IRegistry.Account memory a = s.accounts[msg.sender];
        unchecked {
            assert(a.stake == was.stake - amount && a.unbonding == was.unbonding + amount);
            assert(a.releaseAt == uint256(time) + p.unstakeDelay);
            uint256 bound = was.verifierSlot != 0 || time < was.boundUntil ? p.verifierStake : 0;
            assert(a.stake >= bound + uint256(was.nodes) * p.nodeStake);
            books.stakes -= amount;
            books.unbonding += amount;
            assertBooks(books);
        }
    }

    /// @notice Nothing is withdrawn before its time, and then exactly what was unbonding.
    function check_withdrawal_waits(uint40 time) external when(time) {
        (Books memory books, IRegistry.Account memory was) = (s.books, s.accounts[msg.sender]);
        uint96 amount = Operators.withdraw(s);
        assert(time >= was.releaseAt);
        assert(amount == was.unbonding && s.accounts[msg.sender].unbonding == 0);
        assert(s.accounts[msg.sender].stake == was.stake);
        unchecked {
            books.unbonding -= amount;
            assertBooks(books);
        }
    }
}
