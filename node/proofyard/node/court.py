"""The node in court: one loop that looks at every open challenge and lets each part of the node do what is due."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence

from proofyard.chain import ChainClient, ChallengeRecord
from proofyard.node.absence import Absence
from proofyard.node.clerk import Clerk
from proofyard.node.defence import Defence
from proofyard.node.duties import POLL_S, Docket, Duties
from proofyard.node.juror import Juror
from proofyard.node.news import Lookout, News
from proofyard.node.pay import Pay
from proofyard.node.promises import Promises
from proofyard.node.purse import Purse
from proofyard.protocol.types import ProofyardError

logger = logging.getLogger("proofyard.node")

AFTER_ERROR_S = 10.0
MOST_PAUSE_S = 30.0


class CourtWatch:
    """Follows the Court. Parts that an operator has switched off are None."""

    def __init__(
        self,
        chain: ChainClient,
        duties: Duties,
        *,
        juror: Juror | None = None,
        clerk: Clerk | None = None,
        defence: tuple[Purse, Defence, Promises] | None = None,
        absence: Absence | None = None,
        pay: Pay | None = None,
        news: News | None = None,
    ) -> None:
        self._chain = chain
        self._news = news or News()
        self._docket = Docket(chain)
        self._lookout = Lookout(self._news, [chain.court], lambda: POLL_S)
        self._duties = duties
        self._juror = juror
        self._clerk = clerk
        self._defence = defence
        self._absence = absence
        self._pay = pay

    async def run(self) -> None:
        """Until cancelled; an unreachable chain is waited for."""
        try:
            while True:
                try:
                    if self.next_at() <= asyncio.get_running_loop().time():
                        await self.look()
                except ProofyardError as error:
                    logger.warning("challenges cannot be followed: %s", error)
                    await asyncio.sleep(POLL_S)
                except Exception:
                    logger.exception("challenges cannot be followed")
                    await asyncio.sleep(AFTER_ERROR_S)
                # Receipts may have come meanwhile, which change when there is something to do.
                await self._news.wait(min(MOST_PAUSE_S, self.next_at() - asyncio.get_running_loop().time()))
        finally:
            await self._duties.close()

    async def look(self) -> None:
        """Take notice of new challenges and begin with whatever is due."""
        self._lookout.begin()
        records, now = await asyncio.to_thread(lambda: (self._docket.look(), self._chain.now()))
        self._news.at(now)
        await self._each(records, now)
        if self._clerk is not None:
            self._clerk.forget({record.id for record in records})
        if self._defence is not None:
            purse, defence, promises = self._defence
            await asyncio.to_thread(purse.note, records)
            await defence.consider(records, now)
            await promises.consider(now)
        if self._absence is not None:
            await self._absence.consider(now)
        if self._pay is not None:
            await self._pay.consider(now)
        # Whatever is open has deadlines of its own, which the parts know: it is looked at all the time.
        self._lookout.ended(-math.inf if records else math.inf)

    def next_at(self) -> float:
        """When something has to be looked at if nothing happens, in the event loop's time; no oftener than the poll."""
        _, defence, promises = self._defence or (None, None, None)
        parts = [part.next_at() for part in (defence, promises, self._absence, self._pay) if part is not None]
        return min(self._lookout.next_at(), max(self._lookout.rested_at(), min(parts, default=math.inf)))

    async def _each(self, records: Sequence[ChallengeRecord], now: int) -> None:
        parts = [part.consider for part in (self._juror, self._clerk) if part is not None]
        for record in records:
            for consider in parts:
                await _safely(consider, record, now)


async def _safely(
    consider: Callable[[ChallengeRecord, int], Awaitable[None]], record: ChallengeRecord, now: int
) -> None:
    """One challenge that cannot be looked at keeps none of the others from being looked at."""
    try:
        await consider(record, now)
    except ProofyardError as error:
        logger.warning("challenge %s cannot be looked at: %s", record.id, error)
    except Exception:
        logger.exception("challenge %s cannot be looked at", record.id)
