"""A node's page as people run it, over a node that does nothing: its limits, watch and ledger are real, and the chain
and the agent are stand-ins that say what a test says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from proofyard.node import page as page_module
from proofyard.node import watch as watch_module
from proofyard.node.gate import Sample
from proofyard.node.journal import Journal
from proofyard.node.ledger import Earned
from proofyard.node.meter import Meter
from proofyard.node.news import News
from proofyard.node.overview import Looking
from proofyard.node.page import OperatorPage, listen, token_of
from proofyard.node.sensors import Gpu
from proofyard.node.settings import NodeSettings
from proofyard.node.tally import Tally
from proofyard.node.watch import Watch
from proofyard.node.work import Work
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.messages import TaskOffer
from proofyard.protocol.types import Address, JobId, TaskIndex, Wei

CREDIT = 10**18
KEY, OWNER = Address("0x" + "5a" * 20), Address("0x" + "0e" * 20)


def task_work(job: int, index: int, *, states: int = 0) -> Work:
    """A task that is held."""
    spec = TaskSpec(
        index=TaskIndex(index), kind="train", segments=8, work_units=100, deps=(), label=f"round 1 shard {index}"
    )
    work = Work(Address("0x" + "77" * 20), TaskOffer(JobId(job), raw_cid(b"manifest"), spec, (), (), 15.0))
    work.states = states
    return work


class IdleAgent:
    """An agent that is given nothing."""

    def __init__(self) -> None:
        self.tally, self.works, self.closed = Tally(), cast(list[Work], []), ""

    @property
    def current(self) -> Work | None:
        return self.works[0] if self.works else None

    async def close(self, reason: str, *, at_once: bool) -> list[str]:
        self.closed = f"busy: {reason}"
        given_back, self.works = self.works if at_once else self.works[1:], [] if at_once else self.works[:1]
        for each in given_back:
            self.tally.give_back(each.name, reason, 1_795_000_000.0)
        return [each.name for each in given_back]

    def open(self) -> None:
        self.closed = ""


class Eyes:
    """Sensors that see two cards."""

    cards: tuple[Gpu, ...] = (
        Gpu(0, "NVIDIA GeForce RTX 4090", 24 << 30, 17 << 30, 66.0, 312.0, 97.0),
        Gpu(1, "NVIDIA GeForce GTX 1660", 6 << 30, None, 41.0, None, 0.0),
    )

    def sample(self) -> Sample:
        return Sample(watts=312.0, celsius=66.0, free_bytes=21 << 30, others_on_gpu=(), others_cores=0.3, cores=16)


class StandChain:
    """An operator among five, with a stake."""

    registered = True

    def operator_of(self, _key: Address) -> int | None:
        return 3 if self.registered else None

    def operator(self, _operator: int) -> Any:
        return self._node(3, 41)

    def account(self, _owner: Address) -> Any:
        return SimpleNamespace(stake=Wei(250 * CREDIT), frozen=Wei(0), unbonding=Wei(0))

    def active_nodes(self) -> list[Any]:
        return [self._node(number, valid) for number, valid in enumerate((12, 77, 41, 3, 41), 1)]

    def _node(self, number: int, valid: int) -> Any:
        return SimpleNamespace(id=number, owner=OWNER, active=True, consecutive_valid=valid)


class KnownPay:
    """A ledger that has read its records."""

    async def look(self) -> Earned:
        amounts = [Wei(part * CREDIT // 1000) for part in (412, 6850, 31_400, 9215, 7004)]
        return Earned(1_795_000_000, *amounts, Wei(4485 * CREDIT // 1000), 87, 1)


class PageScene:
    """`page` serves; `token` opens it."""

    def __init__(self, folder: Path, *, registered: bool = True, port: int = 0) -> None:
        self.folder = folder
        settings = NodeSettings(registry="", wallet=folder, data_dir=folder)
        self.agent, self.journal, self.eyes = IdleAgent(), Journal(folder / "node.db"), Eyes()
        self.meter = Meter(folder)
        chain = StandChain()
        chain.registered = registered
        verifiers = [SimpleNamespace(peer="0x" + "77" * 20)]
        links: Any = SimpleNamespace(announce_again=lambda: None, live=lambda: verifiers)
        endpoint: Any = SimpleNamespace(address=KEY, limit_upload=lambda _: None)
        held = {"sandbox": "bubblewrap, seccomp"}
        self.watch = Watch(settings, cast(Any, self.agent), links, endpoint, cast(Any, self.eyes), self.meter, **held)
        self.looking = Looking(
            *(folder, cast(Any, chain), cast(Any, None), KEY, self.journal, cast(Any, self.agent)),
            *(cast(Any, self.eyes), self.watch.status, News()),
            software="proofyard 0.1.0",
            backend="cuda",
        )
        self.looking._ledger = cast(Any, KnownPay())
        self.token, self.made = token_of(folder)
        self.page = OperatorPage(listen(port), folder, self.looking, self.token)

    @property
    def url(self) -> str:
        return self.page.address

    @asynccontextmanager
    async def up(self) -> AsyncIterator[str]:
        running = [asyncio.create_task(self.page.run()), asyncio.create_task(self.watch.run())]
        try:
            yield self.url
        finally:
            for each in running:
                each.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            self.journal.close()
            self.meter.close()


def hurry(monkeypatch: Any) -> None:
    """Have what is commanded show at once."""
    monkeypatch.setattr(watch_module, "POLL_S", 0.05)
    monkeypatch.setattr(watch_module, "SAMPLE_S", 0.1)
    monkeypatch.setattr(page_module, "TELL_S", 0.05)
