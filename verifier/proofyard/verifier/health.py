"""Whether a verifier is alive and ready, and its gauges: looked at every so often, read by whoever asks.

Alive: the engine takes events in. Ready: beside that, the database takes what is written, the chain is followed, and
the seat counts for the quorum. Nothing is looked at for a request: whoever asks a thousand times a second learns what
was found `SAMPLE_S` ago at most.
"""

import asyncio
import logging
import shutil
import time
from collections import Counter as Tally
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from proofyard.chain import VerifierRecord
from proofyard.protocol.types import ProofyardError
from proofyard.verifier.api import types as out
from proofyard.verifier.context import Context
from proofyard.verifier.metrics import TOKEN, Counts, Metrics
from proofyard.verifier.store.tables import Duty

logger = logging.getLogger(__name__)

SAMPLE_S = 5.0
"""Between two looks; longer where counting in the database takes long."""
SOON_S = 1.0
"""Between two looks where something does not hold."""
SHARE = 20
"""Counting takes at most one part in so many of the time."""
BALANCE_S = 30.0
PATIENCE_S = 10.0
"""How long the engine or the database may take to answer a look."""
FOLLOWED_S = 60.0
"""The chain counts as followed where it was read so recently."""
LEAST_DISK = 256 << 20
"""Bytes that have to be free where the data is: what is written may last, and blocks may not."""
DEAD_S = 60.0
"""An engine that has taken nothing in for so long is not alive."""
LAG_S = 0.5
CLOCK_OFF_S = 60.0
"""A machine's clock that is further from the chain's than this is told of; blocks may be some seconds late."""


@dataclass
class _Found:
    holds: bool
    reason: str
    at: float


class Watch:
    """Looks after one verifier. `checks` by name: engine, database, chain, seat."""

    def __init__(self, context: Context, metrics: Metrics) -> None:
        self._context, self._metrics = context, metrics
        self._began = time.monotonic()
        self._found: dict[str, _Found] = {}
        self._counted = 0.0
        """Seconds that counting took."""
        self._balance_at = float("-inf")
        self._clock_is_off = False

    # What is said

    def health(self) -> out.Health:
        context, engine = self._context, self._found.get("engine")
        reasons = []
        if engine is None and time.monotonic() - self._began > DEAD_S:
            reasons.append("the engine has not begun")
        elif engine is not None and not engine.holds and time.monotonic() - engine.at > DEAD_S:
            reasons.append(engine.reason)
        return out.Health(
            alive=not reasons,
            verifier=context.wallet.address,
            nodes=len(context.members),
            chain_id=str(context.domain.chain_id),
            reasons=reasons,
        )

    def ready(self) -> out.Ready:
        now, names = time.monotonic(), ("engine", "database", "chain", "seat")
        missing = _Found(False, "not looked at yet", self._began)
        found = {name: self._found.get(name, missing) for name in names}
        checks = [
            out.Check(name=name, holds=each.holds, reason=each.reason, seconds_ago=round(now - each.at, 3))
            for name, each in found.items()
        ]
        return out.Ready(ready=all(check.holds for check in checks), checks=checks)

    # What is looked at

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.gather(self._measure_lag(), self._look_again())

    async def _measure_lag(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(LAG_S)
            self._metrics.loop_lag.observe(max(0.0, time.monotonic() - before - LAG_S))

    async def _look_again(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:
                logger.exception("health could not be looked at; trying again")
            usual = SAMPLE_S if self.ready().ready else SOON_S
            await asyncio.sleep(max(usual, self._counted * SHARE))

    async def look(self) -> None:
        """At everything, once."""
        await asyncio.gather(
            self._check("engine", self._engine),
            self._check("database", self._database),
            self._check("chain", self._chain),
            self._check("seat", self._seat),
        )
        self._note()
        if self._found["database"].holds:
            await self._note_outbox()
            await self._count()
        await self._balances()

    async def _check(self, name: str, look: Callable[[], Awaitable[str]]) -> None:
        """Note why a condition does not hold. Of one that goes on not to hold, the time is that of its beginning."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                reason = await look()
        except TimeoutError:
            reason = f"the {name} gave no answer in {PATIENCE_S:.0f} s"
        except (ProofyardError, SQLAlchemyError, OSError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0][:300]
        before = self._found.get(name)
        lasts = bool(reason) and before is not None and not before.holds
        self._found[name] = _Found(not reason, reason, before.at if lasts and before else time.monotonic())
        if reason and not lasts:
            logger.warning("not ready: %s: %s", name, reason)
        self._metrics.check.labels(name).set(not reason)

    async def _engine(self) -> str:
        await self._context.runner.tell_all([])
        return ""

    async def _database(self) -> str:
        await asyncio.to_thread(self._write)
        folder = self._context.settings.data_dir
        free = (await asyncio.to_thread(shutil.disk_usage, folder)).free
        self._metrics.disk_free.set(free)
        return "" if free >= LEAST_DISK else f"only {free >> 20} MiB are left on the disk of {folder}"

    def _write(self) -> None:
        with self._context.database.session() as session:
            session.merge(Duty(name=f"ready {self._context.database.process}".strip(), value=int(time.time())))

    async def _chain(self) -> str:
        silent = self._context.followed_s()
        self._metrics.followed.set(silent)
        if silent > FOLLOWED_S:
            return f"the chain was last read {silent:.0f} s ago" if silent < 1e9 else "the chain was not read yet"
        self._look_at_clock()
        return ""

    def _look_at_clock(self) -> None:
        """Nothing rests on this machine's clock but the times in its log, so a wrong one is told of and no more."""
        off_s = self._context.clock_off_s()
        if (abs(off_s) > CLOCK_OFF_S) == self._clock_is_off:
            return
        self._clock_is_off = not self._clock_is_off
        if self._clock_is_off:
            way = "ahead of" if off_s > 0 else "behind"
            logger.warning(
                "this machine's clock is %.0f s %s the chain's; deadlines go by the chain's, but set it right (NTP)",
                abs(off_s),
                way,
            )
        else:
            logger.info("this machine's clock agrees with the chain's again")

    async def _seat(self) -> str:
        context = self._context
        seats = await context.verifiers()
        own = next((seat for seat in seats if seat.node == context.wallet.address), None)
        if own is None:
            return f"{context.wallet.address} has no seat: `proofyard verifier register`, or add stake"
        return "" if own.counts else "its seat does not count for the quorum yet"

    # Gauges

    def _note(self) -> None:
        context, metrics = self._context, self._metrics
        runner, database = context.runner, context.database
        metrics.nodes.set(len(context.members))
        metrics.leads.set(context.leads)
        metrics.waiting.set(runner.waiting)
        metrics.note_running(Tally(str(key[0]) for key in list(runner.effects_running)))
        fresh = []
        while database.commits:
            fresh.append(database.commits.popleft())
        metrics.note_commits(fresh)
        chain_time, block = context.clock()
        metrics.block.set(block)
        metrics.block_age.set(max(0.0, chain_time - context.block_time()))
        metrics.ready.set(self.ready().ready)

    async def _note_outbox(self) -> None:
        outbox = self._context.outbox
        if outbox is not None:
            self._metrics.note_outbox([row.written_at for row in await asyncio.to_thread(lambda: outbox.in_flight)])

    async def _count(self) -> None:
        context, start = self._context, time.monotonic()
        try:
            counts = await asyncio.to_thread(Counts, context.database.engine, context.chain_time())
        except SQLAlchemyError as error:
            logger.warning("nothing could be counted: %s", str(error).splitlines()[0][:200])
            return
        self._counted = time.monotonic() - start
        self._metrics.note_counts(counts)

    async def _balances(self) -> None:
        if time.monotonic() - self._balance_at < BALANCE_S:
            return
        context, wallet = self._context, self._context.wallet.address
        seat = next((seat for seat in await self._seats() if seat.node == wallet), None)
        try:
            async with asyncio.timeout(PATIENCE_S):
                self._metrics.ether.set(await context.on_chain(partial(context.chain.eth_balance, wallet)) / TOKEN)
                self._metrics.credit.set(await context.on_chain(partial(context.chain.token_balance, wallet)) / TOKEN)
                if seat is not None:
                    account = await context.on_chain(partial(context.chain.account, seat.owner))
                    self._metrics.stake.set(account.stake / TOKEN)
                    self._metrics.exposed.set((await context.params()).in_wei(account.exposed) / TOKEN)
        except (ProofyardError, TimeoutError) as error:
            logger.warning("the balances could not be read: %s", error or "no answer in time")
            return
        self._balance_at = time.monotonic()

    async def _seats(self) -> list[VerifierRecord]:
        try:
            return await self._context.verifiers()
        except ProofyardError:
            return []
