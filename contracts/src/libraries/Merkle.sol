// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId} from "../interfaces/IRegistry.sol";

/// @title Merkle
/// @notice Proofs in the positional trees of `proofyard.protocol.merkle`: the shape of RFC 6962, hashed with
/// keccak-256, a leaf prefixed with 0x00 and a node with 0x01. An odd node at the end of a level moves up unchanged.
library Merkle {
    function leaf(bytes memory data) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(bytes1(0), data));
    }

    /// @notice The leaf of a payout: abi.encode(batch, index, operator, amount, valid, audits, cause).
    function payoutLeaf(IRegistry.Claim calldata c) internal pure returns (bytes32) {
        return keccak256(
            abi.encodePacked(
                bytes1(0),
                c.batch,
                uint256(c.index),
                uint256(OperatorId.unwrap(c.operator)),
                uint256(c.amount),
                uint256(c.valid),
                uint256(c.audits),
                c.cause
            )
        );
    }

    function node(bytes32 left, bytes32 right) internal pure returns (bytes32 result) {
        assembly ("memory-safe") {
            let end := mload(0x40)
            mstore8(end, 1)
            mstore(add(end, 0x01), left)
            mstore(add(end, 0x21), right)
            result := keccak256(end, 0x41)
        }
    }

    /// @notice Whether `proof` leads from the leaf hash at `index` of `size` leaves to `root`, without a sibling to spare.
    function verify(bytes32 root, bytes32 leafHash, uint256 index, uint256 size, bytes32[] calldata proof)
        internal
        pure
        returns (bool)
    {
        (bytes32 found, bool fits) = climb(leafHash, index, size, proof);
        return fits && found == root;
    }

    /// @notice Where `proof` leads from the leaf hash at `index` of `size` leaves, and whether it has just the siblings for it.
    function climb(bytes32 leafHash, uint256 index, uint256 size, bytes32[] calldata proof)
        internal
        pure
        returns (bytes32, bool)
    {
        if (index >= size) return (leafHash, false);
        uint256 used;
        unchecked {
            for (; size > 1; (index, size) = (index >> 1, (size + 1) >> 1)) {
                // slither-disable-next-line incorrect-exp
                if (index ^ 1 >= size) continue;
                if (used == proof.length) return (leafHash, false);
                bytes32 sibling;
                assembly ("memory-safe") {
                    sibling := calldataload(add(proof.offset, shl(5, used)))
                }
                ++used;
                leafHash = index & 1 == 1 ? node(sibling, leafHash) : node(leafHash, sibling);
            }
        }
        return (leafHash, used == proof.length);
    }
}
