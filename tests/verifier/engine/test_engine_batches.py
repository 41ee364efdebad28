"""When commitments become a batch and what it holds; what becomes of one that comes to nothing, or is taken over."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import pytest
from enginetown import OWN, START, address, specs_of, submission

from proofyard.chain.events import (
    BatchCommitted,
    BatchDropped,
    BatchSettled,
    BatchTaken,
    JobCommitted,
    JobTaken,
    Position,
)
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.mark import UNOPENED
from proofyard.protocol.members import Member, decode_members, encode_members, members_root
from proofyard.protocol.messages import SubmitCommitment
from proofyard.protocol.seal import Opening, seal_of
from proofyard.protocol.settlement import FaultReason, Line, OperatorId
from proofyard.protocol.types import Address, BatchId, Digest, JobId, SegmentIndex, Signature, TaskIndex, Wei
from proofyard.verifier.engine.batches import DEEP_BLOCKS, FORGET_S, MAX_LINES
from proofyard.verifier.engine.effects import (
    AskMarks,
    CommitBatch,
    Draw,
    Effect,
    LookAtResult,
    LookAtState,
    OfferAudits,
    Settle,
    WeighAnswers,
)
from proofyard.verifier.engine.events import (
    Adopted,
    AnswersWeighed,
    AuditSealed,
    ChainEvent,
    Drawn,
    DrawnSegment,
    EffectFailed,
    Event,
    Finalized,
    MarksTold,
    NodeJoined,
    Now,
    Place,
    RecordRefused,
    RecordSettled,
    ResultLooked,
    RolledBack,
    SealAnswered,
    Signed,
    StateLooked,
    Tick,
    WorkCommitted,
)
from proofyard.verifier.engine.machine import Engine
from proofyard.verifier.engine.rows import (
    Batch,
    BatchState,
    Job,
    JobState,
    Log,
    Row,
    Seat,
    Segment,
    Task,
    TaskState,
    Work,
    WorkState,
)
from proofyard.verifier.engine.world import Node, Rows, Rules

JOB, ZERO = JobId(1), Digest(bytes(32))
WORKER = address(1)
FAR = START + 10**6
MARGIN = Rules(own=1).receipt_margin_s


def job_row(tasks: int, **changes: Any) -> Job:
    usual: dict[str, Any] = {
        "id": JOB,
        "manifest": raw_cid(b"manifest"),
        "requester": address(9),
        "opened_block": 1,
        "opened_hash": bytes(32),
        "units": tasks,
        "reward": "100",
        "audit_fee": "10",
        "verifier_fee": "1",
        "auditors_per_segment": 2,
        "segments_per_audit": 1,
        "deadline": FAR,
        "workload": 0,
        "workload_name": "lora",
        "tasks": tasks,
        "state": JobState.RUNNING,
        "taken_block": 1,
    }
    return Job(**usual | changes)


def work_row(task: int, state: WorkState, promised_until: int = FAR, attempt: int = 1, job: JobId = JOB) -> Work:
    work = Work(job=job, task=TaskIndex(task), attempt=attempt, node=WORKER, owner=address(1001), state=state)
    if state != WorkState.GIVEN:
        work.result = raw_cid(b"%d %d" % (task, attempt))
        work.submission, work.leaf = submission(WORKER, (job, TaskIndex(task)), (), work.result)
        work.promised_until = promised_until
    return work


class Desk:
    """An engine and its clock."""

    def __init__(self, rows: Iterable[Row], **rules: Any) -> None:
        usual: dict[str, Any] = {"own": OWN, "batch_s": 50.0, "few_tasks": 0, "batch_min_s": 0.0, "lease_s": 10**6}
        self.engine = Engine(Rules(**usual | rules), rows)
        self.at, self.block = 0.0, 10
        self.wanted: list[Effect] = list(self.engine.resume(self.now).effects)
        self.logs: list[Log] = []

    @property
    def now(self) -> Now:
        return Now(START + self.at, 100.0 + self.at, self.block)

    def tell(self, event: Event) -> str:
        """Why the event was not taken; empty where it was."""
        step = self.engine.handle(event, self.now)
        self.wanted += step.effects
        self.logs += [row for row in step.rows if isinstance(row, Log)]
        return step.refusal

    def wait(self, seconds: float) -> None:
        """As the runner does it: a tick a second, and whenever the engine wants one."""
        end = self.at + seconds
        while self.at < end:
            wake = self.engine.next_wake
            self.at = min(end, self.at + 1.0, *([max(self.at, wake - 100.0)] if wake is not None else []))
            self.tell(Tick())

    def batches(self) -> list[list[int]]:
        """The tasks of each batch that was formed."""
        rows = self.engine.world.rows
        return [sorted(work.task for work in rows.works_of[batch]) for batch in sorted(rows.batches)]

    def tasks(self) -> list[str]:
        return [task.state for task in sorted(self.engine.world.rows.tasks.values(), key=lambda task: task.index)]


def desk(
    deps: Sequence[Sequence[int]], states: Sequence[TaskState], *, job: dict[str, Any] | None = None, **rules: Any
) -> Desk:
    """A job whose tasks are in these states; those that somebody has or had are in their first attempt, `decoys` with
    one beside them, and in the `batched` of each where there are any. `rows`: more of them."""
    promised, decoys, batched = rules.pop("promised_until", FAR), rules.pop("decoys", ()), rules.pop("batched", ())
    rows: list[Row] = [job_row(len(deps), **job or {}), *rules.pop("rows", ())]
    works = {
        TaskState.GIVEN: WorkState.GIVEN,
        TaskState.COMMITTED: WorkState.COMMITTED,
        TaskState.ACCEPTED: WorkState.SETTLED,
    }
    for spec, state in zip(specs_of(deps), states, strict=True):
        done = state in works
        rows.append(Task(job=JOB, index=spec.index, spec=encode(spec), reward="1", state=state, attempt=int(done)))
        if done:
            work = work_row(spec.index, works[state], promised)
            work.inputs = tuple(raw_cid(b"%d 1" % dep) for dep in spec.deps)
            work.decoy = spec.index in decoys
            if batched:
                work.state, work.batch = WorkState.BATCHED, batched[spec.index]
            rows.append(work)
    return Desk(rows, **rules)


GIVEN, COMMITTED, READY, WAITING, ACCEPTED = (
    TaskState.GIVEN,
    TaskState.COMMITTED,
    TaskState.READY,
    TaskState.WAITING,
    TaskState.ACCEPTED,
)


# Forming


def test_a_batch_waits_while_other_tasks_can_still_go_on() -> None:
    here = desk([[], [], [0, 1]], [COMMITTED, GIVEN, WAITING])
    here.wait(5)
    assert here.batches() == []
    result = raw_cid(b"done")
    raw, leaf = submission(WORKER, (JOB, TaskIndex(1)), (), result)
    here.tell(WorkCommitted(WORKER, (JOB, TaskIndex(1)), (), raw, leaf, result, FAR, raw_cid(b"manifest")))
    here.wait(2)
    assert here.batches() == [[0, 1]]
    (batch,) = here.engine.world.rows.batches.values()
    assert (batch.state, batch.lines) == (BatchState.FORMED, ((JOB, 2),))
    members = decode_members(batch.members)
    assert [member.key for member in members] == [(1, 0), (1, 1)]
    assert [effect for effect in here.wanted if isinstance(effect, CommitBatch)] == [CommitBatch(batch.id, batch.root)]
    here.wait(60)
    assert here.batches() == [[0, 1]], "nothing is put into two batches"


def _jobs(*states: Sequence[TaskState], look_ahead: int = 0, taking: Collection[int] = (), **rules: Any) -> Desk:
    """Jobs 1, 2, ... whose tasks are in these states and rest on nothing, or on all before them if they wait; those of
    `taking` are being taken."""
    rows: list[Row] = []
    works = {TaskState.GIVEN: WorkState.GIVEN, TaskState.COMMITTED: WorkState.COMMITTED}
    for number, each in enumerate(states, 1):
        job = JobId(number)
        taken = {"state": JobState.TAKING, "taken_block": 0} if number in taking else {}
        rows.append(job_row(len(each), id=job, look_ahead=look_ahead, **taken))
        deps = [list(range(index)) if state == WAITING else [] for index, state in enumerate(each)]
        for spec, state in zip(specs_of(deps), each, strict=True):
            done = state in works
            rows.append(Task(job=job, index=spec.index, spec=encode(spec), reward="1", state=state, attempt=int(done)))
            rows += [work_row(spec.index, works[state], job=job)] if done else []
    return Desk(rows, **{"batch_s": 300.0, "company_s": 20.0, "company_gap_s": 2.0} | rules)


def _commit(here: Desk, job: int, task: int) -> None:
    key, result = (JobId(job), TaskIndex(task)), raw_cid(b"%d %d" % (job, task))
    raw, leaf = submission(WORKER, key, (), result)
    here.tell(WorkCommitted(WORKER, key, (), raw, leaf, result, FAR, raw_cid(b"manifest")))


def _lines(here: Desk) -> list[list[int]]:
    """The jobs of each batch that was formed."""
    rows = here.engine.world.rows
    return [[job for job, _ in rows.batches[batch].lines] for batch in sorted(rows.batches)]


def test_what_waits_is_not_joined_by_what_goes_on_until_that_has_waited_long_enough() -> None:
    here = _jobs([COMMITTED], [COMMITTED, GIVEN], batch_s=30.0)
    here.wait(6)
    assert _lines(here) == [[1]]
    here.wait(22)
    assert _lines(here) == [[1]]
    here.wait(4)
    assert _lines(here) == [[1], [2]], "none waits longer than it must"


def test_jobs_that_end_one_soon_after_the_other_share_a_batch() -> None:
    here = _jobs([COMMITTED], *[[GIVEN]] * 4)
    for job in range(2, 6):
        here.wait(1)
        assert _lines(here) == []
        _commit(here, job, 0)
    here.wait(1)
    assert _lines(here) == [[1, 2, 3, 4, 5]], "nobody is left to wait for"


def test_a_job_that_has_ended_does_not_wait_for_others_for_ever() -> None:
    here = _jobs([COMMITTED], *[[GIVEN]] * 40)
    for job in range(2, 30):
        here.wait(1)
        _commit(here, job, 0)
    first, *_ = _lines(here)
    assert 19 <= len(first) <= 22


@pytest.mark.parametrize(
    ("others", "seconds"),
    [
        ([], 0.5),
        ([[READY]], 0.5),
        ([[COMMITTED, WAITING], [GIVEN]], 0.5),
        ([[GIVEN]], 3.0),
        ([[GIVEN, COMMITTED]] * 3, 3.0),
    ],
    ids=["alone", "nobody works", "one that can do nothing without verdicts", "one works", "several do"],
)
def test_how_long_a_job_that_has_ended_waits_for_company(others: list[list[TaskState]], seconds: float) -> None:
    here = _jobs([COMMITTED], *others)
    here.wait(seconds)
    assert here.batches() != []
    here = _jobs([COMMITTED], *others)
    here.wait(seconds - 1.5)
    assert (here.batches() == []) == (seconds > 1)


def test_jobs_that_are_being_taken_are_company_as_long_as_that_takes_and_no_longer_than_any() -> None:
    """Their nodes are told to come again until the block that takes them: nothing of theirs can wait meanwhile."""

    here = _jobs([COMMITTED], [GIVEN], taking=[2])
    here.wait(12)
    assert here.batches() == []
    here.tell(ChainEvent(JobTaken(Position(9, ZERO, 0), JobId(2), OperatorId(OWN)), START + 12))
    here.wait(1)
    assert here.batches() == []
    _commit(here, 2, 0)
    here.wait(1)
    assert _lines(here) == [[1, 2]]
    here = _jobs([COMMITTED], [GIVEN], taking=[2])
    here.wait(21)
    assert _lines(here) == [[1]]


def test_a_job_that_was_taken_in_the_last_blocks_is_company_until_something_can_be_promised_for_it() -> None:
    here = _jobs([COMMITTED], [GIVEN], taking=[2], receipt_blocks=2)
    here.tell(ChainEvent(JobTaken(Position(10, ZERO, 0), JobId(2), OperatorId(OWN)), START))
    here.wait(6)
    here.block = 11
    here.wait(6)
    assert here.batches() == []
    here.block = 12
    here.wait(4)
    assert here.batches() == [], "its nodes come again in a moment"
    here.wait(4)
    assert _lines(here) == [[1]]


def test_as_many_jobs_as_a_batch_holds_wait_for_no_other() -> None:
    here = _jobs(*[[COMMITTED]] * MAX_LINES, [GIVEN])
    here.wait(1)
    assert _lines(here) == [list(range(1, MAX_LINES + 1))]


def test_a_batch_is_made_as_soon_as_there_is_enough_for_one() -> None:
    here = desk([[]] * 6, [COMMITTED] * 5 + [GIVEN], batch_tasks=5)
    here.wait(2)
    assert here.batches() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("committed", "batches"),
    [(2, []), (3, [[0, 1, 2]]), (7, [[0, 1, 2, 3, 4]])],
    ids=["too few", "enough for the first", "the second waits for more"],
)
def test_fewer_make_a_batch_where_no_other_is_on_its_way(committed: int, batches: list[list[int]]) -> None:
    states = [COMMITTED] * committed + [GIVEN]
    here = desk([[]] * len(states), states, batch_tasks=5, first_tasks=3)
    here.wait(5)
    assert here.batches() == batches


def test_no_batch_holds_more_than_it_may() -> None:
    here = desk([[]] * 6, [COMMITTED] * 6, batch_tasks=2)
    here.wait(5)
    assert [len(tasks) for tasks in here.batches()] == [2, 2, 2]


def test_no_commitment_waits_longer_for_company_than_it_must() -> None:
    here = desk([[], []], [COMMITTED, GIVEN], batch_s=20.0)
    here.wait(19)
    assert here.batches() == []
    here.wait(3)
    assert here.batches() == [[0]]


@pytest.mark.parametrize(
    ("committed", "workers", "seconds"),
    [(3, 0, 40), (4, 0, 20), (3, 2, 20)],
    ids=["few", "enough", "a round closes by what is on chain"],
)
def test_few_commitments_wait_longer_for_company(committed: int, workers: int, seconds: float) -> None:
    states = [COMMITTED] * committed + [GIVEN]
    here = desk([[]] * len(states), states, job={"workers": workers}, batch_s=20.0, few_s=40.0, few_tasks=4)
    here.wait(seconds - 1)
    assert here.batches() == []
    here.wait(3)
    assert here.batches() == [list(range(committed))]


ROUNDS = [[], [], [0, 1], [0, 1], [2, 3], [2, 3]]


@pytest.mark.parametrize(
    ("states", "decoys", "few", "batches"),
    [
        ([COMMITTED] * 2 + [GIVEN] * 2, {0}, 32, [[1]]),
        ([COMMITTED] * 2 + [GIVEN] * 2, {}, 32, []),
        ([COMMITTED] * 2 + [GIVEN] * 2, {0}, 2, []),
        ([COMMITTED] + [GIVEN] + [WAITING] * 2, {0}, 32, []),
        ([COMMITTED] * 4, {0, 2}, 32, [[1]]),
    ],
    ids=["the next round is given", "no decoy", "many wait", "its round goes on", "another in the next round"],
)
def test_a_decoy_that_a_round_has_to_wait_for_has_its_batch_before_that_is_done(
    states: list[TaskState], decoys: Collection[int], few: int, batches: list[list[int]]
) -> None:
    """The commitment beside it, and all that rests on that, comes into the next one: it is two batches in any case."""
    left = [WAITING if len(states) == 4 and GIVEN in states else GIVEN] * (6 - len(states))
    here = desk(ROUNDS, states + left, job={"look_ahead": 4}, decoys=decoys, few_tasks=few, batch_min_s=1.0)
    here.wait(1)
    assert here.batches() == [], "nobody idles: it waits for company like one that has ended"
    here.wait(20)
    assert here.batches() == batches
    rows = here.engine.world.rows
    assert [work.task for works in rows.decoys_in.values() for work in works] == [0] * len(batches)


@pytest.mark.parametrize(
    ("deps", "states", "rules", "batches"),
    [
        (ROUNDS, [COMMITTED] * 2 + [GIVEN] * 2 + [WAITING] * 2, {}, [[0, 1]]),
        (ROUNDS, [COMMITTED] * 2 + [GIVEN, READY] + [WAITING] * 2, {}, []),
        (ROUNDS, [COMMITTED] * 4 + [GIVEN] * 2, {}, []),
        (ROUNDS, [ACCEPTED] * 2 + [COMMITTED, GIVEN] + [WAITING] * 2, {"had": True}, []),
        (ROUNDS, [COMMITTED] * 2 + [GIVEN] * 2 + [WAITING] * 2, {"decoys": {2}}, []),
        (ROUNDS, [COMMITTED] * 2 + [GIVEN] * 2 + [WAITING] * 2, {"few_tasks": 2}, []),
        (ROUNDS, [COMMITTED] * 2 + [GIVEN] * 2 + [WAITING] * 2, {"job": {"look_ahead": 4, "workers": 2}}, []),
        (ROUNDS, [COMMITTED] * 2 + [GIVEN] * 2 + [WAITING] * 2, {"promised_until": START + 600}, []),
        (ROUNDS, [COMMITTED] * 2 + [GIVEN] * 2 + [WAITING] * 2, {"valid": 9}, []),
        (ROUNDS, [COMMITTED] * 2 + [GIVEN] * 2 + [WAITING] * 2, {"valid": None}, []),
        ([[]] * 6, [COMMITTED] * 2 + [GIVEN] * 2 + [READY] * 2, {}, []),
    ],
    ids=[
        "the last round but one",
        "part of it",
        "the last round",
        "one that had a batch",
        "one whose decoy makes two batches",
        "many",
        "one whose rounds close by what is on chain",
        "one that is short",
        "workers that are new",
        "workers that have gone",
        "no rounds",
    ],
)
def test_a_job_of_rounds_has_a_batch_before_its_last_one(
    deps: list[list[int]], states: list[TaskState], rules: dict[str, Any], batches: list[list[int]]
) -> None:
    usual: dict[str, Any] = {"job": {"look_ahead": 4}, "few_tasks": 32, "promised_until": START + 570}
    had = [Batch(id=1, state=BatchState.SETTLED, root=Digest(bytes(32)), members=b"", lines=((JOB, 20),))]
    rows, valid = had if rules.pop("had", False) else [], rules.pop("valid", 10)
    here = desk(deps, states, rows=rows, **usual | rules)
    if valid is not None:
        here.engine.world.nodes[WORKER] = Node(WORKER, address(1001), 1, 1, valid, frozenset(), 1, 1, 1)
    here.wait(20)
    assert here.batches()[len(rows) :] == batches


def test_a_receipt_that_falls_due_is_honoured_before_the_other_tasks_are_done() -> None:
    here = desk([[], []], [COMMITTED, GIVEN], promised_until=START + int(MARGIN) + 10)
    here.wait(8)
    assert here.batches() == []
    here.wait(5)
    assert (here.batches(), here.tasks()) == ([[0]], ["committed", "given"])


def test_what_was_promised_is_committed_whatever_becomes_of_the_job() -> None:
    here = desk([[], []], [COMMITTED, READY], job={"state": JobState.FAILED, "reason": "it was closed"})
    here.wait(60)
    assert here.batches() == [[0]]


def test_a_batch_holds_no_more_units_of_a_job_than_it_has_free() -> None:
    """Two attempts at one task are never in one batch either."""
    here = desk([[]] * 4, [COMMITTED] * 3 + [GIVEN], job={"units": 4, "units_open": 1, "units_paid": 1})
    here.wait(60)
    assert [len(tasks) for tasks in here.batches()] == [2]
    here.engine.world.rows.jobs[JOB].units_open -= 1
    (batch,) = here.engine.world.rows.batches.values()
    _on_chain(here, batch)
    here.wait(60)
    assert [len(tasks) for tasks in here.batches()] == [2, 1]


def test_what_no_batch_can_hold_any_more_is_given_up_with_its_job() -> None:
    here = desk([[]], [COMMITTED], job={"deadline": START - 10_000})
    here.wait(60)
    assert here.batches() == []
    job = here.engine.world.rows.jobs[JOB]
    assert job.state == JobState.FAILED


def _on_chain(here: Desk, batch: Batch, number: int = 7) -> None:
    lines = tuple(Line(job, units, Wei(units)) for job, units in batch.lines)
    commit = BatchCommitted(
        *(Position(here.block, ZERO, 1), BatchId(number), OperatorId(OWN), batch.root),
        size=1,
        members=ZERO,
        lines=lines,
        quorum=1,
    )
    here.tell(ChainEvent(commit, START))
    for line in lines:
        here.tell(ChainEvent(JobCommitted(commit.position, line.job, BatchId(number)), START))


# What comes to nothing


@pytest.mark.parametrize("how", ["dropped on chain", "never taken by the chain"])
def test_what_was_in_a_batch_that_came_to_nothing_is_done_again(how: str) -> None:
    here = desk([[], []], [COMMITTED, ACCEPTED])
    here.wait(60)
    (batch,) = here.engine.world.rows.batches.values()
    if how == "dropped on chain":
        _on_chain(here, batch)
        here.tell(ChainEvent(BatchDropped(Position(11, ZERO, 1), BatchId(7)), START))
    else:
        here.tell(EffectFailed(("CommitBatch", batch.id), "its units are paid already", retry=False))
    assert (batch.state, here.tasks()) == (BatchState.DROPPED, ["ready", "accepted"])
    work = here.engine.world.rows.works[JOB, 0, 1]
    assert (work.state, work.outcome) == (WorkState.LOST, "dropped")
    assert here.engine.world.rows.jobs[JOB].units_open == 0


@pytest.mark.parametrize("kind", ["Draw", "Settle"])
def test_what_nothing_can_end_is_tried_again_for_as_long_as_it_is_wanted(kind: str) -> None:
    """An error of this verifier's own that lasts would leave the batch to its death, at its leader's cost."""
    here = desk([[], []], [COMMITTED, ACCEPTED])
    here.wait(60)
    (batch,) = here.engine.world.rows.batches.values()
    _on_chain(here, batch)
    if kind != "Draw":
        here.tell(_plan(batch, here))
    if kind == "Settle":
        here.tell(ResultLooked(batch.id, (JOB, TaskIndex(0))))
    effect = next(effect for effect in here.wanted if type(effect).__name__ == kind)
    for times in range(5):
        here.wanted.clear()
        here.tell(EffectFailed(effect.key, "an internal error", retry=False, own=True))
        here.wait(2.0**times + 1)
        assert here.wanted == [effect]
    assert batch.reason == "an internal error"
    assert [line.kind for line in here.logs].count("trouble") == 1, "it is said, and not again and again"


def test_what_this_verifier_fails_to_look_at_is_left_to_others() -> None:
    """Neither state nor result is a fault because this verifier cannot look at it; auditors and signers can."""
    here = desk([[], []], [COMMITTED, ACCEPTED])
    here.wait(60)
    (batch,) = here.engine.world.rows.batches.values()
    _on_chain(here, batch)
    auditors = tuple(address(number) for number in (2, 3))
    drawn = DrawnSegment((JOB, TaskIndex(0), SegmentIndex(0)), auditors, 2, ZERO, WORKER, False, "lora")
    here.tell(_plan(batch, here, (drawn,)))
    for kind in ("LookAtResult", "LookAtState"):
        effect = next(effect for effect in here.wanted if type(effect).__name__ == kind)
        here.tell(EffectFailed(effect.key, "an internal error", retry=False, own=True))
    (segment,) = here.engine.world.rows.segments.values()
    assert segment.looked and segment.verdict == "pending" and not batch.results_due
    assert not here.engine.world.rows.faults


def test_a_job_that_cannot_be_committed_takes_no_other_with_it() -> None:
    """A batch over two jobs that the chain refuses because of one of them: the other's promises are kept."""
    other, rows = JobId(2), list[Row]()
    for job in (JOB, other):
        rows += [job_row(1, id=job), work_row(0, WorkState.COMMITTED, job=job)]
        spec = encode(specs_of([[]])[0])
        rows.append(Task(job=job, index=TaskIndex(0), spec=spec, reward="1", state=COMMITTED, attempt=1))
    here = Desk(rows)
    here.wait(60)
    (batch,) = here.engine.world.rows.batches.values()
    assert [job for job, _ in batch.lines] == [JOB, other]
    here.tell(EffectFailed(("CommitBatch", batch.id), "job 1 takes no more work", retry=False))
    here.wait(60)
    apart = [b for b in here.engine.world.rows.batches.values() if b.state == BatchState.FORMED]
    assert [[job for job, _ in b.lines] for b in apart] == [[JOB], [other]]
    here.tell(EffectFailed(("CommitBatch", apart[0].id), "job 1 takes no more work", retry=False))
    assert (apart[0].state, apart[1].state) == (BatchState.DROPPED, BatchState.FORMED)
    here.tell(EffectFailed(("CommitBatch", apart[1].id), "an internal error", retry=False, own=True))
    states = [here.engine.world.rows.jobs[job].state for job in (JOB, other)]
    assert states == [JobState.RUNNING, JobState.FAILED]


def _plan(batch: Batch, here: Desk, segments: tuple[DrawnSegment, ...] = ()) -> Drawn:
    return Drawn(batch.id, here.engine.world.forks, ZERO, segments, b"", 0, batch.commit_block, START, START)


# Taken over


def taken_over(here: Desk | None = None) -> tuple[Desk, Batch]:
    """A batch of another verifier's job, of which this one has no tasks."""
    here = here or Desk([])
    auditors = [address(number) for number in (2, 3)]
    for auditor in auditors:
        here.tell(NodeJoined(auditor, auditor, 1, Wei(1), 0, frozenset({"lora"}), 1, 1))
    members = []
    for task in range(2):
        raw, _ = submission(WORKER, (JOB, TaskIndex(task)), (), raw_cid(b"%d" % task))
        message = decode(raw, SubmitCommitment)
        members.append(Member(message.commitment, message.signature, message.trace))
    root, encoded = members_root(members), encode_members(members)
    here.tell(Adopted(BatchId(7), root, encoded, ((JOB, 2),), 1, 9))
    return here, here.engine.world.rows.by_chain_id[BatchId(7)]


def test_a_batch_that_was_taken_over_is_judged_without_its_tasks() -> None:
    here, batch = taken_over()
    assert here.wanted[-1] == Draw(batch.id, 0)
    place = (JOB, TaskIndex(0), 0)
    auditors = (address(2), address(3))
    here.tell(_plan(batch, here, (DrawnSegment(place, auditors, 2, ZERO, WORKER, weigh=False, workload="lora"),)))  # type: ignore[arg-type]
    looks = [effect.task for effect in here.wanted if isinstance(effect, LookAtResult)]
    assert looks == [(JOB, 0), (JOB, 1)]
    here.tell(StateLooked(batch.id, place))  # type: ignore[arg-type]
    assert {effect.node for effect in here.wanted if isinstance(effect, OfferAudits)} == set(auditors)
    here.tell(ResultLooked(batch.id, (JOB, TaskIndex(0))))
    here.tell(ResultLooked(batch.id, (JOB, TaskIndex(1)), FaultReason.MISMATCH, "it is another one"))
    (fault,) = here.engine.world.rows.faults.values()
    assert (fault.node, fault.task, fault.owner) == (WORKER, 1, Address(""))
    here.tell(StateLooked(batch.id, place, FaultReason.WITHHELD, "not delivered"))  # type: ignore[arg-type]
    assert AskMarks(batch.id) in here.wanted
    assert batch.state == BatchState.AUDITING, "nobody knows yet which are decoys"
    here.tell(MarksTold(batch.id, (bytes(32), UNOPENED)))
    assert (batch.state, here.wanted[-1]) == (BatchState.JUDGED, Settle(batch.id, 1))


@pytest.mark.parametrize(("state", "few", "hurries"), [(GIVEN, 32, False), (COMMITTED, 32, True), (GIVEN, 0, True)])
def test_audits_hurry_where_somebody_waits_for_their_verdicts(state: TaskState, few: int, hurries: bool) -> None:
    here, batch = taken_over(desk([[], [], []], [COMMITTED, COMMITTED, state], few_tasks=few))
    place = (JOB, TaskIndex(0), 0)
    segment = DrawnSegment(place, (address(2), address(3)), 2, ZERO, WORKER, weigh=False, workload="lora")  # type: ignore[arg-type]
    here.tell(_plan(batch, here, (segment,)))
    here.tell(StateLooked(batch.id, place))  # type: ignore[arg-type]
    offers = [effect for effect in here.wanted if isinstance(effect, OfferAudits)]
    assert len(offers) == 2 and {offer.hurries for offer in offers} == {hurries}


def test_a_batch_whose_record_does_not_hold_is_judged_again_later_each_time() -> None:
    here, batch = taken_over()
    place, auditors = (JOB, TaskIndex(0), SegmentIndex(0)), (address(2), address(3))
    plan = DrawnSegment(place, auditors, 2, ZERO, WORKER, weigh=False, workload="lora")

    def judged() -> None:
        here.tell(_plan(batch, here, (plan,)))
        here.tell(ResultLooked(batch.id, (JOB, TaskIndex(0))))
        here.tell(ResultLooked(batch.id, (JOB, TaskIndex(1)), FaultReason.WITHHELD, "not delivered"))
        here.tell(StateLooked(batch.id, place, FaultReason.WITHHELD, "not delivered"))

    judged()
    here.tell(MarksTold(batch.id, (bytes(32), UNOPENED)))
    for seconds in (1.0, 2.0, 4.0):
        assert (batch.state, here.wanted[-1]) == (BatchState.JUDGED, Settle(batch.id, 1))
        here.wanted.clear()
        here.tell(RecordRefused(batch.id, "audits: it says so"))
        assert (batch.state, batch.reason) == (BatchState.COMMITTED, "audits: it says so")
        assert not here.engine.world.rows.faults, "what was found in results is looked for again"
        here.wait(seconds - 0.5)
        assert here.wanted == []
        here.wait(1.0)
        assert here.wanted == [Draw(batch.id, 0)]
        judged()
    here.tell(Signed(batch.id, raw_cid(b"record")))
    here.tell(RecordRefused(batch.id, "too late"))
    assert batch.state == BatchState.SIGNED, "what is signed is never judged again"


def test_a_batch_that_was_taken_over_and_went_with_a_block_is_its_makers_to_send() -> None:
    here, batch = taken_over()
    here.wanted.clear()
    here.tell(RolledBack(5))
    assert (batch.state, batch.chain_id) == (BatchState.DROPPED, None)
    assert not [effect for effect in here.wanted if isinstance(effect, CommitBatch)]


def test_a_batch_that_is_final_leaves_the_memory_once_no_reorganisation_can_reach_it() -> None:
    batch = Batch(
        id=1,
        state=BatchState.SETTLED,
        root=Digest(bytes(32)),
        members=b"",
        lines=((JOB, 10),),
        chain_id=BatchId(7),
        settled_block=10,
    )
    segment = Segment(
        batch=1, job=JOB, task=TaskIndex(0), index=0, auditors=(), seats=1, claimed=Digest(bytes(32)), worker=WORKER
    )
    seat = Seat(batch=1, job=JOB, task=TaskIndex(0), segment=0, auditor=WORKER)
    here = desk([[], []], [ACCEPTED, GIVEN], rows=[batch, segment, seat])
    rows = here.engine.world.rows
    here.tell(Finalized(BatchId(7)))
    here.wait(FORGET_S + 1)
    assert rows.batches and rows.by_chain_id and batch.state == BatchState.FINAL
    here.block += DEEP_BLOCKS
    here.wait(FORGET_S + 1)
    left = rows.batches, rows.by_chain_id, rows.batches_of, rows.segments, rows.segments_of, rows.seats
    assert not any(left)
    here.tell(RolledBack(5))
    assert here.tasks() == ["accepted", "given"]


def test_a_batch_that_waited_for_another_may_have_left_the_memory_before_that_is_over() -> None:
    """Others settled it as stale: what it rests on was voided, and has all its time again."""
    first, second = (
        Batch(id=n, state=state, root=ZERO, members=b"", lines=((JOB, 1),), chain_id=BatchId(6 + n), commit_block=1)
        for n, state in ((1, BatchState.TAKEN), (2, BatchState.JUDGED))
    )
    here = desk([[], [0]], [COMMITTED, COMMITTED], rows=[first, second], batch_s=10**6, batched=(1, 2))
    rows = here.engine.world.rows
    assert not [effect for effect in here.wanted if isinstance(effect, Settle)], "the second waits for the first"
    place, zero = Position(10, ZERO, 0), Wei(0)
    here.tell(ChainEvent(BatchTaken(place, BatchId(8), OperatorId(9), OperatorId(OWN), (), 1, 1), START))
    settled = BatchSettled(place, BatchId(8), 1, ZERO, 0, zero, zero, ZERO, raw_cid(b"record"), 3, 0, ())
    here.tell(ChainEvent(settled, START))
    here.tell(RecordSettled(2, 0, raw_cid(b"record"), (((JOB, TaskIndex(1)), "stale", ""),), (), (), 10, 0))
    here.tell(Finalized(BatchId(8)))
    here.block += DEEP_BLOCKS
    here.wait(FORGET_S + 1)
    assert list(rows.batches) == [1]
    here.tell(ChainEvent(BatchDropped(place, BatchId(7)), START))
    assert first.state == BatchState.DROPPED


def test_a_jobs_batches_are_found_by_its_number() -> None:
    """Of a thousand jobs each request asks for one: nothing is looked through."""
    first, second = (
        Batch(id=number, root=ZERO, members=b"", lines=tuple((JobId(job), 5) for job in jobs))
        for number, jobs in ((1, (1, 2)), (2, (2, 3)))
    )
    rows = Rows([first])
    rows.add(second)
    assert rows.batches_of == {1: [first], 2: [first, second], 3: [second]}
    rows.delete(first)
    assert rows.batches_of == {2: [second], 3: [second]}


def test_what_was_weighed_for_a_draw_that_is_gone_says_nothing_of_this_one() -> None:
    here, batch = taken_over()
    place, auditors = (JOB, TaskIndex(0), SegmentIndex(0)), (address(2), address(3))
    plan = DrawnSegment(place, auditors, 2, ZERO, WORKER, weigh=True, workload="lora")

    def answered(seed: Digest) -> None:
        here.tell(Drawn(batch.id, here.engine.world.forks, seed, (plan,), b"", 0, batch.commit_block, START, START))
        here.tell(StateLooked(batch.id, place))
        openings = {a: Opening(ZERO, Digest(seed[:31] + a.encode()[-1:]), "", bytes(32)) for a in auditors}
        for a, opening in openings.items():
            here.tell(AuditSealed(a, BatchId(7), place, seed, seal_of(opening, a), Signature(bytes(65))))
        for a, opening in openings.items():
            here.tell(SealAnswered(a, BatchId(7), place, seed, opening))

    answered(Digest(b"a" * 32))
    (first,) = [each for each in here.wanted if isinstance(each, WeighAnswers)]
    # The draw's block is another one: the chain stores another seed.
    here.tell(RolledBack(10))
    assert batch.state == BatchState.COMMITTED
    answered(Digest(b"b" * 32))
    weighs = [each for each in here.wanted if isinstance(each, WeighAnswers)]
    # The first one ends now, and found both to have copied: it looked at the seed of today.
    here.tell(AnswersWeighed(batch.id, place, first.seed, tuple((a, ZERO) for a in auditors), frozenset(auditors)))
    seats = here.engine.world.rows.seats[batch.id, place].values()
    assert [each.seed[:1] for each in weighs] == [b"a", b"b"], "the new answers are weighed"
    assert not any(s.copied for s in seats)


def draw(here: Desk, batch: Batch, seed: Digest, places: Iterable[Place], auditors: tuple[Address, ...]) -> None:
    plan = tuple(DrawnSegment(p, auditors, 2, ZERO, WORKER, weigh=True, workload="lora") for p in places)
    here.tell(Drawn(batch.id, here.engine.world.forks, seed, plan, b"", 0, batch.commit_block, START, START))


def test_a_place_that_two_draws_have_and_one_between_has_not_is_looked_at() -> None:
    here, batch = taken_over()
    place, other = (JOB, TaskIndex(0), SegmentIndex(0)), (JOB, TaskIndex(1), SegmentIndex(0))
    auditors = (address(2), address(3))
    a, b = Digest(b"a" * 32), Digest(b"b" * 32)
    draw(here, batch, a, [place], auditors)
    (look,) = [e for e in here.wanted if isinstance(e, LookAtState)]
    here.tell(EffectFailed(look.key, "the disk is full", retry=True))
    here.tell(RolledBack(10))
    draw(here, batch, b, [other], auditors)
    here.wanted.clear()
    here.wait(5)
    # it is begun; looking.look_at_state returns without a word, as there is no such segment
    here.wanted.clear()
    here.tell(RolledBack(10))
    draw(here, batch, a, [place], auditors)
    here.wait(300)
    assert [e for e in here.wanted if isinstance(e, LookAtState) and e.place == place]


def test_a_late_word_on_the_old_seal_does_not_put_away_who_sealed_anew() -> None:
    here, batch = taken_over()
    place, auditors = (JOB, TaskIndex(0), SegmentIndex(0)), (address(2), address(3))

    def sealed(seed: Digest) -> dict[Address, Opening]:
        draw(here, batch, seed, [place], auditors)
        here.tell(StateLooked(batch.id, place))
        op = {x: Opening(ZERO, Digest(seed[:31] + x.encode()[-1:]), "", bytes(32)) for x in auditors}
        for x, o in op.items():
            here.tell(AuditSealed(x, BatchId(7), place, seed, seal_of(o, x), Signature(bytes(65))))
        return op

    first, second = Digest(b"a" * 32), Digest(b"b" * 32)
    old = sealed(first)
    here.tell(RolledBack(10))
    new = sealed(second)
    for x in auditors:
        here.tell(SealAnswered(x, BatchId(7), place, first, old[x]))  # what was asked in the first draw ends now
    for x in auditors:
        here.tell(SealAnswered(x, BatchId(7), place, second, new[x]))
    seats = here.engine.world.rows.seats[batch.id, place].values()
    assert not any(s.tries for s in seats)
