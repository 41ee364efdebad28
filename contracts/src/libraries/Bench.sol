// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry} from "../interfaces/IRegistry.sol";

/// @title Bench
/// @notice For each workload the owners that offer it, in places that are never moved, so that a jury is drawn among those
/// that were there when its challenge was opened, whatever they do afterwards. A place that was left can be had by another
/// owner once no challenge can look back so far; so the bench is no longer than it was full.
library Bench {
    /// @notice An owner's place (its index plus one) and how many of its listed nodes offer the workload.
    struct Place {
        uint32 number;
        uint16 nodes;
    }

    struct Places {
        IRegistry.BenchEntry[] entries;
        mapping(address owner => Place) placeOf;
        /// Places in the order in which they were left, from `head` on.
        uint32[] left;
        uint256 head;
    }

    /// @notice One more node of `owner` offers the workload.
    function add(Places storage self, address owner, uint256 quarantine) internal {
        self.placeOf[owner].nodes += 1;
        join(self, owner, quarantine);
    }

    /// @notice One node of `owner` less; with the last the owner leaves.
    function remove(Places storage self, address owner) internal {
        Place storage place = self.placeOf[owner];
        place.nodes -= 1;
        if (place.nodes != 0 || !isSeated(self, owner)) return;
        self.entries[place.number - 1].until = uint40(block.timestamp);
        self.left.push(place.number - 1);
    }

    /// @notice Seats an owner that has a node for the workload and no place, unless it left less than `quarantine` ago.
    function join(Places storage self, address owner, uint256 quarantine) internal {
        Place storage place = self.placeOf[owner];
        if (place.nodes == 0 || isSeated(self, owner)) return;
        if (place.number != 0) {
            IRegistry.BenchEntry storage last = self.entries[place.number - 1];
            if (last.owner == owner && block.timestamp < last.until + quarantine) return;
        }
        place.number = 1 + _vacancy(self, quarantine);
        self.entries[place.number - 1] = IRegistry.BenchEntry(owner, uint40(block.timestamp), 0);
    }

    function isSeated(Places storage self, address owner) internal view returns (bool) {
        uint256 number = self.placeOf[owner].number;
        if (number == 0) return false;
        IRegistry.BenchEntry storage entry = self.entries[number - 1];
        return entry.owner == owner && entry.until == 0;
    }

    /// @dev The place that was left first, if that is long enough ago, else a new one.
    function _vacancy(Places storage self, uint256 quarantine) private returns (uint32 index) {
        uint256 head = self.head;
        if (head < self.left.length) {
            index = self.left[head];
            if (block.timestamp >= self.entries[index].until + quarantine) {
                self.head = head + 1;
                return index;
            }
        }
        index = uint32(self.entries.length);
        self.entries.push();
    }
}
