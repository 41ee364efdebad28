"""A batch judged from end to end inside one process: real records, seals and sketches, auditors of every character."""

import asyncio
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
from proofyard.protocol.audit import WAD, BatchEntry, Operator, audit_plan
from proofyard.protocol.cid import cid_bytes, cid_digest
from proofyard.protocol.codec import encode
from proofyard.protocol.commitment import Commitment, Domain
from proofyard.protocol.manifest import Manifest, encode_manifest
from proofyard.protocol.merkle import root
from proofyard.protocol.messages import Ack, Announce, AuditOffer, OpenSeal, SealOpened, SubmitCommitment, SubmitSeal
from proofyard.protocol.record import BatchRecord, RecordedOperator, settlement_of
from proofyard.protocol.replay import RecordInvalid, check_record
from proofyard.protocol.seal import Opening, seal_of, seal_struct_hash
from proofyard.protocol.settlement import FaultReason, OperatorId
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, TaskIndex
from proofyard.transport import Connection
from proofyard.verifier.batches import _judge
from proofyard.verifier.context import Context, Member
from proofyard.verifier.database import (
    Batch,
    BatchState,
    Database,
    Job,
    JobState,
    Log,
    Segment,
    Task,
    TaskState,
    tasks_of,
)
from proofyard.verifier.desk import Desk
from proofyard.verifier.settling import build_record
from proofyard.workloads.answers import check_answers
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.sketch import sketch_change
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.workload import Inputs

DOMAIN = Domain(31337, Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8"))
SEED = Digest(bytes(range(32)))
BATCH = BatchId(5)
K = 2
MANIFEST = Manifest(
    workload="lora",
    model=cid_of_bytes(b"model"),
    data=cid_of_bytes(b"data"),
    tolerance=1e-3,
    params={
        "modules": {"layer": (16, 16)},
        "rank": 2,
        "alpha": 4.0,
        "lr": 0.01,
        "rounds": 1,
        "workers": 3,
        "segments": 1,
        "segment_steps": 1,
        "batch": 1,
        "seq_len": 8,
    },
)
SPECS = WORKLOAD.graph(MANIFEST)

Answer = Callable[[bytes, bytes], bytes]
"""The state that an auditor claims, from the honest one and the worker's."""


def honest(right: bytes, _claimed: bytes) -> bytes:
    return right


def accuser(right: bytes, _claimed: bytes) -> bytes:
    return moved(right, -1.0)


def lazy(_right: bytes, _claimed: bytes) -> bytes:
    return first_state()


def colluder(_right: bytes, claimed: bytes) -> bytes:
    return claimed


def rounding(right: bytes, _claimed: bytes) -> bytes:
    return moved(right, 1.005)


def silent(_right: bytes, _claimed: bytes) -> bytes:
    raise LookupError("never answers")


def first_state() -> bytes:
    return WORKLOAD.initial_state(MANIFEST, SPECS[0], Inputs())


def right_state() -> bytes:
    """What one honest segment makes of the first state."""
    state = dict(decode_state(first_state()))
    for number, name in enumerate(sorted(state)):
        noise = np.random.default_rng(number).normal(size=state[name].shape)
        state[name] = np.int64(1).reshape(()) if name == "step" else (state[name] + noise).astype(np.float32)
    return encode_state(state)


def moved(after: bytes, factor: float) -> bytes:
    """The state at `factor` times the way from the first one."""
    start, end = decode_state(first_state()), dict(decode_state(after))
    for name in end.keys() - {"step"}:
        end[name] = (start[name] + (end[name] - start[name]) * np.float32(factor)).astype(np.float32)
    return encode_state(end)


@dataclass
class Auditor:
    """A node with one character; behaves to the verifier as a connected node does that has none of the states."""

    wallet: Wallet
    answer: Answer
    desk: Desk
    claimed: dict[int, bytes]
    openings: dict[int, SealOpened] = field(default_factory=dict)

    @property
    def peer(self) -> Address:
        return self.wallet.address

    @property
    def name(self) -> str:
        return self.peer

    async def blocks(self, cids: Sequence[Cid]) -> AsyncGenerator[tuple[Cid, bytes | None], None]:
        for cid in cids:
            yield cid, None

    async def lacks(self, cids: Sequence[Cid]) -> list[Cid]:
        return list(cids)

    async def request(self, message: Any, *, reply: type, timeout: float) -> Any:
        if isinstance(message, OpenSeal):
            return self.openings[message.task]
        assert isinstance(message, AuditOffer)
        try:
            after = self.answer(right_state(), self.claimed[message.task.index])
        except LookupError:
            return Ack()
        change = WORKLOAD.change(MANIFEST, message.task, first_state(), after)
        opened = SealOpened(sketch_change(change, message.seed).encode(), cid_digest(cid_of_bytes(after)), bytes(32))
        self.openings[message.task.index] = opened
        seal = seal_of(Opening(opened.sketch, opened.after, opened.salt), self.peer)
        place = (message.batch, message.task.index, message.segment)
        signature = self.wallet.sign_digest(DOMAIN.typed_digest(seal_struct_hash(*place, self.peer, seal)))
        submit = SubmitSeal(message.batch, message.job, message.task.index, message.segment, seal, signature)
        await self.desk.submit_seal(cast(Connection, self), submit, cast(Any, None))
        return Ack()


class Court:
    """A verifier's context with one batch: `workers` maps a task to who did it and to the state that it claims."""

    def __init__(self, folder: Path, auditors: list[Answer], state_due_s: float = 0.5) -> None:
        settings = SimpleNamespace(lease_s=3.0, state_due_s=state_due_s, blind=False)
        self.context = Context(
            cast(Any, settings),
            Wallet.generate(),
            DOMAIN,
            cast(Any, None),
            Database(f"sqlite:///{folder / 'verifier.db'}"),
            BlockStore(folder / "blocks"),
            cast(Any, SimpleNamespace(on=lambda *_: None)),
        )
        self.claimed: dict[int, bytes] = {}
        desk = Desk(self.context)
        self.worker = Wallet.generate()
        self.auditors = [Auditor(Wallet.generate(), answer, desk, self.claimed) for answer in auditors]
        for auditor in self.auditors:
            announce = Announce(("lora",), "", 0, 0, "")
            self.context.members[auditor.peer] = Member(cast(Connection, auditor), announce)
        nodes = [self.worker.address, *(auditor.peer for auditor in self.auditors)]
        self.operators = [
            RecordedOperator(OperatorId(n), node, Wallet.generate().address, 0) for n, node in enumerate(nodes, 1)
        ]

    def commit(
        self, tasks: dict[int, tuple[bytes, bool]], *, withheld: bool = False, result: bytes | None = None
    ) -> None:
        """Put a batch of the worker's tasks into the database: task to the state it claims and whether it is drawn."""
        context, store = self.context, self.context.store
        manifest = store.put_bytes(encode_manifest(MANIFEST))
        members = []
        for index, (after, _) in tasks.items():
            self.claimed[index] = after
            trace = (store.put_bytes(first_state()), cid_of_bytes(after) if withheld else store.put_bytes(after))
            commitment = Commitment(
                job=JobId(1),
                task=TaskIndex(index),
                node=self.worker.address,
                manifest=cid_digest(manifest),
                inputs=root([cid_bytes(manifest)]),
                trace_root=root([cid_bytes(cid) for cid in trace]),
                segments=1,
                result=store.put_bytes(result or WORKLOAD.result(MANIFEST, SPECS[index], after)),
                work_units=SPECS[index].work_units,
            )
            signature = self.worker.sign_digest(DOMAIN.typed_digest(commitment.struct_hash()))
            members.append(SubmitCommitment(commitment, signature, trace))
        wads = [WAD if drawn else 0 for _, drawn in tasks.values()]
        plan = audit_plan(
            SEED,
            [
                BatchEntry(m.commitment.task, m.commitment.node, 1, m.commitment.struct_hash(), wad)
                for m, wad in zip(members, wads, strict=True)
            ],
            [Operator(operator.node, operator.owner) for operator in self.operators],
            auditors_per_segment=K,
            segments_per_audit=1,
        )
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
                seed=SEED,
                operators=encode(self.operators),
                audit_wads=encode([str(wad) for wad in wads]),
            )
            session.add(batch)
            session.flush()
            for spec in SPECS:
                state = TaskState.JUDGING if spec.index in tasks else TaskState.WAITING
                session.add(Task(job=1, index=spec.index, spec=encode(spec), state=state, batch=1))
            for audit in plan.audits:
                order = " ".join(audit.auditors)
                session.add(Segment(batch=1, task=audit.task, index=audit.segment, auditors=order, drawn_at=2**40))

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
        check_record(record, MANIFEST, SPECS)
        return record

    def guilty(self, record: BatchRecord) -> list[str]:
        """Who is at fault, by character."""
        names = {auditor.peer: auditor.answer.__name__ for auditor in self.auditors}
        return sorted({names.get(fault.node, "worker") for fault in record.faults})

    def states(self) -> dict[int, str]:
        with self.context.database.session() as session:
            return {task.index: str(task.state) for task in tasks_of(session, 1)}


@pytest.fixture
def court(tmp_path: Path) -> Iterator[Callable[..., Court]]:
    made: list[Court] = []

    def make(*auditors: Answer, **settings: float) -> Court:
        made.append(Court(tmp_path, list(auditors), **settings))
        return made[-1]

    yield make
    for each in made:
        each.context.database.close()


@pytest.mark.parametrize("liar", [accuser, lazy, colluder])
async def test_whoever_lies_in_an_audit_is_outvoted_and_slashed(court: Callable[..., Court], liar: Answer) -> None:
    """Every task that the liar has a seat at; the worker is honest unless the liar would cover for it."""
    cheating = liar is colluder
    claimed = moved(right_state(), 0.5) if cheating else right_state()
    here = court(liar, honest, honest, honest)
    here.commit(dict.fromkeys(range(3), (claimed, True)))
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
            check_record(forgiven, MANIFEST, SPECS)


async def test_auditors_that_make_up_answers_by_themselves_convict_nobody(court: Callable[..., Court]) -> None:
    """As many as there are seats, on an honest worker: they contradict each other as well."""
    here = court(lazy, accuser, honest, honest, honest)
    here.commit({index: (right_state(), True) for index in range(3)})
    record = await here.judge()
    assert "worker" not in here.guilty(record)
    assert {audit.verdict for audit in record.audits} == {"valid"}
    check_answers(record, MANIFEST)
    vote, *rest = record.audits[0].votes
    other = msgspec.structs.replace(vote, answer=vote.answer + 1)
    audits = (msgspec.structs.replace(record.audits[0], votes=(other, *rest)), *record.audits[1:])
    with pytest.raises(RecordInvalid, match="who agrees"):
        check_answers(msgspec.structs.replace(record, audits=audits), MANIFEST)


async def test_an_auditor_that_only_rounds_otherwise_is_never_accused(court: Callable[..., Court]) -> None:
    here = court(rounding, honest, honest, honest)
    here.commit({index: (right_state(), True) for index in range(3)})
    record = await here.judge()
    assert record.faults == ()
    far = [vote for audit in record.audits for vote in audit.votes if not vote.match]
    assert all(vote.auditor == here.auditors[0].peer and vote.distance < 0.01 for vote in far)


async def test_an_auditor_that_is_silent_costs_nobody_anything(court: Callable[..., Court]) -> None:
    here = court(silent, honest, honest)
    here.commit({0: (right_state(), True)})
    record = await here.judge()
    assert record.faults == ()
    assert here.states()[0] == "valid"


async def test_a_worker_that_withholds_its_states_is_judged_as_if_they_were_wrong(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    here.commit({0: (right_state(), True), 1: (right_state(), False)}, withheld=True)
    record = await here.judge()
    assert here.guilty(record) == ["worker"]
    assert "was not delivered within" in record.faults[0].reason
    assert here.states()[0] == "ready"


async def test_nothing_of_a_caught_node_is_taken_on_trust(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    here.commit({0: (moved(right_state(), 0.5), True), 1: (right_state(), False), 2: (right_state(), False)})
    record = await here.judge()
    assert [(fault.task, fault.node) for fault in record.faults] == [(0, here.worker.address)]
    assert here.states() == {0: "ready", 1: "ready", 2: "ready", 3: "waiting"}
    assert here.worker.address not in {payout.node for payout in record.payouts}
    with here.context.database.session() as session:
        assert all(here.worker.address in task.barred for task in tasks_of(session, 1)[:3])
        assert [line.task for line in session.exec(select(Log).where(Log.kind == "caught"))] == [1, 2]


async def test_a_result_that_its_last_state_does_not_give_is_a_fault_even_undrawn(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    here.commit({0: (right_state(), False)}, result=b"anything")
    record = await here.judge()
    assert [fault.reason for fault in record.faults] == ["the result does not follow from the last state"]
