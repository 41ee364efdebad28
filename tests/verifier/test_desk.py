"""What nodes hand in: cheap checks first, receipts that can be kept, seats that are still theirs."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from simulated import SEGMENTS, Counting, state
from stage import CREDIT, DOMAIN, FakeChain, Link, Verifier, join, make_verifier, record_of

from proofyard.artifacts import cid_of_bytes
from proofyard.chain import Wallet
from proofyard.protocol.cid import cid_bytes, cid_digest
from proofyard.protocol.commitment import Commitment, receipt_struct_hash
from proofyard.protocol.manifest import Manifest, encode_manifest
from proofyard.protocol.merkle import root
from proofyard.protocol.messages import Announce, Publish, Receipt, SubmitCommitment, SubmitSeal, TaskOffer
from proofyard.protocol.seal import CANNOT_EXECUTE
from proofyard.protocol.signature import recover
from proofyard.protocol.types import BatchId, Digest, JobId, SegmentIndex, Signature, TaskIndex, Wei
from proofyard.protocol.view import JobFacts
from proofyard.transport import RequestFailed
from proofyard.verifier import desk as desk_module
from proofyard.verifier.database import Job, JobState, Task, TaskState, tasks_of
from proofyard.verifier.desk import SubmissionRefused
from proofyard.verifier.giving import give_out
from proofyard.verifier.jobs import note_opened, take_up

TASKS = 4


class Opened:
    """A `JobOpened` event, as far as it is read."""

    def __init__(self, job: int, facts: JobFacts) -> None:
        self.job = job
        for name in facts.__dataclass_fields__:
            setattr(self, name, getattr(facts, name))
        self.position = type("Position", (), {"block": 1})


class Counter:
    """A verifier at its counter, with one job and a node that holds task 0."""

    def __init__(self, folder: Path) -> None:
        self.chain = FakeChain()
        self.verifier: Verifier = make_verifier(self.chain, folder, memory=True, workload=Counting(TASKS))
        self.context, self.desk = self.verifier.context, self.verifier.desk
        self.manifest = self.context.store.put_bytes(encode_manifest(Manifest(workload="lora", params={})))
        self.facts = JobFacts(
            manifest=cid_digest(self.manifest),
            requester=Wallet.generate().address,
            reward=Wei(CREDIT),
            audit_fee=Wei(CREDIT),
            verifier_fee=Wei(0),
            units=TASKS,
            auditors_per_segment=2,
            segments_per_audit=1,
            workload=0,
            deadline=self.chain.clock + 10_000,
        )
        self.node = Wallet.generate()
        self.link = cast(Any, Link(self.node.address, self.context.store))

    def add_job(self, **changes: Any) -> JobId:
        facts = replace(self.facts, **changes)
        job = self.chain.add_job(facts)
        with self.context.database.session() as session:
            note_opened(session, Opened(job, facts))  # type: ignore[arg-type]
        return job

    async def begin(self, **changes: Any) -> JobId:
        """A job is running, and task 0 the node's."""
        job = self.add_job(**changes)
        await take_up(self.context)
        with self.context.database.session() as session:
            task = tasks_of(session, job)[0]
            task.state, task.node, task.owner = TaskState.ASSIGNED, self.node.address, "0xO"
        return job

    def submission(self, job: JobId | None = None, *, signer: Wallet | None = None, **changes: Any) -> SubmitCommitment:
        trace = tuple(cid_of_bytes(state(0, number)) for number in range(SEGMENTS + 1))
        fields: dict[str, Any] = {
            "job": job or JobId(1),
            "task": TaskIndex(0),
            "node": self.node.address,
            "manifest": cid_digest(self.manifest),
            "inputs": root([cid_bytes(self.manifest)]),
            "trace_root": root([cid_bytes(cid) for cid in trace]),
            "segments": SEGMENTS,
            "result": cid_of_bytes(b"result"),
            "work_units": 1,
        }
        trace = changes.pop("trace", trace)
        commitment = Commitment(**fields | changes)
        signature = (signer or self.node).sign_digest(DOMAIN.typed_digest(commitment.struct_hash()))
        return SubmitCommitment(commitment, signature, trace)

    async def hand_in(self, message: SubmitCommitment) -> Receipt:
        return await self.desk.submit_commitment(self.link, message, cast(Any, None))

    def task(self) -> Task:
        with self.context.database.session() as session:
            return tasks_of(session, 1)[0]


@pytest.fixture
def counter(tmp_path: Path) -> Iterator[Counter]:
    made = Counter(tmp_path)
    yield made
    made.context.database.close()


async def test_a_commitment_gets_one_receipt_for_its_job_however_often_it_is_handed_in(counter: Counter) -> None:
    await counter.begin()
    message = counter.submission()
    first, again = await counter.hand_in(message), await counter.hand_in(message)
    assert first == again
    leaf = message.commitment.struct_hash()
    digest = DOMAIN.typed_digest(receipt_struct_hash(leaf, JobId(1), first.deadline))
    assert recover(digest, first.signature) == counter.verifier.wallet.address
    assert first.deadline <= counter.context.chain_time() + counter.chain.params_.receipt_time
    assert counter.task().state == TaskState.COMMITTED


async def test_a_receipt_never_promises_beyond_what_can_be_committed(counter: Counter) -> None:
    end = counter.chain.clock + 40
    await counter.begin(deadline=end)
    with counter.context.database.session() as session:
        job = session.get(Job, 1)
        assert job is not None
        job.deadline = counter.chain.clock - counter.chain.params_.receipt_time + 200
    receipt = await counter.hand_in(counter.submission())
    assert receipt.deadline < counter.chain.clock + 200


async def test_work_that_comes_too_late_for_a_batch_gets_no_receipt(counter: Counter) -> None:
    await counter.begin()
    with counter.context.database.session() as session:
        job = session.get(Job, 1)
        assert job is not None
        job.deadline = counter.chain.clock - counter.chain.params_.receipt_time
    with pytest.raises(SubmissionRefused, match="takes no more work"):
        await counter.hand_in(counter.submission())


async def test_work_for_a_job_that_failed_is_taken_while_the_chain_takes_it(counter: Counter) -> None:
    """A worker that finishes what it began is paid, whatever became of the job."""
    await counter.begin()
    with counter.context.database.session() as session:
        job = session.get(Job, 1)
        assert job is not None
        job.state = JobState.FAILED
    counter.chain.closed.add(JobId(1))
    receipt = await counter.hand_in(counter.submission())
    assert receipt.deadline < counter.chain.clock + counter.chain.params_.receipt_time


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": TaskIndex(99)}, "no task 99"),
        ({"task": TaskIndex(1)}, "is not yours"),
        ({"node": Wallet.generate().address}, "the node is"),
        ({"manifest": Digest(bytes(32))}, "the manifest is"),
        ({"segments": 9}, "the segments is"),
        ({"work_units": 9}, "the work units is"),
        ({"trace_root": Digest(bytes(32))}, "the trace root"),
        ({"trace": ()}, "the trace length"),
        ({"trace": ("x",) * (SEGMENTS + 1)}, "names no states"),
        ({"result": cid_of_bytes(b"proofyard: this segment cannot be executed")}, "names no states"),
    ],
)
async def test_what_does_not_fit_is_refused_before_any_signature_is_checked(
    counter: Counter, changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cid_digest(cid_of_bytes(b"proofyard: this segment cannot be executed")) == CANNOT_EXECUTE
    await counter.begin()
    message = counter.submission(**changes)

    def expensive(*_: object) -> None:
        raise AssertionError("a signature was checked, or a state computed")

    monkeypatch.setattr(desk_module, "require_signer", expensive)
    monkeypatch.setattr(counter.context.workload(cast(Any, None)), "initial_state", expensive, raising=False)
    with pytest.raises(SubmissionRefused, match=said):
        await counter.hand_in(message)


async def test_a_commitment_by_somebody_else_or_from_other_inputs_is_refused(counter: Counter) -> None:
    await counter.begin()
    with pytest.raises(ValueError, match="signed by"):
        await counter.hand_in(counter.submission(signer=Wallet.generate()))
    with pytest.raises(SubmissionRefused, match="the root of its inputs"):
        await counter.hand_in(counter.submission(inputs=Digest(bytes(32))))
    assert counter.task().state == TaskState.ASSIGNED


async def test_a_seal_for_a_seat_that_nobody_has_costs_no_signature_check(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def expensive(*_: object) -> None:
        raise AssertionError("a signature was checked")

    monkeypatch.setattr(desk_module, "require_signer", expensive)
    place = (BatchId(1), JobId(1), TaskIndex(0), SegmentIndex(0))
    seal = SubmitSeal(*place, Digest(bytes(32)), Signature(bytes(65)))
    answer = await counter.desk.submit_seal(counter.link, seal, cast(Any, None))
    assert not answer.proceed


async def test_one_peer_cannot_keep_a_verifier_busy(counter: Counter) -> None:
    announce, busy = Announce(("lora",), 0, 0, ""), 0
    for _ in range(50):
        try:
            await counter.desk.announce(counter.link, announce, cast(Any, None))
        except RequestFailed as error:
            busy += error.code == "busy"
    assert busy > 40
    many = Publish(tuple(cid_of_bytes(bytes([i])) for i in range(100)), 1)
    assert not (await counter.desk.publish(counter.link, many, cast(Any, None))).proceed


async def test_a_requester_sends_no_more_than_it_said(counter: Counter, tmp_path: Path) -> None:
    from proofyard.artifacts import ArtifactTooLarge, BlockStore

    store = BlockStore(tmp_path / "requester")
    cid = store.put_bytes(bytes(1 << 20))
    link = cast(Any, Link(counter.node.address, store))
    with pytest.raises(ArtifactTooLarge):
        await counter.desk.publish(link, Publish((cid,), 1000), cast(Any, None))


# Jobs


@pytest.mark.parametrize("trouble", ["deadline", "refused", "internal"])
async def test_a_job_that_cannot_run_holds_up_no_other(
    counter: Counter, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deadline seconds away, a chain that refuses, an error in this verifier's own code: each ends its own job."""
    bad = counter.add_job(deadline=counter.chain.clock + (-1 if trouble == "deadline" else 10_000))
    good = counter.add_job()
    chain = counter.context.chain
    honest = chain.job

    def job(number: JobId) -> Any:
        if number == bad and trouble == "internal":
            raise ZeroDivisionError("a reward of nothing")
        found = honest(number)
        found.closed = number == bad and trouble == "refused"
        return found

    monkeypatch.setattr(chain, "job", job)
    for _ in range(2):
        await take_up(counter.context)
    with counter.context.database.session() as session:
        first, second = session.get(Job, bad), session.get(Job, good)
        assert first is not None and second is not None
        assert (first.state, second.state) == (JobState.FAILED, JobState.RUNNING)
        assert first.reason


async def test_a_job_that_pays_nothing_runs_like_any_other(counter: Counter) -> None:
    job = await counter.begin(reward=Wei(0), audit_fee=Wei(0))
    await counter.hand_in(counter.submission(job))
    with counter.context.database.session() as session:
        row = session.get(Job, job)
        assert row is not None and row.state == JobState.RUNNING


# Offers


class Asked:
    """A node that answers offers as it is told."""

    def __init__(self, wallet: Wallet, answer: Any) -> None:
        self.peer, self.remote, self.answer, self.offers = wallet.address, ("127.0.0.1", 1), answer, 0

    async def request(self, message: Any, *, reply: type, timeout: float) -> Any:
        assert isinstance(message, TaskOffer)
        self.offers += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("answer", ["no answer", "busy with another task"])
async def test_a_blip_of_the_only_node_costs_a_job_nothing_but_time(counter: Counter, answer: str) -> None:
    from proofyard.protocol.messages import Ack

    job = counter.add_job()
    await take_up(counter.context)
    wallets = [Wallet.generate() for _ in range(5)]
    facts = [counter.chain.add_node(wallet, valid=0) for wallet in wallets]
    reply: Any = RequestFailed("deadline", "no answer") if answer == "no answer" else Ack(False, answer)
    node = Asked(wallets[0], reply)
    join(counter.verifier, node, record_of(facts[0]))
    for wallet, fact in zip(wallets[1:], facts[1:], strict=True):
        join(counter.verifier, Asked(wallet, RequestFailed("away", "no answer")), record_of(fact))
    for _ in range(5):
        await give_out(counter.context)
        await asyncio.sleep(0.05)
    with counter.context.database.session() as session:
        row = session.get(Job, job)
        assert row is not None and row.state == JobState.RUNNING
        assert {task.state for task in tasks_of(session, job)} == {TaskState.READY}
        assert all(task.barred == "" for task in tasks_of(session, job))
    assert 1 <= node.offers <= TASKS, "nobody is asked for the same task again and again"
