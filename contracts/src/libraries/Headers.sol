// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry} from "../interfaces/IRegistry.sol";
import {Merkle} from "./Merkle.sol";

/// @title Headers
/// @notice The hash that the Registry stores of a batch's header. What was committed stands alone until the settlement; then
/// the seed and the root of the payouts are hashed to it, so that a claim shows both with two words more.
library Headers {
    /// @notice The hash of what was committed, its lines as they are now: what verifiers sign.
    function committed(IRegistry.Header memory h) internal pure returns (bytes32) {
        return keccak256(abi.encode(h.root, h.size, h.members, h.lines));
    }

    /// @notice What the Registry stores of a header, as `proofyard.protocol.settlement.stored_hash`.
    function stored(IRegistry.Header memory h) internal pure returns (bytes32) {
        return stored(h, committed(h));
    }

    /// @notice The same where the hash of what was committed is known.
    function stored(IRegistry.Header memory h, bytes32 committed_) internal pure returns (bytes32) {
        if (h.seed == 0 && h.payoutRoot == 0) return committed_;
        return Merkle.node(h.payoutRoot, Merkle.node(h.seed, committed_));
    }
}
