// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICourt} from "../interfaces/ICourt.sol";
import {IRegistry, OperatorId, BatchId} from "../interfaces/IRegistry.sol";
import {BLS12381} from "./BLS12381.sol";
import {Headers} from "./Headers.sol";
import {TypedData} from "./TypedData.sol";

/// @title Equivocation
/// @notice What a verifier signed. A linked library of the Court.
library Equivocation {
    /// @notice Requires that whoever had seat `slot` last signed both settlements, of one attempt at a batch. Who that is, and a
    /// name for the offence: once for each attempt.
    function show(
        IRegistry registry,
        IRegistry.Settlement calldata one,
        IRegistry.Settlement calldata other,
        IRegistry.Header calldata header,
        uint8 slot,
        bytes calldata signatureOne,
        bytes calldata signatureOther
    ) external view returns (uint32 verifier, bytes32 offence) {
        (uint256 attempt, bytes32 first) = _signedIn(registry, one, header, slot, signatureOne);
        (uint256 again, bytes32 second) = _signedIn(registry, other, header, slot, signatureOther);
        // The slot shows the key of whoever had it last.
        verifier = OperatorId.unwrap(registry.seatHolder(slot, block.timestamp));
        bool same = BatchId.unwrap(one.batch) == BatchId.unwrap(other.batch) && attempt == again;
        require(same && first != second && verifier != 0, ICourt.NotEquivocation(one.batch));
        offence = keccak256(abi.encode(one.batch, attempt, verifier));
    }

    /// @dev The attempt at the batch in which the key of `slot` signed a settlement, and the settlement's struct hash.
    /// Header and seed are the caller's: under others an honest verifier has not signed, and two settlements under one are
    /// never honest, whatever the lines have become since.
    function _signedIn(
        IRegistry registry,
        IRegistry.Settlement calldata settlement,
        IRegistry.Header calldata header,
        uint8 slot,
        bytes calldata signature
    ) private view returns (uint256 attempt, bytes32 structHash) {
        bytes32 hash = Headers.committed(header);
        uint256 left = header.seed == 0 ? 0 : uint256(registry.batch(settlement.batch).attempt) + 1;
        while (left > 0) {
            attempt = --left;
            structHash = TypedData.settlement(settlement, hash, header.seed, uint8(attempt));
            if (_isSigned(registry, slot, structHash, signature)) return (attempt, structHash);
        }
        revert ICourt.NotEquivocation(settlement.batch);
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
