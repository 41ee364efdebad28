"""What a worker owes once it has committed: its states and its result, in time; and how much of them is in memory."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator

from proofyard.artifacts import ArtifactTooLarge, CorruptArtifact, fetch
from proofyard.protocol.types import Address, Cid, ProofyardError
from proofyard.verifier.context import Context
from proofyard.workloads.errors import StateRefused

logger = logging.getLogger(__name__)

MAX_STATE_BYTES = 8 << 30
"""More is no state or result, whoever made it: the same for everybody who judges."""
SMALL_BYTES = 64 << 20
"""Artifacts up to this size are read side by side, larger ones one after the other."""
OWED_POLL_S = 1.0


class NotDelivered(ProofyardError):
    """A committed state did not arrive in time; `ProofyardError` so that it reads like any other reason."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(f"{what} was not delivered within {seconds:.0f} s")


async def owed(context: Context, worker: Address, cid: Cid, what: str, *, patience_s: float) -> int:
    """Have a committed artifact in the store, from its worker, other nodes or other verifiers; its size in bytes.

    Raises `NotDelivered` after `patience_s` seconds in which other nodes could reach this verifier: time in which it
    was cut off itself is not held against anybody. Raises `StateRefused` for what can be no state: a DAG that is no
    file, or one that unfolds to more than `MAX_STATE_BYTES`.
    """
    left = patience_s
    while True:
        try:
            if not await asyncio.to_thread(context.has_all, cid):
                peers = [*context.providers(worker), *await context.others()]
                await fetch(context.store, cid, peers, max_bytes=MAX_STATE_BYTES)
            return await asyncio.to_thread(context.store.size, cid)
        except (ArtifactTooLarge, CorruptArtifact) as error:
            raise StateRefused(f"{what}: {error}") from None
        except ProofyardError as error:
            logger.debug("%s of %s: %s", what, worker, error)
        if left <= 0:
            raise NotDelivered(what, patience_s)
        start = time.monotonic()
        await asyncio.sleep(OWED_POLL_S)
        if any(node != worker for node in context.members):
            left -= time.monotonic() - start


@contextlib.asynccontextmanager
async def room(context: Context, *sizes: int) -> AsyncGenerator[None]:
    """Memory for artifacts of these sizes, in bytes."""
    if sum(sizes) <= SMALL_BYTES:
        yield
        return
    async with context.memory:
        yield
