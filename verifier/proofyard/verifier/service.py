"""`proofyard verifier run`: every part of a verifier in one process, from unlocking the wallet to a clean stop."""

import asyncio
import logging

from sqlmodel import col, select

from proofyard.artifacts import BlockStore, serve_blocks
from proofyard.artifacts.ipfs import IpfsNode
from proofyard.chain import ChainClient, Wallet
from proofyard.protocol.commitment import Domain
from proofyard.protocol.types import Address, ProofyardError
from proofyard.runtime import run_service, run_together, write_ready
from proofyard.transport import Endpoint
from proofyard.verifier.api import StatusApi
from proofyard.verifier.batches import form_batches, run_batch
from proofyard.verifier.chainsync import follow_chain
from proofyard.verifier.context import Context
from proofyard.verifier.cosigning import CoSigner
from proofyard.verifier.database import OVER, Batch, Database
from proofyard.verifier.desk import Desk
from proofyard.verifier.disputes import StateDesk, answer_receipts
from proofyard.verifier.duties import do_duties
from proofyard.verifier.giving import give_out
from proofyard.verifier.jobs import complete, expire, take_up
from proofyard.verifier.retention import look_after_store
from proofyard.verifier.settings import VerifierSettings

logger = logging.getLogger("proofyard.verifier")

TICK_S = 1.0
RETRY_S = 2.0
AFTER_ERROR_S = 10.0
"""Rest after an error that nobody expected: what caused it may still be there, and its log has to stay readable."""
REST_S = 0.05
"""The loop rests so long after each round, so that many changes are taken in at once."""


class NotRegistered(ProofyardError):
    """The wallet is no active verifier."""

    exit_code = 2

    def __init__(self, address: Address) -> None:
        self.address = address
        super().__init__(
            f"{address} is no active verifier; register it with `proofyard verifier register`, or add stake"
        )


def run(settings: VerifierSettings, password: str | None = None) -> None:
    """Run a verifier until SIGINT or SIGTERM; `password` unlocks the wallet where the settings name no file for it."""
    run_service(_serve(settings, password))


async def _serve(settings: VerifierSettings, password: str | None) -> None:
    wallet = Wallet.unlock(settings.wallet, password=password, password_file=settings.password_file)
    chain = ChainClient(settings.rpc_url, Address(settings.registry), wallet, first_block=settings.from_block)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    store = BlockStore(settings.data_dir / "blocks")
    store.fallback = IpfsNode(settings.ipfs) if settings.ipfs else None
    for directory in settings.model_dirs:
        logger.info("serving model %s as %s", directory, await asyncio.to_thread(store.link_directory, directory))
    if settings.blind:
        logger.warning("this verifier finds every audited answer right, on purpose")
    database = Database(settings.database_url or f"sqlite:///{settings.data_dir / 'verifier.db'}")
    domain = Domain(chain.chain_id, chain.registry)
    async with Endpoint(wallet, network=domain, host=settings.host, port=settings.port) as endpoint:
        context = Context(settings, wallet, domain, chain, database, store, endpoint)
        serve_blocks(endpoint, store)
        desk = Desk(context)
        CoSigner(context)
        StateDesk(context)
        endpoint.on_disconnected.append(desk.left)
        async with StatusApi(context) as api:
            logger.info("verifier %s on %s:%s, status on %s", wallet.address, endpoint.host, endpoint.port, api.url)
            await context.on_chain(lambda: _advertise(context))
            write_ready(settings.ready_file, wallet.address, endpoint.port, api_port=api.port)
            try:
                await run_together(
                    follow_chain(context),
                    _work(context),
                    look_after_store(context),
                    answer_receipts(context),
                    do_duties(context),
                )
            finally:
                await context.close()
                database.close()


def _advertise(context: Context) -> None:
    """Have the Registry say where this verifier can be reached."""
    settings, chain = context.settings, context.chain
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    endpoint = settings.endpoint or f"{host}:{context.endpoint.port}"
    own = next((v for v in chain.active_verifiers() if v.node == context.wallet.address), None)
    if own is None:
        raise NotRegistered(context.wallet.address)
    if own.endpoint != endpoint:
        chain.set_endpoint(own.id, endpoint)
        logger.info("the Registry now says that this verifier is at %s", endpoint)


async def _work(context: Context) -> None:
    """The verifier's one loop: whatever the database says can go on, goes on. One step that fails holds up no other,
    whatever it fails of: what one job, node or event makes this verifier do must not end it for all."""
    running: set[int] = set()

    async def carry(row: int) -> None:
        try:
            await run_batch(context, row)
        except Exception:
            logger.exception("batch row %s stopped; it is taken up again", row)
            await asyncio.sleep(RETRY_S)
        finally:
            running.discard(row)
            context.changed()

    async def carry_batches(context: Context) -> None:
        with context.database.session() as session:
            form_batches(session, context.chain_time(), batch_tasks=context.settings.batch_tasks)
            unsettled = session.exec(select(Batch.id).where(col(Batch.state).not_in(OVER))).all()
        for row in unsettled:
            if row is not None and row not in running:
                running.add(row)
                context.spawn(carry(row))

    steps = (take_up, expire, give_out, carry_batches, complete)
    while True:
        seen = context.changes
        for step in steps:
            try:
                await step(context)
            except ProofyardError as error:
                logger.warning("%s; trying again", error)
                await asyncio.sleep(RETRY_S)
            except Exception:
                logger.exception("%s failed; trying again", step.__name__)
                await asyncio.sleep(AFTER_ERROR_S)
        await asyncio.sleep(REST_S)
        await context.wait(TICK_S, since=seen)
