// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, BatchId} from "../src/interfaces/IRegistry.sol";
import {Causes} from "../src/libraries/Causes.sol";
import {Lines} from "../src/libraries/Lines.sol";
import {Base} from "./helpers/Base.sol";

/// @notice What a fault pays for work that it made worthless: 40 of a node's stake of 100 here.
contract RedressTest is Base {
    uint96 private constant ASIDE = 40e18;
    OperatorId private worker;
    OperatorId private cheat;
    BatchId private first;
    BatchId private second;

    function setUp() public override {
        super.setUp();
        for (uint256 i = 1; i <= 3; ++i) {
            addVerifier(i);
        }
        worker = addNode(10);
        cheat = addNode(11);
        for (uint256 i = 12; i <= 14; ++i) {
            addNode(i);
        }
        (first, second) = (commit(openJob(), 1), commit(openJob(), 1));
    }

    function cause(uint96 prices) private view returns (uint256) {
        return Causes.pack(uint64(BatchId.unwrap(first)), registry.batch(first).attempt, 0, prices);
    }

    function settleFault() private {
        settle(withFault(settlement(first, worker, 1e18), cheat), 1, 3);
    }

    /// @dev The second batch pays the worker, and the first one's fault what it lost by it.
    function settleSecond(uint96 price, uint256 by) private {
        settle(withRedress(settlement(second, worker, 1e18), worker, price, by), 1, 3);
    }

    function claimRedress(uint96 price, uint256 by) private returns (uint256 paid) {
        uint256 before = credit.balanceOf(owner(10));
        registry.claim(redressOf(second, worker, price, by, leafOf(second, 0, worker, 1e18, 0)));
        paid = credit.balanceOf(owner(10)) - before;
        assertConserved();
    }

    function refused(uint96 price, uint256 by) private {
        IRegistry.Claim[] memory c = redressOf(second, worker, price, by, leafOf(second, 0, worker, 1e18, 0));
        vm.expectRevert(IRegistry.NothingClaimed.selector);
        registry.claim(c);
    }

    /// @notice Its price where what is set aside suffices for all, its part of that where it does not; once.
    function testFuzz_a_price_or_its_part(uint96 price, uint96 prices) public {
        (price, prices) = (price % 1000e18, prices % 5000e18);
        if (price > prices) (price, prices) = (prices, price);
        settleFault();
        settleSecond(price, cause(prices));
        later(WINDOW);
        uint256 escrow = registry.totals().escrow;
        registry.finalize(first);
        uint256 part = prices <= ASIDE ? price : uint256(ASIDE) * price / prices;
        vm.assertEq(claimRedress(price, cause(prices)), part, "paid");
        vm.assertEq(registry.slashes(first)[0].redress, ASIDE - part, "what is left for others");
        vm.assertEq(registry.totals().escrow - escrow, 5e18, "the requester's share, and no escrow is touched");
        vm.assertEq(registry.totals().burned, 45e18, "what is not shared");
        refused(price, cause(prices));
    }

    function test_it_is_paid_once_the_fault_is_final() public {
        settleSecond(30e18, cause(30e18));
        later(WINDOW);
        refused(30e18, cause(30e18));
        settleFault();
        refused(30e18, cause(30e18));
        vm.prank(address(court));
        registry.hold(first);
        later(WINDOW);
        refused(30e18, cause(30e18));
        vm.prank(address(court));
        registry.release(first);
        vm.assertEq(claimRedress(30e18, cause(30e18)), 30e18, "finalized by the claim");
    }

    function test_a_fault_that_is_undone_pays_nothing_and_gives_everything_back() public {
        settleFault();
        settleSecond(30e18, cause(30e18));
        vm.prank(address(court));
        registry.absolve(first, 0);
        later(WINDOW);
        vm.assertEq(claimRedress(30e18, cause(30e18)), 0, "paid");
        vm.assertEq(registry.account(owner(11)).stake, NODE_STAKE, "the stake is back");
        vm.assertEq(registry.totals().burned, 0, "burned");
    }

    /// @notice Another settlement may have another fault by the same number.
    function test_a_settlement_that_was_voided_pays_nothing_whatever_follows() public {
        settleFault();
        uint256 by = cause(30e18);
        settleSecond(30e18, by);
        vm.prank(address(court));
        registry.void(first, false);
        takeBatch(first, 2);
        settleFault();
        later(WINDOW);
        refused(30e18, by);
    }

    function test_nobody_gets_more_than_is_set_aside_whatever_a_quorum_signs() public {
        settleFault();
        settleSecond(1000e18, cause(1));
        later(WINDOW);
        vm.assertEq(claimRedress(1000e18, cause(1)), ASIDE, "all of it");
        registry.claim(claimOf(first, worker, 1e18));
        vm.assertEq(registry.batch(first).settled.remaining, 0, "the first batch pays its own in full");
    }

    /// @notice So a quorum that invents faults has nothing more to win than the budgets that it could steal anyway.
    function test_prices_stay_within_the_budget_of_their_line() public {
        settleFault();
        IRegistry.Settlement memory s = withRedress(settlement(second, worker, 1e18), worker, 1100e18, cause(1));
        (uint256 bitmap, bytes memory signature) = quorum(s, 1, 3);
        IRegistry.Header memory header = headerOf(second);
        uint64 number = lineOf(second, 0).job;
        vm.expectRevert(
            abi.encodeWithSelector(IRegistry.OverBudget.selector, number, 1110e18, uint256(1e18 + 10e18 + 1100e18))
        );
        registry.settleBatch(s, header, bitmap, signature);
    }

    function test_no_more_is_paid_than_the_shares_say() public {
        settleFault();
        uint256 by = cause(30e18);
        IRegistry.Settlement memory s = withRedress(settlement(second, worker, 1e18), worker, 30e18, by);
        s.shares[0] = Lines.packPaid(Lines.paidUnits(s.shares[0]), 1e18, 7e18);
        settle(s, 1, 3);
        later(WINDOW);
        vm.assertEq(claimRedress(30e18, by), 7e18, "paid");
        vm.assertEq(registry.batch(second).redress, 0, "nothing is left");
    }

    function test_what_nobody_answers_for_with_a_stake_pays_nothing() public {
        settle(withFault(settlement(first, worker, 1e18), cheat, 2, new uint32[](0)), 1, 3);
        settleSecond(30e18, cause(30e18));
        later(WINDOW);
        vm.assertEq(claimRedress(30e18, cause(30e18)), 0, "paid");
    }

    function test_a_batch_pays_what_its_own_fault_made_worthless() public {
        uint256 by = cause(30e18);
        settle(withFault(withRedress(settlement(first, worker, 1e18), worker, 30e18, by), cheat), 1, 3);
        later(WINDOW);
        uint256 before = credit.balanceOf(owner(10));
        registry.claim(redressOf(first, worker, 30e18, by, leafOf(first, 0, worker, 1e18, 0)));
        vm.assertEq(credit.balanceOf(owner(10)) - before, 30e18, "paid");
        vm.assertEq(registry.batch(first).settled.remaining, 1e18 + 10e18 + 10e18, "pay, pool, and what is left aside");
        assertConserved();
    }

    /// @notice Who was found at fault itself meanwhile forfeits it like other pay.
    function test_an_owner_at_fault_forfeits_it() public {
        settleFault();
        settleSecond(30e18, cause(30e18));
        BatchId third = commit(openJob(), 1);
        settle(withFault(settlement(third, OperatorId.wrap(6), 1e18), worker), 1, 3);
        later(WINDOW);
        vm.assertEq(claimRedress(30e18, cause(30e18)), 0, "paid");
    }
}
