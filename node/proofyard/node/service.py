"""`proofyard node run`: every part of a node in one process, from unlocking the wallet to a clean stop."""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from importlib.metadata import version
from typing import Any

import psutil

from proofyard.artifacts import BlockStore
from proofyard.artifacts.ipfs import IpfsNode
from proofyard.chain import ChainClient, Wallet
from proofyard.chain.pushed import follow_logs, websocket_of
from proofyard.disputes.network import Network
from proofyard.node.absence import Absence
from proofyard.node.adversary import conduct
from proofyard.node.agent import AUDITS_HELD, Agent
from proofyard.node.clerk import Clerk
from proofyard.node.court import CourtWatch
from proofyard.node.defence import Defence
from proofyard.node.duties import Duties
from proofyard.node.holding import Holder
from proofyard.node.journal import Journal
from proofyard.node.juror import Juror, SpareExecutor
from proofyard.node.links import VerifierLinks
from proofyard.node.meter import Meter
from proofyard.node.neighbourhood import Neighbourhood
from proofyard.node.news import News
from proofyard.node.overview import Looking
from proofyard.node.page import OperatorPage, listen, token_of, url_of
from proofyard.node.pay import Pay, involved, keep_on_bench
from proofyard.node.presence import Presence
from proofyard.node.promises import Promises
from proofyard.node.proving import Proving
from proofyard.node.purse import CREDIT, Purse
from proofyard.node.retention import Retention
from proofyard.node.rounds.courses import Courses
from proofyard.node.rounds.service import Rounds
from proofyard.node.sensors import Sensors
from proofyard.node.serving import serve_owed_blocks
from proofyard.node.settings import NodeSettings
from proofyard.node.watch import Watch
from proofyard.node.work import Work
from proofyard.protocol.amounts import read_amount
from proofyard.protocol.carriage import NOBODY
from proofyard.protocol.messages import Announce
from proofyard.protocol.settlement import OperatorId
from proofyard.protocol.types import Address, ProofyardError, Wei
from proofyard.runtime.folder import keep_for, session_of
from proofyard.runtime.service import Stop, run_service, run_together, write_ready
from proofyard.transport import Endpoint
from proofyard.transport.reach import (
    exposure,
    is_dialled_from_elsewhere,
    listening_host,
    listening_port,
    split_endpoint,
)
from proofyard.transport.receipts import FILE as CARRIED
from proofyard.transport.receipts import Receipts
from proofyard.transport.relay import RelayLimits
from proofyard.workloads.executor import Executor
from proofyard.workloads.local_sets import FOLDER as LOCAL_FOLDER
from proofyard.workloads.local_sets import LocalSets
from proofyard.workloads.model_files import link_model
from proofyard.workloads.sandbox import Sandbox
from proofyard.workloads.workload import Resources, load_workload

logger = logging.getLogger("proofyard.node")

UNREGISTERED_S = 10.0
"""Between two looks whether a node that was started before it was registered is by now."""


def run(settings: NodeSettings, password: str | None = None, on_page: Callable[[str], None] = lambda _: None) -> None:
    """Run a node until SIGINT or SIGTERM; `password` unlocks the wallet where the settings name no file for it.
    `on_page` is told the address of its page, with the token, when that is made."""
    stop = Stop()
    run_service(_serve(settings, password, stop, on_page), stop)


async def _serve(settings: NodeSettings, password: str | None, stop: Stop, on_page: Callable[[str], None]) -> None:
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
    for name in settings.workloads:
        load_workload(name)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    whose = {"service": "node", "wallet": wallet.address} | await asyncio.to_thread(chain.identity)
    keep_for(settings.data_dir, whose)
    store = BlockStore(settings.data_dir / "blocks", packs=True)
    store.fallback = IpfsNode(settings.ipfs) if settings.ipfs else None
    models = []
    for directory in settings.model_dirs:
        models.append((await asyncio.to_thread(link_model, store, directory))[0])
        logger.info("using model %s as %s", directory, models[-1])
    agent_type, executor_adversary = conduct(settings.adversary)
    if settings.adversary:
        logger.warning("this node cheats on purpose: %s", settings.adversary)
    resources = Resources(
        threads=settings.threads or os.cpu_count() or 1,
        memory_bytes=settings.memory_limit_bytes or None,
        micro_batch=settings.micro_batch or None,
    )
    sandbox = _sandbox(settings)
    known = settings.endpoint or await asyncio.to_thread(_registered, chain, wallet.address)
    seats = [each.endpoint for each in await asyncio.to_thread(chain.active_verifiers)]
    host, port = listening_host(settings.host, known, *seats), listening_port(settings.port, known)
    journal = Journal(settings.data_dir / "node.db")
    async with (
        Executor(
            settings.data_dir / "executor",
            resources=resources,
            adversary=executor_adversary,
            silence_s=settings.max_step_s,
            sandbox=sandbox,
        ) as executor,
        Endpoint(wallet, network=chain.domain, host=host, port=port) as endpoint,
    ):
        if withheld := sorted(set(settings.workloads) - set(offered(settings.workloads, executor.backend))):
            logger.warning(
                "this machine does not reproduce the golden vectors; it does not offer %s", ", ".join(withheld)
            )

        session = session_of(settings.data_dir)

        def announce() -> Announce:
            return Announce(
                workloads=offered(settings.workloads, executor.backend) if not agent.closed else (),
                memory_bytes=settings.memory_limit_bytes or psutil.virtual_memory().total,
                port=split_endpoint(known)[1] if is_dialled_from_elsewhere(known) else endpoint.port,
                software=f"proofyard {version('proofyard')}",
                tasks=settings.tasks_held,
                audits=AUDITS_HELD,
                session=session,
                capability=proving.record,
                routes=presence.routes(),
                relay=settings.relay,
            )

        news = News()
        court = chain.params().court
        news.check_within(chain.params().challenge_window, court.vote_time, court.reveal_time, court.draw_time)
        links = VerifierLinks(endpoint, chain, announce, news)
        endpoint.payer = lambda: next((each.peer for each in links.live()), NOBODY)
        presence = Presence(settings, endpoint, links)
        if settings.hide_address:
            endpoint.stay_relayed()
        if settings.relay:
            limits = RelayLimits(bytes_s=settings.relay_bytes_s, unreceipted_bytes=settings.relay_unreceipted_bytes)
            carried = Receipts(settings.data_dir / CARRIED)
            endpoint.become_relay(limits, carried)
        retention = Retention(settings, chain, links, store, executor, journal)
        agent = agent_type(settings, wallet, chain, endpoint, links, store, executor, journal, retention)
        neighbourhood = Neighbourhood(settings, chain, endpoint, links, presence, store)
        agent.find_by(neighbourhood.nearby, neighbourhood.have)
        for model in models:
            neighbourhood.have(model)
        meter = Meter(settings.data_dir, settings.watts)
        held = sandbox.described() if sandbox.holds else ""
        proving = Proving(settings, wallet, chain, endpoint, links, agent, executor)
        sensors = Sensors(on_gpu="cuda" in executor.backend)
        watch = Watch(settings, agent, links, endpoint, sensors, meter, presence.summary, held)
        agent.leave_for_later(watch.waits)
        clock = asyncio.get_running_loop().time

        def on_turn(work: Work | None) -> None:
            meter.turn_to(work, clock())
            if work is not None:
                proving.make_way()

        agent.on_turn, agent.on_accepted = on_turn, watch.stir
        for changes in (endpoint.on_connected, endpoint.on_disconnected):
            changes.append(lambda _: watch.stir())
        watch.claims, watch.knows = proving.said, neighbourhood.summary
        serve_owed_blocks(endpoint, store, retention.debts, agent.mend, agent.decoys.open_mark, watch.on_sent)
        Holder(settings, chain, endpoint, store)
        logger.info("node %s: %s", wallet.address, exposure(endpoint.host, endpoint.port))
        spare = SpareExecutor(executor, resources, settings.data_dir / "jury", sandbox)
        network = Network(
            chain,
            endpoint,
            store,
            settings.data_dir / "inputs",
            max_state_bytes=settings.max_state_bytes,
            max_input_bytes=max(settings.max_model_bytes, settings.max_data_bytes),
            local=LocalSets(settings.data_dir / LOCAL_FOLDER).path,
        )
        rounds = Rounds(*(wallet, endpoint, store, journal), neighbourhood.reach, max_bytes=settings.max_state_bytes)
        doing = agent.check_own, agent.do
        courses = Courses(wallet, chain, rounds, *doing, network.read, journal, settings.workloads, news)
        agent.votes_in, agent.voted = courses.votes_in, courses.voted
        parts: list[Coroutine[Any, Any, None]] = [
            links.run(),
            agent.run(),
            agent.beat(),
            retention.run(agent.owe),
            follow_logs(settings.ws_url or websocket_of(settings.rpc_url), [chain.registry, chain.court], news),
            _in_court(settings, chain, wallet, network, spare, journal, news),
            watch.run(),
            proving.run(),
            presence.run(),
            neighbourhood.run(),
            courses.run(),
            _ready(settings, links, wallet, endpoint),
            _until_stopped(stop, agent, links, watch, settings.stop_s),
        ]
        if settings.relay:
            parts.append(carried.run(links.payer))
        if settings.page:
            looking = Looking(
                *(settings.data_dir, chain, network, wallet.address, journal, agent, sensors, watch.status, news),
                software=announce().software,
                backend=executor.backend,
            )
            token, made = token_of(settings.data_dir)
            page = OperatorPage(listen(settings.page_port), settings.data_dir, looking, token)
            watch.page = page.address
            logger.info("its page is at %s; `proofyard node page` opens it for changes", page.address)
            if made:
                on_page(url_of(page.address, token))
            parts.append(page.run())
        try:
            await run_together(*parts)
        finally:
            journal.close()
            meter.close()
            store.close()


async def _until_stopped(stop: Stop, agent: Agent, links: VerifierLinks, watch: Watch, within_s: float) -> None:
    """Once the node is asked to end, let it do so in order, and say how."""
    await stop.asked()
    logger.info("stopping within %s s; a second signal ends it at once", within_s)
    left = await agent.wind_down(within_s)
    for line in left:
        logger.info("%s", line)
    await asyncio.to_thread(watch.stopped, left)


async def _in_court(
    settings: NodeSettings,
    chain: ChainClient,
    wallet: Wallet,
    network: Network,
    executor: SpareExecutor,
    journal: Journal,
    news: News,
) -> None:
    """Juries, self-defence and pay, once the node is registered."""
    operator, owner = await _until_registered(settings, chain, wallet.address)
    duties = Duties()
    purse = Purse(chain, owner, Wei(settings.bond_budget * CREDIT))
    earlier = partial(involved, chain, journal)
    defence = Defence(
        chain, network, executor, duties, purse, operator=operator, owner=owner, earlier=earlier, news=news
    )
    promises = Promises(chain, network, journal, settings.data_dir / "receipts", duties, purse, news)
    absence = Absence(chain, network, executor, duties, purse, wallet.address, news)
    least = read_amount(settings.claim_above or "0")
    pay = Pay(chain, network, journal, duties, operator, news, least=least, token_per_ether=settings.token_per_ether)
    watch = CourtWatch(
        chain,
        duties,
        juror=Juror(chain, network, executor, settings.data_dir / "votes", duties) if settings.jury else None,
        clerk=Clerk(chain, wallet.address, duties) if settings.draw_juries else None,
        # A cheat brings its case to no court.
        defence=(purse, defence, promises) if settings.defend and not settings.adversary else None,
        absence=absence if settings.defend and not settings.adversary else None,
        pay=pay if settings.claim else None,
        news=news,
    )
    bench = [keep_on_bench(chain, owner, settings.workloads)] if settings.jury else []
    await run_together(watch.run(), *bench)


async def _until_registered(settings: NodeSettings, chain: ChainClient, wallet: Address) -> tuple[OperatorId, Address]:
    """This node's operator and its owner, once the Registry has it and the chain can be asked."""
    told = False
    while True:
        try:
            operator = await asyncio.to_thread(chain.operator_of, wallet)
            if operator is not None:
                owner = (await asyncio.to_thread(chain.operator_state, operator)).owner
                await asyncio.to_thread(_advertise, settings, chain, operator)
                return operator, owner
            if not told:
                logger.warning("%s is not registered yet: `proofyard node register`", wallet)
            told = True
        except ProofyardError as error:
            logger.warning("whether this node is registered is not known now: %s", error)
        await asyncio.sleep(UNREGISTERED_S)


def _sandbox(settings: NodeSettings) -> Sandbox:
    """What holds strangers' work here, which the log says. Raises `SandboxRefused` where nothing does."""
    box = Sandbox(
        engine=settings.sandbox,
        image=settings.sandbox_image,
        hidden=(settings.wallet.absolute(), settings.data_dir.absolute()),
        required=not settings.unsandboxed,
    )
    box.check()
    if not box.holds:
        logger.warning("strangers' work runs without a sandbox, as unsandboxed says: it can do what this user can")
    else:
        lacking = "".join(f"; not by {name}: {why}" for name, why in box.mechanisms.lacking if not box.engine)
        logger.info("strangers' work is held by %s%s", box.described(), lacking)
    return box


def _registered(chain: ChainClient, wallet: Address) -> str:
    """Where the Registry says that this node is; "" for nowhere."""
    operator = chain.operator_of(wallet)
    return "" if operator is None else chain.operator(operator).endpoint


def _advertise(settings: NodeSettings, chain: ChainClient, operator: OperatorId) -> None:
    """Have the Registry say where this node can be reached, if its settings do."""
    if settings.endpoint and chain.operator(operator).endpoint != settings.endpoint:
        try:
            chain.set_endpoint(operator, settings.endpoint)
        except ProofyardError as error:
            logger.warning("the Registry does not say yet that this node is at %s: %s", settings.endpoint, error)


def offered(workloads: Iterable[str], backend: str) -> tuple[str, ...]:
    """The workloads that a machine with this arithmetic `backend` can execute; "" is none that gives the right bits."""
    return tuple(name for name in workloads if backend or not load_workload(name).arithmetic)


async def _ready(settings: NodeSettings, links: VerifierLinks, wallet: Wallet, endpoint: Endpoint) -> None:
    """The node is ready once a verifier has taken it."""
    await links.joined()
    write_ready(settings.ready_file, wallet.address, endpoint.port)
    await asyncio.Event().wait()
