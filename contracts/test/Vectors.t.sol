// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICourt} from "../src/interfaces/ICourt.sol";
import {IRegistry, OperatorId, JobId, BatchId} from "../src/interfaces/IRegistry.sol";
import {BLS12381} from "../src/libraries/BLS12381.sol";
import {Dial} from "../src/libraries/Dial.sol";
import {Causes} from "../src/libraries/Causes.sol";
import {Headers} from "../src/libraries/Headers.sol";
import {Lines} from "../src/libraries/Lines.sol";
import {Merkle} from "../src/libraries/Merkle.sol";
import {Stakes} from "../src/libraries/State.sol";
import {TypedData} from "../src/libraries/TypedData.sol";
import {Vm} from "./helpers/Vm.sol";

/// @notice The libraries at the address that the vectors' domain names.
contract Harness {
    function typed(bytes32 structHash) external view returns (bytes32) {
        return TypedData.digest(structHash);
    }

    function separator() external view returns (bytes32) {
        return TypedData.domainSeparator();
    }

    function commitment(ICourt.Commitment calldata c) external pure returns (bytes32) {
        return TypedData.commitment(c);
    }

    function settlement(IRegistry.Settlement calldata s, bytes32 header, bytes32 seed, uint8 attempt)
        external
        view
        returns (bytes32)
    {
        return TypedData.digest(TypedData.settlement(s, header, seed, attempt));
    }

    function verifierKey(address owner, address key, bytes calldata publicKey) external view returns (bytes32) {
        return TypedData.digest(TypedData.verifierKey(owner, key, publicKey));
    }

    function register(address owner, address key) external view returns (bytes32) {
        return TypedData.digest(TypedData.register(owner, key));
    }

    function receipt(bytes32 leaf, JobId job, uint64 deadline) external view returns (bytes32) {
        return TypedData.digest(TypedData.receipt(leaf, job, deadline));
    }

    function payoutLeaf(IRegistry.Claim calldata c) external pure returns (bytes32) {
        return Merkle.payoutLeaf(c);
    }

    function verify(bytes32 root, bytes32 leaf, uint256 index, uint256 size, bytes32[] calldata proof)
        external
        pure
        returns (bool)
    {
        return Merkle.verify(root, leaf, index, size, proof);
    }
}

/// @notice What Python wrote into tests/vectors/contracts.json, computed again here.
contract VectorsTest {
    Vm private constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    string private json;
    Harness private harness;

    function setUp() public {
        json = vm.readFile("../tests/vectors/contracts.json");
        vm.chainId(number(".domain.chain_id"));
        harness = Harness(vm.parseJsonAddress(json, ".domain.registry"));
        vm.etch(address(harness), type(Harness).runtimeCode);
    }

    function test_the_domain_is_the_same() public view {
        vm.assertEq(harness.separator(), word(".domain.separator"), "separator");
    }

    function test_commitments_are_the_same() public view {
        ICourt.Commitment memory c = ICourt.Commitment({
            job: number(".commitment.job"),
            task: uint32(number(".commitment.task")),
            node: vm.parseJsonAddress(json, ".commitment.node"),
            manifest: word(".commitment.manifest"),
            inputs: word(".commitment.inputs"),
            traceRoot: word(".commitment.traceRoot"),
            segments: uint32(number(".commitment.segments")),
            result: data(".commitment.result"),
            workUnits: uint64(number(".commitment.workUnits")),
            mark: word(".commitment.mark")
        });
        vm.assertEq(harness.commitment(c), word(".commitment.struct_hash"), "struct hash");
        vm.assertEq(harness.typed(harness.commitment(c)), word(".commitment.typed_digest"), "typed digest");
    }

    function test_marks_are_the_same() public view {
        bytes32 salt = word(".marks.salt");
        vm.assertTrue(TypedData.isWork(word(".marks.work"), salt), "work");
        vm.assertTrue(!TypedData.isWork(word(".marks.decoy"), salt), "a decoy");
        vm.assertTrue(!TypedData.isWork(word(".marks.work"), 0), "another salt");
    }

    function test_merkle_proofs_are_the_same() public view {
        for (uint256 i = 0; vm.keyExistsJson(json, row(".merkle", i, "")); ++i) {
            uint256 size = number(row(".merkle", i, ".size"));
            uint256 index = number(row(".merkle", i, ".index"));
            bytes32 root = word(row(".merkle", i, ".root"));
            bytes32[] memory proof = vm.parseJsonBytes32Array(json, row(".merkle", i, ".proof"));
            bytes32 leaf = Merkle.leaf(abi.encode(index));
            vm.assertTrue(harness.verify(root, leaf, index, size, proof), "proof");
            vm.assertTrue(!harness.verify(root, leaf, index + 1, size, proof), "another position");
        }
    }

    function test_headers_are_the_same() public view {
        for (uint256 i = 0; i < 3; ++i) {
            IRegistry.Header memory h = header(i);
            vm.assertEq(Headers.committed(h), word(row(".headers", i, ".hash")), "what is signed");
            vm.assertEq(Headers.stored(h), word(row(".headers", i, ".stored")), "what is stored");
            vm.assertEq(Headers.bound(h, Headers.committed(h)), word(row(".headers", i, ".bound")), "what claims show");
        }
    }

    function test_settlements_are_the_same() public view {
        IRegistry.Settlement memory s;
        s.batch = BatchId.wrap(number(".settlement.batch"));
        s.payoutRoot = word(".settlement.payout_root");
        s.payoutCount = 3;
        s.payoutTotal = uint96(number(".settlement.payout_total"));
        s.auditUnits = uint32(number(".settlement.audit_units"));
        s.faults = faults();
        s.shares = shares();
        s.auditRoot = word(".settlement.audit_root");
        s.record = data(".settlement.record");
        vm.assertEq(abi.encode(s.faults), data(".settlement.faults_encoded"), "faults");
        vm.assertEq(abi.encodePacked(s.shares), data(".settlement.shares_encoded"), "shares");
        bytes32 hash = word(row(".headers", 1, ".hash"));
        vm.assertEq(hash, word(".settlement.header"), "header");
        bytes32 seed = keccak256(abi.encode(word(".settlement.block_hash"), s.batch, hash));
        vm.assertEq(seed, word(".settlement.seed"), "draw seed");
        uint8 attempt = uint8(number(".settlement.attempt"));
        vm.assertEq(harness.settlement(s, hash, seed, attempt), word(".settlement.digest"), "digest");
        IRegistry.Claim memory c = IRegistry.Claim(s.batch, 0, OperatorId.wrap(2), 1e20, 1, 2, 0, 0, new bytes32[](0));
        vm.assertEq(harness.payoutLeaf(c), word(".settlement.payout_leaf"), "payout leaf");
        (c.index, c.operator, c.amount, c.valid, c.audits) = (2, OperatorId.wrap(9), 1e19, 0, 0);
        c.cause = Causes.pack(4, 1, 2, 1e20);
        vm.assertEq(harness.payoutLeaf(c), word(".settlement.redress_leaf"), "leaf of what a fault pays");
        IRegistry.Settlement memory empty;
        (empty.batch, empty.shares) = (s.batch, new uint256[](2));
        empty.record = data(".empty_settlement.record");
        vm.assertEq(harness.settlement(empty, hash, seed, 0), word(".empty_settlement.digest"), "that pays nobody");
    }

    function test_signed_digests_are_the_same() public view {
        address owner = 0x70997970C51812dc3A010C7d01b50e0d17dc79C8;
        address node = vm.parseJsonAddress(json, ".commitment.node");
        vm.assertEq(harness.register(owner, node), word(".digests.consent"), "consent");
        bytes32 digest = harness.verifierKey(owner, node, data(".bls.key_0"));
        vm.assertEq(digest, word(".digests.possession"), "possession");
        vm.assertEq(
            harness.receipt(
                bytes32(hex"0707070707070707070707070707070707070707070707070707070707070707"),
                JobId.wrap(7),
                1_800_000_000
            ),
            word(".digests.receipt"),
            "receipt"
        );
    }

    function test_bls_signatures_of_python_are_valid() public view {
        bytes memory key0 = data(".bls.key_0");
        bytes memory key1 = data(".bls.key_1");
        bytes memory both = BLS12381.unpack(BLS12381.add(BLS12381.pack(key0), BLS12381.pack(key1)));
        bytes32 message = word(".bls.message");
        bytes memory signature = data(".bls.signature");
        bytes memory tag = BLS12381.SIGNATURE_TAG;
        vm.assertTrue(BLS12381.verify(both, message, tag, signature), "aggregate");
        vm.assertTrue(!BLS12381.verify(key0, message, tag, signature), "one of two");
        bytes memory less = BLS12381.unpack(BLS12381.add(BLS12381.pack(both), BLS12381.negate(BLS12381.pack(key1))));
        vm.assertEq(less, key0, "a key taken out of the sum");
        bytes memory proof = data(".bls.possession_0");
        vm.assertTrue(BLS12381.verify(key0, message, BLS12381.POSSESSION_TAG, proof), "possession");
        vm.assertTrue(!BLS12381.verify(key0, message, tag, proof), "a proof is no signature");
    }

    function test_the_dial_is_the_same_to_the_unit() public view {
        uint256[][12] memory c;
        string[12] memory names = [
            "valid",
            "stake",
            "tasks",
            "reward",
            "collusion_bps",
            "segments",
            "segments_per_audit",
            "given_back_bps",
            "at_risk",
            "per_task",
            "probability",
            "drawn"
        ];
        for (uint256 i = 0; i < names.length; ++i) {
            c[i] = numbers(string.concat(".dial.", names[i]));
        }
        vm.assertGe(c[0].length, 250, "rows");
        for (uint256 i = 0; i < c[0].length; ++i) {
            uint256 stake = Dial.atRisk(c[1][i], c[7][i]);
            vm.assertEq(stake, c[8][i], "stake at risk");
            vm.assertEq(Dial.perTask(stake, c[2][i], c[3][i], c[4][i]), c[9][i], "per task");
            (uint256 probability, uint256 drawn) =
                Dial.odds(c[0][i], stake, c[2][i], c[3][i], c[4][i], c[5][i], c[6][i]);
            vm.assertEq(probability, c[10][i], "probability");
            vm.assertEq(drawn, c[11][i], "segments drawn");
        }
    }

    function test_what_batches_hold_open_is_the_same_to_the_unit() public view {
        uint256[] memory budgets = numbers(".exposure.budget");
        uint256[] memory stakes = numbers(".exposure.verifier_stake");
        uint256[] memory expected = numbers(".exposure.exposure");
        vm.assertGe(budgets.length, 40, "rows");
        for (uint256 i = 0; i < budgets.length; ++i) {
            vm.assertEq(Stakes.exposureOf(budgets[i], stakes[i]), expected[i], "exposure");
        }
    }

    // ------------------------------------------------------------------------------------------------ reading

    function header(uint256 i) private view returns (IRegistry.Header memory h) {
        h.root = word(row(".headers", i, ".root"));
        h.size = uint32(number(row(".headers", i, ".size")));
        h.members = word(row(".headers", i, ".members"));
        h.seed = word(row(".headers", i, ".seed"));
        h.payoutRoot = word(row(".headers", i, ".payout_root"));
        uint256[] memory jobs = numbers(row(".headers", i, ".lines.job"));
        uint256[] memory units = numbers(row(".headers", i, ".lines.units"));
        uint256[] memory budget = numbers(row(".headers", i, ".lines.budget"));
        uint256[] memory paid = numbers(row(".headers", i, ".lines.paid_units"));
        uint256[] memory amount = numbers(row(".headers", i, ".lines.amount"));
        h.lines = new uint256[](jobs.length);
        if (h.seed != 0 || h.payoutRoot != 0) h.paid = new uint256[](jobs.length);
        for (uint256 n = 0; n < jobs.length; ++n) {
            h.lines[n] = Lines.pack(uint64(jobs[n]), uint48(units[n]), uint96(budget[n]));
            if (h.paid.length > 0) h.paid[n] = Lines.packPaid(uint48(paid[n]), uint96(amount[n]), 0);
        }
    }

    function faults() private view returns (IRegistry.Fault[] memory list) {
        uint256[] memory operator = numbers(".settlement.faults.operator");
        uint256[] memory job = numbers(".settlement.faults.job");
        uint256[] memory task = numbers(".settlement.faults.task");
        uint256[] memory segment = numbers(".settlement.faults.segment");
        uint256[] memory reason = numbers(".settlement.faults.reason");
        list = new IRegistry.Fault[](operator.length);
        for (uint256 i = 0; i < list.length; ++i) {
            uint256[] memory ids = numbers(row(".settlement.faults.accusers", i, ""));
            uint32[] memory accusers = new uint32[](ids.length);
            for (uint256 n = 0; n < ids.length; ++n) {
                accusers[n] = uint32(ids[n]);
            }
            list[i] = IRegistry.Fault(
                OperatorId.wrap(uint32(operator[i])),
                uint64(job[i]),
                uint32(task[i]),
                uint32(segment[i]),
                uint8(reason[i]),
                accusers
            );
        }
    }

    function shares() private view returns (uint256[] memory list) {
        uint256[] memory units = numbers(".settlement.shares.paid_units");
        uint256[] memory amount = numbers(".settlement.shares.amount");
        uint256[] memory redress = numbers(".settlement.shares.redress");
        list = new uint256[](units.length);
        for (uint256 i = 0; i < list.length; ++i) {
            list[i] = Lines.packPaid(uint48(units[i]), uint96(amount[i]), uint96(redress[i]));
        }
    }

    function numbers(string memory key) private view returns (uint256[] memory) {
        return vm.parseJsonUintArray(json, key);
    }

    function number(string memory key) private view returns (uint256) {
        return vm.parseJsonUint(json, key);
    }

    function word(string memory key) private view returns (bytes32) {
        return vm.parseJsonBytes32(json, key);
    }

    function data(string memory key) private view returns (bytes memory) {
        return vm.parseJsonBytes(json, key);
    }

    function row(string memory table, uint256 i, string memory key) private pure returns (string memory) {
        return string.concat(table, "[", vm.toString(i), "]", key);
    }
}
