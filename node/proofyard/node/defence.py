"""A node's own defence: it challenges false faults against itself and appeals first verdicts that it can refute.

Nobody else has a reason to. Everything is decided by the same judging that juries use, and said in the log with its
reason; what it cannot refute it lets be, because a lost bond comes on top of a lost stake. An auditor that was outvoted
and is right shows the segment as well, so that a jury that clears it convicts the worker whose lie it did not cover.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from proofyard.chain import ChainClient, ChallengeId, ChallengeRecord, Court, Kind, Phase, SlashRecord, Step
from proofyard.chain.events import ChallengeOpened, Faulted, topic_of, word
from proofyard.disputes.committed import load_committed
from proofyard.disputes.errors import DisputeError
from proofyard.disputes.judging import judge, judge_fault, judge_record
from proofyard.disputes.network import Network
from proofyard.disputes.replaying import SegmentExecutor
from proofyard.disputes.settled import cid_of_record, salt_in_record
from proofyard.node.duties import Duties
from proofyard.node.news import Lookout, News
from proofyard.node.purse import OverBudget, Purse
from proofyard.protocol.settlement import FaultReason, OperatorId
from proofyard.protocol.types import Address, BatchId
from proofyard.protocol.validate import RecordInvalid

logger = logging.getLogger("proofyard.node")

LOOK_EVERY_S = 5.0
PATIENCE_S = 20.0
"""How long somebody else's state or record is asked for; its own states a node has."""
COSTLY = (FaultReason.MISMATCH, FaultReason.WITHHELD, FaultReason.FALSE_AUDIT)


class Defence:
    """Acts for `operator` of `owner`, as the hot key that `chain` signs with."""

    def __init__(
        self,
        chain: ChainClient,
        network: Network,
        executor: SegmentExecutor,
        duties: Duties,
        purse: Purse,
        *,
        operator: OperatorId,
        owner: Address,
        earlier: Callable[[int], Awaitable[set[BatchId]]],
        news: News | None = None,
    ) -> None:
        """`earlier`: the batches that this node had a part in by a chain time, for faults from while it was down."""
        self._chain = chain
        self._court = Court(chain)
        self._network = network
        self._executor = executor
        self._duties = duties
        self._purse = purse
        self._operator = operator
        self._owner = owner
        self._earlier = earlier
        self._lookout = Lookout(news or News(), [Faulted], lambda: LOOK_EVERY_S)
        self._caught_up = False
        self._done: set[tuple[object, ...]] = set()

    async def consider(self, records: Sequence[ChallengeRecord], now: int) -> None:
        """Begin with whatever is due at chain time `now`; `records` are all open challenges."""
        for record in records:
            key = ("the appeal in challenge", record.id)
            due = record.phase == Phase.VERDICT and record.round == 0 and now < record.until
            if due and key not in self._done and record.kind in (Kind.SEGMENT, Kind.FAULT):
                self._duties.begin(key, lambda record=record, key=key: self._appeal(record, key))  # type: ignore[misc]
        if self._lookout.begins():
            self._duties.begin(("faults", "against this node"), lambda: self._look_for_faults(now))

    def next_at(self) -> float:
        """When it has to look for faults if nothing happens, in the event loop's time."""
        return self._lookout.next_at()

    # Faults

    async def _look_for_faults(self, now: int) -> None:
        """Judge every fault against this node whose window is open, once."""
        topics = [topic_of(Faulted), None, word(self._operator)]
        events = await asyncio.to_thread(self._chain.recent_events, topics)
        batches = {event.batch for event in events if isinstance(event, Faulted)}
        if not self._caught_up:
            batches |= await self._earlier(now)
        for batch in sorted(batches):
            state = await asyncio.to_thread(self._chain.batch, batch)
            if state.settled_at and not state.voided and now < state.claimable_at:
                for index, fault in enumerate(await asyncio.to_thread(self._chain.slashes, batch)):
                    key = ("fault", batch, state.attempt, index)
                    own = fault.operator == self._operator and not fault.absolved and fault.reason in COSTLY
                    if own and key not in self._done:
                        await self._answer_fault(batch, index, fault)
                        self._done.add(key)
        self._caught_up = True
        self._lookout.ended()

    async def _answer_fault(self, batch: BatchId, index: int, fault: SlashRecord) -> None:
        name = f"the fault of task {fault.task} of job {fault.job} in batch {batch}, against this node"
        if await asyncio.to_thread(self._is_challenged, batch, Kind.FAULT, index):
            logger.info("%s is challenged already", name)
            return
        chain, network, executor = self._chain, self._network, self._executor
        wrong, reason = await judge_fault(chain, network, executor, batch, fault, patience_s=PATIENCE_S)
        bond = chain.params().court.bond
        if wrong:
            try:
                if fault.amount < bond:
                    await asyncio.to_thread(self._purse.afford, bond, keep_backing=False)
                challenge = await self._challenge(batch, index, fault)
            except OverBudget as error:
                logger.warning("%s is false (%s) and stays unchallenged: %s", name, reason, error)
            else:
                logger.warning("%s is false: %s; opened challenge %s", name, reason, challenge)
            return
        wrong, why = await judge_record(chain, network, batch, patience_s=PATIENCE_S)
        if not wrong or await asyncio.to_thread(self._is_challenged, batch, Kind.RECORD, 0):
            logger.warning("%s stands: %s", name, reason)
            return
        try:
            await asyncio.to_thread(self._purse.afford, bond, keep_backing=False)
            challenge = await asyncio.to_thread(self._court.challenge_record, batch)
        except OverBudget as error:
            logger.warning("the record behind %s does not hold (%s) and stays unchallenged: %s", name, why, error)
        else:
            logger.warning("the record behind %s does not hold: %s; opened challenge %s", name, why, challenge)

    async def _challenge(self, batch: BatchId, index: int, fault: SlashRecord) -> ChallengeId:
        """Challenge a false fault; one of an audit with the audited segment, where that can be shown."""
        if fault.reason == FaultReason.FALSE_AUDIT:
            try:
                step = await self._audited(batch, fault)
                return await asyncio.to_thread(self._court.challenge_audit, batch, index, step)
            except (DisputeError, RecordInvalid) as error:
                logger.info("the segment that this node audited is not shown: %s", error)
        return await asyncio.to_thread(self._court.challenge_fault, batch, index)

    async def _audited(self, number: BatchId, fault: SlashRecord) -> Step:
        """The segment that an auditor's fault is about, as its worker committed to it. Raises `DisputeError`,
        `RecordInvalid`."""
        record = await asyncio.to_thread(cid_of_record, self._chain, number)
        batch = await load_committed(self._chain, self._network.read, number, record)
        salt = await salt_in_record(self._network.read, number, record, (fault.job, fault.task))
        return batch.step(fault.job, fault.task, fault.segment, salt)

    def _is_challenged(self, batch: BatchId, kind: Kind, entry: int) -> bool:
        events = self._chain.recent_events([topic_of(ChallengeOpened), None, word(batch)])
        attempt = self._chain.batch(batch).attempt
        for event in events:
            if isinstance(event, ChallengeOpened) and (event.kind, event.entry) == (kind, entry):
                record = self._chain.challenge(event.challenge)
                if record.attempt == attempt and record.phase != Phase.DISMISSED:
                    return True
        return False

    # Appeals

    async def _appeal(self, record: ChallengeRecord, key: tuple[object, ...]) -> None:
        """Take a first verdict that costs this node its stake to a larger jury, if it is not what is found here."""
        if not await self._concerns(record):
            self._done.add(key)
            return
        finding = await judge(
            self._chain, self._network, self._executor, record, owner=self._owner, patience_s=PATIENCE_S
        )
        self._done.add(key)
        if finding.wrong == record.wrong:
            logger.warning("the verdict in challenge %s, against this node, is right: %s", record.id, finding.reason)
            return
        try:
            await asyncio.to_thread(self._afford_appeal, record)
        except OverBudget as error:
            logger.warning(
                "the verdict in challenge %s, against this node, is wrong (%s) and is not appealed: %s",
                record.id,
                finding.reason,
                error,
            )
            return
        await asyncio.to_thread(self._court.appeal, record.id)
        logger.warning("appealed against the verdict in challenge %s: %s", record.id, finding.reason)

    def _afford_appeal(self, record: ChallengeRecord) -> None:
        """What a fault holds pays for its own appeal. Raises `OverBudget`."""
        bond = self._chain.params().court.appeal_bond
        fault = self._chain.slashes(record.batch)[record.entry] if record.kind == Kind.FAULT else None
        if fault is None or fault.operator != self._operator or fault.amount < bond:
            self._purse.afford(bond, keep_backing=False)

    async def _concerns(self, record: ChallengeRecord) -> bool:
        """Whether this node loses by the verdict: as the worker of a segment, as the one whose fault was confirmed, or
        as an accuser whose fault was overturned."""
        if record.kind == Kind.SEGMENT or not record.wrong:
            return record.accused == self._operator and record.wrong == (record.kind == Kind.SEGMENT)
        fault = (await asyncio.to_thread(self._chain.slashes, record.batch))[record.entry]
        return self._operator in fault.accusers
