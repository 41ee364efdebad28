"""Answers that auditors showed to others and not to their leader: co-signers hand them on to the next record.

A leader that hides a vote and an auditor that hides its vote from the leader look the same to everybody else. So what
an auditor has signed goes into the record, whoever was shown it; what it has not signed counts for nobody.
"""

import asyncio
from collections.abc import Sequence

from sqlmodel import Session

from proofyard.protocol.audit import Verdict
from proofyard.protocol.codec import encode
from proofyard.protocol.messages import LeftOut
from proofyard.protocol.seal import seal_of, seal_struct_hash
from proofyard.protocol.signature import signed_by
from proofyard.protocol.types import Address
from proofyard.protocol.view import BatchView
from proofyard.verifier.auditing import Bench
from proofyard.verifier.case import Place
from proofyard.verifier.context import Context
from proofyard.verifier.database import Batch, BatchState, Seat, SeatState, Segment, log
from proofyard.verifier.judging import load_cases
from proofyard.verifier.seating import Patience

MOST = 256
"""Answers that are taken in at once."""


def is_signed(view: BatchView, answer: LeftOut) -> bool:
    """Whether the auditor has signed the seal of this answer, for this place."""
    seal = seal_of(answer.opened.opening(), answer.auditor)
    struct = seal_struct_hash(view.batch, answer.job, answer.task, answer.segment, answer.auditor, seal)
    return signed_by(view.domain.typed_digest(struct), answer.opened.signature, answer.auditor)


async def take_in(context: Context, view: BatchView, batch: Batch, answers: Sequence[LeftOut]) -> None:
    """Open the signed ones of these answers and have their segments judged again."""
    signed = [each for each in answers[:MOST] if await asyncio.to_thread(is_signed, view, each)]
    with context.database.session() as session:
        taken = [each for each in signed if _seat(session, batch, each)]
        if taken:
            session.merge(batch).state = BatchState.AUDITING
    if not taken:
        return
    cases = {case.place: case for case in await load_cases(context, view, batch)}
    bench = Bench(context, batch.id or 0, list(cases.values()), lambda: Patience.EARLY)
    by_place: dict[Place, list[Address]] = {}
    for each in taken:
        by_place.setdefault((each.job, each.task, each.segment), []).append(each.auditor)
    for place, auditors in by_place.items():
        await bench.open(cases[place], auditors)


def _seat(session: Session, batch: Batch, answer: LeftOut) -> bool:
    """Write an answer down as sealed, and its segment as pending; false where it is of no use."""
    row = session.get(Segment, (batch.id, answer.job, answer.task, answer.segment))
    if row is None or row.unvoted or answer.auditor not in row.auditors.split():
        return False
    seat = session.get(Seat, (batch.id, answer.job, answer.task, answer.segment, answer.auditor))
    if seat is None:
        seat = Seat(
            batch=batch.id or 0,
            job=answer.job,
            task=answer.task,
            segment=answer.segment,
            auditor=answer.auditor,
            lease_until=0.0,
        )
    if seat.state == SeatState.OPENED:
        return False
    seat.state, seat.seal = SeatState.SEALED, seal_of(answer.opened.opening(), answer.auditor)
    seat.signature, seat.opening = answer.opened.signature, encode(answer.opened)
    session.add(seat)
    row.verdict, row.kind, row.reason = Verdict.PENDING, 0, ""
    log(
        session, answer.job, "sealed", "its answer came through another verifier", task=answer.task, node=answer.auditor
    )
    return True
