"""What a node's page says: what the node does, holds, earned and refused, what its machine measures, what is at stake.

What is at hand is told at once; what the chain has to be asked for is as of the last look. There are looks only while
somebody asks for them, after news, and at most one a minute: a page that is open costs next to nothing.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from proofyard.chain import BatchSettled, BatchVoided, ChainClient
from proofyard.chain.events import ChallengeClosed, Claimed
from proofyard.disputes.network import Network
from proofyard.node.agent import Agent
from proofyard.node.control import Status
from proofyard.node.earnings import Energy, energy_of
from proofyard.node.journal import Journal
from proofyard.node.ledger import DAY_S, Earned, Ledger
from proofyard.node.meter import read_used
from proofyard.node.news import Lookout, News
from proofyard.node.sensors import Gpu, Sensors
from proofyard.node.tally import Turned
from proofyard.node.work import Owed, Work
from proofyard.protocol.messages import TaskOffer
from proofyard.protocol.settlement import OperatorId
from proofyard.protocol.types import Address, ProofyardError, Wei

logger = logging.getLogger("proofyard.node")

LOOK_S = 60.0
MOST_HELD = 16


class Held(msgspec.Struct, frozen=True):
    """Work that is accepted. `job` 0 for what is made again; `done` of `segments` of a task are on this disk."""

    name: str
    job: int
    under_way: bool
    done: int
    segments: int


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """Since the node started: `proofyard.node.tally`."""

    since: float
    tasks: int
    audits: int
    later: int
    given_back: int
    refused: dict[str, int]
    recent: tuple[Turned, ...]


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What the Registry says of the operator, amounts in base units. All of `stake` is lost for a fault; `frozen` is
    what faults hold already. `rank` of `nodes` by valid audits in a row, 1 for the best."""

    operator: str
    owner: str
    active: bool
    stake: str
    frozen: str
    unbonding: str
    consecutive_valid: int
    rank: int
    nodes: int


class Pay(msgspec.Struct, frozen=True, kw_only=True):
    """`proofyard.node.ledger.Earned`, amounts as digits."""

    at: int
    hour: str
    day: str
    week: str
    unpaid: str
    due: str
    a_day: str | None
    batches: int
    unread: int


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """Everything. `standing` null for an operator that is not registered; `pay` and `standing` also where the chain was
    not asked yet, or does not say: `trouble` has why."""

    software: str
    status: Status
    backend: str
    gpus: tuple[Gpu, ...]
    held: tuple[Held, ...]
    done: Done
    pay: Pay | None
    standing: Standing | None
    energy: Energy | None
    trouble: str


class Looking:
    """Gathers it. `status`: what the node was about when it last looked."""

    def __init__(
        self,
        folder: Path,
        chain: ChainClient,
        network: Network,
        key: Address,
        journal: Journal,
        agent: Agent,
        sensors: Sensors,
        status: Callable[[], Status],
        news: News,
        *,
        software: str,
        backend: str,
    ) -> None:
        self._folder, self._chain, self._network, self._key, self._journal = folder, chain, network, key, journal
        self._agent, self._sensors, self._status = agent, sensors, status
        self._software, self._backend = software, backend
        self._since = time.time()
        self._lookout = Lookout(news, [BatchSettled, BatchVoided, ChallengeClosed, Claimed], lambda: LOOK_S)
        self._ledger: Ledger | None = None
        self._pay: Earned | None = None
        self._standing: Standing | None = None
        self._energy: Energy | None = None
        self._trouble = "the chain has not been asked yet"
        self._turn = asyncio.Lock()

    def now(self) -> Overview:
        """What is known."""
        tally, current = self._agent.tally, self._agent.current
        return Overview(
            software=self._software,
            status=self._status(),
            backend=self._backend,
            gpus=self._sensors.cards,
            held=tuple(_held(work, current) for work in self._agent.works[:MOST_HELD]),
            done=Done(
                since=self._since,
                tasks=tally.tasks,
                audits=tally.audits,
                later=tally.later,
                given_back=tally.given_back,
                refused=dict(tally.refused.most_common()),
                recent=tuple(tally.recent),
            ),
            pay=None if self._pay is None else _pay(self._pay),
            standing=self._standing,
            energy=self._energy,
            trouble=self._trouble,
        )

    async def look(self) -> None:
        """Ask the chain, if it is time to."""
        async with self._turn:
            if not self._lookout.begins():
                return
            try:
                await self._look()
            except ProofyardError as error:
                self._trouble = str(error)[:500]
                return
            except Exception as error:
                logger.exception("what the page shows of the chain cannot be told")
                self._trouble = f"an error of the node's own ({type(error).__name__}); see its log"
                return
            self._trouble = "" if self._standing is not None else "not registered yet: proofyard node register"
            self._lookout.ended()

    async def _look(self) -> None:
        used = await asyncio.to_thread(read_used, self._folder, time.time() - DAY_S)
        self._energy = energy_of(used)
        self._standing = await asyncio.to_thread(self._standing_now)
        if self._standing is None:
            return
        if self._ledger is None:
            operator = OperatorId(int(self._standing.operator))
            self._ledger = Ledger(self._chain, self._network, self._journal, operator)
        self._pay = await self._ledger.look()

    def _standing_now(self) -> Standing | None:
        operator = self._chain.operator_of(self._key)
        if operator is None:
            return None
        own = self._chain.operator(operator)
        account, nodes = self._chain.account(own.owner), self._chain.active_nodes()
        better = sum(each.consecutive_valid > own.consecutive_valid for each in nodes)
        return Standing(
            operator=str(operator),
            owner=own.owner,
            active=own.active,
            stake=str(account.stake),
            frozen=str(account.frozen),
            unbonding=str(account.unbonding),
            consecutive_valid=own.consecutive_valid,
            rank=better + 1,
            nodes=max(len(nodes), 1),
        )


def _held(work: Work, current: Work | None) -> Held:
    offer = work.offer
    job = 0 if isinstance(offer, Owed) else offer.job
    segments = offer.task.segments if isinstance(offer, TaskOffer) else 1
    return Held(work.name, job, work is current, work.states, segments)


def _pay(earned: Earned) -> Pay:
    def digits(amount: Wei) -> str:
        return str(amount)

    return Pay(
        at=earned.at,
        hour=digits(earned.hour),
        day=digits(earned.day),
        week=digits(earned.week),
        unpaid=digits(earned.unpaid),
        due=digits(earned.due),
        a_day=None if earned.a_day is None else digits(earned.a_day),
        batches=earned.batches,
        unread=earned.unread,
    )
