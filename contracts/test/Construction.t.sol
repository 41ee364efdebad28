// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry} from "../src/interfaces/IRegistry.sol";
import {Credit} from "../src/Credit.sol";
import {Base} from "./helpers/Base.sol";
import {Deployer} from "./helpers/Deployer.sol";

/// @notice Parameters under which the Registry does not come into being, and how they read afterwards.
contract ConstructionTest is Base {
    function refuse(IRegistry.Params memory p, string memory reason) private {
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadParams.selector, reason));
        Deployer.registry(address(credit), p);
    }

    function test_the_parameters_and_the_token_can_be_read() public view {
        IRegistry.Params memory p = parameters();
        p.court.quarantine = uint32(p.unstakeDelay);
        vm.assertEq(keccak256(abi.encode(registry.params())), keccak256(abi.encode(p)), "parameters");
        vm.assertTrue(registry.token() == address(credit), "token");
    }

    function test_what_would_let_stake_escape_or_reward_a_slash_is_refused() public {
        IRegistry.Params memory p = parameters();
        p.unstakeDelay = WINDOW + 2 * (6 hours + 2 hours) + 1 hours;
        refuse(p, "unstakeDelay must exceed the longest challenge");
        p = parameters();
        p.court.appealJurySize = p.court.jurySize;
        refuse(p, "jury sizes");
        p = parameters();
        p.court.bond = 0;
        refuse(p, "zero jury delay or bond");
        p = parameters();
        p.court.juryBps = 5000;
        refuse(p, "some of the losers' money must be burned");
        p = parameters();
        p.drawDelay = 0;
        refuse(p, "zero window or draw delay");
        p = parameters();
        p.collusionBps = 10_000;
        refuse(p, "collusionBps");
        p = parameters();
        p.slashRequesterBps = 7000;
        refuse(p, "some of a slash must be burned");
        p = parameters();
        p.nodeStake = 0;
        refuse(p, "zero stake");
    }

    function test_tokens_that_are_none_or_too_many_are_refused() public {
        IRegistry.Params memory p = parameters();
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadParams.selector, "token has no code"));
        Deployer.registry(address(0xdead), p);
        Credit many = new Credit(uint256(type(uint96).max) + 1);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadParams.selector, "supply beyond 96 bits"));
        Deployer.registry(address(many), p);
    }
}
