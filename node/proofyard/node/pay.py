"""Collecting what this node has earned, and keeping its owner's place on the bench: nobody does either for it.

Pay that is not claimed counts towards no reputation, and an owner that is not on a workload's bench sits on no jury.
"""

import asyncio
import logging
import math
from collections.abc import Iterable

from proofyard.chain import BatchSettled, BatchVoided, ChainClient, Claim, Refused, claim_of
from proofyard.chain.client import cause_final_at
from proofyard.chain.events import ChallengeClosed
from proofyard.disputes.network import Network
from proofyard.disputes.settled import settled_event
from proofyard.node.duties import Duties
from proofyard.node.earnings import worth_claiming
from proofyard.node.journal import Journal
from proofyard.node.news import Lookout, News
from proofyard.protocol.amounts import format_amount
from proofyard.protocol.record import MAX_RECORD_BYTES, decode_record, payouts_of
from proofyard.protocol.settlement import NOTHING, OperatorId, payout_root
from proofyard.protocol.types import Address, BatchId, ProofyardError, Wei
from proofyard.protocol.workload_bits import workload_bit

logger = logging.getLogger("proofyard.node")

COLLECT_EVERY_S = 60.0
CLAIM_AFTER_S = 300
"""Chain seconds after a batch's window; until then whoever wants to may claim for everybody."""
CLAIMS_AT_ONCE = 20
BENCH_EVERY_S = 3600.0
LATELY_S = 7 * 86_400
CLAIM_LATEST_S = 3 * 86_400
"""What has been due for so long is claimed however little it is: batches are looked at for `LATELY_S`."""
GAS_OF_CLAIM = 81_000
"""Gas of a node's first claim, which is the dearest (contracts/gas-snapshot.json)."""


class Pay:
    """Claims for `operator`, from the batches that it worked or audited in: for its owner, and for nobody else.
    `least`: what has to be due in all, in base units; `token_per_ether`: what a wei of gas is worth in them, 0 where it
    is not compared."""

    def __init__(
        self,
        chain: ChainClient,
        network: Network,
        journal: Journal,
        duties: Duties,
        operator: OperatorId,
        news: News | None = None,
        *,
        least: Wei = NOTHING,
        token_per_ether: int = 0,
    ) -> None:
        self._chain = chain
        self._network = network
        self._journal = journal
        self._duties = duties
        self._operator = operator
        self._least, self._token_per_ether = least, token_per_ether
        self._told = Wei(-1)
        self._news = news or News()
        self._lookout = Lookout(self._news, [BatchSettled, BatchVoided, ChallengeClosed], lambda: COLLECT_EVERY_S)
        self._paid: set[BatchId] = set()

    async def consider(self, now: int) -> None:
        """Claim what is due at chain time `now`."""
        if self._lookout.begins():
            self._duties.begin(("pay", "of this node"), lambda: self._collect(now))

    def next_at(self) -> float:
        """When it has to collect if nothing happens, in the event loop's time."""
        return self._lookout.next_at()

    async def _collect(self, now: int) -> None:
        due: list[Claim] = []
        ripe_at = math.inf
        for batch in sorted(await involved(self._chain, self._journal, now) - self._paid):
            state = await asyncio.to_thread(self._chain.batch, batch)
            ripe = bool(state.settled_at) and not state.open_challenges and now >= state.claimable_at + CLAIM_AFTER_S
            if state.dropped:
                self._paid.add(batch)
            elif ripe:
                try:
                    claims, final_at = await self._claims_in(batch, now)
                    due += claims
                    ripe_at = min(ripe_at, self._news.when(final_at + CLAIM_AFTER_S) if final_at else math.inf)
                except ProofyardError as error:
                    logger.info("what batch %s pays cannot be told yet: %s", batch, error)
                    ripe_at = -math.inf
            elif state.settled_at and not state.open_challenges:
                ripe_at = min(ripe_at, self._news.when(state.claimable_at + CLAIM_AFTER_S))
        latest = await asyncio.to_thread(self._waits_until, due, now) if due else 0
        if latest:
            ripe_at, due = min(ripe_at, self._news.when(latest)), []
        for start in range(0, len(due), CLAIMS_AT_ONCE):
            claims = due[start : start + CLAIMS_AT_ONCE]
            await asyncio.to_thread(self._chain.claim, claims)
            logger.info("claimed this node's pay in batches %s", ", ".join(str(claim.batch) for claim in claims))
        self._lookout.ended(ripe_at)

    def _waits_until(self, due: list[Claim], now: int) -> int:
        """0 where these are claimed at chain time `now`; else when they are at the latest, unless more comes. Raises
        what the chain does."""
        amount = Wei(sum(claim.payout.amount for claim in due))
        oldest = min(self._chain.batch(claim.batch).claimable_at for claim in due)
        gas = Wei(self._chain.gas_price() * GAS_OF_CLAIM * len(due) * self._token_per_ether)
        if worth_claiming(amount, now - oldest, self._least, gas, CLAIM_LATEST_S):
            return 0
        if amount != self._told:
            self._told = amount
            logger.info("%s wait for more before they are claimed", format_amount(amount))
        return oldest + CLAIM_LATEST_S

    async def _claims_in(self, batch: BatchId, now: int) -> tuple[list[Claim], int]:
        """What this node can claim of a batch, and when more of it can be: what a fault pays waits for that to be
        final; 0 for nothing more."""
        event = await asyncio.to_thread(settled_event, self._chain, batch)
        payouts = payouts_of(decode_record(await self._network.read(event.record, MAX_RECORD_BYTES)))
        if payout_root(batch, payouts) != event.payout_root:
            self._paid.add(batch)
            return [], 0
        own = [index for index, payout in enumerate(payouts) if payout.operator == self._operator]
        open_ = [i for i in own if not await asyncio.to_thread(self._chain.is_claimed, batch, i)]
        final_at = {index: await asyncio.to_thread(cause_final_at, self._chain, payouts[index]) for index in open_}
        owed = {index: at for index, at in final_at.items() if at is not None}
        if not owed:
            self._paid.add(batch)
        ripe = [index for index, at in owed.items() if at == 0 or now >= at + CLAIM_AFTER_S]
        waits = [at for index, at in owed.items() if index not in ripe]
        return [claim_of(batch, payouts, index) for index in ripe], min(waits, default=0)


async def involved(chain: ChainClient, journal: Journal, now: int) -> set[BatchId]:
    """The batches that a node has audited in, and those of the jobs that it worked for until lately."""
    jobs = journal.jobs_since(now - LATELY_S)
    events = [event for job in jobs for event in await asyncio.to_thread(chain.settled, job)]
    return journal.sealed_batches() | {event.batch for event in events}


async def keep_on_bench(chain: ChainClient, owner: Address, workloads: Iterable[str]) -> None:
    """Put the owner back on the benches of what its node offers, until cancelled; it may have left some, by retiring or
    for too little stake, and comes back only after a delay."""
    wanted = {name: workload_bit(name) for name in workloads}
    while True:
        try:
            lacking = [name for name, bit in wanted.items() if not await asyncio.to_thread(chain.on_bench, owner, bit)]
            if lacking:
                bits = sum(1 << bit for bit in {wanted[name] for name in lacking})
                await asyncio.to_thread(chain.join_bench, bits)
                logger.info("joined the bench of %s, whose juries this node can now sit on", ", ".join(lacking))
        except Refused as error:
            logger.info("a bench cannot be joined yet: %s", error)
        except ProofyardError as error:
            logger.warning("whether this node's owner is on its benches cannot be told: %s", error)
        except Exception:
            logger.exception("whether this node's owner is on its benches cannot be told")
        await asyncio.sleep(BENCH_EVERY_S)
