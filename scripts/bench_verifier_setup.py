"""The network that `bench_verifier.py` measures: anvil with blocks by the clock, the contracts, a verifier and a crowd
of registered nodes, each side in a process of its own."""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec
import psutil

from proofyard.chain import Anvil, ChainClient, JobTerms, Params, Wallet, deploy_network
from proofyard.chain.sender import Sender
from proofyard.devnet.members import store_wallet
from proofyard.devnet.process import free_udp_port
from proofyard.protocol.cid import cid_digest
from proofyard.protocol.manifest import Manifest, encode_manifest
from proofyard.protocol.types import Cid, JobId, ProofyardError, Wei
from proofyard.protocol.workload_bits import WORKLOADS, workload_bit, workload_bits
from proofyard.runtime.parent import end_with_parent
from proofyard.sdk import AsyncClient, Client, claim_all, settled_batches, unclaimed

ROLES = Path(__file__).parent / "bench_verifier_roles.py"
CREDIT = 10**18
PARAMS = Params(challenge_window=10)
STAKE = Wei(1_000_000 * CREDIT)
"""The verifier's: its batches hold the pay of all tasks open at once."""
READY_S = 240.0
"""For a process that starts beside whatever else the machine does."""
POLL_S = 0.25
CLIENT_PAUSE_S = 1.0
"""Between two requests of one client of the API: what a dashboard does."""
FIRST_TASK = "/v1/jobs/{job}/tasks/1"
ROUTES = (
    *("/health", "/ready", "/metrics", "/v1/status", "/v1/jobs", "/v1/jobs/{job}", "/v1/jobs/{job}/tasks"),
    *("/v1/jobs/{job}/works", "/v1/jobs/{job}/audits", "/v1/jobs/{job}/log", "/v1/jobs/{job}/explain"),
    *(FIRST_TASK, "/v1/jobs/{job}/tasks/1/explain", "/v1/nodes", "/v1/batches", "/v1/faults"),
    "/v1/disputes",
)


class Stuck(ProofyardError):
    """The jobs did not end in time, or a process has ended."""


@dataclass(frozen=True)
class Spent:
    """What a stretch of work took. Seconds of CPU are those of all threads."""

    wall_s: float
    verifier_s: float
    nodes_s: float
    chain_s: float
    gas: int

    def figures(self, tasks: int) -> dict[str, float]:
        """Each per task, but for the rates; `cpu_bound_tasks_per_s` is what the processor time alone allows on two
        idle cores, with the verifier on no more than one."""
        cpu = self.verifier_s + self.nodes_s + self.chain_s
        return {
            "tasks_per_s": tasks / self.wall_s,
            "verifier_ms": 1000 * self.verifier_s / tasks,
            "nodes_ms": 1000 * self.nodes_s / tasks,
            "chain_ms": 1000 * self.chain_s / tasks,
            "cpu_bound_tasks_per_s": tasks / max(cpu / 2, self.verifier_s),
            "gas_per_task": self.gas / tasks,
        }


class BenchNetwork:
    """In `folder`; use in a `with` statement, in the main thread."""

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int,
        processes: int = 2,
        block_time: int = 2,
        tasks_held: int = 8,
        params: Params = PARAMS,
        crowd: bool = True,
    ) -> None:
        """Without a `crowd` the nodes are registered, and whoever wants to runs them."""
        self._params, self._crowd = params, crowd
        self.folder = folder.absolute()
        self._nodes, self._processes, self._block_time, self._tasks_held = nodes, processes, block_time, tasks_held
        self.nodes: list[psutil.Popen] = []
        self._stack = ExitStack()
        self._seed = 0

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.anvil = self._stack.enter_context(Anvil(log=self.folder / "anvil.log"))
        treasury = self.anvil.wallet(0)
        self.deployment = deploy_network(self.anvil.rpc_url, treasury, self._params)
        self._bank = self._sending(self._chain(treasury), treasury)
        self.verifier_wallet, port = Wallet.generate(), free_udp_port()
        self.anvil.fund(self.verifier_wallet.address, 10_000)
        owner = self._owner(STAKE)
        self._operator = owner.register_verifier(self.verifier_wallet, STAKE, f"127.0.0.1:{port}")
        self.keys = [self._register_node() for _ in range(self._nodes)]
        requester = Wallet.generate()
        self._fund(requester, Wei(10_000_000 * CREDIT))
        self.client = self._stack.enter_context(
            Client(self.anvil.rpc_url, self.deployment.registry, requester, first_block=self.deployment.block)
        )
        self.chain = self.client.chain
        self._by_the_clock()
        self._start_processes(port)

    @property
    def place(self) -> dict[str, Any]:
        """Where the network is, as settings have it."""
        return {
            "rpc_url": self.anvil.rpc_url,
            "registry": self.deployment.registry,
            "from_block": self.deployment.block,
        }

    def _chain(self, wallet: Wallet) -> ChainClient:
        return ChainClient(self.anvil.rpc_url, self.deployment.registry, wallet, first_block=self.deployment.block)

    def _fund(self, wallet: Wallet, amount: Wei) -> None:
        self.anvil.fund(wallet.address, 10_000)
        self._bank.transfer(wallet.address, amount)

    def _owner(self, stake: Wei) -> ChainClient:
        wallet = Wallet.generate()
        self._fund(wallet, stake)
        client = self._sending(self._bank, wallet)
        client.wallet = wallet
        return client

    def _sending(self, chain: ChainClient, wallet: Wallet) -> ChainClient:
        """Blocks come at once while the network is set up."""
        return chain.sending_by(Sender(chain._w3, self.anvil.rpc_url, wallet, poll=0.005))

    def _register_node(self) -> str:
        key = Wallet.generate()
        self._owner(self._params.node_stake).register_node(key, self._params.node_stake, workload_bits(WORKLOADS))
        return bytes(key.account.key).hex()

    def _by_the_clock(self) -> None:
        self.anvil.set_mining(self._block_time)

    def _start_processes(self, port: int) -> None:
        home = self.folder / "verifier"
        store_wallet(self.folder / "wallets", "verifier", self.verifier_wallet)
        settings = self.place | {
            "wallet": str(self.folder / "wallets" / "verifier.json"),
            "password_file": str(self.folder / "wallets" / "verifier.password"),
            "port": port,
            "data_dir": str(home),
            "ready_file": str(self.folder / "verifier.ready"),
            "lease_s": 60.0,
        }
        self.verifier = self.spawn("verifier", settings)
        ready = self.wait_ready(self.folder / "verifier.ready", READY_S)
        self.api_url = f"http://127.0.0.1:{ready['api_port']}"
        for number in range(self._processes if self._crowd else 0):
            crowd = self.place | {
                "keys": list(self.keys[number :: self._processes]),
                "folder": str(self.folder / f"nodes{number}"),
                "ready_file": str(self.folder / f"nodes{number}.ready"),
                "tasks_held": self._tasks_held,
            }
            self.nodes.append(self.spawn(f"nodes{number}", crowd))
        for number in range(len(self.nodes)):
            self.wait_ready(self.folder / f"nodes{number}.ready", READY_S + self._nodes)

    def spawn(self, role: str, settings: dict[str, Any], program: Path = ROLES) -> psutil.Popen:
        path, log = self.folder / f"{role}.settings", self.folder / f"{role}.log"
        path.write_text(json.dumps(settings))
        with log.open("wb") as sink:
            process = psutil.Popen(
                [sys.executable, str(program), role, str(path)],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                preexec_fn=partial(end_with_parent, os.getpid()),
            )
        self._stack.callback(_end, process)
        return process

    def wait_ready(self, path: Path, seconds: float) -> dict[str, Any]:
        self._wait(path.exists, seconds, f"{path.name} is not there")
        found: dict[str, Any] = msgspec.json.decode(path.read_bytes())
        return found

    def _wait(self, over: Any, seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while not over():
            for process in (getattr(self, "verifier", None), *self.nodes):
                if process is not None and process.poll() is not None:
                    raise Stuck(f"a process has ended with {process.returncode}; see the logs in {self.folder}")
            if time.monotonic() > end:
                raise Stuck(f"{what} after {seconds:.0f} s; see the logs in {self.folder}")
            time.sleep(POLL_S)

    # Jobs

    def open_jobs(self, count: int, tasks: int) -> list[JobId]:
        """So many jobs of so many tasks each. They are opened in blocks of their own: their requesters are no part of
        what is measured."""
        manifests = []
        for _ in range(count):
            self._seed += 1
            manifest = Manifest(workload="lora", params={"tasks": tasks}, seed=self._seed)
            manifests.append(self.client.store.put_bytes(encode_manifest(manifest)))
        for start in range(0, count, 16):
            self.client.run(partial(_publish, manifests[start : start + 16]))
        self.anvil.set_mining(None)
        jobs = [self.chain.open_job(self._terms(tasks, cid_digest(cid))) for cid in manifests]
        self._by_the_clock()
        return jobs

    def _terms(self, tasks: int, manifest: Any) -> JobTerms:
        return JobTerms(
            manifest=manifest,
            units=tasks,
            reward=Wei(tasks * CREDIT),
            audit_fee=Wei(tasks * CREDIT // 2),
            verifier_fee=Wei(tasks * CREDIT // 20),
            auditors_per_segment=2,
            segments_per_audit=1,
            deadline=int(time.time()) + 24 * 3600,
            workload=workload_bit("lora"),
            verifier=self._operator,
        )

    def wait_paid(self, jobs: Sequence[JobId], seconds: float) -> None:
        """Until the settlements of all tasks are on chain."""
        left = list(jobs)

        def over() -> bool:
            while left:
                job = self.chain.job(left[-1])
                if job.units_paid < job.units:
                    return False
                left.pop()
            return True

        self._wait(over, seconds, f"{len(left)} of {len(jobs)} jobs are not paid")

    def claim(self, jobs: Sequence[JobId], seconds: float) -> None:
        """Have everybody paid for these jobs, once all windows are closed: what was found valid counts from then on."""
        batches = {batch.event.batch: batch for job in jobs for batch in settled_batches(self.client, job)}

        def over() -> bool:
            dues = unclaimed(self.client, batches.values(), None)
            self.anvil.set_mining(None)
            claim_all(self.client, dues)
            self._by_the_clock()
            return not unclaimed(self.client, batches.values(), None)

        self._wait(over, seconds, "not everybody is paid")

    @contextmanager
    def measured(self, into: list[Spent]) -> Iterator[None]:
        """Appends what the block took."""
        before, start, block = self._cpu(), time.monotonic(), self.chain.block_number()
        yield
        wall = time.monotonic() - start
        spent = [after - earlier for after, earlier in zip(self._cpu(), before, strict=True)]
        into.append(Spent(wall, spent[0], spent[1], spent[2], self._gas(block)))

    def _cpu(self) -> list[float]:
        """Seconds of verifier, its API included, nodes and chain."""
        sides = ([self.verifier, *self.verifier.children()], self.nodes, [psutil.Process(self.anvil.pid)])
        return [sum(sum(process.cpu_times()[:2]) for process in side) for side in sides]

    def _gas(self, since: int) -> int:
        """What the verifier's transactions took after block `since`."""
        total = 0
        for number in range(since + 1, self.chain.block_number() + 1):
            for receipt in self.anvil.receipts(number):
                if receipt["from"].lower() == self.verifier_wallet.address.lower():
                    total += int(receipt["gasUsed"], 16)
        return total

    def audited(self, job: JobId) -> int:
        """How many tasks of a job were drawn, by the records of its settled batches."""
        records = [batch.record for batch in settled_batches(self.client, job)]
        return len({audit.task_key for record in records for audit in record.audits if audit.job == job})

    def verifier_bytes(self) -> int:
        """The resident memory of the verifier and its API."""
        return sum(int(each.memory_info().rss) for each in (self.verifier, *self.verifier.children()))


def _end(process: psutil.Popen) -> None:
    with suppress(psutil.NoSuchProcess):
        process.terminate()
    try:
        process.wait(10)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait()


class Dashboards:
    """Clients of the verifier's API, each asking once a second for another of its pages; use in a `with` statement."""

    def __init__(self, url: str, clients: int, job: JobId) -> None:
        self._url, self._clients = url, clients
        self._routes = [route.format(job=job) for route in ROUTES]
        self.seconds: dict[str, list[float]] = {route: [] for route in ROUTES}
        self.failures: Counter[str] = Counter()
        """What came instead of an answer, by page. 503 is an answer: too much is asked, or it is not ready."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def figures(self) -> dict[str, Any]:
        """Milliseconds of all answers together, and of each route."""
        every = [each for times in self.seconds.values() for each in times]
        return {
            "requests": len(every),
            "failed": self.failures.total(),
            "failures": dict(self.failures.most_common()),
            "p50_ms": _quantile_ms(every, 50),
            "p95_ms": _quantile_ms(every, 95),
            "p95_ms_of": {route: _quantile_ms(times, 95) for route, times in self.seconds.items()},
        }

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=self._clients, max_keepalive_connections=self._clients)
        async with httpx.AsyncClient(base_url=self._url, limits=limits, timeout=60) as api:
            if self._clients:
                await self._until_known(api)
            await asyncio.gather(*(self._ask(api, number) for number in range(self._clients)))

    async def _until_known(self, api: httpx.AsyncClient) -> None:
        """Until the verifier has read the block that opened the job: before, pages of it are not found."""
        while not self._stop.is_set():
            answer = await api.get(self._routes[ROUTES.index(FIRST_TASK)])
            if answer.status_code != 404:
                return
            await asyncio.sleep(POLL_S)

    async def _ask(self, api: httpx.AsyncClient, number: int) -> None:
        await asyncio.sleep(CLIENT_PAUSE_S * number / self._clients)
        turn = number
        while not self._stop.is_set():
            start, at = time.monotonic(), turn % len(ROUTES)
            try:
                answer = await api.get(self._routes[at])
                if answer.status_code not in (200, 503):
                    self.failures[f"{ROUTES[at]}: {answer.status_code}"] += 1
            except httpx.TransportError as error:
                self.failures[f"{ROUTES[at]}: {type(error).__name__} {error}"] += 1
            self.seconds[ROUTES[at]].append(time.monotonic() - start)
            turn += 1
            await asyncio.sleep(CLIENT_PAUSE_S)


def _quantile_ms(seconds: Sequence[float], percent: int) -> float:
    return round(1000 * statistics.quantiles(seconds, n=100)[percent - 1], 1) if len(seconds) > 1 else float("nan")


async def _publish(artifacts: list[Cid], client: AsyncClient) -> None:
    await client.peers.publish(None, artifacts)
