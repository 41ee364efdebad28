// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Court} from "../../src/Court.sol";
import {Credit} from "../../src/Credit.sol";
import {Lens} from "../../src/Lens.sol";
import {Registry} from "../../src/Registry.sol";
import {ICourt} from "../../src/interfaces/ICourt.sol";
import {IRegistry, OperatorId, JobId, BatchId} from "../../src/interfaces/IRegistry.sol";
import {BLS12381} from "../../src/libraries/BLS12381.sol";
import {Headers} from "../../src/libraries/Headers.sol";
import {Lines} from "../../src/libraries/Lines.sol";
import {Merkle} from "../../src/libraries/Merkle.sol";
import {Bls} from "./Bls.sol";
import {Deployer} from "./Deployer.sol";
import {Vm} from "./Vm.sol";

/// @notice A line of a batch, unpacked.
struct Line {
    uint64 job;
    uint64 units;
    uint96 budget;
    uint64 paidUnits;
    uint96 amount;
}

/// @notice A network for tests: owner i has the address `owner(i)` and tokens; its node has the key `1000 + i`, its
/// verifier the key `2000 + i` and the BLS secret `3000 + i`.
abstract contract Base {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    uint256 internal constant CREDIT = 1e18;
    uint96 internal constant NODE_STAKE = 100e18;
    uint96 internal constant VERIFIER_STAKE = 1000e18;
    uint96 internal constant PENALTY = 20e18;
    uint40 internal constant WINDOW = 1 hours;
    uint40 internal constant SETTLE_TIME = 1 hours;
    uint40 internal constant GRACE = 6 hours;
    uint40 internal constant RECEIPT_TIME = 10 minutes;
    uint40 internal constant TAKEOVER = 10 minutes;
    uint40 internal constant SEAT_DELAY = 1 days;
    uint40 internal constant UNSTAKE_DELAY = 2 days;
    uint64 internal constant UNITS = 10;
    uint8 internal constant MISMATCH = 1;
    uint8 internal constant DISAGREED = 4;
    address internal constant REQUESTER = address(0xcafe);
    bytes internal constant RECORD = hex"015512200000000000000000000000000000000000000000000000000000000000000001";

    Credit internal credit;
    Registry internal registry;
    Court internal court;
    Lens internal lens;
    bytes32 internal domain;
    /// @dev The ABI-encoded header of each batch, as its last event shows it.
    mapping(BatchId => bytes) private _headers;
    /// @dev Nodes in the order of their registration, for accusers.
    uint32[] private _nodes;

    function setUp() public virtual {
        vm.warp(1_800_000_000);
        vm.roll(1000);
        credit = new Credit(1e9 * CREDIT);
        deploy();
        fund(REQUESTER, 1e6 * CREDIT);
    }

    function deploy() internal {
        address expected = vm.computeCreateAddress(address(this), vm.getNonce(address(this)) + 1);
        registry = Deployer.registry(address(credit), parameters(), expected);
        court = Deployer.court(registry, courtParameters());
        lens = Deployer.lens(registry);
        domain = registry.domainSeparator();
    }

    function parameters() internal pure returns (IRegistry.Params memory) {
        return IRegistry.Params({
            nodeStake: NODE_STAKE,
            verifierStake: VERIFIER_STAKE,
            challengeWindow: WINDOW,
            unstakeDelay: UNSTAKE_DELAY,
            settleTime: SETTLE_TIME,
            settleGrace: GRACE,
            receiptTime: RECEIPT_TIME,
            takeoverTimeout: TAKEOVER,
            seatDelay: SEAT_DELAY,
            idlePeriod: 1 days,
            drawDelay: 2,
            collusionBps: 1000,
            slashRequesterBps: 500,
            slashAuditorBps: 1000,
            slashRedressBps: 4000,
            leaderBps: 5000,
            settlePenalty: PENALTY,
            exposureBps: exposureBps()
        });
    }

    /// @notice No bound, except where it is tested.
    function exposureBps() internal pure virtual returns (uint16) {
        return 0;
    }

    function courtParameters() internal pure virtual returns (ICourt.Params memory) {
        return ICourt.Params({
            bond: 50e18,
            appealBond: 150e18,
            jurorFine: 5e18,
            receiptPenalty: 100e18,
            lateFine: 5e18,
            drawReward: 1e18,
            voteTime: 1 hours,
            revealTime: 1 hours,
            appealTime: 1 hours,
            drawTime: 2 hours,
            answerTime: 1 hours,
            juryDelay: 2,
            jurySize: 3,
            appealJurySize: 5,
            redraws: 1,
            winnerBps: 1000,
            requesterBps: 500,
            juryBps: 3000
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
        return listNode(i, i, NODE_STAKE, 1);
    }

    /// @notice Registers the node with key `1000 + key` under owner `i`, or lists it again.
    function listNode(uint256 i, uint256 key, uint96 stake, uint64 workloads) internal returns (OperatorId id) {
        bytes memory agreed = consent(1000 + key, owner(i));
        vm.prank(owner(i));
        id = registry.registerNode(vm.addr(1000 + key), stake, workloads, "127.0.0.1:4001", agreed);
        _nodes.push(OperatorId.unwrap(id));
    }

    function possession(uint256 i, address for_) internal view returns (bytes memory) {
        return possession(i, 3000 + i, for_);
    }

    function possession(uint256 i, uint256 secret, address for_) internal view returns (bytes memory) {
        bytes32 hash = keccak256(
            abi.encode(
                keccak256("VerifierKey(address owner,address key,bytes publicKey)"),
                for_,
                vm.addr(2000 + i),
                keccak256(Bls.publicKey(secret))
            )
        );
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", domain, hash));
        return Bls.sign(secret, digest, BLS12381.POSSESSION_TAG);
    }

    function addVerifier(uint256 i) internal returns (OperatorId) {
        fund(owner(i), 2000 * CREDIT);
        return seat(i, VERIFIER_STAKE, 3000 + i);
    }

    /// @notice Takes a seat for owner i's verifier with the BLS key of `secret`, for the first time or again.
    function seat(uint256 i, uint96 stake, uint256 secret) internal returns (OperatorId) {
        bytes memory agreed = consent(2000 + i, owner(i));
        bytes memory key = Bls.publicKey(secret);
        bytes memory proof = possession(i, secret, owner(i));
        vm.prank(owner(i));
        return registry.registerVerifier(vm.addr(2000 + i), stake, "127.0.0.1:4000", agreed, key, proof);
    }

    function slotOf(uint256 i) internal view returns (uint8) {
        return uint8(registry.operatorState(registry.operatorOf(vm.addr(2000 + i))).index);
    }

    function later(uint256 time) internal {
        vm.warp(vm.getBlockTimestamp() + time);
    }

    // -------------------------------------------------------------------------------------------------- jobs

    function jobParams(uint96 reward, uint96 auditFee, uint96 verifierFee)
        internal
        view
        returns (IRegistry.JobParams memory)
    {
        return IRegistry.JobParams({
            manifest: bytes32(uint256(1)),
            reward: reward,
            auditFee: auditFee,
            verifierFee: verifierFee,
            units: UNITS,
            deadline: uint40(vm.getBlockTimestamp() + 1 days),
            auditorsPerSegment: 2,
            segmentsPerAudit: 1,
            workload: 0,
            verifier: OperatorId.wrap(0)
        });
    }

    /// @notice 10 units for 1,000 of reward, 100 of audit fee and 10 of verifier fee.
    function openJob() internal returns (JobId) {
        return openJob(jobParams(1000e18, 100e18, 10e18));
    }

    function openJob(IRegistry.JobParams memory p) internal returns (JobId) {
        vm.prank(REQUESTER);
        return registry.openJob(p);
    }

    // ------------------------------------------------------------------------------------------------ batches

    function line(JobId job, uint64 units) internal pure returns (uint256) {
        return Lines.pack(uint64(JobId.unwrap(job)), uint48(units), 0);
    }

    /// @notice Line `i` of a batch, and what was paid of it.
    function lineOf(BatchId batch, uint256 i) internal view returns (Line memory l) {
        IRegistry.Header memory h = headerOf(batch);
        (l.job, l.units, l.budget) = (uint64(Lines.job(h.lines[i])), Lines.units(h.lines[i]), Lines.budget(h.lines[i]));
        if (h.paid.length > i) (l.paidUnits, l.amount) = (uint64(Lines.paidUnits(h.paid[i])), Lines.amount(h.paid[i]));
    }

    /// @notice The newest block, which has all jobs that are open now.
    function anchor() internal view returns (IRegistry.Anchor memory) {
        uint256 number = vm.getBlockNumber() - 1;
        return IRegistry.Anchor(uint64(number), blockhash(number));
    }

    function lines(JobId job, uint64 units) internal pure returns (uint256[] memory row) {
        row = new uint256[](1);
        row[0] = line(job, units);
    }

    /// @notice Verifier `i` commits the whole job, and the batch is drawn.
    function commit(JobId job, uint256 i) internal returns (BatchId) {
        return commit(job, i, UNITS);
    }

    function commit(JobId job, uint256 i, uint64 units) internal returns (BatchId batch) {
        batch = commitLines(i, bytes32(uint256(2)), 10, lines(job, units));
        drawNow(batch);
    }

    function commitLines(uint256 i, bytes32 root, uint32 size, uint256[] memory row) internal returns (BatchId batch) {
        vm.recordLogs();
        vm.prank(vm.addr(2000 + i));
        batch = registry.commitBatch(root, size, bytes32(uint256(3)), row, anchor());
        Vm.Log[] memory logs = vm.getRecordedLogs();
        bytes memory data = _logOf(logs, IRegistry.BatchCommitted.selector);
        (,, uint256[] memory reserved,) = abi.decode(data, (uint32, bytes32, uint256[], uint24));
        _headers[batch] =
            abi.encode(IRegistry.Header(root, size, bytes32(uint256(3)), reserved, new uint256[](0), 0, 0));
    }

    function drawNow(BatchId batch) internal {
        mine();
        vm.setBlockhash(uint256(registry.batch(batch).commitBlock) + 2, keccak256(abi.encode("draw", batch)));
        registry.draw(batch);
    }

    function headerOf(BatchId batch) internal view returns (IRegistry.Header memory) {
        return abi.decode(_headers[batch], (IRegistry.Header));
    }

    /// @notice Verifier `i` becomes the batch's leader.
    function takeBatch(BatchId batch, uint256 i) internal {
        IRegistry.Header memory header = headerOf(batch);
        vm.recordLogs();
        vm.prank(vm.addr(2000 + i));
        registry.takeBatch(batch, header);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        bytes memory data = _logOf(logs, IRegistry.BatchTaken.selector);
        (header.lines,,) = abi.decode(data, (uint256[], uint24, uint8));
        (header.paid, header.seed, header.payoutRoot) = (new uint256[](0), 0, 0);
        _headers[batch] = abi.encode(header);
    }

    function dropBatch(BatchId batch) internal {
        registry.dropBatch(batch, headerOf(batch));
    }

    function mine() internal {
        vm.roll(vm.getBlockNumber() + 4);
        vm.setBlockhash(vm.getBlockNumber() - 2, keccak256(abi.encode("entropy", vm.getBlockNumber())));
    }

    // -------------------------------------------------------------------------------------------- settlement

    /// @notice A settlement with one payout and no faults, in which the first line pays all its units.
    function settlement(BatchId batch, OperatorId operator, uint96 amount)
        internal
        view
        returns (IRegistry.Settlement memory s)
    {
        s.batch = batch;
        s.payoutRoot = leafOf(batch, 0, operator, amount, 0);
        s.payoutCount = 1;
        s.payoutTotal = amount;
        s.auditUnits = 1;
        s.record = RECORD;
        if (_headers[batch].length == 0) return s;
        uint256[] memory row = headerOf(batch).lines;
        s.shares = new uint256[](row.length);
        s.shares[0] = Lines.packPaid(Lines.units(row[0]), amount, 0);
    }

    /// @notice What a claim shows of the batch's header.
    function boundOf(BatchId batch) internal view returns (bytes32) {
        if (_headers[batch].length == 0) return 0;
        IRegistry.Header memory header = headerOf(batch);
        return Headers.bound(header, Headers.committed(header));
    }

    /// @notice The slots of the verifiers that signed a batch's settlement.
    function signersOf(BatchId batch) internal view returns (uint256) {
        IRegistry.Batch memory b = registry.batch(batch);
        return registry.quorum(b.quorum) & ~b.absent;
    }

    /// @notice The same settlement with a second payout: what the fault of `cause` pays for work that it made worthless.
    function withRedress(IRegistry.Settlement memory s, OperatorId operator, uint96 price, uint256 cause)
        internal
        pure
        returns (IRegistry.Settlement memory)
    {
        s.payoutRoot = Merkle.node(s.payoutRoot, leafOf(s.batch, 1, operator, price, cause));
        s.payoutCount = 2;
        s.shares[0] = Lines.packPaid(Lines.paidUnits(s.shares[0]), Lines.amount(s.shares[0]), price);
        return s;
    }

    function leafOf(BatchId batch, uint256 index, OperatorId operator, uint96 amount, uint256 cause)
        internal
        pure
        returns (bytes32)
    {
        uint256 one = index == 0 ? 1 : 0;
        return
            keccak256(abi.encodePacked(bytes1(0), abi.encode(batch, index, operator, uint256(amount), one, one, cause)));
    }

    /// @notice The claim of the second payout; `sibling` is the leaf of the first.
    function redressOf(BatchId batch, OperatorId operator, uint96 price, uint256 cause, bytes32 sibling)
        internal
        view
        returns (IRegistry.Claim[] memory claims)
    {
        claims = new IRegistry.Claim[](1);
        claims[0] = IRegistry.Claim(batch, 1, operator, price, 0, 0, cause, boundOf(batch), new bytes32[](1));
        claims[0].proof[0] = sibling;
    }

    function claimOf(BatchId batch, OperatorId operator, uint96 amount)
        internal
        view
        returns (IRegistry.Claim[] memory claims)
    {
        claims = new IRegistry.Claim[](1);
        claims[0] = IRegistry.Claim(batch, 0, operator, amount, 1, 1, 0, boundOf(batch), new bytes32[](0));
    }

    function withFault(IRegistry.Settlement memory s, OperatorId operator)
        internal
        view
        returns (IRegistry.Settlement memory)
    {
        return withFault(s, operator, MISMATCH);
    }

    /// @notice The same settlement with one fault more, carried by three other owners' nodes.
    function withFault(IRegistry.Settlement memory s, OperatorId operator, uint8 reason)
        internal
        view
        returns (IRegistry.Settlement memory)
    {
        return withFault(s, operator, reason, accusersOf(operator));
    }

    function withFault(IRegistry.Settlement memory s, OperatorId operator, uint8 reason, uint32[] memory accusers)
        internal
        view
        returns (IRegistry.Settlement memory)
    {
        IRegistry.Fault[] memory before = s.faults;
        s.faults = new IRegistry.Fault[](before.length + 1);
        for (uint256 i = 0; i < before.length; ++i) {
            s.faults[i] = before[i];
        }
        s.faults[before.length] = IRegistry.Fault(operator, lineOf(s.batch, 0).job, 3, 1, reason, accusers);
        return s;
    }

    /// @notice The first three nodes of distinct owners other than the operator's.
    function accusersOf(OperatorId operator) internal view returns (uint32[] memory accusers) {
        accusers = new uint32[](3);
        address[] memory owners = new address[](4);
        owners[0] = registry.operatorState(operator).owner;
        uint256 found;
        for (uint256 i = 0; i < _nodes.length && found < 3; ++i) {
            address other = registry.operatorState(OperatorId.wrap(_nodes[i])).owner;
            bool known;
            for (uint256 n = 0; n <= found; ++n) {
                known = known || owners[n] == other;
            }
            if (known) continue;
            accusers[found] = _nodes[i];
            owners[++found] = other;
        }
        require(found == 3, "a fault needs three nodes of other owners: addNode");
    }

    /// @notice Signed by verifiers `first` to `first + count - 1`.
    function quorum(IRegistry.Settlement memory s, uint256 first, uint256 count)
        internal
        view
        returns (uint256 bitmap, bytes memory signature)
    {
        uint256[] memory secrets = new uint256[](count);
        for (uint256 i = 0; i < count; ++i) {
            secrets[i] = 3000 + first + i;
            bitmap |= 1 << slotOf(first + i);
        }
        signature = signatureOf(s, secrets);
    }

    function signatureOf(IRegistry.Settlement memory s, uint256[] memory secrets) internal view returns (bytes memory) {
        return Bls.aggregate(secrets, registry.settlementDigest(s, headerOf(s.batch)));
    }

    function settle(IRegistry.Settlement memory s, uint256 first, uint256 count) internal {
        (uint256 bitmap, bytes memory signature) = quorum(s, first, count);
        settle(s, bitmap, signature);
    }

    function settle(IRegistry.Settlement memory s, uint256 bitmap, bytes memory signature) internal {
        IRegistry.Header memory header = headerOf(s.batch);
        (header.seed, header.payoutRoot) = (registry.batch(s.batch).seed, s.payoutRoot);
        IRegistry.Header memory before = headerOf(s.batch);
        vm.recordLogs();
        registry.settleBatch(s, before, bitmap, signature);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        if (header.seed == 0) header.seed = abi.decode(_logOf(logs, IRegistry.BatchDrawn.selector), (bytes32));
        bytes memory data = _logOf(logs, IRegistry.BatchSettled.selector);
        (,,,,,,,,, header.lines, header.paid) = abi.decode(
            data, (uint8, bytes32, uint32, uint256, uint256, bytes32, bytes, uint256, uint256, uint256[], uint256[])
        );
        _headers[s.batch] = abi.encode(header);
    }

    /// @notice The Court voids a settlement.
    function voidBatch(BatchId batch, bool slashSigners) internal returns (uint96) {
        vm.prank(address(court));
        return registry.void(batch, slashSigners);
    }

    // ------------------------------------------------------------------------------------------------- books

    function held() internal view returns (uint256) {
        IRegistry.Totals memory t = registry.totals();
        (,,, uint256 batches,) = registry.counts();
        return uint256(t.stakes) + t.unbonding + t.bonds + t.burned + t.escrow + lens.claimable(1, batches + 1);
    }

    function assertConserved() internal view {
        vm.assertEq(credit.balanceOf(address(registry)), held(), "every token is accounted for");
    }

    /// @dev The data of the first log of a kind.
    function _logOf(Vm.Log[] memory logs, bytes32 kind) private pure returns (bytes memory) {
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].topics[0] == kind) return logs[i].data;
        }
        revert("no such event");
    }
}
