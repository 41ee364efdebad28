// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Blockhash} from "@openzeppelin/contracts/utils/Blockhash.sol";
import {LibBit} from "solady/utils/LibBit.sol";

import {IRegistry, OperatorId, JobId, BatchId} from "../interfaces/IRegistry.sol";
import {Stakes, State} from "./State.sol";
import {TypedData} from "./TypedData.sol";
import {VerifierSet} from "./VerifierSet.sol";

/// @title Settling
/// @notice From a committed batch to its settlement, and what its faults freeze. A linked library that runs in the
/// Registry's storage; the functions are documented in `IRegistry`, whose functions of the same names call them.
library Settling {
    using VerifierSet for VerifierSet.Set;

    uint256 private constant MAX_FAULTS = 32;
    uint256 private constant MAX_PAYOUTS = type(uint24).max;
    uint256 private constant CID_BYTES = 36;
    /// @dev The reason of a fault that costs no stake: see `proofyard.protocol.settlement.FaultReason`.
    uint8 private constant DISAGREED = 4;

    function draw(State storage s, BatchId id, uint256 drawDelay) external returns (bytes32) {
        IRegistry.Batch storage b = s.batches[BatchId.unwrap(id)];
        require(b.job != 0, IRegistry.UnknownBatch(id));
        return _draw(id, b, drawDelay);
    }

    function recommit(State storage s, BatchId id, uint256 drawDelay) external {
        IRegistry.Batch storage b = s.batches[BatchId.unwrap(id)];
        require(b.job != 0, IRegistry.UnknownBatch(id));
        uint256 drawBlock = b.commitBlock + drawDelay;
        bool lost = b.seed == 0 && block.number > drawBlock && Blockhash.blockHash(drawBlock) == 0;
        require(lost, IRegistry.SeedAvailable(id));
        b.commitBlock = uint40(block.number);
        emit IRegistry.BatchRecommitted(id, block.number);
    }

    function settle(
        State storage s,
        IRegistry.Settlement calldata settlement,
        uint256 signers,
        bytes calldata signature,
        uint256 drawDelay,
        uint256 grace,
        uint40 window
    ) external {
        IRegistry.Batch storage b = s.batches[BatchId.unwrap(settlement.batch)];
        require(b.job != 0, IRegistry.UnknownBatch(settlement.batch));
        require(b.settled.settledAt == 0, IRegistry.AlreadySettled(settlement.batch));
        require(settlement.payoutCount <= MAX_PAYOUTS, IRegistry.BadSettlement("too many payouts"));
        require(settlement.faults.length <= MAX_FAULTS, IRegistry.BadSettlement("too many faults"));
        require(settlement.record.length == CID_BYTES, IRegistry.BadSettlement("record is not a CID"));
        _draw(settlement.batch, b, drawDelay);
        s.verifiers.check(digest(settlement, b), signers, signature);

        _spend(s, b, settlement.payoutTotal, grace);
        b.payoutRoot = settlement.payoutRoot;
        b.settled = IRegistry.Settled({
            remaining: settlement.payoutTotal,
            settledAt: uint40(block.timestamp),
            claimableAt: uint40(block.timestamp) + window,
            payoutCount: uint24(settlement.payoutCount),
            openChallenges: 0,
            faulted: settlement.faults.length > 0,
            claimed: 0
        });
        b.signers = signers;
        if (settlement.faults.length > 0) _recordFaults(s, settlement, b);
        emit IRegistry.BatchSettled(
            settlement.batch,
            JobId.wrap(b.job),
            settlement.payoutRoot,
            settlement.payoutCount,
            settlement.payoutTotal,
            settlement.auditRoot,
            settlement.record,
            signers,
            block.timestamp + window
        );
    }

    function digest(IRegistry.Settlement calldata settlement, IRegistry.Batch storage b)
        internal
        view
        returns (bytes32)
    {
        return TypedData.digest(TypedData.settlement(settlement, b.root, b.seed, b.attempt));
    }

    /// @dev Takes a batch's pay out of its job's escrow.
    function _spend(State storage s, IRegistry.Batch storage b, uint96 amount, uint256 grace) private {
        IRegistry.Job storage j = s.jobs[b.job];
        uint256 lastMoment = j.deadline + grace;
        require(block.timestamp <= lastMoment, IRegistry.DeadlinePassed(JobId.wrap(b.job), lastMoment));
        uint96 escrow = Stakes.escrow(j);
        require(escrow >= amount, IRegistry.EscrowTooLow(JobId.wrap(b.job), escrow, amount));
        j.spent += amount;
        j.openTasks -= b.size;
        j.lastActive = uint40(block.timestamp);
        s.books.escrow -= amount;
    }

    function _draw(BatchId id, IRegistry.Batch storage b, uint256 drawDelay) private returns (bytes32 seed) {
        seed = b.seed;
        if (seed != 0) return seed;
        uint256 drawBlock = b.commitBlock + drawDelay;
        require(block.number > drawBlock, IRegistry.TooEarlyToDraw(id, drawBlock));
        bytes32 entropy = Blockhash.blockHash(drawBlock);
        require(entropy != 0, IRegistry.SeedLost(id, drawBlock));
        seed = keccak256(abi.encode(entropy, id, b.root));
        b.seed = seed;
        emit IRegistry.BatchDrawn(id, seed);
    }

    /// @notice Reputation falls at once; a fault that costs stake freezes the owner's in `bonds` until the window closes.
    function _recordFaults(State storage s, IRegistry.Settlement calldata settlement, IRegistry.Batch storage b)
        private
    {
        uint96 frozen;
        for (uint256 i = 0; i < settlement.faults.length; ++i) {
            IRegistry.Fault calldata f = settlement.faults[i];
            uint32 id = OperatorId.unwrap(f.operator);
            IRegistry.Operator storage o = s.operators[id];
            require(o.owner != address(0), IRegistry.BadSettlement("fault of an unknown operator"));
            bool costly = f.reason != DISAGREED;
            uint96 amount = costly ? Stakes.take(s, o.owner, type(uint256).max) : 0;
            frozen += amount;
            IRegistry.SlashRecord memory taken = IRegistry.SlashRecord({
                operator: id,
                amount: amount,
                consecutiveValid: o.consecutiveValid,
                lastFault: o.lastFault,
                task: f.task,
                segment: f.segment,
                reason: f.reason,
                forfeits: o.forfeits
            });
            s.slashes[BatchId.unwrap(settlement.batch)].push(taken);
            o.consecutiveValid = 0;
            if (_dated(taken)) (o.lastFault, o.forfeits) = (uint40(block.timestamp), costly);
            emit IRegistry.Faulted(settlement.batch, f.operator, f.task, f.segment, f.reason, amount);
        }
        b.frozen = frozen;
        b.auditUnits = settlement.auditUnits;
    }

    /// @dev Whether a fault became the operator's last. One that costs no stake leaves the date of one that did, which
    /// forfeits pay; else a cheat would save its pay with a fault that costs nothing.
    function _dated(IRegistry.SlashRecord memory f) private pure returns (bool) {
        return f.reason != DISAGREED || !f.forfeits;
    }

    /// @notice Distributes what the batch's faults froze; the caller has made sure that nothing can be reverted any more.
    function finalize(State storage s, BatchId id, uint256 requesterBps, uint256 auditorBps) external {
        IRegistry.Batch storage b = s.batches[BatchId.unwrap(id)];
        uint96 frozen = b.frozen;
        if (frozen == 0) return;
        uint96 toRequester = Stakes.share(frozen, requesterBps);
        uint96 toAuditors = b.auditUnits == 0 ? 0 : Stakes.share(frozen, auditorBps);
        uint96 burned = frozen - toRequester - toAuditors;
        b.frozen = 0;
        b.pool = toAuditors;
        b.settled.remaining += toAuditors;
        s.books.bonds -= frozen;
        Stakes.refill(s, s.jobs[b.job], toRequester);
        s.books.burned += burned;
        emit IRegistry.SlashFinal(id, toRequester, toAuditors, burned);
    }

    /// @notice Undoes a settlement that was found wrong: stakes, reputation and escrow return, the batch can be settled
    /// again, and every verifier that signed loses its owner's whole stake, which is returned as `seized`.
    function void(State storage s, BatchId id, IRegistry.Batch storage b) internal returns (uint96 seized) {
        IRegistry.SlashRecord[] storage faults = s.slashes[BatchId.unwrap(id)];
        for (uint256 i = faults.length; i > 0; --i) {
            IRegistry.SlashRecord memory f = faults[i - 1];
            IRegistry.Operator storage o = s.operators[f.operator];
            Stakes.give(s, o.owner, f.amount);
            if (o.lastFault == (_dated(f) ? b.settled.settledAt : f.lastFault)) {
                (o.lastFault, o.forfeits) = (f.lastFault, f.forfeits);
                o.consecutiveValid += f.consecutiveValid;
            }
        }
        delete s.slashes[BatchId.unwrap(id)];
        IRegistry.Job storage j = s.jobs[b.job];
        j.openTasks += b.size;
        Stakes.refill(s, j, b.settled.remaining);
        uint256 signers = b.signers;
        delete b.settled;
        (b.frozen, b.auditUnits) = (0, 0);
        b.attempt += 1;
        emit IRegistry.BatchVoided(id, b.attempt);
        for (; signers != 0; signers &= signers - 1) {
            uint32 signer = s.verifiers.operatorAt[LibBit.ffs(signers)];
            seized += Stakes.take(s, s.operators[signer].owner, type(uint256).max);
        }
    }
}
