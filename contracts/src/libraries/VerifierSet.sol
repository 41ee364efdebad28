// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {LibBit} from "solady/utils/LibBit.sol";

import {IRegistry, OperatorId} from "../interfaces/IRegistry.sol";
import {BLS12381} from "./BLS12381.sol";

/// @title VerifierSet
/// @notice Up to 256 verifiers with BLS keys, each in a slot, and the check of their aggregate signatures. A linked
/// library: it runs in the Registry's storage and keeps the Registry within the size limit of a contract.
library VerifierSet {
    using BLS12381 for BLS12381.G1;

    struct Set {
        /// Bitmap of the occupied slots.
        uint256 active;
        /// Sum of the public keys in it.
        BLS12381.G1 sum;
        uint256 added;
        mapping(uint256 slot => uint32 operator) operatorAt;
        mapping(uint256 slot => BLS12381.G1) keys;
    }

    uint256 internal constant SLOTS = 256;

    /// @notice Adds a verifier after checking its proof of possession over `digest`. Slots are handed out in turn, so
    /// that one is reused as late as possible: batches name their signers by slot.
    function add(Set storage self, uint32 operator, bytes calldata publicKey, bytes32 digest, bytes calldata possession)
        external
        returns (uint8 slot)
    {
        require(publicKey.length == 128, IRegistry.BadPublicKey());
        bool possessed = BLS12381.verify(publicKey, digest, BLS12381.POSSESSION_TAG, possession);
        require(possessed, IRegistry.BadPossessionProof());
        uint256 free = ~self.active;
        require(free != 0, IRegistry.VerifierSetFull());
        uint256 cursor = self.added++ % SLOTS;
        uint256 later = free >> cursor << cursor;
        slot = uint8(LibBit.ffs(later != 0 ? later : free));

        BLS12381.G1 memory key = BLS12381.pack(publicKey);
        self.keys[slot] = key;
        self.operatorAt[slot] = operator;
        self.sum = self.sum.add(key);
        self.active |= 1 << slot;
        emit IRegistry.VerifierKey(OperatorId.wrap(operator), slot, publicKey);
    }

    function remove(Set storage self, uint256 slot) external {
        self.active &= ~(1 << slot);
        self.sum = self.sum.add(self.keys[slot].negate());
    }

    /// @notice Requires an aggregate signature over `digest` by the verifiers in `signers`, at least two thirds of all.
    function check(Set storage self, bytes32 digest, uint256 signers, bytes calldata signature) external view {
        uint256 active = self.active;
        uint256 signed = LibBit.popCount(signers);
        uint256 all = LibBit.popCount(active);
        require(signers & ~active == 0, IRegistry.UnknownSigner(signers, active));
        require(signed > 0 && signed * 3 >= all * 2, IRegistry.NoQuorum(signed, all));
        // The absent keys, a third at most, are taken out of the sum of all.
        BLS12381.G1 memory key = self.sum;
        for (uint256 absent = active & ~signers; absent != 0; absent &= absent - 1) {
            key = key.add(self.keys[LibBit.ffs(absent)].negate());
        }
        bool valid = BLS12381.verify(key.unpack(), digest, BLS12381.SIGNATURE_TAG, signature);
        require(valid, IRegistry.BadSignature());
    }

    function publicKey(Set storage self, uint256 slot) external view returns (bytes memory) {
        return self.keys[slot].unpack();
    }
}
