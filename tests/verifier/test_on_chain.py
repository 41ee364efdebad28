"""Verifiers on a real chain with the real contracts: jobs to their end, and batches that one of them leaves."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from simulated import Counting, SimulatedNode
from stage import CREDIT, Verifier, introduce, join, verifier_of
from web3 import Web3

from proofyard.chain import Anvil, ChainClient, Deployment, JobTerms, Params, Wallet, deploy_network
from proofyard.disputes import committed, refusals, settled
from proofyard.disputes.settled import load_settled
from proofyard.protocol.cid import cid_digest
from proofyard.protocol.commitment import Domain
from proofyard.protocol.manifest import Manifest, encode_manifest
from proofyard.protocol.types import Address, BatchId, Cid, JobId, Wei
from proofyard.verifier.duties import do_duties
from proofyard.verifier.engine.rows import Batch, Job, JobState, Task, Work
from proofyard.verifier.follower import follow_chain
from proofyard.verifier.store.tables import Known

TASKS, NODES = 6, 5


class Town:
    """Two verifiers and five nodes with their stakes on a chain, and a requester."""

    def __init__(self, anvil: Anvil, folder: Path, params: Params) -> None:
        self.anvil, self.workload = anvil, Counting(TASKS)
        deployer = anvil.wallet(0)
        self.deployment: Deployment = deploy_network(anvil.rpc_url, deployer, params)
        self.deployer = ChainClient(anvil.rpc_url, self.deployment.registry, deployer)
        self.verifiers = [self._verifier(folder) for _ in range(2)]
        introduce(*self.verifiers)
        self.nodes = [self._node(number) for number in range(NODES)]
        self.requester = self.owner(100)
        self._running: dict[int, list[asyncio.Task[None]]] = {}

    def client(self, wallet: Wallet) -> ChainClient:
        block = self.deployment.block
        return ChainClient(self.anvil.rpc_url, self.deployment.registry, wallet, patience=5, first_block=block)

    def owner(self, credits: int) -> ChainClient:
        wallet = Wallet.generate()
        self.anvil.fund(wallet.address)
        self.deployer.transfer(wallet.address, Wei(credits * CREDIT))
        return self.client(wallet)

    def _verifier(self, folder: Path) -> Verifier:
        wallet = Wallet.generate()
        self.anvil.fund(wallet.address)
        self.owner(1000).register_verifier(wallet, Wei(1000 * CREDIT), "127.0.0.1:4000")
        domain = Domain(self.deployer.chain_id, self.deployment.registry)
        block = self.deployment.block
        return verifier_of(
            *(wallet, self.client(wallet), domain, folder),
            workload=self.workload,
            lease_s=5.0,
            state_due_s=5.0,
            from_block=block,
        )

    def _node(self, number: int) -> SimulatedNode:
        wallet = Wallet.generate()
        self.owner(200).register_node(wallet, Wei(100 * CREDIT), 1)
        node = SimulatedNode(self.verifiers[0], wallet, queue=4, silence=0.0, seed=number)
        operator = self.deployer.operator_of(wallet.address)
        assert operator is not None
        for verifier in self.verifiers:
            join(verifier, node, self.deployer.operator(operator))
        return node

    def serve(self, node: SimulatedNode, verifier: Verifier) -> None:
        node._verifier = verifier

    def open_job(self, requester: ChainClient | None = None, nonce: str = "") -> JobId:
        manifest = encode_manifest(Manifest(workload="lora", params={}, nonce=nonce))
        cid = self.verifiers[0].context.store.put_bytes(manifest)
        pay = (Wei(6 * CREDIT), Wei(3 * CREDIT), Wei(CREDIT))
        deadline = self.deployer.now() + 5000
        return (requester or self.requester).open_job(JobTerms(cid_digest(cid), TASKS, *pay, 2, 1, deadline))

    def sent(self, block: int, sender: Address | None = None) -> list[str]:
        """The transactions in a block, all or those of one sender."""
        found = self.ask("eth_getBlockByNumber", hex(block), True)["transactions"]
        return [each["hash"] for each in found if sender in (None, Web3.to_checksum_address(each["from"]))]

    def exchange(self, first: int, stop: int, swapped: dict[str, str]) -> None:
        """The blocks from `first` on are others: with the same transactions up to `stop`, but for those that change
        their places."""
        raw = {h: self.ask("eth_getRawTransactionByHash", h) for n in range(first, stop) for h in self.sent(n)}
        again = [[raw[swapped.get(h, h)], n - first] for n in range(first, stop) for h in self.sent(n)]
        self.ask("anvil_reorg", self.deployer.block_number() - first + 1, again)

    def status(self, transaction: str) -> int:
        return int(self.ask("eth_getTransactionReceipt", transaction)["status"], 16)

    def ask(self, method: str, *params: Any) -> Any:
        return self.anvil._request(method, list(params))

    def start(self, number: int) -> None:
        context = self.verifiers[number].context
        loops = (self.verifiers[number].runner.run(), follow_chain(context), do_duties(context))
        self._running[number] = [asyncio.create_task(loop) for loop in loops]

    async def stop(self, number: int) -> None:
        tasks = self._running.pop(number, [])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.verifiers[number].renew()

    async def close(self) -> None:
        for number in list(self._running):
            await self.stop(number)
        for verifier in self.verifiers:
            await verifier.context.close()
            verifier.context.database.close()

    def job(self, job: JobId) -> Job | None:
        found = [row for row in self.verifiers[0].stored(Job) if row.id == job]
        return found[0] if found else None

    async def read(self, cid: Cid, max_bytes: int) -> bytes:
        for verifier in self.verifiers:
            with contextlib.suppress(Exception):
                return verifier.context.store.get_bytes(cid, max_bytes=max_bytes)
        raise AssertionError(f"nobody has {cid}")


async def until(condition: Callable[[], Any], seconds: float = 100.0) -> None:
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < end, "it did not come to that in time"
        await asyncio.sleep(0.3)


@pytest.fixture(scope="module")
def anvil() -> Iterator[Anvil]:
    with Anvil(block_time=1, mixed=True) as running:
        yield running


@pytest.fixture
async def town(anvil: Anvil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Town]:
    made = await asyncio.to_thread(Town, anvil, tmp_path, Params())
    for module, name in ((committed, "load_workload"), (refusals, "workload_of"), (settled, "workload_of")):
        monkeypatch.setattr(module, name, lambda _: made.workload)
    yield made
    await made.close()


async def test_a_job_runs_to_its_end_and_everything_of_it_is_on_chain(town: Town) -> None:
    for number in range(2):
        town.start(number)
    job = await asyncio.to_thread(town.open_job)
    await until(lambda: (row := town.job(job)) is not None and row.state in (JobState.DONE, JobState.FAILED))
    row = town.job(job)
    assert row is not None and (row.state, row.reason) == (JobState.DONE, "")
    record = town.deployer.job(job)
    assert (record.units_paid, record.units_open) == (TASKS, 0)
    events = town.deployer.settled(job)
    assert events and all(event.signers == 0b11 for event in events), "both seats have signed"
    for event in events:
        found = await load_settled(town.deployer, town.read, event.batch)
        found.check_record()


async def test_a_verifier_that_goes_away_loses_its_batch_and_not_its_workers_pay(town: Town) -> None:
    """Its batch is committed and it never comes back in time: the other one settles with all signatures that it can
    get."""
    job = await asyncio.to_thread(town.open_job)
    first, second = town.verifiers
    town.start(0)
    town.start(1)
    await until(lambda: len(town.deployer.committed(job)) > 0)
    batch = town.deployer.committed(job)[0].batch
    while not await first.context.database.ask(lambda session: session.get(Known, batch)):
        await asyncio.sleep(0.05)
    await town.stop(0)
    if town.deployer.batch(batch).settled_at:
        pytest.skip("it was settled already")
    for node in town.nodes:
        town.serve(node, second)
    await asyncio.to_thread(town.anvil.warp, town.deployer.params().settle_time + 60)
    await until(lambda: town.deployer.batch(batch).settled_at)
    state = town.deployer.batch(batch)
    assert state.verifier == town.deployer.operator_of(second.wallet.address)
    town.start(0)

    def followed() -> bool:
        rows = [row for row in first.stored(Batch) if row.chain_id == BatchId(batch) and row.state == "settled"]
        works = [work for work in first.stored(Work) if rows and work.batch == rows[0].id]
        return {work.outcome for work in works} == {"accepted"}

    await until(followed)
    assert {task.state for task in first.stored(Task)} <= {"accepted", "ready", "given", "committed"}


async def test_jobs_whose_numbers_a_reorganisation_swaps_hold_nothing_of_each_other(town: Town) -> None:
    """Everything that was in the blocks that went comes back at once, before anybody could look: the commit is refused
    for the other job, and both are done as what they are."""
    chain, own = town.deployer, town.verifiers[0].wallet.address
    requesters = [await asyncio.to_thread(town.owner, 100) for _ in range(2)]
    for number in range(2):
        town.start(number)
    jobs = [await asyncio.to_thread(town.open_job, each, f"job {i}") for i, each in enumerate(requesters)]
    await until(lambda: chain.committed(jobs[0]))
    opens = [
        town.sent(chain.job(job).open_block, each.wallet.address)[-1]
        for job, each in zip(jobs, requesters, strict=True)
    ]
    first, last = (chain.job(job).open_block for job in jobs)
    rest = range(last + 1, chain.committed(jobs[0])[0].position.block + 1)
    takes_and_commit = [hash_ for number in rest for hash_ in town.sent(number, own)]
    await asyncio.to_thread(town.exchange, first, rest.stop, dict(zip(opens, reversed(opens), strict=True)))

    assert {town.status(hash_) for hash_ in takes_and_commit} == {0}, "what was meant for one reached the other"
    owners = [chain.job(job).requester for job in jobs]
    assert owners == [each.wallet.address for each in reversed(requesters)]
    assert [(chain.job(job).units_open, chain.job(job).verifier) for job in jobs] == [(0, 0), (0, 0)]
    await until(lambda: all((row := town.job(job)) is not None and row.state == JobState.DONE for job in jobs))
    for job in jobs:
        record = chain.job(job)
        assert (record.units_paid, record.units_open) == (TASKS, 0)
