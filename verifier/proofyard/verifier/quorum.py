"""The leader's side of signing together: show the record to the other seats, and gather their signatures.

Everybody is asked for a check before anybody for a signature, because whoever has signed one settlement of a batch and
attempt never signs another.
"""

import asyncio
import logging
from collections.abc import Sequence

from proofyard.chain import VerifierRecord
from proofyard.protocol import bls
from proofyard.protocol.messages import CoSign, CoSigned, LeftOut
from proofyard.protocol.types import BatchId, Cid, Digest, ProofyardError
from proofyard.protocol.view import BatchView
from proofyard.transport import TransportError
from proofyard.verifier.context import Context
from proofyard.verifier.signing import sign_once

logger = logging.getLogger(__name__)

COSIGN_TIMEOUT_S = 120.0


class NoQuorum(ProofyardError):
    """Too few verifiers signed; the batch is tried again. `reasons` are those of all who did not, `left_out` the
    answers of auditors that they were shown."""

    def __init__(
        self, batch: int, signed: int, seats: int, reasons: Sequence[str], left_out: Sequence[LeftOut] = ()
    ) -> None:
        self.reasons, self.left_out = tuple(reasons), tuple(left_out)
        super().__init__(
            f"batch {batch}: {signed} of {seats} verifiers agree, two thirds are needed ({'; '.join(reasons)})"
        )


async def collect(context: Context, view: BatchView, digest: Digest, cid: Cid) -> tuple[int, bls.BlsSignature]:
    """Bitmap and aggregate signature of a quorum for the settlement `digest` of the record `cid`.

    Raises `NoQuorum`, `AlreadySigned` where this verifier is bound to another settlement of the attempt.
    """
    seats = await context.on_chain(lambda: context.chain.signers_of(view.batch))
    others = [seat for seat in seats if seat.node != context.wallet.address]
    if len(others) == len(seats):
        raise NoQuorum(view.batch, 0, len(seats), ["this verifier has no seat that counts for it"])
    checked = await asyncio.gather(*(_ask(context, seat, view.batch, cid, sign=False) for seat in others))
    _require_quorum(view.batch, len(seats), checked)
    own = await sign_once(context, view.ref, digest, cid)
    agreed = [
        seat
        for seat, answer in zip(others, checked, strict=True)
        if isinstance(answer, CoSigned) and not answer.left_out
    ]
    answers = await asyncio.gather(*(_signature(context, seat, view.batch, cid, digest) for seat in agreed))
    _require_quorum(
        view.batch,
        len(seats),
        [*answers, *(answer for answer in checked if isinstance(answer, str) or answer.left_out)],
    )
    slots = {seat.slot: a for seat, a in zip(agreed, answers, strict=True) if not isinstance(a, str)}
    slots[next(seat.slot for seat in seats if seat.node == context.wallet.address)] = own
    return sum(1 << slot for slot in slots), bls.aggregate(list(slots.values()))


def _require_quorum(batch: BatchId, seats: int, answers: Sequence[object]) -> None:
    """`answers` are those of all seats but this verifier's own; a text is a refusal."""
    left_out = [each for answer in answers if isinstance(answer, CoSigned) for each in answer.left_out]
    refusals = [answer for answer in answers if isinstance(answer, str)]
    refusals += [_told(answer) for answer in answers if isinstance(answer, CoSigned) and answer.left_out]
    agreeing = seats - len(refusals)
    if 3 * agreeing < 2 * seats:
        raise NoQuorum(batch, agreeing, seats, refusals, left_out)


def _told(answer: CoSigned) -> str:
    return ", ".join(f"{each.auditor} is called absent and has answered" for each in answer.left_out[:3])


async def _ask(context: Context, seat: VerifierRecord, batch: BatchId, cid: Cid, *, sign: bool) -> CoSigned | str:
    """One verifier's answer, or why there is none."""
    try:
        connection = await context.dial(seat.node, seat.endpoint)
        return await connection.request(CoSign(cid, batch, sign), reply=CoSigned, timeout=COSIGN_TIMEOUT_S)
    except TransportError as error:
        return f"{seat.node}: {error}"


async def _signature(
    context: Context, seat: VerifierRecord, batch: BatchId, cid: Cid, digest: Digest
) -> bls.BlsSignature | str:
    """One verifier's checked signature, or why there is none."""
    answer = await _ask(context, seat, batch, cid, sign=True)
    if isinstance(answer, str):
        return answer
    if answer.left_out:
        return _told(answer)
    signature = bls.BlsSignature(answer.signature)
    if not await asyncio.to_thread(bls.verify, seat.public_key, digest, signature):
        return f"{seat.node} signed something else"
    return signature
