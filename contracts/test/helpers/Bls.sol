// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {BLS12381} from "../../src/libraries/BLS12381.sol";

/// @notice Signing with BLS keys, which only tests do on chain.
library Bls {
    bytes private constant GENERATOR = hex"0000000000000000000000000000000017f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac586c55e83ff97a1aeffb3af00adb22c6bb"
        hex"0000000000000000000000000000000008b3f481e3aaa0f1a09e30ed741d8ae4fcf5e095d5d00af600db18cb2c04b3edd03cc744a2888ae40caa232946c5e7e1";

    function publicKey(uint256 secret) internal view returns (bytes memory point) {
        (, point) = address(0x0c).staticcall(bytes.concat(GENERATOR, bytes32(secret)));
    }

    function sign(uint256 secret, bytes32 message, bytes memory tag) internal view returns (bytes memory point) {
        (, point) = address(0x0e).staticcall(bytes.concat(BLS12381.hashToG2(message, tag), bytes32(secret)));
    }

    /// @notice The aggregate of signatures under all of `secrets`: the signature under their sum.
    function aggregate(uint256[] memory secrets, bytes32 message) internal view returns (bytes memory) {
        uint256 sum;
        for (uint256 i = 0; i < secrets.length; ++i) {
            sum += secrets[i];
        }
        return sign(sum, message, BLS12381.SIGNATURE_TAG);
    }
}
