"""Judging one audited segment: seat the plan's auditors, gather their seals, open them together, compare, tally.

An auditor is given the state before a segment and never the one after it. Its sealed answer is compared by digest
first (equal digests need no bytes at all), then by the sketch of what the segment changed. The tolerance is the
manifest's.
"""

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel import Session, col, select

from proofyard.protocol.audit import Verdict, tally
from proofyard.protocol.cid import cid_digest
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.messages import Ack, AuditOffer, OpenSeal, SealOpened
from proofyard.protocol.seal import Opening, seal_of
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, ProofyardError, SegmentIndex
from proofyard.verifier.context import Context, now
from proofyard.verifier.database import Seat, SeatState, log
from proofyard.workloads.answers import number_answers
from proofyard.workloads.errors import SketchRefused, WorkloadError
from proofyard.workloads.sketch import Sketch, decode_sketch, sketch_change, sketch_distance

logger = logging.getLogger(__name__)

MAX_STATE_BYTES = 8 << 30
AUDITORS_DUE_S = 300.0
"""How long a segment waits for auditors that are away before it is left undecided."""
MAX_SEATINGS = 3
"""How often one auditor is given the same seat: it may have been away or restarted."""
REQUEST_TIMEOUT_S = 10.0
TICK_S = 0.5
OWED_POLL_S = 1.0


@dataclass(frozen=True)
class Case:
    """One audited segment with all that judging it needs. `auditors` in the plan's order; `owners` by node."""

    batch_row: int
    batch: BatchId
    job: JobId
    manifest_cid: Cid
    manifest: Manifest
    spec: TaskSpec
    segment: SegmentIndex
    worker: Address
    trace: tuple[Cid, ...]
    inputs: tuple[Cid, ...]
    seed: Digest
    auditors: tuple[Address, ...]
    owners: dict[Address, Address]
    seats: int
    drawn_at: float

    def key(self, auditor: Address) -> tuple[int, int, int, str]:
        """The primary key of an auditor's seat."""
        return (self.batch_row, self.spec.index, self.segment, auditor)

    @property
    def name(self) -> str:
        return f"task {self.spec.index} segment {self.segment}"

    @property
    def after(self) -> Cid:
        return self.trace[self.segment + 1]


class NotDelivered(ProofyardError):
    """A committed state did not arrive in time; `ProofyardError` so that it reads like any other reason."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(f"{what} was not delivered within {seconds:.0f} s")


async def judge_segment(context: Context, case: Case) -> tuple[Verdict, str]:
    """The verdict of one segment and its reason. Takes up where an earlier run of the verifier stopped."""
    try:
        before = await owed(context, case.worker, case.trace[case.segment], f"state {case.segment}")
        while True:
            verdict, seated, sealed = _convene(context, case)
            if verdict == Verdict.UNDECIDED:
                await _require_usable(context, case, before)
            if verdict != Verdict.PENDING:
                return verdict, _reason(context, case) if verdict == Verdict.FAULT else ""
            for auditor in seated:
                context.spawn(_offer(context, case, auditor))
            if sealed:
                await _open_and_compare(context, case, before, sealed)
            else:
                await context.wait(TICK_S)
    except (NotDelivered, WorkloadError) as error:
        return Verdict.FAULT, str(error)


async def _require_usable(context: Context, case: Case, before: bytes) -> None:
    """Nobody could audit the segment: see whether that is the state's fault. Raises `StateRefused` if so."""
    if case.segment > 0:
        first = await owed(context, case.worker, case.trace[0], "state 0")
        change = context.workload(case.manifest).change
        await asyncio.to_thread(change, case.manifest, case.spec, first, before)


def _convene(context: Context, case: Case) -> tuple[Verdict, list[Address], list[Address]]:
    """One look at the seats: the verdict, auditors newly seated, and, when every seat is sealed, who to open."""
    with context.database.session() as session:
        seats = seats_of(session, case.batch_row, case.spec.index, case.segment)
        _drop_lapsed(session, case, seats)
        opened = [s for s in seats if s.state == SeatState.OPENED]
        answers = answers_of(opened, case.manifest.tolerance)
        votes = {case.owners[Address(s.auditor)]: answer for s, answer in zip(opened, answers, strict=True)}
        live = [s for s in seats if s.state in (SeatState.WORKING, SeatState.SEALED)]
        spare = _spare(context, case, seats)
        exhausted = not live and not spare and (now() > case.drawn_at + AUDITORS_DUE_S or _all_used(case, seats))
        verdict = tally(votes, case.seats, exhausted=exhausted)
        seated: list[Address] = []
        if verdict == Verdict.PENDING:
            seated = spare[: max(0, max(case.seats - len(votes), 1) - len(live))]
        for auditor in seated:
            _seat(session, context, case, auditor)
            log(session, case.job, "audit-assigned", f"audits {case.name}", task=case.spec.index, node=auditor)
        complete = live and not seated and all(s.state == SeatState.SEALED for s in live)
        return verdict, seated, [Address(s.auditor) for s in live] if complete else []


def _spare(context: Context, case: Case, seats: list[Seat]) -> list[Address]:
    """Who can be seated now: connected auditors in the plan's order, then those that lost the seat before."""
    taken = {seat.auditor: seat for seat in seats}
    fresh = [a for a in case.auditors if a not in taken]
    again = [a for a in case.auditors if a in taken and _may_return(taken[a])]
    return [auditor for auditor in (*fresh, *again) if auditor in context.members]


def _all_used(case: Case, seats: list[Seat]) -> bool:
    """Whether nobody is left who could still come back and vote."""
    taken = {seat.auditor: seat for seat in seats}
    return all(auditor in taken and not _may_return(taken[auditor]) for auditor in case.auditors)


def _may_return(seat: Seat) -> bool:
    return seat.state == SeatState.FAILED and seat.attempts < MAX_SEATINGS


def _seat(session: Session, context: Context, case: Case, auditor: Address) -> None:
    seat = session.get(Seat, case.key(auditor))
    if seat is None:
        batch, task, segment, _ = case.key(auditor)
        seat = Seat(batch=batch, task=task, segment=segment, auditor=auditor)
    else:
        seat.attempts += 1
    seat.state, seat.lease_until = SeatState.WORKING, now() + context.settings.lease_s
    session.add(seat)


def _reason(context: Context, case: Case) -> str:
    """The votes against the worker, in words."""
    with context.database.session() as session:
        seats = seats_of(session, case.batch_row, case.spec.index, case.segment)
    opened = [seat for seat in seats if seat.state == SeatState.OPENED]
    far = [seat.distance or 0.0 for seat in opened if not seat.match]
    return (
        f"segment {case.segment} differs from {len(far)} of {len(opened)} auditors by {min(far):.3g} of the update, "
        f"allowed is {case.manifest.tolerance:.3g}"
    )


def answers_of(opened: Sequence[Seat], tolerance: float) -> list[int]:
    """The numbers of the answers in opened seats: who agrees with whom."""
    votes = [(decode(seat.opening or b"", SealOpened).sketch, seat.distance or 0.0) for seat in opened]
    return number_answers(votes, tolerance)


def seats_of(session: Session, batch_row: int, task: int, segment: int) -> list[Seat]:
    query = select(Seat).where(Seat.batch == batch_row, Seat.task == task, Seat.segment == segment)
    return list(session.exec(query.order_by(col(Seat.auditor))))


def _drop_lapsed(session: Session, case: Case, seats: list[Seat]) -> None:
    """An auditor that is silent for longer than its lease gives up its seat; the next in order takes it."""
    for seat in seats:
        if seat.state == SeatState.WORKING and seat.lease_until < now():
            seat.state = SeatState.FAILED
            log(session, case.job, "lost", f"audit of {case.name}: no word", task=case.spec.index, node=seat.auditor)


async def _offer(context: Context, case: Case, auditor: Address) -> None:
    offer = AuditOffer(
        batch=case.batch,
        job=case.job,
        manifest=case.manifest_cid,
        task=case.spec,
        segment=case.segment,
        before=case.trace[case.segment],
        seed=case.seed,
        inputs=case.inputs,
        providers=(),
        lease_s=context.settings.lease_s,
    )
    try:
        member = context.members[auditor]
        reply = await member.connection.request(offer, reply=Ack, timeout=REQUEST_TIMEOUT_S)
        if reply.proceed:
            return
        reason = reply.reason
    except (ProofyardError, KeyError) as error:
        reason = str(error)
    logger.warning("%s does not audit %s: %s", auditor, case.name, reason)
    _fail_seat(context, case, auditor)


def _fail_seat(context: Context, case: Case, auditor: Address) -> None:
    with context.database.session() as session:
        seat = session.get(Seat, case.key(auditor))
        if seat is not None and seat.state in (SeatState.WORKING, SeatState.SEALED):
            seat.state = SeatState.FAILED
    context.changed()


async def _open_and_compare(context: Context, case: Case, before: bytes, sealed: list[Address]) -> None:
    """Open the seals, measure each answer against the worker's, and write the votes in one transaction."""
    found = await asyncio.gather(*(_open(context, case, auditor) for auditor in sealed))
    openings = {auditor: opening for auditor, opening in zip(sealed, found, strict=True) if opening is not None}
    distances = await _distances(context, case, before, openings)
    with context.database.session() as session:
        for auditor, distance in distances.items():
            seat = session.get(Seat, case.key(auditor))
            if seat is None:
                continue
            seat.state, seat.opening, seat.distance = SeatState.OPENED, encode(openings[auditor]), min(distance, 1e9)
            seat.match = distance <= case.manifest.tolerance
            kind = "audit-match" if seat.match else "audit-mismatch"
            text = f"{case.name}: distance {distance:.3g}, tolerance {case.manifest.tolerance:.3g}"
            log(session, case.job, kind, text, task=case.spec.index, node=auditor)


async def _open(context: Context, case: Case, auditor: Address) -> SealOpened | None:
    """The auditor's answer if it fits its seal. An auditor that cannot open what it sealed loses its seat."""
    try:
        request = OpenSeal(case.batch, case.spec.index, case.segment)
        connection = context.members[auditor].connection
        opened = await connection.request(request, reply=SealOpened, timeout=REQUEST_TIMEOUT_S)
        with context.database.session() as session:
            seat = session.get(Seat, case.key(auditor))
            if seat is not None and seat.seal == seal_of(Opening(opened.sketch, opened.after, opened.salt), auditor):
                return opened
        logger.warning("%s opened another answer to %s than it sealed", auditor, case.name)
    except (ProofyardError, KeyError) as error:
        logger.warning("%s does not open its seal of %s: %s", auditor, case.name, error)
    _fail_seat(context, case, auditor)
    return None


async def _distances(
    context: Context, case: Case, before: bytes, openings: dict[Address, SealOpened]
) -> dict[Address, float]:
    """Relative distance of every answer from the worker's; 0 where all bytes are the same."""
    if context.settings.blind:
        return dict.fromkeys(openings, 0.0)
    committed = cid_digest(case.after)
    agreed = {opening.sketch for opening in openings.values()}
    if len(agreed) <= 1 and all(opening.after == committed for opening in openings.values()):
        return dict.fromkeys(openings, 0.0)
    after = await owed(context, case.worker, case.after, f"state {case.segment + 1}")

    def measure() -> dict[Address, float]:
        workload = context.workload(case.manifest)
        answer = sketch_change(workload.change(case.manifest, case.spec, before, after), case.seed)
        return {auditor: _distance(answer, opening.sketch) for auditor, opening in openings.items()}

    return await asyncio.to_thread(measure)


def _distance(answer: Sketch, sealed: bytes) -> float:
    try:
        return sketch_distance(answer, decode_sketch(sealed))
    except SketchRefused:
        return math.inf


async def owed(context: Context, worker: Address, cid: Cid, what: str) -> bytes:
    """A committed state, from its worker or anybody who has it.

    Raises `NotDelivered` after `state_due_s` seconds in which other nodes could reach this verifier: time in which it
    was cut off itself is not held against anybody.
    """
    left = context.settings.state_due_s
    while True:
        try:
            return await context.obtain(cid, worker, max_bytes=MAX_STATE_BYTES)
        except ProofyardError as error:
            logger.debug("%s of %s: %s", what, worker, error)
        if left <= 0:
            raise NotDelivered(what, context.settings.state_due_s)
        start = now()
        await context.wait(OWED_POLL_S)
        if any(node != worker for node in context.members):
            left -= now() - start
