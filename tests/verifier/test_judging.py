"""A batch judged from end to end inside one process: real records and seals, auditors of every character."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from sqlmodel import select

from proofyard.artifacts import BlockStore, cid_of_bytes
from proofyard.chain import Wallet
from proofyard.disputes.refusals import check_refusals
from proofyard.protocol.audit import BatchEntry, Operator, audit_plan
from proofyard.protocol.cid import cid_bytes, cid_digest
from proofyard.protocol.codec import encode
from proofyard.protocol.commitment import Commitment, Domain
from proofyard.protocol.dial import WAD
from proofyard.protocol.earnings import earnings
from proofyard.protocol.manifest import Manifest, encode_manifest
from proofyard.protocol.merkle import root
from proofyard.protocol.messages import Ack, Announce, AuditOffer, OpenSeal, SealOpened, SubmitCommitment, SubmitSeal
from proofyard.protocol.record import (
    BatchRecord,
    RecordedFault,
    RecordedOperator,
    decode_record,
    encode_record,
    settlement_of,
)
from proofyard.protocol.replay import RecordInvalid, check_record
from proofyard.protocol.seal import CANNOT_EXECUTE, seal_of, seal_struct_hash
from proofyard.protocol.settlement import FaultReason, OperatorId
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, TaskIndex
from proofyard.transport import Connection
from proofyard.verifier.batches import _judge
from proofyard.verifier.context import Context, Member
from proofyard.verifier.database import (
    Batch,
    BatchState,
    Database,
    Fault,
    Job,
    JobState,
    Log,
    Segment,
    Task,
    TaskState,
    tasks_of,
)
from proofyard.verifier.desk import Desk
from proofyard.verifier.membership import MemberOdds
from proofyard.verifier.schedule import faulty_nodes
from proofyard.verifier.settling import build_record
from proofyard.workloads.lora import WORKLOAD, LoraWorkload
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.workload import Inputs, Workload

DOMAIN = Domain(31337, Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8"))
BATCH = BatchId(5)
K = 2
TRUSTED = 10**9
"""Consecutive valid audits of everybody: who has so many is next to never drawn."""


def manifest_of(segments: int) -> Manifest:
    return Manifest(
        workload="lora",
        model=cid_of_bytes(b"model"),
        data=cid_of_bytes(b"data"),
        params={
            "modules": {"layer": (16, 16)},
            "rank": 2,
            "alpha": 4.0,
            "lr": 0.01,
            "rounds": 1,
            "workers": 3,
            "segments": segments,
            "segment_steps": 1,
            "batch": 1,
            "seq_len": 8,
        },
    )


class CannotExecute(Exception):
    """What an auditor answers instead of a state."""


Answer = Callable[[bytes, bytes], bytes]
"""The state that an auditor claims, from the honest one and the worker's."""


def honest(right: bytes, _claimed: bytes) -> bytes:
    return right


def accuser(right: bytes, _claimed: bytes) -> bytes:
    return off_by_a_bit(right)


def lazy(_right: bytes, _claimed: bytes) -> bytes:
    return state(0)


def colluder(_right: bytes, claimed: bytes) -> bytes:
    return claimed


def failing(_right: bytes, _claimed: bytes) -> bytes:
    raise CannotExecute


def rounding(right: bytes, _claimed: bytes) -> bytes:
    return moved(right, 1e-6)


def silent(_right: bytes, _claimed: bytes) -> bytes:
    raise LookupError("never answers")


def state(number: int) -> bytes:
    """State `number` of every task, as honest segments make it."""
    specs = WORKLOAD.graph(manifest_of(1))
    first = dict(decode_state(WORKLOAD.initial_state(manifest_of(1), specs[0], Inputs())))
    return moved(encode_state(first | {"step": np.array(number, np.int64)}), 1e-3 * number)


def moved(after: bytes, by: float) -> bytes:
    """A state whose adapter is `by` farther."""
    tensors = dict(decode_state(after))
    for name in [name for name in tensors if name.startswith("adapter.")]:
        tensors[name] = (tensors[name] + np.float32(by)).astype(np.float32)
    return encode_state(tensors)


def off_by_a_bit(after: bytes) -> bytes:
    """A state of which the lowest bit of one weight is another one."""
    tensors = {name: array.copy() for name, array in decode_state(after).items()}
    tensors["adapter.layer.lora_A"].view(np.int32)[0, 0] ^= 1
    return encode_state(tensors)


def trap(after: bytes) -> bytes:
    """A state in which a second moment is negative."""
    tensors = {name: array.copy() for name, array in decode_state(after).items()}
    tensors["second.layer.lora_A"][0, 0] = -1
    return encode_state(tensors)


class Roughly(LoraWorkload):
    """The same, as a third party would have it whose segments differ by rounding."""

    exact = False

    def agrees(self, manifest: Any, task: Any, segment: int, before: bytes, one: bytes, other: bytes) -> bool:
        a, b = decode_state(one), decode_state(other)
        return all(np.allclose(a[name], b[name], rtol=0, atol=1e-5) for name in a)


@dataclass
class Auditor:
    """A node with one character; behaves to the verifier as a connected node does that has its own states alone."""

    wallet: Wallet
    answer: Answer
    desk: Desk
    claimed: dict[int, tuple[bytes, ...]]
    openings: dict[tuple[int, int], SealOpened] = field(default_factory=dict)
    states: dict[Cid, bytes] = field(default_factory=dict)
    shows_states: bool = False

    @property
    def peer(self) -> Address:
        return self.wallet.address

    @property
    def name(self) -> str:
        return self.peer

    async def blocks(self, cids: Sequence[Cid]) -> AsyncGenerator[tuple[Cid, bytes | None], None]:
        for cid in cids:
            yield cid, self.states.get(cid)

    async def lacks(self, cids: Sequence[Cid]) -> list[Cid]:
        return [cid for cid in cids if cid not in self.states]

    async def request(self, message: Any, *, reply: type, timeout: float) -> Any:
        if isinstance(message, OpenSeal):
            return self.openings[message.task, message.segment]
        assert isinstance(message, AuditOffer)
        try:
            after = self.answer(state(message.segment + 1), self.claimed[message.task.index][message.segment])
        except LookupError:
            return Ack()
        except CannotExecute:
            opened = SealOpened(CANNOT_EXECUTE, "a trap", bytes(32))
        else:
            if self.shows_states:
                self.states[cid_of_bytes(after)] = after
            opened = SealOpened(cid_digest(cid_of_bytes(after)), "", bytes(32))
        self.openings[message.task.index, message.segment] = opened
        seal = seal_of(opened.opening(), self.peer)
        place = (message.batch, message.task.index, message.segment)
        signature = self.wallet.sign_digest(DOMAIN.typed_digest(seal_struct_hash(*place, self.peer, seal)))
        submit = SubmitSeal(message.batch, message.job, message.task.index, message.segment, seal, signature)
        await self.desk.submit_seal(cast(Connection, self), submit, cast(Any, None))
        return Ack()


class Court:
    """A verifier's context with one batch: of each task what the worker claims and whether it is drawn."""

    def __init__(
        self, folder: Path, auditors: list[Answer], *, state_due_s: float = 0.5, workload: Workload = WORKLOAD
    ) -> None:
        settings = SimpleNamespace(lease_s=3.0, state_due_s=state_due_s, blind=False)
        self.workload = workload
        self.context = Context(
            cast(Any, settings),
            Wallet.generate(),
            DOMAIN,
            cast(Any, None),
            Database(f"sqlite:///{folder / 'verifier.db'}"),
            BlockStore(folder / "blocks"),
            cast(Any, SimpleNamespace(on=lambda *_: None)),
        )
        self.context.workload = lambda _: workload  # type: ignore[method-assign]
        self.claimed: dict[int, tuple[bytes, ...]] = {}
        desk = Desk(self.context)
        self.worker = Wallet.generate()
        self.auditors = [
            Auditor(Wallet.generate(), answer, desk, self.claimed, shows_states=not workload.exact)
            for answer in auditors
        ]
        for auditor in self.auditors:
            announce = Announce(("lora",), 0, 0, "")
            self.context.members[auditor.peer] = Member(cast(Connection, auditor), announce, cast(Any, None))
        nodes = [self.worker.address, *(auditor.peer for auditor in self.auditors)]
        self.operators = [
            RecordedOperator(OperatorId(n), node, Wallet.generate().address, TRUSTED) for n, node in enumerate(nodes, 1)
        ]

    def commit(
        self,
        tasks: dict[int, tuple[tuple[bytes, ...], bool]],
        *,
        withheld: bool = False,
        result: bytes | None = None,
        first: int | None = None,
    ) -> None:
        """Put a batch of the worker's tasks into the database: task to the states it claims after its segments, and
        whether it is drawn; then all of its segments are. The auditor `first` has a seat from the beginning."""
        context, store = self.context, self.context.store
        segments = len(next(iter(tasks.values()))[0])
        self.manifest = manifest_of(segments)
        self.specs = self.workload.graph(self.manifest)
        manifest = store.put_bytes(encode_manifest(self.manifest))
        members = []
        for index, (states, _) in tasks.items():
            self.claimed[index] = states
            keep = cid_of_bytes if withheld else store.put_bytes
            trace = (store.put_bytes(state(0)), *map(keep, states))
            honest_result = result or self.workload.result(
                self.manifest, self.specs[index], (state(0), *states).__getitem__
            )
            commitment = Commitment(
                job=JobId(1),
                task=TaskIndex(index),
                node=self.worker.address,
                manifest=cid_digest(manifest),
                inputs=root([cid_bytes(manifest)]),
                trace_root=root([cid_bytes(cid) for cid in trace]),
                segments=segments,
                result=store.put_bytes(honest_result),
                work_units=self.specs[index].work_units,
            )
            signature = self.worker.sign_digest(DOMAIN.typed_digest(commitment.struct_hash()))
            members.append(SubmitCommitment(commitment, signature, trace))
        worker = self.operators[0]
        odds = [
            MemberOdds(worker.id, worker.owner, WAD if drawn else WAD // TRUSTED, segments)
            for _, drawn in tasks.values()
        ]
        entries = [
            BatchEntry(
                *(m.commitment.task, m.commitment.node, o.owner, segments),
                *(m.commitment.struct_hash(), o.audit_wad, o.drawn),
            )
            for m, o in zip(members, odds, strict=True)
        ]
        nodes = [Operator(operator.node, operator.owner) for operator in self.operators]
        for seed in (Digest(number.to_bytes(32)) for number in itertools.count()):
            plan = audit_plan(seed, entries, nodes, auditors_per_segment=K)
            if first is None or self.auditors[first].peer in plan.audits[0].auditors[:K]:
                break
        with context.database.session() as session:
            terms = {"auditors_per_segment": K, "segments_per_audit": 1, "deadline": 2**40}
            pay = {"reward": "9000", "audit_fee": "900"}
            job = Job(id=1, requester="0x1", manifest=manifest, tasks=4, state=JobState.RUNNING, **pay, **terms)
            session.add(job)
            session.flush()
            batch = Batch(
                id=1,
                job=1,
                state=BatchState.AUDITING,
                root=root([member.commitment.struct_hash() for member in members]),
                members=encode([encode(member) for member in members]),
                chain_id=BATCH,
                seed=seed,
                operators=encode(self.operators),
                odds=encode(odds),
            )
            session.add(batch)
            session.flush()
            for spec in self.specs:
                judging = TaskState.JUDGING if spec.index in tasks else TaskState.WAITING
                session.add(Task(job=1, index=spec.index, spec=encode(spec), state=judging, batch=1))
            for audit in plan.audits:
                order = " ".join(audit.auditors)
                session.add(
                    Segment(batch=1, task=audit.task, index=audit.segment, auditors=order, drawn_at=self.drawn_at)
                )

    drawn_at = 2.0**40

    async def judge(self) -> BatchRecord:
        with self.context.database.session() as session:
            batch = session.get(Batch, 1)
            assert batch is not None
        async with asyncio.timeout(60):
            await _judge(self.context, batch)
        await self.context.close()
        with self.context.database.session() as session:
            batch = session.get(Batch, 1)
            assert batch is not None
            record = build_record(session, self.context, batch)
        self.check(record)
        await check_refusals(record, self.manifest, self.specs, self.read)
        return record

    def check(self, record: BatchRecord) -> None:
        assert decode_record(encode_record(record)) == record
        check_record(record, self.specs, exact=self.workload.exact)

    async def read(self, cid: Cid, max_bytes: int) -> bytes:
        return self.context.store.get_bytes(cid, max_bytes=max_bytes)

    def guilty(self, record: BatchRecord) -> list[str]:
        """Who is at fault, by character."""
        names = {auditor.peer: auditor.answer.__name__ for auditor in self.auditors}
        return sorted({names.get(fault.node, "worker") for fault in record.faults})

    def states(self) -> dict[int, str]:
        with self.context.database.session() as session:
            return {task.index: str(task.state) for task in tasks_of(session, 1)}


RIGHT = (state(1),)


@pytest.fixture
def court(tmp_path: Path) -> Iterator[Callable[..., Court]]:
    made: list[Court] = []

    def make(*auditors: Answer, **settings: Any) -> Court:
        made.append(Court(tmp_path, list(auditors), **settings))
        return made[-1]

    yield make
    for each in made:
        each.context.database.close()


@pytest.mark.parametrize("liar", [accuser, lazy, failing, colluder])
async def test_whoever_lies_in_an_audit_is_outvoted_and_slashed(court: Callable[..., Court], liar: Answer) -> None:
    """Every task that the liar has a seat at; the worker is honest unless the liar would cover for it."""
    cheating = liar is colluder
    here = court(liar, honest, honest, honest)
    here.commit(dict.fromkeys(range(3), ((moved(state(1), 1e-5),) if cheating else RIGHT, True)))
    record = await here.judge()
    voted = any(vote.auditor == here.auditors[0].peer for audit in record.audits for vote in audit.votes)
    assert here.guilty(record) == sorted((["worker"] if cheating else []) + ([liar.__name__] if voted else []))
    reasons = {fault.operator: fault.reason for fault in settlement_of(record, cid_of_bytes(b"")).faults}
    assert reasons == {
        **({OperatorId(1): FaultReason.MISMATCH} if cheating else {}),
        **({OperatorId(2): FaultReason.FALSE_AUDIT} if voted else {}),
    }
    paid = {payout.node for payout in record.payouts}
    assert here.auditors[0].peer not in paid
    assert (here.worker.address in paid) == (not cheating)
    assert set(here.states().values()) == ({"ready", "waiting"} if cheating else {"valid", "waiting"})
    if voted:
        forgiven = msgspec.structs.replace(record, faults=tuple(f for f in record.faults if f.segment is None))
        with pytest.raises(RecordInvalid, match="false auditors"):
            here.check(forgiven)


async def test_two_auditors_whose_answers_differ_in_one_bit_do_not_agree(court: Callable[..., Court]) -> None:
    """Two more decide, and whoever was off by a bit has not executed."""
    here = court(accuser, honest, honest, honest)
    here.commit({0: (RIGHT, True)}, first=0)
    record = await here.judge()
    assert len(record.audits[0].votes) == 4
    assert here.guilty(record) == ["accuser"]
    assert here.states()[0] == "valid"


async def test_auditors_that_make_up_answers_by_themselves_convict_nobody(court: Callable[..., Court]) -> None:
    """As many as there are seats, on an honest worker: they contradict each other as well."""
    here = court(lazy, accuser, honest, honest, honest)
    here.commit(dict.fromkeys(range(3), (RIGHT, True)))
    record = await here.judge()
    assert "worker" not in here.guilty(record)
    assert {audit.verdict for audit in record.audits} == {"valid"}


async def test_whoever_claims_a_state_for_a_segment_that_cannot_be_executed_is_convicted(
    court: Callable[..., Court],
) -> None:
    here = court(failing, failing, failing, failing)
    here.commit({0: (RIGHT, True)})
    record = await here.judge()
    assert here.guilty(record) == ["worker"]
    assert record.faults[0].kind == FaultReason.MISMATCH
    assert "cannot be executed" in record.faults[0].reason and "a trap" in record.faults[0].reason


async def test_a_state_that_breaks_a_law_is_a_fault_before_anybody_is_seated(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest, honest)
    here.commit({0: ((trap(state(1)), state(2)), True)})
    record = await here.judge()
    refused = next(audit for audit in record.audits if audit.segment == 1)
    assert (refused.votes, refused.verdict) == ((), "fault")
    assert "negative" in refused.reason
    assert here.guilty(record) == ["worker"]
    settled = settlement_of(record, cid_of_bytes(b"")).faults[0]
    assert settled.reason == FaultReason.MISMATCH


async def test_a_verifier_cannot_call_a_state_or_a_result_refused_that_is_in_order(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest, honest)
    here.commit({0: (RIGHT, True)})
    record = await here.judge()
    blame = RecordedFault(TaskIndex(0), here.worker.address, FaultReason.MISMATCH, "I say so")
    for audits in (record.audits, (msgspec.structs.replace(record.audits[0], votes=(), verdict="fault"),)):
        lie = msgspec.structs.replace(record, audits=audits, faults=(blame,))
        lie = msgspec.structs.replace(lie, payouts=earnings(lie, here.specs))
        here.check(lie)
        with pytest.raises(RecordInvalid, match="is called a fault and is in order"):
            await check_refusals(lie, here.manifest, here.specs, here.read)


@pytest.mark.parametrize(
    "auditors", [(), (honest,), (failing,), (honest, accuser), (accuser, honest, honest), (honest, accuser, accuser)]
)
async def test_too_few_auditors_never_decide(court: Callable[..., Court], auditors: tuple[Answer, ...]) -> None:
    """Nobody is left who could settle a split, or be the second one: the task is done again."""
    here = court(*auditors)
    here.drawn_at = 0.0
    here.commit({0: (RIGHT, True)}, first=1 if accuser in auditors[1:] else 0 if auditors else None)
    record = await here.judge()
    assert {audit.verdict for audit in record.audits} == {"undecided"}
    assert (record.faults, record.payouts, here.states()[0]) == ((), (), "ready")


async def test_nobody_audits_what_it_does_not_offer(court: Callable[..., Court]) -> None:
    here = court(accuser, honest, honest)
    member = here.context.members[here.auditors[0].peer]
    member.announce = msgspec.structs.replace(member.announce, workloads=("map",))
    here.commit({0: (RIGHT, True)}, first=0)
    record = await here.judge()
    assert {vote.auditor for vote in record.audits[0].votes} == {auditor.peer for auditor in here.auditors[1:]}
    assert (record.faults, here.states()[0]) == ((), "valid")


async def test_a_record_cannot_make_an_audit_less_likely_than_the_workers_reputation(
    court: Callable[..., Court],
) -> None:
    here = court(honest, honest, honest)
    here.commit({0: (RIGHT, False)})
    record = await here.judge()
    newcomer = msgspec.structs.replace(record.operators[0], consecutive_valid=0)
    for operators in ((newcomer, *record.operators[1:]), record.operators[1:]):
        with pytest.raises(RecordInvalid, match="less likely"):
            here.check(msgspec.structs.replace(record, operators=operators))
    for changes in ({"owner": here.worker.address}, {"operator": OperatorId(99)}, {"drawn": 0}):
        task = msgspec.structs.replace(record.tasks[0], **changes)
        with pytest.raises(RecordInvalid, match=r"another operator|fewer segments"):
            here.check(msgspec.structs.replace(record, tasks=(task,)))


async def test_no_state_can_be_named_like_the_answer_that_it_cannot_be_executed(court: Callable[..., Court]) -> None:
    here = court(failing, failing, failing)
    text = b"proofyard: this segment cannot be executed"
    assert cid_digest(cid_of_bytes(text)) == CANNOT_EXECUTE
    here.commit({0: ((text,), True)}, result=b"anything")
    with pytest.raises(RecordInvalid, match="names the answer"):
        await here.judge()
    with here.context.database.session() as session:
        assert session.exec(select(Fault.node)).all() == [here.worker.address]


async def test_an_auditor_that_is_silent_costs_nobody_anything(court: Callable[..., Court]) -> None:
    here = court(silent, honest, honest)
    here.commit({0: (RIGHT, True)})
    record = await here.judge()
    assert record.faults == ()
    assert here.states()[0] == "valid"


async def test_a_worker_that_withholds_its_states_is_judged_as_if_they_were_wrong(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    here.commit({0: (RIGHT, True), 1: (RIGHT, False)}, withheld=True)
    record = await here.judge()
    assert here.guilty(record) == ["worker"]
    assert "was not delivered within" in record.faults[0].reason
    assert record.faults[0].kind == FaultReason.WITHHELD
    assert here.states()[0] == "ready"


async def test_nothing_of_a_caught_node_is_taken_on_trust(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    here.commit({0: ((off_by_a_bit(state(1)),), True), 1: (RIGHT, False), 2: (RIGHT, False)})
    record = await here.judge()
    assert [(fault.task, fault.node) for fault in record.faults] == [(0, here.worker.address)]
    assert here.states() == {0: "ready", 1: "ready", 2: "ready", 3: "waiting"}
    assert here.worker.address not in {payout.node for payout in record.payouts}
    with here.context.database.session() as session:
        assert all(here.worker.address in task.barred for task in tasks_of(session, 1)[:3])
        assert [line.task for line in session.exec(select(Log).where(Log.kind == "caught"))] == [1, 2]


async def test_a_result_that_its_last_state_does_not_give_is_a_fault_even_undrawn(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    here.commit({0: (RIGHT, False)}, result=b"anything")
    record = await here.judge()
    assert [(fault.kind, fault.segment) for fault in record.faults] == [(FaultReason.MISMATCH, None)]
    assert "the result" in record.faults[0].reason


async def test_where_a_workload_is_not_exact_its_metric_says_who_agrees_and_nobody_loses_stake(
    court: Callable[..., Court],
) -> None:
    here = court(rounding, honest, rounding, workload=Roughly())
    here.commit({0: ((moved(state(1), 2e-6),), True)})
    record = await here.judge()
    assert record.audits[0].verdict == "valid"
    assert record.faults == ()
    with pytest.raises(RecordInvalid, match="counted as others"):
        check_record(record, here.specs, exact=True)


async def test_who_disagrees_where_a_workload_is_not_exact_loses_its_pay_and_no_stake(
    court: Callable[..., Court],
) -> None:
    here = court(rounding, honest, rounding, colluder, workload=Roughly())
    here.commit({0: ((moved(state(1), 5e-4),), True), 1: (RIGHT, False)})
    record = await here.judge()
    assert (record.audits[0].verdict, here.states()[0]) == ("fault", "ready")
    assert [(fault.node, fault.kind) for fault in record.faults] == [(here.worker.address, FaultReason.DISAGREED)]
    assert [fault.reason for fault in settlement_of(record, cid_of_bytes(b"")).faults] == [FaultReason.DISAGREED]
    assert here.worker.address not in {payout.node for payout in record.payouts}
    harsh = tuple(msgspec.structs.replace(fault, kind=FaultReason.MISMATCH) for fault in record.faults)
    with pytest.raises(RecordInvalid, match="another kind"):
        here.check(msgspec.structs.replace(record, faults=harsh))
    with here.context.database.session() as session:
        assert here.worker.address not in faulty_nodes(session)
