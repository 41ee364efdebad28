// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {LibBit} from "solady/utils/LibBit.sol";

import {ILens} from "./interfaces/ILens.sol";
import {IRegistry, OperatorId, BatchId} from "./interfaces/IRegistry.sol";
import {Dial} from "./libraries/Dial.sol";

/// @title Lens
contract Lens is ILens {
    uint256 private constant SLOTS = 256;

    IRegistry private immutable REGISTRY;
    /// @dev What of a stake requester, auditors and workers get, who may be the cheat's own.
    uint256 private immutable GIVEN_BACK_BPS;
    uint256 private immutable COLLUSION_BPS;

    constructor(IRegistry registry_) {
        REGISTRY = registry_;
        IRegistry.Params memory p = registry_.params();
        GIVEN_BACK_BPS = uint256(p.slashRequesterBps) + p.slashAuditorBps + p.slashRedressBps;
        COLLUSION_BPS = p.collusionBps;
    }

    /// @inheritdoc ILens
    function registry() external view returns (IRegistry) {
        return REGISTRY;
    }

    /// @inheritdoc ILens
    function operator(OperatorId id) public view returns (IRegistry.OperatorView memory) {
        IRegistry.Operator memory o = REGISTRY.operatorState(id);
        IRegistry.Account memory a = REGISTRY.account(o.owner);
        IRegistry.Params memory p = REGISTRY.params();
        uint256 all = uint256(a.nodes) * p.nodeStake + (a.verifierSlot == 0 ? 0 : p.verifierStake);
        uint256 required = o.role == IRegistry.Role.Verifier ? p.verifierStake / 2 : all;
        return IRegistry.OperatorView({
            id: id,
            role: o.role,
            active: o.listed && a.stake >= required,
            key: o.key,
            owner: o.owner,
            stake: a.stake,
            consecutiveValid: o.consecutiveValid,
            lastFault: o.lastFault,
            workloads: o.workloads,
            endpoint: REGISTRY.endpointOf(id)
        });
    }

    /// @inheritdoc ILens
    function nodes(uint256 cursor, uint256 limit) external view returns (IRegistry.OperatorView[] memory page) {
        // slither-disable-next-line unused-return
        (, uint256 length,,,) = REGISTRY.counts();
        if (cursor >= length) return page;
        page = new IRegistry.OperatorView[](limit < length - cursor ? limit : length - cursor);
        for (uint256 i = 0; i < page.length; ++i) {
            page[i] = operator(REGISTRY.nodeAt(cursor + i));
        }
    }

    /// @inheritdoc ILens
    function verifiers(uint256 from, uint256 to) external view returns (IRegistry.VerifierView[] memory page) {
        uint256 selected = from < SLOTS ? REGISTRY.seats() >> from << from : 0;
        if (to < SLOTS) selected &= (1 << to) - 1;
        page = new IRegistry.VerifierView[](LibBit.popCount(selected));
        for (uint256 i = 0; i < page.length; ++i) {
            page[i] = _verifier(uint8(LibBit.ffs(selected)));
            selected &= selected - 1;
        }
    }

    /// @inheritdoc ILens
    function claimable(uint256 from, uint256 to) external view returns (uint256 sum) {
        // slither-disable-next-line unused-return
        (,,, uint256 batches,) = REGISTRY.counts();
        for (uint256 id = from; id < to && id <= batches; ++id) {
            IRegistry.Batch memory b = REGISTRY.batch(BatchId.wrap(id));
            sum += uint256(b.settled.remaining) + b.fees;
        }
    }

    /// @inheritdoc ILens
    function auditProbability(
        OperatorId id,
        uint256 tasksInFlight,
        uint256 rewardInFlight,
        uint256 segments,
        uint256 segmentsPerAudit
    ) external view returns (uint256, uint256) {
        IRegistry.Operator memory o = REGISTRY.operatorState(id);
        uint256 stake = Dial.atRisk(REGISTRY.account(o.owner).stake, GIVEN_BACK_BPS);
        return
            Dial.odds(
                o.consecutiveValid, stake, tasksInFlight, rewardInFlight, COLLUSION_BPS, segments, segmentsPerAudit
            );
    }

    function _verifier(uint8 slot) private view returns (IRegistry.VerifierView memory) {
        OperatorId id = REGISTRY.seatHolder(slot, block.timestamp);
        IRegistry.Operator memory o = REGISTRY.operatorState(id);
        return IRegistry.VerifierView({
            id: id,
            slot: slot,
            counts: REGISTRY.seatCountsFrom(slot) <= block.timestamp,
            key: o.key,
            owner: o.owner,
            stake: REGISTRY.account(o.owner).stake,
            publicKey: REGISTRY.seatKey(slot),
            endpoint: REGISTRY.endpointOf(id)
        });
    }
}
