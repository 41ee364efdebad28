// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {FixedPointMathLib as Solady} from "../node_modules/solady/src/utils/FixedPointMathLib.sol";
import {FixedPointMathLib as Plain} from "solady/utils/FixedPointMathLib.sol";

/// @notice What stands for Solady's arithmetic in the other proofs gives the same.
contract PlainProof {
    function check_minimum_and_maximum(uint256 x, uint256 y) external pure {
        assert(Solady.min(x, y) == Plain.min(x, y));
        assert(Solady.max(x, y) == Plain.max(x, y));
    }

    function check_difference(uint256 x, uint256 y) external pure {
        assert(Solady.zeroFloorSub(x, y) == Plain.zeroFloorSub(x, y));
    }

    function check_rounded_up_quotient(uint256 x, uint256 d) external pure {
        assert(Solady.divUp(x, d) == Plain.divUp(x, d));
    }
}
