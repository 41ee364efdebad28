"""Checks what nodes claim of their machines: soon after they join, and at random times afterwards.

A node is asked while it holds nothing of this verifier's. It fills memory from a seed, commits to it, and opens
`STEPS` steps one after the other, each drawn when the one before was seen. This verifier multiplies them itself: at
this size Freivalds' test takes no less time, and would have to be sent the sums, four times as many bytes. A node that
fakes a share f of its steps is found out with probability 1 - (1 - f)^`STEPS`.

All of it is kept in memory alone: after a restart nodes are checked anew, and until then are trusted with little.
"""

import asyncio
import logging
import secrets
import time
from functools import partial

from proofyard.protocol.capability import Capability, read_capability
from proofyard.protocol.codec import CodecError
from proofyard.protocol.messages import (
    Ack,
    Announce,
    FillMemory,
    MemoryChecked,
    MemoryFilled,
    PrepareMemory,
    ShowStep,
    StepShown,
)
from proofyard.protocol.types import Address, Digest
from proofyard.runtime.chance import chance
from proofyard.runtime.recent import Recent
from proofyard.transport import Connection, DeadlineExceeded, RequestFailed, TransportError
from proofyard.verifier.context import Context, Member
from proofyard.verifier.proven import Proven
from proofyard.verifier.standing import joined
from proofyard.workloads.filling import Opening, StepRefused, check_root, check_step, seed_of

logger = logging.getLogger(__name__)

STEPS = 16
FIRST_S = 60.0
"""A node is checked for the first time within so long."""
AGAIN_S, AGAIN_SPREAD_S = 6 * 3600.0, 12 * 3600.0
SOON_S, SOON_SPREAD_S = 1900.0, 600.0
"""After a check that failed, or showed less than the claim: nodes refuse to be asked more often."""
BUSY_S, BUSY_SPREAD_S = 300.0, 300.0
PREPARE_S, SHOW_S = 150.0, 15.0
SILENT_S = 10.0
"""Who was not heard of at all for so long has lost its connection."""
LOOK_S = 1.0
AT_ONCE = 4
REMEMBERED = 16_384


class Proofs:
    """The checks of one verifier."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._known: Recent[Address, Proven] = Recent(REMEMBERED)
        self._next_at: dict[Address, float] = {}
        self._running: dict[Address, asyncio.Task[None]] = {}

    # Who claims what

    def take(self, node: Address, message: Announce) -> Proven:
        """What is known of a node that announces itself with this."""
        proven = self._known.get(node) or self._known.put(node, Proven())
        claim = self._claim(node, message)
        proven.claims(claim)
        if claim is not None:
            # Who goes and comes back is due when it was.
            self._next_at.setdefault(node, _now() + chance.uniform(0, FIRST_S))
        return proven

    def _claim(self, node: Address, message: Announce) -> Capability | None:
        if not message.capability:
            return None
        try:
            now = int(self._context.chain_time())
            return read_capability(message.capability, node, self._context.domain, now)
        except CodecError as error:
            logger.info("what %s claims of its machine counts for nothing: %s", node, error)
            return None

    # The checks

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                try:
                    self._begin_due()
                except Exception:
                    logger.exception("nodes cannot be checked")
                await asyncio.sleep(LOOK_S)
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _begin_due(self) -> None:
        now, context = _now(), self._context
        for node in [node for node, at in self._next_at.items() if at <= now]:
            member = context.members.get(node)
            if member is None or member.proven.claim is None:
                del self._next_at[node]
                continue
            if len(self._running) >= AT_ONCE:
                return
            if node in self._running or self._holds(node):
                self._next_at[node] = now + _spread(BUSY_S, BUSY_SPREAD_S)
                continue
            self._next_at[node] = now + _spread(AGAIN_S, AGAIN_SPREAD_S)
            task = self._running[node] = asyncio.create_task(self._check(member))
            task.add_done_callback(partial(self._ended, node))

    def _ended(self, node: Address, task: asyncio.Task[None]) -> None:
        del self._running[node]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s could not be checked", node, exc_info=error)

    def _holds(self, node: Address) -> bool:
        known = self._context.runner.engine.world.nodes.get(node)
        return known is None or bool(known.holds)

    async def _check(self, member: Member) -> None:
        """One check, from the question to what follows from its answers."""
        node, proven = member.connection.peer, member.proven
        before = proven.memory_bytes
        wait = await self._asked(member.connection, proven)
        self._next_at[node] = _now() + wait
        if proven.memory_bytes != before:
            logger.info("%s: %s", node, proven.said())
        current = self._context.members.get(node)
        if current is not None:
            self._context.runner.post(joined(current))

    async def _asked(self, connection: Connection, proven: Proven) -> float:
        """Check; how long to wait for the next time."""
        busy, soon = _spread(BUSY_S, BUSY_SPREAD_S), _spread(SOON_S, SOON_SPREAD_S)
        try:
            ready = await connection.request(PrepareMemory(proven.asks), reply=Ack, timeout=PREPARE_S)
            if not ready.proceed:
                logger.debug("%s is not checked now: %s", connection.peer, ready.reason)
                return busy
        except TransportError as error:
            logger.debug("%s is not checked now: %s", connection.peer, error)
            return busy
        try:
            seconds = await self._filled(connection, proven)
        except StepRefused as error:
            proven.failed(str(error), self._now())
        except DeadlineExceeded as error:
            if connection.silent_s >= SILENT_S:
                proven.broke_off(str(error), self._now())
            else:
                proven.failed(f"{proven.asks} blocks were not shown within {proven.due_s:.0f} s", self._now())
        except RequestFailed as error:
            if error.code == "busy":
                proven.broke_off(str(error), self._now())
            else:
                proven.failed(str(error)[:300], self._now())
        except TransportError as error:
            proven.broke_off(str(error), self._now())
        else:
            proven.showed(seconds, self._now())
        told = MemoryChecked(proven.blocks, proven.reason[:500])
        try:
            await connection.request(told, reply=Ack, timeout=SHOW_S)
        except TransportError as error:
            logger.debug("%s does not hear what was found: %s", connection.peer, error)
        whole = proven.claim is not None and proven.blocks >= proven.claim.blocks
        return _spread(AGAIN_S, AGAIN_SPREAD_S) if whole and not proven.unfinished else soon

    async def _filled(self, connection: Connection, proven: Proven) -> float:
        """Have a memory filled and look at it; the seconds that filling it took. Raises `StepRefused` and
        `TransportError`."""
        nonce, blocks = Digest(secrets.token_bytes(32)), proven.asks
        start = _now()
        filled = await connection.request(FillMemory(nonce), reply=MemoryFilled, timeout=proven.due_s)
        seconds = _now() - start
        seed = seed_of(self._context.domain, connection.peer, nonce)
        await asyncio.to_thread(check_root, seed, filled.root, blocks, filled.path)
        for _ in range(STEPS):
            number = 1 + secrets.randbelow(blocks - 1)
            shown = await connection.request(ShowStep(nonce, number), reply=StepShown, timeout=SHOW_S)
            opening = Opening(number, shown.before, shown.earlier, shown.paths)
            await asyncio.to_thread(check_step, seed, filled.root, blocks, opening)
        return seconds

    def _now(self) -> int:
        return int(self._context.chain_time())


def _spread(least_s: float, spread_s: float) -> float:
    return least_s + chance.uniform(0, spread_s)


def _now() -> float:
    return time.monotonic()
