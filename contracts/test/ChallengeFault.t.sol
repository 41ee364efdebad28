// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../src/interfaces/IRegistry.sol";
import {Case} from "./helpers/Case.sol";

/// @notice A fault found false: stake and reputation return, the batch is settled again; and what is in no record.
contract ChallengeFaultTest is Case {
    /// @dev One valid audit of the worker is claimed from a batch before.
    function setUp() public override {
        super.setUp();
        BatchId earlier = commit(job, 1);
        settle(settlement(earlier, worker, 1e18), 1, 3);
        vm.warp(vm.getBlockTimestamp() + WINDOW);
        registry.claim(claimOf(earlier, worker, 1e18));
    }

    function testFuzz_a_fault_the_jury_finds_false_gives_back_stake_and_reputation(uint96 extra, bool upheld) public {
        extra = uint96(extra % (500 * CREDIT));
        vm.prank(owner(10));
        registry.addStake(extra);
        settle(withFault(settlement(batch, worker, 100e18), worker), 1, 3);
        vm.assertEq(registry.account(owner(10)).stake, 0, "frozen");
        vm.assertEq(registry.operator(worker).consecutiveValid, 0, "reputation falls at once");
        vm.assertEq(registry.slashes(batch)[0].amount, NODE_STAKE + extra, "on record");
        ChallengeId id = challengeFault();
        vm.assertTrue(decide(id, upheld ? 7 : 0) == upheld, "decided");
        vm.assertEq(registry.account(owner(10)).stake, upheld ? NODE_STAKE + extra : 0, "stake");
        vm.assertEq(registry.operator(worker).consecutiveValid, upheld ? 1 : 0, "reputation");
        vm.assertEq(registry.operator(worker).lastFault == 0 ? 1 : 0, upheld ? 1 : 0, "record");
        vm.assertEq(registry.slashes(batch).length, upheld ? 0 : 1, "slashes");
        if (upheld) return;
        registry.finalize(batch);
        assertConserved();
    }

    function test_a_voided_batch_is_settled_again_by_those_who_are_left_and_not_with_old_signatures() public {
        IRegistry.Settlement memory s = settlement(batch, worker, 100e18);
        (uint256 last, bytes memory old) = quorum(s, 4, 1);
        settle(s, 1, 3);
        vm.assertTrue(decide(challengePayout(), 7), "voided");
        IRegistry.Claim[] memory claims = claimOf(batch, worker, 100e18);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotSettled.selector, batch));
        registry.claim(claims);
        vm.expectRevert(IRegistry.BadSignature.selector);
        registry.settleBatch(s, last, old);
        settle(s, 4, 1);
        vm.warp(vm.getBlockTimestamp() + WINDOW);
        registry.claim(claims);
        vm.assertTrue(registry.isClaimed(batch, 0), "paid in the second attempt");
        assertConserved();
    }

    function test_what_the_record_does_not_hold_cannot_be_challenged() public {
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadPayoutProof.selector, batch, 0));
        registry.challengePayout(claimOf(batch, worker, 100e18)[0]);
        settleHonestly();
        IRegistry.Claim memory c = claimOf(batch, worker, 99e18)[0];
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadPayoutProof.selector, batch, 0));
        registry.challengePayout(c);
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NoSuchFault.selector, batch, 0));
        registry.challengeFault(batch, 0);
    }

    function test_a_second_fault_of_one_owner_is_given_back_in_the_order_of_its_taking() public {
        IRegistry.Settlement memory s = withFault(settlement(batch, worker, 100e18), worker);
        IRegistry.Fault memory fault = s.faults[0];
        s.faults = new IRegistry.Fault[](2);
        (s.faults[0], s.faults[1]) = (fault, fault);
        settle(s, 1, 3);
        vm.assertEq(registry.slashes(batch)[1].amount, 0, "taken once");
        vm.assertTrue(decide(challengeFault(), 7), "voided");
        vm.assertEq(registry.account(owner(10)).stake, NODE_STAKE, "given back once");
        vm.assertEq(registry.operator(worker).lastFault, 0, "no fault on record");
    }
}
