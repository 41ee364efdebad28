// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICourt} from "../../src/interfaces/ICourt.sol";
import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../../src/interfaces/IRegistry.sol";
import {Base} from "./Base.sol";
import {Trees} from "./Trees.sol";

/// @notice A batch of two commitments, of nodes 10 and 11, settled by verifiers 1 to 3 of 4, the first of them its
/// leader; and what juries drawn from nodes 12 to 31 do with it.
abstract contract CourtBase is Base {
    address internal constant CHALLENGER = address(0xd00d);
    uint32 internal constant SEGMENTS = 8;
    uint32 internal constant SEGMENT = 3;
    uint96 internal constant BOND = 50e18;
    uint96 internal constant APPEAL_BOND = 150e18;
    uint96 internal constant FINE = 5e18;
    uint96 internal constant REWARD = 1e18;
    uint96 internal constant PAY = 100e18;
    /// What the verifiers get for 20 of 100 units.
    uint96 internal constant FEE = 2e18;
    bytes32 internal constant SALT = "salt";

    OperatorId internal worker;
    JobId internal job;
    BatchId internal batch;

    function setUp() public virtual override {
        super.setUp();
        for (uint256 i = 1; i <= 4; ++i) {
            addVerifier(i);
        }
        for (uint256 i = 10; i <= 31; ++i) {
            addNode(i);
        }
        worker = nodeOf(10);
        enrich(CHALLENGER);
        job = openJobFor(0);
        batch = commitFor(job);
    }

    // ------------------------------------------------------------------------------------------------ people

    function nodeOf(uint256 i) internal view returns (OperatorId) {
        return registry.operatorOf(vm.addr(1000 + i));
    }

    /// @notice The number i of the address `owner(i)`.
    function numberOf(address who) internal pure returns (uint256) {
        return uint160(who) - uint160(owner(0));
    }

    /// @notice Gives somebody a stake account for bonds.
    function enrich(address who) internal {
        fund(who, 10_000 * CREDIT);
        vm.prank(who);
        registry.addStake(5000e18);
    }

    function stakeOf(address who) internal view returns (uint256) {
        return registry.account(who).stake;
    }

    // ---------------------------------------------------------------------------------------------- the batch

    /// @notice A job of 100 units.
    function openJobFor(uint8 workload) internal returns (JobId) {
        IRegistry.JobParams memory p = jobParams(1000e18, 100e18, 10e18);
        (p.units, p.workload) = (100, workload);
        return openJob(p);
    }

    /// @notice Verifier 1 commits the two commitments, and the audits are drawn.
    function commitFor(JobId id) internal returns (BatchId made) {
        made = commitLines(1, Trees.root(leaves()), 2, lines(id, 20));
        drawNow(made);
    }

    /// @notice The header whose hash the Registry holds now.
    function header() internal view returns (IRegistry.Header memory) {
        return headerOf(batch);
    }

    function unpaidHeader() internal view returns (IRegistry.Header memory h) {
        h = headerOf(batch);
        h.paid[0] = 0;
    }

    function settlement() internal view returns (IRegistry.Settlement memory) {
        return settlement(batch, worker, PAY);
    }

    /// @notice The settlement accuses node `i` too, by nodes 12, 13 and 14.
    function accusing(IRegistry.Settlement memory s, uint256 i, uint8 reason)
        internal
        view
        returns (IRegistry.Settlement memory)
    {
        uint32[] memory accusers = new uint32[](3);
        for (uint256 n = 0; n < 3; ++n) {
            accusers[n] = OperatorId.unwrap(nodeOf(12 + n));
        }
        return withFault(s, nodeOf(i), reason, accusers);
    }

    /// @notice Signed by verifiers 1 to 3.
    function settle(IRegistry.Settlement memory s) internal {
        settle(s, 1, 3);
    }

    function settleHonestly() internal {
        settle(settlement());
    }

    function claims() internal view returns (IRegistry.Claim[] memory) {
        return claimOf(batch, worker, PAY);
    }

    // -------------------------------------------------------------------------------------------- commitments

    /// @notice Leaves of the batch: the commitments of nodes 10 and 11.
    function leaves() internal view returns (bytes32[] memory all) {
        all = new bytes32[](2);
        for (uint256 i = 0; i < 2; ++i) {
            all[i] = Trees.leaf(abi.encode(structHash(commitmentOf(10 + i))));
        }
    }

    /// @notice How many segments node `i` has; some tests want many.
    function segmentsOf(uint256) internal view virtual returns (uint32) {
        return SEGMENTS;
    }

    function commitmentOf(uint256 i) internal view virtual returns (ICourt.Commitment memory) {
        bytes32 trace = Trees.root(traceOf(i));
        bytes32 mark = markOf(i, 0);
        return ICourt.Commitment(1, uint32(i), vm.addr(1000 + i), 0, 0, trace, segmentsOf(i), RECORD, 10, mark);
    }

    /// @notice What seals whether node `i`'s commitment is work (0) or a decoy (1); its number is the salt.
    function markOf(uint256 i, uint8 kind) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(i, kind));
    }

    /// @notice The CID that node `i` committed to as its state number `n`.
    function cidOf(uint256 i, uint256 n) internal view virtual returns (bytes memory) {
        return abi.encodePacked(hex"01701220", sha256(abi.encode(i, n)));
    }

    function traceOf(uint256 i) internal view returns (bytes32[] memory trace) {
        trace = new bytes32[](segmentsOf(i) + 1);
        for (uint256 n = 0; n < trace.length; ++n) {
            trace[n] = Trees.leaf(cidOf(i, n));
        }
    }

    function structHash(ICourt.Commitment memory c) internal pure returns (bytes32) {
        bytes32 kind = keccak256(
            "Commitment(uint256 jobId,uint32 task,address node,bytes32 manifest,bytes32 inputs,bytes32 traceRoot,uint32 segments,bytes result,uint64 workUnits,bytes32 mark)"
        );
        bytes memory first = abi.encode(kind, c.job, c.task, c.node, c.manifest, c.inputs);
        return
            keccak256(
                bytes.concat(first, abi.encode(c.traceRoot, c.segments, keccak256(c.result), c.workUnits, c.mark))
            );
    }

    /// @notice What node `i` (10 or 11) committed to for a segment.
    function stepOf(uint256 i, uint32 segment) internal view returns (ICourt.Step memory) {
        ICourt.Commitment memory c = commitmentOf(i);
        bytes memory signature = signed(1000 + i, structHash(c));
        bytes32[] memory proof = Trees.proof(leaves(), i - 10);
        bytes32[] memory trace = Trees.proof(traceOf(i), segment + 1);
        return ICourt.Step(c, signature, i - 10, proof, segment, cidOf(i, segment + 1), trace, bytes32(i));
    }

    // --------------------------------------------------------------------------------------------- challenges

    function subjectOf(ICourt.Kind kind, uint256 index, uint32 segment) internal view returns (bytes32) {
        return keccak256(abi.encode(batch, registry.batch(batch).attempt, kind, index, segment));
    }

    /// @notice `who` seals what it will challenge in the next block; its owner is `payer`.
    function seal(address who, address payer, ICourt.Kind kind, uint256 index, uint32 segment) internal {
        bytes32 sealed_ = keccak256(abi.encode(payer, subjectOf(kind, index, segment), SALT));
        vm.prank(who);
        court.seal(sealed_);
        vm.roll(vm.getBlockNumber() + 1);
    }

    function challengeSegment(address who, uint256 i, uint32 segment) internal returns (ChallengeId) {
        seal(who, who, ICourt.Kind.Segment, i - 10, segment);
        ICourt.Step memory step = stepOf(i, segment);
        IRegistry.Header memory h = header();
        vm.prank(who);
        return court.challengeSegment(batch, h, step, SALT);
    }

    function challengeSegment() internal returns (ChallengeId) {
        return challengeSegment(CHALLENGER, 10, SEGMENT);
    }

    function challengeRecord(address who) internal returns (ChallengeId) {
        seal(who, who, ICourt.Kind.Record, 0, 0);
        IRegistry.Header memory h = header();
        vm.prank(who);
        return court.challengeRecord(batch, h, SALT);
    }

    function challengeFault(address who, uint32 index) internal returns (ChallengeId) {
        seal(who, who, ICourt.Kind.Fault, index, 0);
        vm.prank(who);
        return court.challengeFault(batch, index, SALT);
    }

    function phaseOf(ChallengeId id) internal view returns (ICourt.Phase) {
        return court.challenge(id).phase;
    }

    function assertPhase(ChallengeId id, ICourt.Phase phase, string memory label) internal view {
        vm.assertEq(uint256(phaseOf(id)), uint256(phase), label);
    }

    // ------------------------------------------------------------------------------------------------- juries

    /// @notice What a juror finds that takes a challenge for right (`wrong`) or not.
    function evidenceOf(ChallengeId id, bool wrong) internal view returns (bytes32) {
        ICourt.Challenge memory c = court.challenge(id);
        if (c.kind != ICourt.Kind.Segment) return bytes32(uint256(wrong ? 1 : 2));
        return wrong ? sha256("where the segment leads") : c.claimed;
    }

    /// @notice The time to draw, and a little more, is over.
    function outwait() internal {
        later(court.params().drawTime);
    }

    function draw(ChallengeId id) internal returns (address[] memory) {
        mine();
        return court.drawJury(id);
    }

    function commitVote(ChallengeId id, address juror, bytes32 evidence) internal {
        ICourt.Challenge memory c = court.challenge(id);
        bytes32 sealed_ = keccak256(abi.encode(id, c.round, c.redraws, juror, evidence, bytes32(0), SALT));
        vm.prank(vm.addr(1000 + numberOf(juror)));
        court.commitVote(id, sealed_);
    }

    function revealVote(ChallengeId id, address juror, bytes32 evidence) internal {
        vm.prank(vm.addr(1000 + numberOf(juror)));
        court.revealVote(id, evidence, 0, SALT);
    }

    function commitVotes(ChallengeId id, address[] memory jury, uint256 wrong) internal {
        for (uint256 i = 0; i < jury.length; ++i) {
            commitVote(id, jury[i], evidenceOf(id, wrong >> i & 1 == 1));
        }
    }

    function revealVotes(ChallengeId id, address[] memory jury, uint256 wrong, uint256 silent) internal {
        for (uint256 i = 0; i < jury.length; ++i) {
            if (silent >> i & 1 == 0) revealVote(id, jury[i], evidenceOf(id, wrong >> i & 1 == 1));
        }
    }

    /// @notice A drawn jury votes; bit i of `wrong` is juror i's vote, of `silent` whether it does not reveal.
    function vote(ChallengeId id, address[] memory jury, uint256 wrong, uint256 silent) internal {
        commitVotes(id, jury, wrong);
        later(1 hours);
        revealVotes(id, jury, wrong, silent);
        later(1 hours);
        court.resolve(id);
        assertConserved();
    }

    /// @notice The first rounds of two challenges at the same time, all of one mind.
    function roundOfBoth(ChallengeId one, ChallengeId other, bool wrong) internal {
        address[] memory first = draw(one);
        vm.setBlockhash(court.challenge(other).drawBlock, keccak256("other"));
        address[] memory second = court.drawJury(other);
        commitVotes(one, first, wrong ? 7 : 0);
        commitVotes(other, second, wrong ? 7 : 0);
        later(1 hours);
        revealVotes(one, first, wrong ? 7 : 0, 0);
        revealVotes(other, second, wrong ? 7 : 0, 0);
        later(1 hours);
        court.resolve(one);
        court.resolve(other);
        assertConserved();
    }

    function round(ChallengeId id, uint256 wrong, uint256 silent) internal {
        vote(id, draw(id), wrong, silent);
    }

    /// @notice A first verdict that nobody appeals against; whether the challenge was upheld.
    function decide(ChallengeId id, uint256 wrong) internal returns (bool) {
        round(id, wrong, 0);
        later(1 hours);
        court.resolve(id);
        assertConserved();
        return phaseOf(id) == ICourt.Phase.Upheld;
    }

    /// @notice How many of the first `size` bits are set.
    function count(uint256 mask, uint256 size) internal pure returns (uint256 n) {
        for (uint256 i = 0; i < size; ++i) {
            n += mask >> i & 1;
        }
    }

    function contains(address[] memory jury, address who) internal pure returns (bool) {
        for (uint256 i = 0; i < jury.length; ++i) {
            if (jury[i] == who) return true;
        }
        return false;
    }
}
