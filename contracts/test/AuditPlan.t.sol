// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Vm} from "./helpers/Vm.sol";

/// @notice The audit plan of `proofyard.protocol.audit`, written a second time and compared with what Python wrote into
/// tests/vectors/contracts.json. The contracts never compute a plan; a second reading of its rules keeps them exact.
contract AuditPlanTest {
    Vm private constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    /// @dev What the vector's plans go over: a batch's entries by their columns, and who may audit.
    string private json;
    string private plan;
    bytes32 private seed;
    bytes32 private leaf;
    /// @dev Who is dealt at the task at hand: places in the pool, as far as the shuffle has moved them.
    mapping(bytes32 task => mapping(uint256 place => uint256 owner)) private moved;
    address[] private pool;
    uint256 private left;
    uint256 private dealt;
    uint256 private audits;
    uint256 private skipped;

    function setUp() public {
        json = vm.readFile("../tests/vectors/contracts.json");
    }

    function test_audit_plans_are_the_same() public {
        uint256 plans;
        for (; vm.keyExistsJson(json, key(".audit_plans", plans, "")); ++plans) {
            plan = key(".audit_plans", plans, "");
            (audits, skipped) = (0, 0);
            seed = vm.parseJsonBytes32(json, field(".seed"));
            pool = vm.parseJsonAddressArray(json, field(".pool"));
            uint256 tasks = vm.parseJsonBytes32Array(json, field(".batch.leaf")).length;
            for (uint256 task = 0; task < tasks; ++task) {
                check(task);
            }
            vm.assertTrue(!vm.keyExistsJson(json, key(field(".audits"), audits, "")), "no audits more");
            vm.assertTrue(!vm.keyExistsJson(json, key(field(".skipped"), skipped, "")), "no task more is skipped");
        }
        vm.assertEq(plans, 3, "plans");
    }

    function check(uint256 task) private {
        leaf = vm.parseJsonBytes32Array(json, field(".batch.leaf"))[task];
        if (high(draw("audit"), 1e18) >= vm.parseJsonUint(json, key(field(".batch.wad"), task, ""))) {
            vm.assertEq(vm.parseJsonUint(json, key(field(".skipped"), skipped++, "")), task, "skipped");
            return;
        }
        uint256[] memory segments = drawSegments(
            vm.parseJsonUint(json, key(field(".batch.segments"), task, "")),
            vm.parseJsonUint(json, key(field(".batch.drawn"), task, ""))
        );
        address[][] memory seats = seat(segments, vm.parseJsonAddressArray(json, field(".batch.owner"))[task]);
        for (uint256 n = 0; n < segments.length; ++n) {
            uint256 next = least(segments);
            string memory audit = key(field(".audits"), audits++, "");
            vm.assertEq(vm.parseJsonUint(json, string.concat(audit, ".task")), task, "task");
            vm.assertEq(vm.parseJsonUint(json, string.concat(audit, ".segment")), segments[next], "segment");
            address[] memory expected = vm.parseJsonAddressArray(json, string.concat(audit, ".auditors"));
            vm.assertEq(keccak256(abi.encode(seats[next])), keccak256(abi.encode(expected)), "auditors");
            segments[next] = type(uint256).max;
        }
    }

    /// @notice The segments with the smallest draws, the smallest first.
    function drawSegments(uint256 segments, uint256 count) private view returns (uint256[] memory drawn) {
        drawn = new uint256[](count < segments ? count : segments);
        uint256 last;
        for (uint256 n = 0; n < drawn.length; ++n) {
            uint256 smallest = type(uint256).max;
            for (uint256 i = 0; i < segments; ++i) {
                uint256 drawing = draw(abi.encodePacked("segment", uint32(i)));
                if (drawing > last && drawing < smallest) (smallest, drawn[n]) = (drawing, i);
            }
            last = smallest;
        }
    }

    /// @notice No owner at two segments: first k for every segment, then one by turns, until the lists are full or nobody
    /// is left.
    function seat(uint256[] memory segments, address worker) private returns (address[][] memory seats) {
        (left, dealt) = (pool.length, 0);
        seats = new address[][](segments.length);
        for (uint256 n = 0; n < segments.length; ++n) {
            seats[n] = new address[](0);
        }
        uint256 turn = vm.parseJsonUint(json, field(".auditors_per_segment"));
        uint256 full = turn < 8 ? 32 : 4 * (turn + 1);
        while (left > 0 && !filled(seats, full)) {
            for (uint256 n = 0; n < segments.length; ++n) {
                for (uint256 i = 0; i < turn; ++i) {
                    (bool found, uint256 owner) = deal(segments[n], worker);
                    if (found) seats[n] = append(seats[n], nodeOf(owner));
                }
            }
            turn = 1;
        }
    }

    function filled(address[][] memory seats, uint256 full) private pure returns (bool) {
        for (uint256 n = 0; n < seats.length; ++n) {
            if (seats[n].length < full) return false;
        }
        return true;
    }

    /// @notice The place in the pool of the next owner that is not barred: one of those left, whose place the last takes.
    function deal(uint256 segment, address worker) private returns (bool found, uint256 owner) {
        address requester = vm.parseJsonAddress(json, field(".requester"));
        bytes32 task = keccak256(abi.encode(seed, leaf));
        while (left > 0) {
            uint256 spot = draw(abi.encodePacked("auditor", uint32(segment), uint32(dealt++))) % left;
            owner = standing(task, spot);
            moved[task][spot] = standing(task, --left) + 1;
            if (pool[owner] != worker && pool[owner] != requester) return (true, owner);
        }
    }

    function standing(bytes32 task, uint256 place) private view returns (uint256) {
        uint256 owner = moved[task][place];
        return owner == 0 ? place : owner - 1;
    }

    function nodeOf(uint256 owner) private view returns (address) {
        address[] memory nodes = vm.parseJsonAddressArray(json, key(field(".nodes"), owner, ""));
        return nodes[draw(abi.encodePacked("node", nodes[0])) % nodes.length];
    }

    function draw(bytes memory purpose) private view returns (uint256) {
        return uint256(keccak256(abi.encodePacked(seed, leaf, purpose)));
    }

    function least(uint256[] memory values) private pure returns (uint256 found) {
        for (uint256 i = 1; i < values.length; ++i) {
            if (values[i] < values[found]) found = i;
        }
    }

    function append(address[] memory list, address last) private pure returns (address[] memory longer) {
        longer = new address[](list.length + 1);
        for (uint256 i = 0; i < list.length; ++i) {
            longer[i] = list[i];
        }
        longer[list.length] = last;
    }

    function field(string memory name) private view returns (string memory) {
        return string.concat(plan, name);
    }

    function key(string memory table, uint256 i, string memory name) private pure returns (string memory) {
        return string.concat(table, "[", vm.toString(i), "]", name);
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
