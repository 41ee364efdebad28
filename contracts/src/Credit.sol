// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @title Credit
/// @notice The devnet's token: 18 decimals, permit (EIP-2612), a fixed supply that the deployer hands out.
contract Credit is ERC20Permit {
    constructor(uint256 supply) ERC20("Proofyard Credit", "CREDIT") ERC20Permit("Proofyard Credit") {
        _mint(msg.sender, supply);
    }
}
