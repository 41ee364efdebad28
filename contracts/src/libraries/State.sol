// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId} from "../interfaces/IRegistry.sol";
import {VerifierSet} from "./VerifierSet.sol";

/// @notice Where the Registry's tokens are, and how many operators, challenges, jobs and batches there have been. A count
/// lies beside the sum that changes with it.
struct Books {
    uint96 stakes;
    uint96 unbonding;
    uint32 operators;
    uint96 bonds;
    uint96 burned;
    uint64 challenges;
    uint96 escrow;
    uint64 jobs;
    uint64 batches;
}

/// @notice Everything the Registry remembers, so that its linked libraries can work on it.
struct State {
    Books books;
    VerifierSet.Set verifiers;
    uint32[] nodes;
    IRegistry.CourtParams court;
    mapping(address owner => IRegistry.Account) accounts;
    mapping(uint32 operator => IRegistry.Operator) operators;
    mapping(uint32 operator => string) endpoints;
    mapping(address key => uint32 operator) operatorOf;
    mapping(uint256 job => IRegistry.Job) jobs;
    mapping(uint256 batch => IRegistry.Batch) batches;
    mapping(uint256 batch => IRegistry.SlashRecord[]) slashes;
    mapping(uint256 batch => mapping(uint256 word => uint256)) claimed;
    mapping(uint256 challenge => IRegistry.Challenge) challenges;
    /// What has been challenged, so that nothing is tried twice.
    mapping(bytes32 subject => uint256 challenge) subjects;
    mapping(uint256 challenge => mapping(uint256 round => uint32[])) jurors;
    mapping(uint256 challenge => mapping(uint256 round => mapping(uint32 juror => bytes32))) votes;
}

/// @title Stakes
/// @notice The rules of stake that the Registry and its linked libraries share.
library Stakes {
    using VerifierSet for VerifierSet.Set;

    /// @notice What an owner needs to back all of its listed operators.
    function required(IRegistry.Account storage a, uint256 nodeStake, uint256 verifierStake)
        internal
        view
        returns (uint256)
    {
        return uint256(a.nodes) * nodeStake + (a.verifierSlot == 0 ? 0 : verifierStake);
    }

    /// @notice Moves up to `wanted` of an owner's stake, then of what is unbonding, into `bonds`. An owner that loses
    /// anything loses its verifier's seat; nodes stay listed and inactive until the stake suffices again.
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
        if (a.verifierSlot != 0) unlistVerifier(s, a);
    }

    /// @notice Moves `amount` out of `bonds` into an owner's stake, from where it can be withdrawn like any.
    function give(State storage s, address owner, uint96 amount) internal {
        s.accounts[owner].stake += amount;
        s.books.bonds -= amount;
        s.books.stakes += amount;
    }

    function unlistVerifier(State storage s, IRegistry.Account storage a) internal {
        uint256 slot = a.verifierSlot - 1;
        uint32 id = s.verifiers.operatorAt[slot];
        a.verifierSlot = 0;
        s.operators[id].listed = false;
        s.verifiers.remove(slot, s.court.quarantine);
        emit IRegistry.OperatorRetired(OperatorId.wrap(id));
    }

    function unlistNode(State storage s, IRegistry.Operator storage o) internal {
        uint32 last = s.nodes[s.nodes.length - 1];
        emit IRegistry.OperatorRetired(OperatorId.wrap(s.nodes[o.index]));
        s.nodes[o.index] = last;
        s.operators[last].index = o.index;
        s.nodes.pop();
        o.listed = false;
        s.accounts[o.owner].nodes -= 1;
    }

    /// @notice What a job has in escrow.
    function escrow(IRegistry.Job storage j) internal view returns (uint96) {
        return j.reward + j.auditFee - j.spent;
    }

    /// @notice Adds to a job's escrow what was paid out before, or came from others.
    function refill(State storage s, IRegistry.Job storage j, uint96 amount) internal {
        uint96 spent = j.spent;
        uint96 returned = spent < amount ? spent : amount;
        j.spent = spent - returned;
        if (amount > returned) j.reward += amount - returned;
        s.books.escrow += amount;
    }

    function share(uint256 amount, uint256 bps) internal pure returns (uint96) {
        return uint96(amount * bps / 10_000);
    }
}
