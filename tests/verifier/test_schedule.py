from pathlib import Path

import pytest
from sqlmodel import select

from proofyard.chain import NodeRecord, Role
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.codec import encode
from proofyard.protocol.dial import affordable_reward, audit_odds
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.settlement import FaultReason, OperatorId
from proofyard.protocol.types import Address, TaskIndex, Wei
from proofyard.verifier.batches import RECEIPT_MARGIN_S, form_batches
from proofyard.verifier.database import (
    Batch,
    BatchState,
    Database,
    DatabaseError,
    Fault,
    Job,
    JobState,
    Log,
    Task,
    TaskState,
    tasks_of,
)
from proofyard.verifier.exposure import BEGUN, objection, rewards_in_flight
from proofyard.verifier.schedule import faulty_nodes, inputs_of, preferred, promote, release_lapsed

NOW = 1_800_000_000.0


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
    assert not takes(node("0xO", 1000, 100), 4000, 0, six)
    assert takes(node("0xO", 1000, 100), 4000, 0, {f"0x{n}" for n in range(3 * drawn)})


def test_what_is_in_flight_counts_the_owner_until_its_batch_is_settled(database: Database) -> None:
    states = [TaskState.ASSIGNED, TaskState.COMMITTED, TaskState.JUDGING, TaskState.VALID, TaskState.VALID]
    add_job(database, [()] * 5, states)
    with database.session() as session:
        for number, state in ((1, BatchState.AUDITING), (2, BatchState.SETTLED)):
            session.add(Batch(id=number, job=1, state=state, root=b"", members=b""))
        for task, batch, owner in zip(tasks_of(session, 1), (None, None, 1, 1, 2), "OOOOO", strict=True):
            task.owner, task.batch, task.reward = owner, batch, str(10**task.index)
        session.flush()
        assert rewards_in_flight(session) == {"O": 1110}
        assert rewards_in_flight(session, BEGUN) == {"O": 1111}


def test_a_fault_that_costs_no_stake_shuts_nobody_out(database: Database) -> None:
    add_job(database, [()], [TaskState.JUDGING])
    with database.session() as session:
        session.add(Batch(id=1, job=1, root=b"", members=b""))
        session.flush()
        for task, kind in enumerate((FaultReason.DISAGREED, FaultReason.MISMATCH)):
            session.add(Fault(batch=1, task=task, node=f"0x{kind.name}", kind=kind, reason=""))
        session.flush()
        assert faulty_nodes(session) == {"0xMISMATCH"}


def test_a_batch_waits_while_other_tasks_can_still_go_on(database: Database) -> None:
    add_job(database, [(), (), (0, 1)], [TaskState.COMMITTED, TaskState.ASSIGNED, TaskState.WAITING])
    with database.session() as session:
        for task in tasks_of(session, 1):
            task.promised_until = NOW + RECEIPT_MARGIN_S + 1
        assert form_batches(session, NOW) == []
        tasks_of(session, 1)[1].state = TaskState.COMMITTED
        assert len(form_batches(session, NOW)) == 1
        assert form_batches(session, NOW) == []
        assert [task.state for task in tasks_of(session, 1)] == [
            TaskState.JUDGING,
            TaskState.JUDGING,
            TaskState.WAITING,
        ]
        assert session.exec(select(Batch)).one().job == 1


def test_a_receipt_that_falls_due_is_honoured_before_the_other_tasks_are_done(database: Database) -> None:
    add_job(database, [(), ()], [TaskState.COMMITTED, TaskState.ASSIGNED])
    with database.session() as session:
        tasks_of(session, 1)[0].promised_until = NOW + RECEIPT_MARGIN_S
        assert form_batches(session, NOW) == []
        assert len(form_batches(session, NOW + 1)) == 1
        assert [task.state for task in tasks_of(session, 1)] == [TaskState.JUDGING, TaskState.ASSIGNED]


def test_an_unusable_database_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="data_dir or database_url"):
        Database(f"sqlite:///{tmp_path / 'missing' / 'verifier.db'}")
