"""Keeps a running node within its operator's limits, and says in its folder what it is about."""

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from proofyard.chain import JobRecord
from proofyard.node.agent import Agent
from proofyard.node.control import (
    LIMITS,
    ControlUnfit,
    Orders,
    Status,
    apply,
    hang_bell,
    limits_of,
    read_orders,
    write_status,
)
from proofyard.node.gate import Gate, Limits, Sample, blind_spots, waits_for_cheap_power
from proofyard.node.links import VerifierLinks
from proofyard.node.meter import Meter
from proofyard.node.sensors import Sensors
from proofyard.node.settings import NodeSettings
from proofyard.protocol.types import Address
from proofyard.transport import Endpoint

logger = logging.getLogger("proofyard.node")

POLL_S = 0.5
"""How often a node looks at what it is about, while something happens to it."""
LIVELY_S = 10.0
"""How long after something happened it may lead to more."""
SAMPLE_S, IDLE_S = 5.0, 60.0
"""Between two measurements; and where a node takes work and has none, since what it finds then would change nothing."""
RUNG_BYTES = 4096
MOST_WORKS = 16
"""Of what the node holds, what its status names."""


class Watch:
    """Reads what its operator commands, measures, opens and closes the node."""

    def __init__(
        self,
        settings: NodeSettings,
        agent: Agent,
        links: VerifierLinks,
        endpoint: Endpoint,
        sensors: Sensors,
        meter: Meter,
        reached: Callable[[], str] = str,
        sandbox: str = "",
    ) -> None:
        self._sandbox = sandbox
        self._folder: Path = settings.data_dir
        self._settings = limits_of(settings)
        self._agent, self._links, self._endpoint = agent, links, endpoint
        self._sensors, self._meter = sensors, meter
        self._reached = reached
        self._gate = Gate()
        self._limits: Limits = self._settings
        self._orders = Orders()
        self._sample = Sample()
        self._seen: tuple[int, int] | None = None
        self._left: tuple[str, ...] = ()
        self._stirred = asyncio.Event()
        self._sent: Counter[str] = Counter()
        self.page = ""
        """Where the node's page is, "" where there is none."""
        self.claims: Callable[[], tuple[str, ...]] = tuple
        """What this node claims of its machine, and what verifiers say of that, in words."""
        self.knows: Callable[[], str] = str
        """Whom it has found beside its verifiers, in words."""

    def on_sent(self, peer: Address, size: int) -> None:
        """A peer is sent so many bytes of an artifact."""
        self._sent["others" if self._links.connection(peer) is None else "verifiers"] += size

    def waits(self, job: JobRecord) -> str:
        """Why a job is left to hours in which power is cheap; empty where it is not."""
        return waits_for_cheap_power(self._limits, time.time(), _minute(), job.deadline)

    def stir(self) -> None:
        """Something happened to this node: look soon, and for a while."""
        self._stirred.set()

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        bell = hang_bell(self._folder)
        if bell is None:
            await self._look_on(POLL_S)
            return
        loop.add_reader(bell, self._rung, bell)
        try:
            await self._look_on(IDLE_S)
        finally:
            loop.remove_reader(bell)
            os.close(bell)

    def _rung(self, bell: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(bell, RUNG_BYTES)
        self.stir()

    async def _look_on(self, at_least_every_s: float) -> None:
        """Look every `POLL_S` while there is work or something has happened, and else once in so many seconds."""
        clock = asyncio.get_running_loop().time
        sampled, told, lively_until = float("-inf"), None, clock() + LIVELY_S
        while True:
            now = clock()
            if self._stirred.is_set():
                self._stirred.clear()
                lively_until = now + LIVELY_S
            idle = not self._agent.works and self._gate.closed is None
            try:
                changed = self._is_commanded() and await asyncio.to_thread(self._read_orders)
                if now - sampled >= (IDLE_S if idle else SAMPLE_S):
                    await asyncio.to_thread(self._measure, now)
                    sampled, changed = now, True
                tells = self._tells()
                if tells != told:
                    lively_until = now + LIVELY_S
                if changed or tells != told:
                    told = tells
                    await self._look()
            except OSError as error:
                logger.warning("what this node is about cannot be written to %s: %s", self._folder, error)
            except Exception:
                logger.exception("the limits cannot be looked at")
            if self._agent.works or now < lively_until:
                await asyncio.sleep(POLL_S)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(at_least_every_s, IDLE_S if idle else SAMPLE_S)):
                    await self._stirred.wait()

    def stopped(self, left: list[str]) -> None:
        """Note how the node has ended."""
        self._left = tuple(left)
        write_status(self._folder, self.status(running=False))

    def _measure(self, now: float) -> None:
        self._sample = self._sensors.sample()
        self._meter.sample(self._sample, now, time.time())

    def _tells(self) -> tuple[object, ...]:
        """What a status says that changes by itself, measurements aside."""
        works = tuple(work.name for work in self._agent.works[:MOST_WORKS])
        return works, {connection.peer for connection in self._links.live()}, self._reached(), self.claims(), self.page

    def _is_commanded(self) -> bool:
        """Whether something was commanded since the last look. A look costs less than a thread to look in."""
        try:
            found = (self._folder / LIMITS).lstat()
            seen = (found.st_mtime_ns, found.st_ino)
        except FileNotFoundError:
            seen = (0, 0)
        changed, self._seen = seen != self._seen, seen
        return changed

    def _read_orders(self) -> bool:
        """Whether they are obeyed. What cannot be obeyed changes nothing, and is told once."""
        try:
            self._orders = read_orders(self._folder)
        except ControlUnfit as error:
            logger.warning("%s", error)
            return False
        self._limits = apply(self._settings, self._orders)
        self._endpoint.limit_upload(self._limits.max_upload)
        for spot in blind_spots(self._limits, self._sample):
            logger.warning("this limit is not kept: %s", spot)
        return True

    async def _look(self) -> None:
        self._gate.look(self._limits, self._sample, time.time(), _minute())
        await self._obey()
        await asyncio.to_thread(write_status, self._folder, self.status())

    async def _obey(self) -> None:
        closed = self._gate.closed
        now_closed, said = closed is not None, self._agent.closed
        if closed is None:
            if said and self._agent.open():
                logger.info("takes work again")
        else:
            at_once = closed.at_once or (self._orders.hand_back and self._limits.paused_until != 0)
            if not said or (at_once and self._agent.works):
                logger.info("takes no work: %s", closed.reason)
                self._left = tuple(
                    f"{name} is given back" for name in await self._agent.close(closed.reason, at_once=at_once)
                )
        if now_closed != bool(said):
            self._links.announce_again()

    def status(self, *, running: bool = True) -> Status:
        """What the node is about now."""
        closed = self._gate.closed
        return Status(
            pid=os.getpid(),
            at=time.time(),
            address=self._endpoint.address,
            running=running,
            reason=closed.reason if closed else "",
            works=tuple(work.name for work in self._agent.works[:MOST_WORKS]),
            verifiers=tuple(sorted(connection.peer for connection in self._links.live())),
            limits=self._limits,
            sandbox=self._sandbox,
            blind=tuple(blind_spots(self._limits, self._sample)),
            sample={name: value for name, value in asdict(self._sample).items() if value is not None},
            page=self.page if running else "",
            left=self._left,
            claims=self.claims()[:MOST_WORKS],
            reached=self._reached(),
            knows=self.knows(),
            sent=dict(self._sent),
        )


def _minute() -> int:
    """Of the day, in this machine's local time."""
    now = time.localtime()
    return now.tm_hour * 60 + now.tm_min
