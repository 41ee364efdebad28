// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry} from "../interfaces/IRegistry.sol";

/// @title Anchors
/// @notice What a transaction rests on. Jobs are numbered as they come, so a reorganisation may give a number to another job;
/// what names one by its number is valid only where the block is that its caller saw.
library Anchors {
    /// @dev How far back the hash of a block can be had. No reorganisation reaches so far.
    uint256 private constant REACH = 256;

    /// @notice That the chain has the block of `anchor`, as far as that can be seen.
    function check(IRegistry.Anchor calldata anchor) internal view {
        uint256 number = anchor.number;
        if (number + REACH < block.number) return;
        bytes32 found = blockhash(number);
        require(found != 0 && found == anchor.hash, IRegistry.AnchorGone(number, anchor.hash, found));
    }
}
