"""One settlement for each batch and attempt: what this verifier's BLS key has signed, and never signs beside it."""

import asyncio

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from proofyard.protocol import bls
from proofyard.protocol.types import BatchId, Cid, Digest, ProofyardError
from proofyard.verifier.context import Context
from proofyard.verifier.store.tables import Signed


class AlreadySigned(ProofyardError):
    """This verifier has signed another settlement of the same attempt; two signatures would cost its stake."""

    exit_code = 4

    def __init__(self, batch: BatchId, attempt: int, record: Cid) -> None:
        self.batch, self.attempt, self.record = batch, attempt, record
        super().__init__(f"batch {batch} attempt {attempt}: this verifier has signed the settlement of record {record}")


async def bound_to(context: Context, batch: BatchId, attempt: int) -> tuple[Digest, Cid] | None:
    """What was signed for this attempt, and which record it settles."""

    def read(session: Session) -> tuple[Digest, Cid] | None:
        row = session.get(Signed, (batch, attempt))
        return None if row is None else (Digest(row.digest), Cid(row.record))

    return await context.database.ask(read)


async def sign_once(context: Context, batch: BatchId, attempt: int, digest: Digest, record: Cid) -> bls.BlsSignature:
    """The signature over a settlement's digest, written down before it is made; the record that it binds this verifier
    to is on the disk before that, since no other can be signed any more.

    Raises `AlreadySigned` where another digest was signed for this attempt. Safe to repeat.
    """
    await asyncio.to_thread(context.store.sync, record)

    def bind(session: Session) -> None:
        row = session.get(Signed, (batch, attempt))
        if row is None:
            session.add(Signed(batch=batch, attempt=attempt, digest=digest, record=record))
        elif row.digest != digest:
            raise AlreadySigned(batch, attempt, Cid(row.record))

    try:
        await context.database.ask(bind)
    except IntegrityError:
        # Another process of this verifier wrote it at the same moment.
        return await sign_once(context, batch, attempt, digest, record)
    return await asyncio.to_thread(bls.sign, context.wallet.bls_secret(), digest)
