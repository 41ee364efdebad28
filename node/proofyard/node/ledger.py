"""What this node earned lately: from the records of settled batches, each read once, and from nothing else."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

from proofyard.chain import ChainClient
from proofyard.disputes.network import Network
from proofyard.disputes.settled import settled_event
from proofyard.node.journal import Journal
from proofyard.node.pay import involved
from proofyard.protocol.record import MAX_RECORD_BYTES, decode_record, payouts_of
from proofyard.protocol.settlement import OperatorId, payout_root
from proofyard.protocol.types import BatchId, ProofyardError, Wei

logger = logging.getLogger("proofyard.node")

HOUR_S, DAY_S = 3600, 86_400
WEEK_S = 7 * DAY_S
MOST_BATCHES = 500
"""The newest of those that the node worked or audited in."""
READ_AT_ONCE = 50
"""Records that are read in one go; the others follow."""


@dataclass(frozen=True)
class Pay:
    """What one batch pays, in base units. `indices`: of its payouts, those that were not claimed when last looked."""

    batch: BatchId
    settled_at: int
    claimable_at: int
    amount: Wei
    amounts: dict[int, Wei]
    indices: tuple[int, ...]

    @property
    def unpaid(self) -> Wei:
        return Wei(sum(self.amounts[index] for index in self.indices))


@dataclass(frozen=True)
class Earned:
    """Base units at chain time `at`. `hour`, `day`, `week`: settled within the last; `unpaid`: settled and not claimed,
    of which `due` can be claimed; `a_day`: what a day earns at the pace of the last week, or of the time since the
    first batch; None where less than an hour is known. `unread`: batches whose records could not be had yet."""

    at: int
    hour: Wei
    day: Wei
    week: Wei
    unpaid: Wei
    due: Wei
    a_day: Wei | None
    batches: int
    unread: int


def earned(pays: Iterable[Pay], at: int, unread: int = 0) -> Earned:
    """Add up what batches pay, at chain time `at`."""
    lately = [pay for pay in pays if pay.settled_at > at - WEEK_S]

    def within(seconds: int) -> Wei:
        return Wei(sum(pay.amount for pay in lately if pay.settled_at > at - seconds))

    known_s = at - min((pay.settled_at for pay in lately), default=at)
    return Earned(
        at=at,
        hour=within(HOUR_S),
        day=within(DAY_S),
        week=within(WEEK_S),
        unpaid=Wei(sum(pay.unpaid for pay in lately)),
        due=Wei(sum(pay.unpaid for pay in lately if pay.claimable_at <= at)),
        a_day=Wei(within(WEEK_S) * DAY_S // known_s) if known_s >= HOUR_S else None,
        batches=len(lately),
        unread=unread,
    )


class Ledger:
    """The pay of `operator`."""

    def __init__(self, chain: ChainClient, network: Network, journal: Journal, operator: OperatorId) -> None:
        self._chain, self._network, self._journal, self._operator = chain, network, journal, operator
        self._pays: dict[BatchId, Pay] = {}

    async def look(self) -> Earned:
        """What is known now. Raises what the chain does."""
        now = await asyncio.to_thread(self._chain.now)
        batches = sorted(await involved(self._chain, self._journal, now), reverse=True)[:MOST_BATCHES]
        known = [self._pays[batch] for batch in batches if batch in self._pays]
        fresh = [pay if not pay.indices else await asyncio.to_thread(self._again, pay, now) for pay in known]
        self._pays = {pay.batch: pay for pay in fresh if pay is not None}
        unread = 0
        for number, batch in enumerate([batch for batch in batches if batch not in self._pays]):
            pay = await self._read(batch) if number < READ_AT_ONCE else None
            if pay is not None:
                self._pays[batch] = pay
            else:
                unread += 1
        return earned(self._pays.values(), now, unread)

    async def _read(self, batch: BatchId) -> Pay | None:
        """What a batch pays; None where it is not settled, or cannot be told now."""
        try:
            state = await asyncio.to_thread(self._chain.batch, batch)
            if not state.settled_at:
                return None
            event = await asyncio.to_thread(settled_event, self._chain, batch)
            payouts = payouts_of(decode_record(await self._network.read(event.record, MAX_RECORD_BYTES)))
        except ProofyardError as error:
            logger.info("what batch %s pays cannot be told yet: %s", batch, error)
            return None
        if payout_root(batch, payouts) != event.payout_root:
            payouts = ()
        amounts = {index: each.amount for index, each in enumerate(payouts) if each.operator == self._operator}
        total = Wei(sum(amounts.values()))
        found = Pay(batch, state.settled_at, state.claimable_at, total, amounts, tuple(amounts))
        return await asyncio.to_thread(self._open, found)

    def _again(self, pay: Pay, now: int) -> Pay | None:
        """The same with what is claimed by now; None where its settlement was voided, and another may have come."""
        if now < pay.claimable_at and self._chain.batch(pay.batch).settled_at != pay.settled_at:
            return None
        return self._open(pay)

    def _open(self, pay: Pay) -> Pay:
        left = tuple(index for index in pay.indices if not self._chain.is_claimed(pay.batch, index))
        return replace(pay, indices=left)
