"""Two processes of one verifier on one PostgreSQL: who has a job, and what becomes of it when its process dies."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from stage import DOMAIN, FakeChain, Verifier, assemble, settings

from proofyard.artifacts import BlockStore
from proofyard.chain import Wallet
from proofyard.chain.events import JobOpened
from proofyard.devnet.postgres import PostgresServer
from proofyard.protocol.cid import cid_digest, raw_cid
from proofyard.protocol.types import Address, JobId, Wei
from proofyard.verifier import follower as following
from proofyard.verifier.engine.events import Published
from proofyard.verifier.engine.rows import Job
from proofyard.verifier.runner import InternalError, Runner
from proofyard.verifier.service import perform, rules_of
from proofyard.verifier.sharing import keep_claims
from proofyard.verifier.store import claims as claims_module
from proofyard.verifier.store.claims import Claims, TakenOver
from proofyard.verifier.store.database import Database

REQUESTER = Address("0x" + "aa" * 20)


class Process:
    """One process: what it leads is noted in `led`."""

    def __init__(self, chain: FakeChain, wallet: Wallet, folder: Path, url: str, name: str) -> None:
        database, client = Database(url, name), cast(Any, chain.for_wallet(wallet))
        chosen = settings(data_dir=folder / name)
        self.verifier: Verifier = assemble(chosen, wallet, client, DOMAIN, database, BlockStore(folder / "blocks"))
        self.context, self.led = self.verifier.context, 0
        self.claims = self.context.claims = Claims(database, f"{name}:1")
        self.context.leads = False
        rules = rules_of(chosen, client.params(), client.operator_of(wallet.address), self.claims)
        does = partial(perform, self.context)
        self.runner = self.context.runner = Runner(rules, database, does, self.context.clock, process=name)
        self._loops: list[asyncio.Task[Any]] = []

    def start(self) -> None:
        works = (self.runner.run(), following.follow_chain(self.context), keep_claims(self.context, self._lead))
        self._loops = [asyncio.create_task(work) for work in works]

    async def _lead(self) -> None:
        self.led += 1

    def jobs(self) -> set[int]:
        return set(self.runner.engine.world.rows.jobs)

    async def die(self, *, leave: bool = False) -> None:
        """At once; `leave` as if it were stopped."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        if leave:
            await self.context.database.ask(self.claims.leave)

    async def close(self) -> None:
        await self.die()
        await self.context.close()
        await asyncio.to_thread(self.context.database.close)


Start = Callable[[str], Process]


@pytest.fixture
def chain() -> FakeChain:
    return FakeChain()


@pytest.fixture
async def start(
    chain: FakeChain, postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Start]:
    monkeypatch.setattr(claims_module, "LAPSE_S", 5.0)
    monkeypatch.setattr(claims_module, "BEAT_S", 0.1)
    monkeypatch.setattr(following, "POLL_S", 0.05)
    url, made, wallet = postgres.database(), [], Wallet.generate()
    chain.add_verifier(wallet)

    def make(name: str) -> Process:
        made.append(Process(chain, wallet, tmp_path, url, name))
        made[-1].start()
        return made[-1]

    yield make
    for each in made:
        await each.close()


def open_job(chain: FakeChain, number: int) -> None:
    terms = {"reward": Wei(1), "audit_fee": Wei(1), "verifier_fee": Wei(1), "units": 1, "deadline": 2**40}
    more = {"auditors_per_segment": 2, "segments_per_audit": 1, "workload": 0}
    manifest = cid_digest(raw_cid(b"m%d" % number))
    chain.tell(JobOpened, job=JobId(number), requester=REQUESTER, manifest=manifest, **terms, **more)
    chain.mine()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_job_is_the_leader_s_while_nobody_has_nodes_and_another_s_when_it_dies(
    chain: FakeChain, start: Start
) -> None:
    first = start("a")
    await until(lambda: first.led == 1)
    second = start("b")
    for number in (1, 2):
        open_job(chain, number)
    await until(lambda: first.jobs() == {1, 2})
    await until(lambda: second.context.caught_up_at > 0)
    assert second.jobs() == set() and second.led == 0
    await first.die()
    open_job(chain, 3)
    await until(lambda: second.led == 1 and second.jobs() == {1, 2, 3})
    await second.runner.tell_all([])
    rows = [row for row in second.context.database.rows(Job) if isinstance(row, Job)]
    assert sorted((row.id, row.claimed_by) for row in rows) == [(1, "b"), (2, "b"), (3, "b")]
    assert len({row.opened_block for row in rows}) == 3


async def test_one_that_was_thought_dead_writes_nothing_and_ends(
    chain: FakeChain, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stood still for a while: its engine still has the job, its database does not."""
    first, second = start("a"), start("b")
    await until(lambda: first.led or second.led)
    leader, heir = (first, second) if first.led else (second, first)
    open_job(chain, 1)
    await until(lambda: leader.jobs() == {1})
    for loop in leader._loops[1:]:
        loop.cancel()
    await until(lambda: heir.jobs() == {1})
    with pytest.raises(InternalError):
        await leader.runner.tell(Published(raw_cid(b"m1")))
        for number in range(100):
            leader.runner.engine.world.rows.touch(leader.runner.engine.world.rows.jobs[JobId(1)])
            await leader.runner.tell(Published(raw_cid(b"m%d" % number)))
    with pytest.raises(TakenOver):
        await keep_claims(leader.context, leader._lead)


async def test_one_that_stops_is_followed_at_once(
    chain: FakeChain, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start("a")
    await until(lambda: first.led == 1)
    second = start("b")
    open_job(chain, 1)
    await until(lambda: first.jobs() == {1})
    monkeypatch.setattr(claims_module, "LAPSE_S", 10_000.0)
    second.claims._since = float("-inf")
    await first.die(leave=True)
    await until(lambda: second.jobs() == {1})


async def test_a_process_that_starts_again_goes_on_with_its_jobs(chain: FakeChain, start: Start) -> None:
    first = start("a")
    await until(lambda: first.led == 1)
    open_job(chain, 1)
    await until(lambda: first.jobs() == {1})
    await first.die()
    again = start("a")
    await until(lambda: again.jobs() == {1} and again.led == 1)
    open_job(chain, 2)
    await until(lambda: again.jobs() == {1, 2})
