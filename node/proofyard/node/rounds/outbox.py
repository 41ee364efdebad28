"""What this node says to other voters: to each in its order, to all at the same time, and nothing for ever.

What is not taken is dropped: the agreement says again whatever still matters. What waits for one voter is bounded, and
the oldest goes first.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from proofyard.node.rounds.messages import AskRound, Heard, Message
from proofyard.node.rounds.results import Reach
from proofyard.protocol.types import Address
from proofyard.runtime.recent import Recent
from proofyard.transport import RequestFailed, TransportError

logger = logging.getLogger("proofyard.node")

MOST_WAITING = 32
MOST_UNREACHED = 1024
ANSWER_S = 10.0

Said = Message | AskRound
OnHeard = Callable[[Address, Said, Heard], None]


class Outbox:
    """`heard` is told what a voter answered to what."""

    def __init__(self, reach: Reach, heard: OnHeard) -> None:
        self._reach, self._heard = reach, heard
        self._waiting: dict[Address, deque[Said]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.unreached: Recent[Address, str] = Recent(MOST_UNREACHED)
        """Why a voter was not told anything the last time."""

    def send(self, receiver: Address, message: Said) -> None:
        """Soon. What waits already is not said twice."""
        waiting = self._waiting.get(receiver)
        if waiting is not None:
            if message not in waiting:
                waiting.append(message)
            return
        self._waiting[receiver] = deque((message,), maxlen=MOST_WAITING)
        task = asyncio.create_task(self._deliver(receiver))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _deliver(self, receiver: Address) -> None:
        """All that waits for one voter."""
        waiting = self._waiting[receiver]
        try:
            while waiting:
                message = waiting.popleft()
                try:
                    connection = await self._reach(receiver)
                    answer = await connection.request(message, reply=Heard, timeout=ANSWER_S)
                except RequestFailed as error:
                    self.unreached.drop(receiver)
                    logger.debug("%s does not take %s: %s", receiver, type(message).__name__, error)
                except TransportError as error:
                    self.unreached.put(receiver, str(error))
                    logger.debug("%s is not told %s: %s", receiver, type(message).__name__, error)
                else:
                    self.unreached.drop(receiver)
                    self._heard(receiver, message, answer)
        finally:
            del self._waiting[receiver]
