// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICourt} from "../src/interfaces/ICourt.sol";
import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../src/interfaces/IRegistry.sol";
import {CourtBase} from "./helpers/CourtBase.sol";

/// @notice Anything, by anybody, at any time and in any order: the books always balance, and everything comes to an end.
/// forge-config: default.fuzz.runs = 100
contract CourtWalkTest is CourtBase {
    uint256 private constant OPENINGS = 10;
    uint256 private constant TICKS = 30;
    uint256 private _random;

    function setUp() public override {
        super.setUp();
        for (uint256 i = 10; i <= 31; ++i) {
            vm.prank(owner(i));
            registry.addStake(300e18);
        }
        settle(accusing(accusing(settlement(), 10, 2), 15, MISMATCH));
    }

    function next(uint256 bound) private returns (uint256) {
        _random = uint256(keccak256(abi.encode(_random)));
        return _random % bound;
    }

    function testFuzz_challenges_end_and_books_balance_whatever_happens(uint256 seed) public {
        _random = seed;
        for (uint256 i = 0; i < OPENINGS; ++i) {
            _try(this.open.selector, 0);
        }
        for (uint256 i = 0; i < TICKS; ++i) {
            for (uint256 id = 1; id <= court.challengeCount(); ++id) {
                if (next(8) != 0) _try(this.move.selector, id);
            }
            later(29 minutes);
            vm.roll(vm.getBlockNumber() + 5);
            assertConserved();
        }
        _endAll();
        IRegistry.Batch memory b = registry.batch(batch);
        vm.assertEq(b.settled.openChallenges, 0, "nothing holds the batch");
        vm.assertEq(registry.totals().bonds, b.frozen, "bonds are what faults hold");
        if (b.voided) return;
        registry.claim(claims());
        vm.assertEq(registry.totals().bonds, 0, "nothing is left in bonds");
        assertConserved();
    }

    /// @dev What is not allowed has no effect.
    function _try(bytes4 what, uint256 id) private {
        uint256 before = _random;
        // slither-disable-next-line low-level-calls
        (bool done,) = address(this).call(abi.encodeWithSelector(what, id));
        if (!done) _random = uint256(keccak256(abi.encode(before, "refused")));
    }

    function _endAll() private {
        for (uint256 i = 0; i < 12; ++i) {
            later(3 hours);
            vm.roll(vm.getBlockNumber() + 5);
            for (uint256 id = 1; id <= court.challengeCount(); ++id) {
                try court.resolve(ChallengeId.wrap(id)) {} catch {}
            }
            assertConserved();
        }
        for (uint256 id = 1; id <= court.challengeCount(); ++id) {
            vm.assertTrue(phaseOf(ChallengeId.wrap(id)) >= ICourt.Phase.Upheld, "every challenge is over");
        }
    }

    function open(uint256) external {
        address who = next(2) == 0 ? CHALLENGER : owner(10 + next(22));
        uint256 kind = next(6);
        if (kind == 0) challengeRecord(who);
        else if (kind == 1) challengeFault(next(2) == 0 ? owner(10) : who, uint32(next(2)));
        else challengeSegment(who, 10 + next(2), uint32(next(SEGMENTS)));
    }

    /// @notice What a challenge's phase calls for.
    function move(uint256 number) external {
        ChallengeId id = ChallengeId.wrap(number);
        ICourt.Challenge memory c = court.challenge(id);
        bool over = vm.getBlockTimestamp() >= c.until;
        if (c.phase == ICourt.Phase.Draw && !over) _draw(id);
        else if (c.phase == ICourt.Phase.Vote && !over) _vote(id);
        else if (c.phase == ICourt.Phase.Vote && vm.getBlockTimestamp() < c.until + 1 hours) _reveal(id);
        else if (c.phase == ICourt.Phase.Verdict && !over && next(3) == 0) _appeal(id);
        else court.resolve(id);
    }

    function _draw(ChallengeId id) private {
        vm.setBlockhash(court.challenge(id).drawBlock, bytes32(1 + next(type(uint128).max)));
        court.drawJury(id);
    }

    function _appeal(ChallengeId id) private {
        vm.prank(next(2) == 0 ? CHALLENGER : owner(10 + next(22)));
        court.appeal(id);
    }

    /// @dev Every juror's opinion is its own; one in five does not commit, and one in seven of the others does not reveal.
    function _opinion(ChallengeId id, address juror) private view returns (bytes32 evidence, uint256 mood) {
        uint256 mind = uint256(keccak256(abi.encode(id, juror)));
        return (evidenceOf(id, mind % 2 == 0), mind >> 8);
    }

    function _vote(ChallengeId id) private {
        address[] memory jury = court.jurors(id, court.challenge(id).round);
        for (uint256 i = 0; i < jury.length; ++i) {
            (bytes32 evidence, uint256 mood) = _opinion(id, jury[i]);
            if (mood % 5 != 0) commitVote(id, jury[i], evidence);
        }
    }

    function _reveal(ChallengeId id) private {
        address[] memory jury = court.jurors(id, court.challenge(id).round);
        for (uint256 i = 0; i < jury.length; ++i) {
            (bytes32 evidence, uint256 mood) = _opinion(id, jury[i]);
            if (mood % 5 != 0 && mood % 7 != 0) revealVote(id, jury[i], evidence);
        }
    }
}
