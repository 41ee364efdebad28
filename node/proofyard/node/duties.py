"""What a node does for itself in court, as software: each duty in a task of its own, so that none waits for another."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable
from typing import Any

from proofyard.chain import ChainClient, ChallengeId, ChallengeRecord, Phase, Refused
from proofyard.protocol.types import ProofyardError

logger = logging.getLogger("proofyard.node")

POLL_S = 2.0
RETRY_S = 5.0
SCANNED = 1000
"""Challenges before the newest that a starting node looks at; from then on it knows all."""
CLOSED = (Phase.UPHELD, Phase.REJECTED, Phase.DISMISSED)


class Duties:
    """At most one step at a time for each thing to do. A step that fails is logged and may begin again."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, asyncio.Task[None]] = {}

    def begin(self, key: Hashable, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start `step`, unless the last one of this key is still at work."""
        if not self.busy(key):
            task = asyncio.create_task(self._guarded(key, step))
            self._under_way[key] = task
            task.add_done_callback(lambda _: None if self.busy(key) else self._under_way.pop(key, None))

    def busy(self, key: Hashable) -> bool:
        task = self._under_way.get(key)
        return task is not None and not task.done()

    async def settle(self) -> None:
        """Until everything that is under way now has ended."""
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    async def close(self) -> None:
        for task in self._under_way.values():
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    async def _guarded(self, key: Hashable, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        name = " ".join(map(str, key)) if isinstance(key, tuple) else key
        try:
            await step()
        except Refused as error:
            logger.info("%s: %s", name, error)
        except ProofyardError as error:
            logger.warning("%s: %s; trying again", name, error)
            await asyncio.sleep(RETRY_S)
        except Exception:
            logger.exception("%s failed", name)
            await asyncio.sleep(RETRY_S)


class Docket:
    """The challenges that are not decided, looked at afresh each time: all that a restarted node has to know."""

    def __init__(self, chain: ChainClient) -> None:
        self._chain = chain
        self._open: set[ChallengeId] = set()
        self._seen = 0

    def look(self) -> list[ChallengeRecord]:
        """All open challenges as they are now, by number."""
        count = self._chain.challenge_count()
        first = max(1, self._seen + 1, count - SCANNED)
        self._open |= {ChallengeId(number) for number in range(first, count + 1)}
        self._seen = count
        records = [self._chain.challenge(challenge) for challenge in sorted(self._open)]
        self._open -= {record.id for record in records if record.phase in CLOSED}
        return [record for record in records if record.phase not in CLOSED]
