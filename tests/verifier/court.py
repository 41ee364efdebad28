"""A batch before two real verifiers: auditors of every character, real records, seals and signatures."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from msgspec.structs import replace as replaced
from stage import CREDIT, DOMAIN, TRUSTED, FakeChain, Verifier, introduce, join, make_verifier, record_of

from proofyard.artifacts import cid_of_bytes
from proofyard.chain import Wallet
from proofyard.protocol.cid import cid_bytes, cid_digest
from proofyard.protocol.codec import encode
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.manifest import Manifest, TaskSpec, encode_manifest
from proofyard.protocol.mark import mark_of, opening_of
from proofyard.protocol.members import Member, encode_members, members_root
from proofyard.protocol.merkle import root
from proofyard.protocol.messages import (
    Ack,
    Acks,
    AuditOffer,
    AuditOffers,
    CancelTasks,
    Decoy,
    OpenSeal,
    OpenSeals,
    SealOpened,
    SealsOpened,
    SubmitCommitment,
    SubmitSeal,
    SubmitSeals,
    TaskOffers,
)
from proofyard.protocol.plan import plan_of
from proofyard.protocol.record import BatchRecord, decode_record
from proofyard.protocol.seal import CANNOT_EXECUTE, keyed_digest, keyed_is_checked, seal_of, seal_struct_hash
from proofyard.protocol.settlement import OperatorId, Settlement
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, TaskIndex, Wei
from proofyard.protocol.view import JobFacts
from proofyard.transport import RequestFailed
from proofyard.verifier.engine.effects import Settle
from proofyard.verifier.engine.rows import Batch, BatchState, Job, JobState, Log, Task, TaskState, Work, WorkState
from proofyard.verifier.follower import IN_TIME
from proofyard.verifier.leading import _record_for
from proofyard.verifier.store.tables import Known
from proofyard.workloads.lora import WORKLOAD, LoraWorkload
from proofyard.workloads.lora_tensors import outer_of
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.workload import Inputs, Workload

BATCH = BatchId(1)
K = 2


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
    """State `number` of every task, as honest segments make it; that of the first one carries more (`carried`)."""
    specs = WORKLOAD.graph(manifest_of(1))
    first = dict(decode_state(WORKLOAD.initial_state(manifest_of(1), specs[1], Inputs())))
    return moved(encode_state(first | {"step": np.array(number, np.int64)}), 1e-3 * number)


def carried(index: int, after: bytes) -> bytes:
    """A state as it is in task `index`: shard 0 carries what its round started from."""
    if index:
        return after
    first = decode_state(WORKLOAD.initial_state(manifest_of(1), WORKLOAD.graph(manifest_of(1))[0], Inputs()))
    return encode_state({**decode_state(after), **outer_of(first)})


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
    verifier: Verifier
    claimed: dict[int, tuple[bytes, ...]]
    openings: dict[tuple[int, int], SealOpened] = field(default_factory=dict)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    states: dict[Cid, bytes] = field(default_factory=dict)
    shows_states: bool = False
    copies: bool = False
    hides: bool = False
    """It seals nothing to its leader, and shows its answer to whoever asks."""

    @property
    def peer(self) -> Address:
        return self.wallet.address

    @property
    def name(self) -> str:
        return self.peer

    @property
    def remote(self) -> tuple[str, int]:
        return "127.0.0.1", 1

    @property
    def subnet(self) -> str:
        return "127.0.0.1:1"

    async def blocks(self, cids: Sequence[Cid]) -> AsyncGenerator[tuple[Cid, bytes | None], None]:
        for cid in cids:
            yield cid, self.states.get(cid)

    async def lacks(self, cids: Sequence[Cid]) -> list[Cid]:
        return [cid for cid in cids if cid not in self.states]

    async def request(self, message: Any, *, reply: type, timeout: float) -> Any:
        if isinstance(message, OpenSeal):
            if (message.task, message.segment) not in self.openings:
                raise RequestFailed("no-seal", "no seal was given")
            return self.openings[message.task, message.segment]
        if isinstance(message, OpenSeals):
            found = [self.openings.get((seal.task, seal.segment)) for seal in message.seals]
            return SealsOpened(tuple(found))
        if isinstance(message, TaskOffers | CancelTasks):
            count = len(message.offers if isinstance(message, TaskOffers) else message.tasks)
            return Acks((Ack(False, "busy with other tasks"),) * count)
        assert isinstance(message, AuditOffers)
        seals = [seal for offer in message.offers if (seal := self._seal(offer)) is not None]
        if seals:
            await self.verifier.desk.submit_seals(cast(Any, self), SubmitSeals(tuple(seals)), cast(Any, None))
        return Acks((Ack(),) * len(message.offers))

    def _seal(self, offer: AuditOffer) -> SubmitSeal | None:
        index = offer.task.index
        before = (carried(index, state(0)), *self.claimed[index])[offer.segment]
        try:
            right = carried(index, state(offer.segment + 1))
            after = self.answer(right, self.claimed[index][offer.segment])
        except LookupError:
            return None
        except CannotExecute:
            opened = SealOpened(CANNOT_EXECUTE, keyed_digest(offer.seed, self.peer, before), "a trap", bytes(32))
        else:
            if self.shows_states:
                self.states[cid_of_bytes(after)] = after
            keyed = Digest(bytes(32)) if self.copies else keyed_digest(offer.seed, self.peer, after)
            opened = SealOpened(cid_digest(cid_of_bytes(after)), keyed, "", bytes(32))
        seal = seal_of(opened.opening(), self.peer)
        place = (offer.batch, offer.job, index, offer.segment)
        signature = self.wallet.sign_digest(DOMAIN.typed_digest(seal_struct_hash(*place, offer.seed, self.peer, seal)))
        self.openings[index, offer.segment] = replaced(opened, signature=signature)
        return None if self.hides else SubmitSeal(*place, offer.seed, seal, signature)


class Court:
    """Two verifiers with one batch of the first: of each task what the worker claims and whether it is drawn. What the
    first settles the second has checked and signed."""

    def __init__(
        self,
        folder: Path,
        auditors: list[Answer],
        *,
        workload: Workload = WORKLOAD,
        copies: int | None = None,
        **settings: Any,
    ) -> None:
        self.workload = workload
        self.chain = FakeChain()
        self.leader = make_verifier(self.chain, folder, workload=workload, **settings)
        self.signer = make_verifier(self.chain, folder, workload=workload, **settings)
        introduce(self.leader, self.signer)
        self.context = self.leader.context
        self.claimed: dict[int, tuple[bytes, ...]] = {}
        self.decoys: set[int] = set()
        """Tasks of which the batch holds a decoy."""
        self.told_no_salts, self.shows_marks = False, True
        self.worker = Wallet.generate()
        self.worker_facts = self.chain.add_node(self.worker)
        self.auditors = [
            Auditor(
                *(Wallet.generate(), answer, self.leader, self.claimed),
                shows_states=not workload.exact,
                copies=number == copies,
            )
            for number, answer in enumerate(auditors)
        ]
        for auditor in self.auditors:
            record = record_of(self.chain.add_node(auditor.wallet))
            join(self.leader, auditor, record)
            join(self.signer, auditor, record)

    async def commit(
        self,
        tasks: dict[int, tuple[tuple[bytes, ...], bool]],
        *,
        withheld: bool = False,
        result: bytes | None = None,
        first: int | None = None,
        keyed: bool | None = None,
        drawn_ago: int = 0,
    ) -> None:
        """Put a batch of the worker's tasks on chain and into the leader's database: task to the states it claims after
        its segments, and whether it is drawn; then all of its segments are. The auditor `first` has a seat from the
        beginning; `keyed` says whether the keyed digests of the first drawn segment are checked."""
        context, store = self.context, self.context.store
        segments = len(next(iter(tasks.values()))[0])
        self.manifest = manifest_of(segments)
        self.specs = self.workload.graph(self.manifest)
        manifest = store.put_bytes(encode_manifest(self.manifest))
        members = [
            self._member(index, states, manifest, withheld=withheld, result=result)
            for index, (states, _) in tasks.items()
        ]
        self.facts = JobFacts(
            manifest=cid_digest(manifest),
            requester=Wallet.generate().address,
            reward=Wei(9 * CREDIT),
            audit_fee=Wei(CREDIT),
            verifier_fee=Wei(CREDIT),
            units=sum(spec.work_units for spec in self.specs),
            auditors_per_segment=K,
            segments_per_audit=segments,
            workload=0,
            deadline=self.chain.clock + 10_000,
        )
        job = self.chain.add_job(self.facts)
        self.context.chain.take_job(job)
        units = sum(member.commitment.work_units for member in members)
        encoded, list_root = encode_members(members), members_root(members)
        digest = cid_digest(store.put_bytes(encoded))
        committed = context.chain.commit_batch(list_root, len(members), digest, [(job, units)])
        assert committed == BATCH
        self.chain.batches[BATCH].committed_at -= drawn_ago
        if self.told_no_salts:
            # Another verifier led it before, and was given them.
            self.chain.batches[BATCH].attempt = 1
        for verifier in (self.leader, self.signer):
            with verifier.context.database.session() as session:
                session.add(Known(batch=BATCH, leader=self.chain.seats[0].id, held=IN_TIME))
        self._draw(members, {index for index, (_, drawn) in tasks.items() if drawn}, first, keyed)
        row = Job(
            id=job,
            manifest=manifest,
            requester=self.facts.requester,
            opened_block=1,
            opened_hash=bytes(32),
            units=self.facts.units,
            reward=str(self.facts.reward),
            audit_fee=str(self.facts.audit_fee),
            verifier_fee=str(self.facts.verifier_fee),
            auditors_per_segment=K,
            segments_per_audit=segments,
            deadline=self.facts.deadline,
            workload=0,
            workload_name="lora",
            exact=self.workload.exact,
            tasks=len(self.specs),
            state=JobState.RUNNING,
            units_open=units,
            taken_block=1,
        )
        batch = Batch(
            id=1,
            state=BatchState.COMMITTED,
            root=list_root,
            members=encoded,
            lines=((job, units),),
            chain_id=BATCH,
            commit_block=self.chain.batches[BATCH].commit_block,
            attempt=self.chain.batches[BATCH].attempt,
            salts=b"" if self.told_no_salts else encode([bytes(32) for _ in members]),
        )
        done = {member.commitment.task: member for member in members}
        await self.leader.put(
            *(row, batch),
            *(self._task(spec, spec.index in done) for spec in self.specs),
            *(self._work(member) for member in members),
        )

    def _task(self, spec: TaskSpec, is_done: bool) -> Task:
        state = TaskState.COMMITTED if is_done else TaskState.WAITING
        return Task(job=JobId(1), index=spec.index, spec=encode(spec), reward="1", state=state, attempt=int(is_done))

    def _work(self, member: Member) -> Work:
        commitment = member.commitment
        shown = commitment, member.signature, member.trace, bytes(32)
        decoy = Decoy(*shown) if commitment.task in self.decoys else None
        return Work(
            job=JobId(1),
            task=commitment.task,
            attempt=1,
            node=self.worker.address,
            owner=self.worker_facts.owner,
            state=WorkState.BATCHED if decoy is None else WorkState.COMMITTED,
            submission=encode(SubmitCommitment(*shown, decoy)),
            leaf=commitment.struct_hash(),
            result=commitment.result,
            promised_until=self.facts.deadline,
            batch=int(decoy is None),
            decoy=decoy is not None,
            decoy_batch=int(decoy is not None),
        )

    def _member(
        self, index: int, states: tuple[bytes, ...], manifest: Cid, *, withheld: bool, result: bytes | None
    ) -> Member:
        store = self.context.store
        first, states = carried(index, state(0)), tuple(carried(index, claimed) for claimed in states)
        self.claimed[index] = states
        if self.shows_marks:
            store.put_bytes(opening_of(bytes(32), decoy=index in self.decoys))
        keep = cid_of_bytes if withheld else store.put_bytes
        trace = (store.put_bytes(first), *map(keep, states))
        right = result or self.workload.result(self.manifest, self.specs[index], (first, *states).__getitem__)
        commitment = Commitment(
            job=JobId(1),
            task=TaskIndex(index),
            node=self.worker.address,
            manifest=cid_digest(manifest),
            inputs=root([cid_bytes(manifest)]),
            trace_root=root([cid_bytes(cid) for cid in trace]),
            segments=len(states),
            result=store.put_bytes(right),
            work_units=self.specs[index].work_units,
            mark=mark_of(bytes(32), decoy=index in self.decoys),
        )
        signature = self.worker.sign_digest(DOMAIN.typed_digest(commitment.struct_hash()))
        return Member(commitment, signature, trace)

    def _draw(self, members: list[Member], drawn: set[int], first: int | None, keyed: bool | None) -> None:
        """Give the worker a reputation with which just these tasks can be drawn, and find a block hash that does so."""
        valid = 0 if len(drawn) == len(members) else 10 if drawn else TRUSTED
        self.chain.facts = [
            replace(facts, consecutive_valid=valid) if facts.node == self.worker.address else facts
            for facts in self.chain.facts
        ]
        for self.chain.salt in itertools.count():
            view = self.context.chain.view(BATCH)
            plan = plan_of(view, {BATCH: members})
            if {audit.task for audit in plan.audits} != drawn:
                continue
            if first is not None and self.auditors[first].peer not in plan.audits[0].auditors[:K]:
                continue
            leaf = members[0].commitment.struct_hash()
            if keyed is not None and keyed_is_checked(view.seed, leaf, plan.audits[0].segment) != keyed:
                continue
            return

    async def judge(self) -> BatchRecord:
        """Carry the batch to its settlement; the record of it."""
        async with self.leader.running():
            await self.leader.until(self.is_read)
            await self.leader.runner.tell_all([])
        return decode_record(self.context.store.get_bytes(self.settlement.record))

    async def evidence(self) -> BatchRecord:
        """The record of the committed batch, checked by its leader and shown to nobody yet."""
        async with self.leader.without(Settle):
            await self.leader.until(lambda: self.leader.rows.batches[1].state == BatchState.JUDGED)
            record, _ = await _record_for(self.context, self.context.chain.view(BATCH), self.leader.rows.batches[1])
        return record

    def is_read(self, verifier: Verifier | None = None) -> bool:
        """Whether a verifier knows what the settlement means."""
        rows = (verifier or self.leader).rows
        works = [work for work in rows.works.values() if work.batch == 1 or work.decoy_batch == 1]
        return bool(works) and all(
            work.state == WorkState.SETTLED or (work.decoy_batch and not work.decoy) for work in works
        )

    @property
    def settlement(self) -> Settlement:
        settlement = self.chain.batches[BATCH].settlement
        assert settlement is not None
        return settlement

    def guilty(self, record: BatchRecord) -> list[str]:
        """Who is at fault, by character."""
        names = {auditor.peer: auditor.answer.__name__ for auditor in self.auditors}
        return sorted({names.get(fault.node, "worker") for fault in record.faults})

    def states(self) -> dict[int, str]:
        """What became of the tasks; one that is to be done again is ready, whoever it was offered to meanwhile."""
        again = {TaskState.GIVEN: TaskState.READY}
        return {task.index: again.get(task.state, task.state) for task in self.tasks()}

    def tasks(self) -> list[Task]:
        return sorted(self.leader.stored(Task), key=lambda task: task.index)

    def lines(self) -> list[str]:
        """What the log of the job says, in its order."""
        return [line.kind for line in sorted(self.leader.stored(Log), key=lambda line: line.seq)]

    def operator(self, wallet: Wallet) -> OperatorId:
        return next(facts.id for facts in self.chain.facts if facts.node == wallet.address)

    def close(self) -> None:
        self.leader.context.database.close()
        self.signer.context.database.close()


RIGHT = (state(1),)
"""What an honest worker of one segment claims."""
