// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Merkle} from "../../src/libraries/Merkle.sol";

/// @notice Builds the positional trees that `Merkle` checks; only tests do that on chain.
library Trees {
    function leaf(bytes memory data) internal pure returns (bytes32) {
        return Merkle.leaf(data);
    }

    function root(bytes32[] memory level) internal pure returns (bytes32) {
        while (level.length > 1) {
            level = _above(level);
        }
        return level[0];
    }

    function proof(bytes32[] memory level, uint256 index) internal pure returns (bytes32[] memory siblings) {
        siblings = new bytes32[](256);
        uint256 used;
        for (; level.length > 1; (level, index) = (_above(level), index >> 1)) {
            if (index ^ 1 < level.length) siblings[used++] = level[index ^ 1];
        }
        assembly ("memory-safe") {
            mstore(siblings, used)
        }
    }

    function _above(bytes32[] memory level) private pure returns (bytes32[] memory above) {
        above = new bytes32[]((level.length + 1) / 2);
        for (uint256 i = 0; i < above.length; ++i) {
            bool odd = 2 * i + 1 == level.length;
            above[i] = odd ? level[2 * i] : Merkle.node(level[2 * i], level[2 * i + 1]);
        }
    }
}
