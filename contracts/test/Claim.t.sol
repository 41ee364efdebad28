// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, BatchId} from "../src/interfaces/IRegistry.sol";
import {Case} from "./helpers/Case.sol";

/// @notice Claims of one who wants more than was settled.
contract ClaimTest is Case {
    function setUp() public override {
        super.setUp();
        settleHonestly();
        vm.warp(vm.getBlockTimestamp() + WINDOW);
    }

    function testFuzz_no_claim_but_the_settled_one_is_paid(uint96 amount, uint32 valid, uint32 audits, uint32 index)
        public
    {
        vm.assume(amount != 100e18 || valid != 1 || audits != 1 || index != 0);
        IRegistry.Claim[] memory claims = claimOf(batch, worker, amount);
        (claims[0].valid, claims[0].audits, claims[0].index) = (valid, audits, index);
        uint256 before = credit.balanceOf(owner(10));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadPayoutProof.selector, batch, index));
        registry.claim(claims);
        claims = claimOf(batch, OperatorId.wrap(OperatorId.unwrap(worker) + 1), 100e18);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadPayoutProof.selector, batch, 0));
        registry.claim(claims);
        vm.assertEq(credit.balanceOf(owner(10)), before, "nothing paid");
    }

    function test_the_same_payout_twice_in_one_call_is_refused() public {
        IRegistry.Claim[] memory claims = new IRegistry.Claim[](2);
        claims[0] = claimOf(batch, worker, 100e18)[0];
        claims[1] = claims[0];
        vm.expectRevert(abi.encodeWithSelector(IRegistry.AlreadyClaimed.selector, batch, 0));
        registry.claim(claims);
        vm.assertEq(registry.claimable(1, 2), 100e18, "all or nothing");
    }

    function test_a_payout_belongs_to_its_batch() public {
        BatchId second = commit(job, 1);
        settle(settlement(second, worker, 100e18), 1, 3);
        vm.warp(vm.getBlockTimestamp() + WINDOW);
        IRegistry.Claim[] memory claims = claimOf(second, worker, 100e18);
        registry.claim(claims);
        claims[0].batch = batch;
        uint256 before = credit.balanceOf(owner(10));
        registry.claim(claims);
        vm.assertEq(credit.balanceOf(owner(10)) - before, 100e18, "its own payout, which looks the same");
        claims[0].batch = BatchId.wrap(99);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotSettled.selector, BatchId.wrap(99)));
        registry.claim(claims);
    }
}
