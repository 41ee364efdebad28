// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @title Lines
/// @notice A line of a batch in one word, as it is sent, hashed and emitted: budget (96 bits), units (48) and job (64), from
/// the lowest bit on. What a settlement paid of it is another word: amount (96), units (48) and redress (96): the prices that
/// faults are to pay for work of this line, which stay within its budget with the rest.
library Lines {
    uint256 private constant UNITS_AT = 96;
    uint256 private constant JOB_AT = 144;
    uint256 private constant REDRESS_AT = 144;

    function pack(uint64 job_, uint48 units_, uint96 budget_) internal pure returns (uint256) {
        return uint256(job_) << JOB_AT | uint256(units_) << UNITS_AT | budget_;
    }

    /// @notice More than 64 bits only of a line that nobody has checked.
    function job(uint256 line) internal pure returns (uint256) {
        return line >> JOB_AT;
    }

    function units(uint256 line) internal pure returns (uint48) {
        return uint48(line >> UNITS_AT);
    }

    function budget(uint256 line) internal pure returns (uint96) {
        return uint96(line);
    }

    function packPaid(uint48 units_, uint96 amount_, uint96 redress_) internal pure returns (uint256) {
        return uint256(redress_) << REDRESS_AT | uint256(units_) << UNITS_AT | amount_;
    }

    function paidUnits(uint256 paid) internal pure returns (uint48) {
        return uint48(paid >> UNITS_AT);
    }

    /// @notice More than 96 bits only of a share that nobody has checked.
    function redress(uint256 paid) internal pure returns (uint256) {
        return paid >> REDRESS_AT;
    }

    function amount(uint256 paid) internal pure returns (uint96) {
        return uint96(paid);
    }

    /// @notice Of the words alone, without their number.
    function hash(uint256[] memory words) internal pure returns (bytes32 result) {
        assembly ("memory-safe") {
            result := keccak256(add(words, 0x20), shl(5, mload(words)))
        }
    }
}
