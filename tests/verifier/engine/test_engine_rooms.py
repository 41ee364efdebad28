"""Who has room for audits: what an auditor said of a seat, or did not, and what becomes of the segment meanwhile."""

import pytest
from enginetown import address
from test_engine_batches import JOB, ZERO, Desk, draw, taken_over

from proofyard.protocol.audit import Verdict
from proofyard.protocol.seal import Opening, seal_of
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.types import Address, BatchId, Digest, JobId, SegmentIndex, Signature, TaskIndex, Wei
from proofyard.verifier.engine import audits
from proofyard.verifier.engine.blame import jobs_of_timer
from proofyard.verifier.engine.effects import WeighAnswers
from proofyard.verifier.engine.events import (
    AnswersWeighed,
    AuditAnswered,
    AuditGivenUp,
    AuditProgressed,
    AuditSealed,
    NodeJoined,
    RolledBack,
    SealAnswered,
    StateLooked,
)
from proofyard.verifier.engine.rows import Batch, BatchState, SeatState
from proofyard.verifier.engine.seating import AWAY_AFTER, backoff
from proofyard.verifier.engine.world import Rows

PLACE, OTHER = (JOB, TaskIndex(0), SegmentIndex(0)), (JOB, TaskIndex(1), SegmentIndex(0))
OLD, SEED = Digest(b"a" * 32), Digest(b"b" * 32)
LEASE_S = 60.0
A, B, C = (address(number) for number in (2, 3, 4))


def drawn(seed: Digest = SEED, auditors: tuple[Address, ...] = (A, B)) -> tuple[Desk, Batch, audits.Memory]:
    """A batch whose segment its auditors are asked for."""
    here, batch = taken_over(Desk([], lease_s=LEASE_S))
    here.tell(NodeJoined(C, C, 1, Wei(1), 0, frozenset({"lora"}), 1, 1))
    draw(here, batch, seed, [PLACE], auditors)
    here.tell(StateLooked(batch.id, PLACE))
    return here, batch, here.engine.world.memory(audits.Memory)


def draw_again(here: Desk, batch: Batch, seed: Digest, auditors: tuple[Address, ...], place=PLACE) -> None:
    here.tell(RolledBack(10))
    draw(here, batch, seed, [place], auditors)
    here.tell(StateLooked(batch.id, place))


def opened_without_the_first() -> tuple[Desk, Batch, audits.Memory, WeighAnswers]:
    """Two have sealed and shown their answers, which are being weighed; the first one, away so long, is at work."""
    here, batch, memory = drawn(auditors=(A, B, C))
    of_place, seats = (BatchId(7), PLACE, SEED), here.engine.world.rows.seats[batch.id, PLACE]
    for _ in range(AWAY_AFTER):
        assert seats[A].state == SeatState.WORKING
        here.tell(AuditAnswered(A, *of_place, taken=False))
        here.wait(1 + backoff(seats[A].tries) * (seats[A].tries < AWAY_AFTER))
    answers = {auditor: Opening(ZERO, ZERO, "", bytes(32)) for auditor in (B, C)}
    for auditor, opening in answers.items():
        here.tell(AuditSealed(auditor, *of_place, seal_of(opening, auditor), Signature(bytes(65))))
    assert not here.tell(AuditProgressed(A, *of_place)), "it is at work after all"
    for auditor, opening in answers.items():
        here.tell(SealAnswered(auditor, *of_place, opening))
    (weigh,) = [effect for effect in here.wanted if isinstance(effect, WeighAnswers)]
    return here, batch, memory, weigh


def weighed(weigh: WeighAnswers) -> AnswersWeighed:
    return AnswersWeighed(weigh.batch, weigh.place, weigh.seed, ((B, ZERO), (C, ZERO)), frozenset())


def test_what_is_said_of_a_seat_in_a_draw_that_is_gone_says_nothing_of_the_one_in_this() -> None:
    here, batch, _ = drawn(OLD)
    draw_again(here, batch, SEED, (A, B))
    seat, of_old = here.engine.world.rows.seats[batch.id, PLACE][A], (A, BatchId(7), PLACE, OLD)
    assert seat.state == SeatState.WORKING
    here.tell(AuditGivenUp(*of_old, "its batch was drawn anew"))
    here.tell(AuditAnswered(*of_old, taken=False, busy=True))
    assert here.tell(AuditProgressed(*of_old)) == audits.ANOTHER_DRAW, "it can stop"
    assert here.tell(AuditSealed(*of_old, ZERO, Signature(bytes(65)))) == audits.ANOTHER_DRAW
    assert seat.state == SeatState.WORKING
    assert not here.tell(AuditProgressed(A, BatchId(7), PLACE, SEED))
    here.tell(AuditGivenUp(A, BatchId(7), PLACE, SEED, "out of memory"))
    assert seat.state == SeatState.AWAY


@pytest.mark.parametrize("speaks", [True, False])
def test_whoever_is_at_work_on_what_others_have_decided_has_room_again(speaks: bool) -> None:
    """It stops once it is told that nobody waits for it, and says nothing more; or it has gone."""
    here, batch, memory, weigh = opened_without_the_first()
    here.tell(weighed(weigh))
    assert here.engine.world.rows.segments[batch.id, PLACE].verdict == Verdict.VALID and memory.working[A]
    if speaks:
        assert here.tell(AuditProgressed(A, BatchId(7), PLACE, SEED)) == audits.NOT_YOURS
    else:
        here.wait(LEASE_S + 1)
    assert not memory.working[A]


def test_a_lease_that_ends_while_answers_are_weighed_ends() -> None:
    here, _, memory, weigh = opened_without_the_first()
    here.wait(LEASE_S + 5)
    here.tell(weighed(weigh))
    assert not memory.working[A] and not memory.leases


def test_whoever_is_not_on_the_new_list_of_a_draw_has_room_again() -> None:
    here, batch, memory = drawn(auditors=(A, B))
    draw_again(here, batch, SEED, (B, C))
    here.wait(3 * LEASE_S)
    assert not memory.working[A]


def test_auditors_of_a_batch_whose_draw_went_with_a_block_have_room_once_their_leases_are_over() -> None:
    here, batch, memory = drawn()
    here.tell(RolledBack(10))
    here.wait(LEASE_S + 1)
    assert batch.state == BatchState.COMMITTED and not any(memory.working.values()) and not memory.leases


def test_a_lease_that_was_renewed_lasts_as_long_as_that_says() -> None:
    here, _, memory = drawn()
    here.wait(LEASE_S - 10)
    here.tell(AuditProgressed(A, BatchId(7), PLACE, SEED))
    here.tell(RolledBack(10))
    here.wait(LEASE_S - 5)
    assert memory.working[A] and not memory.working[B]
    here.wait(10)
    assert not memory.working[A]


def test_who_was_away_rests_only_where_an_answer_is_waited_for() -> None:
    here, batch, memory = drawn()
    here.tell(AuditGivenUp(A, BatchId(7), PLACE, SEED, "out of memory"))
    assert memory.rests
    segment = here.engine.world.rows.segments[batch.id, PLACE]
    audits._refuse(here.engine.world, segment, FaultReason.WITHHELD, "not delivered", here.now)
    assert not memory.rests
    here.tell(AuditGivenUp(B, BatchId(7), PLACE, SEED, "out of memory"))
    assert not memory.rests


@pytest.mark.parametrize("seed", [OLD, SEED])
def test_nothing_stays_of_what_is_not_drawn_again(seed: Digest) -> None:
    here, batch, memory = drawn(OLD)
    here.tell(RolledBack(10))
    here.tell(AuditGivenUp(A, BatchId(7), PLACE, OLD, "it has gone"))
    draw_again(here, batch, seed, (A, B), OTHER)
    rows = here.engine.world.rows
    assert {at for at in rows.seats if rows.seats[at]} == {(batch.id, OTHER)} and (batch.id, PLACE) not in rows.seats
    assert not [at for at, _ in memory.rests if at[1] == PLACE]
    _ = rows.works_of[batch.id], rows.decoys_in[batch.id]
    rows.forget_batch(batch)
    assert not rows.seats and not rows.works_of and not rows.decoys_in


def test_a_batch_that_is_not_drawn_yet_has_no_seats() -> None:
    here, _ = taken_over(Desk([], lease_s=LEASE_S))
    assert here.tell(AuditProgressed(A, BatchId(7), PLACE, SEED)) == audits.NOT_YOURS


def test_where_a_lease_ends_its_job_is_to_blame() -> None:
    at = (1, (JobId(3), TaskIndex(0), SegmentIndex(0)))
    assert jobs_of_timer(Rows(), ("audits", "lease", at, A)) == (3,)
