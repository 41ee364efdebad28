// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry} from "../interfaces/IRegistry.sol";

/// @title TypedData
/// @notice EIP-712 digests under the Registry's domain, so that no signature of another chain, Registry or purpose
/// is worth anything here. Mirrored by `proofyard.protocol.commitment` and `.settlement`.
library TypedData {
    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant NAME = keccak256("Proofyard");
    bytes32 private constant VERSION = keccak256("1");

    bytes32 private constant REGISTER_TYPEHASH = keccak256("Register(address owner,address key)");
    bytes32 private constant VERIFIER_KEY_TYPEHASH =
        keccak256("VerifierKey(address owner,address key,bytes publicKey)");
    bytes32 private constant COMMITMENT_TYPEHASH = keccak256(
        "Commitment(uint256 jobId,uint32 task,address node,bytes32 manifest,bytes32 inputs,"
        "bytes32 traceRoot,uint32 segments,bytes result,uint64 workUnits)"
    );
    bytes32 private constant RECEIPT_TYPEHASH = keccak256("Receipt(bytes32 leaf,uint64 deadline)");
    bytes32 private constant SETTLEMENT_TYPEHASH = keccak256(
        "Settlement(uint256 batch,uint8 attempt,bytes32 root,bytes32 seed,bytes32 payoutRoot,uint32 payoutCount,"
        "uint96 payoutTotal,uint32 auditUnits,bytes faults,bytes32 auditRoot,bytes record)"
    );

    function domainSeparator() internal view returns (bytes32) {
        return keccak256(abi.encode(DOMAIN_TYPEHASH, NAME, VERSION, block.chainid, address(this)));
    }

    function digest(bytes32 structHash) internal view returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domainSeparator(), structHash));
    }

    function register(address owner, address key) internal pure returns (bytes32) {
        return keccak256(abi.encode(REGISTER_TYPEHASH, owner, key));
    }

    function verifierKey(address owner, address key, bytes calldata publicKey) internal pure returns (bytes32) {
        return keccak256(abi.encode(VERIFIER_KEY_TYPEHASH, owner, key, keccak256(publicKey)));
    }

    function commitment(IRegistry.Commitment calldata c) internal pure returns (bytes32) {
        return keccak256(
            abi.encode(
                COMMITMENT_TYPEHASH,
                c.job,
                c.task,
                c.node,
                c.manifest,
                c.inputs,
                c.traceRoot,
                c.segments,
                keccak256(c.result),
                c.workUnits
            )
        );
    }

    function receipt(bytes32 leaf, uint64 deadline) internal pure returns (bytes32) {
        return keccak256(abi.encode(RECEIPT_TYPEHASH, leaf, deadline));
    }

    /// @notice `faults` are the bytes of abi.encode(Fault[]).
    function settlement(IRegistry.Settlement calldata s, bytes32 root, bytes32 seed, uint8 attempt)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(
            abi.encode(
                SETTLEMENT_TYPEHASH,
                s.batch,
                attempt,
                root,
                seed,
                s.payoutRoot,
                s.payoutCount,
                s.payoutTotal,
                s.auditUnits,
                keccak256(abi.encode(s.faults)),
                s.auditRoot,
                keccak256(s.record)
            )
        );
    }
}
