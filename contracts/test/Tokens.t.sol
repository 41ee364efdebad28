// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Registry} from "../src/Registry.sol";
import {IRegistry, OperatorId, JobId, BatchId} from "../src/interfaces/IRegistry.sol";
import {Credit} from "../src/Credit.sol";
import {Base} from "./helpers/Base.sol";

/// @notice A token that takes a fee, lies, or calls back, as told.
contract Malicious is Credit {
    uint256 public fee;
    bool public silent;
    Registry public target;
    bytes public call;
    bytes public answer;

    constructor() Credit(1e27) {}

    function behave(uint256 fee_, bool silent_, Registry target_, bytes calldata call_) external {
        (fee, silent, target, call) = (fee_, silent_, target_, call_);
    }

    function _update(address from, address to, uint256 amount) internal override {
        if (silent) return;
        if (call.length > 0) {
            bytes memory again = call;
            delete call;
            (, answer) = address(target).call(again);
        }
        super._update(from, to, amount - fee);
    }
}

/// @notice Tokens that do not keep their word.
contract TokensTest is Base {
    Malicious private evil;

    function setUp() public override {
        super.setUp();
        evil = new Malicious();
        credit = evil;
        deploy();
        fund(REQUESTER, 1e6 * CREDIT);
    }

    function test_a_token_that_takes_a_fee_is_refused() public {
        evil.behave(1, false, registry, "");
        IRegistry.JobParams memory p = jobParams(1000e18, 0, 0);
        vm.prank(REQUESTER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.TransferMismatch.selector, 1000e18, 1000e18 - 1));
        registry.openJob(p);
    }

    function test_a_token_that_moves_nothing_is_refused() public {
        evil.behave(0, true, registry, "");
        IRegistry.JobParams memory p = jobParams(1000e18, 0, 0);
        vm.prank(REQUESTER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.TransferMismatch.selector, 1000e18, 0));
        registry.openJob(p);
    }

    function test_a_token_that_calls_back_cannot_open_twice_with_one_transfer() public {
        IRegistry.JobParams memory p = jobParams(1000e18, 0, 0);
        evil.behave(0, false, registry, abi.encodeCall(IRegistry.openJob, (p)));
        vm.prank(REQUESTER);
        registry.openJob(p);
        vm.assertTrue(bytes4(evil.answer()) == bytes4(keccak256("ReentrancyGuardReentrantCall()")), "locked");
        assertConserved();
    }

    function test_a_token_that_calls_back_cannot_be_paid_twice() public {
        addVerifier(1);
        OperatorId node = addNode(10);
        JobId job = openJob();
        BatchId batch = commit(job, 1);
        settle(settlement(batch, node, 100e18), 1, 1);
        vm.warp(vm.getBlockTimestamp() + WINDOW);
        evil.behave(0, false, registry, abi.encodeCall(IRegistry.claim, (claimOf(batch, node, 100e18))));
        uint256 before = credit.balanceOf(owner(10));
        registry.claim(claimOf(batch, node, 100e18));
        vm.assertTrue(bytes4(evil.answer()) == IRegistry.NothingClaimed.selector, "refused");
        vm.assertEq(credit.balanceOf(owner(10)) - before, 100e18, "paid once");
        assertConserved();
    }
}
