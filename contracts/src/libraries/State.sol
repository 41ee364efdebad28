// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {FixedPointMathLib} from "solady/utils/FixedPointMathLib.sol";

import {IRegistry, OperatorId, BatchId} from "../interfaces/IRegistry.sol";
import {Bench} from "./Bench.sol";
import {VerifierSet} from "./VerifierSet.sol";

/// @notice Where the Registry's tokens are, and how many operators, jobs and batches there have been. A count lies beside
/// the sum that changes with it.
struct Books {
    uint96 stakes;
    uint96 unbonding;
    uint32 operators;
    uint96 bonds;
    uint96 burned;
    uint96 escrow;
    uint64 jobs;
    uint64 batches;
}

/// @notice A fault of one of an owner's operators, so that whatever order faults are undone in, what is left is what the
/// others took. `consecutiveValid` is the reputation that returns when it is undone.
struct Mark {
    uint40 time;
    uint32 operator;
    uint32 consecutiveValid;
    /// Where its slash record is: `entry` is its index there, 255 for a conviction by the Court, which has none.
    uint64 batch;
    uint8 entry;
    /// It cost stake, and so forfeits the owner's unsettled pay.
    bool costly;
    bool undone;
}

/// @notice A job as it is stored: what commits change, what settlements change and what its opener asked for lie in slots
/// of their own, so that a line of a batch writes one slot when it is committed and one when it is settled. Neither becomes
/// zero before the job's end.
struct JobBook {
    /// Units that batches took, those among them that they gave back again included.
    uint64 unitsTaken;
    uint96 escrow;
    uint32 end;
    uint32 verifier;
    uint32 lastActive;
    /// Units that no settlement has paid, and units that batches took and neither hold nor paid.
    uint48 unitsUnpaid;
    uint64 unitsReturned;
    uint96 surplus;
    uint40 surplusFrom;
    uint48 units;
    uint96 price;
    uint96 verifierFee;
    address requester;
    uint40 openBlock;
    uint8 auditorsPerSegment;
    uint8 segmentsPerAudit;
    uint8 workload;
    bool closed;
    uint32 former;
    uint32 formerUntil;
}

/// @title JobSlots
/// @notice The slots of a `JobBook` that each line of a batch reads or writes, whole: a field at a time costs a line 200 gas more
/// for each. In the order of its fields, from the lowest bit on.
library JobSlots {
    /// @notice What commits change.
    function taken(JobBook storage j)
        internal
        view
        returns (uint64 unitsTaken, uint96 escrow, uint32 end, uint32 verifier, uint32 lastActive)
    {
        uint256 word;
        assembly ("memory-safe") {
            word := sload(j.slot)
        }
        (unitsTaken, escrow, end) = (uint64(word), uint96(word >> 64), uint32(word >> 160));
        (verifier, lastActive) = (uint32(word >> 192), uint32(word >> 224));
    }

    function setTaken(
        JobBook storage j,
        uint64 unitsTaken,
        uint96 escrow,
        uint32 end,
        uint32 verifier,
        uint32 lastActive
    ) internal {
        uint256 word = uint256(escrow) << 64 | unitsTaken;
        word |= uint256(lastActive) << 224 | uint256(verifier) << 192 | uint256(end) << 160;
        assembly ("memory-safe") {
            sstore(j.slot, word)
        }
    }

    /// @notice What settlements change.
    function unpaid(JobBook storage j)
        internal
        view
        returns (uint48 unitsUnpaid, uint64 unitsReturned, uint96 surplus, uint40 surplusFrom)
    {
        uint256 word;
        assembly ("memory-safe") {
            word := sload(add(j.slot, 1))
        }
        (unitsUnpaid, unitsReturned) = (uint48(word), uint64(word >> 48));
        (surplus, surplusFrom) = (uint96(word >> 112), uint40(word >> 208));
    }

    function setUnpaid(JobBook storage j, uint48 unitsUnpaid, uint64 unitsReturned, uint96 surplus, uint40 surplusFrom)
        internal
    {
        uint256 word = uint256(unitsReturned) << 48 | unitsUnpaid;
        word |= uint256(surplusFrom) << 208 | uint256(surplus) << 112;
        assembly ("memory-safe") {
            sstore(add(j.slot, 1), word)
        }
    }

    /// @notice What its opener asked for.
    function terms(JobBook storage j) internal view returns (uint48 units, uint96 price, uint96 verifierFee) {
        uint256 word;
        assembly ("memory-safe") {
            word := sload(add(j.slot, 2))
        }
        (units, price, verifierFee) = (uint48(word), uint96(word >> 48), uint96(word >> 144));
    }
}

/// @notice Everything the Registry remembers, so that its linked libraries can work on it.
struct State {
    Books books;
    VerifierSet.Set verifiers;
    uint32[] nodes;
    mapping(uint8 workload => Bench.Places) benches;
    mapping(address owner => IRegistry.Account) accounts;
    /// Faults of all of an owner's operators, in the order of time.
    mapping(address owner => Mark[]) marks;
    mapping(uint32 operator => IRegistry.Operator) operators;
    mapping(uint32 operator => string) endpoints;
    mapping(address key => uint32 operator) operatorOf;
    mapping(uint256 job => JobBook) jobs;
    mapping(uint256 batch => IRegistry.Batch) batches;
    mapping(uint256 batch => IRegistry.SlashRecord[]) slashes;
    mapping(uint256 batch => mapping(uint256 word => uint256)) claimed;
}

/// @title Stakes
/// @notice The rules of stake that the Registry's linked libraries share.
library Stakes {
    using VerifierSet for VerifierSet.Set;

    uint256 private constant BPS = 10_000;

    /// @notice What an owner needs to back all of its listed operators.
    function required(IRegistry.Account storage a, IRegistry.Params memory p) internal view returns (uint256) {
        return uint256(a.nodes) * p.nodeStake + (a.verifierSlot == 0 ? 0 : p.verifierStake);
    }

    /// @notice What an owner can neither unstake nor take for bonds: its verifier's stake, until the seat's quarantine is
    /// over, and what is open.
    function bound(IRegistry.Account storage a, IRegistry.Params memory p) internal view returns (uint256) {
        uint256 seat = a.verifierSlot != 0 || block.timestamp < a.boundUntil ? p.verifierStake : 0;
        return FixedPointMathLib.max(seat, inWei(a.exposed, p));
    }

    // --------------------------------------------------------------------------------------------- exposure

    /// @notice Adds what a batch holds open to that of its leader's owner, whose stake must allow it; `budget` is the sum of
    /// the budgets of its lines.
    function expose(State storage s, IRegistry.Params memory p, uint32 leader, uint256 budget)
        internal
        returns (uint24)
    {
        if (p.exposureBps == 0) return 0;
        address owner = s.operators[leader].owner;
        IRegistry.Account storage a = s.accounts[owner];
        uint256 exposure = exposureOf(budget, p.verifierStake);
        uint256 exposed = a.exposed + exposure;
        uint256 limit = uint256(a.stake) * p.exposureBps;
        bool fits = exposure <= type(uint24).max && exposed <= type(uint40).max && exposed * p.verifierStake <= limit;
        if (!fits) revert IRegistry.Overexposed(owner, inWei(exposed, p), limit / BPS);
        a.exposed = uint40(exposed);
        return uint24(exposure);
    }

    /// @notice Frees what a batch holds open of its leader's owner.
    function unexpose(State storage s, IRegistry.Batch storage b) internal {
        uint24 exposure = b.exposure;
        if (exposure == 0) return;
        b.exposure = 0;
        s.accounts[s.operators[b.verifier].owner].exposed -= exposure;
    }

    /// @notice A budget in 1/10,000 of `verifierStake`, rounded up.
    function exposureOf(uint256 budget, uint256 verifierStake) internal pure returns (uint256) {
        return FixedPointMathLib.divUp(budget * BPS, verifierStake);
    }

    function inWei(uint256 exposure, IRegistry.Params memory p) internal pure returns (uint256) {
        return exposure * p.verifierStake / BPS;
    }

    // ------------------------------------------------------------------------------------------------ stake

    /// @notice Moves up to `wanted` of an owner's stake, then of what is unbonding, into `bonds`. Nodes stay listed and
    /// inactive until the stake suffices again.
    function take(State storage s, address owner, uint256 wanted) internal returns (uint96 taken) {
        IRegistry.Account storage a = s.accounts[owner];
        uint96 staked = a.stake < wanted ? a.stake : uint96(wanted);
        uint96 unbonding = a.unbonding < wanted - staked ? a.unbonding : uint96(wanted - staked);
        taken = staked + unbonding;
        if (taken == 0) return 0;
        a.stake -= staked;
        a.unbonding -= unbonding;
        s.books.stakes -= staked;
        s.books.unbonding -= unbonding;
        s.books.bonds += taken;
        changed(a, owner);
    }

    /// @notice The same for a penalty, which is burned. A verifier that it leaves below half of its stake loses its seat.
    function penalise(State storage s, IRegistry.Params memory p, uint32 operator, uint256 batch, uint256 wanted)
        internal
    {
        address owner = s.operators[operator].owner;
        uint96 taken = take(s, owner, wanted);
        s.books.bonds -= taken;
        s.books.burned += taken;
        emit IRegistry.Penalised(OperatorId.wrap(operator), BatchId.wrap(batch), taken);
        unseatUnbacked(s, p, owner);
    }

    /// @notice Moves `amount` out of `bonds` into an owner's stake, from where it can be withdrawn like any.
    function give(State storage s, address owner, uint96 amount) internal {
        s.books.bonds -= amount;
        credit(s, owner, amount);
    }

    /// @notice Adds to an owner's stake what is no longer counted elsewhere.
    function credit(State storage s, address owner, uint96 amount) internal {
        if (amount == 0) return;
        IRegistry.Account storage a = s.accounts[owner];
        a.stake += amount;
        s.books.stakes += amount;
        changed(a, owner);
    }

    function changed(IRegistry.Account storage a, address owner) internal {
        emit IRegistry.StakeChanged(owner, a.stake, a.unbonding);
    }

    /// @notice Takes the seat of an owner whose stake does not back it any more. What faults hold counts until they are
    /// final: two thirds of the seats can accuse the others, and must not be rid of them by it.
    function unseatUnbacked(State storage s, IRegistry.Params memory p, address owner) internal {
        IRegistry.Account storage a = s.accounts[owner];
        if (a.verifierSlot != 0 && uint256(a.stake) + a.frozen < seatStake(p)) unseat(s, p, a);
    }

    /// @notice Down to what stake a seat is kept: one penalty must not take that of who has no more than it staked for it.
    function seatStake(IRegistry.Params memory p) internal pure returns (uint256) {
        return p.verifierStake / 2;
    }

    /// @notice Empties an owner's seat; its stake stays bound as long as the seat is in quarantine.
    function unseat(State storage s, IRegistry.Params memory p, IRegistry.Account storage a) internal {
        uint256 slot = a.verifierSlot - 1;
        uint32 id = s.verifiers.seats[slot].operator;
        a.verifierSlot = 0;
        a.boundUntil = uint40(block.timestamp) + p.unstakeDelay;
        s.operators[id].listed = false;
        s.verifiers.vacate(slot, a.boundUntil, s.books.batches == 0);
        emit IRegistry.OperatorRetired(OperatorId.wrap(id));
    }

    function share(uint256 amount, uint256 bps) internal pure returns (uint96) {
        return uint96(amount * bps / BPS);
    }
}
