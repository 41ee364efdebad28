"""What a node keeps of its tasks, and that a state that it did not keep can be had all the same."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from proofyard.artifacts import cid_of_bytes
from proofyard.chain import ChainClient, Wallet
from proofyard.node.agent import Agent
from proofyard.node.journal import Journal
from proofyard.node.links import VerifierLinks
from proofyard.node.retention import NodeStore, Retention
from proofyard.node.settings import NodeSettings
from proofyard.protocol.cid import cid_digest
from proofyard.protocol.codec import encode
from proofyard.protocol.commitment import Domain
from proofyard.protocol.manifest import Manifest, encode_manifest
from proofyard.protocol.messages import Ack, Receipt, SubmitCommitment, TaskFailed, TaskOffer
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, Signature
from proofyard.transport import Connection, Endpoint
from proofyard.workloads.errors import OutOfDisk
from proofyard.workloads.executor import Executor, TaskTrace
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.model_files import linear_modules
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model
from proofyard.workloads.workload import Resources

VERIFIER = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
DEADLINE_S = 100.0


@dataclass
class FakeLinks:
    """A verifier that takes everything: commitments, and tasks that are handed back."""

    delivered: list[SubmitCommitment] = field(default_factory=list)
    handed_back: list[TaskFailed] = field(default_factory=list)

    def connection(self, _verifier: Address) -> Connection | None:
        return cast(Connection, self)

    async def try_request(self, _verifier: Address, message: msgspec.Struct, _reply: object) -> Ack:
        if isinstance(message, TaskFailed):
            self.handed_back.append(message)
        return Ack()

    async def deliver(self, _verifier: Address, message: SubmitCommitment, _reply: object) -> Receipt:
        self.delivered.append(message)
        return Receipt(Digest(bytes(32)), 0, Signature(bytes(65)))


@dataclass
class FakeChain:
    """One job with one batch, settled at 100 and final at 160."""

    time: int = 120
    record: Cid = field(default_factory=lambda: cid_of_bytes(b"no record"))

    def now(self) -> int:
        return self.time

    def params(self) -> Any:
        return SimpleNamespace(settle_grace=1000)

    def job(self, _job: JobId) -> Any:
        return SimpleNamespace(deadline=10_000, closed=False, open_tasks=1)

    def settled(self, _job: JobId) -> list[Any]:
        return [SimpleNamespace(batch=BatchId(1), record=self.record)]

    def batch(self, _batch: BatchId) -> Any:
        return SimpleNamespace(settled_at=100, claimable_at=160, open_challenges=0)


@dataclass
class Node:
    """A node's parts around a real executor, a real store and a real journal."""

    agent: Agent
    retention: Retention
    store: NodeStore
    journal: Journal
    links: FakeLinks
    chain: FakeChain
    manifest: Cid

    def offer(self, index: int) -> TaskOffer:
        manifest = msgspec.msgpack.decode(self.store.get_bytes(self.manifest), type=Manifest)
        return TaskOffer(JobId(1), self.manifest, WORKLOAD.graph(manifest)[index], (), (), 15.0)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_tiny_model(folder / "model")
    write_tiny_corpus(folder / "text.jsonl")
    return folder


@pytest.fixture
async def start(inputs: Path, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    stack = []

    async def start(*, budget: int, memory: int | None = None, **params: int) -> Node:
        store = NodeStore(tmp_path / "blocks")
        journal = Journal(tmp_path / "node.db")
        manifest = Manifest(
            workload="lora",
            model=store.link_directory(inputs / "model"),
            data=store.link_file(inputs / "text.jsonl"),
            params={
                "modules": linear_modules(inputs / "model", ["q_proj"]),
                "rank": 2,
                "alpha": 4.0,
                "lr": 0.01,
                "rounds": 1,
                "workers": 2,
                "batch": 2,
                "seq_len": 16,
                **params,
            },
        )
        settings = NodeSettings(
            registry="", wallet=tmp_path, data_dir=tmp_path, state_budget_bytes=budget, cache_bytes=0
        )
        executor = Executor(tmp_path / "executor", resources=Resources(memory_bytes=memory))
        links, chain = FakeLinks(), FakeChain()
        retention = Retention(settings, cast(ChainClient, chain), cast(VerifierLinks, links), store, executor, journal)
        agent = Agent(
            settings,
            Wallet.generate(),
            Domain(31337, VERIFIER),
            cast(Endpoint, SimpleNamespace(on=lambda *_: None)),
            cast(VerifierLinks, links),
            store,
            executor,
            journal,
            retention,
        )
        running = asyncio.create_task(agent.run())
        stack.append((running, executor, journal))
        cid = store.put_bytes(encode_manifest(manifest))
        return Node(agent, retention, store, journal, links, chain, cid)

    yield start
    for running, executor, journal in stack:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await executor.__aexit__(None, None, None)
        journal.close()


async def until(condition: Callable[[], object]) -> None:
    """Until something holds; the deadline only matters when it never does."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.05)


def trace_of(folder: Path, states: int, size: int) -> TaskTrace:
    folder.mkdir()
    paths = [folder / str(number) for number in range(states)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * size)
    return TaskTrace(tuple(paths), paths[-1], 0)


CONNECTION = cast(Connection, SimpleNamespace(peer=VERIFIER))


async def test_a_state_that_was_not_kept_is_computed_again_when_a_peer_asks(start: Callable[..., Any]) -> None:
    node: Node = await start(budget=18_000, segments=5, segment_steps=1)
    await node.agent.offer_task(CONNECTION, node.offer(0), cast(Any, None))
    await until(lambda: node.links.delivered)
    trace = node.links.delivered[0].trace
    kept = [number for number, cid in enumerate(trace) if node.store.path.joinpath("blocks", cid[-2:], cid).exists()]
    assert kept == [0, 3], "a state has 8 KB, two fit"
    assert node.journal.kept_bytes() <= 18_000

    await node.agent.offer_task(CONNECTION, node.offer(1), cast(Any, None))
    assert node.store.block_size(trace[5]) is None
    await until(lambda: node.store.has(trace[5]))
    assert cid_of_bytes(node.store.get_bytes(trace[5])) == trace[5]


async def test_a_running_task_makes_way_for_a_state_that_is_owed_and_goes_on(start: Callable[..., Any]) -> None:
    node: Node = await start(budget=18_000, segments=5, segment_steps=1)
    await node.agent.offer_task(CONNECTION, node.offer(0), cast(Any, None))
    await until(lambda: node.links.delivered)
    long = msgspec.structs.replace(node.offer(1), job=JobId(2), manifest=longer(node))
    await node.agent.offer_task(CONNECTION, long, cast(Any, None))
    await until(lambda: node.agent._executor.busy)
    missing = node.links.delivered[0].trace[2]
    assert not node.store.has(missing)
    await until(lambda: node.store.has(missing))
    assert len(node.links.delivered) == 1, "the state is there before the task that was interrupted is done"
    assert [offer.job for _, offer, done in node.journal.open_tasks() if done is None] == [JobId(2)]
    await until(lambda: node.agent._executor.busy)


def longer(node: Node) -> Cid:
    """The manifest with tasks that take minutes."""
    manifest = msgspec.msgpack.decode(node.store.get_bytes(node.manifest), type=Manifest)
    slow = manifest.params | {"segment_steps": 1 << 16, "segments": 5}
    return node.store.put_bytes(encode_manifest(msgspec.structs.replace(manifest, params=slow)))


async def test_states_are_let_go_when_their_batch_is_final_and_not_before(start: Callable[..., Any]) -> None:
    node: Node = await start(budget=1 << 20, segments=2, segment_steps=1)
    await node.agent.offer_task(CONNECTION, node.offer(0), cast(Any, None))
    await until(lambda: node.links.delivered and not node.journal.open_tasks())
    trace = node.links.delivered[0].trace

    await node.retention.tidy(grace_s=-1)
    assert all(node.store.has(cid) for cid in trace)
    assert node.store.has(node.manifest)

    node.chain.time, node.chain.record = 161, node.store.put_bytes(record_of(node.links.delivered[0]))
    await node.retention.tidy(grace_s=-1)
    assert node.journal.held() == []
    node.store.on_miss = lambda _: None
    leases = list((node.store.path / "pins").iterdir())
    assert leases, "what was needed a moment ago stays until its lease is over"
    for lease in leases:
        lease.unlink()
    await node.retention.tidy(grace_s=-1)
    assert not any(node.store.has(cid) for cid in (*trace, node.manifest))


async def test_a_task_whose_states_do_not_fit_at_all_is_refused(start: Callable[..., Any], tmp_path: Path) -> None:
    node: Node = await start(budget=250)
    trace = trace_of(tmp_path / "one", 6, 100)
    states, every = node.retention.keep(trace)
    assert (len(states), every) == (6, 3)
    with pytest.raises(OutOfDisk, match="the disk budget for states is 250"):
        node.retention.keep(trace_of(tmp_path / "two", 2, 251))


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"budget": 100}, "the disk budget for states is 100"),
        ({"budget": 1 << 30, "memory": 1 << 30, "batch": 4096, "seq_len": 64}, "segment 0 does not fit in memory"),
    ],
)
async def test_a_node_without_room_says_so_and_hands_the_task_back(
    start: Callable[..., Any], limits: dict[str, int], reason: str
) -> None:
    node: Node = await start(**{"segments": 1, "segment_steps": 1} | limits)
    await node.agent.offer_task(CONNECTION, node.offer(0), cast(Any, None))
    await until(lambda: node.links.handed_back)
    assert reason in node.links.handed_back[0].reason
    assert not node.links.delivered
    assert node.journal.open_tasks() == node.journal.held() == []


def record_of(submission: SubmitCommitment) -> bytes:
    """A record with this one task."""
    from proofyard.protocol.record import BatchRecord, CommittedTask
    from proofyard.protocol.settlement import OperatorId

    task = CommittedTask(submission.commitment, submission.signature, submission.trace, OperatorId(1), VERIFIER, 0, 1)
    return encode(
        BatchRecord(
            chain_id=1,
            registry=VERIFIER,
            batch=BatchId(1),
            job=JobId(1),
            manifest=cid_of_bytes(b""),
            root=cid_digest(cid_of_bytes(b"")),
            verifier=VERIFIER,
            seed=Digest(bytes(32)),
            draw_block=1,
            auditors_per_segment=2,
            segments_per_audit=1,
            reward="0",
            audit_fee="0",
            audits_paid_before="0",
            operators=(),
            tasks=(task,),
            audits=(),
            faults=(),
            payouts=(),
        )
    )
