// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {LibBit} from "solady/utils/LibBit.sol";

import {IRegistry, OperatorId, JobId, BatchId} from "../interfaces/IRegistry.sol";
import {Marks} from "./Marks.sol";
import {Operators} from "./Operators.sol";
import {Stakes, State} from "./State.sol";
import {VerifierSet} from "./VerifierSet.sol";

/// @title Verdicts
/// @notice What the Court may have done. A linked library that runs in the Registry's storage; the functions are documented in
/// `IRegistry`, whose functions of the same names check the caller and call them.
library Verdicts {
    using VerifierSet for VerifierSet.Set;

    // ------------------------------------------------------------------------------------------------- money

    function chargeBond(State storage s, IRegistry.Params memory p, address caller, uint96 amount)
        external
        returns (address owner)
    {
        owner = Operators.ownerOf(s, caller);
        IRegistry.Account storage a = s.accounts[owner];
        uint256 backing = uint256(a.stake) + a.frozen;
        uint256 required = Stakes.bound(a, p) + amount;
        require(a.stake >= amount && backing >= required, IRegistry.StakeTooLow(owner, a.stake, required));
        // slither-disable-next-line unused-return
        Stakes.take(s, owner, amount);
    }

    function chargeFrozen(State storage s, BatchId id, uint256 index, uint96 amount) external {
        IRegistry.SlashRecord storage f = _fault(s, id, index);
        address owner = s.operators[f.operator].owner;
        require(f.amount >= amount, IRegistry.StakeTooLow(owner, f.amount, amount));
        f.amount -= amount;
        s.batches[BatchId.unwrap(id)].frozen -= amount;
        s.accounts[owner].frozen -= amount;
    }

    function give(State storage s, address owner, uint96 amount) external {
        Stakes.give(s, owner, amount);
    }

    function giveJob(State storage s, JobId id, uint96 amount) external {
        s.books.bonds -= amount;
        s.books.escrow += amount;
        s.jobs[JobId.unwrap(id)].surplus += amount;
    }

    function burn(State storage s, uint96 amount) external {
        s.books.bonds -= amount;
        s.books.burned += amount;
    }

    function slash(State storage s, IRegistry.Params memory p, address owner, uint96 amount)
        external
        returns (uint96 taken)
    {
        taken = Stakes.take(s, owner, amount);
        Stakes.unseatUnbacked(s, p, owner);
    }

    // ---------------------------------------------------------------------------------------------- verdicts

    function hold(State storage s, BatchId id) external {
        _settled(s, id).settled.openChallenges += 1;
    }

    /// @notice Also after the settlement was voided, which released all challenges of it.
    function release(State storage s, BatchId id) external {
        IRegistry.Settled storage t = s.batches[BatchId.unwrap(id)].settled;
        if (t.openChallenges > 0) t.openChallenges -= 1;
    }

    function convict(State storage s, BatchId id, OperatorId operator, JobId job, uint32 task, uint32 segment)
        external
    {
        Marks.convict(s, id, operator, job, task, segment);
    }

    function absolve(State storage s, BatchId id, uint256 index) external {
        // slither-disable-next-line unused-return
        _fault(s, id, index);
        Marks.undo(s, id, index);
    }

    /// @notice What the lines paid is reserved again; nothing of it is free for the jobs.
    function void(State storage s, IRegistry.Params memory p, BatchId id, bool slashSigners)
        external
        returns (uint96 seized)
    {
        IRegistry.Batch storage b = _settled(s, id);
        IRegistry.SlashRecord[] storage faults = s.slashes[BatchId.unwrap(id)];
        // The last first, so that what the first of an owner's faults took comes back to the owner.
        for (uint256 i = faults.length; i > 0; --i) {
            if (!faults[i - 1].absolved) Marks.undo(s, id, i - 1);
        }
        delete s.slashes[BatchId.unwrap(id)];
        s.books.escrow += b.settled.remaining + b.fees;
        uint256 signers = s.verifiers.quorums[b.quorum].seats & ~b.absent;
        delete b.settled;
        Stakes.unexpose(s, b);
        (b.absent, b.fees, b.auditUnits, b.redress) = (0, 0, 0, 0);
        (b.voided, b.wasSettled, b.openedAt) = (true, true, uint40(block.timestamp));
        if (b.attempt < type(uint8).max) b.attempt += 1;
        emit IRegistry.BatchVoided(id, b.attempt);
        if (slashSigners) seized = _seize(s, p, signers, b.quorum);
    }

    function _seize(State storage s, IRegistry.Params memory p, uint256 signers, uint24 quorum)
        private
        returns (uint96 seized)
    {
        for (; signers != 0; signers &= signers - 1) {
            // slither-disable-next-line unused-return
            (uint32 signer,) = s.verifiers.holderIn(LibBit.ffs(signers), quorum);
            address owner = s.operators[signer].owner;
            seized += Stakes.take(s, owner, type(uint256).max);
            IRegistry.Account storage a = s.accounts[owner];
            if (a.verifierSlot != 0) Stakes.unseat(s, p, a);
        }
    }

    function _settled(State storage s, BatchId id) private view returns (IRegistry.Batch storage b) {
        b = s.batches[BatchId.unwrap(id)];
        require(b.settled.settledAt != 0, IRegistry.NotSettled(id));
    }

    /// @dev A fault that stands and is not final.
    function _fault(State storage s, BatchId id, uint256 index) private view returns (IRegistry.SlashRecord storage f) {
        require(_settled(s, id).settled.unfinal, IRegistry.NotSettled(id));
        IRegistry.SlashRecord[] storage faults = s.slashes[BatchId.unwrap(id)];
        require(index < faults.length && !faults[index].absolved, IRegistry.BadBatch("no such fault"));
        return faults[index];
    }
}
