"""`proofyard node run`: every part of a node in one process, from unlocking the wallet to a clean stop."""

import asyncio
import logging
import os
from collections.abc import Iterable
from importlib.metadata import version

import psutil

from proofyard.artifacts import serve_blocks
from proofyard.artifacts.ipfs import IpfsNode
from proofyard.chain import ChainClient, Wallet
from proofyard.disputes.network import Network
from proofyard.node.adversary import conduct
from proofyard.node.journal import Journal
from proofyard.node.juror import Juror, SpareExecutor
from proofyard.node.links import VerifierLinks
from proofyard.node.retention import NodeStore, Retention
from proofyard.node.settings import NodeSettings
from proofyard.protocol.commitment import Domain
from proofyard.protocol.messages import Announce
from proofyard.protocol.types import Address
from proofyard.runtime import run_service, run_together, write_ready
from proofyard.transport import Endpoint
from proofyard.workloads.executor import Executor
from proofyard.workloads.workload import Resources, load_workload

logger = logging.getLogger("proofyard.node")


def run(settings: NodeSettings, password: str | None = None) -> None:
    """Run a node until SIGINT or SIGTERM; `password` unlocks the wallet where the settings name no file for it."""
    run_service(_serve(settings, password))


async def _serve(settings: NodeSettings, password: str | None) -> None:
    wallet = Wallet.unlock(settings.wallet, password=password, password_file=settings.password_file)
    chain = ChainClient(settings.rpc_url, Address(settings.registry), wallet)
    for name in settings.workloads:
        load_workload(name)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    store = NodeStore(settings.data_dir / "blocks")
    store.fallback = IpfsNode(settings.ipfs) if settings.ipfs else None
    for directory in settings.model_dirs:
        logger.info("using model %s as %s", directory, await asyncio.to_thread(store.link_directory, directory))
    agent_type, executor_adversary = conduct(settings.adversary)
    if settings.adversary:
        logger.warning("this node cheats on purpose: %s", settings.adversary)
    resources = Resources(
        threads=settings.threads or os.cpu_count() or 1,
        memory_bytes=settings.memory_limit_bytes or None,
        micro_batch=settings.micro_batch or None,
    )
    journal = Journal(settings.data_dir / "node.db")
    domain = Domain(chain.chain_id, chain.registry)
    async with (
        Executor(settings.data_dir / "executor", resources=resources, adversary=executor_adversary) as executor,
        Endpoint(wallet, network=domain, host=settings.host, port=settings.port) as endpoint,
    ):
        serve_blocks(endpoint, store)
        if withheld := sorted(set(settings.workloads) - set(offered(settings.workloads, executor.backend))):
            logger.warning(
                "this machine does not reproduce the golden vectors; it does not offer %s", ", ".join(withheld)
            )

        def announce() -> Announce:
            return Announce(
                workloads=offered(settings.workloads, executor.backend),
                memory_bytes=settings.memory_limit_bytes or psutil.virtual_memory().total,
                port=endpoint.port,
                software=f"proofyard {version('proofyard')}",
            )

        links = VerifierLinks(endpoint, chain, announce)
        retention = Retention(settings, chain, links, store, executor, journal)
        agent = agent_type(settings, wallet, domain, endpoint, links, store, executor, journal, retention)
        logger.info("node %s on %s:%s", wallet.address, endpoint.host, endpoint.port)
        parts = [links.run(), agent.run(), agent.beat(), retention.run(), _ready(settings, links, wallet, endpoint)]
        if settings.jury:
            network = Network(chain, endpoint, store, settings.data_dir / "inputs")
            spare = SpareExecutor(executor, resources, settings.data_dir / "jury")
            parts.append(Juror(chain, network, spare).run())
        try:
            await run_together(*parts)
        finally:
            journal.close()


def offered(workloads: Iterable[str], backend: str) -> tuple[str, ...]:
    """The workloads that a machine with this arithmetic `backend` can execute; "" is none that gives the right bits."""
    return tuple(name for name in workloads if backend or not load_workload(name).arithmetic)


async def _ready(settings: NodeSettings, links: VerifierLinks, wallet: Wallet, endpoint: Endpoint) -> None:
    """The node is ready once a verifier has taken it."""
    await links.joined()
    write_ready(settings.ready_file, wallet.address, endpoint.port)
    await asyncio.Event().wait()
