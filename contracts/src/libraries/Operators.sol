// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

import {IRegistry, OperatorId} from "../interfaces/IRegistry.sol";
import {Stakes, State} from "./State.sol";
import {TypedData} from "./TypedData.sol";
import {VerifierSet} from "./VerifierSet.sol";

/// @title Operators
/// @notice Registration of nodes and verifiers. A linked library that runs in the Registry's storage; the functions are
/// documented in `IRegistry`, whose functions of the same names call them and take the stake.
library Operators {
    using VerifierSet for VerifierSet.Set;

    uint256 private constant MAX_ENDPOINT_BYTES = 128;

    function registerNode(
        State storage s,
        address key,
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
        return OperatorId.wrap(id);
    }

    function registerVerifier(
        State storage s,
        address key,
        string calldata endpoint,
        bytes calldata consent,
        bytes calldata publicKey,
        bytes calldata possession
    ) external returns (OperatorId) {
        uint32 id = _enlist(s, IRegistry.Role.Verifier, key, 0, endpoint, consent);
        _seat(s, id, key, publicKey, possession);
        return OperatorId.wrap(id);
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

    function retire(State storage s, OperatorId id, uint256 nodeStake, uint256 verifierStake) external {
        IRegistry.Operator storage o = s.operators[OperatorId.unwrap(id)];
        IRegistry.Account storage a = s.accounts[o.owner];
        require(o.listed, IRegistry.NotListed(id));
        bool may = msg.sender == o.owner || a.stake < Stakes.required(a, nodeStake, verifierStake);
        require(may, IRegistry.StillBacked(id));
        if (o.role == IRegistry.Role.Verifier) Stakes.unlistVerifier(s, a);
        else Stakes.unlistNode(s, o);
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

    function _seat(State storage s, uint32 id, address key, bytes calldata publicKey, bytes calldata possession)
        private
    {
        IRegistry.Account storage a = s.accounts[msg.sender];
        require(a.verifierSlot == 0, IRegistry.TooManyOperators(msg.sender));
        bytes32 digest = TypedData.digest(TypedData.verifierKey(msg.sender, key, publicKey));
        a.verifierSlot = 1 + uint16(s.verifiers.add(id, publicKey, digest, possession));
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
