// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId} from "../src/interfaces/IRegistry.sol";
import {Base} from "./helpers/Base.sol";

/// @notice What faults take, and how they are undone, in whatever order.
contract FaultsTest is Base {
    OperatorId private node;
    OperatorId private sibling;
    JobId private job;

    function setUp() public override {
        super.setUp();
        for (uint256 i = 1; i <= 3; ++i) {
            addVerifier(i);
        }
        node = addNode(10);
        sibling = listNode(10, 20, NODE_STAKE, 1);
        for (uint256 i = 11; i <= 14; ++i) {
            addNode(i);
        }
        job = openJob();
    }

    function settleFault(OperatorId cheat, uint8 reason) private returns (BatchId batch) {
        batch = commit(openJob(), 1);
        settle(withFault(settlement(batch, OperatorId.wrap(6), 1e18), cheat, reason), 1, 3);
    }

    function earn(OperatorId id) private {
        BatchId batch = commit(openJob(), 1);
        settle(settlement(batch, id, 1e18), 1, 3);
        later(WINDOW);
        registry.claim(claimOf(batch, id, 1e18));
    }

    function absolve(BatchId batch, uint256 index) private {
        vm.prank(address(court));
        registry.absolve(batch, index);
    }

    function stakeOf(uint256 i) private view returns (uint256) {
        return registry.account(owner(i)).stake;
    }

    function valid(OperatorId id) private view returns (uint256) {
        return registry.operatorState(id).consecutiveValid;
    }

    // -------------------------------------------------------------------------------------------------- taking

    function test_a_fault_freezes_the_whole_stake_unbonding_included_and_shares_little_of_it() public {
        vm.prank(owner(11));
        registry.addStake(150e18);
        vm.prank(owner(11));
        registry.requestUnstake(30e18);
        OperatorId cheat = registry.operatorOf(vm.addr(1011));
        BatchId batch = commit(job, 1);
        settle(withFault(settlement(batch, node, 100e18), cheat), 1, 3);
        IRegistry.Account memory a = registry.account(owner(11));
        vm.assertEq(a.stake, 0, "stake");
        vm.assertEq(a.unbonding, 0, "unbonding");
        vm.assertEq(a.frozen, 250e18, "frozen");
        vm.assertTrue(!lens.operator(cheat).active, "inactive");
        vm.assertEq(registry.totals().bonds, 250e18, "until the window closes");
        assertConserved();
        vm.expectRevert(abi.encodeWithSelector(IRegistry.StillBacked.selector, cheat));
        registry.retire(cheat);
        later(WINDOW);
        uint256 before = credit.balanceOf(owner(10));
        registry.claim(claimOf(batch, node, 100e18));
        vm.assertEq(credit.balanceOf(owner(10)) - before, 100e18 + 10e18, "pay, and a tenth of one node's stake");
        vm.assertEq(registry.totals().burned, 195e18, "burned");
        vm.assertEq(registry.job(job).surplus, 1000e18 + 5e18, "a twentieth for the requester");
        vm.assertEq(registry.account(owner(11)).frozen, 0, "nothing is frozen any more");
        registry.retire(cheat);
        assertConserved();
    }

    function test_a_fault_forfeits_the_owners_unsettled_pay_and_the_operators_reputation() public {
        earn(node);
        earn(sibling);
        BatchId mine = commit(openJob(), 1);
        settle(settlement(mine, node, 100e18), 1, 3);
        BatchId others = commit(openJob(), 1);
        settle(settlement(others, sibling, 100e18), 1, 3);
        settleFault(node, MISMATCH);
        later(WINDOW);
        uint256 before = credit.balanceOf(owner(10));
        registry.claim(claimOf(mine, node, 100e18));
        registry.claim(claimOf(others, sibling, 100e18));
        vm.assertEq(credit.balanceOf(owner(10)), before, "no pay, by no node of the owner");
        vm.assertEq(valid(node), 0, "no reputation");
        vm.assertEq(valid(sibling), 1, "the other node's stays, and does not grow");
        vm.assertEq(registry.totals().burned, 200e18, "burned: nobody gains by an accusation");
        assertConserved();
    }

    function test_a_second_fault_does_not_save_the_pay_that_the_first_forfeits() public {
        BatchId mine = commit(openJob(), 1);
        settle(settlement(mine, node, 100e18), 1, 3);
        settleFault(node, MISMATCH);
        settleFault(node, DISAGREED);
        later(WINDOW);
        settleFault(node, MISMATCH);
        uint256 before = credit.balanceOf(owner(10));
        registry.claim(claimOf(mine, node, 100e18));
        vm.assertEq(credit.balanceOf(owner(10)), before, "the first counts");
    }

    function test_a_fault_after_the_window_leaves_the_pay_and_takes_the_reputation() public {
        BatchId mine = commit(openJob(), 1);
        settle(settlement(mine, node, 100e18), 1, 3);
        later(WINDOW);
        settleFault(node, MISMATCH);
        uint256 before = credit.balanceOf(owner(10));
        registry.claim(claimOf(mine, node, 100e18));
        vm.assertEq(credit.balanceOf(owner(10)) - before, 100e18, "pay");
        vm.assertEq(valid(node), 0, "but no reputation");
    }

    function test_a_disagreement_costs_reputation_and_nothing_else() public {
        earn(node);
        BatchId mine = commit(openJob(), 1);
        settle(settlement(mine, node, 100e18), 1, 3);
        settleFault(node, DISAGREED);
        vm.assertEq(valid(node), 0, "reputation");
        vm.assertEq(stakeOf(10), 200e18, "stake");
        later(WINDOW);
        uint256 before = credit.balanceOf(owner(10));
        registry.claim(claimOf(mine, node, 100e18));
        vm.assertEq(credit.balanceOf(owner(10)) - before, 100e18, "pay");
        vm.assertTrue(!registry.operatorState(node).forfeits, "on record as one that cost nothing");
    }

    function test_a_disagreement_never_hides_a_fault_that_cost_stake() public {
        settleFault(node, MISMATCH);
        uint40 at_ = registry.operatorState(node).lastFault;
        later(5);
        settleFault(node, DISAGREED);
        vm.assertEq(registry.operatorState(node).lastFault, at_, "the date of the first");
        vm.assertTrue(registry.operatorState(node).forfeits, "which forfeits");
    }

    // -------------------------------------------------------------------------------------------------- undoing

    function test_an_absolved_fault_gives_everything_back() public {
        earn(node);
        BatchId mine = commit(openJob(), 1);
        settle(settlement(mine, node, 100e18), 1, 3);
        BatchId batch = settleFault(node, MISMATCH);
        absolve(batch, 0);
        vm.assertEq(stakeOf(10), 200e18, "stake");
        vm.assertEq(valid(node), 1, "reputation");
        vm.assertEq(registry.operatorState(node).lastFault, 0, "never");
        vm.assertEq(registry.account(owner(10)).frozen, 0, "nothing frozen");
        later(WINDOW);
        registry.claim(claimOf(mine, node, 100e18));
        vm.assertEq(valid(node), 2, "pay and reputation of other batches too");
        registry.finalize(batch);
        vm.assertEq(registry.totals().burned, 0, "nothing is burned");
        assertConserved();
        vm.prank(address(court));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotSettled.selector, batch));
        registry.absolve(batch, 0);
    }

    function test_a_fault_is_absolved_once() public {
        BatchId batch = settleFault(node, MISMATCH);
        absolve(batch, 0);
        vm.prank(address(court));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadBatch.selector, "no such fault"));
        registry.absolve(batch, 0);
        vm.prank(address(court));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadBatch.selector, "no such fault"));
        registry.absolve(batch, 1);
    }

    function test_of_two_faults_in_one_batch_the_true_one_keeps_what_the_false_one_took() public {
        BatchId batch = commit(openJob(), 1);
        settle(withFault(withFault(settlement(batch, OperatorId.wrap(6), 1e18), node), sibling), 1, 3);
        vm.assertEq(registry.slashes(batch)[0].amount, 200e18, "the first took all");
        vm.assertEq(registry.slashes(batch)[1].amount, 0, "nothing was left for the second");
        absolve(batch, 0);
        vm.assertEq(stakeOf(10), 0, "the second still stands");
        vm.assertEq(registry.slashes(batch)[1].amount, 200e18, "and holds it now");
        later(WINDOW);
        registry.finalize(batch);
        vm.assertEq(registry.totals().burned, 200e18 - 55e18, "burned");
        assertConserved();
    }

    function test_in_whatever_order_two_faults_are_absolved_everything_returns() public {
        for (uint256 order = 0; order < 2; ++order) {
            earn(node);
            earn(node);
            uint256 had = valid(node);
            BatchId[2] memory batches = [settleFault(node, MISMATCH), settleFault(node, MISMATCH)];
            absolve(batches[order], 0);
            vm.assertEq(stakeOf(10), 0, "one still stands");
            vm.assertEq(valid(node), 0, "and holds the reputation");
            absolve(batches[1 - order], 0);
            vm.assertEq(stakeOf(10), 200e18, "stake");
            vm.assertEq(valid(node), had, "reputation");
            vm.assertEq(registry.operatorState(node).lastFault, 0, "no fault");
            later(WINDOW);
            assertConserved();
        }
    }

    function test_reputation_earned_between_two_faults_survives_both() public {
        earn(node);
        BatchId between = commit(openJob(), 1);
        BatchId first = settleFault(node, MISMATCH);
        later(1);
        settle(settlement(between, node, 1e18), 1, 3);
        vm.prank(address(court));
        registry.hold(first);
        later(WINDOW);
        registry.claim(claimOf(between, node, 1e18));
        vm.assertEq(valid(node), 1, "earned after the first");
        BatchId second = settleFault(node, DISAGREED);
        absolve(first, 0);
        vm.assertEq(valid(node), 0, "passed on to the second");
        absolve(second, 0);
        vm.assertEq(valid(node), 2, "both");
        vm.assertEq(stakeOf(10), 200e18, "stake");
    }

    function test_what_a_false_fault_took_does_not_return_to_a_convict() public {
        BatchId batch = settleFault(node, MISMATCH);
        vm.prank(address(court));
        registry.convict(batch, sibling, job, 0, 0);
        absolve(batch, 0);
        vm.assertEq(stakeOf(10), 0, "the conviction would have taken it");
        vm.assertEq(registry.totals().burned, 200e18, "burned");
        assertConserved();
    }

    function test_a_conviction_forfeits_the_batch_however_long_the_jury_took() public {
        BatchId batch = commit(job, 1);
        settle(settlement(batch, node, 100e18), 1, 3);
        vm.prank(address(court));
        registry.hold(batch);
        later(5 * WINDOW);
        vm.prank(address(court));
        registry.convict(batch, node, job, 0, 0);
        vm.prank(address(court));
        registry.release(batch);
        uint256 before = credit.balanceOf(owner(10));
        registry.claim(claimOf(batch, node, 100e18));
        vm.assertEq(credit.balanceOf(owner(10)), before, "no pay");
        vm.assertEq(registry.batch(batch).settled.claimableAt + 4 * WINDOW, vm.getBlockTimestamp(), "no new window");
        assertConserved();
    }

    // ----------------------------------------------------------------------------------------------- backing

    function test_an_accused_verifier_keeps_its_seat_until_the_fault_is_final() public {
        fund(owner(3), 200 * CREDIT);
        OperatorId own = listNode(3, 3, NODE_STAKE, 1);
        BatchId batch = settleFault(own, MISMATCH);
        OperatorId third = registry.operatorOf(vm.addr(2003));
        vm.assertEq(stakeOf(3), 0, "all frozen");
        vm.expectRevert(abi.encodeWithSelector(IRegistry.StillBacked.selector, third));
        registry.retire(third);
        vm.assertEq(registry.seats(), 7, "still seated");
        later(WINDOW);
        registry.finalize(batch);
        vm.assertEq(registry.seats(), 3, "now it is not backed");
        assertConserved();
    }

    /// forge-config: default.fuzz.runs = 2000
    function testFuzz_conserved_in_whatever_order_faults_come_and_go(uint256 dice) public {
        BatchId[6] memory batches;
        for (uint256 i = 0; i < 6; ++i) {
            dice = uint256(keccak256(abi.encode(dice)));
            OperatorId cheat = dice & 1 == 0 ? node : sibling;
            batches[i] = settleFault(cheat, dice & 6 == 0 ? DISAGREED : MISMATCH);
            if (dice & 8 != 0) {
                vm.prank(owner(10));
                registry.addStake(7e18);
            }
        }
        for (uint256 i = 0; i < 12; ++i) {
            dice = uint256(keccak256(abi.encode(dice)));
            BatchId batch = batches[dice % 6];
            IRegistry.SlashRecord[] memory f = registry.slashes(batch);
            if (f.length == 0 || f[0].absolved) continue;
            if (dice & 256 == 0) absolve(batch, 0);
            else voidBatch(batch, false);
            assertConserved();
        }
        for (uint256 i = 0; i < 6; ++i) {
            IRegistry.SlashRecord[] memory f = registry.slashes(batches[i]);
            if (f.length > 0 && !f[0].absolved) absolve(batches[i], 0);
        }
        IRegistry.Account memory a = registry.account(owner(10));
        vm.assertEq(a.frozen, 0, "nothing frozen");
        vm.assertEq(registry.totals().bonds, 0, "all returned");
        vm.assertEq(registry.operatorState(node).lastFault, 0, "no fault left");
        assertConserved();
    }
}
