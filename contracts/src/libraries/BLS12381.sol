// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @title BLS12381
/// @notice BLS signatures with public keys in G1 and signatures in G2 (draft-irtf-cfrg-bls-signature, proof of
/// possession suite), checked by the precompiles of EIP-2537. Messages are 32 bytes. Points are EIP-2537 bytes: 128 for
/// G1, 256 for G2. The pairing precompile checks that points lie in the prime-order subgroup.
library BLS12381 {
    error PrecompileFailed(address precompile);

    /// @notice Domain tags; the proof's own tag keeps a signature over a message from serving as a proof of possession.
    bytes internal constant SIGNATURE_TAG = "BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";
    bytes internal constant POSSESSION_TAG = "BLS_POP_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";

    address private constant MODEXP = address(0x05);
    address private constant G1_ADD = address(0x0b);
    address private constant G2_ADD = address(0x0d);
    address private constant PAIRING = address(0x0f);
    address private constant MAP_FP2_TO_G2 = address(0x11);

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
        return pack(_call(G1_ADD, bytes.concat(unpack(a), unpack(b)), 128));
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
        (bool ok, bytes memory result) =
            PAIRING.staticcall(bytes.concat(publicKey, hashToG2(message, tag), NEGATED_GENERATOR, signature));
        return ok && result.length == 32 && abi.decode(result, (uint256)) == 1;
    }

    /// @notice RFC 9380 hash_to_curve for BLS12381G2_XMD:SHA-256_SSWU_RO_ with the domain tag given.
    function hashToG2(bytes32 message, bytes memory tag) internal view returns (bytes memory) {
        bytes memory suffix = abi.encodePacked(tag, uint8(tag.length));
        bytes32 first = sha256(abi.encodePacked(new bytes(64), message, uint16(256), uint8(0), suffix));
        bytes32[8] memory uniform;
        for (uint256 i = 0; i < 8; ++i) {
            bytes32 previous = i == 0 ? bytes32(0) : uniform[i - 1];
            uniform[i] = sha256(abi.encodePacked(first ^ previous, uint8(i + 1), suffix));
        }
        bytes[4] memory u;
        for (uint256 i = 0; i < 4; ++i) {
            u[i] = _call(
                MODEXP,
                abi.encodePacked(
                    uint256(64), uint256(1), uint256(64), uniform[2 * i], uniform[2 * i + 1], uint8(1), P_HI, P_LO
                ),
                64
            );
        }
        return _call(
            G2_ADD,
            bytes.concat(
                _call(MAP_FP2_TO_G2, bytes.concat(u[0], u[1]), 256), _call(MAP_FP2_TO_G2, bytes.concat(u[2], u[3]), 256)
            ),
            256
        );
    }

    function _call(address precompile, bytes memory input, uint256 length) private view returns (bytes memory) {
        (bool ok, bytes memory result) = precompile.staticcall(input);
        require(ok && result.length == length, PrecompileFailed(precompile));
        return result;
    }
}
