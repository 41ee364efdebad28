// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @title FixedPointMathLib
/// @notice Takes the place of Solady's in proofs: masks instead of its multiplications by 0 or 1, which provers find hard.
/// `PlainProof` shows that the results are the same.
library FixedPointMathLib {
    function min(uint256 x, uint256 y) internal pure returns (uint256 z) {
        assembly ("memory-safe") {
            z := xor(x, and(xor(x, y), sub(0, lt(y, x))))
        }
    }

    function max(uint256 x, uint256 y) internal pure returns (uint256 z) {
        assembly ("memory-safe") {
            z := xor(x, and(xor(x, y), sub(0, gt(y, x))))
        }
    }

    function zeroFloorSub(uint256 x, uint256 y) internal pure returns (uint256 z) {
        assembly ("memory-safe") {
            z := and(sub(x, y), sub(0, gt(x, y)))
        }
    }

    function divUp(uint256 x, uint256 d) internal pure returns (uint256 z) {
        if (d == 0) revert();
        assembly ("memory-safe") {
            z := add(iszero(iszero(mod(x, d))), div(x, d))
        }
    }
}
