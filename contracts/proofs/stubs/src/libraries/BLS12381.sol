// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @title BLS12381
/// @notice Takes the place of `src/libraries/BLS12381.sol` in proofs, whose prover has no pairing: every signature is valid,
/// and points are nothing.
library BLS12381 {
    struct G1 {
        bytes32 high;
        bytes32 x;
        bytes32 y;
    }

    bytes internal constant SIGNATURE_TAG = "";
    bytes internal constant POSSESSION_TAG = "";

    function pack(bytes memory) internal pure returns (G1 memory) {}

    function unpack(G1 memory) internal pure returns (bytes memory) {}

    function negate(G1 memory point) internal pure returns (G1 memory) {
        return point;
    }

    function add(G1 memory point, G1 memory) internal pure returns (G1 memory) {
        return point;
    }

    function verify(bytes memory, bytes32, bytes memory, bytes memory) internal pure returns (bool) {
        return true;
    }
}
