"""What a worker owes once it has committed: its states and its result, in time; and how much of them is in memory."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator

from proofyard.artifacts import ArtifactTooLarge, CorruptArtifact, fetch
from proofyard.protocol.types import Address, Cid, ProofyardError
from proofyard.verifier.context import Context, now
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.state import MAX_STATE_BYTES as MAX_STATE_BYTES

logger = logging.getLogger(__name__)

SMALL_BYTES = 64 << 20
"""Artifacts up to this size are read side by side, larger ones one after the other."""
OWED_POLL_S = 1.0
LEAST_TRY_S = 10.0
"""One attempt is given so long, however little patience is left."""
MOST_PATIENCES = 4
"""A large state on a slow line comes in several patiences, one that only trickles in never."""


class NotDelivered(ProofyardError):
    """A committed state did not arrive in time; `ProofyardError` so that it reads like any other reason."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(f"{what} was not delivered within {seconds:.0f} s")


async def owed(context: Context, worker: Address, cid: Cid, what: str, *, patience_s: float) -> int:
    """Have a committed artifact in the store, from its worker, other nodes or other verifiers; its size in bytes.

    Raises `NotDelivered` after `patience_s` seconds in which other nodes could reach this verifier: time in which it
    was cut off itself is not held against anybody, nor is what the bytes that come take at a slow line's rate, up to
    `MOST_PATIENCES` times as long in all. Raises `StateRefused` for what can be no state: a DAG that is no
    file, or one that unfolds to more than `MAX_STATE_BYTES`.
    """
    left, most = patience_s, MOST_PATIENCES * patience_s
    while True:
        start = now()
        try:
            if not await asyncio.to_thread(context.has_all, cid):
                peers = [*context.providers(worker), *await context.others()]
                await fetch(
                    *(context.store, cid, peers),
                    max_bytes=MAX_STATE_BYTES,
                    patience_s=max(left, LEAST_TRY_S),
                    within_s=max(most, LEAST_TRY_S),
                )
            return await asyncio.to_thread(context.store.size, cid)
        except (ArtifactTooLarge, CorruptArtifact) as error:
            raise StateRefused(f"{what}: {error}") from None
        except ProofyardError as error:
            logger.debug("%s of %s: %s", what, worker, error)
        if min(left, most) <= 0:
            raise NotDelivered(what, patience_s)
        await context.wait(OWED_POLL_S)
        if any(node != worker for node in context.members):
            spent = now() - start
            left, most = left - spent, most - spent


@contextlib.asynccontextmanager
async def room(context: Context, *sizes: int) -> AsyncGenerator[None]:
    """Memory for artifacts of these sizes, in bytes."""
    if sum(sizes) <= SMALL_BYTES:
        yield
        return
    async with context.memory:
        yield
