"""What a node knows to have happened on chain since it last looked, so that it need not ask.

The chain's endpoint pushes logs (`proofyard.chain.pushed`). A push is never believed: it only makes somebody look, and
what is seen counts. Where nothing is pushed everybody looks as often as before there were pushes, and with them now and
then all the same, in case the endpoint keeps something to itself.
"""

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable

from proofyard.chain.events import Event, topic_of

LEAST_CHECK_S, CHECK_S = 60.0, 600.0
"""Between two looks without news, while these are pushed: as the windows of the network allow."""
CHECKS = 8
"""Looks in the shortest of a network's windows."""


class News:
    """Counts what was pushed, and wakes who waits. Before `live`, and after it, nothing is."""

    def __init__(self) -> None:
        self.live = False
        self.check_s = CHECK_S
        self._counts: Counter[str] = Counter()
        self._gaps = 0
        self._changed = asyncio.Event()
        self._clock: tuple[int, float] | None = None

    def up(self) -> None:
        """From now on everything is pushed; what happened before has to be looked at."""
        self.live = True
        self._gaps += 1
        self._wake()

    def down(self) -> None:
        """Nothing is pushed any more."""
        self.live = False
        self._wake()

    def heard(self, topic: str, address: str) -> None:
        """A log with this first topic, of the contract at this address."""
        self._counts[topic] += 1
        self._counts[address.lower()] += 1
        self._wake()

    def check_within(self, *windows_s: float) -> None:
        """Look often enough for windows of so many seconds."""
        self.check_s = min(CHECK_S, max(LEAST_CHECK_S, min(windows_s) / CHECKS))

    def at(self, chain_time: int) -> None:
        """The chain's clock was just read."""
        self._clock = chain_time, asyncio.get_running_loop().time()

    def when(self, chain_time: int) -> float:
        """When the chain's clock will be there, in the event loop's time: it is written once in a block, so not before
        then."""
        if self._clock is None:
            return -math.inf
        return self._clock[1] + chain_time - self._clock[0]

    def count(self, kinds: Iterable[str]) -> int:
        """A number that is another one after any news of these kinds, topics or addresses."""
        return self._gaps + sum(self._counts[kind] for kind in kinds)

    async def wait(self, seconds: float) -> None:
        """Until there are any news, but no longer."""
        changed = self._changed
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Lookout:
    """When one part of a node looks at the chain: after news of some kinds, when it said that it would, and when it
    failed; but not more often than once in `every_s()`, and as often as that where no news are pushed."""

    def __init__(self, news: News, kinds: Iterable[type[Event] | str], every_s: Callable[[], float]) -> None:
        self._news = news
        self._kinds = tuple(kind.lower() if isinstance(kind, str) else topic_of(kind) for kind in kinds)
        self._every_s = every_s
        self._looked = -math.inf
        self._looking = self._seen = -1
        self._wanted = math.inf

    def next_at(self) -> float:
        """The time of the next look if nothing happens, in the event loop's time."""
        news = self._news
        if not news.live or self._seen != news.count(self._kinds):
            return self._looked + self._every_s()
        return max(self._looked + self._every_s(), min(self._wanted, self._looked + news.check_s))

    def rested_at(self) -> float:
        """Before this time there is no look, whatever happens."""
        return self._looked + self._every_s()

    def begins(self) -> bool:
        """Whether a look is due; it begins with this."""
        due = self.next_at() <= asyncio.get_running_loop().time()
        if due:
            self.begin()
        return due

    def begin(self) -> None:
        """Look now. What happens meanwhile is looked at again."""
        self._looked, self._looking = asyncio.get_running_loop().time(), self._news.count(self._kinds)

    def ended(self, wanted: float = math.inf) -> None:
        """The look has succeeded; the next one is `wanted` at a time of the event loop's, be there news or not."""
        self._seen, self._wanted = self._looking, wanted
