// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {LibBit} from "solady/utils/LibBit.sol";

import {IRegistry, OperatorId} from "../interfaces/IRegistry.sol";
import {BLS12381} from "./BLS12381.sol";

/// @title VerifierSet
/// @notice Up to 256 verifiers with BLS keys, each in a slot, and the check of their aggregate signatures.
library VerifierSet {
    using BLS12381 for BLS12381.G1;

    struct Set {
        /// Bitmap of the occupied slots.
        uint256 active;
        /// Sum of the public keys in it.
        BLS12381.G1 sum;
        uint32[256] operatorAt;
        /// From when (Unix seconds) a vacated slot may be given to another verifier.
        uint32[256] freeFrom;
        mapping(uint256 slot => BLS12381.G1) keys;
    }

    uint256 internal constant SLOTS = 256;

    /// @notice Adds a verifier after checking its proof of possession over `digest`. Slots follow the operators' numbers,
    /// so that one is reused as late as possible: batches name their signers by slot.
    function add(Set storage self, uint32 operator, bytes calldata publicKey, bytes32 digest, bytes calldata possession)
        internal
        returns (uint8 slot)
    {
        require(publicKey.length == 128, IRegistry.BadPublicKey());
        bool possessed = BLS12381.verify(publicKey, digest, BLS12381.POSSESSION_TAG, possession);
        require(possessed, IRegistry.BadPossessionProof());
        uint256 vacant = ~self.active;
        require(vacant != 0, IRegistry.VerifierSetFull());
        uint256 cursor = (operator - 1) % SLOTS;
        uint256 later = vacant >> cursor << cursor;
        slot = uint8(LibBit.ffs(later != 0 ? later : vacant));
        bool usable = self.operatorAt[slot] == 0 || block.timestamp >= self.freeFrom[slot];
        require(usable, IRegistry.VerifierSetFull());

        BLS12381.G1 memory key = BLS12381.pack(publicKey);
        self.keys[slot] = key;
        self.operatorAt[slot] = operator;
        self.sum = self.sum.add(key);
        self.active |= 1 << slot;
        emit IRegistry.VerifierKey(OperatorId.wrap(operator), slot, publicKey);
    }

    /// @notice Removes a verifier. Its slot stays empty for `quarantine` seconds, as long as a batch that it signed can
    /// be challenged.
    function remove(Set storage self, uint256 slot, uint256 quarantine) internal {
        self.freeFrom[slot] = uint32(block.timestamp + quarantine);
        self.active &= ~(1 << slot);
        self.sum = self.sum.add(self.keys[slot].negate());
    }

    /// @notice Requires an aggregate signature over `digest` by the verifiers in `signers`, at least two thirds of all.
    function check(Set storage self, bytes32 digest, uint256 signers, bytes calldata signature) internal view {
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

    function keyAt(Set storage self, uint256 slot) internal view returns (bytes memory) {
        return self.keys[slot].unpack();
    }
}
