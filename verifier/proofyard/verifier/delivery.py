"""What a worker owes once it has committed: its states and its result, in time; and how much of them is in memory."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from functools import partial

from proofyard.artifacts import ArtifactTooLarge, ArtifactUnavailable, CorruptArtifact, fetch
from proofyard.protocol.types import Address, Cid, ProofyardError
from proofyard.runtime.chance import chance
from proofyard.verifier.context import Context, Turns
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.state import MAX_STATE_BYTES as MAX_STATE_BYTES

logger = logging.getLogger(__name__)

SMALL_BYTES = 64 << 20
"""Artifacts up to this size are read side by side, larger ones one after the other."""
OWED_POLL_S = 1.0
LEAST_TRY_S = 10.0
"""One attempt is given so long, however little patience is left."""
FETCHES_OF_WORKER = 2
MOST_PATIENCES = 4
"""A large state on a slow line comes in several patiences, one that only trickles in never."""
ASKED_AT_ONCE = 16
"""Other nodes that are asked for what its worker does not give, others each time."""


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
    return (await owed_all(context, worker, {cid: what}, patience_s=patience_s))[0]


async def owed_all(context: Context, worker: Address, named: Mapping[Cid, str], *, patience_s: float) -> list[int]:
    """The same of several artifacts of one worker, with what each is; small ones are asked for together."""
    found = await context.gatherer.gather(worker, context.connection(worker), list(named))
    sizes = []
    for cid, what in named.items():
        size = found[cid]
        sizes.append(await _owed(context, worker, cid, what, patience_s) if size is None else size)
    return sizes


async def _owed(context: Context, worker: Address, cid: Cid, what: str, patience_s: float) -> int:
    left, most = patience_s, MOST_PATIENCES * patience_s
    while True:
        async with _turn(context, worker):
            start = time.monotonic()
            try:
                if not await asyncio.to_thread(context.has_all, cid):
                    own, all_ = max(left, LEAST_TRY_S), max(most, LEAST_TRY_S)
                    await _fetched(context, worker, cid, patience_s=own, within_s=all_)
                return await asyncio.to_thread(context.store.size, cid)
            except (ArtifactTooLarge, CorruptArtifact) as error:
                raise StateRefused(f"{what}: {error}") from None
            except ProofyardError as error:
                logger.debug("%s of %s: %s", what, worker, error)
        if min(left, most) <= 0:
            raise NotDelivered(what, patience_s)
        await asyncio.sleep(OWED_POLL_S)
        if any(node != worker for node in context.members):
            spent = time.monotonic() - start
            left, most = left - spent, most - spent


@contextlib.asynccontextmanager
async def _turn(context: Context, worker: Address) -> AsyncGenerator[None]:
    """What one worker did not give in a list is asked for a little at a time: each such fetch asks others as well, and
    a crowd that was slow for a moment would be asked for everything at once. Patience does not run meanwhile."""
    turns = context.fetches.setdefault(worker, Turns(asyncio.Semaphore(FETCHES_OF_WORKER)))
    turns.users += 1
    try:
        async with turns.free:
            yield
    finally:
        turns.users -= 1
        if not turns.users:
            del context.fetches[worker]


async def _fetched(context: Context, worker: Address, cid: Cid, *, patience_s: float, within_s: float) -> None:
    """Have an artifact that is larger than a block, or that its worker did not give. Raises `ProofyardError`."""
    get, own, end = partial(fetch, context.store, cid), context.connection(worker), time.monotonic() + within_s
    if own is not None:
        with contextlib.suppress(ArtifactUnavailable):
            await get([own], max_bytes=MAX_STATE_BYTES, patience_s=patience_s, within_s=within_s)
            return
    others = [member.connection for node, member in context.members.items() if node != worker]
    peers = [*await context.others(), *chance.sample(others, min(len(others), ASKED_AT_ONCE))]
    left = max(0.0, end - time.monotonic())
    await get(peers, max_bytes=MAX_STATE_BYTES, patience_s=patience_s, within_s=left)


@contextlib.asynccontextmanager
async def room(context: Context, *sizes: int) -> AsyncGenerator[None]:
    """Memory for artifacts of these sizes, in bytes."""
    if sum(sizes) <= SMALL_BYTES:
        yield
        return
    async with context.memory:
        yield
