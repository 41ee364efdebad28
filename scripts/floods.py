"""Floods (`flood_attacks`) against a verifier and a node that run, with honest peers at work beside them.

    python scripts/floods.py [--seconds 6] [--only WORD ...] [--target verifier node] [--out out/bench/floods.json]

A network of real processes has jobs to do all the time. Meanwhile each attack comes from a process of its own, and it
is measured what honest peers notice of it: the time of a registered node's requests and of a fetched block, how long a
newcomer takes, the longest job; the target's memory before, at most and once the attacker left, its share of a core.
The exit code is 1 where a bound is broken: `BOUNDS`.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from flood_attacks import ATTACKS, Bombs, Identity
from proofyard.artifacts import BlockStore, GetBlocks
from proofyard.artifacts.exchange import Blocks, HasBlocks, Held
from proofyard.chain import JobTerms, Wallet
from proofyard.devnet.network import DevNetwork, Plan
from proofyard.protocol.cid import cid_bytes, cid_digest
from proofyard.protocol.messages import Ack, Acks, Announce, JobQuery, JobReport, Working
from proofyard.protocol.types import Cid, JobId, ProofyardError
from proofyard.protocol.workload_bits import workload_bit, workload_bits
from proofyard.sdk import Client, LoraJob, credits, submit_job
from proofyard.transport import Connection, Endpoint
from proofyard.transport.quic import IDLE_TIMEOUT
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model

OUT = Path("out/bench/floods.json")
PROBE_S, BLOCK_S, NEWCOMER_S = 0.05, 0.5, 0.7
ANSWER_S = 30.0
SETTLE_S = 1.5
LONG_SETTLE_S = IDLE_TIMEOUT + 25.0
"""How long after an attack the target has to give its memory back; where much is kept for connections, until those that
nobody has ended are over."""
AFTER_FAILURE_S = 5.0
PURSE = credits(1_000_000)
MIB = 1 << 20
SETTLED_MIB = 32
BOUNDS = {"p95_ms": 500.0, "newcomer_ms": 5000.0, "grown_mib": 300.0, "kept_mib": 64.0}
"""What honest peers may notice of any attack, and what the target may grow by at most and keep."""

OF_NODES = (
    "one stream in 60,000 pieces",
    "pings, a packet full each",
    "requests that are taken back",
    "challenges of the path, few in a packet",
    "connection IDs that retire each other",
    "first packets from everywhere",
    "silent connections of nine hosts",
    "blocks that nobody reads",
    "who has a thousand blocks",
    "a crowd of 300",
    "lists of answers",
    "lists of offers",
    "task-offers, 500 a second",
    "audit-offers, 500 a second",
    "open-seals, 500 a second",
    "get-blocks, 500 a second",
)
"""Attacks that are tried on a node as well: what it is asked there is not what a verifier is."""


@dataclass
class Noticed:
    """What honest peers measured, in milliseconds."""

    asked: list[float] = field(default_factory=list)
    fetched: list[float] = field(default_factory=list)
    newcomers: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class Jobs(threading.Thread):
    """One small job after another, all the time."""

    def __init__(self, network: DevNetwork, folder: Path) -> None:
        super().__init__(daemon=True)
        self._network, self._folder = network, folder
        self.stopping = False
        self.done: list[tuple[float, float]] = []
        """When jobs began and ended."""
        self.began = 0.0
        self.problem = ""

    def run(self) -> None:
        network, seed = self._network, 0
        with Client(network.rpc_url, network.deployment.registry, network.requester.key) as client:
            while not self.stopping:
                seed += 1
                self.began = time.monotonic()
                try:
                    job = LoraJob(
                        model=self._folder / "model",
                        data=self._folder / "text.jsonl",
                        rank=2,
                        rounds=1,
                        workers=2,
                        segments=3,
                        segment_steps=2,
                        batch=2,
                        seq_len=16,
                        seed=seed,
                    )
                    submit_job(job, reward=credits(10), audit_fee=credits(4), client=client).wait(180)
                    self.done.append((self.began, time.monotonic()))
                except (ProofyardError, TimeoutError) as error:
                    self.problem = repr(error)[:300]
                    print(f"a job: {self.problem}", flush=True)
                    time.sleep(AFTER_FAILURE_S)

    def longest(self, since: float) -> float:
        """Of the jobs that were under way since then, so far."""
        ended = [end - began for began, end in self.done if end > since]
        return max([*ended, time.monotonic() - self.began])


class Honest:
    """Honest peers of one target: a registered node, and newcomers."""

    def __init__(self, network: DevNetwork, target: str, key: Wallet, block: Cid) -> None:
        self.host, port = network.endpoint(target).split(":")
        self.port = int(port)
        self.domain = network.chain().domain
        self._is_verifier = target.startswith("verifier")
        self._key, self._block = key, block
        self.noticed = Noticed()

    async def run(self, stop: asyncio.Event) -> None:
        async with Endpoint(self._key, network=self.domain) as endpoint:
            await asyncio.gather(
                self._again(stop, PROBE_S, lambda: self._ask(endpoint), "asked"),
                self._again(stop, BLOCK_S, lambda: self._fetch(endpoint), "fetched"),
                self._again(stop, NEWCOMER_S, self._come, "newcomers"),
            )

    async def _again(self, stop: asyncio.Event, every: float, probe: Any, name: str) -> None:
        while not stop.is_set():
            began = time.monotonic()
            try:
                async with asyncio.timeout(ANSWER_S):
                    await probe()
                getattr(self.noticed, name).append((time.monotonic() - began) * 1000)
            except (ProofyardError, TimeoutError) as error:
                self.noticed.failed.append(f"{name}: {error!r}"[:200])
                getattr(self.noticed, name).append((time.monotonic() - began) * 1000)
            await asyncio.sleep(every)

    async def _connection(self, endpoint: Endpoint) -> Connection:
        known = list(endpoint.connections.values())
        if known:
            return known[0]
        connection = await endpoint.connect(self.host, self.port)
        if self._is_verifier:
            announce = Announce(("sweep",), 1 << 30, endpoint.port, "floods", session="floods")
            answer = await connection.request(announce, reply=Ack)
            if not answer.proceed:
                self.noticed.failed.append(f"announced: {answer.reason}")
        return connection

    async def _ask(self, endpoint: Endpoint) -> None:
        connection = await self._connection(endpoint)
        if self._is_verifier:
            await connection.request(Working((), ()), reply=Acks)
        else:
            await connection.request(HasBlocks(cid_bytes(self._block)), reply=Held)

    async def _fetch(self, endpoint: Endpoint) -> None:
        connection = await self._connection(endpoint)
        async with connection.exchange(GetBlocks(cid_bytes(self._block)), reply=Blocks) as reply:
            await reply.body.read_all(1 << 20)

    async def _come(self) -> None:
        async with Endpoint(Identity(), network=self.domain) as endpoint:
            connection = await endpoint.connect(self.host, self.port, timeout=ANSWER_S)
            if self._is_verifier:
                await connection.request(JobQuery(JobId(1)), reply=JobReport)
            else:
                await connection.request(HasBlocks(cid_bytes(self._block)), reply=Held)


def p(values: list[float], percent: int) -> float:
    if len(values) < 2:
        return round(values[0], 1) if values else 0.0
    return round(quantiles(values, n=100, method="inclusive")[percent - 1], 1)


def shown(row: dict[str, Any]) -> str:
    """A line about an attack."""
    noticed = (
        f"p50 {row['p50_ms']:.1f} p95 {row['p95_ms']:.1f} most {row['most_ms']:.0f} block {row['block_p95_ms']:.0f}"
    )
    job = f"newcomer {row['newcomer_ms']:.0f} ms, job {row['job_s']:.1f} s"
    cost = f"{row['before_mib']} +{row['grown_mib']} MiB, {row['kept_mib']} kept, cpu {row['cpu']:.2f}"
    rest = " ".join(str(row[key] or "") for key in ("counted", "ends", "problem", "failed", "broken"))
    return f"{row['target']:<10} {row['attack']:<42} {noticed} {job}; {cost}; {rest}"


class Floods:
    def __init__(self, network: DevNetwork, jobs: Jobs, blocks: dict[str, list[Cid]], key: Wallet) -> None:
        self._network, self._jobs, self._blocks, self._key = network, jobs, blocks, key
        self._bomber = bomber(network)
        self.rows: list[dict[str, Any]] = []

    async def measure(self, target: str, name: str | None, seconds: float) -> dict[str, Any]:
        """One attack, or as long without any."""
        network = self._network
        process = psutil.Process(network.pid_of(target))
        honest, stop = Honest(network, target, self._key, self._blocks[target][0]), asyncio.Event()
        honesty = asyncio.create_task(honest.run(stop))
        await asyncio.sleep(1.0)
        honest.noticed = Noticed()
        before, began, cpu = process.memory_info().rss, time.monotonic(), sum(process.cpu_times()[:2])
        peak, said = before, {"counted": {}, "ends": {}, "problem": ""}
        child = None if name is None else await self._attacker(honest, target, name, seconds)
        while (time.monotonic() < began + seconds + 60) if child is not None else (time.monotonic() < began + seconds):
            peak = max(peak, process.memory_info().rss)
            if child is not None and child.returncode is not None:
                break
            await asyncio.sleep(0.05)
        if child is not None:
            with suppress(ProcessLookupError):
                child.kill()
            out, _ = await child.communicate()
            with suppress(IndexError, ValueError):
                said = json.loads(out.splitlines()[-1])
        share = (sum(process.cpu_times()[:2]) - cpu) / (time.monotonic() - began)
        stop.set()
        await honesty
        noticed = honest.noticed
        await asyncio.sleep(LONG_SETTLE_S if peak - before > SETTLED_MIB * MIB else SETTLE_S)
        row = {
            "target": target,
            "attack": name or "(none)",
            "p50_ms": p(noticed.asked, 50),
            "p95_ms": p(noticed.asked, 95),
            "most_ms": round(max(noticed.asked, default=0.0), 1),
            "block_p95_ms": p(noticed.fetched, 95),
            "newcomer_ms": round(max(noticed.newcomers, default=0.0), 1),
            "job_s": round(self._jobs.longest(began), 1),
            "before_mib": before // MIB,
            "grown_mib": (peak - before) // MIB,
            "kept_mib": (process.memory_info().rss - before) // MIB,
            "cpu": round(share, 2),
            "failed": noticed.failed[:3],
            **said,
        }
        row["broken"] = [each for each, bound in BOUNDS.items() if row[each] > bound]
        self.rows.append(row)
        print(shown(row), flush=True)
        return row

    async def _attacker(self, honest: Honest, target: str, name: str, seconds: float) -> asyncio.subprocess.Process:
        domain = honest.domain
        api = self._network.api_url("verifier-1").rpartition(":")[2]
        where = (name, honest.host, str(honest.port), str(domain.chain_id), domain.registry, str(seconds), api)
        script = str(Path(__file__).with_name("flood_attacks.py"))
        return await asyncio.create_subprocess_exec(
            sys.executable,
            script,
            *where,
            *self._blocks[target][:64],
            stdout=subprocess.PIPE,
            env=os.environ | self._bomber,
        )


def bomber(network: DevNetwork) -> dict[str, str]:
    """The key and the number of a job whose requester has paid, and whose inputs are bombs."""
    wallet = Wallet.generate()
    network.anvil.fund(wallet.address)
    network.chain(network.treasury).transfer(wallet.address, PURSE)
    with TemporaryDirectory() as folder:
        manifest = Bombs(Path(folder)).manifest
    terms = JobTerms(
        manifest=cid_digest(manifest),
        units=10,
        reward=credits(10),
        audit_fee=credits(4),
        verifier_fee=credits(3),
        auditors_per_segment=2,
        segments_per_audit=1,
        deadline=int(time.time()) + 24 * 3600,
        workload=workload_bit("map"),
    )
    return {"JOB": str(network.chain(wallet).open_job(terms)), "KEY": wallet.account.key.hex()}


def blocks_for(folder: Path) -> list[Cid]:
    """16 MiB in blocks of 256 KiB, put into a running program's store."""
    store = BlockStore(folder)
    chance = random.Random(5)
    return [store.put_bytes(chance.randbytes(1 << 18)) for _ in range(64)]


def flood(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    write_tiny_model(folder / "model", 1)
    write_tiny_corpus(folder / "text.jsonl")
    plan = Plan(nodes=4, model_dirs=(folder / "model",), decoys_bps=0, purse=PURSE)
    with DevNetwork(folder / "devnet", plan, lambda line: print(line, flush=True)) as network:
        key, owner = Wallet.generate(), Wallet.generate()
        for wallet in (key, owner):
            network.anvil.fund(wallet.address)
        network.chain(network.treasury).transfer(owner.address, network.plan.params.node_stake)
        network.chain(owner).register_node(key, network.plan.params.node_stake, workload_bits(("sweep",)))
        targets = {"verifier": "verifier-1", "node": "node-1"}
        blocks = {name: blocks_for(network.directory / name / "data" / "blocks") for name in targets.values()}
        jobs = Jobs(network, folder)
        jobs.start()
        floods = Floods(network, jobs, blocks, key)
        while not jobs.done and not jobs.problem:
            time.sleep(0.2)
        asyncio.run(attack(floods, options, targets))
        jobs.stopping = True
        jobs.join(120)
        if network.exit_codes():
            floods.rows.append({"attack": "a process ended by itself", "broken": [str(network.exit_codes())]})
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            for name in targets.values():
                (options.keep / f"{name}.log").write_bytes(network.log_of(name).read_bytes())
        return floods.rows


async def attack(floods: Floods, options: argparse.Namespace, targets: dict[str, str]) -> None:
    for target in options.target:
        await floods.measure(targets[target], None, options.seconds)
        for name in ATTACKS:
            chosen = any(word in name for word in options.only) if options.only else True
            if chosen and (target == "verifier" or name in OF_NODES or options.only):
                await floods.measure(targets[target], name, options.seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--only", nargs="*", default=[], help="parts of attacks' names")
    parser.add_argument("--target", nargs="*", default=["verifier", "node"], choices=["verifier", "node"])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--keep", type=Path, help="a folder for the targets' logs")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="proofyard-floods-") as folder:
        rows = flood(options, Path(folder))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n")
    broken = [f"{row['attack']}: {', '.join(row['broken'])}" for row in rows if row["broken"]]
    print(f"{len(rows)} attacks, {len(broken)} over a bound: {options.out}", *broken, sep="\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
