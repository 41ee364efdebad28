"""What nodes hand in: cheap checks first, receipts that can be kept, lists in which a bad item refuses only itself."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from simulated import SEGMENTS, Counting, state
from stage import CREDIT, DOMAIN, FakeChain, Link, Verifier, make_verifier

from proofyard.artifacts import cid_of_bytes
from proofyard.artifacts.errors import StoreUnusable
from proofyard.chain import Anchor, Wallet
from proofyard.chain.events import Claimed, OperatorRetired, StakeChanged
from proofyard.chain.refusals import JobIsClosed
from proofyard.protocol.cid import cid_bytes, cid_digest
from proofyard.protocol.codec import encode
from proofyard.protocol.commitment import Commitment, receipt_struct_hash
from proofyard.protocol.manifest import Manifest, encode_manifest
from proofyard.protocol.mark import mark_of
from proofyard.protocol.merkle import root
from proofyard.protocol.messages import (
    Announce,
    JobQuery,
    Receipt,
    Refusal,
    SubmitCommitment,
    SubmitCommitments,
    SubmitSeal,
    SubmitSeals,
    TaskFailed,
    TaskProgress,
    Working,
)
from proofyard.protocol.seal import CANNOT_EXECUTE, seal_struct_hash
from proofyard.protocol.signature import recover, require_signer
from proofyard.protocol.types import Address, BatchId, Digest, JobId, SegmentIndex, Signature, TaskIndex, Wei
from proofyard.protocol.view import JobFacts
from proofyard.transport import RequestFailed
from proofyard.verifier import desk as desk_module
from proofyard.verifier.engine import jobs, world
from proofyard.verifier.engine.events import Published
from proofyard.verifier.engine.rows import (
    Batch,
    BatchState,
    Job,
    JobState,
    Row,
    Seat,
    SeatState,
    Segment,
    Task,
    TaskState,
    Work,
    WorkState,
)
from proofyard.verifier.limits import Limiter
from proofyard.verifier.standing import MAX_TASKS_HELD

TASKS = 4
HELD = (0, 1, 2)
"""Tasks that the node holds."""


class Counter:
    """A verifier at its counter, with one job and a node that holds three of its tasks."""

    def __init__(self, folder: Path) -> None:
        self.chain = FakeChain()
        self.workload = Counting(TASKS)
        self.verifier: Verifier = make_verifier(self.chain, folder, workload=self.workload, lease_s=60.0, batch_s=60.0)
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
        self.link = self.connection(self.node)

    def connection(self, wallet: Wallet) -> Any:
        return Link(wallet.address, self.context.store)

    def add_job(self, **changes: Any) -> JobId:
        return self.chain.add_job(replace(self.facts, **changes))

    def job_row(self, **changes: Any) -> Job:
        fields = {name: str(getattr(self.facts, name)) for name in ("reward", "audit_fee", "verifier_fee")}
        usual: dict[str, Any] = {
            "id": JobId(1),
            "manifest": self.manifest,
            "requester": self.facts.requester,
            "opened_block": 1,
            "opened_hash": bytes(32),
            "units": TASKS,
            "auditors_per_segment": 2,
            "segments_per_audit": 1,
            "deadline": self.facts.deadline,
            "workload": 0,
            "workload_name": "lora",
            "tasks": TASKS,
            "state": JobState.RUNNING,
            "taken_block": 1,
        }
        return Job(**fields | usual | changes)

    def task_rows(self, holder: Address | None = None) -> list[Row]:
        """The job's tasks, of which a node holds three."""
        rows: list[Row] = []
        for spec in self.workload.graph(Manifest(workload="lora", params={})):
            held = spec.index in HELD
            state = TaskState.GIVEN if held else TaskState.READY
            row = Task(job=JobId(1), index=spec.index, spec=encode(spec), reward="1", state=state, attempt=int(held))
            rows.append(row)
            if held:
                who = holder or self.node.address
                rows.append(Work(job=JobId(1), task=spec.index, attempt=1, node=who, owner=Address("0xO")))
        return rows

    async def begin(self, *more: Row, follow: bool = True, **changes: Any) -> None:
        """A job is running, and three tasks are the node's."""
        self.chain.taken[self.add_job()] = self.chain.seats[0].id
        await self.verifier.put(self.job_row(**changes), *self.task_rows(), *more)
        self.verifier.start(follow=follow)
        await self.verifier.runner.tell_all([])

    def submission(self, task: int = 0, *, signer: Wallet | None = None, **changes: Any) -> SubmitCommitment:
        trace = tuple(cid_of_bytes(state(task, number)) for number in range(SEGMENTS + 1))
        fields: dict[str, Any] = {
            "job": JobId(1),
            "task": TaskIndex(task),
            "node": self.node.address,
            "manifest": cid_digest(self.manifest),
            "inputs": root([cid_bytes(self.manifest)]),
            "trace_root": root([cid_bytes(cid) for cid in trace]),
            "segments": SEGMENTS,
            "result": cid_of_bytes(b"result %d" % task),
            "work_units": 1,
            "mark": mark_of(bytes(32), decoy=False),
        }
        trace = changes.pop("trace", trace)
        commitment = Commitment(**fields | changes)
        signature = (signer or self.node).sign_digest(DOMAIN.typed_digest(commitment.struct_hash()))
        return SubmitCommitment(commitment, signature, trace, bytes(32))

    async def hand_in(self, *works: SubmitCommitment) -> tuple[Receipt | Refusal, ...]:
        message = SubmitCommitments(works)
        return (await self.desk.submit_commitments(self.link, message, cast(Any, None))).answers

    async def receipt(self, work: SubmitCommitment) -> Receipt:
        (answer,) = await self.hand_in(work)
        assert isinstance(answer, Receipt), answer
        return answer

    async def refusal(self, work: SubmitCommitment) -> Refusal:
        (answer,) = await self.hand_in(work)
        assert isinstance(answer, Refusal), answer
        return answer

    def states(self) -> list[str]:
        return [task.state for task in sorted(self.verifier.rows.tasks.values(), key=lambda task: task.index)]


@pytest.fixture
async def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Counter]:
    monkeypatch.setattr(world, "BACKOFF_S", 0.01)
    made = Counter(tmp_path)
    yield made
    await made.verifier.stop()
    made.context.database.close()


# Commitments


async def test_a_commitment_gets_one_receipt_for_its_job_however_often_it_is_handed_in(counter: Counter) -> None:
    await counter.begin()
    message = counter.submission()
    first, again = await counter.receipt(message), await counter.receipt(message)
    assert first == again
    leaf = message.commitment.struct_hash()
    digest = DOMAIN.typed_digest(receipt_struct_hash(leaf, JobId(1), first.deadline))
    assert recover(digest, first.signature) == counter.verifier.wallet.address
    assert first.deadline <= counter.context.chain_time() + counter.chain.params_.receipt_time
    assert counter.states() == ["committed", "given", "given", "ready"]


async def test_a_receipt_leaves_when_the_commitment_lasts_and_not_before(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when the same is handed in again meanwhile either."""
    await counter.begin()
    gate, commit = threading.Event(), counter.context.database._commit
    monkeypatch.setattr(counter.context.database, "_commit", lambda group: gate.wait(60) and commit(group))
    message = counter.submission()
    first = asyncio.create_task(counter.receipt(message))
    await counter.verifier.until(lambda: counter.states()[0] == "committed")
    again = asyncio.create_task(counter.receipt(message))
    await asyncio.sleep(0.1)
    assert not first.done() and not again.done()
    gate.set()
    assert await first == await again
    (work,) = [work for work in counter.verifier.stored(Work) if work.task == 0]
    assert (work.state, work.promised_until) == (WorkState.COMMITTED, (await first).deadline)


async def test_a_job_that_loses_its_number_while_a_commitment_is_looked_at_gets_no_receipt(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await counter.begin()
    looked = counter.desk._first_state

    async def goes_back(work: Work) -> Any:
        found = await looked(work)
        counter.verifier.rows.jobs[JobId(1)].manifest = cid_of_bytes(b"another")
        return found

    monkeypatch.setattr(counter.desk, "_first_state", goes_back)
    assert "is another one's" in (await counter.refusal(counter.submission())).reason
    assert counter.states()[0] == "given"


async def test_one_bad_item_refuses_only_itself(counter: Counter) -> None:
    await counter.begin()
    works = [
        counter.submission(0),
        counter.submission(1, signer=Wallet.generate()),
        counter.submission(99),
        counter.submission(2),
        counter.submission(0),
    ]
    answers = await counter.hand_in(*works)
    assert [type(answer) for answer in answers] == [Receipt, Refusal, Refusal, Receipt, Receipt]
    assert [a.leaf for a in answers if isinstance(a, Receipt)] == [
        w.commitment.struct_hash() for w in works[::3] + works[:1]
    ]
    assert [a.code for a in answers if isinstance(a, Refusal)] == ["SignatureInvalid", "SubmissionRefused"]
    assert answers[0] == answers[4]
    assert counter.states() == ["committed", "given", "committed", "ready"]


async def test_what_comes_with_commitments_is_kept_where_they_name_it(counter: Counter) -> None:
    """What is not among it is asked for later; what nobody named, or a work that is not the node's, is not kept."""
    await counter.begin()
    own = [b"result 0", *(state(0, number) for number in range(SEGMENTS))]
    others = [b"rubbish", b"", state(3, 1), state(99, 0), state(0, 0) + b"x", b"result 1"]
    works = (counter.submission(0), counter.submission(3), counter.submission(99))
    message = SubmitCommitments(works, (*others, *own, *own))
    answers = (await counter.desk.submit_commitments(counter.link, message, cast(Any, None))).answers
    assert [type(answer) for answer in answers] == [Receipt, Refusal, Refusal]
    has = counter.context.store.has
    assert all(has(cid_of_bytes(data)) for data in own)
    assert not any(has(cid_of_bytes(data)) for data in others)
    assert not has(cid_of_bytes(state(0, SEGMENTS)))


async def test_a_store_that_takes_nothing_refuses_no_commitment(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_blocks: object) -> None:
        raise StoreUnusable(Path("blocks"), "the disk is full")

    await counter.begin()
    monkeypatch.setattr(counter.context.store, "put_blocks", full)
    message = SubmitCommitments((counter.submission(),), (state(0, 1),))
    (answer,) = (await counter.desk.submit_commitments(counter.link, message, cast(Any, None))).answers
    assert isinstance(answer, Receipt)


@pytest.mark.parametrize("left_s", [200, 0])
async def test_a_receipt_never_promises_beyond_what_can_be_committed(counter: Counter, left_s: int) -> None:
    """A worker that finishes what it began is paid, as long as the chain takes batches of a job that was closed."""
    counter.chain.closed.add(JobId(1))
    await counter.begin(closed_at=counter.chain.clock - counter.chain.params_.receipt_time + left_s)
    if left_s:
        assert (await counter.receipt(counter.submission())).deadline < counter.chain.clock + left_s
    else:
        assert "takes no more work" in (await counter.refusal(counter.submission())).reason


async def test_who_was_called_off_is_told_so_when_it_hands_in(counter: Counter) -> None:
    await counter.begin()
    counter.chain.for_wallet(counter.verifier.wallet).close_job(JobId(1))
    await counter.verifier.until(lambda: counter.verifier.rows.jobs[JobId(1)].state == JobState.FAILED)
    assert "is not yours" in (await counter.refusal(counter.submission())).reason


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": TaskIndex(99)}, "no task 99"),
        ({"task": TaskIndex(3)}, "is not yours"),
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
    task = changes.pop("task", 0)
    message = counter.submission(task, **changes)

    def expensive(*_: object) -> None:
        raise AssertionError("a signature was checked, or a state computed")

    monkeypatch.setattr(desk_module, "require_signer", expensive)
    monkeypatch.setattr(counter.workload, "initial_state", expensive, raising=False)
    assert said in (await counter.refusal(message)).reason


async def test_a_commitment_by_somebody_else_or_from_other_inputs_is_refused(counter: Counter) -> None:
    await counter.begin()
    assert "signed by" in (await counter.refusal(counter.submission(signer=Wallet.generate()))).reason
    assert "the root of its inputs" in (await counter.refusal(counter.submission(inputs=Digest(bytes(32))))).reason
    trace = tuple(cid_of_bytes(state(7, number)) for number in range(SEGMENTS + 1))
    other = counter.submission(trace=trace, trace_root=root([cid_bytes(cid) for cid in trace]))
    assert "the first state is" in (await counter.refusal(other)).reason
    assert counter.states()[0] == "given"


async def test_whoever_holds_a_task_says_so_and_others_are_told_to_stop(counter: Counter) -> None:
    """For all that a node is at in one message."""
    await counter.begin()
    message = Working(tuple(TaskProgress(JobId(1), TaskIndex(i), SegmentIndex(0)) for i in range(5)), ())
    answers = (await counter.desk.working(counter.link, message, cast(Any, None))).answers
    assert [answer.proceed for answer in answers] == [True, True, True, False, False]


# Seals


SEED = Digest(b"d" * 32)


def seats(counter: Counter, count: int, auditor: Address) -> list[Row]:
    """A batch on chain that is audited; the auditor works on `count` segments of it."""
    members = encode([])
    batch = Batch(id=1, state=BatchState.AUDITING, root=Digest(b"r" * 32), members=members, lines=((JobId(1), 1),))
    batch.chain_id, batch.drawn_at, batch.opened_at = BatchId(7), counter.chain.clock, counter.chain.clock
    batch.seed = SEED
    place: dict[str, Any] = {"batch": 1, "job": JobId(1), "task": TaskIndex(0)}
    rows: list[Row] = [batch]
    for index in range(count):
        names = {"auditors": (auditor,), "seats": 2, "claimed": Digest(b"c" * 32), "worker": Address("0xW")}
        rows.append(Segment(**place, index=index, looked=True, **names))
        rows.append(Seat(**place, segment=index, auditor=auditor))
    return rows


def seal(wallet: Wallet, index: int, *, signer: Wallet | None = None, seed: Digest = SEED) -> SubmitSeal:
    place = (BatchId(7), JobId(1), TaskIndex(0), SegmentIndex(index))
    sealed = Digest(bytes([index % 256]) * 32)
    digest = DOMAIN.typed_digest(seal_struct_hash(*place, seed, wallet.address, sealed))
    return SubmitSeal(*place, seed, sealed, (signer or wallet).sign_digest(digest))


async def submit(counter: Counter, wallet: Wallet, *given: SubmitSeal) -> list[tuple[bool, str]]:
    link = counter.connection(wallet)
    answers = (await counter.desk.submit_seals(link, SubmitSeals(given), cast(Any, None))).answers
    return [(answer.proceed, answer.reason) for answer in answers]


async def test_one_bad_seal_refuses_only_itself_and_the_same_again_gets_the_same(counter: Counter) -> None:
    auditor = Wallet.generate()
    await counter.begin(*seats(counter, 3, auditor.address))
    given = [seal(auditor, 0), seal(auditor, 1, signer=Wallet.generate()), seal(auditor, 99), seal(auditor, 2)]
    first = await submit(counter, auditor, *given)
    assert [proceed for proceed, _ in first] == [True, False, False, True]
    assert "signed by" in first[1][1] and "no longer yours" in first[2][1]
    assert await submit(counter, auditor, *given) == first
    stored = {seat.segment: (seat.state, seat.seal) for seat in counter.verifier.stored(Seat)}
    assert stored == {
        0: (SeatState.SEALED, given[0].seal),
        1: (SeatState.WORKING, b""),
        2: (SeatState.SEALED, given[3].seal),
    }


async def test_an_answer_to_a_draw_that_is_gone_is_none_to_this_one_and_held_against_nobody(counter: Counter) -> None:
    """A reorganisation gives a batch's number another seed: what was sealed before would convict an honest auditor."""
    auditor = Wallet.generate()
    await counter.begin(*seats(counter, 1, auditor.address))
    link = counter.connection(auditor)
    gone = SubmitSeals((seal(auditor, 0, seed=Digest(b"g" * 32)),))
    [answer] = (await counter.desk.submit_seals(link, gone, cast(Any, None))).answers
    assert not answer.proceed and "another seed" in answer.reason
    assert [seat.state for seat in counter.verifier.stored(Seat)] == [SeatState.WORKING]
    assert not link.points
    assert await submit(counter, auditor, seal(auditor, 0)) == [(True, "")]


async def test_a_seal_for_a_seat_that_nobody_has_costs_no_signature_check(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def expensive(*_: object) -> None:
        raise AssertionError("a signature was checked")

    await counter.begin()
    monkeypatch.setattr(desk_module, "require_signer", expensive)
    place = (BatchId(1), JobId(1), TaskIndex(0), SegmentIndex(0))
    nobodys = SubmitSeal(*place, SEED, Digest(bytes(32)), Signature(bytes(65)))
    assert await submit(counter, counter.node, nobodys) == [(False, "the seat is no longer yours")]


# Limits


async def test_one_peer_cannot_keep_a_verifier_busy(counter: Counter) -> None:
    await counter.begin()
    announce, busy = Announce(("lora",), 0, 0, ""), 0
    for _ in range(50):
        try:
            await counter.desk.announce(counter.link, announce, cast(Any, None))
        except RequestFailed as error:
            busy += error.code == "busy"
    assert busy > 40


async def test_five_hundred_bad_signatures_of_one_peer_stall_nobody_else(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long they take."""
    auditor, bad, gate = Wallet.generate(), Signature(bytes(65)), threading.Event()

    def slow(digest: Digest, signature: Signature, signer: Address, what: str) -> None:
        assert signature != bad or gate.wait(60)
        require_signer(digest, signature, signer, what)

    monkeypatch.setattr("proofyard.verifier.desk.require_signer", slow)
    await counter.begin(*seats(counter, 4, auditor.address))
    seals = [msgspec.structs.replace(seal(auditor, 0), signature=bad)] * 250
    flood = [asyncio.create_task(submit(counter, auditor, *seals)) for _ in range(2)]
    await asyncio.sleep(0)
    await counter.receipt(counter.submission())
    assert not any(part.done() for part in flood)
    gate.set()
    answers = await asyncio.gather(*flood)
    assert not any(proceed for part in answers for proceed, _ in part)


async def test_who_asks_for_too_many_signature_checks_is_told_to_come_again(counter: Counter) -> None:
    """And loses nothing: what was refused as busy is handed in again."""
    auditor = Wallet.generate()
    await counter.begin(*seats(counter, 2, auditor.address))
    counter.desk._signed = Limiter("signatures", per_s=1000.0, burst=1)
    with pytest.raises(RequestFailed) as refused:
        await submit(counter, auditor, seal(auditor, 0), seal(auditor, 1))
    assert refused.value.code == "busy"
    answers = await counter.hand_in(counter.submission(0), counter.submission(1))
    assert [answer.code for answer in answers if isinstance(answer, Refusal)] in ([], ["busy"])
    await asyncio.sleep(0.01)
    assert await submit(counter, auditor, seal(auditor, 0)) == [(True, "")]


async def test_who_submits_what_is_not_its_own_is_banned_without_a_signature_being_looked_at(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commitments to tasks that it never had, and seals for seats that nobody gave it."""
    looked: list[object] = []
    monkeypatch.setattr("proofyard.verifier.desk.require_signer", lambda *asked: looked.append(asked))
    await counter.begin(*seats(counter, 1, Wallet.generate().address))
    stranger = Wallet.generate()
    link = counter.connection(stranger)
    works, sealed = SubmitCommitments((counter.submission(),) * 100), SubmitSeals((seal(stranger, 0),) * 100)
    requests = {
        "commitments": lambda: counter.desk.submit_commitments(link, works, cast(Any, None)),
        "seals": lambda: counter.desk.submit_seals(link, sealed, cast(Any, None)),
        "work": lambda: counter.desk.working(
            link, Working((TaskProgress(JobId(9), TaskIndex(9), SegmentIndex(1)),) * 100, ()), cast(Any, None)
        ),
        "tasks handed back": lambda: counter.desk.task_failed(
            link, TaskFailed(JobId(9), TaskIndex(9), ""), cast(Any, None)
        ),
    }
    for what, ask in requests.items():
        counter.desk._futile, link.points = Limiter("nothing", per_s=0.001, burst=150), 0.0
        await ask()
        assert link.points == 0.0, f"once may be a mistake: {what}"
        for _ in range(200 if "back" in what else 3):
            await ask()
        assert link.points >= 50, what
    assert not looked


@pytest.mark.parametrize(
    ("session", "silent_s", "closed", "proceeds"),
    [("b", 0.0, False, False), ("a", 0.0, False, True), ("b", 30.0, False, True), ("b", 0.0, True, True)],
    ids=["runs already", "was restarted on its files", "fell silent", "is gone"],
)
async def test_a_wallet_has_one_session_and_the_second_is_told_where_the_first_runs(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, session: str, silent_s: float, closed: bool, proceeds: bool
) -> None:
    await counter.begin()
    first, second = counter.connection(counter.node), counter.connection(counter.node)
    first.silent_s = silent_s
    record = object()
    monkeypatch.setattr("proofyard.verifier.desk.active_node", lambda chain, peer: record)
    monkeypatch.setattr("proofyard.verifier.desk.joined", lambda *_: Published(counter.manifest))
    announce = Announce(("lora",), 0, 0, "", session="a")
    assert (await counter.desk.announce(first, announce, cast(Any, None))).proceed
    assert first.vouched
    if closed:
        first.closed.set()
    again = msgspec.structs.replace(announce, session=session)
    answer = await counter.desk.announce(second, again, cast(Any, None))
    assert answer.proceed == proceeds
    assert proceeds or "runs already, at 127.0.0.1:1" in answer.reason
    assert counter.context.members[counter.node.address].connection is (second if proceeds else first)


async def test_who_signs_for_others_is_banned_at_once(counter: Counter) -> None:
    auditor = Wallet.generate()
    await counter.begin(*seats(counter, 20, auditor.address))
    forged = [msgspec.structs.replace(seal(auditor, place), signature=Signature(bytes(65))) for place in range(12)]
    link = counter.connection(auditor)
    await counter.desk.submit_seals(link, SubmitSeals(tuple(forged)), cast(Any, None))
    assert link.points >= 100


async def test_whoever_has_something_at_stake_here_need_not_give_way_to_strangers(counter: Counter) -> None:
    await counter.begin()
    (job,) = counter.context.rows.jobs.values()
    for wallet, speaks in ((job.requester, True), (Wallet.generate().address, False)):
        link = cast(Any, Link(wallet, counter.context.store))
        await counter.desk.job_query(link, JobQuery(job.id, 0), cast(Any, None))
        assert link.vouched == speaks


async def test_a_huge_job_does_not_hold_up_whoever_asks(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its graph takes long to make: nodes are answered meanwhile."""
    await counter.begin()
    gate, graph = threading.Event(), counter.workload.graph
    manifest = Manifest(workload="lora", params={"many": 1})
    cid = counter.context.store.put_bytes(encode_manifest(manifest))

    def slow(asked: Manifest) -> Any:
        assert asked != manifest or gate.wait(60)
        return graph(asked)

    monkeypatch.setattr(counter.workload, "graph", slow)
    huge = counter.add_job(manifest=cid_digest(cid))
    await counter.verifier.until(lambda: ("Expand", huge, cid) in counter.verifier.runner.effects_running)
    await counter.receipt(counter.submission())
    assert counter.verifier.rows.jobs[huge].state == JobState.WAITING
    gate.set()
    await counter.verifier.until(lambda: counter.verifier.rows.jobs[huge].state == JobState.RUNNING)


# Who is here


async def test_who_went_away_while_the_chain_was_asked_is_not_here(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await counter.begin()
    counter.chain.add_node(counter.node)
    announce = Announce(("lora",), 0, 0, "")
    assert (await counter.desk.announce(counter.link, announce, cast(Any, None))).proceed
    assert counter.node.address in counter.context.members
    counter.desk.left(counter.link)
    gone = counter.connection(counter.node)
    gone.closed.set()
    assert not (await counter.desk.announce(gone, announce, cast(Any, None))).proceed
    assert counter.context.members == {}
    stranger = counter.connection(Wallet.generate())
    assert "not an active node" in (await counter.desk.announce(stranger, announce, cast(Any, None))).reason


async def test_a_crowd_of_strangers_keeps_no_node_from_coming_back(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await counter.begin()
    counter.chain.add_node(counter.node)
    counter.chain.add_node(other := Wallet.generate())
    announce = Announce(("lora",), 0, 0, "")
    assert (await counter.desk.announce(counter.link, announce, cast(Any, None))).proceed
    counter.desk.left(counter.link)
    counter.desk._unknown = Limiter("announcements of wallets that are not here", per_s=0.001, burst=20)
    refused = 0
    for _ in range(25):
        try:
            await counter.desk.announce(counter.connection(Wallet.generate()), announce, cast(Any, None))
        except RequestFailed:
            refused += 1
    assert refused > 0, "what strangers make us ask the chain has a bound"
    with pytest.raises(RequestFailed, match="a second"):
        await counter.desk.announce(counter.connection(other), announce, cast(Any, None))
    assert (await counter.desk.announce(counter.connection(counter.node), announce, cast(Any, None))).proceed


async def test_where_a_node_is_seen_is_known_from_its_next_announcement_on(counter: Counter) -> None:
    await counter.begin()
    counter.chain.add_node(counter.node)
    announce, nodes, link = Announce(("lora",), 0, 0, ""), counter.verifier.runner.engine.world.nodes, counter.link
    link.subnet = ""
    assert (await counter.desk.announce(link, announce, cast(Any, None))).proceed
    await counter.verifier.until(lambda: counter.node.address in nodes)
    assert not nodes[counter.node.address].subnet, "it has not shown yet that it receives there"
    link.subnet = "192.0.2.0/24"
    assert (await counter.desk.announce(link, announce, cast(Any, None))).proceed
    await counter.verifier.until(lambda: nodes[counter.node.address].subnet == "192.0.2.0/24")


async def test_a_node_may_hold_no_more_than_is_believed(counter: Counter) -> None:
    await counter.begin()
    counter.chain.add_node(counter.node)
    boast = Announce(("lora",), 0, 0, "", tasks=10**6, audits=-5)
    await counter.desk.announce(counter.link, boast, cast(Any, None))
    nodes = counter.verifier.runner.engine.world.nodes
    await counter.verifier.until(lambda: counter.node.address in nodes)
    node = nodes[counter.node.address]
    assert (node.tasks, node.audits) == (MAX_TASKS_HELD, 1)


async def test_what_the_chain_changes_about_a_node_is_known_at_once(counter: Counter) -> None:
    """An owner that takes its stake, a hot key that is rotated, a node that retires: known without an announcement."""
    facts = [counter.chain.add_node(counter.node), counter.chain.add_node(other := Wallet.generate())]
    counter.verifier.start()
    await counter.verifier.runner.tell_all([])
    for wallet in (counter.node, other):
        link = counter.connection(wallet)
        assert (await counter.desk.announce(link, Announce(("lora",), 0, 0, ""), cast(Any, None))).proceed
    nodes = counter.verifier.runner.engine.world.nodes
    await counter.verifier.until(lambda: len(nodes) == 2)
    one, two = counter.node.address, other.address

    counter.chain.facts[0] = replace(facts[0], stake=Wei(7), consecutive_valid=3)
    counter.chain.tell(StakeChanged, owner=facts[0].owner, stake=Wei(7), unbonding=Wei(0))
    await counter.verifier.until(lambda: (nodes[one].stake, nodes[one].consecutive_valid) == (7, 3))
    assert nodes[two].stake == facts[1].stake, "another owner's is its own"

    paid = {"batch": BatchId(1), "owner": facts[1].owner, "amount": Wei(1), "consecutive_valid": 12}
    counter.chain.tell(Claimed, operator=facts[1].id, **paid)
    await counter.verifier.until(lambda: nodes[two].consecutive_valid == 12)

    counter.chain.facts[1] = replace(facts[1], active=False)
    counter.chain.tell(OperatorRetired, operator=facts[1].id)
    await counter.verifier.until(lambda: set(nodes) == {one})
    assert set(counter.context.members) == {one}


# Jobs


async def run_jobs(counter: Counter, *jobs: JobId, over: Callable[[Job], bool]) -> None:
    def all_over() -> bool:
        rows = counter.verifier.rows.jobs
        return all(job in rows and over(rows[job]) for job in jobs)

    counter.verifier.start()
    await counter.verifier.until(all_over)


@pytest.mark.parametrize("trouble", ["deadline", "closed", "refused", "internal"])
async def test_a_job_that_cannot_run_holds_up_no_other(
    counter: Counter, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deadline seconds away, a chain that refuses, an error in this verifier's own code: each ends its own job."""
    bad = counter.add_job(deadline=counter.chain.clock + (-1 if trouble == "deadline" else 10_000))
    good = counter.add_job()
    chain: Any = counter.context.chain
    read, take = chain.job, chain.take_job

    def job(number: JobId) -> Any:
        if number == bad and trouble == "internal":
            raise ZeroDivisionError("a reward of nothing")
        found = read(number)
        found.closed = number == bad and trouble == "closed"
        return found

    def take_job(number: JobId, anchor: Anchor) -> None:
        if number == bad and trouble == "refused":
            raise JobIsClosed("JobIsClosed", {"job": number})
        take(number, anchor)

    monkeypatch.setattr(chain, "job", job)
    monkeypatch.setattr(chain, "take_job", take_job)
    await run_jobs(counter, bad, good, over=lambda row: row.state in (JobState.FAILED, JobState.RUNNING))
    first, second = counter.verifier.rows.jobs[bad], counter.verifier.rows.jobs[good]
    assert (first.state, second.state) == (JobState.FAILED, JobState.RUNNING)
    assert first.reason


async def test_a_job_that_pays_nothing_runs_like_any_other(counter: Counter) -> None:
    job = counter.add_job(reward=Wei(0), audit_fee=Wei(0))
    await run_jobs(counter, job, over=lambda row: row.state == JobState.RUNNING)
    assert counter.states() == ["ready"] * TASKS


@pytest.mark.parametrize("look_ahead", [0, 1])
async def test_a_result_that_others_start_from_is_looked_at_before_it_is_promised(
    counter: Counter, look_ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = counter.workload.graph(Manifest(workload="lora", params={}))
    graph = [*plain[:3], msgspec.structs.replace(plain[3], deps=(TaskIndex(0), TaskIndex(1)))]
    monkeypatch.setattr(counter.workload, "graph", lambda manifest: graph)
    await counter.begin(look_ahead=look_ahead)
    last = [state(task, SEGMENTS) for task in range(TASKS)]
    results = [b"result of " + last[0], b"result of nothing", b"result of nothing"]
    for data in (*last, *results):
        counter.context.store.put_bytes(data)
    await counter.receipt(counter.submission(0, result=cid_of_bytes(results[0])))
    await counter.receipt(counter.submission(2, result=cid_of_bytes(results[2])))  # nobody rests on it
    wrong = counter.submission(1, result=cid_of_bytes(results[1]))
    if look_ahead:
        assert "it is another one" in (await counter.refusal(wrong)).reason
    else:
        await counter.receipt(wrong)


async def test_no_receipt_is_signed_for_a_job_before_it_is_this_verifiers_on_chain(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tasks are given out while it is being taken; the node comes again in a moment."""
    monkeypatch.setattr(jobs, "taken", lambda *_, **__: None)
    monkeypatch.setattr(desk_module, "HELD_BACK_S", 0.01)
    await counter.begin(follow=False, taken_block=0, state=JobState.TAKING)
    row, work = counter.verifier.rows.jobs[JobId(1)], counter.submission(0)
    for _ in range(10):
        refusal = await counter.refusal(work)
        assert refusal.code == "busy" and "being taken" in refusal.reason, "not held against the commitment"
    row.taken_block = 7
    counter.context.settings.receipt_blocks = 2
    counter.context.saw_block(8, 1)
    assert (await counter.refusal(work)).code == "busy", "a reorganisation may give it to another verifier"
    counter.context.saw_block(9, 2)
    receipt = await counter.receipt(work)
    row.taken_block = 0
    assert await counter.receipt(work) == receipt, "what was promised stays so"


async def test_what_is_handed_in_early_is_answered_once_it_can_be_promised(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message of a node: what else it hands in meanwhile it is told to hand in again."""
    monkeypatch.setattr(desk_module, "HELD_BACK_S", 60.0)
    counter.context.settings.receipt_blocks = 2
    await counter.begin(follow=False, taken_block=7)
    counter.context.saw_block(7, 1)
    early = asyncio.create_task(counter.receipt(counter.submission(0)))
    async with asyncio.timeout(60):
        while not counter.desk._held_back:
            await asyncio.sleep(0.01)
    assert (await counter.refusal(counter.submission(1))).code == "busy"
    counter.context.saw_block(8, 2)
    await asyncio.sleep(0.01)
    assert not early.done()
    counter.context.saw_block(9, 3)
    assert (await early).job == JobId(1)
    assert not counter.desk._held_back


async def test_a_finished_jobs_batches_are_counted_when_they_have_left_the_memory(counter: Counter) -> None:
    job = counter.add_job()
    held = {"root": bytes(32), "members": b"", "lines": ((job, 1),)}
    for number, of_batch in enumerate((BatchState.SETTLED, BatchState.FINAL, BatchState.DROPPED), start=1):
        batch = Batch(id=number, state=of_batch, chain_id=BatchId(number), **cast(Any, held))
        work = Work(job=job, task=TaskIndex(number), attempt=1, node=counter.node.address, owner=Address("0xO"))
        await counter.verifier.put(batch, msgspec.structs.replace(work, batch=number))
    await counter.verifier.put(counter.job_row(id=job, state=JobState.DONE))
    assert not counter.context.rows.batches_of
    assert desk_module.report(counter.context, job, 0).batches_settled == 2
