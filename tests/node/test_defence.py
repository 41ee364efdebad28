"""A node defends itself on a real chain: false faults, broken receipts, bought verdicts, within its budget."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from world import CREDIT, World

from proofyard.artifacts import ArtifactUnavailable
from proofyard.chain import ChainClient, ChallengeId, CourtParams, Kind, Params, Phase, Wallet
from proofyard.disputes.errors import NoSuchPlace
from proofyard.disputes.judging import Finding
from proofyard.node import defence as defence_module
from proofyard.node import pay as pay_module
from proofyard.node import promises as promises_module
from proofyard.node.court import CourtWatch
from proofyard.node.defence import Defence
from proofyard.node.duties import Duties
from proofyard.node.journal import Journal
from proofyard.node.pay import Pay, keep_on_bench
from proofyard.node.promises import Promises
from proofyard.node.purse import Purse
from proofyard.node.receipts import check_receipt
from proofyard.protocol import merkle
from proofyard.protocol.cid import cid_digest, raw_cid
from proofyard.protocol.commitment import Commitment, receipt_struct_hash
from proofyard.protocol.members import Member, encode_members
from proofyard.protocol.messages import Receipt
from proofyard.protocol.seal import UNAVAILABLE, UNKEYED
from proofyard.protocol.signature import SignatureInvalid
from proofyard.protocol.types import BatchId, Cid, Wei
from proofyard.protocol.workload_bits import workload_bit

PATIENT = Params(
    exposure_bps=40_000,
    challenge_window=900,
    court=CourtParams(vote_time=900, reveal_time=900, appeal_time=900, draw_time=900),
)
UNUSED: Any = None


class Own:
    """One node of a world in court, with what it may bond; `innocent` and `record_wrong` are what it finds."""

    def __init__(
        self, world: World, position: int, folder: Path, monkeypatch: pytest.MonkeyPatch, *, budget: int
    ) -> None:
        self.world, self.receipts = world, folder / "receipts"
        self.journal = Journal(folder / f"{position}.db")
        self.innocent = True
        self.record_wrong = False
        self.artifacts: dict[Cid, bytes] = {}
        key, owner = world.nodes[position], world.owners[position].wallet.address  # type: ignore[union-attr]
        self.chain = world.network.client(key)
        self.owner = owner
        duties = Duties()
        purse = Purse(self.chain, owner, Wei(budget * CREDIT))
        parts: tuple[Any, ...] = (self.chain, self, UNUSED, duties, purse)
        self.earlier: set[BatchId] = set()

        async def earlier(_now: int) -> set[BatchId]:
            return self.earlier

        defence = Defence(*parts, operator=world.ids[position], owner=owner, earlier=earlier)
        promises = Promises(self.chain, self, self.journal, self.receipts, duties, purse)  # type: ignore[arg-type]
        self.watch = CourtWatch(self.chain, duties, defence=(purse, defence, promises))

        async def judge_fault(*_: Any, **__: Any) -> tuple[bool, str]:
            return self.innocent, "executed again"

        async def judge_record(*_: Any, **__: Any) -> tuple[bool, str]:
            return self.record_wrong, "validated"

        async def judge(*_: Any, **__: Any) -> Finding:
            return Finding(UNAVAILABLE, UNKEYED, not self.innocent, "executed again")

        monkeypatch.setattr(defence_module, "judge_fault", judge_fault)
        monkeypatch.setattr(defence_module, "judge_record", judge_record)
        monkeypatch.setattr(defence_module, "judge", judge)

    async def read(self, cid: Cid, max_bytes: int) -> bytes:
        if cid not in self.artifacts:
            raise ArtifactUnavailable(cid, 1, ["nobody has it"])
        return self.artifacts[cid]

    async def look(self, holds: Callable[[], object] = lambda: False, *, times: int = 3) -> bool:
        """Look until something holds, a few times at most."""
        for _ in range(times):
            await self.watch.look()
            await self.watch._duties.settle()
            if await asyncio.to_thread(holds):
                return True
        return False


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((defence_module, "LOOK_EVERY_S"), (promises_module, "LOOK_EVERY_S")):
        monkeypatch.setattr(module, name, 0.0)


def challenges(chain: ChainClient) -> list[tuple[Kind, int]]:
    records = [chain.challenge(ChallengeId(number)) for number in range(1, chain.challenge_count() + 1)]
    return [(record.kind, record.entry) for record in records]


async def accused(deploy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, budget: int) -> tuple[Own, BatchId]:
    """The first of seven nodes, which a settled batch accuses."""
    world = World.build(deploy(PATIENT), verifiers=1, nodes=7)
    job = world.open_job(world.network.owner(1400), tasks=7)
    ref = world.commit(job, world.commitments(job))
    world.settle(ref, world.settlement(job, faulty=(0,)), [0])
    return Own(world, 0, tmp_path, monkeypatch, budget=budget), ref.batch


async def test_a_false_fault_is_challenged_once_with_a_bond_from_what_it_holds(
    deploy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, _ = await accused(deploy, tmp_path, monkeypatch, budget=0)
    assert own.chain.account(own.owner).stake == 0, "all that it has is held"
    await own.look()
    assert challenges(own.chain) == [(Kind.FAULT, 0)]
    restarted = Own(own.world, 0, tmp_path, monkeypatch, budget=0)
    await restarted.look()
    assert challenges(own.chain) == [(Kind.FAULT, 0)], "another time would cost another bond"


async def test_a_fault_from_while_the_node_was_down_is_found(
    deploy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, batch = await accused(deploy, tmp_path, monkeypatch, budget=0)
    own.earlier = {batch}
    monkeypatch.setattr(own.chain, "recent_events", lambda _: [])
    await own.look()
    assert challenges(own.chain) == [(Kind.FAULT, 0)]


@pytest.mark.parametrize("work", [True, False])
async def test_an_outvoted_auditor_shows_the_segment_that_it_is_right_about(
    deploy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: bool
) -> None:
    """Not where the record opens it as a decoy, which convicts nobody."""
    own, batch = await accused(deploy, tmp_path, monkeypatch, budget=0)
    slashes = own.chain.slashes
    monkeypatch.setattr(own.chain, "slashes", lambda of: [replace(fault, reason=3) for fault in slashes(of)])
    committed = SimpleNamespace(step=lambda *place: place)

    async def load_committed(*_: Any) -> Any:
        return committed

    async def salt_in_record(*_: Any) -> bytes:
        if not work:
            raise NoSuchPlace(batch, "work", "a decoy")
        return b"salt"

    monkeypatch.setattr(defence_module, "load_committed", load_committed)
    monkeypatch.setattr(defence_module, "salt_in_record", salt_in_record)
    opened: list[tuple[Any, ...]] = []
    assert own.watch._defence is not None
    court = own.watch._defence[1]._court
    monkeypatch.setattr(court, "challenge_audit", lambda *step: opened.append(step))
    monkeypatch.setattr(court, "challenge_fault", lambda *fault: opened.append(fault))
    fault = slashes(batch)[0]
    await own.look()
    shown = (fault.job, fault.task, fault.segment, b"salt")
    assert opened == [(batch, 0, shown) if work else (batch, 0)]


async def test_a_fault_that_cannot_be_refuted_is_let_be(
    deploy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, _ = await accused(deploy, tmp_path, monkeypatch, budget=500)
    own.innocent = False
    await own.look()
    assert challenges(own.chain) == []


@pytest.mark.parametrize(("budget", "found"), [(500, [(Kind.RECORD, 0)]), (49, [])])
async def test_a_record_that_does_not_hold_is_challenged_within_the_budget(
    deploy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int, found: list[Any]
) -> None:
    own, _ = await accused(deploy, tmp_path, monkeypatch, budget=budget)
    own.innocent, own.record_wrong = False, True
    own.world.owners[0].add_stake(Wei(60 * CREDIT))
    await own.look()
    assert challenges(own.chain) == found


def promised(world: World, journal: Journal, commitment: Commitment, deadline: int) -> Receipt:
    """A receipt of the first verifier, as a node keeps it."""
    leaf, domain, verifier = commitment.struct_hash(), world.chain.domain, world.verifiers[0]
    digest = domain.typed_digest(receipt_struct_hash(leaf, commitment.job, deadline))
    receipt = Receipt(leaf, commitment.job, deadline, verifier.sign_digest(digest))
    check_receipt(domain, verifier.address, commitment, receipt)
    journal.keep_receipt(verifier.address, commitment.task, receipt)
    return receipt


async def test_a_broken_receipt_is_challenged_and_an_honoured_one_is_not(
    deploy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World.build(deploy(PATIENT), verifiers=1, nodes=3)
    job = world.open_job(world.network.owner(1400), tasks=4)
    own = Own(world, 0, tmp_path, monkeypatch, budget=500)
    world.owners[0].add_stake(Wei(60 * CREDIT))
    world.verifier().take_job(job)
    first, second, _ = world.commitments(job)
    deadline = world.chain.now() + 300
    for commitment in (first, second):
        promised(world, own.journal, commitment, deadline)
    members = encode_members([Member(first, world.sign(first), ())])
    root = merkle.root([first.struct_hash()])
    world.verifier().commit_batch(root, 1, cid_digest(raw_cid(members)), [(job, 10)])
    await own.look()
    assert challenges(own.chain) == [], "it is not due"

    world.network.anvil.warp(301)
    await own.look()
    assert challenges(own.chain) == [], "the list of a batch that might hold it cannot be had"
    own.artifacts[raw_cid(members)] = members
    await own.look()
    assert challenges(own.chain) == [(Kind.RECEIPT, 0)]
    record = own.chain.challenge(ChallengeId(1))
    assert (record.leaf, record.challenger) == (second.struct_hash(), own.owner)
    assert len(list(own.receipts.iterdir())) == 1, "the broken one is a file for people, too"
    await own.look()
    assert len(challenges(own.chain)) == 1


async def test_a_list_that_stays_hidden_is_no_answer_to_a_receipt(
    deploy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World.build(deploy(PATIENT), verifiers=1, nodes=3)
    job = world.open_job(world.network.owner(1400), tasks=4)
    own = Own(world, 0, tmp_path, monkeypatch, budget=500)
    world.owners[0].add_stake(Wei(60 * CREDIT))
    world.verifier().take_job(job)
    promised(world, own.journal, world.commitments(job)[0], world.chain.now() + 300)
    world.verifier().commit_batch(merkle.root([b"leaf" * 8]), 1, cid_digest(raw_cid(b"hidden")), [(job, 10)])
    world.network.anvil.warp(301)
    await own.look()
    assert challenges(own.chain) == []
    world.network.anvil.warp(int(PATIENT.challenge_window * promises_module.LAST) + 1)
    await own.look()
    assert challenges(own.chain) == [(Kind.RECEIPT, 0)]


def test_a_receipt_that_is_worth_nothing_in_court_is_none(deploy: Any, tmp_path: Path) -> None:
    world = World.build(deploy(PATIENT), verifiers=1, nodes=2)
    job = world.open_job(world.network.owner(1400), tasks=4)
    first, second = world.commitments(job)
    receipt = promised(world, Journal(tmp_path / "node.db"), first, 1000)
    domain, verifier = world.chain.domain, world.verifiers[0].address
    for bad in (replace_job(receipt), receipt):
        with pytest.raises(Exception, match="another commitment"):
            check_receipt(domain, verifier, second if bad is receipt else first, bad)
    with pytest.raises(SignatureInvalid):
        check_receipt(domain, Wallet.generate().address, first, receipt)


def replace_job(receipt: Receipt) -> Receipt:
    return msgspec.structs.replace(receipt, job=receipt.job + 1)


@pytest.mark.parametrize(
    ("innocent", "budget", "appealed"), [(True, 500, True), (False, 500, False), (True, 10, False)]
)
async def test_a_first_verdict_is_appealed_where_this_node_finds_otherwise(
    deploy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, innocent: bool, budget: int, appealed: bool
) -> None:
    world = World.build(deploy(PATIENT), verifiers=1, nodes=7)
    job = world.open_job(world.network.owner(1400), tasks=7)
    own = Own(world, 0, tmp_path, monkeypatch, budget=budget)
    other = Own(world, 1, tmp_path, monkeypatch, budget=500)
    own.innocent = other.innocent = innocent
    world.owners[0].add_stake(Wei(200 * CREDIT))
    _, _, challenge = world.disputed(job, world.network.owner(50))
    assert world.try_case(challenge, wrong=True) == Phase.VERDICT
    await other.look()
    assert own.chain.challenge(challenge).round == 0, "it is nothing to a node that it is not about"
    await own.look()
    record = own.chain.challenge(challenge)
    assert (record.round == 1) == appealed
    if appealed:
        assert record.appellant == own.owner


async def test_pay_is_collected_and_a_place_on_the_bench_kept_by_the_node_itself(
    deploy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World.build(deploy(Params(exposure_bps=40_000)), verifiers=1, nodes=3)
    job = world.open_job(world.network.owner(1400), tasks=3)
    ref = world.commit(job, world.commitments(job))
    record = SimpleNamespace(payouts=world.payouts())
    monkeypatch.setattr(pay_module, "decode_record", lambda _: record)
    monkeypatch.setattr(pay_module, "payouts_of", lambda record: record.payouts)
    world.settle(ref, world.settlement(job), [0])
    own = Own(world, 1, tmp_path, monkeypatch, budget=0)
    own.artifacts[raw_cid(b"record")] = b""
    journal: Any = SimpleNamespace(sealed_batches=lambda: {ref.batch}, jobs_since=lambda _: [])
    duties = Duties()
    pay = Pay(own.chain, own, journal, duties, world.ids[1])  # type: ignore[arg-type]
    terms = (own.chain, own, journal, duties, world.ids[1])
    patient = Pay(*terms, least=Wei(200 * CREDIT))  # type: ignore[arg-type]
    dear = Pay(*terms, token_per_ether=10**9)  # type: ignore[arg-type]
    before = world.chain.token_balance(own.owner)
    for waited, paid in ((0, 0), (Params().challenge_window + pay_module.CLAIM_AFTER_S + 1, 100)):
        world.network.anvil.warp(waited)
        await patient._collect(world.chain.now())
        await dear._collect(world.chain.now())
        assert world.chain.token_balance(own.owner) == before, "what is too little, or less than its gas, waits"
        await pay._collect(world.chain.now())
        assert world.chain.token_balance(own.owner) == before + paid * CREDIT
    await pay._collect(world.chain.now())
    assert world.chain.operator(world.ids[1]).consecutive_valid == 1, "paid once, and it counts"

    bench = asyncio.create_task(keep_on_bench(own.chain, own.owner, ("lora", "map")))
    joined: list[Any] = []
    monkeypatch.setattr(own.chain, "join_bench", joined.append)
    async with asyncio.timeout(60):
        while not joined:
            await asyncio.sleep(0.05)
    bench.cancel()
    assert joined == [1 << workload_bit("map")], "it is registered for the first alone"
