from collections.abc import Iterable
from pathlib import Path

import pytest
from sqlmodel import select

from proofyard.chain import NodeRecord, Role
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.codec import encode
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.dial import affordable_reward, audit_odds
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.members import Member
from proofyard.protocol.messages import SubmitCommitment
from proofyard.protocol.settlement import FaultReason, OperatorId
from proofyard.protocol.types import Address, Digest, JobId, Signature, TaskIndex, Wei
from proofyard.protocol.view import JobFacts
from proofyard.verifier.batches import RECEIPT_MARGIN_S, form_batches
from proofyard.verifier.database import (
    Batch,
    BatchState,
    Database,
    DatabaseError,
    Fault,
    Job,
    JobState,
    Line,
    Log,
    Schema,
    Task,
    TaskState,
    tasks_of,
)
from proofyard.verifier.exposure import elsewhere, given_out, objection
from proofyard.verifier.membership import members_of
from proofyard.verifier.outcomes import faulty_owners, give_up
from proofyard.verifier.schedule import (
    MAX_REFUSERS,
    fail_hopeless,
    hand_back,
    inputs_of,
    preferred,
    promote,
    release_lapsed,
)

NOW = 1_800_000_000.0
NODE = Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
ZERO = Digest(bytes(32))


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(f"sqlite:///{tmp_path / 'verifier.db'}")


def add_job(database: Database, deps: list[tuple[int, ...]], states: list[TaskState]) -> None:
    with database.session() as session:
        session.add(
            Job(
                id=1,
                requester="0x1",
                manifest=raw_cid(b"m"),
                units=len(deps),
                tasks=len(deps),
                reward="1000",
                audit_fee="100",
                auditors_per_segment=2,
                segments_per_audit=1,
                deadline=2**40,
                state=JobState.RUNNING,
            )
        )
        session.flush()
        for index, (needs, state) in enumerate(zip(deps, states, strict=True)):
            spec = TaskSpec(index=TaskIndex(index), kind="k", deps=tuple(TaskIndex(d) for d in needs))
            session.add(
                Task(
                    job=1,
                    index=index,
                    spec=encode(spec),
                    state=state,
                    node="0xA",
                    lease_until=100.0,
                    submission=b"s",
                    leaf=bytes([index]) * 32,
                    result=raw_cid(bytes([index])),
                )
            )


def test_a_task_is_ready_only_when_all_its_inputs_are_valid(database: Database) -> None:
    add_job(database, [(), (), (0, 1)], [TaskState.VALID, TaskState.JUDGING, TaskState.WAITING])
    with database.session() as session:
        tasks = tasks_of(session, 1)
        promote(tasks)
        assert tasks[2].state == TaskState.WAITING
        tasks[1].state = TaskState.VALID
        promote(tasks)
        assert tasks[2].state == TaskState.READY
        assert inputs_of(tasks[2], tasks) == (raw_cid(b"\x00"), raw_cid(b"\x01"))


def test_a_silent_holder_loses_the_task_and_nothing_else(database: Database) -> None:
    add_job(database, [(), ()], [TaskState.ASSIGNED, TaskState.COMMITTED])
    with database.session() as session:
        release_lapsed(session, 99.0)
        assert tasks_of(session, 1)[0].state == TaskState.ASSIGNED
        release_lapsed(session, 101.0)
        released, committed = tasks_of(session, 1)
        assert (released.state, released.node, released.leaf) == (TaskState.READY, None, None)
        assert released.lost_by == "0xA"
        assert committed.state == TaskState.COMMITTED
        assert [line.kind for line in session.exec(select(Log))] == ["lost"]


def test_the_least_loaded_node_that_may_is_preferred() -> None:
    a, b, c = (Address(x) for x in ("0xA", "0xB", "0xC"))
    assert preferred([c, b, a], barred=[], losses={}, load={"0xA": 1}) == [b, c, a]
    assert preferred([a, b], barred=["0xA"], losses={}, load={}) == [b]
    assert preferred([a], barred=["0xA"], losses={}, load={}) == []


def test_who_lost_a_task_before_comes_after_all_others_and_is_not_shut_out() -> None:
    a, b = Address("0xA"), Address("0xB")
    assert preferred([a, b], barred=[], losses={"0xA": 1}, load={"0xB": 9}) == [b, a]
    assert preferred([a], barred=[], losses={"0xA": 7}, load={}) == [a]


def node(owner: str, stake: int, valid: int = 0) -> NodeRecord:
    return NodeRecord(OperatorId(1), Role.NODE, True, Address("0xA"), Address(owner), Wei(stake), valid, 0, 0, "")


def takes(record: NodeRecord, reward: int, in_flight: int, owners: set[str], segments: int = 8) -> bool:
    return not objection(
        record,
        Wei(reward),
        Wei(in_flight),
        segments=segments,
        segments_per_audit=2,
        auditors_per_segment=2,
        auditing_owners={Address(owner) for owner in owners},
        collusion_bps=1000,
        given_back_bps=0,
    )


def test_an_owner_is_offered_no_more_than_its_stake_backs() -> None:
    others = {f"0x{n}" for n in range(40)}
    most = affordable_reward(Wei(1000), 1000)
    assert takes(node("0xO", 1000), most, 0, others)
    assert not takes(node("0xO", 1000), most + 1, 0, others)
    assert not takes(node("0xO", 1000), most, 1, others)
    assert not takes(node("0xO", 0), 1, 0, others)


def test_a_task_is_offered_only_where_owners_enough_are_here_to_convict_its_worker() -> None:
    six = {f"0x{n}" for n in range(6)}
    assert takes(node("0xO", 10**9, 100), 1, 0, six | {"0xO"})
    assert not takes(node("0xO", 10**9, 100), 1, 0, (six - {"0x1"}) | {"0xO"}), "its own nodes do not count"
    drawn = audit_odds(100, Wei(1000), 1, Wei(4000), 1000, 8, 2).segments
    assert drawn > 2, "so much at stake that two segments are not enough"
    most = {f"0x{n}" for n in range(5 * drawn)}
    assert takes(node("0xO", 1000, 100), 4000, 0, most), "and then two colluders on a list must not block it"
    assert not takes(node("0xO", 1000, 100), 4000, 0, most - {"0x0"})


def add_batches(database: Database, *states: BatchState) -> None:
    with database.session() as session:
        for number, state in enumerate(states, 1):
            session.add(Batch(id=number, state=state, root=b"", members=b"", chain_id=number))
            session.flush()
            session.add(Line(batch=number, job=1, units=1))


def test_what_is_in_flight_counts_the_owner_until_its_batch_is_settled(database: Database) -> None:
    states = [TaskState.ASSIGNED, TaskState.COMMITTED, TaskState.JUDGING, TaskState.VALID, TaskState.VALID]
    add_job(database, [()] * 5, states)
    add_batches(database, BatchState.AUDITING, BatchState.SETTLED)
    with database.session() as session:
        for task, batch in zip(tasks_of(session, 1), (None, None, 1, 1, 2), strict=True):
            task.owner, task.batch, task.reward = "O", batch, str(10**task.index)
        session.flush()
        assert given_out(session) == {"O": 1111}


def test_what_is_in_flight_elsewhere_counts_the_owner_over_all_its_nodes() -> None:
    """By the member lists of other verifiers' batches, for no more than their jobs pay."""
    facts = JobFacts(ZERO, NODE, Wei(1000), Wei(0), Wei(0), 10, 2, 1, 0, 0)

    def member(node: str, job: int, units: int) -> Member:
        digests = (ZERO, ZERO, ZERO)
        commitment = Commitment(JobId(job), TaskIndex(0), Address(node), *digests, 1, raw_cid(b"r"), units)
        return Member(commitment, Signature(b""), ())

    lists = [
        [member("0xA", 1, 2), member("0xB", 1, 1)],
        [member("0xA", 1, 99), member("0xC", 2, 1), member("0xD", 1, 1)],
    ]
    owners = {Address("0xA"): Address("0xO"), Address("0xB"): Address("0xO"), Address("0xC"): Address("0xP")}
    assert elsewhere(lists, {JobId(1): facts}, owners) == {"0xO": 200 + 100 + 1000}


def test_a_fault_that_costs_no_stake_shuts_nobody_out(database: Database) -> None:
    add_job(database, [()], [TaskState.JUDGING])
    add_batches(database, BatchState.JUDGED)
    with database.session() as session:
        for task, kind in enumerate((FaultReason.DISAGREED, FaultReason.MISMATCH)):
            session.add(Fault(batch=1, job=1, task=task, node="0xN", owner=f"0x{kind.name}", kind=kind, reason=""))
        session.flush()
        assert faulty_owners(session) == {"0xMISMATCH"}


def submissions(database: Database) -> None:
    with database.session() as session:
        for task in tasks_of(session, 1):
            commitment = Commitment(JobId(1), TaskIndex(task.index), NODE, *[ZERO] * 3, 1, raw_cid(b"r"), 1)
            task.submission = encode(SubmitCommitment(commitment, Signature(bytes(65)), ()))
            task.promised_until = NOW + RECEIPT_MARGIN_S + 1


def form(database: Database, at: float = NOW, batch_tasks: int = 32) -> int:
    with database.session() as session:
        return len(form_batches(session, at, batch_tasks=batch_tasks))


def states_of(database: Database) -> list[str]:
    with database.session() as session:
        return [task.state for task in tasks_of(session, 1)]


def set_state(database: Database, index: int, state: TaskState) -> None:
    with database.session() as session:
        tasks_of(session, 1)[index].state = state


def test_a_batch_waits_while_other_tasks_can_still_go_on(database: Database) -> None:
    add_job(database, [(), (), (0, 1)], [TaskState.COMMITTED, TaskState.ASSIGNED, TaskState.WAITING])
    submissions(database)
    assert form(database) == 0
    set_state(database, 1, TaskState.COMMITTED)
    assert (form(database), form(database)) == (1, 0)
    assert states_of(database) == ["judging", "judging", "waiting"]
    with database.session() as session:
        batch = session.exec(select(Batch)).one()
        assert session.exec(select(Line)).one() == Line(batch=batch.id, job=1, units=2)
        assert len(members_of(batch)) == 2


def test_a_batch_is_made_as_soon_as_there_is_enough_for_one(database: Database) -> None:
    add_job(database, [()] * 6, [TaskState.COMMITTED] * 5 + [TaskState.READY])
    submissions(database)
    assert form(database, batch_tasks=5) == 1
    set_state(database, 5, TaskState.COMMITTED)
    assert form(database, batch_tasks=2) == 1


def test_a_receipt_that_falls_due_is_honoured_before_the_other_tasks_are_done(database: Database) -> None:
    add_job(database, [(), ()], [TaskState.COMMITTED, TaskState.ASSIGNED])
    submissions(database)
    assert form(database) == 0
    assert form(database, NOW + 2) == 1
    assert states_of(database) == ["judging", "assigned"]


@pytest.mark.parametrize("reason", [JobState.FAILED, JobState.DONE])
def test_what_was_promised_is_committed_whatever_becomes_of_the_job(database: Database, reason: JobState) -> None:
    add_job(database, [(), ()], [TaskState.COMMITTED, TaskState.READY])
    submissions(database)
    with database.session() as session:
        job = session.get(Job, 1)
        assert job is not None
        job.state = reason
    assert form(database) == 1


def test_what_was_in_a_batch_that_came_to_nothing_is_done_again(database: Database) -> None:
    add_job(database, [(), ()], [TaskState.JUDGING, TaskState.VALID])
    add_batches(database, BatchState.COMMITTED)
    with database.session() as session:
        for task in tasks_of(session, 1):
            task.batch = 1
        batch = session.get(Batch, 1)
        assert batch is not None
        give_up(session, batch, "nobody settled it in time")
        assert (batch.state, batch.final) == (BatchState.DROPPED, True)
    assert states_of(database) == ["ready", "valid"]


def active(number: int) -> NodeRecord:
    return NodeRecord(
        *(OperatorId(number), Role.NODE, True, Address(f"0x{number}"), Address(f"0xOwner{number}"), Wei(1)),
        consecutive_valid=0,
        last_fault=0,
        workloads=1,
        endpoint="",
    )


def handed_back(database: Database, numbers: Iterable[int], nodes: int) -> Job:
    """A job whose task nodes handed back, in a network of so many."""
    with database.session() as session:
        task = tasks_of(session, 1)[0]
        for number in numbers:
            task.state, task.node, task.owner = TaskState.ASSIGNED, f"0x{number}", f"0xOwner{number}"
            hand_back(session, task, "out of memory")
        job = session.get(Job, 1)
        assert job is not None
        fail_hopeless(session, job, tasks_of(session, 1), [active(number) for number in range(nodes)])
        return job


def test_a_job_fails_with_its_reason_only_when_nobody_on_chain_is_left_who_could_do_a_task(database: Database) -> None:
    """Whoever is away now may come back: neither an empty room nor one node's refusal ends a healthy job."""
    add_job(database, [()], [TaskState.READY])
    assert handed_back(database, [], nodes=0).state == JobState.RUNNING
    assert handed_back(database, [0], nodes=2).state == JobState.RUNNING
    assert handed_back(database, [0], nodes=0).state == JobState.RUNNING
    failed = handed_back(database, [1], nodes=2)
    assert failed.state == JobState.FAILED and "out of memory" in failed.reason


def test_a_task_that_nodes_of_many_owners_cannot_finish_is_not_tried_for_ever(database: Database) -> None:
    add_job(database, [()], [TaskState.READY])
    assert handed_back(database, range(MAX_REFUSERS - 1), nodes=100).state == JobState.RUNNING
    assert handed_back(database, [MAX_REFUSERS], nodes=100).state == JobState.FAILED


def test_a_database_of_another_version_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    with Database(url).session() as session:
        schema = session.get(Schema, 1)
        assert schema is not None
        schema.version = 1
    with pytest.raises(DatabaseError, match="version 1"):
        Database(url)


def test_an_unusable_database_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="data_dir or database_url"):
        Database(f"sqlite:///{tmp_path / 'missing' / 'verifier.db'}")
