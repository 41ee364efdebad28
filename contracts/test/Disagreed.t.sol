// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, BatchId} from "../src/interfaces/IRegistry.sol";
import {Case} from "./helpers/Case.sol";

/// @notice Faults in workloads that are not exact: they cost reputation, and neither stake nor the pay of other batches.
contract DisagreedTest is Case {
    uint8 private constant MISMATCH = 1;
    uint8 private constant DISAGREED = 4;

    /// @dev One valid audit of the worker is claimed from a batch before.
    function setUp() public override {
        super.setUp();
        earn();
    }

    function earn() private {
        BatchId earlier = commit(job, 1);
        settle(settlement(earlier, worker, 1e18), 1, 3);
        vm.warp(vm.getBlockTimestamp() + WINDOW);
        registry.claim(claimOf(earlier, worker, 1e18));
    }

    function fault(BatchId id, uint8 reason) private {
        settle(withFault(settlement(id, OperatorId.wrap(1), 1), worker, reason), 1, 3);
    }

    function test_a_disagreement_resets_reputation_and_freezes_nothing() public {
        vm.assertEq(registry.operator(worker).consecutiveValid, 1, "earned");
        uint256 bonds = registry.totals().bonds;
        fault(batch, DISAGREED);
        IRegistry.OperatorView memory o = registry.operator(worker);
        vm.assertEq(o.consecutiveValid, 0, "reputation");
        vm.assertEq(o.lastFault, vm.getBlockTimestamp(), "on record");
        vm.assertEq(o.stake, NODE_STAKE, "stake");
        vm.assertTrue(o.active, "still active");
        vm.assertEq(registry.totals().bonds, bonds, "nothing frozen");
        vm.assertEq(registry.batch(batch).frozen, 0, "nothing to distribute");
        IRegistry.SlashRecord memory taken = registry.slashes(batch)[0];
        vm.assertEq(taken.amount, 0, "took no stake");
        vm.assertEq(taken.consecutiveValid, 1, "took reputation");
        vm.assertEq(taken.reason, DISAGREED, "reason");
        vm.warp(vm.getBlockTimestamp() + WINDOW);
        registry.finalize(batch);
        vm.assertEq(registry.totals().burned, 0, "burned");
        assertConserved();
    }

    function test_pay_of_other_batches_stays_and_their_audits_do_not_count_any_more() public {
        BatchId other = commit(job, 1);
        settle(settlement(other, worker, 5e18), 1, 3);
        fault(batch, DISAGREED);
        vm.warp(vm.getBlockTimestamp() + WINDOW);
        uint256 before = credit.balanceOf(owner(10));
        registry.claim(claimOf(other, worker, 5e18));
        vm.assertEq(credit.balanceOf(owner(10)) - before, 5e18, "paid");
        vm.assertEq(registry.operator(worker).consecutiveValid, 0, "no reputation from before the fault");
        assertConserved();
    }

    function testFuzz_a_fault_that_costs_nothing_saves_no_pay_that_another_forfeited(uint40 later) public {
        BatchId other = commit(job, 1);
        settle(settlement(other, worker, 5e18), 1, 3);
        fault(batch, MISMATCH);
        vm.warp(vm.getBlockTimestamp() + later % (2 * WINDOW));
        fault(commit(job, 1), DISAGREED);
        vm.warp(vm.getBlockTimestamp() + WINDOW);
        uint256 before = credit.balanceOf(owner(10));
        registry.claim(claimOf(other, worker, 5e18));
        vm.assertEq(credit.balanceOf(owner(10)), before, "forfeited");
        assertConserved();
    }

    /// @dev Reputation, date and stake return whatever the faults, and what is forfeited is what was: the pay of a batch that
    /// was settled before an earlier fault, if there was one and it cost stake.
    function testFuzz_a_voided_record_gives_back_all_that_its_faults_took(uint8[4] memory reasons, uint8 earlier)
        public
    {
        BatchId paid = commit(job, 1);
        settle(settlement(paid, worker, 5e18), 1, 3);
        bool slashed = earlier % 3 == 1;
        if (earlier % 3 != 0) {
            fault(commit(job, 1), slashed ? MISMATCH : DISAGREED);
            vm.warp(vm.getBlockTimestamp() + 1);
            earn();
        }
        vm.warp(vm.getBlockTimestamp() + 1);
        IRegistry.OperatorView memory before = registry.operator(worker);
        vm.assertEq(before.consecutiveValid, 1, "earned");
        IRegistry.Settlement memory s = settlement(batch, OperatorId.wrap(1), 1);
        for (uint256 i = 0; i < reasons.length; ++i) {
            s = withFault(s, worker, reasons[i] % 6);
        }
        settle(s, 1, 3);
        vm.assertEq(registry.operator(worker).consecutiveValid, 0, "reset");
        vm.assertTrue(decide(challengeFault(), 7), "voided");
        IRegistry.OperatorView memory o = registry.operator(worker);
        vm.assertEq(o.stake, slashed ? 0 : NODE_STAKE, "stake");
        vm.assertEq(o.consecutiveValid, 1, "reputation");
        vm.assertEq(o.lastFault, before.lastFault, "date");
        vm.warp(vm.getBlockTimestamp() + WINDOW);
        uint256 balance = credit.balanceOf(owner(10));
        registry.claim(claimOf(paid, worker, 5e18));
        vm.assertEq(credit.balanceOf(owner(10)) - balance, slashed ? 0 : 5e18, "pay");
        assertConserved();
    }
}
