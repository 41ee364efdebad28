"""Several processes of one verifier on one PostgreSQL, as far as the shell is concerned: they say that they live, tell
their engines of the jobs that are theirs, and take over what a dead one had.

Peers know one endpoint of a verifier, the Registry's: it is that of the process that leads. The others stand by,
without connections and jobs: one of them leads once the first does not live any more, and has its jobs then.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from proofyard.chain.events import JobOpened
from proofyard.protocol.types import Address, ProofyardError
from proofyard.verifier.context import Context
from proofyard.verifier.engine.events import ChainEvent, Event
from proofyard.verifier.store import claims
from proofyard.verifier.store.claims import TakenOver

logger = logging.getLogger(__name__)


class Door:
    """Lets nobody in while this process stands by: a peer has one connection to a verifier, and it must be to the
    process that leads."""

    def __init__(self) -> None:
        self.context: Context | None = None

    def admit(self, peer: Address) -> str | None:
        """Why a peer is refused."""
        stands_by = self.context is None or not self.context.leads
        return "this process stands by; the Registry says where its verifier is" if stands_by else None


async def keep_claims(context: Context, lead: Callable[[], Awaitable[None]]) -> None:
    """Until cancelled, where there are several. `lead` is done whenever this process comes to lead. Raises
    `TakenOver`."""
    own = context.claims
    if own is None:
        await asyncio.Event().wait()
        return
    led = False
    while True:
        try:
            await context.database.ask(lambda session: own.beat(session, len(context.members)))
            context.leads = await context.database.ask(own.leads)
            if context.leads and not led:
                logger.info("process %s leads", own.name)
                await lead()
            led = context.leads
        except TakenOver:
            raise
        except ProofyardError as error:
            logger.warning("process %s cannot lead yet: %s", own.name, error)
        except Exception:
            logger.exception("process %s could not see to what it has; trying again", own.name)
        await asyncio.sleep(claims.BEAT_S)


async def take_over(context: Context) -> bool:
    """Have what other processes had, and the engine begin with it; whether there was something. The chain is to be read
    on from the stored cursor then."""
    own = context.claims
    if own is None or not context.leads or time.monotonic() < context.looked_for_dead_at + claims.BEAT_S:
        return False
    context.looked_for_dead_at = time.monotonic()
    others = await context.database.ask(own.take_over)
    if not others:
        return False
    logger.warning("process %s takes over what %s had", own.name, ", ".join(others))
    await context.runner.reload()
    return True


async def of_this_process(context: Context, events: list[Event]) -> list[Event]:
    """What the engine is told of what the chain says: of new jobs, its own."""
    own = context.claims
    opened = [each.news.job for each in events if isinstance(each, ChainEvent) and isinstance(each.news, JobOpened)]
    if own is None or not opened:
        return events
    mine = await context.database.ask(lambda session: own.own(session, opened))
    return [
        each
        for each in events
        if not isinstance(each, ChainEvent) or not isinstance(each.news, JobOpened) or each.news.job in mine
    ]
