// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../src/interfaces/IRegistry.sol";
import {Base} from "./helpers/Base.sol";

/// @notice Does anything a network does, in any order, and keeps books of its own.
contract Handler is Base {
    uint256 private constant NODES = 6;
    JobId private job;
    BatchId[] private settled;
    IRegistry.Settlement[] private records;
    ChallengeId[] private challenges;

    uint256 public paid;
    uint256 public claimedTwice;
    uint256 public earlyExits;
    uint256 public burnedBefore;
    bool public burnedFell;
    bool public reputationRose;

    constructor() {
        setUp();
        addVerifier(1);
        for (uint256 i = 0; i < NODES; ++i) {
            addNode(10 + i);
        }
        job = openJob();
    }

    modifier watched() {
        uint256 before = _reputation();
        _;
        if (_reputation() > before) reputationRose = true;
        uint256 burned = registry.totals().burned;
        if (burned < burnedBefore) burnedFell = true;
        burnedBefore = burned;
    }

    function stake(uint256 i, uint96 amount) external watched {
        vm.prank(owner(10 + i % NODES));
        registry.addStake(uint96(amount % 10e18) + uint96(NODE_STAKE));
    }

    function unstake(uint256 i, uint96 amount) external watched {
        address who = owner(10 + i % NODES);
        IRegistry.Account memory a = registry.account(who);
        if (a.stake <= NODE_STAKE) return;
        vm.prank(who);
        registry.requestUnstake(uint96(amount % (a.stake - NODE_STAKE)) + 1);
    }

    function withdraw(uint256 i) external watched {
        address who = owner(10 + i % NODES);
        IRegistry.Account memory a = registry.account(who);
        if (a.unbonding == 0) return;
        vm.prank(who);
        if (vm.getBlockTimestamp() < a.releaseAt) {
            try registry.withdraw() {
                ++earlyExits;
            } catch {}
        } else {
            registry.withdraw();
        }
    }

    function wait(uint256 time) external watched {
        vm.warp(vm.getBlockTimestamp() + time % 3 hours);
    }

    function batch(uint256 i, uint96 amount, bool faulty) external watched {
        if (registry.activeVerifiers() == 0 || vm.getBlockTimestamp() > registry.job(job).deadline) job = _reopen();
        if (registry.activeVerifiers() == 0) return;
        IRegistry.Job memory j = registry.job(job);
        uint256 escrow = uint256(j.reward) + j.auditFee - j.spent;
        if (escrow == 0) return;
        OperatorId node = registry.operatorOf(vm.addr(1010 + i % NODES));
        BatchId id = commit(job, 1);
        IRegistry.Settlement memory s = settlement(id, node, uint96(amount % escrow) + 1);
        if (faulty) s = withFault(s, registry.operatorOf(vm.addr(1010 + (i % NODES + 1) % NODES)));
        settle(s, 1, 1);
        settled.push(id);
        records.push(s);
    }

    function challenge(uint256 i) external watched {
        if (settled.length == 0) return;
        uint256 n = i % settled.length;
        IRegistry.Batch memory b = registry.batch(settled[n]);
        if (b.settled.settledAt == 0 || vm.getBlockTimestamp() >= b.settled.claimableAt) return;
        fund(REQUESTER, 50 * CREDIT);
        OperatorId node = _payee(n);
        vm.prank(REQUESTER);
        try registry.challengePayout(claimOf(settled[n], node, records[n].payoutTotal)[0]) returns (ChallengeId id) {
            challenges.push(id);
        } catch {}
    }

    function advance(uint256 i, uint256 votes, uint256 silent) external {
        if (challenges.length == 0) return;
        ChallengeId id = challenges[i % challenges.length];
        IRegistry.Challenge memory c = registry.challenge(id);
        if (c.phase == IRegistry.Phase.Draw) {
            vm.roll(vm.getBlockNumber() + 4);
            vm.setBlockhash(c.drawBlock, keccak256(abi.encode(vm.getBlockNumber())));
            try registry.drawJury(id) returns (uint32[] memory jury) {
                for (uint256 n = 0; n < jury.length; ++n) {
                    vm.prank(registry.operator(OperatorId.wrap(jury[n])).key);
                    bool wrong = votes >> n & 1 == 1;
                    registry.commitVote(id, keccak256(abi.encode(id, c.round, jury[n], wrong, bytes32(0))));
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
        if (c.phase == IRegistry.Phase.Verdict) vm.warp(vm.getBlockTimestamp() + 1 hours);
        // A voided settlement gives back the reputation that its faults took: that is no rise.
        try registry.resolve(id) {} catch {}
        if (registry.totals().burned < burnedBefore) burnedFell = true;
    }

    function claim(uint256 i) external {
        if (settled.length == 0) return;
        uint256 n = i % settled.length;
        IRegistry.Claim[] memory claims = claimOf(settled[n], _payee(n), records[n].payoutTotal);
        bool done = registry.isClaimed(settled[n], 0);
        try registry.claim(claims) {
            if (done) ++claimedTwice;
            ++paid;
        } catch {}
        if (registry.totals().burned < burnedBefore) burnedFell = true;
    }

    function close() external watched {
        if (registry.job(job).closed || vm.getBlockTimestamp() > registry.job(job).deadline) {
            registry.refund(job);
        } else {
            vm.prank(REQUESTER);
            registry.closeJob(job);
        }
        job = _reopen();
    }

    function check() external view {
        assertConserved();
    }

    /// @dev Another verifier where the last one was slashed, and another job.
    function _reopen() private returns (JobId) {
        vm.prank(REQUESTER);
        credit.approve(address(registry), type(uint256).max);
        return openJob();
    }

    function _payee(uint256 n) private view returns (OperatorId) {
        for (uint256 i = 0; i < NODES; ++i) {
            OperatorId node = registry.operatorOf(vm.addr(1010 + i));
            if (settlement(settled[n], node, records[n].payoutTotal).payoutRoot == records[n].payoutRoot) return node;
        }
        revert("no payee");
    }

    function _reputation() private view returns (uint256 sum) {
        for (uint256 i = 0; i < NODES; ++i) {
            sum += registry.operator(registry.operatorOf(vm.addr(1010 + i))).consecutiveValid;
        }
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
        bytes4[] memory actions = new bytes4[](9);
        (actions[0], actions[1], actions[2]) =
        (Handler.stake.selector, Handler.unstake.selector, Handler.withdraw.selector);
        (actions[3], actions[4], actions[5]) =
        (Handler.wait.selector, Handler.batch.selector, Handler.challenge.selector);
        (actions[6], actions[7], actions[8]) =
        (Handler.advance.selector, Handler.claim.selector, Handler.close.selector);
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(handler), actions);
    }

    function invariant_every_token_is_accounted_for() public view {
        handler.check();
    }

    function invariant_nothing_is_claimed_twice() public view {
        require(handler.claimedTwice() == 0, "a payout was claimed twice");
    }

    function invariant_nobody_leaves_before_the_delay() public view {
        require(handler.earlyExits() == 0, "stake left early");
    }

    function invariant_burned_only_grows() public view {
        require(!handler.burnedFell(), "burned fell");
    }

    function invariant_reputation_rises_by_claims_of_settled_audits_only() public view {
        require(!handler.reputationRose(), "reputation rose without a claim");
    }
}
