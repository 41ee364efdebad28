"""Decoys and what else only shows once a batch is judged: answers that others were shown, jobs that are other ones."""

from dataclasses import replace

from engine_network import Network, address, digest
from enginetown import Town, rounds
from enginetown import address as person

from proofyard.protocol.codec import encode
from proofyard.protocol.messages import SealOpened
from proofyard.protocol.seal import Opening, seal_of
from proofyard.protocol.types import Address, JobId, Signature, TaskIndex
from proofyard.verifier.engine import effects, events, tasks
from proofyard.verifier.engine.decoys import decoys_of, is_ordered
from proofyard.verifier.engine.rows import BatchState, Job, SeatState, WorkState
from proofyard.verifier.engine.world import Rules, place_of


class Leaving(Network):
    """Co-signers refuse each record once, because they were shown an answer that it lacks."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, nodes=7)
        self.shown: dict[int, events.Place] = {}

    def _do_Settle(self, effect: effects.Settle) -> None:
        rows = self.engine.world.rows
        segment = next(iter(rows.segments_of[effect.batch]), None)
        if segment is None or effect.batch in self.shown:
            super()._do_Settle(effect)
            return
        place, batch = place_of(segment), rows.batches[effect.batch]
        self.shown[effect.batch] = place
        auditor = next(a for a in segment.auditors if a not in rows.seats[effect.batch, place])
        opening = Opening(segment.claimed, digest("keyed", batch.seed, auditor), "", bytes(32))
        opened = SealOpened(opening.after, opening.keyed, opening.reason, opening.salt)
        seal, signature = seal_of(opening, auditor), Signature(bytes(65))
        answer = events.Shown(place, auditor, batch.seed, seal, signature, encode(opened))
        stranger = replace(answer, auditor=Address("0x" + "9" * 40))
        # The plan's next auditor answered when the batch was drawn for the first time, in a block that is gone.
        third = next(a for a in segment.auditors if a not in (auditor, *rows.seats[effect.batch, place]))
        gone = replace(answer, auditor=third, seed=digest("seed", "gone"))
        self.later(events.LooksDue(effect.batch, redraw=False, shown=(answer, answer, stranger, gone)))


def test_an_answer_that_others_were_shown_goes_into_the_record() -> None:
    network = Leaving(3)
    network.run(600)
    assert network.shown
    seats = network.engine.world.rows.seats
    for at in network.shown.items():
        opened = [seat for seat in seats[at].values() if seat.state == SeatState.OPENED]
        assert len(opened) == 3, "two who were asked, and one who hid from its leader"


def job(**changes: object) -> Job:
    values = {"id": JobId(1), "manifest": "m", "requester": person(9), "opened_block": 1, "opened_hash": b""}
    terms = {"units": 1, "reward": "1", "audit_fee": "1", "verifier_fee": "1", "deadline": 1, "workload": 0}
    return Job(**(values | terms | {"auditors_per_segment": 2, "segments_per_audit": 1} | changes))  # type: ignore[arg-type]


def test_decoys_are_ordered_at_their_share_by_a_secret_draw_and_for_exact_work_alone() -> None:
    rules, others = Rules(own=1, decoys_bps=1000, secret=b"a"), Rules(own=1, decoys_bps=1000, secret=b"b")
    drawn = [is_ordered(rules, job(), task, 1, address(1)) for task in range(5000)]
    assert 400 < sum(drawn) < 600
    assert drawn == [is_ordered(rules, job(), task, 1, address(1)) for task in range(5000)]
    assert drawn != [is_ordered(others, job(), task, 1, address(1)) for task in range(5000)]
    assert not any(is_ordered(rules, job(exact=False), task, 1, address(1)) for task in range(500))
    assert not any(is_ordered(Rules(own=1, secret=b"a"), job(), task, 1, address(1)) for task in range(500))


def test_a_decoy_comes_first_and_a_receipt_that_falls_due_is_honoured_beside_it() -> None:
    network = Network(1, decoys=10_000, nodes=7, rounds=1)
    rows = network.engine.world.rows
    network.run_to(
        lambda: any(batch.state == BatchState.COMMITTED for batch in network.engine.world.rows.batches.values())
    )
    rows = network.engine.world.rows
    batch = next(iter(rows.batches.values()))
    work = rows.decoys_in[batch.id][0]
    assert (work.job, work.task) in decoys_of(batch)
    assert (work.state, work.batch, work.decoy) == (WorkState.COMMITTED, 0, True)
    world = network.engine.world
    due = events.Now(float(work.promised_until), network.mono, network.chain.head.number)
    tasks.wake(world, ("due", work.job, work.task, work.attempt), due)
    assert not work.decoy
    assert work in tasks.to_batch(world)


def test_a_batch_with_work_for_what_a_job_was_is_given_up_and_the_rest_of_it_goes_on() -> None:
    town = Town([(n, n + 1, 2) for n in range(6)])
    for one in town.people.values():
        town.join(one)
    for number in (1, 2):
        town.open(number, rounds(2, 1))
    town.run_all()
    for one in town.people.values():
        for key in [key for key in one.at if key[1] == 0]:
            town.finish(one, key)
    town.tick(6.0)
    formed = [batch for batch in town.world.rows.batches.values() if batch.state == BatchState.FORMED]
    both = next(batch for batch in formed if len(batch.lines) == 2)
    town.effects = [effect for effect in town.effects if not isinstance(effect, effects.CommitBatch)]
    town.chain(town.opened(1, rounds(1, 2)))
    assert both.state == BatchState.DROPPED
    town.tick(6.0)
    again = [batch for batch in town.world.rows.batches.values() if batch.state == BatchState.FORMED]
    assert [batch.lines for batch in again] == [((JobId(2), 1),)]
    assert town.world.rows.works[JobId(2), TaskIndex(0), 1].batch == again[0].id
    town.check_restart()
