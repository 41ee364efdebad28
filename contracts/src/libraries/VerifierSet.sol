// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {LibBit} from "solady/utils/LibBit.sol";

import {IRegistry, OperatorId} from "../interfaces/IRegistry.sol";
import {BLS12381} from "./BLS12381.sol";

/// @title VerifierSet
/// @notice Up to 256 seats of verifiers with BLS keys, the versions of the quorum, and the check of aggregate signatures.
///
/// A version of the quorum is the seats that count and the sum of their keys. A seat that goes makes a new version at once;
/// one that is taken counts, in a new version, with the first batch after its delay. So within one version each seat has one
/// holder, and a batch that remembers its version remembers who may sign it.
library VerifierSet {
    using BLS12381 for BLS12381.G1;

    /// @notice A slot and its last holder, whether or not it is taken now.
    struct Seat {
        uint32 operator;
        /// Since when the holder has had it, and the version of the quorum then.
        uint40 since;
        uint24 version;
        /// When it was last taken, by the same holder again as well.
        uint40 takenAt;
        uint40 countsFrom;
        /// From when a vacated slot may be given to another (Unix seconds).
        uint40 freeFrom;
    }

    struct Holder {
        uint32 operator;
        uint40 since;
        uint24 version;
    }

    struct Quorum {
        uint256 seats;
        BLS12381.G1 sum;
    }

    struct Set {
        uint256 taken;
        /// Taken, and not yet in the quorum.
        uint256 waiting;
        /// The current version, and when the first of `waiting` counts.
        uint24 version;
        uint40 nextAt;
        mapping(uint256 version => Quorum) quorums;
        Seat[256] seats;
        /// Earlier holders of a slot; the key of number n lies at `keys[slot][n]`, the last holder's behind them.
        mapping(uint256 slot => Holder[]) past;
        mapping(uint256 slot => mapping(uint256 number => BLS12381.G1)) keys;
        /// Who signed a settlement or attended, by the number of the period.
        mapping(uint256 period => uint256 seats) attendance;
    }

    uint256 internal constant SLOTS = 256;

    // -------------------------------------------------------------------------------------------------- seats

    function requirePossession(bytes calldata publicKey, bytes32 digest, bytes calldata possession) internal view {
        require(publicKey.length == 128, IRegistry.BadPublicKey());
        bool possessed = BLS12381.verify(publicKey, digest, BLS12381.POSSESSION_TAG, possession);
        require(possessed, IRegistry.BadPossessionProof());
    }

    /// @notice Seats an operator of the caller, which has proved that it has the key. Until `boundUntil` one that left its seat
    /// can only return to it, with the same key, so that nobody fills the slots by leaving them.
    /// @param last The slot that the operator had last, if it had one.
    /// @param delay Until the seat counts, in seconds; 0 for founders, whose seats are in the quorum at once.
    function take(
        Set storage self,
        uint32 operator,
        uint256 last,
        uint40 boundUntil,
        bytes calldata publicKey,
        uint40 delay
    ) internal returns (uint8 slot) {
        BLS12381.G1 memory key = BLS12381.pack(publicKey);
        if (_isHolder(self, last, operator, key)) {
            slot = uint8(last);
        } else {
            require(block.timestamp >= boundUntil, IRegistry.StillBonded(msg.sender, boundUntil));
            slot = _vacancy(self, operator);
            _hand(self, slot, operator, key);
        }
        uint40 countsFrom = uint40(block.timestamp) + delay;
        (self.seats[slot].takenAt, self.seats[slot].countsFrom) = (uint40(block.timestamp), countsFrom);
        self.taken |= 1 << slot;
        if (self.waiting == 0 || countsFrom < self.nextAt) self.nextAt = countsFrom;
        self.waiting |= 1 << slot;
        if (delay == 0) mature(self, true);
        emit IRegistry.VerifierKey(OperatorId.wrap(operator), slot, publicKey);
    }

    /// @notice Vacates a seat. Its slot stays empty until `freeFrom`, as long as a batch that it signed can be challenged.
    /// @param founding No batch has been committed yet, and so none refers to the current version.
    function vacate(Set storage self, uint256 slot, uint40 freeFrom, bool founding) internal {
        self.seats[slot].freeFrom = freeFrom;
        self.taken &= ~(1 << slot);
        self.waiting &= ~(1 << slot);
        Quorum memory q = self.quorums[self.version];
        if (q.seats >> slot & 1 == 0) return;
        q.seats &= ~(1 << slot);
        q.sum = q.sum.add(self.keys[slot][self.past[slot].length].negate());
        _renew(self, q, founding);
    }

    /// @notice Puts the waiting seats whose delay is over into a new version of the quorum.
    function mature(Set storage self, bool founding) internal {
        // Beside the version, which commits read anyway.
        if (block.timestamp < self.nextAt) return;
        uint256 waiting = self.waiting;
        if (waiting == 0) return;
        Quorum memory q = self.quorums[self.version];
        uint40 next = type(uint40).max;
        for (uint256 left = waiting; left != 0; left &= left - 1) {
            uint256 slot = LibBit.ffs(left);
            uint40 from = self.seats[slot].countsFrom;
            if (from <= block.timestamp) {
                q.seats |= 1 << slot;
                q.sum = q.sum.add(self.keys[slot][self.past[slot].length]);
                waiting &= ~(1 << slot);
            } else if (from < next) {
                next = from;
            }
        }
        (self.waiting, self.nextAt) = (waiting, next);
        _renew(self, q, founding);
    }

    /// @notice Marks seats as there in a period; writes only what changes.
    function attend(Set storage self, uint256 seats, uint256 period) internal {
        uint256 known = self.attendance[period];
        if (known | seats != known) self.attendance[period] = known | seats;
    }

    /// @notice Whether a taken seat was not there in the whole period before this one, nor yet in this.
    function isIdle(Set storage self, uint256 slot, uint256 idlePeriod) internal view returns (bool) {
        uint256 period = block.timestamp / idlePeriod;
        if (self.taken >> slot & 1 == 0 || self.seats[slot].takenAt / idlePeriod + 1 >= period) return false;
        return (self.attendance[period] | self.attendance[period - 1]) >> slot & 1 == 0;
    }

    // ------------------------------------------------------------------------------------------------- quorum

    /// @notice The seats of a version that are still with whoever had them then, and taken.
    function counting(Set storage self, uint24 version) internal view returns (uint256 seats) {
        seats = self.quorums[version].seats;
        // Whoever leaves makes a new version.
        if (version == self.version) return seats;
        seats &= self.taken;
        for (uint256 left = seats; left != 0; left &= left - 1) {
            uint256 slot = LibBit.ffs(left);
            if (self.seats[slot].version > version) seats &= ~(1 << slot);
        }
    }

    /// @notice Requires an aggregate signature over `digest` by the seats in `signers`, at least two thirds of those of
    /// `version` that still count.
    function check(Set storage self, uint24 version, bytes32 digest, uint256 signers, bytes calldata signature)
        internal
        view
    {
        uint256 all = counting(self, version);
        uint256 signed = LibBit.popCount(signers);
        uint256 count = LibBit.popCount(all);
        require(signers & ~all == 0, IRegistry.UnknownSigner(signers, all));
        require(signed > 0 && signed * 3 >= count * 2, IRegistry.NoQuorum(signed, count));
        // The absent keys are taken out of the sum of all.
        Quorum memory q = self.quorums[version];
        for (uint256 absent = q.seats & ~signers; absent != 0; absent &= absent - 1) {
            uint256 slot = LibBit.ffs(absent);
            (, uint256 number) = holderIn(self, slot, version);
            q.sum = q.sum.add(self.keys[slot][number].negate());
        }
        bool valid = BLS12381.verify(q.sum.unpack(), digest, BLS12381.SIGNATURE_TAG, signature);
        require(valid, IRegistry.BadSignature());
    }

    /// @notice Who has a seat in a version of the quorum that counts it, and the number of its key. A slot has another
    /// holder at most once a quarantine, so this looks back a step or two.
    function holderIn(Set storage self, uint256 slot, uint24 version)
        internal
        view
        returns (uint32 operator, uint256 number)
    {
        Holder[] storage past = self.past[slot];
        Seat storage seat = self.seats[slot];
        number = past.length;
        if (seat.version <= version) return (seat.operator, number);
        do {
            --number;
        } while (number > 0 && past[number].version > version);
        operator = past[number].operator;
    }

    /// @notice Who had a slot at a time, or was the last to have it then; 0 for nobody.
    function holderAt(Set storage self, uint256 slot, uint256 time) internal view returns (uint32) {
        Seat storage seat = self.seats[slot];
        if (seat.since <= time) return seat.operator;
        Holder[] storage past = self.past[slot];
        for (uint256 n = past.length; n > 0; --n) {
            if (past[n - 1].since <= time) return past[n - 1].operator;
        }
        return 0;
    }

    function keyOf(Set storage self, uint256 slot) internal view returns (bytes memory) {
        return self.keys[slot][self.past[slot].length].unpack();
    }

    // ------------------------------------------------------------------------------------------------ helpers

    function _isHolder(Set storage self, uint256 slot, uint32 operator, BLS12381.G1 memory key)
        private
        view
        returns (bool)
    {
        if (self.seats[slot].operator != operator) return false;
        BLS12381.G1 memory had = self.keys[slot][self.past[slot].length];
        return had.high == key.high && had.x == key.x && had.y == key.y;
    }

    /// @dev Slots follow the operators' numbers, so that one is reused as late as possible.
    function _vacancy(Set storage self, uint32 operator) private view returns (uint8) {
        uint256 vacant = ~self.taken;
        uint256 cursor = (operator - 1) % SLOTS;
        for (uint256 half = 0; half < 2; ++half) {
            uint256 left = half == 0 ? vacant >> cursor << cursor : vacant & ((1 << cursor) - 1);
            for (; left != 0; left &= left - 1) {
                uint256 slot = LibBit.ffs(left);
                if (block.timestamp >= self.seats[slot].freeFrom) return uint8(slot);
            }
        }
        revert IRegistry.VerifierSetFull();
    }

    /// @dev Gives a slot to another holder.
    function _hand(Set storage self, uint256 slot, uint32 operator, BLS12381.G1 memory key) private {
        Seat storage seat = self.seats[slot];
        if (seat.operator != 0) self.past[slot].push(Holder(seat.operator, seat.since, seat.version));
        self.keys[slot][self.past[slot].length] = key;
        (seat.operator, seat.since, seat.version) = (operator, uint40(block.timestamp), self.version);
    }

    /// @dev Before the first batch of all nothing refers to the current version, which is replaced then.
    function _renew(Set storage self, Quorum memory q, bool founding) private {
        uint24 version = self.version;
        if (!founding || version == 0) self.version = ++version;
        self.quorums[version] = q;
        emit IRegistry.QuorumChanged(version, q.seats);
    }
}
