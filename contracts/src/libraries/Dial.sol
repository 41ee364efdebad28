// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {FixedPointMathLib} from "solady/utils/FixedPointMathLib.sol";

/// @title Dial
/// @notice How often a node is audited, as in `proofyard.protocol.dial`.
/// Results are fractions of 1e18, exact integers, the same to the unit as in Python.
library Dial {
    uint256 private constant ONE = 1e18;
    /// @dev Powers are taken in units of 1e-36, so that two of them can be multiplied in 256 bits.
    uint256 private constant FINE = 1e36;
    /// @dev A node with fewer consecutive valid audits is always audited.
    uint256 private constant TRUST_FROM = 10;

    /// @dev 1 for a new node, then 1 / consecutiveValid (BOINC's adaptive replication).
    function trust(uint256 consecutiveValid) private pure returns (uint256) {
        return consecutiveValid < TRUST_FROM ? ONE : ONE / consecutiveValid;
    }

    /// @notice What of a stake a fault is sure to cost, where `givenBackBps` of it may go to the cheat's own.
    function atRisk(uint256 stake, uint256 givenBackBps) internal pure returns (uint256) {
        return stake * (10_000 - givenBackBps) / 10_000;
    }

    /// @notice The probability that a task is audited, and how many of its segments are drawn then. A single faked segment
    /// of `segments` is seen with probability `perTask` at least: more are drawn where that takes more than
    /// `segmentsPerAudit` of them in every task.
    function odds(
        uint256 consecutiveValid,
        uint256 stake,
        uint256 tasks,
        uint256 reward,
        uint256 collusionBps,
        uint256 segments,
        uint256 segmentsPerAudit
    ) internal pure returns (uint256 probability, uint256 drawn) {
        uint256 needed = perTask(stake, tasks, reward, collusionBps) * segments;
        drawn = FixedPointMathLib.min(segmentsPerAudit, segments);
        uint256 floor = FixedPointMathLib.min(ONE, FixedPointMathLib.divUp(needed, drawn));
        probability = FixedPointMathLib.max(floor, trust(consecutiveValid));
        drawn = FixedPointMathLib.max(drawn, FixedPointMathLib.divUp(needed, ONE));
    }

    /// @notice The least x for which a fake in each of `tasks` tasks, each seen with probability x, loses on average:
    /// (1 - x)^tasks < 1 - q with q = reward / ((1 - collusion) (stake + reward)). The power is rounded up at every step,
    /// so the loss is certain. 1 where q reaches 1, 0 where nothing is in flight.
    function perTask(uint256 stake, uint256 tasks, uint256 reward, uint256 collusionBps)
        internal
        pure
        returns (uint256)
    {
        if (reward == 0) return 0;
        uint256 q = FixedPointMathLib.divUp(reward * 10_000 * FINE, (10_000 - collusionBps) * (stake + reward));
        if (q >= FINE) return ONE;
        uint256 below = 0;
        uint256 enough = ONE;
        while (enough - below > 1) {
            uint256 middle = (below + enough) / 2;
            if (power((ONE - middle) * ONE, tasks) < FINE - q) enough = middle;
            else below = middle;
        }
        return enough;
    }

    /// @dev base^exponent (for 0 as for 1) in units of 1e-36, rounded up at every multiplication; `base` at most 1.
    function power(uint256 base, uint256 exponent) private pure returns (uint256 result) {
        if (exponent < 2) return base;
        result = FINE;
        for (; exponent > 0; exponent >>= 1) {
            if (exponent & 1 == 1) result = FixedPointMathLib.divUp(result * base, FINE);
            base = FixedPointMathLib.divUp(base * base, FINE);
        }
    }
}
