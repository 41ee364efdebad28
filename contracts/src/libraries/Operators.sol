// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {LibBit} from "solady/utils/LibBit.sol";

import {IRegistry, OperatorId} from "../interfaces/IRegistry.sol";
import {Bench} from "./Bench.sol";
import {Stakes, State} from "./State.sol";
import {TypedData} from "./TypedData.sol";
import {VerifierSet} from "./VerifierSet.sol";

/// @title Operators
/// @notice Registration of nodes and verifiers, and their stake. A linked library that runs in the Registry's storage; the
/// functions are documented in `IRegistry`, whose functions of the same names call them and move the tokens.
library Operators {
    using Bench for Bench.Places;
    using VerifierSet for VerifierSet.Set;

    uint256 private constant MAX_ENDPOINT_BYTES = 128;

    function registerNode(
        State storage s,
        IRegistry.Params memory p,
        address key,
        uint96 stake,
        uint64 workloads,
        string calldata endpoint,
        bytes calldata consent
    ) external returns (OperatorId) {
        uint32 id = _enlist(s, IRegistry.Role.Node, key, workloads, endpoint, consent);
        IRegistry.Account storage a = s.accounts[msg.sender];
        require(a.nodes < type(uint8).max, IRegistry.TooManyOperators(msg.sender));
        a.nodes += 1;
        s.operators[id].index = uint32(s.nodes.length);
        s.nodes.push(id);
        for (uint256 left = workloads; left != 0; left &= left - 1) {
            s.benches[uint8(LibBit.ffs(left))].add(msg.sender, p.unstakeDelay);
        }
        _back(s, p, stake);
        return OperatorId.wrap(id);
    }

    function enlistVerifier(State storage s, address key, string calldata endpoint, bytes calldata consent)
        external
        returns (OperatorId)
    {
        return OperatorId.wrap(_enlist(s, IRegistry.Role.Verifier, key, 0, endpoint, consent));
    }

    /// @notice Seats the caller's operator that was just enlisted.
    function seatVerifier(
        State storage s,
        IRegistry.Params memory p,
        OperatorId id,
        uint96 stake,
        bytes calldata publicKey,
        bytes calldata possession
    ) external {
        bytes32 claimed = TypedData.verifierKey(msg.sender, s.operators[OperatorId.unwrap(id)].key, publicKey);
        VerifierSet.requirePossession(publicKey, TypedData.digest(claimed), possession);
        _seat(s, p, OperatorId.unwrap(id), publicKey);
        _back(s, p, stake);
    }

    function rotateKey(State storage s, OperatorId id, address key, bytes calldata consent) external {
        IRegistry.Operator storage o = s.operators[OperatorId.unwrap(id)];
        require(msg.sender == o.owner, IRegistry.NotOwner(id, msg.sender, o.owner));
        _takeKey(s, OperatorId.unwrap(id), key, consent);
        o.key = key;
        emit IRegistry.KeyRotated(id, key);
    }

    function setEndpoint(State storage s, OperatorId id, string calldata endpoint) external {
        IRegistry.Operator storage o = s.operators[OperatorId.unwrap(id)];
        require(msg.sender == o.owner || msg.sender == o.key, IRegistry.NotOwner(id, msg.sender, o.owner));
        _setEndpoint(s, OperatorId.unwrap(id), endpoint);
        emit IRegistry.EndpointSet(id, endpoint);
    }

    function retire(State storage s, IRegistry.Params memory p, OperatorId id) external {
        IRegistry.Operator storage o = s.operators[OperatorId.unwrap(id)];
        IRegistry.Account storage a = s.accounts[o.owner];
        require(o.listed, IRegistry.NotListed(id));
        // An owner's nodes fall before its verifier does.
        uint256 needed = o.role == IRegistry.Role.Verifier ? Stakes.seatStake(p) : Stakes.required(a, p);
        bool may = msg.sender == o.owner || uint256(a.stake) + a.frozen < needed;
        require(may, IRegistry.StillBacked(id));
        if (o.role == IRegistry.Role.Verifier) Stakes.unseat(s, p, a);
        else _unlistNode(s, o);
    }

    function joinBench(State storage s, IRegistry.Params memory p, uint64 workloads) external {
        address owner = ownerOf(s, msg.sender);
        for (uint256 left = workloads; left != 0; left &= left - 1) {
            s.benches[uint8(LibBit.ffs(left))].join(owner, p.unstakeDelay);
        }
    }

    function attend(State storage s, IRegistry.Params memory p) external {
        uint32 id = callingVerifier(s);
        s.verifiers.attend(1 << s.operators[id].index, block.timestamp / p.idlePeriod);
    }

    function unseatIdle(State storage s, IRegistry.Params memory p, uint8 slot) external {
        require(s.verifiers.isIdle(slot, p.idlePeriod), IRegistry.NotIdle(slot));
        Stakes.unseat(s, p, s.accounts[s.operators[s.verifiers.seats[slot].operator].owner]);
    }

    // ------------------------------------------------------------------------------------------------- stake

    function addStake(State storage s, uint96 amount) external {
        Stakes.credit(s, msg.sender, amount);
    }

    function requestUnstake(State storage s, IRegistry.Params memory p, uint96 amount) external {
        IRegistry.Account storage a = s.accounts[msg.sender];
        uint256 required = uint256(a.nodes) * p.nodeStake + Stakes.bound(a, p) + amount;
        require(a.stake >= required, IRegistry.StakeTooLow(msg.sender, a.stake, required));
        a.stake -= amount;
        a.unbonding += amount;
        a.releaseAt = uint40(block.timestamp) + p.unstakeDelay;
        s.books.stakes -= amount;
        s.books.unbonding += amount;
        Stakes.changed(a, msg.sender);
        emit IRegistry.UnstakeRequested(msg.sender, amount, a.releaseAt);
    }

    function withdraw(State storage s) external returns (uint96 amount) {
        IRegistry.Account storage a = s.accounts[msg.sender];
        amount = a.unbonding;
        require(amount > 0, IRegistry.NothingToWithdraw(msg.sender));
        require(block.timestamp >= a.releaseAt, IRegistry.StillBonded(msg.sender, a.releaseAt));
        a.unbonding = 0;
        s.books.unbonding -= amount;
        Stakes.changed(a, msg.sender);
        emit IRegistry.Withdrawn(msg.sender, amount);
    }

    // ------------------------------------------------------------------------------------------------- shared

    /// @notice Whose stake a caller speaks for: that of its hot key's owner, or its own.
    function ownerOf(State storage s, address caller) internal view returns (address) {
        IRegistry.Operator storage o = s.operators[s.operatorOf[caller]];
        return o.key == caller ? o.owner : caller;
    }

    /// @notice The caller's operator, which must have a seat.
    function callingVerifier(State storage s) internal view returns (uint32 id) {
        id = s.operatorOf[msg.sender];
        IRegistry.Operator storage o = s.operators[id];
        bool may = o.key == msg.sender && o.role == IRegistry.Role.Verifier && o.listed;
        require(may, IRegistry.NotVerifier(msg.sender));
    }

    // ------------------------------------------------------------------------------------------------ helpers

    /// @dev Adds stake, which must back all of the caller's operators then.
    function _back(State storage s, IRegistry.Params memory p, uint96 amount) private {
        Stakes.credit(s, msg.sender, amount);
        IRegistry.Account storage a = s.accounts[msg.sender];
        uint256 required = Stakes.required(a, p);
        require(a.stake >= required, IRegistry.StakeTooLow(msg.sender, a.stake, required));
    }

    function _enlist(
        State storage s,
        IRegistry.Role role,
        address key,
        uint64 workloads,
        string calldata endpoint,
        bytes calldata consent
    ) private returns (uint32 id) {
        id = s.operatorOf[key];
        IRegistry.Operator storage o = s.operators[id];
        if (id == 0) {
            id = ++s.books.operators;
            o = s.operators[id];
            _takeKey(s, id, key, consent);
            (o.owner, o.role, o.key) = (msg.sender, role, key);
        } else {
            bool same = o.owner == msg.sender && o.role == role && o.key == key && !o.listed;
            require(same, IRegistry.KeyTaken(key, OperatorId.wrap(id)));
        }
        o.listed = true;
        o.workloads = workloads;
        _setEndpoint(s, id, endpoint);
        emit IRegistry.OperatorRegistered(OperatorId.wrap(id), msg.sender, role, key, workloads, endpoint);
    }

    function _seat(State storage s, IRegistry.Params memory p, uint32 id, bytes calldata publicKey) private {
        IRegistry.Account storage a = s.accounts[msg.sender];
        require(a.verifierSlot == 0, IRegistry.TooManyOperators(msg.sender));
        uint40 delay = s.books.batches == 0 ? 0 : p.seatDelay;
        uint8 slot = s.verifiers.take(id, s.operators[id].index, a.boundUntil, publicKey, delay);
        s.operators[id].index = slot;
        a.verifierSlot = 1 + uint16(slot);
    }

    function _unlistNode(State storage s, IRegistry.Operator storage o) private {
        uint32 last = s.nodes[s.nodes.length - 1];
        emit IRegistry.OperatorRetired(OperatorId.wrap(s.nodes[o.index]));
        s.nodes[o.index] = last;
        s.operators[last].index = o.index;
        s.nodes.pop();
        o.listed = false;
        s.accounts[o.owner].nodes -= 1;
        for (uint256 left = o.workloads; left != 0; left &= left - 1) {
            s.benches[uint8(LibBit.ffs(left))].remove(o.owner);
        }
    }

    function _takeKey(State storage s, uint32 id, address key, bytes calldata consent) private {
        require(s.operatorOf[key] == 0, IRegistry.KeyTaken(key, OperatorId.wrap(s.operatorOf[key])));
        // slither-disable-next-line unused-return
        (address signer,,) = ECDSA.tryRecover(TypedData.digest(TypedData.register(msg.sender, key)), consent);
        require(signer == key && key != address(0), IRegistry.BadConsent(key, signer));
        s.operatorOf[key] = id;
    }

    function _setEndpoint(State storage s, uint32 id, string calldata endpoint) private {
        uint256 length = bytes(endpoint).length;
        require(length <= MAX_ENDPOINT_BYTES, IRegistry.EndpointTooLong(length, MAX_ENDPOINT_BYTES));
        s.endpoints[id] = endpoint;
    }
}
