// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICourt} from "../interfaces/ICourt.sol";
import {IRegistry, OperatorId, BatchId} from "../interfaces/IRegistry.sol";

/// @title Faults
/// @notice Challenging a fault of a batch, and overturning it. A linked library of the Court.
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
        returns (address challenger, uint32 accused, uint64 job, uint32 task, uint32 segment)
    {
        IRegistry.SlashRecord[] memory faults = registry.slashes(batch);
        require(index < faults.length, ICourt.NoSuchFault(batch, index));
        IRegistry.SlashRecord memory fault = faults[index];
        (accused, job, task, segment) = (fault.operator, fault.job, fault.task, fault.segment);
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

    /// @notice Requires that fault `index` is one of an auditor, of the segment that `step` shows.
    function requireAudited(IRegistry registry, BatchId batch, uint32 index, ICourt.Step calldata step) external view {
        IRegistry.SlashRecord memory fault = registry.slashes(batch)[index];
        bool same = fault.job == step.commitment.job && fault.task == step.commitment.task;
        bool audit = same && fault.segment == step.segment && fault.reason == FALSE_AUDIT;
        require(audit, ICourt.NoSuchFault(batch, index));
    }

    /// @notice Undoes a fault. Who said it pays if a jury's execution contradicts it: the accusers all their stake, and where
    /// there are none, because it rested on bytes that everybody could look at, the batch's leader. That a state could not
    /// be had may have been true, and then it turned up late: accused and leader pay `lateFine` each.
    /// @return pot What was taken.
    /// @return wronged Whom the fault wronged, 0 for nobody.
    function overturn(IRegistry registry, ICourt.Challenge storage x, uint96 lateFine)
        external
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
