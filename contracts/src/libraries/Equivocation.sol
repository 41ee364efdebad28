// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICourt} from "../interfaces/ICourt.sol";
import {IRegistry, BatchId} from "../interfaces/IRegistry.sol";
import {BLS12381} from "./BLS12381.sol";
import {TypedData} from "./TypedData.sol";

/// @title Equivocation
/// @notice What a verifier signed. A linked library of the Court.
library Equivocation {
    /// @notice The attempt at the batch in which the key of `slot` signed a settlement, and the settlement's struct hash.
    /// The seed is the batch's, the header the caller's: under another an honest verifier has not signed, and two
    /// settlements under one are never honest, whatever the lines have become since.
    function signedIn(
        IRegistry registry,
        IRegistry.Settlement calldata settlement,
        IRegistry.Header calldata header,
        uint8 slot,
        bytes calldata signature
    ) external view returns (uint256 attempt, bytes32 structHash) {
        (uint256 left, bytes32 seed) = _attempts(registry, settlement.batch);
        bytes32 hash = keccak256(abi.encode(header));
        while (left > 0) {
            attempt = --left;
            structHash = TypedData.settlement(settlement, hash, seed, uint8(attempt));
            if (_isSigned(registry, slot, structHash, signature)) return (attempt, structHash);
        }
        revert ICourt.NotEquivocation(settlement.batch);
    }

    /// @dev How many attempts there have been, none before the draw; and the seed of all of them.
    function _attempts(IRegistry registry, BatchId batch) private view returns (uint256 count, bytes32 seed) {
        IRegistry.Batch memory b = registry.batch(batch);
        return (b.seed == 0 ? 0 : uint256(b.attempt) + 1, b.seed);
    }

    function _isSigned(IRegistry registry, uint8 slot, bytes32 structHash, bytes calldata signature)
        private
        view
        returns (bool)
    {
        bytes32 digest = TypedData.digest(registry.domainSeparator(), structHash);
        return BLS12381.verify(registry.seatKey(slot), digest, BLS12381.SIGNATURE_TAG, signature);
    }
}
