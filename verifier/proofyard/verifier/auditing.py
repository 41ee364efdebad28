"""Auditing a batch: seat the plan's auditors, gather their seals, open them together, tally.

An auditor is given the state before a segment and never the one after it. Its answer is 32 bytes and equals the
worker's or does not, so nothing but the state before is moved. One loop serves all segments of a batch, so that a
node's room is shared among them; what it decides is in `seating`.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from sqlmodel import Session, col, func, select

from proofyard.protocol.audit import Verdict, carried
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.findings import COPIED
from proofyard.protocol.messages import Ack, AuditOffer, OpenSeal, PeerHint, SealOpened
from proofyard.protocol.seal import CANNOT_EXECUTE, keyed_digest, keyed_is_checked, seal_of
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.types import Address, Digest, ProofyardError
from proofyard.verifier.case import Case, Place
from proofyard.verifier.context import Context, now
from proofyard.verifier.database import Seat, SeatState, Segment, log
from proofyard.verifier.delivery import MAX_STATE_BYTES, NotDelivered, owed, room
from proofyard.verifier.likeness import counted_answers
from proofyard.verifier.seating import Chair, Patience, Step, backoff, next_step
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.workload import InexactWorkload

logger = logging.getLogger(__name__)

AUDITS_AT_ONCE = 4
"""Audits that one node is given at a time, of all batches."""
REQUEST_TIMEOUT_S = 10.0
TICK_S = 0.5
REST_S = 0.02
"""The loop waits so long after each look, so that many answers are taken in at once."""


class Bench:
    """The auditors of one batch at work. Takes up where an earlier run of the verifier stopped.

    `ready` are the places whose state before was looked at: nobody is seated at others. `patience` says how long the
    batch has waited.
    """

    def __init__(
        self, context: Context, batch_row: int, cases: Sequence[Case], patience: Callable[[], Patience]
    ) -> None:
        self._context = context
        self._batch = batch_row
        self._cases = {case.place: case for case in cases}
        self._patience = patience
        self._opening: set[Place] = set()
        self.ready: set[Place] = set()

    async def sit(self) -> None:
        """Until every segment has its verdict."""
        while True:
            seen = self._context.changes
            with self._context.database.session() as session:
                pending = self._pending(session)
                steps = self._look(session, pending)
            if not pending:
                return
            for place, step in steps.items():
                for auditor in step.seat:
                    self._context.spawn(self._offer(self._cases[place], auditor))
                if step.open:
                    self._opening.add(place)
                    self._context.spawn(self.open(self._cases[place], step.open))
            await asyncio.sleep(REST_S)
            await self._context.wait(TICK_S, since=seen)

    def refuse(self, case: Case, kind: FaultReason, reason: str) -> None:
        """A segment whose state before it is at fault: nobody is seated."""
        with self._context.database.session() as session:
            row = session.get(Segment, (case.batch_row, *case.place))
            assert row is not None
            if row.verdict == Verdict.PENDING:
                row.verdict, row.kind, row.reason, row.unvoted = Verdict.FAULT, kind, reason, True
        self._context.changed()

    def _pending(self, session: Session) -> dict[Place, Segment]:
        rows = session.exec(select(Segment).where(Segment.batch == self._batch, Segment.verdict == Verdict.PENDING))
        return {cast(Place, (row.job, row.task, row.index)): row for row in rows}

    def _look(self, session: Session, pending: Mapping[Place, Segment]) -> dict[Place, Step]:
        """One look at all seats; writes verdicts, lapses and new seats."""
        load = Counter(
            dict(
                session.exec(
                    select(Seat.auditor, func.count()).where(Seat.state == SeatState.WORKING).group_by(Seat.auditor)
                ).all()
            )
        )
        seats = self._seats(session)
        patience, steps = self._patience(), {}
        for place, row in pending.items():
            if place not in self.ready or place in self._opening:
                continue
            case, taken = self._cases[place], seats.get(place, {})
            step = self._step(case, taken, load, patience)
            for auditor in step.lapsed:
                leave(taken[auditor])
                log(session, case.job, "lost", f"audit of {case.name}: no word", task=case.spec.index, node=auditor)
            for auditor in step.seat:
                load[auditor] += 1
                self._seat(session, case, taken.get(auditor), auditor)
            if step.verdict != Verdict.PENDING:
                row.verdict = step.verdict
                if step.verdict == Verdict.FAULT:
                    exact = self._context.workload(case.manifest).exact
                    row.kind = FaultReason.MISMATCH if exact else FaultReason.DISAGREED
                    row.reason = _reason(case, list(taken.values()))
            steps[place] = step
        return steps

    def _seats(self, session: Session) -> dict[Place, dict[Address, Seat]]:
        found: dict[Place, dict[Address, Seat]] = {}
        for seat in session.exec(select(Seat).where(Seat.batch == self._batch)):
            found.setdefault(cast(Place, (seat.job, seat.task, seat.segment)), {})[Address(seat.auditor)] = seat
        return found

    def _step(self, case: Case, taken: Mapping[Address, Seat], load: Counter[str], patience: Patience) -> Step:
        members, workload = self._context.members, case.manifest.workload
        chairs = {auditor: _chair(seat) for auditor, seat in taken.items() if auditor in case.auditors}
        step = next_step(
            *(case.auditors, chairs, case.claimed, case.seats),
            there=lambda auditor: auditor in members and workload in members[auditor].announce.workloads,
            has_room=lambda auditor: load[auditor] < AUDITS_AT_ONCE,
            at=now(),
            patience=patience,
            decoy=case.decoy,
        )
        votes = sum(chair.state == SeatState.OPENED for chair in chairs.values())
        return Step(Verdict.VALID) if self._context.settings.blind and votes >= case.seats else step

    def _seat(self, session: Session, case: Case, seat: Seat | None, auditor: Address) -> None:
        if seat is None:
            batch, job, task, segment, _ = case.key(auditor)
            seat = Seat(batch=batch, job=job, task=task, segment=segment, auditor=auditor)
        seat.state, seat.lease_until = SeatState.WORKING, now() + self._context.settings.lease_s
        session.add(seat)
        log(session, case.job, "audit-assigned", f"audits {case.name}", task=case.spec.index, node=auditor)

    def _send_away(self, case: Case, auditor: Address, *, busy: bool = False) -> None:
        with self._context.database.session() as session:
            seat = session.get(Seat, case.key(auditor))
            if seat is not None and seat.state in (SeatState.WORKING, SeatState.SEALED):
                leave(seat, busy=busy)
        self._context.changed()

    async def _offer(self, case: Case, auditor: Address) -> None:
        offer = AuditOffer(
            batch=case.batch,
            job=case.job,
            manifest=case.manifest_cid,
            task=case.spec,
            segment=case.segment,
            before=case.trace[case.segment],
            providers=self._hints(case),
            lease_s=self._context.settings.lease_s,
            seed=case.seed,
        )
        try:
            member = self._context.members[auditor]
            reply = await member.connection.request(offer, reply=Ack, timeout=REQUEST_TIMEOUT_S)
            if reply.proceed:
                return
            reason = reply.reason
        except (ProofyardError, KeyError) as error:
            reason = str(error)
        logger.info("%s does not audit %s now: %s", auditor, case.name, reason)
        self._send_away(case, auditor, busy=reason.startswith("busy"))

    def _hints(self, case: Case) -> tuple[PeerHint, ...]:
        worker = self._context.members.get(case.worker)
        return () if worker is None else (worker.hint,)

    async def open(self, case: Case, sealed: Sequence[Address]) -> None:
        """Open the seals together, and write the votes in one transaction."""
        try:
            found = await asyncio.gather(*(self._open_one(case, auditor) for auditor in sealed))
            openings = {auditor: opening for auditor, opening in zip(sealed, found, strict=True) if opening is not None}
            answers = await self._counted(case, {auditor: opening.after for auditor, opening in openings.items()})
            copied = await self._copied(case, openings)
            with self._context.database.session() as session:
                for auditor, answer in answers.items():
                    self._vote(session, case, auditor, openings[auditor], answer, copied=auditor in copied)
        except NotDelivered as error:
            self.refuse(case, FaultReason.WITHHELD, str(error))
        finally:
            self._opening.discard(case.place)
            self._context.changed()

    def _vote(
        self, session: Session, case: Case, auditor: Address, opening: SealOpened, answer: Digest, *, copied: bool
    ) -> None:
        seat = session.get(Seat, case.key(auditor))
        if seat is None or seat.state != SeatState.SEALED:
            return
        seat.state, seat.opening, seat.answer, seat.copied = SeatState.OPENED, encode(opening), answer, copied
        if copied:
            kind, outcome = "audit-mismatch", COPIED
        elif answer == case.claimed:
            kind, outcome = "audit-match", "the same state"
        else:
            kind, outcome = "audit-mismatch", opening.reason or "another state"
        log(session, case.job, kind, f"{case.name}: {outcome}", task=case.spec.index, node=auditor)

    async def _copied(self, case: Case, openings: Mapping[Address, SealOpened]) -> set[Address]:
        """Those who have not executed: in a drawn share of segments the keyed digests are held against the state's
        bytes. A state that nobody delivers cannot tell."""
        if not keyed_is_checked(case.seed, case.leaf, case.segment) or not self._context.workload(case.manifest).exact:
            return set()
        copied: set[Address] = set()
        for number, answer in ((case.segment + 1, case.claimed), (case.segment, CANNOT_EXECUTE)):
            voters = {a: opening for a, opening in openings.items() if opening.after == answer}
            if voters:
                copied |= await self._wrongly_keyed(case, number, voters)
        return copied

    async def _wrongly_keyed(self, case: Case, number: int, voters: Mapping[Address, SealOpened]) -> set[Address]:
        context, cid = self._context, case.trace[number]
        try:
            size = await owed(context, case.worker, cid, f"state {number}", patience_s=context.settings.recheck_s)
        except (NotDelivered, StateRefused) as error:
            logger.info("the keyed digests of %s are not checked: %s", case.name, error)
            return set()
        async with room(context, size):
            state = await asyncio.to_thread(context.store.get_bytes, cid, max_bytes=MAX_STATE_BYTES)
            return {
                auditor
                for auditor, opening in voters.items()
                if await asyncio.to_thread(keyed_digest, case.seed, auditor, state) != opening.keyed
            }

    async def _counted(self, case: Case, answers: dict[Address, Digest]) -> dict[Address, Digest]:
        """What the answers count as: themselves, where a workload is exact."""
        workload = self._context.workload(case.manifest)
        if workload.exact:
            return answers
        earlier = self._distinct_answers(case)
        counted = await counted_answers(self._context, cast(InexactWorkload, workload), case, answers, earlier)
        for auditor in answers.keys() - counted.keys():
            self._send_away(case, auditor)
        return counted

    def _distinct_answers(self, case: Case) -> dict[Digest, Address]:
        """The answers that were given before and count as themselves, each with an auditor that gave it."""
        with self._context.database.session() as session:
            opened = [seat for seat in seats_of(session, case.batch_row, case.place) if seat.opening]
        return {
            Digest(seat.answer): Address(seat.auditor)
            for seat in opened
            if seat.answer and seat.answer == decode(seat.opening or b"", SealOpened).after
        }

    async def _open_one(self, case: Case, auditor: Address) -> SealOpened | None:
        """The auditor's answer if it fits its seal. One that cannot open what it sealed now is asked again later."""
        with self._context.database.session() as session:
            seat = session.get(Seat, case.key(auditor))
            if seat is not None and seat.opening:  # others were shown it (`left_out`)
                return decode(seat.opening, SealOpened)
        try:
            request = OpenSeal(case.batch, case.job, case.spec.index, case.segment)
            connection = self._context.members[auditor].connection
            opened = await connection.request(request, reply=SealOpened, timeout=REQUEST_TIMEOUT_S)
            with self._context.database.session() as session:
                seat = session.get(Seat, case.key(auditor))
                if seat is not None and seat.seal == seal_of(opened.opening(), auditor):
                    return opened
            logger.warning("%s opened another answer to %s than it sealed", auditor, case.name)
        except (ProofyardError, KeyError) as error:
            logger.info("%s does not open its seal of %s now: %s", auditor, case.name, error)
        self._send_away(case, auditor)
        return None


def leave(seat: Seat, *, busy: bool = False) -> None:
    """An auditor gives no answer now. Being busy is no failure of it."""
    seat.state = SeatState.AWAY
    seat.tries += 0 if busy else 1
    seat.not_before = now() + backoff(seat.tries)


def seats_of(session: Session, batch_row: int, place: Place) -> list[Seat]:
    """The seats at one segment, by auditor."""
    job, task, segment = place
    query = select(Seat).where(Seat.batch == batch_row, Seat.job == job, Seat.task == task, Seat.segment == segment)
    return list(session.exec(query.order_by(col(Seat.auditor))))


def _chair(seat: Seat) -> Chair:
    answer = Digest(seat.answer) if seat.answer and not seat.copied else None
    return Chair(SeatState(seat.state), seat.tries, seat.not_before, seat.lease_until, answer)


def _reason(case: Case, seats: Sequence[Seat]) -> str:
    """The votes against the worker, in words."""
    opened = [seat for seat in seats if seat.state == SeatState.OPENED and not seat.copied]
    answers = [Digest(seat.answer or b"") for seat in opened]
    answer = carried(answers, case.claimed, Verdict.FAULT)
    count = f"{answers.count(answer or Digest(b''))} of {len(opened)} auditors"
    if answer != CANNOT_EXECUTE:
        return f"segment {case.segment} leads {count} to another state"
    why = next(decode(seat.opening or b"", SealOpened).reason for seat in opened if seat.answer == answer)
    return f"segment {case.segment} cannot be executed, say {count}: {why}"
