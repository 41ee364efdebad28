"""`proofyard verifier run`: every part of a verifier in one process, but for its API, from unlocking the wallet to a
clean stop."""

import asyncio
import contextlib
import gc
import logging
import secrets
import sys
import time
from functools import partial
from typing import Any

from proofyard.artifacts import BlockStore, serve_blocks
from proofyard.artifacts.ipfs import IpfsNode
from proofyard.chain import ChainClient, Params, Wallet
from proofyard.discovery import Gossip
from proofyard.discovery.finder import Finder
from proofyard.protocol.commitment import Domain
from proofyard.protocol.routes import Route
from proofyard.protocol.types import Address, ExitCode, ProofyardError
from proofyard.runtime.about import being_about, set_about
from proofyard.runtime.folder import keep_for
from proofyard.runtime.service import run_service, run_together, write_ready
from proofyard.transport import Endpoint
from proofyard.transport.reach import (
    advertised,
    exposure,
    is_dialled_from_elsewhere,
    listening_host,
    listening_port,
    split_endpoint,
)
from proofyard.verifier import leading, looking, marks, peers, sending
from proofyard.verifier.api.serving import StatusApi, is_loopback
from proofyard.verifier.api.telling import Teller
from proofyard.verifier.api.wire import Begin
from proofyard.verifier.carriage import Carriers
from proofyard.verifier.context import Context
from proofyard.verifier.cosigning import CoSigner
from proofyard.verifier.desk import Desk
from proofyard.verifier.disputes import StateDesk, answer_receipts
from proofyard.verifier.duties import do_duties
from proofyard.verifier.elsewhere import watch_exposure
from proofyard.verifier.engine import effects
from proofyard.verifier.engine.effects import Effect
from proofyard.verifier.engine.rows import Log
from proofyard.verifier.engine.world import Rules
from proofyard.verifier.follower import follow_chain
from proofyard.verifier.health import Watch
from proofyard.verifier.metrics import Metrics, version
from proofyard.verifier.outbox import Outbox
from proofyard.verifier.retention import look_after_store
from proofyard.verifier.runner import Runner
from proofyard.verifier.settings import VerifierSettings
from proofyard.verifier.sharing import Door, keep_claims
from proofyard.verifier.sizing import watch_sizes
from proofyard.verifier.store.claims import Claims
from proofyard.verifier.store.database import open_patiently
from proofyard.workloads.model_files import link_model

logger = logging.getLogger("proofyard.verifier")

FEW_TIMES = 5
"""Few commitments wait so many times as long for their batch as others."""
SWITCH_S = 0.001
"""How long one thread of Python may keep the others waiting, Python's own 5 ms else: rows are written, and what peers
send is checked, beside a loop that computes."""
GARBAGE = (20_000, 20, 20)
"""When Python looks for rings of objects that nobody uses: a verifier makes few of them, and holds much that is looked
at each time."""
LEAVE_S = 1.0
ALONE_S = 2.0
"""How long another process with this wallet may take to answer where the Registry says that this verifier is."""
TOLD = frozenset(
    ("opened", "done", "failed", "fault", "lost", "undecided", "gone", "revived", "replaced", "open", "waits")
)
"""Kinds of lines of a job's log that an operator reads as well; all others are logged as details."""


class NotRegistered(ProofyardError):
    """The wallet is no active verifier."""

    exit_code = 2

    def __init__(self, address: Address) -> None:
        self.address = address
        super().__init__(
            f"{address} is no active verifier; register it with `proofyard verifier register`, or add stake"
        )


class RunsElsewhere(ProofyardError):
    """This wallet's verifier is running already."""

    exit_code = ExitCode.USAGE

    def __init__(self, address: Address, endpoint: str) -> None:
        self.address, self.endpoint = address, endpoint
        super().__init__(
            f"the verifier {address} runs already, at {endpoint}; stop it first, or give both a --process and one "
            "--database-url"
        )


def run(settings: VerifierSettings, password: str | None = None) -> None:
    """Run a verifier until SIGINT or SIGTERM; `password` unlocks the wallet where the settings name no file for it."""
    run_service(_serve(settings, password))


async def _serve(settings: VerifierSettings, password: str | None) -> None:
    sys.setswitchinterval(SWITCH_S)
    gc.freeze()
    gc.set_threshold(*GARBAGE)
    wallet = Wallet.unlock(settings.wallet, password=password, password_file=settings.password_file)
    # It asks the chain, which may not answer: a signal ends this all the same.
    chain = await asyncio.to_thread(
        ChainClient,
        settings.rpc_url,
        Address(settings.registry),
        wallet,
        first_block=settings.from_block,
        chain_id=settings.chain_id or None,
    )
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    whose = {"service": "verifier", "wallet": wallet.address} | await asyncio.to_thread(chain.identity)
    keep_for(settings.data_dir, whose)
    # A folder that processes share may be on another machine's disk.
    store = BlockStore(settings.blocks_dir or settings.data_dir / "blocks", packs=settings.blocks_dir is None)
    store.fallback = IpfsNode(settings.ipfs) if settings.ipfs else None
    for directory in settings.model_dirs:
        logger.info("serving model %s as %s", directory, (await asyncio.to_thread(link_model, store, directory))[0])
    if settings.blind:
        logger.warning("this verifier finds every audited answer right, on purpose")
    url = settings.database_url or f"sqlite:///{settings.data_dir / 'verifier.db'}"
    database = await open_patiently(url, settings.process)
    domain = Domain(chain.chain_id, chain.registry)
    door = Door()
    registered = await asyncio.to_thread(_registered, chain, wallet.address)
    known = settings.endpoint or registered
    host, port = listening_host(settings.host, known), listening_port(settings.port, known)
    async with Endpoint(wallet, network=domain, host=host, port=port, admit=door.admit) as endpoint:
        if registered and not settings.process:
            await _require_alone(endpoint, registered)
        context = door.context = Context(settings, wallet, domain, chain, database, store, endpoint)
        if settings.process:
            context.claims, context.leads = Claims(database, endpoint_of(context, "")), False
        outbox = context.outbox = outbox_of(context)
        params, own = await context.params(), await context.own()
        # The engine decides by the chain's clock from its first step.
        await context.look_at_clock()
        metrics = Metrics()
        observed = partial(perform_observed, context, metrics)
        rules = rules_of(settings, params, own or 0, context.claims)
        runner = Runner(rules, database, observed, context.clock, process=settings.process)
        context.runner = runner
        serve_blocks(endpoint, store, short=context.hops.run, on_sent=lambda _, size: metrics.sent.inc(size))
        _introduce(context, known)
        desk = Desk(context)
        CoSigner(context)
        StateDesk(context)
        carriers = Carriers(context)
        endpoint.on_disconnected.append(desk.left)
        watch = Watch(context, metrics)
        metrics.describe(version(), wallet.address, chain.registry, chain.court, chain.chain_id)
        for each in (chain.observers, outbox.observers):
            each.append(metrics.note_request)
        names = tuple(settings.api_names) if is_loopback(settings.api_host) else None
        begin = Begin(url, str(store.path), settings.api_streams, names=names)
        teller = Teller(context, metrics, watch)
        async with StatusApi(settings.api_host, settings.api_port, begin, teller) as api:
            runner.listeners += [metrics.note_line, api.publish, log_line]
            reached = exposure(endpoint.host, endpoint.port)
            logger.info("verifier %s: %s; status on %s", wallet.address, reached, api.url)
            outbox.start()
            try:
                if context.claims is None:
                    await _advertise(context)
                write_ready(settings.ready_file, wallet.address, endpoint.port, api_port=api.port)
                await run_together(
                    keep_claims(context, partial(_advertise, context)),
                    runner.run(),
                    follow_chain(context),
                    watch_exposure(context),
                    look_after_store(context),
                    answer_receipts(context),
                    do_duties(context),
                    carriers.run(),
                    watch.run(),
                    desk.proofs.run(),
                    watch_sizes(context),
                )
            finally:
                await context.close()
                await _leave(context)
                database.close()


def _introduce(context: Context, registered: str) -> None:
    """Tell peers of each other, and of who has what, without looking for anybody: they come by themselves."""
    routes: tuple[Route, ...] = ()
    if is_dialled_from_elsewhere(registered):
        routes = (Route("direct", *split_endpoint(registered)),)

    def owner_of(node: Address) -> str:
        member = context.members.get(node)
        return "" if member is None else member.record.owner

    endpoint = context.endpoint
    gossip = Gossip(endpoint, routes=lambda: routes, owner_of=owner_of, trusts=context.members.__contains__)
    gossip.serve()
    Finder(endpoint, gossip).serve()


async def _leave(context: Context) -> None:
    """Let another process have what this one has, at once where the database is there."""
    claims = context.claims
    if claims is not None:
        with contextlib.suppress(ProofyardError, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await context.database.ask(claims.leave)


def outbox_of(context: Context) -> Outbox:
    """What keeps the wallet's transactions; it is to be started."""
    wanted, followed = partial(sending.wanted, context), lambda: context.caught_up_at
    database, process = context.database, context.database.process
    return Outbox(context.chain, context.wallet, database, process=process, wanted=wanted, followed=followed)


def rules_of(settings: VerifierSettings, params: Params, own: int, claims: Claims | None = None) -> Rules:
    """What the engine is told, from the operator's settings and the Registry's parameters."""
    return Rules(
        own=own,
        first_row=1 if claims is None else claims.rows_from,
        process="" if claims is None else claims.name,
        lease_s=settings.lease_s,
        batch_s=settings.batch_s,
        few_s=FEW_TIMES * settings.batch_s,
        first_s=settings.batch_s / 2,
        batch_tasks=settings.batch_tasks,
        collusion_bps=params.collusion_bps,
        given_back_bps=params.given_back_bps,
        draw_delay=params.draw_delay,
        settle_time=params.settle_time,
        settle_grace=params.settle_grace,
        receipt_time=params.receipt_time,
        receipt_blocks=settings.receipt_blocks,
        verifier_stake=params.verifier_stake,
        exposure_bps=params.exposure_bps,
        decoys_bps=settings.decoys_bps,
        secret=secrets.token_bytes(32),
        blind=settings.blind,
    )


def log_line(row: Log) -> None:
    """A line of a job's log, in the verifier's own."""
    level = logging.INFO if row.kind in TOLD else logging.DEBUG
    if logger.isEnabledFor(level):
        with being_about(job=row.job, task=row.task if row.task >= 0 else None, peer=row.node or None):
            logger.log(level, "%s: %s", row.kind, row.text)


async def perform_observed(context: Context, metrics: Metrics, effect: Effect) -> float | None:
    """`perform`, counted; what is logged meanwhile names what the effect is about."""
    subject: dict[str, Any] = {name: getattr(effect, name, None) for name in ("job", "batch", "node", "place", "task")}
    place: tuple[Any, ...] = subject["place"] or subject["task"] or (subject["job"],)
    row = context.rows.batches.get(subject["batch"]) if isinstance(subject["batch"], int) else None
    set_about(
        job=place[0],
        task=place[1] if len(place) > 1 else None,
        batch=row.chain_id if row else None,
        peer=subject["node"],
    )
    kind, start, outcome = type(effect).__name__, time.monotonic(), "failed"
    try:
        seconds = await perform(context, effect)
        outcome = "done"
        return seconds
    except asyncio.CancelledError:
        outcome = "cancelled"
        raise
    finally:
        metrics.note_effect(kind, outcome, time.monotonic() - start)


async def perform(context: Context, effect: Effect) -> float | None:
    """Do one effect of the engine."""
    found: float | None = await _PERFORM[type(effect)](context, effect)
    return found


_PERFORM: dict[type[Effect], Any] = {
    effects.OfferTasks: peers.offer_tasks,
    effects.CancelTasks: peers.cancel_tasks,
    effects.OfferAudits: peers.offer_audits,
    effects.OpenSeals: peers.open_seals,
    effects.Expand: looking.expand,
    effects.CloseRounds: looking.close_rounds,
    effects.LookAtState: looking.look_at_state,
    effects.LookAtResult: looking.look_at_result,
    effects.AskMarks: marks.ask_marks,
    effects.WeighAnswers: looking.weigh_answers,
    effects.Pack: looking.pack,
    effects.Draw: leading.draw,
    effects.Settle: leading.settle,
    effects.ReadRecord: leading.read_record,
    effects.CommitBatch: leading.commit_batch,
    effects.TakeJob: sending.take_job,
    effects.TakeBatch: sending.take_batch,
    effects.ReadJob: sending.read_job,
}


async def _require_alone(endpoint: Endpoint, registered: str) -> None:
    """Raise `RunsElsewhere` where another process answers with this wallet: two of them would sign two records for one
    batch, which costs the stake."""
    with contextlib.suppress(ValueError):
        host, port = split_endpoint(registered)
        here = port == endpoint.port and not is_dialled_from_elsewhere(registered)
        if not here and await endpoint.runs_elsewhere(host, port, timeout=ALONE_S):
            raise RunsElsewhere(endpoint.address, registered)


def _registered(chain: ChainClient, wallet: Address) -> str:
    """Where the Registry says that this verifier is; "" where it says nothing yet."""
    return next((each.endpoint for each in chain.active_verifiers() if each.node == wallet), "")


def endpoint_of(context: Context, registered: str) -> str:
    """Where this process can be reached, as host:port. One of several is where it listens, unless its settings say."""
    settings, endpoint = context.settings, context.endpoint
    return advertised(settings.endpoint, "" if settings.process else registered, endpoint.host, endpoint.port)


async def _advertise(context: Context) -> None:
    """Have the Registry say where this verifier can be reached."""
    own = next((v for v in await context.verifiers() if v.node == context.wallet.address), None)
    if own is None:
        raise NotRegistered(context.wallet.address)
    endpoint = endpoint_of(context, own.endpoint)
    if is_dialled_from_elsewhere(endpoint) and is_loopback(context.endpoint.host):
        logger.warning("others dial %s, but this verifier listens on loopback only: give another --host", endpoint)
    if own.endpoint != endpoint:
        number = own.id
        await context.send(None, lambda chain: chain.set_endpoint(number, endpoint))
        logger.info("the Registry now says that this verifier is at %s", endpoint)
