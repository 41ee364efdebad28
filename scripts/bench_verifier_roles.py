"""The processes of `bench_verifier.py`: the verifier's service as it is, and all nodes in one process.

A node is the real one, with its own connections, journal, store, receipts and seals, but for its executor, which has
nothing to compute. What belongs to courts is left out, and all nodes of the process share one connection to the chain.
"""

import asyncio
import contextlib
import gc
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import bench_verifier_work

bench_verifier_work.install()

import msgspec  # noqa: E402

from proofyard.artifacts import BlockStore  # noqa: E402
from proofyard.chain import ChainClient, Wallet  # noqa: E402
from proofyard.node.agent import AUDITS_HELD, Agent  # noqa: E402
from proofyard.node.journal import Journal  # noqa: E402
from proofyard.node.links import VerifierLinks  # noqa: E402
from proofyard.node.retention import Retention  # noqa: E402
from proofyard.node.serving import serve_owed_blocks  # noqa: E402
from proofyard.node.settings import NodeSettings  # noqa: E402
from proofyard.protocol.messages import Announce  # noqa: E402
from proofyard.protocol.types import Address  # noqa: E402
from proofyard.runtime.service import run_service, run_together  # noqa: E402
from proofyard.transport import Endpoint  # noqa: E402
from proofyard.verifier import service  # noqa: E402
from proofyard.verifier.settings import VerifierSettings  # noqa: E402

SHARED_S = 2.0
"""How long an answer of the chain serves all nodes: a block's time."""
START_AT_ONCE = 16
"""Nodes that connect at the same time."""


class SharedChain(ChainClient):
    """A reader of the chain for all nodes of the process: what one of them has just read, or is reading, is not read
    again."""

    @cached_property
    def _answers(self) -> dict[Any, tuple[float, Any]]:
        return {}

    @cached_property
    def _turn(self) -> threading.RLock:
        return threading.RLock()

    def _once(self, name: str, *args: Any) -> Any:
        found = self._fresh(name, *args)
        if found is None:
            with self._turn:
                found = self._fresh(name, *args)
                if found is None:
                    found = self._answers[name, args] = (time.monotonic(), getattr(super(), name)(*args))
        return found[1]

    def _fresh(self, name: str, *args: Any) -> tuple[float, Any] | None:
        found = self._answers.get((name, args))
        return found if found is not None and found[0] >= time.monotonic() - SHARED_S else None

    def operator_of(self, *args: Any) -> Any:
        return self._once("operator_of", *args)

    def active_verifiers(self, *args: Any) -> Any:
        return self._once("active_verifiers", *args)

    def job(self, *args: Any, **_: Any) -> Any:
        return self._once("job", *args)

    def batch(self, *args: Any, **_: Any) -> Any:
        return self._once("batch", *args)

    def header(self, *args: Any) -> Any:
        return self._once("header", *args)

    def seed(self, *args: Any) -> Any:
        return self._once("seed", *args)

    def now(self) -> Any:
        return self._once("now")


class Crowd(msgspec.Struct, frozen=True):
    """What the process of the nodes is told."""

    rpc_url: str
    registry: str
    from_block: int
    keys: tuple[str, ...]
    """Hex of the nodes' keys."""
    folder: Path
    ready_file: Path
    tasks_held: int


async def serve(crowd: Crowd) -> None:
    """All nodes, until cancelled."""
    chain = SharedChain(crowd.rpc_url, Address(crowd.registry), first_block=crowd.from_block)
    turn, joined = asyncio.Semaphore(START_AT_ONCE), asyncio.Semaphore(0)

    async def one(number: int, key: str) -> None:
        wallet = Wallet.from_key(key)
        settings = NodeSettings(
            rpc_url=crowd.rpc_url,
            registry=crowd.registry,
            from_block=crowd.from_block,
            wallet=crowd.folder,
            data_dir=crowd.folder / str(number),
            workloads=("lora",),
            tasks_held=crowd.tasks_held,
        )
        await turn.acquire()
        async with node(settings, wallet, chain) as (links, parts):
            asyncio.get_running_loop().create_task(report(links))
            await run_together(*parts)

    async def report(links: VerifierLinks) -> None:
        await links.joined()
        turn.release()
        joined.release()

    async def say_ready() -> None:
        for _ in crowd.keys:
            await joined.acquire()
        gc.freeze()
        gc.set_threshold(*service.GARBAGE)
        crowd.ready_file.write_text("{}")
        await asyncio.Event().wait()

    await run_together(say_ready(), *(one(number, key) for number, key in enumerate(crowd.keys)))


@contextlib.asynccontextmanager
async def node(settings: NodeSettings, wallet: Wallet, chain: ChainClient) -> AsyncIterator[tuple[VerifierLinks, Any]]:
    """One node's parts."""
    settings.data_dir.mkdir(parents=True)
    store = BlockStore(settings.data_dir / "blocks", packs=True)
    journal = Journal(settings.data_dir / "node.db")
    executor = cast(Any, bench_verifier_work.Idle())
    async with Endpoint(
        wallet, network=chain.domain, host=settings.host or "127.0.0.1", port=settings.port
    ) as endpoint:

        def announce() -> Announce:
            return Announce(settings.workloads, 1 << 30, endpoint.port, "bench", settings.tasks_held, AUDITS_HELD)

        links = VerifierLinks(endpoint, chain, announce)
        retention = Retention(settings, chain, links, store, executor, journal)
        agent = Agent(settings, wallet, chain, endpoint, links, store, executor, journal, retention)
        serve_owed_blocks(endpoint, store, retention.debts, agent.mend)
        try:
            yield links, (links.run(), agent.run(), agent.beat(), retention.run(agent.owe))
        finally:
            journal.close()
            store.close()


def main() -> None:
    role, path = sys.argv[1], Path(sys.argv[2])
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if role == "verifier":
        service.run(msgspec.json.decode(path.read_bytes(), type=VerifierSettings, dec_hook=_path))
    else:
        run_service(serve(msgspec.json.decode(path.read_bytes(), type=Crowd, dec_hook=_path)))


def _path(kind: type, value: Any) -> Any:
    return kind(value)


if __name__ == "__main__":
    main()
