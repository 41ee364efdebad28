// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Registry} from "../../src/Registry.sol";
import {IRegistry} from "../../src/interfaces/IRegistry.sol";

/// @notice Deploys the Registry for the tests. A linked library, so that its code is compiled once and not into each
/// test contract.
library Deployer {
    function registry(address token, IRegistry.Params memory params) external returns (Registry) {
        return new Registry(token, params);
    }
}
