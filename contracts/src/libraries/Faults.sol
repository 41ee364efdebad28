// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICourt} from "../interfaces/ICourt.sol";
import {IRegistry, OperatorId, JobId, BatchId} from "../interfaces/IRegistry.sol";
import {Jury} from "./Jury.sol";

/// @title Faults
/// @notice Challenging a fault of a batch, and what a verdict costs. A linked library of the Court.
library Faults {
    /// @dev Reasons of faults: an answer that others' answers contradict, a state that could not be had, and an auditor's
    /// answer that others' contradict.
    uint8 private constant MISMATCH = 1;
    uint8 private constant WITHHELD = 2;
    uint8 private constant FALSE_AUDIT = 3;

    /// @notice Takes the bond for challenging fault `index` of a batch: of the accused's own owner out of what a fault of the
    /// batch holds of its stake, if one holds enough. Who challenges, and what the fault is about.
    /// @param payee Whose stake account pays for the caller.
    function open(IRegistry registry, BatchId batch, uint32 index, uint96 bond, address payee)
        external
        returns (address challenger, uint32 accused, uint64 job, uint32 task, uint32 segment, bool audit)
    {
        IRegistry.SlashRecord[] memory faults = registry.slashes(batch);
        require(index < faults.length, ICourt.NoSuchFault(batch, index));
        IRegistry.SlashRecord memory fault = faults[index];
        (accused, job, task, segment) = (fault.operator, fault.job, fault.task, fault.segment);
        audit = fault.reason == FALSE_AUDIT;
        challenger = _charge(registry, batch, faults, accused, bond, payee);
    }

    /// @notice Takes the bond of an appeal in the same way.
    function charge(IRegistry registry, ICourt.Challenge storage x, uint96 bond, address payee)
        external
        returns (address)
    {
        BatchId batch = BatchId.wrap(x.batch);
        return _charge(registry, batch, registry.slashes(batch), x.accused, bond, payee);
    }

    function _charge(
        IRegistry registry,
        BatchId batch,
        IRegistry.SlashRecord[] memory faults,
        uint32 accused,
        uint96 bond,
        address payee
    ) private returns (address) {
        bool own = _ownerOf(registry, accused) == payee;
        for (uint256 i = 0; own && i < faults.length; ++i) {
            if (faults[i].absolved || faults[i].amount < bond) continue;
            if (_ownerOf(registry, faults[i].operator) != payee) continue;
            registry.chargeFrozen(batch, i, bond);
            return payee;
        }
        return registry.chargeBond(msg.sender, bond);
    }

    /// @notice What the losers of an upheld challenge lose, and whom they wronged: nobody (0), but for a false fault.
    function punish(
        IRegistry registry,
        ICourt.Challenge storage x,
        Jury.Panel storage panel,
        uint96 lateFine,
        uint96 receiptPenalty
    ) external returns (uint96, address) {
        if (x.kind == ICourt.Kind.Fault) return _clear(registry, x, panel, lateFine);
        if (x.kind == ICourt.Kind.Record) return (registry.void(BatchId.wrap(x.batch), true), address(0));
        if (x.kind == ICourt.Kind.Segment) return (_convict(registry, x, x.accused), address(0));
        return (registry.slash(_ownerOf(registry, x.accused), receiptPenalty), address(0));
    }

    /// @dev A jury that clears an auditor has found where the segment leads: if its worker committed to something else, it is
    /// convicted of that, too.
    function _clear(IRegistry registry, ICourt.Challenge storage x, Jury.Panel storage panel, uint96 lateFine)
        private
        returns (uint96 pot, address wronged)
    {
        (pot, wronged) = _overturn(registry, x, lateFine);
        if (panel.worker != 0 && Jury.contradicts(x, panel)) pot += _convict(registry, x, panel.worker);
    }

    function _convict(IRegistry registry, ICourt.Challenge storage x, uint32 worker) private returns (uint96) {
        registry.convict(BatchId.wrap(x.batch), OperatorId.wrap(worker), JobId.wrap(x.job), x.task, x.segment);
        return registry.slash(_ownerOf(registry, worker), type(uint96).max);
    }

    /// @dev Undoes a fault. Who said it pays if a jury's execution contradicts it: the accusers all their stake, and where
    /// there are none, because it rested on bytes that everybody could look at, the batch's leader. That a state could not
    /// be had may have been true, and then it turned up late: accused and leader pay `lateFine` each.
    function _overturn(IRegistry registry, ICourt.Challenge storage x, uint96 lateFine)
        private
        returns (uint96 pot, address wronged)
    {
        BatchId batch = BatchId.wrap(x.batch);
        IRegistry.SlashRecord memory fault = registry.slashes(batch)[x.entry];
        address leader = _ownerOf(registry, registry.batch(batch).verifier);
        registry.absolve(batch, x.entry);
        wronged = _ownerOf(registry, x.accused);
        if (fault.reason == WITHHELD) {
            pot = registry.slash(wronged, lateFine) + registry.slash(leader, lateFine);
            return (pot, address(0));
        }
        if (fault.reason != MISMATCH && fault.reason != FALSE_AUDIT) return (0, wronged);
        for (uint256 i = 0; i < fault.accusers.length; ++i) {
            pot += registry.slash(_ownerOf(registry, fault.accusers[i]), type(uint96).max);
        }
        if (fault.accusers.length == 0) pot = registry.slash(leader, type(uint96).max);
    }

    function _ownerOf(IRegistry registry, uint32 operator) private view returns (address) {
        return registry.operatorState(OperatorId.wrap(operator)).owner;
    }
}
