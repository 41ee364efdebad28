// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @title BLS12381
/// @notice BLS signatures with public keys in G1 and signatures in G2 (draft-irtf-cfrg-bls-signature, proof of
/// possession suite), checked by the precompiles of EIP-2537. Messages are 32 bytes. Points are EIP-2537 bytes: 128 for
/// G1, 256 for G2. The pairing precompile checks that points lie in the prime-order subgroup.
library BLS12381 {
    error PrecompileFailed(uint256 precompile);

    /// @notice Domain tags; the proof's own tag keeps a signature over a message from serving as a proof of possession.
    bytes internal constant SIGNATURE_TAG = "BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";
    bytes internal constant POSSESSION_TAG = "BLS_POP_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";

    uint256 private constant SHA256 = 0x02;
    uint256 private constant MODEXP = 0x05;
    uint256 private constant G1_ADD = 0x0b;
    uint256 private constant G2_ADD = 0x0d;
    uint256 private constant PAIRING = 0x0f;
    uint256 private constant MAP_FP2_TO_G2 = 0x11;

    bytes32 private constant P_HI = 0x000000000000000000000000000000001a0111ea397fe69a4b1ba7b6434bacd7;
    bytes32 private constant P_LO = 0x64774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaab;

    /// @dev The generator of G1 with y negated.
    bytes private constant NEGATED_GENERATOR = hex"0000000000000000000000000000000017f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac586c55e83ff97a1aeffb3af00adb22c6bb"
        hex"00000000000000000000000000000000114d1d6855d545a8aa7d76c8cf2e21f267816aef1db507c96655b9d5caac42364e6f38ba0ecb751bad54dcd6b939c2ca";

    /// @notice A point of G1 in three words: the high halves of x and y share the first.
    struct G1 {
        bytes32 high;
        bytes32 x;
        bytes32 y;
    }

    /// @notice Packs 128 bytes; the caller has checked the point through a pairing.
    function pack(bytes memory point) internal pure returns (G1 memory packed) {
        (uint256 xHi, bytes32 xLo, uint256 yHi, bytes32 yLo) = abi.decode(point, (uint256, bytes32, uint256, bytes32));
        packed = G1(bytes32(xHi << 128 | yHi), xLo, yLo);
    }

    function unpack(G1 memory point) internal pure returns (bytes memory) {
        uint256 high = uint256(point.high);
        return abi.encode(high >> 128, point.x, high & type(uint128).max, point.y);
    }

    function negate(G1 memory point) internal pure returns (G1 memory) {
        uint256 high = uint256(point.high);
        uint256 yHi = high & type(uint128).max;
        if (yHi == 0 && point.y == 0) return point;
        unchecked {
            uint256 lo = uint256(P_LO) - uint256(point.y);
            uint256 hi = uint256(P_HI) - yHi - (uint256(point.y) > uint256(P_LO) ? 1 : 0);
            return G1(bytes32((high >> 128) << 128 | hi), point.x, bytes32(lo));
        }
    }

    function add(G1 memory a, G1 memory b) internal view returns (G1 memory) {
        bytes memory sum = new bytes(128);
        bytes memory input = bytes.concat(unpack(a), unpack(b));
        _call(G1_ADD, _at(input, 0), 256, _at(sum, 0), 128);
        return pack(sum);
    }

    function isInfinity(bytes memory point) internal pure returns (bool) {
        return keccak256(point) == keccak256(new bytes(point.length));
    }

    /// @notice Whether `signature` over `message` is valid under `publicKey`. The point at infinity is valid for
    /// neither, because it would sign everything.
    function verify(bytes memory publicKey, bytes32 message, bytes memory tag, bytes memory signature)
        internal
        view
        returns (bool)
    {
        if (publicKey.length != 128 || signature.length != 256) return false;
        if (isInfinity(publicKey) || isInfinity(signature)) return false;
        bytes memory input = bytes.concat(publicKey, hashToG2(message, tag), NEGATED_GENERATOR, signature);
        // Points that are not on the curve or not in the subgroup make the precompile fail: no valid signature either.
        (bool ok, bytes memory result) = address(uint160(PAIRING)).staticcall(input);
        return ok && result.length == 32 && abi.decode(result, (uint256)) == 1;
    }

    /// @notice RFC 9380 hash_to_curve for BLS12381G2_XMD:SHA-256_SSWU_RO_ with the domain tag given.
    function hashToG2(bytes32 message, bytes memory tag) internal view returns (bytes memory point) {
        bytes memory uniform = _expandMessage(message, abi.encodePacked(tag, uint8(tag.length)));
        // Each 64 bytes reduced modulo p is one coordinate: two field elements of Fp2.
        bytes memory reduction =
            abi.encodePacked(uint256(64), uint256(1), uint256(64), new bytes(64), uint8(1), P_HI, P_LO);
        for (uint256 i = 0; i < 256; i += 64) {
            _copy(_at(uniform, i), _at(reduction, 96), 64);
            _call(MODEXP, _at(reduction, 0), 225, _at(uniform, i), 64);
        }
        bytes memory images = new bytes(512);
        _call(MAP_FP2_TO_G2, _at(uniform, 0), 128, _at(images, 0), 256);
        _call(MAP_FP2_TO_G2, _at(uniform, 128), 128, _at(images, 256), 256);
        point = new bytes(256);
        _call(G2_ADD, _at(images, 0), 512, _at(point, 0), 256);
    }

    /// @dev expand_message_xmd of a 32-byte message to 256 bytes; `suffix` is the tag with its length.
    function _expandMessage(bytes32 message, bytes memory suffix) private view returns (bytes memory uniform) {
        bytes32 first = sha256(abi.encodePacked(new bytes(64), message, uint16(256), uint8(0), suffix));
        bytes memory next = abi.encodePacked(bytes32(0), uint8(0), suffix);
        uniform = new bytes(256);
        bytes32 previous;
        for (uint256 i = 0; i < 8; ++i) {
            uint256 from = _at(next, 0);
            uint256 to = _at(uniform, 32 * i);
            assembly ("memory-safe") {
                mstore(from, xor(first, previous))
                mstore8(add(from, 32), add(i, 1))
            }
            _call(SHA256, from, next.length, to, 32);
            assembly ("memory-safe") {
                previous := mload(to)
            }
        }
    }

    function _at(bytes memory data, uint256 offset) private pure returns (uint256 pointer) {
        assembly ("memory-safe") {
            pointer := add(add(data, 32), offset)
        }
    }

    function _copy(uint256 from, uint256 to, uint256 length) private pure {
        assembly ("memory-safe") {
            mcopy(to, from, length)
        }
    }

    function _call(uint256 precompile, uint256 from, uint256 fromLength, uint256 to, uint256 toLength) private view {
        bool ok;
        assembly ("memory-safe") {
            ok := staticcall(gas(), precompile, from, fromLength, to, toLength)
            ok := and(ok, eq(returndatasize(), toLength))
        }
        require(ok, PrecompileFailed(precompile));
    }
}
