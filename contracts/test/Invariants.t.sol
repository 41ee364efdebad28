// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../src/interfaces/IRegistry.sol";
import {Base} from "./helpers/Base.sol";

/// @notice Does anything a network does, in any order, and keeps books of its own. At least three verifiers are kept
/// seated: one that was slashed is followed by a new one.
contract Handler is Base {
    uint256 private constant NODES = 7;
    uint256 private constant QUORUM_OF_3 = 2;
    JobId private job;
    BatchId[] private batches;
    mapping(BatchId => IRegistry.Settlement) private records;
    mapping(BatchId => uint256) private payees;
    ChallengeId[] private challenges;
    uint256[] private seated;
    uint256 private lastVerifier;

    uint256 public claimedTwice;
    uint256 public earlyClaims;
    uint256 public earlyExits;
    uint256 private burnedBefore;
    bool public burnedFell;
    bool public reputationRose;
    mapping(uint256 node => uint256) private validClaimed;

    constructor() {
        setUp();
        _seat();
        for (uint256 i = 0; i < NODES; ++i) {
            addNode(10 + i);
        }
        job = openJob();
    }

    /// @dev Reputation rises in `claim` and nowhere else; what was burned never comes back.
    modifier watched() {
        uint256 before = _reputation();
        _;
        if (_reputation() > before) reputationRose = true;
        _watchBurned();
    }

    // ------------------------------------------------------------------------------------------------ people

    function stake(uint256 i, uint96 amount) external watched {
        vm.prank(_owner(i));
        registry.addStake(uint96(amount % 10e18) + NODE_STAKE);
    }

    function unstake(uint256 i, uint96 amount) external watched {
        IRegistry.Account memory a = registry.account(_owner(i));
        if (a.stake <= NODE_STAKE) return;
        vm.prank(_owner(i));
        registry.requestUnstake(uint96(amount % (a.stake - NODE_STAKE)) + 1);
    }

    function withdraw(uint256 i) external watched {
        IRegistry.Account memory a = registry.account(_owner(i));
        if (a.unbonding == 0) return;
        bool early = vm.getBlockTimestamp() < a.releaseAt;
        vm.prank(_owner(i));
        try registry.withdraw() {
            if (early) ++earlyExits;
        } catch {
            require(early, "stake was held back");
        }
    }

    /// @notice A node leaves, or comes back.
    function retire(uint256 i) external watched {
        OperatorId id = registry.operatorOf(vm.addr(1010 + i % NODES));
        address key = vm.addr(1010 + i % NODES);
        bytes memory agreed = consent(1010 + i % NODES, _owner(i));
        vm.prank(_owner(i));
        try registry.retire(id) {}
        catch {
            vm.prank(_owner(i));
            registry.registerNode(key, NODE_STAKE, 1, "", agreed);
        }
    }

    function wait(uint256 time) external watched {
        vm.warp(vm.getBlockTimestamp() + time % 3 hours);
    }

    // ------------------------------------------------------------------------------------------------ batches

    /// @notice Verifier `by` commits; two thirds or all of the seated sign. A fault has one of the five first reasons.
    function batch(uint256 i, uint256 by, uint96 amount, bool all, bool faulty) external watched {
        _seat();
        if (vm.getBlockTimestamp() > registry.job(job).deadline) job = openJob();
        uint256 escrow = _escrow();
        if (escrow == 0) return;
        BatchId id = _commit(seated[by % seated.length], 10 + i % NODES);
        IRegistry.Settlement memory s = settlement(id, _node(i), uint96(amount % escrow) + 1);
        if (faulty) s = withFault(s, _node(i % NODES + 1), uint8(i / NODES % 5));
        _settle(s, all);
        records[id].payoutTotal = s.payoutTotal;
        payees[id] = i % NODES;
        batches.push(id);
    }

    function claim(uint256 i) external {
        if (batches.length == 0) return;
        BatchId id = batches[i % batches.length];
        IRegistry.Settled memory t = registry.batch(id).settled;
        bool done = registry.isClaimed(id, 0);
        uint256 node = payees[id];
        uint256 before = registry.operator(_node(node)).consecutiveValid;
        try registry.claim(claimOf(id, _node(node), records[id].payoutTotal)) {
            if (done) ++claimedTwice;
            if (vm.getBlockTimestamp() < t.claimableAt || t.openChallenges > 0) ++earlyClaims;
            validClaimed[node] += 1;
            if (registry.operator(_node(node)).consecutiveValid > before + 1) reputationRose = true;
        } catch {}
        _watchBurned();
    }

    function finalize(uint256 i) external watched {
        if (batches.length == 0) return;
        try registry.finalize(batches[i % batches.length]) {} catch {}
    }

    function close(bool all) external watched {
        bool open = vm.getBlockTimestamp() <= registry.job(job).deadline;
        if (open) {
            vm.prank(REQUESTER);
            if (!all) return registry.topUp(job, 1e18, 1e18);
            registry.closeJob(job);
        }
        registry.refund(job);
        job = openJob();
    }

    // ------------------------------------------------------------------------------------------------- courts

    function challenge(uint256 i, uint256 kind) external watched {
        if (batches.length == 0) return;
        BatchId id = batches[i % batches.length];
        OperatorId node = _node(payees[id]);
        fund(REQUESTER, 50 * CREDIT);
        vm.prank(REQUESTER);
        if (kind % 3 == 0) {
            try registry.challengePayout(claimOf(id, node, records[id].payoutTotal)[0]) returns (ChallengeId c) {
                challenges.push(c);
            } catch {}
        } else if (kind % 3 == 1) {
            try registry.challengeFault(id, 0) returns (ChallengeId c) {
                challenges.push(c);
            } catch {}
        } else {
            IRegistry.Commitment memory commitment = commitmentOf(10 + payees[id]);
            try registry.challengeSegment(id, commitment, 0, new bytes32[](0), 3) returns (ChallengeId c) {
                challenges.push(c);
            } catch {}
        }
    }

    /// @notice A receipt that a seated verifier signed and no batch honours.
    function drop(uint256 by, bytes32 hash) external watched {
        _seat();
        fund(REQUESTER, 50 * CREDIT);
        uint64 deadline = uint64(vm.getBlockTimestamp());
        bytes memory note = receipt(seated[by % seated.length], hash, deadline);
        vm.warp(deadline + 1);
        vm.prank(REQUESTER);
        challenges.push(registry.challengeReceipt(hash, deadline, note));
    }

    /// @notice Moves a challenge on by one step: a round of a jury, an appeal, or its end. A settlement that is voided
    /// gives back the reputation that its faults took: that is no rise, and never exceeds what was claimed.
    function advance(uint256 i, uint256 dice, bool silence, bool appeal) external {
        if (challenges.length == 0) return;
        uint256 votes = uint256(keccak256(abi.encode(dice)));
        uint256 silent = silence ? votes >> 128 : 0;
        ChallengeId id = challenges[i % challenges.length];
        IRegistry.Challenge memory c = registry.challenge(id);
        if (c.phase == IRegistry.Phase.Draw) _round(id, c, votes, silent);
        if (c.phase == IRegistry.Phase.Verdict && appeal) {
            fund(REQUESTER, 150 * CREDIT);
            vm.prank(REQUESTER);
            try registry.appeal(id) {} catch {}
        } else {
            if (c.phase == IRegistry.Phase.Verdict || c.phase == IRegistry.Phase.Answer) {
                vm.warp(vm.getBlockTimestamp() + 1 hours);
            }
            try registry.resolve(id) {} catch {}
        }
        _watchBurned();
    }

    // ------------------------------------------------------------------------------------------------- checks

    function check() external view {
        assertConserved();
    }

    function checkReputation() external view {
        for (uint256 i = 0; i < NODES; ++i) {
            uint256 valid = registry.operator(_node(i)).consecutiveValid;
            vm.assertLe(valid, validClaimed[i], "reputation is at most the valid audits claimed");
        }
    }

    // ------------------------------------------------------------------------------------------------ helpers

    function _owner(uint256 i) private pure returns (address) {
        return owner(10 + i % NODES);
    }

    function _node(uint256 i) private view returns (OperatorId) {
        return registry.operatorOf(vm.addr(1010 + i % NODES));
    }

    function _escrow() private view returns (uint256) {
        IRegistry.Job memory j = registry.job(job);
        return uint256(j.reward) + j.auditFee - j.spent;
    }

    /// @dev New verifiers until three are seated, and who they are.
    function _seat() private {
        IRegistry.VerifierView[] memory set = registry.verifiers(0, 256);
        for (uint256 n = set.length; n < 3; ++n) {
            addVerifier(100 + ++lastVerifier);
        }
        delete seated;
        set = registry.verifiers(0, 256);
        for (uint256 n = 0; n < set.length; ++n) {
            seated.push(99 + uint160(set[n].owner) - uint160(owner(99)));
        }
        // Whoever held the job may have lost its seat; after the timeout any verifier may take it.
        vm.warp(vm.getBlockTimestamp() + 11 minutes);
    }

    function _commit(uint256 by, uint256 node) private returns (BatchId id) {
        vm.prank(vm.addr(2000 + by));
        id = registry.commitBatch(job, leafOf(structHash(commitmentOf(node))), 1);
        mine();
        vm.setBlockhash(registry.batch(id).commitBlock + 2, keccak256(abi.encode("draw", id)));
        registry.draw(id);
    }

    function _settle(IRegistry.Settlement memory s, bool all) private {
        uint256[] memory secrets = new uint256[](all ? seated.length : QUORUM_OF_3);
        IRegistry.VerifierView[] memory set = registry.verifiers(0, 256);
        uint256 bitmap;
        for (uint256 n = 0; n < secrets.length; ++n) {
            secrets[n] = 3000 + seated[n];
            bitmap |= 1 << set[n].slot;
        }
        registry.settleBatch(s, bitmap, signatureOf(s, secrets));
    }

    function _round(ChallengeId id, IRegistry.Challenge memory c, uint256 votes, uint256 silent) private {
        vm.roll(vm.getBlockNumber() + 4);
        vm.setBlockhash(c.drawBlock, keccak256(abi.encode(vm.getBlockNumber())));
        try registry.drawJury(id) returns (uint32[] memory jury) {
            for (uint256 n = 0; n < jury.length; ++n) {
                bytes32 vote = keccak256(abi.encode(id, c.round, jury[n], votes >> n & 1 == 1, bytes32(0)));
                vm.prank(registry.operator(OperatorId.wrap(jury[n])).key);
                registry.commitVote(id, vote);
            }
            vm.warp(vm.getBlockTimestamp() + 1 hours);
            for (uint256 n = 0; n < jury.length; ++n) {
                if (silent >> n & 1 == 1) continue;
                vm.prank(registry.operator(OperatorId.wrap(jury[n])).key);
                registry.revealVote(id, votes >> n & 1 == 1, bytes32(0));
            }
            vm.warp(vm.getBlockTimestamp() + 1 hours);
        } catch {
            vm.warp(vm.getBlockTimestamp() + 6 hours);
        }
    }

    function _reputation() private view returns (uint256 sum) {
        for (uint256 i = 0; i < NODES; ++i) {
            sum += registry.operator(_node(i)).consecutiveValid;
        }
    }

    function _watchBurned() private {
        uint256 burned = registry.totals().burned;
        if (burned < burnedBefore) burnedFell = true;
        burnedBefore = burned;
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
        bytes4[] memory actions = new bytes4[](14);
        (actions[0], actions[1], actions[2], actions[3], actions[4]) =
        (
            Handler.stake.selector,
            Handler.unstake.selector,
            Handler.withdraw.selector,
            Handler.retire.selector,
            Handler.wait.selector
        );
        (actions[5], actions[6], actions[7], actions[8], actions[9]) =
        (
            Handler.batch.selector,
            Handler.claim.selector,
            Handler.finalize.selector,
            Handler.close.selector,
            Handler.challenge.selector
        );
        // Twice as often as the rest: what needs a batch, and what moves a challenge on.
        (actions[10], actions[11], actions[12], actions[13]) =
        (Handler.drop.selector, Handler.advance.selector, Handler.advance.selector, Handler.batch.selector);
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(handler), actions);
    }

    function invariant_every_token_is_accounted_for() public view {
        handler.check();
    }

    function invariant_nothing_is_claimed_twice_or_before_its_window_closed() public view {
        require(handler.claimedTwice() == 0, "a payout was claimed twice");
        require(handler.earlyClaims() == 0, "a payout was claimed early");
    }

    function invariant_nobody_leaves_before_the_delay() public view {
        require(handler.earlyExits() == 0, "stake left early");
    }

    function invariant_burned_only_grows() public view {
        require(!handler.burnedFell(), "burned fell");
    }

    function invariant_reputation_rises_by_claims_of_settled_audits_only() public view {
        require(!handler.reputationRose(), "reputation rose without a claim");
        handler.checkReputation();
    }
}
