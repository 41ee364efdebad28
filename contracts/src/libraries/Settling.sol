// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Blockhash} from "@openzeppelin/contracts/utils/Blockhash.sol";
import {FixedPointMathLib} from "solady/utils/FixedPointMathLib.sol";
import {LibBit} from "solady/utils/LibBit.sol";

import {IRegistry, OperatorId, JobId, BatchId} from "../interfaces/IRegistry.sol";
import {Causes} from "./Causes.sol";
import {Headers} from "./Headers.sol";
import {Jobs} from "./Jobs.sol";
import {Lines} from "./Lines.sol";
import {Marks} from "./Marks.sol";
import {Merkle} from "./Merkle.sol";
import {JobBook, JobSlots, Stakes, State} from "./State.sol";
import {TypedData} from "./TypedData.sol";
import {VerifierSet} from "./VerifierSet.sol";

/// @title Settling
/// @notice From a batch's draw to its settlement and its end. A linked library that runs in the Registry's storage; the
/// functions are documented in `IRegistry`, whose functions of the same names call them.
library Settling {
    using JobSlots for JobBook;
    using VerifierSet for VerifierSet.Set;

    uint256 private constant MAX_FAULTS = 32;
    uint256 private constant MAX_PAYOUTS = type(uint24).max;
    uint256 private constant CID_BYTES = 36;
    uint256 private constant BPS = 10_000;

    // -------------------------------------------------------------------------------------------------- draw

    function draw(State storage s, BatchId id, uint256 drawDelay) external returns (bytes32 seed) {
        IRegistry.Batch storage b = s.batches[BatchId.unwrap(id)];
        require(b.header != 0, IRegistry.UnknownBatch(id));
        _requireOpen(id, b);
        seed = _drawn(id, b, drawDelay);
        if (b.seed == 0) b.seed = seed;
    }

    function recommit(State storage s, IRegistry.Params memory p, BatchId id) external {
        IRegistry.Batch storage b = s.batches[BatchId.unwrap(id)];
        require(b.header != 0, IRegistry.UnknownBatch(id));
        require(!b.dropped, IRegistry.BadBatch("dropped"));
        _requireOpen(id, b);
        uint256 drawBlock = uint256(b.commitBlock) + p.drawDelay;
        bool lost = b.seed == 0 && block.number > drawBlock && Blockhash.blockHash(drawBlock) == 0;
        require(lost, IRegistry.SeedAvailable(id));
        b.commitBlock = uint32(block.number);
        emit IRegistry.BatchRecommitted(id, block.number);
        Stakes.penalise(s, p, b.verifier, BatchId.unwrap(id), p.settlePenalty);
    }

    /// @dev A settled batch has its seed in the header, also when it was voided.
    function _requireOpen(BatchId id, IRegistry.Batch storage b) private view {
        require(b.settled.settledAt == 0 && !Jobs.isVoid(b), IRegistry.AlreadySettled(id));
    }

    /// @dev The seed of an open batch, whose header's hash is that of what was committed.
    function _drawn(BatchId id, IRegistry.Batch storage b, uint256 drawDelay) private returns (bytes32 seed) {
        seed = b.seed;
        if (seed != 0) return seed;
        uint256 drawBlock = b.commitBlock + drawDelay;
        require(block.number > drawBlock, IRegistry.TooEarlyToDraw(id, drawBlock));
        bytes32 entropy = Blockhash.blockHash(drawBlock);
        require(entropy != 0, IRegistry.SeedLost(id, drawBlock));
        seed = keccak256(abi.encode(entropy, id, b.header));
        emit IRegistry.BatchDrawn(id, seed);
    }

    // -------------------------------------------------------------------------------------------- settlement

    function settle(
        State storage s,
        IRegistry.Params memory p,
        IRegistry.Settlement calldata settlement,
        IRegistry.Header calldata header,
        uint256 signers,
        bytes calldata signature
    ) external {
        IRegistry.Header memory next = header;
        IRegistry.Batch storage b = Jobs.unsettled(s, settlement.batch, next);
        _checkShape(p, settlement, next, b);
        bytes32 seed = _drawn(settlement.batch, b, p.drawDelay);
        _checkSigners(s, settlement, b, seed, signers, signature);
        s.verifiers.attend(signers, block.timestamp / p.idlePeriod);

        uint96 fees;
        (next.paid, fees) = _pay(s, settlement, next.lines, uint40(block.timestamp) + p.seatDelay);
        uint96 redressed = _redressOf(settlement.shares);
        if (redressed != 0) b.redress = redressed;
        (next.seed, next.payoutRoot) = (seed, settlement.payoutRoot);
        b.header = Merkle.node(next.payoutRoot, Headers.bound(next, b.header));
        if (b.seed != 0) b.seed = 0;
        uint256 absent = s.verifiers.quorums[b.quorum].seats & ~signers;
        if (absent != 0) b.absent = absent;
        b.fees = fees;
        b.settled = IRegistry.Settled({
            remaining: settlement.payoutTotal,
            settledAt: uint40(block.timestamp),
            claimableAt: uint40(block.timestamp) + p.challengeWindow,
            payoutCount: uint24(settlement.payoutCount),
            openChallenges: 0,
            unfinal: fees > 0 || settlement.faults.length > 0 || b.exposure > 0,
            pooled: false,
            claimed: 0
        });
        if (settlement.faults.length > 0) {
            b.auditUnits = settlement.auditUnits;
            b.frozen = _recordFaults(s, settlement, next.lines);
        }
        _report(settlement, b, signers, next);
    }

    function _checkShape(
        IRegistry.Params memory p,
        IRegistry.Settlement calldata settlement,
        IRegistry.Header memory header,
        IRegistry.Batch storage b
    ) private view {
        require(!Jobs.isVoid(b), IRegistry.BadBatch("voided, take it first"));
        uint256 end = Jobs.openedAt(b) + p.settleGrace;
        require(block.timestamp <= end, IRegistry.BatchExpired(settlement.batch, end));
        uint256 payouts = settlement.payoutCount;
        require(payouts <= MAX_PAYOUTS, IRegistry.BadSettlement("too many payouts"));
        require(payouts > 0 || settlement.payoutTotal == 0, IRegistry.BadSettlement("a total without payouts"));
        require(settlement.faults.length <= MAX_FAULTS, IRegistry.BadSettlement("too many faults"));
        require(settlement.record.length == CID_BYTES, IRegistry.BadSettlement("record is not a CID"));
        require(settlement.shares.length == header.lines.length, IRegistry.BadSettlement("a share for each line"));
    }

    function _checkSigners(
        State storage s,
        IRegistry.Settlement calldata settlement,
        IRegistry.Batch storage b,
        bytes32 seed,
        uint256 signers,
        bytes calldata signature
    ) private view {
        uint32 leader = b.verifier;
        // If it has left its seat, or has another one, its slot does not count for this quorum.
        bool signed = signers >> s.operators[leader].index & 1 == 1;
        require(signed, IRegistry.LeaderMissing(settlement.batch, OperatorId.wrap(leader)));
        bytes32 digest = TypedData.digest(TypedData.settlement(settlement, b.header, seed, b.attempt));
        s.verifiers.check(b.quorum, digest, signers, signature);
    }

    /// @dev Takes the batch's pay and its verifiers' fees out of what its lines reserved; what each of them paid.
    function _pay(State storage s, IRegistry.Settlement calldata settlement, uint256[] memory lines, uint40 surplusFrom)
        private
        returns (uint256[] memory paid, uint96 fees)
    {
        paid = new uint256[](lines.length);
        uint256 total;
        for (uint256 i = 0; i < lines.length; ++i) {
            uint256 share = settlement.shares[i];
            uint96 fee = _payLine(s, lines[i], share, surplusFrom);
            paid[i] = share + fee;
            fees += fee;
            total += Lines.amount(share);
        }
        require(total == settlement.payoutTotal, IRegistry.BadSettlement("shares are not the total"));
        s.books.escrow -= settlement.payoutTotal + fees;
    }

    /// @dev Ends a line of a job: what it holds is paid, or the job's again.
    function _payLine(State storage s, uint256 line, uint256 share, uint40 surplusFrom) private returns (uint96 fee) {
        JobBook storage j = s.jobs[Lines.job(line)];
        (uint48 unpaid, uint64 returned, uint96 surplus, uint40 from) = j.unpaid();
        uint48 units = Lines.paidUnits(share);
        // Units that were committed again while a batch was void are paid by one of the two.
        uint256 left = FixedPointMathLib.min(Lines.units(line), unpaid);
        require(units <= left, IRegistry.TooManyUnits(JobId.wrap(Lines.job(line)), units, left));
        uint96 rest;
        (fee, rest) = _spent(j, line, share, units);
        if (rest != 0 && surplusFrom > from) from = surplusFrom;
        j.setUnpaid(unpaid - units, returned + (Lines.units(line) - units), surplus + rest, from);
    }

    /// @dev What the verifiers earn with so many units of a line, and what of its budget is left.
    function _spent(JobBook storage j, uint256 line, uint256 share, uint256 units)
        private
        view
        returns (uint96 fee, uint96 rest)
    {
        // slither-disable-next-line unused-return
        (uint48 all,, uint96 whole) = j.terms();
        fee = uint96(uint256(whole) * units / all);
        uint256 amount = uint256(Lines.amount(share)) + fee;
        (uint256 budget, uint256 with_) = (Lines.budget(line), amount + Lines.redress(share));
        require(with_ <= budget, IRegistry.OverBudget(JobId.wrap(Lines.job(line)), budget, with_));
        rest = uint96(budget - amount);
    }

    /// @dev What faults are to pay at most: checked shares, so the sum of budgets that a supply of 96 bits has.
    function _redressOf(uint256[] calldata shares) private pure returns (uint96 sum) {
        for (uint256 i = 0; i < shares.length; ++i) {
            sum += uint96(Lines.redress(shares[i]));
        }
    }

    function _report(
        IRegistry.Settlement calldata settlement,
        IRegistry.Batch storage b,
        uint256 signers,
        IRegistry.Header memory header
    ) private {
        emit IRegistry.BatchSettled(
            settlement.batch,
            b.attempt,
            settlement.payoutRoot,
            settlement.payoutCount,
            settlement.payoutTotal,
            b.fees,
            settlement.auditRoot,
            settlement.record,
            signers,
            b.settled.claimableAt,
            header.lines,
            header.paid
        );
    }

    // ------------------------------------------------------------------------------------------------ faults

    /// @dev Reputation falls at once; a fault that costs stake freezes the owner's in `bonds` until the window closes.
    function _recordFaults(State storage s, IRegistry.Settlement calldata settlement, uint256[] memory lines)
        private
        returns (uint96 frozen)
    {
        for (uint256 i = 0; i < settlement.faults.length; ++i) {
            IRegistry.Fault calldata f = settlement.faults[i];
            Marks.checkFault(s, f, lines);
            frozen += Marks.record(s, settlement.batch, i, f);
        }
    }

    // --------------------------------------------------------------------------------------------------- end

    /// @notice Pays fees, distributes what faults froze and frees what was open; the caller has made sure that nothing can be undone any more.
    function finalize(State storage s, IRegistry.Params memory p, BatchId id) public {
        IRegistry.Batch storage b = s.batches[BatchId.unwrap(id)];
        if (!b.settled.unfinal) return;
        b.settled.unfinal = false;
        Stakes.unexpose(s, b);
        if (b.fees > 0) _payFees(s, id, b, p.leaderBps);
        if (s.slashes[BatchId.unwrap(id)].length > 0) _distribute(s, p, id, b);
    }

    function _payFees(State storage s, BatchId id, IRegistry.Batch storage b, uint256 leaderBps) private {
        (uint96 fees, uint256 signers) = (b.fees, s.verifiers.quorums[b.quorum].seats & ~b.absent);
        b.fees = 0;
        uint96 part = uint96(uint256(fees - Stakes.share(fees, leaderBps)) / LibBit.popCount(signers));
        uint96 toLeader = fees;
        for (uint256 left = signers; left != 0; left &= left - 1) {
            // slither-disable-next-line unused-return
            (uint32 signer,) = s.verifiers.holderIn(LibBit.ffs(left), b.quorum);
            if (signer == b.verifier) continue;
            toLeader -= part;
            Stakes.credit(s, s.operators[signer].owner, part);
        }
        Stakes.credit(s, s.operators[b.verifier].owner, toLeader);
        emit IRegistry.FeesPaid(id, fees, signers);
    }

    function _distribute(State storage s, IRegistry.Params memory p, BatchId id, IRegistry.Batch storage b) private {
        IRegistry.SlashRecord[] storage faults = s.slashes[BatchId.unwrap(id)];
        (uint96 toRequesters, uint96 toAuditors, uint96 aside, uint96 frozen) = (0, 0, 0, b.frozen);
        for (uint256 i = 0; i < faults.length; ++i) {
            IRegistry.SlashRecord storage f = faults[i];
            uint96 amount = f.amount;
            if (f.absolved || amount == 0) continue;
            address owner = s.operators[f.operator].owner;
            s.accounts[owner].frozen -= amount;
            // An owner's whole stake must not be a prize for who accuses it, nor any of it where nobody answers for that.
            uint256 shared = _shared(p, f);
            uint96 part = Stakes.share(shared, p.slashRequesterBps);
            s.jobs[f.job].surplus += part;
            toRequesters += part;
            if (b.auditUnits != 0) toAuditors += Stakes.share(shared, p.slashAuditorBps);
            f.redress = Stakes.share(shared, p.slashRedressBps);
            aside += f.redress;
            Stakes.unseatUnbacked(s, p, owner);
        }
        uint96 burned = frozen - toRequesters - toAuditors - aside;
        (b.frozen, b.pool) = (0, toAuditors);
        b.settled.remaining += toAuditors + aside;
        b.settled.pooled = toAuditors > 0;
        s.books.bonds -= frozen;
        s.books.escrow += toRequesters;
        s.books.burned += burned;
        emit IRegistry.SlashFinal(id, toRequesters, toAuditors, aside, burned);
    }

    /// @dev What of a fault's stake is shared: at most a node's.
    function _shared(IRegistry.Params memory p, IRegistry.SlashRecord storage f) private view returns (uint256) {
        return f.accusers.length == 0 ? 0 : FixedPointMathLib.min(f.amount, p.nodeStake);
    }

    /// @notice Takes out of what is set aside of a fault's stake what work is paid that it made worthless: its price, or as
    /// large a part of it as of all such work's; nothing where a jury has undone the fault; never more than the settlement of `payer` says in its shares. `known` only once the
    /// fault is final, and if its settlement is the one that `cause` means.
    function redress(State storage s, IRegistry.Params memory p, BatchId payer, uint256 cause, uint96 price)
        external
        returns (bool known, uint96 amount)
    {
        (uint256 id, uint8 attempt, uint256 index, uint96 prices) = Causes.unpack(cause);
        IRegistry.Batch storage b = s.batches[id];
        IRegistry.Settled storage t = b.settled;
        known = t.settledAt != 0 && b.attempt == attempt && t.openChallenges == 0 && block.timestamp >= t.claimableAt
            && index < s.slashes[id].length;
        if (!known) return (false, 0);
        finalize(s, p, BatchId.wrap(id));
        IRegistry.SlashRecord storage f = s.slashes[id][index];
        uint256 whole = Stakes.share(_shared(p, f), p.slashRedressBps);
        amount = prices <= whole ? price : uint96(whole * price / prices);
        IRegistry.Batch storage by = s.batches[BatchId.unwrap(payer)];
        amount = uint96(FixedPointMathLib.min(amount, FixedPointMathLib.min(f.redress, by.redress)));
        f.redress -= amount;
        by.redress -= amount;
        t.remaining -= amount;
    }
}
