// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

import {ICourt} from "../interfaces/ICourt.sol";
import {IRegistry, OperatorId, JobId, BatchId} from "../interfaces/IRegistry.sol";
import {Headers} from "./Headers.sol";
import {Lines} from "./Lines.sol";
import {Merkle} from "./Merkle.sol";
import {TypedData} from "./TypedData.sol";

/// @title Evidence
/// @notice What wallets signed (EIP-712, under the Registry's domain), and what trees hold. A linked library of the
/// Court.
library Evidence {
    /// @dev Bytes of a CIDv1 of a sha2-256 digest, which are its last 32.
    uint256 private constant CID_LENGTH = 36;

    /// @notice Requires that the batch whose header's hash is `stored` holds a step of its worker's, of work and not of a
    /// decoy; who that is, and the digest that its CID names: 0 for what is no such CID, to which no execution leads.
    function checkStep(
        IRegistry registry,
        BatchId batch,
        bytes32 stored,
        IRegistry.Header calldata header,
        ICourt.Step calldata step
    ) external view returns (uint32 worker, bytes32 claimed) {
        ICourt.Commitment calldata c = step.commitment;
        bytes32 structHash = TypedData.commitment(c);
        bool held = _holds(stored, header, c.job, structHash, step.index, step.proof);
        require(held, ICourt.BadCommitmentProof(batch, step.index));
        require(TypedData.isWork(c.mark, step.salt), ICourt.NotWork(batch, step.index));
        require(step.segment < c.segments, ICourt.NoSuchSegment(step.segment, c.segments));
        uint256 size = uint256(c.segments) + 1;
        held = Merkle.verify(c.traceRoot, Merkle.leaf(step.afterCid), uint256(step.segment) + 1, size, step.traceProof);
        require(held, ICourt.BadCommitmentProof(batch, step.index));
        address key;
        (worker, key) = _signer(registry, structHash, step.signature, IRegistry.Role.Node);
        // A key that it has had since is none of this commitment's.
        require(worker != 0 && key == c.node, IRegistry.BadConsent(c.node, key));
        claimed = step.afterCid.length == CID_LENGTH ? bytes32(step.afterCid[CID_LENGTH - 32:]) : bytes32(0);
    }

    /// @notice Requires that a header is the one whose hash is `stored`.
    function checkHeader(BatchId batch, bytes32 stored, IRegistry.Header calldata header) external pure {
        require(Headers.stored(header) == stored, IRegistry.BadHeader(batch));
    }

    /// @notice Whether the batch whose header's hash is `stored` holds a commitment's struct hash, and a line of its job.
    function holds(
        bytes32 stored,
        IRegistry.Header calldata header,
        uint256 job,
        bytes32 structHash,
        uint256 index,
        bytes32[] calldata proof
    ) external pure returns (bool) {
        return _holds(stored, header, job, structHash, index, proof);
    }

    /// @notice The verifier that signed a receipt, and the receipt's struct hash.
    function receipt(IRegistry registry, bytes32 leaf, JobId job, uint64 deadline, bytes calldata signature)
        external
        view
        returns (uint32 verifier, bytes32 structHash)
    {
        structHash = TypedData.receipt(leaf, job, deadline);
        address key;
        (verifier, key) = _signer(registry, structHash, signature, IRegistry.Role.Verifier);
        require(verifier != 0, IRegistry.NotVerifier(key));
    }

    function _holds(
        bytes32 stored,
        IRegistry.Header calldata header,
        uint256 job,
        bytes32 structHash,
        uint256 index,
        bytes32[] calldata proof
    ) private pure returns (bool) {
        if (Headers.stored(header) != stored) return false;
        bytes32 leaf = Merkle.leaf(abi.encode(structHash));
        if (!Merkle.verify(header.root, leaf, index, header.size, proof)) return false;
        for (uint256 i = 0; i < header.lines.length; ++i) {
            if (Lines.job(header.lines[i]) == job) return true;
        }
        return false;
    }

    /// @dev Which key signed, and which operator's it is or was; 0 if that has another role.
    function _signer(IRegistry registry, bytes32 structHash, bytes calldata signature, IRegistry.Role role)
        private
        view
        returns (uint32 operator, address key)
    {
        bytes32 digest = TypedData.digest(registry.domainSeparator(), structHash);
        // slither-disable-next-line unused-return
        (key,,) = ECDSA.tryRecover(digest, signature);
        OperatorId id = registry.operatorOf(key);
        if (OperatorId.unwrap(id) == 0 || registry.operatorState(id).role != role) return (0, key);
        return (OperatorId.unwrap(id), key);
    }
}
