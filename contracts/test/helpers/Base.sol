// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Credit} from "../../src/Credit.sol";
import {Registry} from "../../src/Registry.sol";
import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../../src/interfaces/IRegistry.sol";
import {BLS12381} from "../../src/libraries/BLS12381.sol";
import {Merkle} from "../../src/libraries/Merkle.sol";
import {Bls} from "./Bls.sol";
import {Deployer} from "./Deployer.sol";
import {Vm} from "./Vm.sol";

/// @notice A network for tests: owner i has the address `owner(i)` and tokens; its node has the key `1000 + i`, its
/// verifier the key `2000 + i` and the BLS secret `3000 + i`.
abstract contract Base {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    uint256 internal constant CREDIT = 1e18;
    uint96 internal constant NODE_STAKE = 100e18;
    uint96 internal constant VERIFIER_STAKE = 1000e18;
    uint40 internal constant WINDOW = 1 hours;
    address internal constant REQUESTER = address(0xcafe);
    bytes internal constant RECORD = hex"015512200000000000000000000000000000000000000000000000000000000000000001";

    Credit internal credit;
    Registry internal registry;
    bytes32 internal domain;

    function setUp() public virtual {
        vm.warp(1_800_000_000);
        vm.roll(1000);
        credit = new Credit(1e9 * CREDIT);
        registry = Deployer.registry(address(credit), parameters());
        domain = registry.domainSeparator();
        fund(REQUESTER, 1e6 * CREDIT);
    }

    function parameters() internal pure returns (IRegistry.Params memory) {
        return IRegistry.Params({
            nodeStake: NODE_STAKE,
            verifierStake: VERIFIER_STAKE,
            challengeWindow: WINDOW,
            unstakeDelay: 2 days,
            settleGrace: 1 days,
            takeoverTimeout: 10 minutes,
            drawDelay: 2,
            collusionBps: 1000,
            slashRequesterBps: 4000,
            slashAuditorBps: 3000,
            court: IRegistry.CourtParams({
                bond: 50e18,
                appealBond: 150e18,
                voteTime: 1 hours,
                revealTime: 1 hours,
                jurorFine: 5e18,
                receiptPenalty: 100e18,
                appealTime: 1 hours,
                roundExpiry: 6 hours,
                answerTime: 1 hours,
                juryDelay: 2,
                jurySize: 3,
                appealJurySize: 5,
                winnerBps: 4000,
                requesterBps: 1000,
                juryBps: 3000,
                quarantine: 0
            })
        });
    }

    // ------------------------------------------------------------------------------------------------ people

    function owner(uint256 i) internal pure returns (address) {
        return address(uint160(0xa000 + i));
    }

    function fund(address who, uint256 amount) internal {
        credit.transfer(who, amount);
        vm.prank(who);
        credit.approve(address(registry), type(uint256).max);
    }

    function consent(uint256 key, address for_) internal view returns (bytes memory) {
        bytes32 hash = keccak256(abi.encode(keccak256("Register(address owner,address key)"), for_, vm.addr(key)));
        return signed(key, hash);
    }

    function signed(uint256 key, bytes32 structHash) internal view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, keccak256(abi.encodePacked(hex"1901", domain, structHash)));
        return abi.encodePacked(r, s, v);
    }

    function addNode(uint256 i) internal returns (OperatorId) {
        fund(owner(i), 1000 * CREDIT);
        bytes memory agreed = consent(1000 + i, owner(i));
        vm.prank(owner(i));
        return registry.registerNode(vm.addr(1000 + i), NODE_STAKE, 1, "127.0.0.1:4001", agreed);
    }

    function possession(uint256 i, address for_) internal view returns (bytes memory) {
        bytes32 hash = keccak256(
            abi.encode(
                keccak256("VerifierKey(address owner,address key,bytes publicKey)"),
                for_,
                vm.addr(2000 + i),
                keccak256(Bls.publicKey(3000 + i))
            )
        );
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", domain, hash));
        return Bls.sign(3000 + i, digest, BLS12381.POSSESSION_TAG);
    }

    function addVerifier(uint256 i) internal returns (OperatorId) {
        fund(owner(i), 2000 * CREDIT);
        bytes memory agreed = consent(2000 + i, owner(i));
        bytes memory key = Bls.publicKey(3000 + i);
        bytes memory proof = possession(i, owner(i));
        vm.prank(owner(i));
        return registry.registerVerifier(vm.addr(2000 + i), VERIFIER_STAKE, "127.0.0.1:4000", agreed, key, proof);
    }

    // ------------------------------------------------------------------------------------------------ batches

    function jobParams(uint96 reward, uint96 fee) internal view returns (IRegistry.JobParams memory) {
        return IRegistry.JobParams({
            manifest: bytes32(uint256(1)),
            reward: reward,
            auditFee: fee,
            taskCount: 10,
            deadline: uint40(vm.getBlockTimestamp() + 1 days),
            auditorsPerSegment: 2,
            segmentsPerAudit: 1,
            workload: 0
        });
    }

    function openJob() internal returns (JobId) {
        IRegistry.JobParams memory p = jobParams(1000e18, 100e18);
        vm.prank(REQUESTER);
        return registry.openJob(p);
    }

    /// @notice Verifier `i` commits a batch of 10, which is drawn.
    function commit(JobId job, uint256 i) internal returns (BatchId batch) {
        vm.prank(vm.addr(2000 + i));
        batch = registry.commitBatch(job, bytes32(uint256(2)), 10);
        vm.roll(vm.getBlockNumber() + 3);
        vm.setBlockhash(vm.getBlockNumber() - 1, keccak256("entropy"));
        registry.draw(batch);
    }

    function mine() internal {
        vm.roll(vm.getBlockNumber() + 4);
        vm.setBlockhash(vm.getBlockNumber() - 2, keccak256(abi.encode("entropy", vm.getBlockNumber())));
    }

    /// @notice A commitment of node `i`, the only one of a batch.
    function commitmentOf(uint256 i) internal pure returns (IRegistry.Commitment memory) {
        return IRegistry.Commitment(1, 0, vm.addr(1000 + i), 0, 0, 0, 8, RECORD, 10);
    }

    function structHash(IRegistry.Commitment memory c) internal pure returns (bytes32) {
        bytes32 kind = keccak256(
            "Commitment(uint256 jobId,uint32 task,address node,bytes32 manifest,bytes32 inputs,bytes32 traceRoot,uint32 segments,bytes result,uint64 workUnits)"
        );
        bytes32 result = keccak256(c.result);
        return keccak256(
            abi.encode(kind, c.job, c.task, c.node, c.manifest, c.inputs, c.traceRoot, c.segments, result, c.workUnits)
        );
    }

    function leafOf(bytes32 hash) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(bytes1(0), hash));
    }

    /// @notice A receipt of verifier `i` for `leaf`.
    function receipt(uint256 i, bytes32 leaf, uint64 deadline) internal view returns (bytes memory) {
        bytes32 kind = keccak256("Receipt(bytes32 leaf,uint64 deadline)");
        return signed(2000 + i, keccak256(abi.encode(kind, leaf, deadline)));
    }

    /// @notice A settlement with one payout and no faults.
    function settlement(BatchId batch, OperatorId operator, uint96 amount)
        internal
        pure
        returns (IRegistry.Settlement memory s)
    {
        s.batch = batch;
        s.payoutRoot = keccak256(abi.encodePacked(bytes1(0), abi.encode(batch, 0, operator, amount, 1, 1)));
        s.payoutCount = 1;
        s.payoutTotal = amount;
        s.auditUnits = 1;
        s.record = RECORD;
    }

    function claimOf(BatchId batch, OperatorId operator, uint96 amount)
        internal
        pure
        returns (IRegistry.Claim[] memory claims)
    {
        claims = new IRegistry.Claim[](1);
        claims[0] = IRegistry.Claim(batch, 0, operator, amount, 1, 1, new bytes32[](0));
    }

    function withFault(IRegistry.Settlement memory s, OperatorId operator)
        internal
        pure
        returns (IRegistry.Settlement memory)
    {
        return withFault(s, operator, 1);
    }

    /// @notice The same settlement with one fault more.
    function withFault(IRegistry.Settlement memory s, OperatorId operator, uint8 reason)
        internal
        pure
        returns (IRegistry.Settlement memory)
    {
        IRegistry.Fault[] memory before = s.faults;
        s.faults = new IRegistry.Fault[](before.length + 1);
        for (uint256 i = 0; i < before.length; ++i) {
            s.faults[i] = before[i];
        }
        s.faults[before.length] = IRegistry.Fault(operator, 3, 1, reason);
        return s;
    }

    /// @notice Signed by verifiers `first` to `first + count - 1`.
    function quorum(IRegistry.Settlement memory s, uint256 first, uint256 count)
        internal
        view
        returns (uint256 bitmap, bytes memory signature)
    {
        uint256[] memory secrets = new uint256[](count);
        IRegistry.VerifierView[] memory set = registry.verifiers(0, 256);
        for (uint256 i = 0; i < count; ++i) {
            secrets[i] = 3000 + first + i;
            for (uint256 n = 0; n < set.length; ++n) {
                if (set[n].key == vm.addr(2000 + first + i)) bitmap |= 1 << set[n].slot;
            }
        }
        signature = signatureOf(s, secrets);
    }

    function signatureOf(IRegistry.Settlement memory s, uint256[] memory secrets) internal view returns (bytes memory) {
        return Bls.aggregate(secrets, registry.settlementDigest(s));
    }

    function settle(IRegistry.Settlement memory s, uint256 first, uint256 count) internal {
        (uint256 bitmap, bytes memory signature) = quorum(s, first, count);
        registry.settleBatch(s, bitmap, signature);
    }

    // ------------------------------------------------------------------------------------------------- books

    function held() internal view returns (uint256) {
        IRegistry.Totals memory t = registry.totals();
        (,,, uint256 batches,) = registry.counts();
        return uint256(t.stakes) + t.unbonding + t.bonds + t.burned + t.escrow + registry.claimable(1, batches + 1);
    }

    function assertConserved() internal view {
        vm.assertEq(credit.balanceOf(address(registry)), held(), "every token is accounted for");
    }
}
