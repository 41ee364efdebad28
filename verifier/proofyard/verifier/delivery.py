"""What a worker owes once it has committed: its states and its result, in time."""

import logging

from proofyard.protocol.types import Address, Cid, ProofyardError
from proofyard.verifier.context import Context, now

logger = logging.getLogger(__name__)

MAX_STATE_BYTES = 8 << 30
OWED_POLL_S = 1.0


class NotDelivered(ProofyardError):
    """A committed state did not arrive in time; `ProofyardError` so that it reads like any other reason."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(f"{what} was not delivered within {seconds:.0f} s")


async def owed(context: Context, worker: Address, cid: Cid, what: str) -> bytes:
    """A committed artifact, from its worker or anybody who has it.

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
