// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {OperatorId} from "../src/interfaces/IRegistry.sol";
import {Dial} from "../src/libraries/Dial.sol";
import {Base} from "./helpers/Base.sol";

/// @notice How often work is audited.
contract DialTest is Base {
    OperatorId private node;

    function setUp() public override {
        super.setUp();
        node = addNode(10);
    }

    function testFuzz_the_dial_stays_within_its_bounds(uint32 tasks, uint96 reward, uint32 segments, uint8 asked)
        public
        view
    {
        (uint256 n, uint256 m) = (uint256(segments) + 1, uint256(asked) + 1);
        (uint256 probability, uint256 drawn) = lens.auditProbability(node, tasks, reward, n, m);
        vm.assertEq(probability, 1e18, "a new node is always audited");
        vm.assertGe(drawn, m < n ? m : n, "on as many segments as the job asks for");
        vm.assertLe(drawn, n, "and on no more than there are");
    }

    function test_the_lens_reckons_with_the_stake_that_is_sure_to_be_lost() public view {
        (, uint256 drawn) = lens.auditProbability(node, 1, 50e18, 64, 1);
        (, uint256 expected) = Dial.odds(0, 45e18, 1, 50e18, 1000, 64, 1);
        vm.assertEq(drawn, expected, "45 of 100");
    }

    /// @dev Expected loss against gain, for one faked segment in each of up to four tasks: the power written out.
    function testFuzz_one_faked_segment_of_each_task_never_pays(
        uint96 stake,
        uint96 reward,
        uint8 tasks,
        uint16 segments,
        uint8 asked
    ) public pure {
        (uint256 t, uint256 n) = (uint256(tasks) % 4 + 1, uint256(segments) % 512 + 1);
        (uint256 s, uint256 r) = (uint256(stake) % 1e28, uint256(reward) % 1e28 + 1);
        (uint256 probability, uint256 drawn) = Dial.odds(5000, s, t, r, 1000, n, uint256(asked) + 1);
        if (r * 10_000 >= 9000 * (s + r)) {
            vm.assertEq(probability, 1e18, "too much for the stake: always audited");
            vm.assertEq(drawn, n, "and whole");
            return;
        }
        uint256 missed = 1e18 - probability * drawn / n;
        uint256 allMissed = 1e18;
        for (uint256 i = 0; i < t; ++i) {
            allMissed = allMissed * missed / 1e18;
        }
        // Roundings down above: a few units.
        vm.assertGe((1e18 - allMissed + 8) * (s + r) * 9, r * 1e18 * 10, "loses");
    }
}
