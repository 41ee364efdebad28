"""A real anvil for the tests that need one, with the networks of `tests/chain`."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proofyard.artifacts import BlockStore
from proofyard.chain import Anvil, ChainClient, Params, Wallet, deploy_network
from proofyard.node.agent import Agent
from proofyard.node.journal import Journal
from proofyard.node.links import VerifierLinks
from proofyard.node.retention import Retention
from proofyard.node.serving import serve_owed_blocks
from proofyard.node.settings import NodeSettings
from proofyard.protocol.cid import cid_digest
from proofyard.protocol.manifest import Manifest, encode_manifest
from proofyard.protocol.types import JobId
from proofyard.transport import Endpoint
from proofyard.workloads.adapted import linear_modules
from proofyard.workloads.executor import Executor
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model
from proofyard.workloads.workload import Resources

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "chain"))

from machine import Node
from stand_ins import FakeChain, FakeLinks
from world import Network


@pytest.fixture(scope="session")
def anvil() -> Iterator[Anvil]:
    with Anvil() as running:
        yield running


@pytest.fixture
def deploy(anvil: Anvil) -> Callable[..., Network]:
    def make(params: Params | None = None) -> Network:
        deployer = anvil.wallet(0)
        deployment = deploy_network(anvil.rpc_url, deployer, params)
        return Network(anvil, deployment, ChainClient(anvil.rpc_url, deployment.registry, deployer))

    return make


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_tiny_model(folder / "model")
    write_tiny_corpus(folder / "text.jsonl")
    return folder


@pytest.fixture
async def start(inputs: Path, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    stack = []

    async def start(*, budget: int, memory: int | None = None, decoys: int = 10_000, **params: int) -> Node:
        store = BlockStore(tmp_path / "blocks", packs=True)
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
            registry="",
            wallet=tmp_path,
            data_dir=tmp_path,
            state_budget_bytes=budget,
            cache_bytes=0,
            max_decoys_bps=decoys,
        )
        executor = Executor(tmp_path / "executor", resources=Resources(memory_bytes=memory))
        links, chain = FakeLinks(), FakeChain()
        retention = Retention(settings, cast(ChainClient, chain), cast(VerifierLinks, links), store, executor, journal)
        agent = Agent(
            settings,
            Wallet.generate(),
            cast(ChainClient, chain),
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
        chain.manifests[JobId(1)] = cid_digest(cid)
        node = Node(agent, retention, store, journal, links, chain, cid)
        serve_owed_blocks(
            cast(Endpoint, SimpleNamespace(on=node.asked.__setitem__)),
            *(store, retention.debts, agent.mend, agent.decoys.open_mark),
        )
        return node

    yield start
    for running, executor, journal in stack:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await executor.__aexit__(None, None, None)
        journal.close()
