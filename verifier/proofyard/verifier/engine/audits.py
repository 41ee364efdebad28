"""Audited segments and their seats: who is asked next, whose seals are opened when, and what the answers come to.

Nobody is asked twice at once for one segment, and nobody is given more than it holds at a time: an auditor without room
leaves its segments waiting for it in a queue of their own, so one slow auditor holds up only what its answer decides.
Only segments to which something happened are looked at. The rules of one look are in `seating`.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from proofyard.protocol.audit import UNDECIDED_AFTER_S, Verdict, carried, is_late
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.findings import COPIED
from proofyard.protocol.messages import SealOpened
from proofyard.protocol.seal import CANNOT_EXECUTE, Opening, seal_of
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.types import Address, Digest
from proofyard.verifier.engine import batches, tasks
from proofyard.verifier.engine.effects import LookAtState, OfferAudits, OpenSeals, WeighAnswers
from proofyard.verifier.engine.events import (
    AnswersWeighed,
    AuditAnswered,
    AuditGivenUp,
    AuditProgressed,
    AuditSealed,
    DrawnSegment,
    EffectFailed,
    NodeJoined,
    NodeLeft,
    Now,
    Place,
    SealAnswered,
    Shown,
    StateLooked,
    TaskKey,
)
from proofyard.verifier.engine.rows import Batch, BatchState, Seat, SeatState, Segment
from proofyard.verifier.engine.seating import Chair, Patience, Step, backoff, next_step
from proofyard.verifier.engine.world import World, place_of

OfSeat = AuditAnswered | AuditProgressed | AuditGivenUp | AuditSealed | SealAnswered
"""What an auditor says of a seat."""
At = tuple[int, Place]
"""A segment: the row of its batch, and its place in it."""
NOT_YOURS = "the seat is not yours"
ANOTHER_DRAW = "the batch was drawn with another seed since; its audits are offered anew"


@dataclass
class _Round:
    """Seals that are being opened together: whose answer is waited for, and the answers so far."""

    awaited: set[Address]
    opened: dict[Address, SealOpened] = field(default_factory=dict)


@dataclass
class Memory:
    """What begins anew with a restart. Times by the monotonic clock."""

    dirty: dict[At, None] = field(default_factory=dict)
    """Segments to look at, oldest news first."""
    listed: defaultdict[Address, set[At]] = field(default_factory=lambda: defaultdict(set))
    """Undecided segments that name an auditor."""
    working: defaultdict[Address, set[At]] = field(default_factory=lambda: defaultdict(set))
    """Seats that an auditor works on."""
    queued: defaultdict[Address, dict[At, None]] = field(default_factory=lambda: defaultdict(dict))
    """Segments that wait until an auditor has room."""
    leases: dict[tuple[At, Address], float] = field(default_factory=dict)
    rests: dict[tuple[At, Address], float] = field(default_factory=dict)
    rounds: dict[At, _Round] = field(default_factory=dict)
    undecided: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    """Segments of a batch without a verdict."""


def create(world: World, batch: Batch, drawn: Iterable[DrawnSegment], decoys: Collection[TaskKey]) -> None:
    """The rows of a plan. Drawn again with more member lists, answers that were given stay where they are on a list."""
    planned = {segment.place: segment for segment in drawn}
    for old in list(world.rows.segments_of.get(batch.id, ())):
        if place_of(old) not in planned:
            _remove(world, old)
    for place, segment in planned.items():
        row = world.rows.segments.get((batch.id, place))
        if row is None:
            job, task, index = place
            world.rows.add(
                Segment(
                    batch=batch.id,
                    job=job,
                    task=task,
                    index=index,
                    auditors=segment.auditors,
                    seats=segment.seats,
                    claimed=segment.claimed,
                    worker=segment.worker,
                    workload=segment.workload,
                    exact=segment.exact,
                    decoy=(job, task) in decoys,
                    weigh=segment.weigh,
                )
            )
        elif row.auditors != segment.auditors:
            row.auditors = segment.auditors
            _open_again(world, row)


def clear(world: World, batch: Batch) -> None:
    """Another draw: nothing of the plan before it holds."""
    for segment in list(world.rows.segments_of.get(batch.id, ())):
        _remove(world, segment)


def _remove(world: World, segment: Segment) -> None:
    """It is drawn no more, and nobody has a seat at it."""
    at, rests = (segment.batch, place_of(segment)), world.memory(Memory).rests
    for seat in list(world.rows.seats.get(at, {}).values()):
        _rise(world, at, seat.auditor)
        rests.pop((at, seat.auditor), None)
        world.rows.delete(seat)
    world.done(LookAtState(*at).key)
    world.rows.delete(segment)


def begin(world: World, batch: Batch, now: Now) -> None:
    """Take up the audits of a batch where they are: its segments exist."""
    memory = world.memory(Memory)
    memory.undecided[batch.id] = 0
    for segment in world.rows.segments_of.get(batch.id, ()):
        if segment.verdict != Verdict.PENDING:
            continue
        memory.undecided[batch.id] += 1
        _take_up(world, memory, segment, now)
    for after in (UNDECIDED_AFTER_S, _last(world, batch) - batch.drawn_at):
        world.wake_at(now.mono + max(0.0, batch.drawn_at + after - now.chain) + 1.0, ("audits", "patience", batch.id))


def retake(world: World, batch: Batch, places: Iterable[Place], now: Now) -> None:
    """What was withheld from this verifier others have got: these segments are judged again."""
    memory = world.memory(Memory)
    for place in places:
        segment = world.rows.segments.get((batch.id, place))
        if segment is not None and segment.verdict != Verdict.PENDING:
            _open_again(world, segment)
            memory.undecided[batch.id] += 1
            _take_up(world, memory, segment, now)


def judge_again(world: World, batch: Batch) -> None:
    """No verdict of a batch counts any more, but what auditors answered and states that were found right; its draw,
    made again, begins with that."""
    for segment in world.rows.segments_of.get(batch.id, ()):
        looked = segment.looked
        _open_again(world, segment)
        segment.looked = looked


def mark_decoys(world: World, batch: Batch, decoys: Collection[TaskKey], now: Now) -> None:
    """These turn out to be decoys: what their auditors answered counts by another rule."""
    memory = world.memory(Memory)
    for segment in [each for each in world.rows.segments_of.get(batch.id, ()) if (each.job, each.task) in decoys]:
        segment.decoy = True
        world.rows.touch(segment)
        if segment.verdict != Verdict.PENDING and not segment.unvoted:
            _open_again(world, segment)
            memory.undecided[batch.id] += 1
            _take_up(world, memory, segment, now)


def is_news(world: World, batch: int, answer: Shown) -> bool:
    """Whether an answer that another verifier was shown is one that this one lacks."""
    segment = world.rows.segments.get((batch, answer.place))
    seat = world.rows.seats.get((batch, answer.place), {}).get(answer.auditor)
    wanted = segment is not None and not segment.unvoted and answer.auditor in segment.auditors
    wanted = wanted and world.rows.batches[batch].seed == answer.seed
    return wanted and (seat is None or seat.state != SeatState.OPENED)


def shown(world: World, batch: Batch, answers: Iterable[Shown], now: Now) -> None:
    """Take in answers that auditors signed and showed to others, as if they had been opened here."""
    memory, rounds = world.memory(Memory), defaultdict[At, dict[Address, SealOpened]](dict)
    for answer in answers:
        if not is_news(world, batch.id, answer):
            continue
        at = (batch.id, answer.place)
        seat = world.rows.seats[at].get(answer.auditor)
        if seat is None:
            job, task, index = answer.place
            seat = Seat(batch=batch.id, job=job, task=task, segment=index, auditor=answer.auditor)
            world.rows.add(seat)
        _rise(world, at, answer.auditor)
        seat.state, seat.seal, seat.signature = SeatState.SEALED, answer.seal, answer.signature
        world.rows.touch(seat)
        rounds[at][answer.auditor] = decode(answer.opening, SealOpened)
        text = "its answer came through another verifier"
        world.log(seat.job, now, "sealed", text, task=seat.task, node=answer.auditor)
    for at, opened in rounds.items():
        segment = world.rows.segments[at]
        if segment.verdict != Verdict.PENDING:
            _open_again(world, segment)
            memory.undecided[batch.id] += 1
            _take_up(world, memory, segment, now)
        memory.rounds[at] = _Round(set(), opened)
        _close_round(world, memory, at, segment, now)


def end(world: World, batch: Batch) -> None:
    """Nothing of a batch is audited any more."""
    memory = world.memory(Memory)
    for segment in world.rows.segments_of.get(batch.id, ()):
        _forget(world, memory, (batch.id, place_of(segment)), segment)
    memory.undecided.pop(batch.id, None)


def undecided(world: World, batch: Batch) -> int:
    """How many segments of a batch have no verdict."""
    return world.memory(Memory).undecided[batch.id]


def resume(world: World, now: Now) -> None:
    for batch in list(world.rows.batches.values()):
        world.about = tuple(job for job, _ in batch.lines)
        if batch.state == BatchState.AUDITING:
            begin(world, batch, now)


def wake(world: World, subject: tuple[object, ...], now: Now) -> None:
    memory = world.memory(Memory)
    match subject:
        case ("look", at):
            if at in world.rows.segments:
                memory.dirty[at] = None
        case ("lease", at, auditor):
            until = memory.leases.get((at, auditor))  # type: ignore[arg-type]
            if until is not None and until <= now.mono:
                _lapse(world, at, auditor, now)  # type: ignore[arg-type]
        case ("patience", batch):
            for segment in world.rows.segments_of.get(batch, ()):  # type: ignore[call-overload]
                if segment.verdict == Verdict.PENDING:
                    memory.dirty[segment.batch, place_of(segment)] = None


def effect_failed(world: World, event: EffectFailed, now: Now) -> None:
    """Looking at states ends in a fault or in none. One that this verifier fails at is left to the auditors; whether an
    answer was copied to the signers. Other weighing that fails is begun anew."""
    if event.key[0] == "LookAtState":
        state_looked(world, StateLooked(event.key[1], event.key[2]), now)  # type: ignore[arg-type]
    elif event.key[0] == "WeighAnswers":
        _, batch, place, seed, auditors = event.key
        segment = world.rows.segments.get((batch, place))  # type: ignore[arg-type]
        if segment is not None and world.rows.batches[segment.batch].seed != seed:
            return
        round_ = None if segment is None else world.memory(Memory).rounds.pop((segment.batch, place_of(segment)), None)
        if segment is None:
            return
        world.memory(Memory).dirty[segment.batch, place_of(segment)] = None
        for auditor in auditors:  # type: ignore[attr-defined]
            if event.own and segment.exact and round_ is not None and auditor in round_.opened:
                opening = round_.opened[auditor]
                _vote(world, segment, auditor, opening, opening.after, copied=False)
            else:
                _away(world, segment, auditor, now)


# Nodes


def joined(world: World, event: NodeJoined, now: Now) -> None:
    _look_at_all(world.memory(Memory), world.memory(Memory).listed[event.node])


def left(world: World, event: NodeLeft, now: Now) -> None:
    """Its leases run on: it may come back in time. Stand-ins may be needed where it was not seated."""
    _look_at_all(world.memory(Memory), world.memory(Memory).listed[event.node])


def _look_at_all(memory: Memory, places: Iterable[At]) -> None:
    memory.dirty.update(dict.fromkeys(places))


# What auditors and the shell say


def state_looked(world: World, event: StateLooked, now: Now) -> None:
    world.done(LookAtState(event.batch, event.place).key)
    segment = world.rows.segments.get((event.batch, event.place))
    if segment is None or segment.verdict != Verdict.PENDING:
        return
    if event.kind:
        _refuse(world, segment, event.kind, event.reason, now)
        return
    segment.looked = True
    world.rows.touch(segment)
    world.memory(Memory).dirty[event.batch, event.place] = None


def answered(world: World, event: AuditAnswered, now: Now) -> None:
    """Whether an auditor took an offer. One that is busy is asked again without it counting as a try."""
    found = _seat(world, event)
    if found is not None and not event.taken and found[1].state == SeatState.WORKING:
        _away(world, found[0], event.node, now, busy=event.busy)


def progressed(world: World, event: AuditProgressed, now: Now) -> None:
    found = _seat(world, event)
    if found is None:
        world.refusal = _why_not(world, event)
        return
    segment, seat = found
    if segment.verdict != Verdict.PENDING:
        # It stops once it is told.
        world.refusal = NOT_YOURS
        _rise(world, (segment.batch, place_of(segment)), seat.auditor)
        return
    if seat.state == SeatState.AWAY:
        # It fell silent and is at work after all: nobody else is needed.
        _work(world, segment, seat, now)
    elif seat.state == SeatState.WORKING:
        _lease(world, segment, seat.auditor, now)


def given_up(world: World, event: AuditGivenUp, now: Now) -> None:
    found = _seat(world, event)
    if found is not None and found[1].state == SeatState.WORKING:
        _away(world, found[0], event.node, now)


def sealed(world: World, event: AuditSealed, now: Now) -> None:
    found = _seat(world, event)
    if found is None:
        world.refusal = _why_not(world, event)
        return
    segment, seat = found
    if seat.state not in (SeatState.WORKING, SeatState.AWAY):
        return
    _rise(world, (segment.batch, place_of(segment)), seat.auditor)
    if segment.verdict != Verdict.PENDING:
        return
    seat.state, seat.seal, seat.signature = SeatState.SEALED, event.seal, event.signature
    world.rows.touch(seat)
    world.log(segment.job, now, "sealed", f"sealed its answer to {_name(segment)}", task=segment.task, node=event.node)
    world.memory(Memory).dirty[segment.batch, place_of(segment)] = None


def opened(world: World, event: SealAnswered, now: Now) -> None:
    """One seal of those that are opened together. An answer that does not fit its seal is none."""
    found, memory = _seat(world, event), world.memory(Memory)
    if found is None:
        return
    segment, seat = found
    at = (segment.batch, place_of(segment))
    round_ = memory.rounds.get(at)
    if round_ is None or event.node not in round_.awaited:
        return
    round_.awaited.discard(event.node)
    if event.opening is not None and seat.seal == seal_of(event.opening, event.node):
        round_.opened[event.node] = _raw(event.opening)
    else:
        _away(world, segment, event.node, now)
    if not round_.awaited:
        _close_round(world, memory, at, segment, now)


def weighed(world: World, event: AnswersWeighed, now: Now) -> None:
    segment, memory = world.rows.segments.get((event.batch, event.place)), world.memory(Memory)
    at = (event.batch, event.place)
    if segment is None or world.rows.batches[segment.batch].seed != event.seed:
        return
    round_ = memory.rounds.pop(at, None)
    if round_ is None:
        return
    world.done(_weigh(world, at, round_).key)
    if segment.verdict != Verdict.PENDING:
        return
    if event.withheld:
        _refuse(world, segment, FaultReason.WITHHELD, event.withheld, now)
        return
    answers = dict(event.answers)
    for auditor, opening in round_.opened.items():
        if auditor in answers:
            _vote(world, segment, auditor, opening, answers[auditor], copied=auditor in event.copied)
        else:
            _away(world, segment, auditor, now)
    memory.dirty[at] = None


# One look


def seat(world: World, now: Now) -> None:
    """Look at every segment to which something happened; send what follows, one message for each node and batch."""
    memory = world.memory(Memory)
    offers: defaultdict[tuple[Address, int], list[Place]] = defaultdict(list)
    opens: defaultdict[tuple[Address, int], list[Place]] = defaultdict(list)
    while memory.dirty:
        at = next(iter(memory.dirty))
        del memory.dirty[at]
        segment = world.rows.segments.get(at)
        world.about = () if segment is None else (segment.job,)
        if segment is None or segment.verdict != Verdict.PENDING or not segment.looked or at in memory.rounds:
            continue
        if not _is_audited(world, segment):
            continue
        step = _look(world, memory, segment, now)
        for auditor in step.seat:
            _seat_one(world, segment, auditor, now)
            offers[auditor, segment.batch].append(at[1])
        if step.open:
            memory.rounds[at] = _Round(set(step.open))
            for auditor in step.open:
                opens[auditor, segment.batch].append(at[1])
        if step.verdict != Verdict.PENDING:
            _decide(world, segment, step.verdict, now)
    for (auditor, batch), places in offers.items():
        row = world.rows.batches[batch]
        world.send(OfferAudits(auditor, batch, tuple(places), row.seed, _hurries(world, row)))
    for (auditor, batch), places in opens.items():
        world.send(OpenSeals(auditor, batch, tuple(places)))


def _hurries(world: World, batch: Batch) -> bool:
    """Whether somebody waits for a batch's verdicts: a job that can do nothing else, or many commitments' stakes."""
    many = len(world.rows.works_of[batch.id]) >= world.rules.few_tasks
    return many or any(tasks.blocked(world, job) for job, _ in batch.lines)


def _look(world: World, memory: Memory, segment: Segment, now: Now) -> Step:
    at = (segment.batch, place_of(segment))
    batch, seats = world.rows.batches[segment.batch], world.rows.seats.get(at, {})
    chairs = {a: _chair(memory, at, seat) for a, seat in seats.items() if a in segment.auditors}

    def there(auditor: Address) -> bool:
        node = world.nodes.get(auditor)
        return node is not None and segment.workload in node.workloads

    def has_room(auditor: Address) -> bool:
        free = len(memory.working[auditor]) < world.nodes[auditor].audits
        if not free:
            memory.queued[auditor][at] = None
        return free

    step = next_step(
        *(segment.auditors, chairs, segment.claimed, segment.seats),
        there=there,
        has_room=has_room,
        at=now.mono,
        patience=_patience(world, batch, now),
        decoy=segment.decoy,
    )
    votes = sum(chair.state == SeatState.OPENED for chair in chairs.values())
    if world.rules.blind and votes >= segment.seats:
        return Step(Verdict.VALID)
    for auditor, chair in chairs.items():
        if chair.state == SeatState.AWAY and chair.not_before > now.mono and auditor not in step.seat:
            world.wake_at(chair.not_before, ("audits", "look", at))
    return step


def _patience(world: World, batch: Batch, now: Now) -> Patience:
    if not is_late(batch.drawn_at, now.chain):
        return Patience.EARLY
    return Patience.LAST if now.chain > _last(world, batch) else Patience.OVERDUE


def _last(world: World, batch: Batch) -> float:
    """From when on a batch takes what verdicts there are, on the chain's clock."""
    return batch.opened_at + world.rules.settle_grace - world.rules.last_margin_s


def _chair(memory: Memory, at: At, seat: Seat) -> Chair:
    answer = seat.answer if seat.answer and not seat.copied else None
    return Chair(SeatState(seat.state), seat.tries, memory.rests.get((at, seat.auditor), 0.0), answer)


# Seats


def _seat_one(world: World, segment: Segment, auditor: Address, now: Now) -> None:
    seat = world.rows.seats[segment.batch, place_of(segment)].get(auditor)
    if seat is None:
        seat = Seat(batch=segment.batch, job=segment.job, task=segment.task, segment=segment.index, auditor=auditor)
        world.rows.add(seat)
    _work(world, segment, seat, now)
    text = f"audits {_name(segment)}"
    world.log(segment.job, now, "audit-assigned", text, task=segment.task, node=auditor)


def _work(world: World, segment: Segment, seat: Seat, now: Now) -> None:
    seat.state = SeatState.WORKING
    world.rows.touch(seat)
    world.memory(Memory).working[seat.auditor].add((segment.batch, place_of(segment)))
    _lease(world, segment, seat.auditor, now)


def _lease(world: World, segment: Segment, auditor: Address, now: Now) -> None:
    at, until = (segment.batch, place_of(segment)), now.mono + world.rules.lease_s
    world.memory(Memory).leases[at, auditor] = until
    world.wake_at(until + 0.01, ("audits", "lease", at, auditor))


def _lapse(world: World, at: At, auditor: Address, now: Now) -> None:
    """No word of an auditor until its lease was over: it has room again, and where its answer is waited for it is
    away."""
    segment, seat = world.rows.segments.get(at), world.rows.seats.get(at, {}).get(auditor)
    waited_for = segment is not None and segment.verdict == Verdict.PENDING and _is_audited(world, segment)
    if segment is None or not waited_for or seat is None or seat.state != SeatState.WORKING:
        _rise(world, at, auditor)
        return
    text = f"audit of {_name(segment)}: no word"
    world.log(segment.job, now, "lost", text, task=segment.task, node=auditor)
    _away(world, segment, auditor, now)


def _is_audited(world: World, segment: Segment) -> bool:
    return world.rows.batches[segment.batch].state == BatchState.AUDITING


def _away(world: World, segment: Segment, auditor: Address, now: Now, *, busy: bool = False) -> None:
    """An auditor gives no answer now. Being busy is no failure of it."""
    at, memory = (segment.batch, place_of(segment)), world.memory(Memory)
    seat = world.rows.seats[at][auditor]
    seat.state = SeatState.AWAY
    seat.tries += 0 if busy else 1
    world.rows.touch(seat)
    _rise(world, at, auditor)
    if segment.verdict == Verdict.PENDING:
        memory.rests[at, auditor] = now.mono + backoff(seat.tries)
        memory.dirty[at] = None


def _rise(world: World, at: At, auditor: Address) -> None:
    """An auditor does not work on a segment any more: whoever waits for its room is looked at, oldest first."""
    memory = world.memory(Memory)
    memory.leases.pop((at, auditor), None)
    if at not in memory.working[auditor]:
        return
    memory.working[auditor].discard(at)
    queue = memory.queued[auditor]
    if queue:
        first = next(iter(queue))
        del queue[first]
        memory.dirty[first] = None


def _close_round(world: World, memory: Memory, at: At, segment: Segment, now: Now) -> None:
    """All seals of a round are answered: the votes are written together."""
    round_ = memory.rounds[at]
    if not round_.opened or segment.verdict != Verdict.PENDING:
        del memory.rounds[at]
        memory.dirty[at] = None
        return
    if segment.weigh:
        world.want(_weigh(world, at, round_))
        return
    del memory.rounds[at]
    for auditor, opening in round_.opened.items():
        _vote(world, segment, auditor, opening, opening.after, copied=False)
    memory.dirty[at] = None


def _weigh(world: World, at: At, round_: _Round) -> WeighAnswers:
    openings = tuple((auditor, encode(opening)) for auditor, opening in round_.opened.items())
    return WeighAnswers(*at, seed=world.rows.batches[at[0]].seed, openings=openings)


def _raw(opening: Opening) -> SealOpened:
    return SealOpened(opening.after, opening.keyed, opening.reason, opening.salt)


def _vote(
    world: World, segment: Segment, auditor: Address, opening: SealOpened, answer: Digest, *, copied: bool
) -> None:
    seat = world.rows.seats[segment.batch, place_of(segment)][auditor]
    if seat.state != SeatState.SEALED:
        return
    seat.state, seat.opening, seat.answer, seat.copied = SeatState.OPENED, encode(opening), answer, copied
    world.rows.touch(seat)


# Verdicts


def _decide(world: World, segment: Segment, verdict: Verdict, now: Now) -> None:
    segment.verdict = verdict
    if verdict == Verdict.FAULT:
        segment.kind = FaultReason.MISMATCH if segment.exact else FaultReason.DISAGREED
        segment.reason = _reason(segment, world.rows.seats[segment.batch, place_of(segment)])
    _tell_votes(world, segment, now)
    _decided(world, segment, now)


def _tell_votes(world: World, segment: Segment, now: Now) -> None:
    """What each auditor said, in the job's log: not before the verdict, as whoever is still asked can read it."""
    for auditor, seat in world.rows.seats.get((segment.batch, place_of(segment)), {}).items():
        if seat.state != SeatState.OPENED:
            continue
        if seat.copied:
            kind, outcome = "audit-mismatch", COPIED
        elif seat.answer == segment.claimed:
            kind, outcome = "audit-match", "the same state"
        else:
            kind, outcome = "audit-mismatch", decode(seat.opening, SealOpened).reason or "another state"
        world.log(segment.job, now, kind, f"{_name(segment)}: {outcome}", task=segment.task, node=auditor)


def _refuse(world: World, segment: Segment, kind: int, reason: str, now: Now) -> None:
    """A segment whose state before it is at fault: nobody is seated."""
    segment.verdict, segment.kind, segment.reason, segment.unvoted = Verdict.FAULT, kind, reason, True
    _decided(world, segment, now)


def _decided(world: World, segment: Segment, now: Now) -> None:
    world.rows.touch(segment)
    memory = world.memory(Memory)
    _forget(world, memory, (segment.batch, place_of(segment)), segment)
    memory.undecided[segment.batch] -= 1
    batches.judged_maybe(world, world.rows.batches[segment.batch], now)


def _open_again(world: World, segment: Segment) -> None:
    segment.verdict, segment.kind, segment.reason, segment.unvoted = Verdict.PENDING, 0, "", False
    segment.looked = False
    world.rows.touch(segment)


def _take_up(world: World, memory: Memory, segment: Segment, now: Now) -> None:
    at = (segment.batch, place_of(segment))
    for auditor in segment.auditors:
        memory.listed[auditor].add(at)
    for seat in world.rows.seats.get(at, {}).values():
        if seat.state == SeatState.WORKING:
            memory.working[seat.auditor].add(at)
            _lease(world, segment, seat.auditor, now)
    if segment.looked:
        memory.dirty[at] = None
    else:
        world.want(LookAtState(*at))


def _forget(world: World, memory: Memory, at: At, segment: Segment) -> None:
    """A decided segment waits for nobody; who still works on it has no room until it says so or its lease is over."""
    for auditor in segment.auditors:
        memory.listed[auditor].discard(at)
        memory.queued[auditor].pop(at, None)
    for auditor in world.rows.seats.get(at, {}):
        memory.rests.pop((at, auditor), None)
    round_ = memory.rounds.pop(at, None)
    if round_ is not None:
        world.done(_weigh(world, at, round_).key)
    memory.dirty.pop(at, None)


def _reason(segment: Segment, seats: Mapping[Address, Seat]) -> str:
    """The votes against the worker, in words."""
    opened = [seat for seat in seats.values() if seat.state == SeatState.OPENED and not seat.copied]
    answers = [seat.answer for seat in opened]
    answer = carried(answers, segment.claimed, Verdict.FAULT)
    count = f"{answers.count(answer or Digest(b''))} of {len(opened)} auditors"
    if answer != CANNOT_EXECUTE:
        return f"segment {segment.index} leads {count} to another state"
    why = next(decode(seat.opening, SealOpened).reason for seat in opened if seat.answer == answer)
    return f"segment {segment.index} cannot be executed, say {count}: {why}"


def _name(segment: Segment) -> str:
    return f"task {segment.task} segment {segment.index}"


def _seat(world: World, event: OfSeat) -> tuple[Segment, Seat] | None:
    """The seat that an auditor speaks of, by its batch's number on chain and by its draw: what it says of an earlier
    draw says nothing of its seat in this one."""
    batch = world.rows.by_chain_id.get(event.batch)
    if batch is None or batch.seed != event.seed:
        return None
    at = (batch.id, event.place)
    seat, segment = world.rows.seats.get(at, {}).get(event.node), world.rows.segments.get(at)
    return None if seat is None or segment is None else (segment, seat)


def _why_not(world: World, event: OfSeat) -> str:
    batch = world.rows.by_chain_id.get(event.batch)
    return ANOTHER_DRAW if batch is not None and batch.seed not in (b"", event.seed) else NOT_YOURS
