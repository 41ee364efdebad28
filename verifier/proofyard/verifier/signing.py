"""One settlement for each batch, attempt and draw: what this verifier's BLS key has signed, and never signs beside it.

After a reorganisation the same number may be a batch of the same works that is drawn anew: what was signed under the
seed of the other chain holds nowhere on this one, and binds to nothing here. If that chain comes back, it does again.
"""

import asyncio

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from proofyard.protocol import bls
from proofyard.protocol.settlement import BatchRef
from proofyard.protocol.types import BatchId, Cid, Digest, ProofyardError
from proofyard.verifier.context import Context
from proofyard.verifier.store.tables import UNKNOWN_SEED, Signed


class AlreadySigned(ProofyardError):
    """This verifier has signed another settlement of the same attempt; two signatures would cost its stake."""

    exit_code = 4

    def __init__(self, batch: BatchId, attempt: int, record: Cid) -> None:
        self.batch, self.attempt, self.record = batch, attempt, record
        super().__init__(f"batch {batch} attempt {attempt}: this verifier has signed the settlement of record {record}")


async def bound_to(context: Context, ref: BatchRef) -> tuple[Digest, Cid] | None:
    """What was signed for this attempt, and which record it settles."""

    def read(session: Session) -> tuple[Digest, Cid] | None:
        row = _signed(session, ref)
        return None if row is None else (Digest(row.digest), Cid(row.record))

    return await context.database.ask(read)


async def sign_once(context: Context, ref: BatchRef, digest: Digest, record: Cid) -> bls.BlsSignature:
    """The signature over a settlement's digest, written down before it is made; the record that it binds this verifier
    to is on the disk before that, since no other can be signed any more.

    Raises `AlreadySigned` where another digest was signed for this attempt. Safe to repeat.
    """
    await asyncio.to_thread(context.store.sync, record)

    def bind(session: Session) -> None:
        row = _signed(session, ref)
        if row is None:
            session.add(Signed(batch=ref.batch, attempt=ref.attempt, seed=ref.seed, digest=digest, record=record))
        elif row.digest != digest:
            raise AlreadySigned(ref.batch, ref.attempt, Cid(row.record))

    try:
        await context.database.ask(bind)
    except IntegrityError:
        # Another process of this verifier wrote it at the same moment.
        return await sign_once(context, ref, digest, record)
    return await asyncio.to_thread(bls.sign, context.wallet.bls_secret(), digest)


def _signed(session: Session, ref: BatchRef) -> Signed | None:
    """What was signed under this draw, or before seeds were written down."""
    rows = (session.get(Signed, (ref.batch, ref.attempt, seed)) for seed in (bytes(ref.seed), UNKNOWN_SEED))
    return next((row for row in rows if row is not None), None)
