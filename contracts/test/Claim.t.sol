// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId} from "../src/interfaces/IRegistry.sol";
import {Lines} from "../src/libraries/Lines.sol";
import {Base} from "./helpers/Base.sol";

/// @notice Claiming settled pay.
contract ClaimTest is Base {
    OperatorId private node;
    JobId private job;
    BatchId private batch;

    function setUp() public override {
        super.setUp();
        addVerifier(1);
        node = addNode(10);
        for (uint256 i = 11; i <= 14; ++i) {
            addNode(i);
        }
        job = openJob();
        batch = commit(job, 1);
    }

    function testFuzz_pay_is_claimed_once_after_the_window_by_anyone(uint96 amount, uint40 wait, address sender)
        public
    {
        amount = uint96(amount % (1000 * CREDIT)) + 1;
        wait = wait % (2 * WINDOW);
        settle(settlement(batch, node, amount), 1, 1);
        uint256 before = credit.balanceOf(owner(10));
        uint256 opens = vm.getBlockTimestamp() + WINDOW;
        later(wait);
        vm.prank(sender);
        if (wait < WINDOW) vm.expectRevert(abi.encodeWithSelector(IRegistry.WindowOpen.selector, batch, opens));
        registry.claim(claimOf(batch, node, amount));
        if (wait < WINDOW) return;
        vm.assertEq(credit.balanceOf(owner(10)) - before, amount, "paid to the owner");
        vm.assertEq(registry.operatorState(node).consecutiveValid, 1, "reputation");
        vm.assertTrue(registry.isClaimed(batch, 0), "marked");
        assertConserved();
        vm.expectRevert(IRegistry.NothingClaimed.selector);
        registry.claim(claimOf(batch, node, amount));
    }

    function test_an_unsettled_batch_pays_nothing() public {
        vm.expectRevert(IRegistry.NothingClaimed.selector);
        registry.claim(claimOf(batch, node, 1));
    }

    function test_payouts_beyond_the_signed_total_take_nothing_from_others() public {
        IRegistry.Settlement memory s = settlement(batch, node, 100e18);
        (s.payoutTotal, s.shares[0]) = (99e18, Lines.packPaid(Lines.units(headerOf(batch).lines[0]), 99e18, 0));
        settle(s, 1, 1);
        later(WINDOW);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.PayoutsExceedTotal.selector, batch));
        registry.claim(claimOf(batch, node, 100e18));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadPayoutProof.selector, batch, 0));
        registry.claim(claimOf(batch, node, 99e18));
    }

    function test_a_batch_under_challenge_pays_nothing() public {
        settle(settlement(batch, node, 100e18), 1, 1);
        vm.prank(address(court));
        registry.hold(batch);
        later(WINDOW);
        vm.expectRevert(IRegistry.NothingClaimed.selector);
        registry.claim(claimOf(batch, node, 100e18));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.Contested.selector, batch));
        registry.finalize(batch);
        vm.prank(address(court));
        registry.release(batch);
        registry.claim(claimOf(batch, node, 100e18));
    }

    /// @notice Whoever claims first, or challenges one batch, holds nobody's other claims up.
    function test_what_others_have_claimed_or_contested_is_passed_over() public {
        BatchId held = commit(openJob(), 1);
        BatchId free = commit(openJob(), 1);
        settle(settlement(batch, node, 1e18), 1, 1);
        settle(settlement(held, node, 2e18), 1, 1);
        settle(settlement(free, node, 4e18), 1, 1);
        vm.prank(address(court));
        registry.hold(held);
        later(WINDOW);
        registry.claim(claimOf(batch, node, 1e18));
        IRegistry.Claim[] memory claims = new IRegistry.Claim[](3);
        (claims[0], claims[1]) = (claimOf(batch, node, 1e18)[0], claimOf(held, node, 2e18)[0]);
        claims[2] = claimOf(free, node, 4e18)[0];
        uint256 before = credit.balanceOf(owner(10));
        registry.claim(claims);
        vm.assertEq(credit.balanceOf(owner(10)) - before, 4e18, "the one that nobody holds");
        vm.expectRevert(IRegistry.NothingClaimed.selector);
        registry.claim(claims);
        assertConserved();
    }

    /// @dev A record may say anything; a count that cannot rise any further must not hold back pay.
    function test_reputation_at_its_limit_does_not_lock_pay() public {
        for (uint256 i = 0; i < 2; ++i) {
            IRegistry.Settlement memory s = settlement(i == 0 ? batch : commit(openJob(), 1), node, 1e18);
            bytes memory row = abi.encode(s.batch, 0, node, uint96(1e18), type(uint32).max, 0, 0);
            s.payoutRoot = keccak256(abi.encodePacked(bytes1(0), row));
            settle(s, 1, 1);
            later(WINDOW);
            IRegistry.Claim[] memory claims = claimOf(s.batch, node, 1e18);
            (claims[0].valid, claims[0].audits) = (type(uint32).max, 0);
            registry.claim(claims);
        }
        vm.assertEq(registry.operatorState(node).consecutiveValid, type(uint32).max, "at its limit");
    }

    /// forge-config: default.fuzz.runs = 500
    function testFuzz_each_place_has_its_own_bit(uint8 place) public {
        place = place % 64;
        IRegistry.Settlement memory s = settlement(batch, node, 64e18);
        bytes32[] memory row = new bytes32[](64);
        for (uint256 i = 0; i < 64; ++i) {
            row[i] = keccak256(abi.encodePacked(bytes1(0), abi.encode(batch, i, node, 1e18, 0, 0, 0)));
        }
        bytes32[] memory proof = new bytes32[](6);
        uint256 at_ = place;
        for (uint256 level = 0; level < 6; ++level) {
            proof[level] = row[at_ ^ 1];
            for (uint256 i = 0; i < 64 >> (level + 1); ++i) {
                row[i] = keccak256(abi.encodePacked(bytes1(0x01), row[2 * i], row[2 * i + 1]));
            }
            at_ >>= 1;
        }
        (s.payoutRoot, s.payoutCount, s.auditUnits) = (row[0], 64, 0);
        settle(s, 1, 1);
        later(WINDOW);
        IRegistry.Claim[] memory claims = new IRegistry.Claim[](1);
        claims[0] = IRegistry.Claim(batch, place, node, 1e18, 0, 0, 0, boundOf(batch), proof);
        registry.claim(claims);
        for (uint256 i = 0; i < 64; ++i) {
            vm.assertTrue(registry.isClaimed(batch, i) == (i == place), "one bit");
        }
        vm.expectRevert(IRegistry.NothingClaimed.selector);
        registry.claim(claims);
        assertConserved();
    }
}
