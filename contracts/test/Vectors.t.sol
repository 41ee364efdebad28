// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, BatchId} from "../src/interfaces/IRegistry.sol";
import {BLS12381} from "../src/libraries/BLS12381.sol";
import {Dial} from "../src/libraries/Dial.sol";
import {Merkle} from "../src/libraries/Merkle.sol";
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

    function commitment(IRegistry.Commitment calldata c) external pure returns (bytes32) {
        return TypedData.commitment(c);
    }

    function settlement(IRegistry.Settlement calldata s, bytes32 root, bytes32 seed, uint8 attempt)
        external
        view
        returns (bytes32)
    {
        return TypedData.digest(TypedData.settlement(s, root, seed, attempt));
    }

    function verifierKey(address owner, address key, bytes calldata publicKey) external view returns (bytes32) {
        return TypedData.digest(TypedData.verifierKey(owner, key, publicKey));
    }

    function register(address owner, address key) external view returns (bytes32) {
        return TypedData.digest(TypedData.register(owner, key));
    }

    function receipt(bytes32 leaf, uint64 deadline) external view returns (bytes32) {
        return TypedData.digest(TypedData.receipt(leaf, deadline));
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
        IRegistry.Commitment memory c = IRegistry.Commitment({
            job: number(".commitment.job"),
            task: uint32(number(".commitment.task")),
            node: vm.parseJsonAddress(json, ".commitment.node"),
            manifest: word(".commitment.manifest"),
            inputs: word(".commitment.inputs"),
            traceRoot: word(".commitment.traceRoot"),
            segments: uint32(number(".commitment.segments")),
            result: data(".commitment.result"),
            workUnits: uint64(number(".commitment.workUnits"))
        });
        vm.assertEq(harness.commitment(c), word(".commitment.struct_hash"), "struct hash");
        vm.assertEq(harness.typed(harness.commitment(c)), word(".commitment.typed_digest"), "typed digest");
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

    function test_settlements_are_the_same() public view {
        IRegistry.Settlement memory s;
        s.batch = BatchId.wrap(number(".settlement.batch"));
        s.payoutRoot = word(".settlement.payout_root");
        s.payoutCount = 2;
        s.payoutTotal = uint96(number(".settlement.payout_total"));
        s.auditUnits = uint32(number(".settlement.audit_units"));
        s.faults = new IRegistry.Fault[](2);
        s.faults[0] = IRegistry.Fault(OperatorId.wrap(4), 1, 6, 2);
        s.faults[1] = IRegistry.Fault(OperatorId.wrap(7), 2, 0, 4);
        s.auditRoot = word(".settlement.audit_root");
        s.record = data(".settlement.record");
        bytes32 root = word(".settlement.root");
        bytes32 seed = keccak256(abi.encode(word(".settlement.block_hash"), s.batch, root));
        vm.assertEq(seed, word(".settlement.seed"), "draw seed");
        uint8 attempt = uint8(number(".settlement.attempt"));
        vm.assertEq(harness.settlement(s, root, seed, attempt), word(".settlement.digest"), "digest");
        IRegistry.Claim memory c = IRegistry.Claim(s.batch, 0, OperatorId.wrap(2), 1e20, 1, 2, new bytes32[](0));
        vm.assertEq(harness.payoutLeaf(c), word(".settlement.payout_leaf"), "payout leaf");
    }

    function test_signed_digests_are_the_same() public view {
        address owner = 0x70997970C51812dc3A010C7d01b50e0d17dc79C8;
        address node = vm.parseJsonAddress(json, ".commitment.node");
        vm.assertEq(harness.register(owner, node), word(".digests.consent"), "consent");
        bytes32 digest = harness.verifierKey(owner, node, data(".bls.key_0"));
        vm.assertEq(digest, word(".digests.possession"), "possession");
        vm.assertEq(
            harness.receipt(
                bytes32(hex"0707070707070707070707070707070707070707070707070707070707070707"), 1_800_000_000
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

    function test_the_dial_is_the_same_to_the_unit_and_within_a_billionth_of_the_reference() public view {
        uint256[][11] memory c;
        string[11] memory names = [
            "valid",
            "stake",
            "tasks",
            "reward",
            "collusion_bps",
            "segments",
            "segments_per_audit",
            "per_task",
            "reference",
            "probability",
            "drawn"
        ];
        for (uint256 i = 0; i < names.length; ++i) {
            c[i] = vm.parseJsonUintArray(json, string.concat(".dial.", names[i]));
        }
        vm.assertGe(c[0].length, 250, "rows");
        for (uint256 i = 0; i < c[0].length; ++i) {
            uint256 needed = Dial.perTask(c[1][i], c[2][i], c[3][i], c[4][i]);
            vm.assertEq(needed, c[7][i], "per task");
            vm.assertApproxEqAbs(needed, c[8][i], 1e9, "reference");
            (uint256 probability, uint256 drawn) =
                Dial.odds(c[0][i], c[1][i], c[2][i], c[3][i], c[4][i], c[5][i], c[6][i]);
            vm.assertEq(probability, c[9][i], "probability");
            vm.assertEq(drawn, c[10][i], "segments drawn");
        }
    }

    function test_weights_are_within_a_billionth() public view {
        for (uint256 i = 0; vm.keyExistsJson(json, row(".weight", i, "")); ++i) {
            uint256 weight = Dial.weight(number(row(".weight", i, ".valid")));
            vm.assertApproxEqAbs(weight, number(row(".weight", i, ".wad")), 1e9, "weight");
        }
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
