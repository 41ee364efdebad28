// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {FixedPointMathLib} from "solady/utils/FixedPointMathLib.sol";

/// @title Dial
/// @notice How often a node is audited and how much its work weighs, as in `proofyard.protocol.dial` and `.payout`.
/// A linked library. All results are fractions of 1e18 and within 1e-9 of the Python reference.
library Dial {
    uint256 private constant ONE = 1e18;
    int256 private constant LN2 = 693147180559945309;
    /// @dev A node with fewer consecutive valid audits is always audited; from there the weight grows to 2**10 - 1.
    uint256 private constant TRUST_FROM = 10;
    uint256 private constant FULL_WEIGHT_FROM = 1023;

    /// @notice 1 for a new node, then 1 / consecutiveValid (BOINC's adaptive replication).
    function trust(uint256 consecutiveValid) external pure returns (uint256) {
        return consecutiveValid < TRUST_FROM ? ONE : ONE / consecutiveValid;
    }

    /// @notice 1 - (1 - q)^(1/tasks) with q = reward / ((1 - collusion) (stake + reward)): what makes cheating on
    /// everything in flight lose on average. 1 where q reaches 1, 0 where nothing is in flight.
    function floor(uint256 stake, uint256 tasks, uint256 reward, uint256 collusionBps) external pure returns (uint256) {
        if (tasks == 0 || reward == 0) return 0;
        uint256 q = FixedPointMathLib.fullMulDiv(reward * 10_000, ONE, (10_000 - collusionBps) * (stake + reward));
        if (q >= ONE) return ONE;
        int256 exponent = FixedPointMathLib.lnWad(int256(ONE - q)) / int256(tasks);
        return ONE - uint256(FixedPointMathLib.expWad(exponent));
    }

    /// @notice 0.5 + 0.5 min(1, log2(1 + consecutiveValid) / 10).
    function weight(uint256 consecutiveValid) external pure returns (uint256) {
        if (consecutiveValid >= FULL_WEIGHT_FROM) return ONE;
        int256 log2 = FixedPointMathLib.lnWad(int256((1 + consecutiveValid) * ONE)) * int256(ONE) / LN2;
        return ONE / 2 + uint256(log2) / 20;
    }
}
