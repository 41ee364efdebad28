// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Vm} from "./helpers/Vm.sol";

/// @notice The audit plan of `proofyard.protocol.audit`, written a second time and compared with what Python wrote into
/// tests/vectors/contracts.json. The contracts never compute a plan; a second reading of its rules keeps them exact.
contract AuditPlanTest {
    Vm private constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    /// @dev The vector's batch: six nodes of three owners, each with a task of eight segments, audited with probability 1/2.
    uint256 private constant NODES = 6;
    uint256 private constant SEGMENTS = 8;
    uint256 private constant PROBABILITY = 0.5e18;
    uint256 private constant SEATS = 2;
    string private json;
    bytes32 private seed;
    uint256 private audits;
    uint256 private skipped;

    function setUp() public {
        json = vm.readFile("../tests/vectors/contracts.json");
        seed = vm.parseJsonBytes32(json, ".audit_plan.seed");
    }

    function test_audit_plans_are_the_same() public {
        for (uint256 task = 0; task < NODES; ++task) {
            bytes32 leaf = bytes32(task * (type(uint256).max / 0xff));
            if (high(draw(leaf, "audit"), 1e18) >= PROBABILITY) {
                string memory key = string.concat(".audit_plan.skipped[", vm.toString(skipped++), "]");
                vm.assertEq(vm.parseJsonUint(json, key), task, "skipped");
                continue;
            }
            uint256[] memory segments = drawSegments(leaf);
            compare(task, leaf, segments[0], ownerOf(task), 0, 0);
            bool next = segments[1] == segments[0] + 1;
            address[] memory before = auditors(leaf, segments[0], ownerOf(task), 0, 0);
            uint256 first = next && before.length > 0 ? ownerOf(uint160(before[0]) - 1) : 0;
            uint256 second = next && before.length > 1 ? ownerOf(uint160(before[1]) - 1) : 0;
            compare(task, leaf, segments[1], ownerOf(task), first, second);
        }
        vm.assertTrue(!vm.keyExistsJson(json, entry("")), "no audits more");
    }

    function compare(uint256 task, bytes32 leaf, uint256 segment, uint256 a, uint256 b, uint256 c) private {
        vm.assertEq(vm.parseJsonUint(json, entry(".task")), task, "task");
        vm.assertEq(vm.parseJsonUint(json, entry(".segment")), segment, "segment");
        address[] memory expected = vm.parseJsonAddressArray(json, entry(".auditors"));
        vm.assertEq(
            keccak256(abi.encode(auditors(leaf, segment, a, b, c))), keccak256(abi.encode(expected)), "auditors"
        );
        ++audits;
    }

    function entry(string memory key) private view returns (string memory) {
        return string.concat(".audit_plan.audits[", vm.toString(audits), "]", key);
    }

    /// @dev Node i has the address i + 1; two neighbours share an owner, which has the address of one of the first three.
    function ownerOf(uint256 node) private pure returns (uint256) {
        return node / 2 + 1;
    }

    function draw(bytes32 leaf, bytes memory purpose) private view returns (uint256) {
        return uint256(keccak256(abi.encodePacked(seed, leaf, purpose)));
    }

    function rank(bytes32 leaf, uint256 segment, uint256 who) private view returns (uint256) {
        return draw(leaf, abi.encodePacked("auditor", uint32(segment), address(uint160(who))));
    }

    /// @notice The two segments with the smallest draws, ascending.
    function drawSegments(bytes32 leaf) private view returns (uint256[] memory two) {
        two = new uint256[](SEATS);
        uint256 taken = SEGMENTS;
        for (uint256 n = 0; n < SEATS; ++n) {
            uint256 least = type(uint256).max;
            for (uint256 i = 0; i < SEGMENTS; ++i) {
                uint256 drawn = draw(leaf, abi.encodePacked("segment", uint32(i)));
                if (i != taken && drawn < least) (least, two[n]) = (drawn, i);
            }
            taken = two[n];
        }
        if (two[0] > two[1]) (two[0], two[1]) = (two[1], two[0]);
    }

    /// @notice One node of each owner but three, owners and nodes in the order of their draws.
    function auditors(bytes32 leaf, uint256 segment, uint256 a, uint256 b, uint256 c)
        private
        view
        returns (address[] memory found)
    {
        found = new address[](NODES / 2);
        uint256 count;
        uint256 last;
        for (uint256 place = 0; place < NODES / 2; ++place) {
            uint256 owner = nextOwner(leaf, segment, last);
            last = rank(leaf, segment, owner);
            if (owner == a || owner == b || owner == c) continue;
            uint256 node = 2 * owner - 1;
            if (rank(leaf, segment, node + 1) < rank(leaf, segment, node)) ++node;
            found[count++] = address(uint160(node));
        }
        assembly ("memory-safe") {
            mstore(found, count)
        }
    }

    /// @dev The owner with the smallest draw above `last`.
    function nextOwner(bytes32 leaf, uint256 segment, uint256 last) private view returns (uint256 owner) {
        uint256 least = type(uint256).max;
        for (uint256 i = 1; i <= NODES / 2; ++i) {
            uint256 drawn = rank(leaf, segment, i);
            if (drawn > last && drawn < least) (least, owner) = (drawn, i);
        }
    }

    /// @notice The upper 256 bits of a product.
    function high(uint256 a, uint256 b) private pure returns (uint256 result) {
        assembly ("memory-safe") {
            let low := mul(a, b)
            let mm := mulmod(a, b, not(0))
            result := sub(sub(mm, low), lt(mm, low))
        }
    }
}
