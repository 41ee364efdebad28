"""What verification costs a job that runs: how much of the time workers train, against the same run without it.

    make bench-pipeline

Writes out/bench/pipeline.json, and its part of docs/performance.md with the plots. `--quick` trains a tiny model.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from bench_pipeline_plain import PlainRun, run_plain
from bench_pipeline_report import write_page
from bench_pipeline_timeline import Span, read_orders, rest_of, share, window
from proofyard.artifacts import BlockStore
from proofyard.devnet import DevNetwork, Plan
from proofyard.protocol.types import ProofyardError
from proofyard.sdk import Client, JobHandle, LoraJob, MapJob, Prepared, claim_all, credits, settled_batches, unclaimed
from proofyard.sdk.terms import Offer
from proofyard.workloads.corpus import write_bible_corpus
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model

ROOT = Path(__file__).resolve().parent.parent
WORKERS, ROUNDS = 4, 6
LOOK_AHEAD, LOOK_AHEAD_REDO = 5, 3
"""Rounds. A commitment waits up to 60 s for its batch, and with blocks of 12 s its verdict takes 60 s more: four rounds
or more."""
HISTORY = 10
"""Valid audits from which on the dial trusts a node more with every one."""
HISTORY_TURNS = 4
"""Of small jobs; nobody says which node takes how many of their tasks."""
TIMEOUT_S = 1800.0
CREDIT = 10**18


class BenchFailed(ProofyardError):
    """A run did not end as it must."""


@dataclass(frozen=True)
class Run:
    """A verified job. `began`: when it was opened; `done`: when all its verdicts were settled and it was done. Unix
    seconds. `cpu` by role, seconds; `gas` of the verifier's transactions."""

    block_time: int
    known: bool
    began: float
    done: float
    spans: tuple[Span, ...]
    audits: int
    audit_cpu_s: float
    cpu: dict[str, float]
    gas: int
    batches: int
    tasks: int
    result: str
    faulty: tuple[int, ...]
    load: float

    @property
    def seconds(self) -> float:
        return self.done - self.began

    @property
    def to_final(self) -> float:
        return self.done - window(self.spans)[1]

    def figures(self, workers: int) -> dict[str, Any]:
        start, end = window(self.spans)
        steps = [span.seconds for span in self.spans if span.what == "train"]
        return {
            "block_time": self.block_time,
            "nodes_known": self.known,
            "seconds": self.seconds,
            "training_seconds": end - start,
            "to_first_step": start - self.began,
            "time_to_final": self.to_final,
            "compute_share": share(self.spans, "train", workers),
            "shares": rest_of(self.spans, workers),
            "step_seconds": sum(steps) / len(steps),
            "steps": len(steps),
            "audited_segments": self.audits,
            "audit_cpu_seconds": self.audit_cpu_s,
            "cpu_seconds": self.cpu,
            "gas_per_task": self.gas / self.tasks,
            "batches": self.batches,
            "faulty_tasks": list(self.faulty),
            "result": self.result,
            "load_before": self.load,
        }


class Bench:
    """Runs of one job, one after the other, each on a network of its own."""

    def __init__(self, folder: Path, job: LoraJob, results: dict[str, Any]) -> None:
        self.folder, self.job, self.results = folder, job, results

    def plain(self, name: str = "plain") -> PlainRun:
        """The federated run without chain, commitments and audits."""
        load = os.getloadavg()[0]
        store, model, data = BlockStore(self.folder / "plain"), Path(self.job.model), Path(self.job.data)
        manifest = self.job.manifest(store.link_directory(model, follow=True), store.link_file(data))
        run = run_plain(manifest, model, data, self.job.workers)
        start, end = window(run.spans)
        steps = [span.seconds for span in run.spans if span.what == "train"]
        self.results[name] = {
            "seconds": run.ended - run.began,
            "training_seconds": end - start,
            "step_seconds": sum(steps) / len(steps),
            "compute_share": share(run.spans, "train", self.job.workers),
            "cpu_seconds": run.cpu_s,
            "result": str(run.package),
            "load_before": load,
        }
        self._tell(name)
        return run

    def verified(self, name: str, block_time: int, *, known: bool) -> Run:
        """The same job on a network; `known`: its nodes have a history of valid audits."""
        with self._network(name, Plan(nodes=WORKERS, decoys_bps=0), block_time, known=known) as (network, client):
            run = self._follow(network, client, self.job, block_time, known=known)
        self.results[name] = run.figures(self.job.workers)
        self._tell(name)
        return run

    def redo(self, name: str = "redo") -> None:
        """Eight workers, of whom one cheats once; and the same job without it."""
        inputs = self.folder / "inputs"
        inputs.mkdir(exist_ok=True)
        tiny = tiny_job(inputs, workers=8, rounds=ROUNDS, segment_steps=2, segments=8)
        plans = {
            "honest": Plan(nodes=8, decoys_bps=0),
            "cheat": Plan(nodes=7, adversaries=("skip-once",), decoys_bps=0),
        }
        runs = {}
        for kind, plan in plans.items():
            with self._network(f"{name}-{kind}", plan, 2, known=False) as (network, client):
                runs[kind] = self._follow(network, client, tiny, 2, known=False)
        again = rounds_done_again(runs["cheat"], tiny)
        self.results[name] = {
            "identical": runs["cheat"].result == runs["honest"].result,
            "faulty_tasks": list(runs["cheat"].faulty),
            "rounds_done_again": again,
            "look_ahead": tiny.look_ahead,
            "redo_share": again / max(1, tiny.look_ahead),
            "seconds": {kind: run.seconds for kind, run in runs.items()},
        }
        self._tell(name)

    def demo(self, name: str = "demo") -> None:
        """What the demo's job costs on chain."""
        out = self.folder / "demo"
        command = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--out", str(out)]
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode != 0:
            raise BenchFailed(f"the demo failed; its logs are in {out / 'network' / 'logs'}")
        summary = json.loads((out / "summary.json").read_text())
        self.results[name] = {key: summary[key] for key in ("gas_per_task", "batches", "seconds", "verifiers_earned")}
        self._tell(name)

    def _tell(self, name: str) -> None:
        print(name, json.dumps(self.results[name], indent=1), flush=True)

    # Networks

    @contextmanager
    def _network(self, name: str, plan: Plan, block_time: int, *, known: bool) -> Iterator[tuple[DevNetwork, Client]]:
        models = (Path(self.job.model),)
        plan = replace(plan, model_dirs=models, log_level="debug", log_format="json")
        with (
            DevNetwork(self.folder / name, plan) as network,
            Client(network.rpc_url, network.deployment.registry, network.requester.key) as client,
        ):
            if known:
                make_known(network, client, self.folder)
            network.anvil.set_mining(block_time)
            yield network, client

    def _follow(self, network: DevNetwork, client: Client, job: LoraJob, block_time: int, *, known: bool) -> Run:
        assert job.rounds is not None
        tasks = job.rounds * job.workers
        prepared: Prepared = client.prepare(job, Offer(reward=credits(tasks / 4), audit_fee=credits(2 * tasks)))
        load, block = os.getloadavg()[0], client.chain.block_number()
        cpu = network_cpu(network)
        began = time.time()
        handle = client.open(prepared)
        report = handle.wait(TIMEOUT_S)
        done = time.time()
        cpu = {role: seconds - cpu[role] for role, seconds in network_cpu(network).items()}
        faulty = sorted({line.task for line in log_of(handle) if line.kind == "fault"})
        orders = read_orders((network.log_of(node.name) for node in network.nodes), began)
        batches = settled_batches(client, handle.job_id)
        return Run(
            block_time=block_time,
            known=known,
            began=began,
            done=done,
            spans=orders.spans,
            audits=orders.audits,
            audit_cpu_s=orders.audit_cpu_s,
            cpu=cpu,
            gas=network.gas_of_batches(block),
            batches=len(batches),
            tasks=tasks,
            result=str(report.result),
            faulty=tuple(faulty),
            load=load,
        )


def make_known(network: DevNetwork, client: Client, folder: Path) -> None:
    """Give every node a history: small tasks, all audited and claimed, until the dial begins to trust it."""
    for turn in range(HISTORY_TURNS):
        lines = folder / f"history-{turn}.jsonl"
        texts = (json.dumps({"text": f"line {number} of {turn}"}) + "\n" for number in range(12 * len(network.nodes)))
        lines.write_text("".join(texts))
        job = MapJob(data=lines, segment_rows=1, segments=1)
        handle = client.submit(job, reward=credits(5), audit_fee=credits(150))
        handle.wait(TIMEOUT_S)
        batches = settled_batches(client, handle.job_id)
        network.anvil.warp(network.plan.params.challenge_window)
        claim_all(client, unclaimed(client, batches))
        short = [node.node for node in client.chain.active_nodes() if node.consecutive_valid < HISTORY]
        if not short:
            return
    raise BenchFailed(f"these nodes have too short a history: {', '.join(short)}")


def rounds_done_again(run: Run, job: LoraJob) -> float:
    """Steps that were done a second time, beside those of the faulty tasks, in rounds."""
    steps = Counter(span.task for span in run.spans if span.what == "train")
    each = job.segments * job.segment_steps
    return sum(count - each for task, count in steps.items() if task not in run.faulty) / (each * job.workers)


def log_of(handle: JobHandle) -> list[Any]:
    lines: list[Any] = []
    handle.wait(60, on_event=lines.append)
    return lines


def network_cpu(network: DevNetwork) -> dict[str, float]:
    """Seconds of CPU so far: of the executors, the nodes around them, verifiers and chain."""
    found = dict.fromkeys(("executors", "nodes", "verifiers", "chain"), 0.0)
    for member in (*network.nodes, *network.verifiers):
        process = psutil.Process(network.pid_of(member.name))
        found["nodes" if member.role == "node" else "verifiers"] += _cpu(process)
        found["executors"] += sum(_cpu(child) for child in process.children(recursive=True))
    found["chain"] = _cpu(psutil.Process(network.anvil.pid))
    return found


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def compare(results: dict[str, Any]) -> None:
    """The figures that must be reached, from the runs."""
    plain, cores = results.get("plain"), os.cpu_count() or 1
    for name, suffix in (("fast", "_new_nodes"), ("fast_known", "")):
        run = results.get(name)
        if run and plain:
            audits = run["audit_cpu_seconds"]
            results["overhead_vs_unverified" + suffix] = run["seconds"] / plain["seconds"]
            results["overhead_without_audit_compute" + suffix] = (run["seconds"] - audits / cores) / plain["seconds"]
            cpu = sum(run["cpu_seconds"].values())
            results["cpu_vs_unverified" + suffix] = cpu / plain["cpu_seconds"]
            results["cpu_without_audits_vs_unverified" + suffix] = (cpu - audits) / plain["cpu_seconds"]
            results["time_to_final" + suffix] = run["time_to_final"]
    if "slow" in results:
        results["compute_share_12s"] = results["slow"]["compute_share"]
    if "redo" in results:
        results["redo_share"] = results["redo"]["redo_share"]
    if "demo" in results:
        results["gas_per_task_demo"] = results["demo"]["gas_per_task"]


def bible_job(inputs: Path) -> LoraJob:
    """The demo's model and data, with steps of twice as many tokens."""
    inputs.mkdir(parents=True, exist_ok=True)
    return LoraJob(
        model=ROOT / ".cache" / "models" / "smollm2-135m-instruct",
        data=write_bible_corpus(inputs / "kjv.jsonl"),
        lr=2e-3,
        rounds=ROUNDS,
        workers=WORKERS,
        segments=8,
        segment_steps=2,
        batch=2,
        seq_len=128,
        look_ahead=LOOK_AHEAD,
        seed=7,
    )


def tiny_job(inputs: Path, *, workers: int, rounds: int, segment_steps: int, segments: int) -> LoraJob:
    inputs.mkdir(parents=True, exist_ok=True)
    return LoraJob(
        model=write_tiny_model(inputs / "model"),
        data=write_tiny_corpus(inputs / "text.jsonl", labels=workers),
        lr=1e-2,
        rounds=rounds,
        workers=workers,
        segments=segments,
        segment_steps=segment_steps,
        batch=4,
        seq_len=128,
        look_ahead=LOOK_AHEAD_REDO,
        seed=7,
        options={"holdout_percent": 10},
    )


SCENARIOS = ("plain", "fast_known", "slow", "fast", "redo", "demo")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model instead of the demo's")
    parser.add_argument("--only", nargs="*", choices=SCENARIOS, help="some of the runs")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--keep", action="store_true", help="keep logs and databases")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="pipeline-", dir=options.out)).absolute()
    path = options.out / "pipeline.json"
    results: dict[str, Any] = json.loads(path.read_text()) if options.only and path.exists() else {}
    spans: dict[str, tuple[Span, ...]] = {}
    try:
        inputs = folder / "inputs"
        job = (
            tiny_job(inputs, workers=WORKERS, rounds=ROUNDS, segment_steps=2, segments=8)
            if options.quick
            else bible_job(inputs)
        )
        bench = Bench(folder, job, results)
        for name in options.only or SCENARIOS:
            match name:
                case "plain":
                    spans[name] = bench.plain().spans
                case "redo":
                    bench.redo()
                case "demo":
                    bench.demo()
                case _:
                    slow, known = name == "slow", name != "fast"
                    spans[name] = bench.verified(name, 12 if slow else 2, known=known).spans
    finally:
        if options.keep:
            print(f"logs are in {folder}", flush=True)
        else:
            shutil.rmtree(folder)
    compare(results)
    path.write_text(json.dumps(results, indent=2) + "\n")
    if not options.quick:
        write_page(results, spans)


if __name__ == "__main__":
    main()
