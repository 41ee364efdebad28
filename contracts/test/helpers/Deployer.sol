// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Court} from "../../src/Court.sol";
import {Lens} from "../../src/Lens.sol";
import {Registry} from "../../src/Registry.sol";
import {ICourt} from "../../src/interfaces/ICourt.sol";
import {IRegistry} from "../../src/interfaces/IRegistry.sol";

/// @notice Deploys the contracts for the tests. A linked library, so that their code is compiled once and not into each
/// test contract.
library Deployer {
    function registry(address token, IRegistry.Params memory params, address court_) external returns (Registry) {
        return new Registry(token, params, court_);
    }

    function court(IRegistry registry_, ICourt.Params memory params) external returns (Court) {
        return new Court(registry_, params);
    }

    function lens(IRegistry registry_) external returns (Lens) {
        return new Lens(registry_);
    }
}
