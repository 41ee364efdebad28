// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId} from "../src/interfaces/IRegistry.sol";
import {Causes} from "../src/libraries/Causes.sol";
import {Lines} from "../src/libraries/Lines.sol";
import {Base, Line} from "./helpers/Base.sol";

/// @notice Does anything a network does, in any order, and keeps books of its own. The Court is a mad one: it voids, convicts,
/// absolves, slashes and bonds as it likes, between a hold and its release as the real one does. At least three verifiers
/// are kept seated.
contract Handler is Base {
    uint256 private constant NODES = 5;
    address private constant CHALLENGER = address(0xd00d);
    JobId[] private jobs;
    BatchId[] private batches;
    uint256[] private seated;
    uint256 private lastVerifier;
    uint256 private bonds;
    mapping(BatchId => uint256) private payees;
    mapping(BatchId => uint96) private amounts;
    mapping(BatchId => bool) private heldUp;
    /// @dev Of the second payout of each batch, which a fault pays.
    mapping(BatchId => uint256) private causes;
    mapping(BatchId => uint96) private prices;

    bool public claimedTwice;
    bool public claimedEarly;
    bool public leftEarly;
    bool public burnedFell;
    bool public tookBoundStake;
    bool public tookWhatWasNotFree;
    uint256 public redressed;
    uint256 private burnedBefore;
    /// @dev What each owner asked to be released, and when that can be at the earliest.
    mapping(uint256 node => uint256) private releaseAt;
    mapping(uint256 node => uint256) private validClaimed;

    constructor() {
        setUp();
        fund(REQUESTER, 100e6 * CREDIT);
        for (uint256 i = 0; i < NODES; ++i) {
            addNode(10 + i);
        }
        fund(CHALLENGER, 1e6 * CREDIT);
        vm.prank(CHALLENGER);
        registry.addStake(1e24);
        _seat();
        jobs.push(openJob());
    }

    modifier watched() {
        _;
        uint256 burned = registry.totals().burned;
        if (burned < burnedBefore) burnedFell = true;
        burnedBefore = burned;
    }

    /// @dev Enough for all that is committed at once now and then, too little at other times.
    function exposureBps() internal pure override returns (uint16) {
        return 20_000;
    }

    // ------------------------------------------------------------------------------------------------ people

    function stake(uint256 i, uint96 amount) external watched {
        fund(_owner(i), 300e18);
        vm.prank(_owner(i));
        registry.addStake(uint96(amount % 300e18));
    }

    function unstake(uint256 i, uint96 amount) external watched {
        vm.prank(_owner(i));
        try registry.requestUnstake(uint96(amount % 20e18) + 1) {
            releaseAt[i % NODES] = vm.getBlockTimestamp() + UNSTAKE_DELAY;
        } catch {}
    }

    function withdraw(uint256 i) external watched {
        vm.prank(_owner(i));
        try registry.withdraw() {
            if (vm.getBlockTimestamp() < releaseAt[i % NODES]) leftEarly = true;
        } catch {}
    }

    /// @notice A node leaves, or comes back.
    function retire(uint256 i) external watched {
        OperatorId id = _node(i);
        if (registry.operatorState(id).listed) {
            vm.prank(_owner(i));
            registry.retire(id);
        } else {
            uint96 needed = _missing(_owner(i));
            fund(_owner(i), needed);
            listNode(10 + i % NODES, 10 + i % NODES, needed, 1);
        }
    }

    /// @notice A verifier leaves, and asks for its stake at once.
    function unseat(uint256 by) external watched {
        if (by % 4 != 0) return;
        _seat();
        uint256 i = seated[by % seated.length];
        OperatorId id = registry.operatorOf(vm.addr(2000 + i));
        vm.prank(owner(i));
        registry.retire(id);
        uint96 all = registry.account(owner(i)).stake;
        vm.prank(owner(i));
        try registry.requestUnstake(all) {
            if (all > 0) tookBoundStake = true;
        } catch {}
    }

    function wait(uint256 time) external watched {
        later(time % 3 hours);
    }

    /// @notice A verifier takes what it can of jobs, of which some are nobody's, over, others' or none.
    function take(uint256 j, uint256 by) external watched {
        _seat();
        JobId[] memory ids = new JobId[](3);
        (ids[0], ids[1]) = (jobs[j % jobs.length], jobs[(j >> 64) % jobs.length]);
        ids[2] = JobId.wrap(by % 3 == 0 ? j : JobId.unwrap(_opened(by)));
        if (by % 3 != 0) jobs.push(ids[2]);
        IRegistry.Job memory was = registry.job(ids[0]);
        bool free = was.verifier == 0 || !registry.operatorState(OperatorId.wrap(was.verifier)).listed
            || vm.getBlockTimestamp() > uint256(was.lastActive) + TAKEOVER;
        bool open = vm.getBlockTimestamp() < was.end || vm.getBlockTimestamp() <= was.end && !was.closed;
        vm.prank(vm.addr(2000 + seated[by % seated.length]));
        try registry.takeJobs(ids, anchor()) {} catch {}
        if (registry.job(ids[0]).verifier != was.verifier && !(free && open)) tookWhatWasNotFree = true;
    }

    // ------------------------------------------------------------------------------------------------ batches

    function commit(uint256 j, uint256 by, uint64 units) public watched {
        _seat();
        (JobId job, uint64 left) = _committable(j);
        uint256 i = seated[by % seated.length];
        uint256 from = registry.seatCountsFrom(slotOf(i));
        later(TAKEOVER + 1);
        if (from > vm.getBlockTimestamp()) vm.warp(from);
        if (vm.getBlockTimestamp() > registry.job(job).end) return;
        try this.commitLinesOf(i, job, units % left + 1) returns (BatchId id) {
            drawNow(id);
            batches.push(id);
        } catch {}
    }

    /// @dev Refused where its owner has too much open already.
    function commitLinesOf(uint256 i, JobId job, uint64 units) external returns (BatchId) {
        return commitLines(i, bytes32(uint256(2)), 10, lines(job, units));
    }

    /// @notice All seats that may still sign do; a fault or two, of any reason.
    function settle(uint256 b, uint96 amount, uint64 units, uint256 faults) public watched {
        if (batches.length == 0) return;
        BatchId id = _batch(b);
        IRegistry.Batch memory was = registry.batch(id);
        if (was.settled.settledAt != 0 || was.dropped || was.voided) return;
        Line memory l = lineOf(id, 0);
        units = units % (l.units + 1);
        uint96 fee = uint96(uint256(10e18) * units / UNITS);
        if (l.budget < fee) return;
        amount = amount % (l.budget - fee + 1);
        payees[id] = b % NODES;
        amounts[id] = amount;
        IRegistry.Settlement memory s = settlement(id, _node(b), amount);
        s.shares[0] = Lines.packPaid(uint48(units), Lines.amount(s.shares[0]), 0);
        _setCause(id, b, faults);
        s = withRedress(s, _node(payees[id] + 1), prices[id], causes[id]);
        for (uint256 i = 0; i < faults % 3; ++i) {
            s = withFault(s, _node(faults / 3 + i), uint8(1 + faults / 8 % 4));
        }
        (uint256 bitmap, bytes memory signature) = _everybody(s, was.quorum);
        try this.settleSigned(s, bitmap, signature) {} catch {}
    }

    function settleSigned(IRegistry.Settlement memory s, uint256 bitmap, bytes memory signature) external {
        settle(s, bitmap, signature);
    }

    /// @notice A batch from its commit to its settlement, and to a challenge.
    function batch(uint256 j, uint96 amount, uint64 units, uint256 faults) external {
        commit(j, faults >> 16, units);
        settle(0, amount, units >> 8, faults);
        if (faults >> 32 & 1 == 1) challenge(0, j);
    }

    function takeOver(uint256 b, uint256 by) external watched {
        if (batches.length == 0) return;
        _seat();
        BatchId id = _batch(b);
        for (uint256 n = 1; n < 8 && !registry.batch(id).voided; ++n) {
            id = _batch(b / 2 + n);
        }
        uint256 i = seated[by % seated.length];
        try this.takeBatchOf(id, i) {} catch {}
    }

    function takeBatchOf(BatchId id, uint256 i) external {
        takeBatch(id, i);
    }

    function drop(uint256 b) external watched {
        if (batches.length == 0) return;
        BatchId id = _batch(b);
        IRegistry.Header memory header = headerOf(id);
        try registry.dropBatch(id, header) {} catch {}
    }

    function claim(uint256 b) external watched {
        if (batches.length == 0) return;
        BatchId id = _batch(b);
        IRegistry.Settled memory t = registry.batch(id).settled;
        bool done = registry.isClaimed(id, 0);
        IRegistry.Claim[] memory c = claimOf(id, _node(payees[id]), amounts[id]);
        c[0].proof = new bytes32[](1);
        c[0].proof[0] = leafOf(id, 1, _node(payees[id] + 1), prices[id], causes[id]);
        try registry.claim(c) {
            if (done) claimedTwice = true;
            if (vm.getBlockTimestamp() < t.claimableAt || t.openChallenges > 0) claimedEarly = true;
            validClaimed[payees[id]] += 1;
        } catch {}
    }

    function redress(uint256 b) external watched {
        if (batches.length == 0) return;
        BatchId id = _batch(b);
        (uint256 at_,,,) = Causes.unpack(causes[id]);
        IRegistry.Settled memory t = registry.batch(id).settled;
        IRegistry.Settled memory of_ = registry.batch(BatchId.wrap(at_)).settled;
        bool done = registry.isClaimed(id, 1);
        bytes32 sibling = leafOf(id, 0, _node(payees[id]), amounts[id], 0);
        try registry.claim(redressOf(id, _node(payees[id] + 1), prices[id], causes[id], sibling)) {
            if (done) claimedTwice = true;
            if (vm.getBlockTimestamp() < t.claimableAt || t.openChallenges > 0) claimedEarly = true;
            if (vm.getBlockTimestamp() < of_.claimableAt || of_.openChallenges > 0) claimedEarly = true;
            redressed += registry.batch(BatchId.wrap(at_)).settled.remaining < of_.remaining ? 1 : 0;
        } catch {}
    }

    function finalize(uint256 b) external watched {
        if (batches.length == 0) return;
        try registry.finalize(_batch(b)) {} catch {}
    }

    function close(uint256 j, bool all) external watched {
        JobId job = jobs[j % jobs.length];
        IRegistry.Job memory was = registry.job(job);
        bool open = !was.closed && vm.getBlockTimestamp() <= was.end;
        if (!open) return;
        vm.prank(REQUESTER);
        if (all) registry.closeJob(job, anchor());
        else registry.topUp(job, 1e18, anchor());
    }

    function refund(uint256 j) external watched {
        try registry.refund(jobs[j % jobs.length]) {} catch {}
    }

    // ------------------------------------------------------------------------------------------------- courts

    /// @notice Opens a challenge in the window, with a bond.
    function challenge(uint256 b, uint256 by) public watched {
        if (batches.length == 0) return;
        BatchId id = _batch(b);
        IRegistry.Settled memory t = registry.batch(id).settled;
        if (t.settledAt == 0 || vm.getBlockTimestamp() >= t.claimableAt || heldUp[id]) return;
        vm.prank(address(court));
        try registry.chargeBond(by % 3 == 0 ? _owner(by) : CHALLENGER, 5e18) {
            bonds += 5e18;
            vm.prank(address(court));
            registry.hold(id);
            heldUp[id] = true;
        } catch {}
    }

    /// @notice Decides one, somehow.
    function judge(uint256 b, uint256 dice) external watched {
        if (batches.length == 0) return;
        BatchId id = _batch(b);
        for (uint256 i = 1; i < 8 && !heldUp[id]; ++i) {
            id = _batch(b / 2 + i);
        }
        if (!heldUp[id]) return;
        heldUp[id] = false;
        IRegistry.SlashRecord[] memory faults = registry.slashes(id);
        (OperatorId convict, address convicted) = (_node(dice >> 8), _owner(dice >> 8));
        vm.prank(address(court));
        if (dice % 4 == 0) {
            bonds += registry.void(id, dice & 16 == 0);
        } else if (dice % 4 == 1) {
            registry.convict(id, convict, jobs[0], 0, 0);
            vm.prank(address(court));
            bonds += registry.slash(convicted, type(uint96).max);
        } else if (faults.length > 0 && !faults[dice % faults.length].absolved) {
            registry.absolve(id, dice % faults.length);
        } else {
            uint96 some = uint96(bonds / 2);
            registry.giveJob(jobs[0], some);
            bonds -= some;
        }
        vm.prank(address(court));
        registry.release(id);
        _spread(dice);
    }

    // ------------------------------------------------------------------------------------------------- checks

    function check() external view {
        assertConserved();
    }

    /// @dev What batches reserve, what jobs have free, and what is frozen add up to what the totals say.
    function checkSums() external view {
        uint256 escrow;
        for (uint256 i = 0; i < jobs.length; ++i) {
            IRegistry.Job memory j = registry.job(jobs[i]);
            escrow += uint256(j.escrow) + j.surplus;
            vm.assertLe(j.unitsPaid, j.units, "no units are paid twice");
        }
        uint256 frozen;
        for (uint256 i = 0; i < batches.length; ++i) {
            IRegistry.Batch memory b = registry.batch(batches[i]);
            Line memory l = lineOf(batches[i], 0);
            if (b.voided && !b.dropped) escrow += l.amount;
            else if (b.settled.settledAt == 0 && !b.dropped) escrow += l.budget;
            frozen += b.frozen;
        }
        vm.assertEq(registry.totals().escrow, escrow, "escrow");
        vm.assertEq(registry.totals().bonds, frozen + bonds, "bonds");
        uint256 accounts;
        for (uint256 i = 0; i < NODES; ++i) {
            accounts += registry.account(_owner(i)).frozen;
        }
        vm.assertEq(accounts, frozen, "frozen");
    }

    /// @dev What owners have open is what the batches that their verifiers lead hold until they are final: the budgets.
    function checkExposure() external view {
        uint256 open;
        for (uint256 i = 0; i < batches.length; ++i) {
            IRegistry.Batch memory b = registry.batch(batches[i]);
            bool final_ = b.settled.settledAt != 0 && !b.settled.unfinal;
            uint256 budget = lineOf(batches[i], 0).budget;
            uint256 held = final_ || b.dropped || b.voided ? 0 : (budget * 10_000 + VERIFIER_STAKE - 1) / VERIFIER_STAKE;
            vm.assertEq(b.exposure, held, "a batch");
            open += held;
        }
        uint256 accounts;
        for (uint256 i = 1; i <= lastVerifier; ++i) {
            accounts += registry.account(owner(100 + i)).exposed;
        }
        vm.assertEq(accounts, open, "all owners");
    }

    function checkReputation() external view {
        for (uint256 i = 0; i < NODES; ++i) {
            uint256 valid = registry.operatorState(_node(i)).consecutiveValid;
            vm.assertLe(valid, validClaimed[i], "reputation is at most the valid audits claimed");
        }
    }

    // ------------------------------------------------------------------------------------------------ helpers

    /// @dev Any fault of any batch, as it stands now, with any prices: what a quorum could sign.
    function _setCause(BatchId id, uint256 b, uint256 dice) private {
        BatchId of_ = _batch(b / 8);
        prices[id] = uint96(dice >> 64) % 150e18;
        uint8 attempt = registry.batch(of_).attempt;
        uint64 at_ = uint64(BatchId.unwrap(of_));
        causes[id] = Causes.pack(at_, attempt, uint8(dice >> 8 & 1), uint96(dice >> 32) % 300e18);
    }

    /// @dev One of the last eight, so that much happens to each.
    function _batch(uint256 b) private view returns (BatchId) {
        uint256 recent = batches.length < 8 ? batches.length : 8;
        return batches[batches.length - 1 - b % recent];
    }

    function _owner(uint256 i) private pure returns (address) {
        return owner(10 + i % NODES);
    }

    function _node(uint256 i) private view returns (OperatorId) {
        return registry.operatorOf(vm.addr(1010 + i % NODES));
    }

    function _missing(address who) private view returns (uint96) {
        uint96 has = registry.account(who).stake;
        return has < NODE_STAKE ? NODE_STAKE - has : 0;
    }

    /// @dev A job of those, or a new one, and the units that can be committed of it.
    function _committable(uint256 j) private returns (JobId job, uint64 left) {
        job = jobs[j % jobs.length];
        IRegistry.Job memory was = registry.job(job);
        bool open = !was.closed && vm.getBlockTimestamp() + TAKEOVER < was.end;
        if (open && was.unitsOpen + was.unitsPaid < UNITS) return (job, UNITS - was.unitsOpen - was.unitsPaid);
        jobs.push(openJob());
        return (jobs[jobs.length - 1], UNITS);
    }

    /// @dev A new job, for anybody or for one of the verifiers.
    function _opened(uint256 by) private returns (JobId) {
        IRegistry.JobParams memory p = jobParams(1000e18, 100e18, 10e18);
        uint256 i = seated[(by >> 64) % seated.length];
        bool counts = registry.seatCountsFrom(slotOf(i)) <= vm.getBlockTimestamp();
        if (by % 3 == 2 && counts) p.verifier = registry.operatorOf(vm.addr(2000 + i));
        return openJob(p);
    }

    /// @dev New verifiers until three are seated, and who they are. Their seats count after a day.
    function _seat() private {
        IRegistry.VerifierView[] memory set = lens.verifiers(0, 256);
        for (uint256 n = set.length; n < 3; ++n) {
            addVerifier(100 + ++lastVerifier);
        }
        delete seated;
        set = lens.verifiers(0, 256);
        for (uint256 n = 0; n < set.length; ++n) {
            seated.push(99 + uint160(set[n].owner) - uint160(owner(99)));
        }
    }

    /// @dev The seats of a quorum that are still taken, and their signature.
    function _everybody(IRegistry.Settlement memory s, uint24 version)
        private
        view
        returns (uint256 bitmap, bytes memory signature)
    {
        IRegistry.VerifierView[] memory set = lens.verifiers(0, 256);
        uint256 counting = registry.quorum(version) & registry.seats();
        uint256[] memory secrets = new uint256[](set.length);
        for (uint256 n = 0; n < set.length; ++n) {
            if (counting >> set[n].slot & 1 == 0) continue;
            secrets[n] = 3099 + uint160(set[n].owner) - uint160(owner(99));
            bitmap |= 1 << set[n].slot;
        }
        signature = signatureOf(s, secrets);
    }

    /// @dev What the bonds of a closed case become: an owner's, a job's, or nobody's.
    function _spread(uint256 dice) private {
        uint96 part = uint96(bonds / 3);
        bonds -= 3 * uint256(part);
        vm.prank(address(court));
        registry.give(_owner(dice >> 16), part);
        vm.prank(address(court));
        registry.giveJob(jobs[dice % jobs.length], part);
        vm.prank(address(court));
        registry.burn(part);
    }
}

/// @notice What must hold after any sequence of actions.
contract InvariantsTest {
    Handler private handler;

    function setUp() public {
        handler = new Handler();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    function targetSelectors() public view returns (FuzzSelector[] memory targets) {
        bytes4[] memory a = new bytes4[](21);
        (a[0], a[1], a[2], a[3]) =
        (Handler.stake.selector, Handler.unstake.selector, Handler.withdraw.selector, Handler.retire.selector);
        (a[4], a[5], a[6], a[7]) =
        (Handler.unseat.selector, Handler.wait.selector, Handler.takeOver.selector, Handler.drop.selector);
        (a[8], a[9], a[10], a[11]) =
        (Handler.claim.selector, Handler.finalize.selector, Handler.close.selector, Handler.refund.selector);
        // More often than the rest: what needs a batch, and what moves it on.
        (a[12], a[13], a[14], a[15]) =
        (Handler.batch.selector, Handler.commit.selector, Handler.settle.selector, Handler.batch.selector);
        (a[16], a[17], a[18], a[19]) =
        (Handler.batch.selector, Handler.judge.selector, Handler.judge.selector, Handler.claim.selector);
        a[20] = Handler.take.selector;
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(handler), a);
    }

    function invariant_every_token_is_accounted_for() public view {
        handler.check();
        handler.checkSums();
    }

    function invariant_what_owners_have_open_is_what_their_batches_hold() public view {
        handler.checkExposure();
    }

    function invariant_nothing_is_claimed_twice_or_before_its_window_closed() public view {
        require(!handler.claimedTwice(), "a payout was claimed twice");
        require(!handler.claimedEarly(), "a payout was claimed early");
    }

    function invariant_nobody_leaves_before_the_delay() public view {
        require(!handler.leftEarly(), "stake left early");
        require(!handler.tookBoundStake(), "a seat's stake was not bound");
    }

    function invariant_a_job_is_taken_from_nobody_who_holds_it() public view {
        require(!handler.tookWhatWasNotFree(), "a job was taken that was not free");
    }

    function invariant_burned_only_grows() public view {
        require(!handler.burnedFell(), "burned fell");
    }

    function invariant_reputation_is_claimed_and_never_invented() public view {
        handler.checkReputation();
    }
}
