// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {LibBit} from "solady/utils/LibBit.sol";

import {ICourt} from "../interfaces/ICourt.sol";
import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../interfaces/IRegistry.sol";

/// @title Jury
/// @notice Draws juries from the bench of a workload as it was when a challenge was opened, and pays them. A linked
/// library of the Court. Nothing that anybody does after the opening changes whom a block's hash draws.
library Jury {
    struct Vote {
        bytes32 sealed_;
        /// What it was opened to, 0 while it is not.
        bytes32 evidence;
    }

    /// @notice Who sits, has sat and may not sit on a challenge.
    struct Panel {
        mapping(uint256 round => address[]) jurors;
        mapping(uint256 round => mapping(address juror => Vote)) votes;
        /// Who may not sit and is not in the challenge itself: requesters of the batch's other jobs, silent jurors.
        address[] barred;
        /// For a fault of an auditor: the worker of the segment, whose claim is in the challenge; 0 where it was not shown.
        uint32 worker;
    }

    /// @dev Fewer make no jury, however small a bench is.
    uint256 internal constant LEAST = 3;
    /// @dev What a juror finds where nobody delivers the state: sha256("proofyard: this state cannot be had").
    bytes32 private constant UNAVAILABLE = 0xde270af284e36137f74edda15b764f45f60ec34b7aa7a8ebf18b9d9070e2edc6;

    /// @dev Places looked at, at most; bounds the gas (about 4,000 each) however long a bench has become. Of a bench of
    /// which 3 places in 100 may sit, a jury of 11 takes 370 looks on average.
    uint256 internal constant MAX_LOOKS = 1024;
    /// @dev At least twice as many, a power of two.
    uint256 private constant SLOTS = 2048;

    // ---------------------------------------------------------------------------------------------- drawing

    /// @notice Up to `size` distinct owners, fewer where there are not enough. The order of looks is a Fisher-Yates shuffle
    /// of the bench, keyed by `entropy`, of which only the beginning is carried out: each order is equally likely, and
    /// a bench of up to `MAX_LOOKS` places is searched to its end.
    function draw(
        IRegistry registry,
        ChallengeId id,
        ICourt.Challenge storage x,
        Panel storage panel,
        bytes32 entropy,
        uint256 size
    ) external view returns (address[] memory jury) {
        address[] memory barred = _parties(registry, x, panel);
        bytes32 seed = keccak256(abi.encode(entropy, id, x.round, x.redraws));
        uint256[] memory moved = new uint256[](SLOTS);
        uint256 places = x.bench;
        jury = new address[](size);
        uint256 found;
        for (uint256 i = 0; i < places && i < MAX_LOOKS && found < size; ++i) {
            uint256 place = _take(moved, i, i + uint256(keccak256(abi.encode(seed, i))) % (places - i));
            address owner = _seated(registry, x, place);
            if (owner == address(0) || _contains(barred, barred.length, owner) || _contains(jury, found, owner)) {
                continue;
            }
            jury[found++] = owner;
        }
        assembly ("memory-safe") {
            mstore(jury, found)
        }
    }

    /// @dev The owner at a place of the bench, if it was there when the challenge was opened.
    function _seated(IRegistry registry, ICourt.Challenge storage x, uint256 place) private view returns (address) {
        IRegistry.BenchEntry memory entry = registry.benchAt(x.workload, place);
        uint256 opened = x.openedAt;
        if (entry.since > opened || (entry.until != 0 && entry.until <= opened)) return address(0);
        return entry.owner;
    }

    /// @dev Exchanges what lies at positions `i` and `j`, and returns what lay at `j`. Positions below `i` are not looked at
    /// again, so that only what moved to `j` is kept: in an open hash table of words `(position + 1) << 128 | what`.
    function _take(uint256[] memory moved, uint256 i, uint256 j) private pure returns (uint256 taken) {
        uint256 slot = _slot(moved, j);
        taken = _at(moved, slot, j);
        moved[slot] = (j + 1) << 128 | _at(moved, _slot(moved, i), i);
    }

    function _at(uint256[] memory moved, uint256 slot, uint256 position) private pure returns (uint256) {
        return moved[slot] == 0 ? position : uint128(moved[slot]);
    }

    /// @dev Where `position` is kept, or would be.
    function _slot(uint256[] memory moved, uint256 position) private pure returns (uint256 slot) {
        slot = position % SLOTS;
        while (moved[slot] != 0 && moved[slot] >> 128 != position + 1) {
            slot = (slot + 1) % SLOTS;
        }
    }

    function _contains(address[] memory owners, uint256 count, address owner) private pure returns (bool) {
        for (uint256 i = 0; i < count; ++i) {
            if (owners[i] == owner) return true;
        }
        return false;
    }

    /// @dev Who may not sit on the next jury: everybody connected with the case, and earlier jurors.
    function _parties(IRegistry registry, ICourt.Challenge storage x, Panel storage panel)
        private
        view
        returns (address[] memory parties)
    {
        IRegistry.Batch memory b = registry.batch(BatchId.wrap(x.batch));
        uint256 signers = registry.quorum(b.quorum) & ~b.absent;
        uint32[] memory accusers;
        if (x.kind == ICourt.Kind.Fault) accusers = registry.slashes(BatchId.wrap(x.batch))[x.entry].accusers;
        address[] memory before = x.round == 0 ? new address[](0) : panel.jurors[0];
        uint256 others = panel.barred.length;
        parties = new address[](5 + accusers.length + before.length + others + LibBit.popCount(signers));
        (parties[0], parties[1], parties[2]) = (x.challenger, x.appellant, _ownerOf(registry, x.accused));
        (parties[3], parties[4]) = (_ownerOf(registry, b.verifier), registry.job(JobId.wrap(x.job)).requester);
        uint256 n = 5;
        for (uint256 i = 0; i < accusers.length; ++i) {
            parties[n++] = _ownerOf(registry, accusers[i]);
        }
        for (uint256 i = 0; i < before.length; ++i) {
            parties[n++] = before[i];
        }
        for (uint256 i = 0; i < others; ++i) {
            parties[n++] = panel.barred[i];
        }
        for (uint256 left = signers; left != 0; left &= left - 1) {
            OperatorId signer = registry.seatHolder(uint8(LibBit.ffs(left)), b.settled.settledAt);
            parties[n++] = _ownerOf(registry, OperatorId.unwrap(signer));
        }
    }

    function _ownerOf(IRegistry registry, uint32 operator) private view returns (address) {
        return registry.operatorState(OperatorId.wrap(operator)).owner;
    }

    /// @notice Leaves out the last of an even number, so that a smaller jury can have a majority.
    function makeOdd(address[] memory jury) internal pure {
        assembly ("memory-safe") {
            mstore(jury, sub(mload(jury), iszero(and(mload(jury), 1))))
        }
    }

    // ------------------------------------------------------------------------------------------------ paying

    /// @notice Fines the silent jurors of a round, `fine` each.
    function fineSilent(
        IRegistry registry,
        ChallengeId id,
        ICourt.Challenge storage x,
        Panel storage panel,
        uint96 fine
    ) external {
        address[] memory jury = panel.jurors[x.round];
        for (uint256 i = 0; i < jury.length; ++i) {
            if (panel.votes[x.round][jury[i]].evidence == 0) _fine(registry, id, x, jury[i], fine);
        }
    }

    /// @notice Takes the jury of a round away, for good.
    function dissolve(ICourt.Challenge storage x, Panel storage panel) external {
        address[] memory jury = panel.jurors[x.round];
        for (uint256 i = 0; i < jury.length; ++i) {
            panel.barred.push(jury[i]);
        }
        delete panel.jurors[x.round];
        (x.votesWrong, x.votesRight) = (0, 0);
    }

    /// @notice Fines the jurors of either round who found the opposite of what was decided, and pays those who found it.
    /// @return What was paid out of `amount` and of all fines.
    function pay(
        IRegistry registry,
        ChallengeId id,
        ICourt.Challenge storage x,
        Panel storage panel,
        uint96 fine,
        uint96 perjury,
        uint96 amount
    ) external returns (uint96) {
        _punish(registry, id, x, panel, fine, perjury);
        return _reward(registry, x, panel, amount);
    }

    /// @dev Fines the jurors of either round who opened the opposite of what was decided: `fine` like a silent juror, and
    /// `perjury` where more than two thirds of all found the same, because executing gives everybody the same state. That
    /// is burned, so that no majority gains by it.
    function _punish(
        IRegistry registry,
        ChallengeId id,
        ICourt.Challenge storage x,
        Panel storage panel,
        uint96 fine,
        uint96 perjury
    ) private {
        (address[] memory jury, bytes32[] memory found) = _findings(x, panel);
        bool evident = _isEvident(x, found);
        for (uint256 i = 0; i < jury.length; ++i) {
            if (found[i] == 0 || _agrees(x, found[i])) continue;
            if (evident && _isState(x, found[i])) _perjure(registry, id, jury[i], perjury);
            else _fine(registry, id, x, jury[i], fine);
        }
    }

    /// @dev Equal parts of `amount` and of all fines for the jurors of either round who found what was decided, and the same
    /// as most of them: who did not execute stands alone.
    function _reward(IRegistry registry, ICourt.Challenge storage x, Panel storage panel, uint96 amount)
        private
        returns (uint96)
    {
        (address[] memory jury, bytes32[] memory found) = _findings(x, panel);
        (bytes32 shared, uint256 count,) = _shared(x, found);
        if (count == 0) return 0;
        uint96 part = uint96((amount + x.fines) / count);
        for (uint256 i = 0; i < jury.length; ++i) {
            if (found[i] == shared) registry.give(jury[i], part);
        }
        return uint96(part * count);
    }

    /// @notice Whether a juror that found `evidence` takes a challenge for right: for a segment where it leads elsewhere, for a
    /// record and a fault by the lowest bit.
    function isWrong(ICourt.Challenge storage x, bytes32 evidence) internal view returns (bool) {
        return x.kind == ICourt.Kind.Segment ? evidence != x.claimed : uint256(evidence) & 1 == 1;
    }

    /// @notice Whether the jurors who cleared an auditor found, most of all that voted, one and the same state or answer, and
    /// that is not what the worker claimed.
    function contradicts(ICourt.Challenge storage x, Panel storage panel) internal view returns (bool) {
        (, bytes32[] memory found) = _findings(x, panel);
        (bytes32 shared, uint256 count, uint256 opened) = _shared(x, found);
        return count * 2 > opened && _isState(x, shared) && (uint256(shared) ^ uint256(x.claimed)) >> 1 != 0;
    }

    /// @dev Whether executing has shown what is right: more than two thirds of all that voted found the same.
    function _isEvident(ICourt.Challenge storage x, bytes32[] memory found) private view returns (bool) {
        (bytes32 shared, uint256 count, uint256 opened) = _shared(x, found);
        return count * 3 > opened * 2 && _isState(x, shared);
    }

    /// @dev What most of those found who voted as was decided, how many they are, and how many voted at all.
    function _shared(ICourt.Challenge storage x, bytes32[] memory found)
        private
        view
        returns (bytes32 shared, uint256 count, uint256 opened)
    {
        bytes32[] memory agreeing = new bytes32[](found.length);
        for (uint256 i = 0; i < found.length; ++i) {
            if (found[i] == 0) continue;
            ++opened;
            if (_agrees(x, found[i])) agreeing[i] = found[i];
        }
        (shared, count) = _mostFrequent(agreeing);
    }

    /// @dev Whether a finding is what was decided.
    function _agrees(ICourt.Challenge storage x, bytes32 found) private view returns (bool) {
        return isWrong(x, found) == (x.phase == ICourt.Phase.Upheld);
    }

    /// @dev Whether a finding is one of executing: not of a record, nor that there was nothing to execute.
    function _isState(ICourt.Challenge storage x, bytes32 found) private view returns (bool) {
        return x.kind != ICourt.Kind.Record && uint256(found) > 3 && (uint256(found) ^ uint256(UNAVAILABLE)) >> 1 != 0;
    }

    function _perjure(IRegistry registry, ChallengeId id, address juror, uint96 perjury) private {
        uint96 taken = registry.slash(juror, perjury);
        registry.burn(taken);
        emit ICourt.JurorFined(id, juror, taken);
    }

    function _fine(IRegistry registry, ChallengeId id, ICourt.Challenge storage x, address juror, uint96 fine) private {
        uint96 taken = registry.slash(juror, fine);
        x.fines += taken;
        emit ICourt.JurorFined(id, juror, taken);
    }

    /// @dev The jurors of both rounds, and what they found.
    function _findings(ICourt.Challenge storage x, Panel storage panel)
        private
        view
        returns (address[] memory jury, bytes32[] memory found)
    {
        uint256 first = panel.jurors[0].length;
        uint256 all = first + (x.round == 0 ? 0 : panel.jurors[1].length);
        (jury, found) = (new address[](all), new bytes32[](all));
        for (uint256 i = 0; i < all; ++i) {
            (uint256 round, uint256 seat) = i < first ? (0, i) : (1, i - first);
            jury[i] = panel.jurors[round][seat];
            found[i] = panel.votes[round][jury[i]].evidence;
        }
    }

    /// @dev The value other than 0 that comes most often (of several the first), and how often.
    function _mostFrequent(bytes32[] memory values) private pure returns (bytes32 value, uint256 count) {
        for (uint256 i = 0; i < values.length; ++i) {
            if (values[i] == 0 || values[i] == value) continue;
            uint256 n;
            for (uint256 k = i; k < values.length; ++k) {
                if (values[k] == values[i]) ++n;
            }
            if (n > count) (value, count) = (values[i], n);
        }
    }
}
