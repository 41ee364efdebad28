// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry} from "../interfaces/IRegistry.sol";
import {State} from "./State.sol";

/// @title Jury
/// @notice Draws jurors among the active nodes: distinct owners, none of them a party or a verifier's owner, all able
/// to execute the job's workload.
library Jury {
    /// @dev Candidates looked at, at most; bounds the gas however many nodes there are.
    uint256 internal constant MAX_CANDIDATES = 96;

    /// @notice Who may sit: `barred` owners may not; `nodeStake` must back each of an owner's nodes.
    struct Bench {
        uint256 size;
        uint256 workload;
        uint256 nodeStake;
        address[4] barred;
    }

    /// @notice Up to `size` jurors. Candidates come in the order of a Fisher-Yates shuffle of the list of nodes, keyed
    /// by `seed`, of which only the beginning is carried out; so no node comes twice and each order is equally likely.
    function draw(State storage s, bytes32 seed, Bench memory bench) internal view returns (uint32[] memory jury) {
        uint256 left = s.nodes.length;
        uint256 tries = left < MAX_CANDIDATES ? left : MAX_CANDIDATES;
        uint256[] memory from = new uint256[](tries);
        uint256[] memory to = new uint256[](tries);
        address[] memory owners = new address[](bench.size);
        jury = new uint32[](bench.size);
        uint256 found;
        for (uint256 i = 0; i < tries && found < jury.length; ++i) {
            from[i] = i + uint256(keccak256(abi.encode(seed, i))) % (left - i);
            uint32 candidate = s.nodes[_moved(from, to, i, from[i])];
            to[i] = _moved(from, to, i, i);
            address owner = s.operators[candidate].owner;
            if (_contains(owners, found, owner) || !_maySit(s, candidate, owner, bench)) continue;
            (jury[found], owners[found]) = (candidate, owner);
            ++found;
        }
        assembly ("memory-safe") {
            mstore(jury, found)
        }
    }

    function _maySit(State storage s, uint32 candidate, address owner, Bench memory bench) private view returns (bool) {
        if (s.operators[candidate].workloads >> bench.workload & 1 == 0) return false;
        for (uint256 i = 0; i < bench.barred.length; ++i) {
            if (owner == bench.barred[i]) return false;
        }
        IRegistry.Account storage a = s.accounts[owner];
        return a.verifierSlot == 0 && a.stake >= uint256(a.nodes) * bench.nodeStake;
    }

    /// @dev What lies at `position` after the first `swaps` exchanges.
    function _moved(uint256[] memory from, uint256[] memory to, uint256 swaps, uint256 position)
        private
        pure
        returns (uint256)
    {
        for (uint256 i = swaps; i > 0; --i) {
            if (from[i - 1] == position) return to[i - 1];
        }
        return position;
    }

    function _contains(address[] memory owners, uint256 count, address owner) private pure returns (bool) {
        for (uint256 i = 0; i < count; ++i) {
            if (owners[i] == owner) return true;
        }
        return false;
    }
}
