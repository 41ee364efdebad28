// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry} from "../interfaces/IRegistry.sol";
import {Lines} from "./Lines.sol";
import {Merkle} from "./Merkle.sol";

/// @title Headers
/// @notice The hash that the Registry stores of a batch's header. What was committed stands alone until the settlement; then
/// what was paid, the seed and the root of the payouts are hashed to it, so that a claim shows all of it with two words.
library Headers {
    /// @notice The hash of what was committed, its lines as they are now: what verifiers sign.
    function committed(IRegistry.Header memory h) internal pure returns (bytes32) {
        return keccak256(abi.encode(h.root, h.size, h.members, Lines.hash(h.lines)));
    }

    /// @notice What a settled batch's header holds besides the root of the payouts; `committed_` as above.
    function bound(IRegistry.Header memory h, bytes32 committed_) internal pure returns (bytes32) {
        return Merkle.node(h.seed, Merkle.node(committed_, Lines.hash(h.paid)));
    }

    /// @notice What the Registry stores of a header, as `proofyard.protocol.settlement.stored_hash`.
    function stored(IRegistry.Header memory h) internal pure returns (bytes32) {
        bytes32 committed_ = committed(h);
        if (h.paid.length == 0 && h.seed == 0 && h.payoutRoot == 0) return committed_;
        return Merkle.node(h.payoutRoot, bound(h, committed_));
    }
}
