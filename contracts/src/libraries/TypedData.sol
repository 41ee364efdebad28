// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICourt} from "../interfaces/ICourt.sol";
import {IRegistry, JobId} from "../interfaces/IRegistry.sol";

/// @title TypedData
/// @notice EIP-712 digests under the Registry's domain (the Court uses the same), so that no signature of another chain,
/// Registry or purpose is worth anything here. Mirrored by `proofyard.protocol.commitment` and `.settlement`.
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
        "bytes32 traceRoot,uint32 segments,bytes result,uint64 workUnits,bytes32 mark)"
    );
    bytes32 private constant RECEIPT_TYPEHASH = keccak256("Receipt(bytes32 leaf,uint256 job,uint64 deadline)");
    bytes32 private constant SETTLEMENT_TYPEHASH = keccak256(
        "Settlement(uint256 batch,uint8 attempt,bytes32 header,bytes32 seed,bytes32 payoutRoot,uint32 payoutCount,"
        "uint96 payoutTotal,uint32 auditUnits,bytes faults,bytes shares,bytes32 auditRoot,bytes record)"
    );

    function domainSeparator() internal view returns (bytes32) {
        return keccak256(abi.encode(DOMAIN_TYPEHASH, NAME, VERSION, block.chainid, address(this)));
    }

    /// @notice Under the domain of the contract that runs this: the Registry.
    function digest(bytes32 structHash) internal view returns (bytes32) {
        return digest(domainSeparator(), structHash);
    }

    function digest(bytes32 domain, bytes32 structHash) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domain, structHash));
    }

    function register(address owner, address key) internal pure returns (bytes32) {
        return keccak256(abi.encode(REGISTER_TYPEHASH, owner, key));
    }

    function verifierKey(address owner, address key, bytes calldata publicKey) internal pure returns (bytes32) {
        return keccak256(abi.encode(VERIFIER_KEY_TYPEHASH, owner, key, keccak256(publicKey)));
    }

    function commitment(ICourt.Commitment calldata c) internal pure returns (bytes32) {
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
                c.workUnits,
                c.mark
            )
        );
    }

    /// @notice Whether `salt` opens a commitment's mark as work, and not as a decoy: see `proofyard.protocol.mark`.
    function isWork(bytes32 mark, bytes32 salt) internal pure returns (bool) {
        return sha256(abi.encodePacked(salt, bytes1(0))) == mark;
    }

    function receipt(bytes32 leaf, JobId job, uint64 deadline) internal pure returns (bytes32) {
        return keccak256(abi.encode(RECEIPT_TYPEHASH, leaf, job, deadline));
    }

    /// @notice `faults` are the bytes of abi.encode(Fault[]), `shares` those of its words, `header` is the hash.
    function settlement(IRegistry.Settlement calldata s, bytes32 header, bytes32 seed, uint8 attempt)
        internal
        pure
        returns (bytes32)
    {
        bytes memory content = abi.encode(
            s.payoutRoot,
            s.payoutCount,
            s.payoutTotal,
            s.auditUnits,
            keccak256(abi.encode(s.faults)),
            keccak256(abi.encodePacked(s.shares)),
            s.auditRoot,
            keccak256(s.record)
        );
        return keccak256(bytes.concat(abi.encode(SETTLEMENT_TYPEHASH, s.batch, attempt, header, seed), content));
    }
}
