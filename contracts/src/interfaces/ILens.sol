// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId} from "./IRegistry.sol";

/// @title ILens
/// @notice Pages and sums over what the Registry shows, and the dial; holds nothing.
interface ILens {
    function registry() external view returns (IRegistry);
    function operator(OperatorId id) external view returns (IRegistry.OperatorView memory);

    /// @notice Up to `limit` listed nodes from position `cursor`, active or not (`OperatorView.active` tells).
    function nodes(uint256 cursor, uint256 limit) external view returns (IRegistry.OperatorView[] memory);

    /// @notice The seated verifiers with slots in [from, to).
    function verifiers(uint256 from, uint256 to) external view returns (IRegistry.VerifierView[] memory);

    /// @notice The unclaimed pay of batches `from` to `to - 1`, and their verifiers' fees that are not paid yet; the numbers of
    /// batches begin at 1.
    function claimable(uint256 from, uint256 to) external view returns (uint256);

    /// @notice The audit dial for a task of `segments` segments in a job that draws `segmentsPerAudit` of them: the
    /// probability that it is audited, max(p_floor, p_trust) as a fraction of 1e18, and how many segments are drawn then.
    /// More than `segmentsPerAudit` are drawn where even auditing every task on so few would let one faked segment pay.
    /// @param rewardInFlight Unsettled reward of all nodes of the operator's owner, this task's included.
    /// @param tasksInFlight How many tasks with this one's reward `rewardInFlight` would be, rounded down.
    function auditProbability(
        OperatorId id,
        uint256 tasksInFlight,
        uint256 rewardInFlight,
        uint256 segments,
        uint256 segmentsPerAudit
    ) external view returns (uint256 probability, uint256 drawn);
}
