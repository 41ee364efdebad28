// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Credit} from "../src/Credit.sol";
import {IRegistry} from "../src/interfaces/IRegistry.sol";
import {Base} from "./helpers/Base.sol";
import {Deployer} from "./helpers/Deployer.sol";

/// @notice Parameters under which the Registry does not come into being, and how they read afterwards.
contract ConstructionTest is Base {
    function refuse(IRegistry.Params memory p, string memory reason) private {
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadParams.selector, reason));
        Deployer.registry(address(credit), p, address(court));
    }

    function test_what_was_deployed_can_be_read() public view {
        vm.assertEq(keccak256(abi.encode(registry.params())), keccak256(abi.encode(parameters())), "parameters");
        vm.assertTrue(registry.token() == address(credit), "token");
        vm.assertTrue(registry.court() == address(court), "court");
        vm.assertTrue(address(lens.registry()) == address(registry), "registry");
    }

    function test_what_would_let_stake_escape_or_reward_a_slash_is_refused() public {
        IRegistry.Params memory p = parameters();
        p.unstakeDelay = GRACE + WINDOW;
        refuse(p, "unstakeDelay must exceed grace and window");
        p = parameters();
        p.seatDelay = WINDOW;
        refuse(p, "seatDelay must exceed the window");
        p = parameters();
        p.settleTime = GRACE + 1;
        refuse(p, "settleTime beyond settleGrace");
        p = parameters();
        p.idlePeriod = 0;
        refuse(p, "zero idlePeriod");
        p = parameters();
        p.drawDelay = 0;
        refuse(p, "zero window or draw delay");
        p = parameters();
        p.collusionBps = 10_000;
        refuse(p, "collusionBps");
        p = parameters();
        p.slashRequesterBps = 9000;
        refuse(p, "some of a slash must be burned");
        p = parameters();
        p.leaderBps = 10_001;
        refuse(p, "leaderBps");
        p = parameters();
        p.nodeStake = 0;
        refuse(p, "zero stake");
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadParams.selector, "no court"));
        Deployer.registry(address(credit), parameters(), address(0));
    }

    function test_tokens_that_are_none_or_too_many_are_refused() public {
        IRegistry.Params memory p = parameters();
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadParams.selector, "token has no code"));
        Deployer.registry(address(0xdead), p, address(court));
        Credit many = new Credit(uint256(type(uint96).max) + 1);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadParams.selector, "supply beyond 96 bits"));
        Deployer.registry(address(many), p, address(court));
    }
}
