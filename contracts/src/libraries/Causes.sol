// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @title Causes
/// @notice Which fault made work worthless, in one word, from the lowest bit on: the sum of the prices of all work that may rest
/// on the faulty tasks (96 bits), the fault's number in its batch's settlement (8), the attempt (8) and number (64) of the batch.
library Causes {
    uint256 private constant INDEX_AT = 96;
    uint256 private constant ATTEMPT_AT = 104;
    uint256 private constant BATCH_AT = 112;

    function pack(uint64 batch, uint8 attempt, uint8 index, uint96 prices) internal pure returns (uint256) {
        return uint256(batch) << BATCH_AT | uint256(attempt) << ATTEMPT_AT | uint256(index) << INDEX_AT | prices;
    }

    function unpack(uint256 cause) internal pure returns (uint256 batch, uint8 attempt, uint8 index, uint96 prices) {
        return (cause >> BATCH_AT, uint8(cause >> ATTEMPT_AT), uint8(cause >> INDEX_AT), uint96(cause));
    }
}
