// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId} from "../src/interfaces/IRegistry.sol";
import {Base} from "./helpers/Base.sol";

/// @notice The benches that juries are drawn from: places never move.
contract BenchTest is Base {
    function entry(uint8 workload, uint256 index) private view returns (IRegistry.BenchEntry memory) {
        return registry.benchAt(workload, index);
    }

    function retire(OperatorId id, uint256 i) private {
        vm.prank(owner(i));
        registry.retire(id);
    }

    function test_an_owner_has_one_place_on_each_bench_that_its_nodes_offer() public {
        fund(owner(1), 1000 * CREDIT);
        listNode(1, 1, NODE_STAKE, 5);
        listNode(1, 2, NODE_STAKE, 4);
        addNode(3);
        vm.assertEq(registry.benchLength(0), 2, "two owners");
        vm.assertEq(registry.benchLength(1), 0, "nobody");
        vm.assertEq(registry.benchLength(2), 1, "one owner with two nodes");
        vm.assertTrue(entry(2, 0).owner == owner(1), "who");
        vm.assertEq(entry(2, 0).since, vm.getBlockTimestamp(), "since");
    }

    function test_an_owner_leaves_with_the_last_node_that_offers_it_and_others_stay_where_they_are() public {
        fund(owner(1), 1000 * CREDIT);
        OperatorId one = listNode(1, 1, NODE_STAKE, 1);
        OperatorId two = listNode(1, 2, NODE_STAKE, 3);
        addNode(3);
        retire(one, 1);
        vm.assertEq(entry(0, 0).until, 0, "the other node offers it");
        later(5);
        retire(two, 1);
        vm.assertEq(entry(0, 0).until, vm.getBlockTimestamp(), "left");
        vm.assertEq(entry(1, 0).until, vm.getBlockTimestamp(), "there too");
        vm.assertTrue(entry(0, 1).owner == owner(3), "not moved");
    }

    function testFuzz_whoever_left_comes_back_late(uint40 wait) public {
        wait = wait % (2 * UNSTAKE_DELAY);
        OperatorId id = addNode(1);
        retire(id, 1);
        later(wait);
        listNode(1, 1, 0, 1);
        bool back = wait >= UNSTAKE_DELAY;
        vm.assertEq(entry(0, 0).until == 0 ? 1 : 0, back ? 1 : 0, "on the bench");
        later(UNSTAKE_DELAY);
        vm.prank(vm.addr(1001));
        registry.joinBench(3);
        vm.assertEq(entry(0, 0).until, 0, "at the latest now");
        vm.assertEq(registry.benchLength(0), 1, "in a place that was free");
        vm.assertEq(registry.benchLength(1), 0, "not where it has no node");
    }

    function test_nobody_joins_twice_or_without_a_node() public {
        addNode(1);
        vm.prank(owner(1));
        registry.joinBench(type(uint64).max);
        vm.prank(owner(2));
        registry.joinBench(type(uint64).max);
        vm.assertEq(registry.benchLength(0), 1, "one place");
        vm.assertEq(registry.benchLength(63), 0, "none");
    }

    /// @dev Owners that come and go: a place is reused only when nobody's challenge can look back to who had it.
    /// forge-config: default.fuzz.runs = 2000
    function testFuzz_a_place_is_reused_late_and_never_moved(uint256 dice) public {
        for (uint256 i = 0; i < 6; ++i) {
            fund(owner(i), 1000 * CREDIT);
        }
        bool[6] memory there;
        for (uint256 step = 0; step < 40; ++step) {
            dice = uint256(keccak256(abi.encode(dice)));
            uint256 i = dice % 6;
            later(dice >> 8 & 0x1ffff);
            IRegistry.BenchEntry[] memory before = bench();
            if (there[i]) retire(registry.operatorOf(vm.addr(1000 + i)), i);
            else listNode(i, i, NODE_STAKE, 1);
            there[i] = !there[i];
            check(before);
        }
        vm.assertLe(registry.benchLength(0), 24, "it does not grow with every return");
    }

    function bench() private view returns (IRegistry.BenchEntry[] memory entries) {
        entries = new IRegistry.BenchEntry[](registry.benchLength(0));
        for (uint256 i = 0; i < entries.length; ++i) {
            entries[i] = entry(0, i);
        }
    }

    function check(IRegistry.BenchEntry[] memory before) private view {
        for (uint256 i = 0; i < before.length; ++i) {
            IRegistry.BenchEntry memory now_ = entry(0, i);
            if (now_.owner == before[i].owner && now_.since == before[i].since) continue;
            vm.assertTrue(before[i].until != 0, "nobody was displaced");
            vm.assertGe(vm.getBlockTimestamp(), before[i].until + UNSTAKE_DELAY, "not before the quarantine is over");
        }
        for (uint256 i = 0; i < registry.benchLength(0); ++i) {
            for (uint256 n = 0; n < i; ++n) {
                bool both = entry(0, i).until == 0 && entry(0, n).until == 0;
                vm.assertTrue(!both || entry(0, i).owner != entry(0, n).owner, "one place each");
            }
        }
    }
}
