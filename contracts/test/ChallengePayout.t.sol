// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, ChallengeId} from "../src/interfaces/IRegistry.sol";
import {Case} from "./helpers/Case.sol";

/// @notice A payout found wrong: the settlement is voided, and those who signed it pay.
contract ChallengePayoutTest is Case {
    function setUp() public override {
        super.setUp();
        settleHonestly();
    }

    function testFuzz_a_payout_the_jury_finds_wrong_voids_the_settlement_and_its_signers_pay(uint8 votes) public {
        bool upheld = decide(challengePayout(), votes % 8);
        vm.assertEq(registry.batch(batch).attempt, upheld ? 1 : 0, "attempt");
        vm.assertEq(registry.claimable(1, 2), upheld ? 0 : 100e18, "claimable");
        for (uint256 i = 1; i <= 3; ++i) {
            // The batch's own verifier wins two fifths of a bond that was lost.
            uint256 left = VERIFIER_STAKE + (i == 1 ? 20e18 : 0);
            vm.assertEq(registry.account(owner(i)).stake, upheld ? 0 : left, "a signer's stake");
        }
        vm.assertEq(registry.account(owner(4)).stake, VERIFIER_STAKE, "who did not sign keeps its stake");
        vm.assertEq(registry.activeVerifiers(), upheld ? 8 : 15, "seats");
        vm.assertEq(registry.account(CHALLENGER).stake, upheld ? 50e18 + 1200e18 : 0, "the challenger's");
        vm.assertEq(registry.totals().escrow, upheld ? 1100e18 + 300e18 : 1000e18 + 5e18, "the requester's share");
        vm.assertEq(registry.totals().bonds, 0, "nothing is left in bonds");
    }

    function test_other_challenges_of_a_voided_settlement_are_dismissed_with_their_bonds() public {
        ChallengeId payout = challengePayout();
        ChallengeId segment = challengeSegment();
        round(segment, 7, 0);
        vm.prank(owner(10));
        registry.appeal(segment);
        vm.assertTrue(decide(payout, 7), "voided");
        uint256 stake = registry.account(CHALLENGER).stake;
        uint256 appellant = registry.account(owner(10)).stake;
        registry.resolve(segment);
        vm.assertTrue(registry.challenge(segment).phase == IRegistry.Phase.Dismissed, "dismissed");
        vm.assertEq(registry.account(CHALLENGER).stake - stake, 50e18, "the bond is back");
        vm.assertEq(registry.account(owner(10)).stake - appellant, 150e18, "the appellant's too");
        vm.assertEq(registry.totals().bonds, 0, "nothing is left in bonds");
        assertConserved();
    }

    function test_a_verdict_about_a_voided_settlement_punishes_nobody() public {
        ChallengeId payout = challengePayout();
        ChallengeId segment = challengeSegment();
        round(segment, 7, 0);
        vm.assertTrue(decide(payout, 7), "voided");
        uint256 stake = registry.account(owner(10)).stake;
        registry.resolve(segment);
        vm.assertTrue(registry.challenge(segment).phase == IRegistry.Phase.Dismissed, "dismissed");
        vm.assertEq(registry.account(owner(10)).stake, stake, "the worker keeps its stake");
        assertConserved();
    }
}
