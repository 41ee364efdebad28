"""Judging one audited segment: check the state before it, seat the plan's auditors, gather their seals, open them
together, tally.

An auditor is given the state before a segment and never the one after it. Its answer is 32 bytes and equals the
worker's or does not, so nothing but the state before is moved.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import cast

from sqlmodel import Session, col, select

from proofyard.protocol.audit import Verdict, carried, tally
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.messages import Ack, AuditOffer, OpenSeal, SealOpened
from proofyard.protocol.seal import CANNOT_EXECUTE, seal_of
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.types import Address, Digest, ProofyardError
from proofyard.verifier.case import Case
from proofyard.verifier.context import Context, now
from proofyard.verifier.database import Seat, SeatState, log
from proofyard.verifier.delivery import NotDelivered, owed
from proofyard.verifier.likeness import counted_answers
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.workload import InexactWorkload

logger = logging.getLogger(__name__)

AUDITORS_DUE_S = 300.0
"""How long a segment waits for auditors that are away before it is left undecided."""
MAX_SEATINGS = 3
"""How often one auditor is given the same seat: it may have been away or restarted."""
REQUEST_TIMEOUT_S = 10.0
TICK_S = 0.5


@dataclass(frozen=True)
class Judgement:
    """A segment's verdict; `kind` and `reason` of a fault."""

    verdict: Verdict
    kind: FaultReason = FaultReason.MISMATCH
    reason: str = ""


async def judge_segment(context: Context, case: Case) -> Judgement:
    """Judge one segment. Takes up where an earlier run of the verifier stopped.

    A state that breaks a law of its workload is nobody's to execute, so it is looked at before anybody is seated.
    """
    workload = context.workload(case.manifest)
    try:
        before = await owed(context, case.worker, case.trace[case.segment], f"state {case.segment}")
        await asyncio.to_thread(workload.check_state, case.manifest, case.spec, case.segment, before)
        while True:
            verdict, seated, sealed = _convene(context, case)
            if verdict == Verdict.FAULT:
                kind = FaultReason.MISMATCH if workload.exact else FaultReason.DISAGREED
                return Judgement(verdict, kind, _reason(context, case))
            if verdict != Verdict.PENDING:
                return Judgement(verdict)
            for auditor in seated:
                context.spawn(_offer(context, case, auditor))
            if sealed:
                await _open_and_compare(context, case, before, sealed)
            else:
                await context.wait(TICK_S)
    except NotDelivered as error:
        return Judgement(Verdict.FAULT, FaultReason.WITHHELD, str(error))
    except StateRefused as error:
        return Judgement(Verdict.FAULT, FaultReason.MISMATCH, f"state {case.segment}: {error}")


def _convene(context: Context, case: Case) -> tuple[Verdict, list[Address], list[Address]]:
    """One look at the seats: the verdict, auditors newly seated, and, when every seat is sealed, who to open."""
    with context.database.session() as session:
        seats = seats_of(session, case.batch_row, case.spec.index, case.segment)
        _drop_lapsed(session, case, seats)
        opened = [s for s in seats if s.state == SeatState.OPENED]
        votes = {case.owners[Address(seat.auditor)]: Digest(seat.answer or b"") for seat in opened}
        live = [s for s in seats if s.state in (SeatState.WORKING, SeatState.SEALED)]
        spare = _spare(context, case, seats)
        exhausted = not live and not spare and (now() > case.drawn_at + AUDITORS_DUE_S or _all_used(case, seats))
        verdict = tally(votes, case.claimed, case.seats, exhausted=exhausted)
        if context.settings.blind and len(votes) >= case.seats:
            verdict = Verdict.VALID
        seated: list[Address] = []
        if verdict == Verdict.PENDING:
            seated = spare[: max(0, max(case.seats - len(votes), 1) - len(live))]
        for auditor in seated:
            _seat(session, context, case, auditor)
            log(session, case.job, "audit-assigned", f"audits {case.name}", task=case.spec.index, node=auditor)
        complete = live and not seated and all(s.state == SeatState.SEALED for s in live)
        return verdict, seated, [Address(s.auditor) for s in live] if complete else []


def _spare(context: Context, case: Case, seats: list[Seat]) -> list[Address]:
    """Who can be seated now: auditors that are connected and offer the workload, in the plan's order, then those that
    lost the seat before."""
    taken = {seat.auditor: seat for seat in seats}
    fresh = [a for a in case.auditors if a not in taken]
    again = [a for a in case.auditors if a in taken and _may_return(taken[a])]
    able = {a for a, m in context.members.items() if case.manifest.workload in m.announce.workloads}
    return [auditor for auditor in (*fresh, *again) if auditor in able]


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
    answers = [Digest(seat.answer or b"") for seat in opened]
    answer = carried(answers, case.claimed, Verdict.FAULT)
    count = f"{answers.count(answer or Digest(b''))} of {len(opened)} auditors"
    if answer != CANNOT_EXECUTE:
        return f"segment {case.segment} leads {count} to another state"
    why = next(decode(seat.opening or b"", SealOpened).reason for seat in opened if seat.answer == answer)
    return f"segment {case.segment} cannot be executed, say {count}: {why}"


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
    """Open the seals together, and write the votes in one transaction."""
    found = await asyncio.gather(*(_open(context, case, auditor) for auditor in sealed))
    openings = {auditor: opening for auditor, opening in zip(sealed, found, strict=True) if opening is not None}
    answers = {auditor: opening.after for auditor, opening in openings.items()}
    workload = context.workload(case.manifest)
    if not workload.exact:
        earlier = _distinct_answers(context, case)
        counted = await counted_answers(context, cast(InexactWorkload, workload), case, before, answers, earlier)
        for auditor in answers.keys() - counted.keys():
            _fail_seat(context, case, auditor)
        answers = counted
    with context.database.session() as session:
        for auditor, answer in answers.items():
            seat = session.get(Seat, case.key(auditor))
            if seat is None:
                continue
            seat.state, seat.opening, seat.answer = SeatState.OPENED, encode(openings[auditor]), answer
            match = answer == case.claimed
            kind = "audit-match" if match else "audit-mismatch"
            outcome = "the same state" if match else openings[auditor].reason or "another state"
            log(session, case.job, kind, f"{case.name}: {outcome}", task=case.spec.index, node=auditor)


def _distinct_answers(context: Context, case: Case) -> dict[Digest, Address]:
    """The answers that were given before and count as themselves, each with an auditor that gave it."""
    with context.database.session() as session:
        opened = [s for s in seats_of(session, case.batch_row, case.spec.index, case.segment) if s.opening]
    return {
        Digest(seat.answer): Address(seat.auditor)
        for seat in opened
        if seat.answer and seat.answer == decode(seat.opening or b"", SealOpened).after
    }


async def _open(context: Context, case: Case, auditor: Address) -> SealOpened | None:
    """The auditor's answer if it fits its seal. An auditor that cannot open what it sealed loses its seat."""
    try:
        request = OpenSeal(case.batch, case.spec.index, case.segment)
        connection = context.members[auditor].connection
        opened = await connection.request(request, reply=SealOpened, timeout=REQUEST_TIMEOUT_S)
        with context.database.session() as session:
            seat = session.get(Seat, case.key(auditor))
            if seat is not None and seat.seal == seal_of(opened.opening(), auditor):
                return opened
        logger.warning("%s opened another answer to %s than it sealed", auditor, case.name)
    except (ProofyardError, KeyError) as error:
        logger.warning("%s does not open its seal of %s: %s", auditor, case.name, error)
    _fail_seat(context, case, auditor)
    return None
