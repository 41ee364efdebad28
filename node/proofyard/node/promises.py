"""Receipts that were not honoured: a commitment that no batch of its job holds by the deadline costs its verifier.

Whether one holds it follows from the member lists that the commits name. A batch whose list cannot be had is waited
for, as its verifier might still answer with it and the bond would be lost; but not until it is too late, because a list
that is hidden until then would be an answer to everything.
"""

import asyncio
import logging
import math
from collections import OrderedDict
from pathlib import Path

from proofyard.chain import BatchCommitted, ChainClient, ChallengeId, Court, Refused
from proofyard.disputes.committed import load_members
from proofyard.disputes.errors import ListWithheld
from proofyard.disputes.network import Network
from proofyard.node.duties import Duties
from proofyard.node.journal import Journal
from proofyard.node.news import Lookout, News
from proofyard.node.purse import OverBudget, Purse
from proofyard.node.receipts import KeptReceipt, write_receipt
from proofyard.protocol.settlement import Header
from proofyard.protocol.types import BatchId, Digest

logger = logging.getLogger("proofyard.node")

LOOK_EVERY_S = 10.0
LISTS = 64
LAST = 0.6
"""Part of the window after which nobody is waited for."""


class Promises:
    """Looks after the receipts in a node's `journal`. What is found broken is a file in `folder` as well."""

    def __init__(
        self,
        chain: ChainClient,
        network: Network,
        journal: Journal,
        folder: Path,
        duties: Duties,
        purse: Purse,
        news: News | None = None,
    ) -> None:
        self._chain = chain
        self._court = Court(chain)
        self._network = network
        self._journal = journal
        self._folder = folder
        self._duties = duties
        self._purse = purse
        self._news = news or News()
        self._lookout = Lookout(self._news, [], lambda: LOOK_EVERY_S)
        self._looked_until = 0
        self._leaves: OrderedDict[BatchId, frozenset[Digest]] = OrderedDict()
        self._done: set[Digest] = set()

    async def consider(self, now: int) -> None:
        """Look at what is overdue at chain time `now`."""
        if self.next_at() <= asyncio.get_running_loop().time():
            self._lookout.begin()
            self._duties.begin(("receipts", "of this node"), lambda: self._look(now))

    def next_at(self) -> float:
        """When it has to look at receipts, in the event loop's time: when the next falls due, and now and then at those
        of which it cannot be told whether they were honoured."""
        due = self._journal.next_due(self._looked_until)
        fresh = math.inf if due is None else self._news.when(due + 1)
        return min(self._lookout.next_at(), max(self._lookout.rested_at(), fresh))

    async def _look(self, now: int) -> None:
        window = self._chain.params().challenge_window
        due = self._journal.receipts(now - window - 1, now - 1)
        self._done &= {receipt.leaf for receipt in due}
        for receipt in due:
            if receipt.leaf not in self._done:
                await self._enforce(receipt, last=now > receipt.deadline + LAST * window)
        self._looked_until = now - 1
        open_ones = any(receipt.leaf not in self._done for receipt in due)
        self._lookout.ended(-math.inf if open_ones else math.inf)

    async def _enforce(self, receipt: KeptReceipt, *, last: bool) -> None:
        name = f"the receipt of {receipt.verifier} for task {receipt.task} of job {receipt.job}"
        holder = await self._holder(receipt)
        if holder is None and not last:
            return
        self._done.add(receipt.leaf)
        if holder:
            logger.info("%s was honoured in batch %s", name, holder)
            return
        await asyncio.to_thread(write_receipt, self._folder, receipt)
        try:
            await asyncio.to_thread(self._purse.afford, self._chain.params().court.bond, keep_backing=True)
            challenge = await asyncio.to_thread(self._challenge, receipt)
        except (OverBudget, Refused) as error:
            logger.warning("%s was broken and stays unchallenged: %s", name, error)
        else:
            found = "a list that may hold the commitment is hidden" if holder is None else "no batch holds it"
            logger.warning("%s was broken: %s; opened challenge %s", name, found, challenge)

    def _challenge(self, receipt: KeptReceipt) -> ChallengeId:
        return self._court.challenge_receipt(receipt.leaf, receipt.job, receipt.deadline, receipt.signature)

    async def _holder(self, receipt: KeptReceipt) -> BatchId | None:
        """The batch that holds a commitment, 0 for none; None while that cannot be told."""
        known = True
        for event in await asyncio.to_thread(self._chain.committed, receipt.job):
            if (await asyncio.to_thread(self._chain.batch, event.batch)).dropped:
                continue
            leaves = await self._leaves_of(event)
            if leaves is None:
                known = False
            elif receipt.leaf in leaves:
                return event.batch
        return BatchId(0) if known else None

    async def _leaves_of(self, event: BatchCommitted) -> frozenset[Digest] | None:
        if event.batch not in self._leaves:
            header = Header(event.root, event.size, event.members, event.lines)
            try:
                members = await load_members(self._network.read, event.batch, header)
            except ListWithheld as error:
                logger.info("%s", error)
                return None
            self._leaves[event.batch] = frozenset(member.commitment.struct_hash() for member in members)
            while len(self._leaves) > LISTS:
                self._leaves.popitem(last=False)
        return self._leaves[event.batch]
