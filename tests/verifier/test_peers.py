"""What is sent to nodes, and what their answers, or none, come to for the engine."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulated import Counting
from stage import FakeChain, join, make_verifier, record_of

from proofyard.artifacts import cid_of_bytes
from proofyard.chain import Wallet
from proofyard.protocol.cid import cid_digest, raw_cid
from proofyard.protocol.codec import encode
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.manifest import Manifest, encode_manifest
from proofyard.protocol.members import Member, encode_members, members_root
from proofyard.protocol.messages import (
    Ack,
    Acks,
    AuditOffers,
    CancelTasks,
    OpenSeals,
    SealOpened,
    SealsOpened,
    TaskOffers,
)
from proofyard.protocol.seal import Opening
from proofyard.protocol.types import Address, BatchId, Digest, JobId, SegmentIndex, Signature, TaskIndex
from proofyard.transport import RequestFailed
from proofyard.verifier import peers
from proofyard.verifier.engine import effects
from proofyard.verifier.engine.events import AuditAnswered, NodeJoined, SealAnswered, TaskAnswered
from proofyard.verifier.engine.machine import Engine
from proofyard.verifier.engine.rows import Batch, BatchState, Job, Row, Segment, Task

TASKS = 150
ZERO, SEED = Digest(bytes(32)), Digest(b"s" * 32)
JOB = JobId(1)
WORKER = Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")


class Peer:
    """A node that answers as it is told; `say` gives the answers to a message, or raises."""

    def __init__(self) -> None:
        self.wallet = Wallet.generate()
        self.peer, self.remote, self.closed = self.wallet.address, ("127.0.0.1", 1), asyncio.Event()
        self.subnet = "127.0.0.1:1"
        self.asked: list[Any] = []
        self.say: Any = lambda message: Acks((Ack(),) * len(message.offers))

    async def request(self, message: Any, *, reply: type, timeout: float) -> Any:
        self.asked.append(message)
        return self.say(message)


class Office:
    """A verifier whose engine has a job and an audited batch of it; what it would be told is kept."""

    def __init__(self, folder: Path) -> None:
        chain = FakeChain()
        self.verifier = make_verifier(chain, folder, workload=Counting(TASKS))
        self.context = self.verifier.context
        manifest = self.context.store.put_bytes(encode_manifest(Manifest(workload="lora", params={})))
        specs = Counting(TASKS).graph(Manifest(workload="lora", params={}))
        trace = tuple(cid_of_bytes(b"%d" % number) for number in range(5))
        fields = (JOB, TaskIndex(0), WORKER, cid_digest(manifest), ZERO, ZERO, 4, raw_cid(b"r"), 1, ZERO)
        members = [Member(Commitment(*fields), Signature(bytes(65)), trace)]
        self.before = trace
        terms: dict[str, Any] = {"requester": WORKER, "opened_block": 1, "opened_hash": b"", "units": TASKS}
        pay: dict[str, Any] = {"reward": "1", "audit_fee": "1", "verifier_fee": "1", "deadline": 2**40}
        more: dict[str, Any] = {"auditors_per_segment": 2, "segments_per_audit": 1, "workload": 0}
        batch = Batch(id=1, state=BatchState.AUDITING, root=members_root(members), members=b"", lines=((JOB, 1),))
        batch.members, batch.chain_id, batch.seed = encode_members(members), BatchId(7), SEED
        rows: list[Row] = [Job(id=JOB, manifest=manifest, **terms, **pay, **more), batch]
        rows += [Task(job=JOB, index=spec.index, spec=encode(spec), reward="1") for spec in specs]
        place: dict[str, Any] = {"batch": 1, "job": JOB, "task": TaskIndex(0)}
        for index in range(4):
            rows.append(Segment(**place, index=index, auditors=(), seats=2, claimed=ZERO, worker=WORKER))
        self.context.runner.engine = Engine(self.context.runner.rules, rows)
        self.node = Peer()
        join(self.verifier, self.node, record_of(chain.add_node(self.node.wallet)))

    def told(self) -> list[Any]:
        events = [event for item in self.context.runner._items for event in item.events]
        return [event for event in events if not isinstance(event, NodeJoined)]

    def offer(self, *tasks: int) -> effects.OfferTasks:
        return effects.OfferTasks(self.node.peer, tuple(((JOB, TaskIndex(task)), 1, (), ()) for task in tasks))

    def places(self, count: int) -> tuple[Any, ...]:
        return tuple((JOB, TaskIndex(0), SegmentIndex(index)) for index in range(count))


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    yield made
    made.context.database.close()


async def test_all_tasks_for_a_node_go_in_messages_that_it_can_take(office: Office) -> None:
    await peers.offer_tasks(office.context, office.offer(*range(TASKS)))
    sizes = [len(message.offers) for message in office.node.asked if isinstance(message, TaskOffers)]
    assert sizes == [peers.AT_ONCE, peers.AT_ONCE, TASKS - 2 * peers.AT_ONCE]
    assert [event.key[1] for event in office.told()] == list(range(TASKS))
    assert all(event.taken for event in office.told())


async def test_each_offer_has_an_answer_of_its_own(office: Office) -> None:
    """Who is busy has not declined."""
    answers = (Ack(), Ack(False, "busy with other tasks"), Ack(False, "too little memory"))
    office.node.say = lambda _: Acks(answers)
    await peers.offer_tasks(office.context, office.offer(0, 1, 2))
    found = [(event.taken, event.declined, event.reason) for event in office.told()]
    assert found == [(True, False, ""), (False, False, answers[1].reason), (False, True, answers[2].reason)]


@pytest.mark.parametrize("count", [0, 2, 4])
async def test_another_number_of_answers_answers_nothing(office: Office, count: int) -> None:
    """A node that gives three tasks two answers has said nothing of any of them."""
    office.node.say = lambda _: Acks((Ack(),) * count)
    await peers.offer_tasks(office.context, office.offer(0, 1, 2))
    await peers.offer_audits(office.context, effects.OfferAudits(office.node.peer, 1, office.places(3), SEED))
    assert len(office.told()) == 6 and not any(event.taken for event in office.told())


def no_answer(_: Any) -> Any:
    raise RequestFailed("deadline", "no answer")


@pytest.mark.parametrize("away", [False, True])
async def test_no_answer_is_no_refusal(office: Office, away: bool) -> None:
    """Whoever is silent, or gone, has not declined and sealed nothing."""
    office.node.say = no_answer
    if away:
        office.verifier.desk.left(office.node)  # type: ignore[arg-type]
        office.context.runner._items.clear()
    await peers.offer_tasks(office.context, office.offer(0))
    await peers.offer_audits(office.context, effects.OfferAudits(office.node.peer, 1, office.places(1), SEED))
    await peers.open_seals(office.context, effects.OpenSeals(office.node.peer, 1, office.places(1)))
    await peers.cancel_tasks(office.context, effects.CancelTasks(office.node.peer, ((JOB, TaskIndex(0)),), "done"))
    task, audit, seal = office.told()
    assert isinstance(task, TaskAnswered) and not (task.taken or task.declined)
    assert isinstance(audit, AuditAnswered) and not (audit.taken or audit.busy)
    assert isinstance(seal, SealAnswered) and seal.opening is None
    assert len(office.node.asked) == (0 if away else 4)


async def test_an_audit_offer_names_the_state_before_and_never_the_one_after(office: Office) -> None:
    """Nobody knows the task but by the batch's member list."""
    office.context.rows.tasks.clear()
    await peers.offer_audits(office.context, effects.OfferAudits(office.node.peer, 1, office.places(4), SEED))
    (message,) = office.node.asked
    assert isinstance(message, AuditOffers)
    assert [offer.before for offer in message.offers] == list(office.before[:4])
    assert all((offer.batch, offer.seed) == (7, SEED) for offer in message.offers)
    assert all(event.taken and event.batch == 7 for event in office.told())


async def test_what_was_to_be_offered_of_another_draw_is_not(office: Office) -> None:
    """Nor is anything said of a seat in this one."""
    old = Digest(b"o" * 32)
    await peers.offer_audits(office.context, effects.OfferAudits(office.node.peer, 1, office.places(4), old))
    assert not office.node.asked and not office.told()


@pytest.mark.parametrize(("hurries", "seconds"), [(True, 3), (False, 300)])
async def test_an_answer_is_wanted_later_where_nobody_waits_for_it(office: Office, hurries: bool, seconds: int) -> None:
    await peers.offer_audits(office.context, effects.OfferAudits(office.node.peer, 1, office.places(1), SEED, hurries))
    (message,) = office.node.asked
    assert isinstance(message, AuditOffers)
    assert [offer.wanted_s for offer in message.offers] == [seconds]


async def test_seals_are_opened_one_by_one(office: Office) -> None:
    opened = SealOpened(ZERO, ZERO, "", bytes(32))
    office.node.say = lambda _: SealsOpened((opened, None))
    await peers.open_seals(office.context, effects.OpenSeals(office.node.peer, 1, office.places(2)))
    assert [event.opening for event in office.told()] == [Opening(ZERO, ZERO, "", bytes(32)), None]
    (message,) = office.node.asked
    assert isinstance(message, OpenSeals) and [seal.segment for seal in message.seals] == [0, 1]


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_another_number_of_seals_opens_none(office: Office, count: int) -> None:
    """Which of them is meant nobody can say."""
    office.node.say = lambda _: SealsOpened((SealOpened(ZERO, ZERO, "", bytes(32)),) * count)
    await peers.open_seals(office.context, effects.OpenSeals(office.node.peer, 1, office.places(2)))
    assert [event.opening for event in office.told()] == [None, None]


async def test_what_is_no_more_is_not_offered_and_holds_up_nothing(office: Office) -> None:
    """Rows may go between the decision and the message."""
    del office.context.rows.tasks[JOB, TaskIndex(1)]
    del office.context.rows.segments[1, office.places(2)[1]]
    await peers.offer_tasks(office.context, office.offer(0, 1, 2))
    await peers.offer_audits(office.context, effects.OfferAudits(office.node.peer, 1, office.places(3), SEED))
    await peers.offer_audits(office.context, effects.OfferAudits(office.node.peer, 99, office.places(3), SEED))
    first, second = office.node.asked
    assert [offer.task.index for offer in first.offers] == [0, 2]
    assert [offer.segment for offer in second.offers] == [0, 2]
    assert len(office.told()) == 4


async def test_who_is_called_off_hears_why(office: Office) -> None:
    office.node.say = lambda message: Acks((Ack(),) * len(message.tasks))
    keys = tuple((JOB, TaskIndex(task)) for task in range(3))
    await peers.cancel_tasks(office.context, effects.CancelTasks(office.node.peer, keys, "the job has failed"))
    (message,) = office.node.asked
    assert message == CancelTasks(keys, "the job has failed")
    assert office.told() == []
