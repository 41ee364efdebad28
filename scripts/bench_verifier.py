"""How many tasks a verifier carries: scheduled, committed, audited and settled, with everything but the computing real.

    make bench-verifier

Writes out/bench/verifier.json, and the tables and plots of docs/performance.md. `--quick` is a tenth of nodes and
tasks.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_verifier_idle import measure as idle_figures
from bench_verifier_report import write_page
from bench_verifier_setup import BenchNetwork, Dashboards, Spent
from proofyard.protocol.types import JobId

CLIENTS = 50
AT_ONCE = 10
"""Small jobs that run at the same time while memory is looked at."""
REST_S = 300.0
"""Small jobs run for so long before memory is looked at: batches stay for 64 blocks, what was decoded for 120 s."""


class Bench:
    """One network; `results` by figure."""

    def __init__(
        self,
        network: BenchNetwork,
        *,
        small: int,
        large: int,
        jobs: int,
        tiny: int,
        job_tasks: int,
        rest_s: float,
    ) -> None:
        self._network, self._rest_s = network, rest_s
        self._small, self._large, self._jobs, self._tiny, self._job_tasks = small, large, jobs, tiny, job_tasks
        self.results: dict[str, Any] = {}
        self._jobs_done: list[JobId] = []

    def small(self) -> None:
        """one job, small enough to say what a task costs while there are few"""
        self.results["small"] = self._run(1, self._small)

    def large(self) -> None:
        """one job of ten times as many tasks, with clients at the API"""
        figures = self.results["large"] = self._run(1, self._large, clients=CLIENTS)
        self.results["tasks_per_s"] = figures["tasks_per_s"]
        self.results["api_p95_ms"] = figures["api"]["p95_ms"]
        if "small" in self.results:
            self.results["cost_growth"] = figures["verifier_ms"] / self.results["small"]["verifier_ms"]

    def trusted(self) -> None:
        """the same by nodes that have been paid for what they did before: the dial draws fewer of their tasks"""
        self._network.claim(self._jobs_done, 900)
        figures = self.results["trusted"] = self._run(1, self._large)
        self.results["tasks_per_s_by_trust"] = figures["tasks_per_s"]

    def many(self) -> None:
        """many small jobs at once: what a task costs in gas where batches are shared"""
        figures = self.results["many"] = self._run(self._jobs, self._job_tasks)
        self.results["gas_per_task_100_jobs"] = figures["gas_per_task"]

    def memory(self) -> None:
        """small jobs, some at a time: what the verifier keeps of each, once what it keeps for some minutes is full"""
        before, begun = 0, time.monotonic()
        while time.monotonic() - begun < self._rest_s:
            self._small_jobs()
            before += AT_ONCE
        sizes = [self._small_jobs() for _ in range(self._tiny // AT_ONCE)]
        self.results["memory"] = {"jobs_before": before, "jobs": self._tiny, "jobs_at_once": AT_ONCE, "bytes": sizes}
        self.results["memory_bytes_per_job"] = slope(sizes) / AT_ONCE

    def _small_jobs(self) -> int:
        """What the verifier takes after a few more."""
        self._network.wait_paid(self._network.open_jobs(AT_ONCE, self._job_tasks), 600)
        return self._network.verifier_bytes()

    def idle(self) -> None:
        """a node that has nothing to do, in a network of its own"""
        self.results |= idle_figures(self._network.folder / "idle")

    def _run(self, count: int, tasks: int, *, clients: int = 0) -> dict[str, Any]:
        found: list[Spent] = []
        load = os.getloadavg()[0]
        with self._network.measured(found):
            jobs = self._network.open_jobs(count, tasks)
            self._jobs_done += jobs
            with Dashboards(self._network.api_url, clients, jobs[0]) as dashboards:
                self._network.wait_paid(jobs, 600 + count * tasks)
        figures = {"jobs": count, "tasks": count * tasks, "load_before": load} | found[0].figures(count * tasks)
        audited = sum(self._network.audited(job) for job in jobs)
        figures["audited_share"] = audited / (count * tasks)
        return figures | ({"api": dashboards.figures()} if clients else {})


def slope(values: list[int]) -> float:
    """Least squares, per item."""
    if len(values) < 2:
        return 0.0
    middle, mean = (len(values) - 1) / 2, sum(values) / len(values)
    spread = sum((x - middle) ** 2 for x in range(len(values)))
    return sum((x - middle) * (value - mean) for x, value in enumerate(values)) / spread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of nodes, tasks and jobs")
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--tasks", type=int, help="of the small job; the large one has ten times as many")
    parser.add_argument("--only", nargs="*", help="names of scenarios: small, large, trusted, many, memory, idle")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--keep", action="store_true", help="keep logs and databases")
    options = parser.parse_args()
    part = 10 if options.quick else 1
    nodes, tasks = options.nodes or 500 // part, options.tasks or 1000 // part
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "verifier.json"
    folder = Path(tempfile.mkdtemp(prefix="verifier-", dir=options.out))
    try:
        with BenchNetwork(folder, nodes=nodes) as network:
            sizes = {"small": tasks, "large": 10 * tasks, "jobs": 100 // part, "tiny": 200 // part, "job_tasks": 10}
            bench = Bench(network, **sizes, rest_s=REST_S / part)
            bench.results["nodes"] = nodes
            scenarios: list[Callable[[], None]] = [
                *(bench.small, bench.large, bench.trusted, bench.many, bench.memory, bench.idle)
            ]
            for scenario in scenarios:
                if not options.only or scenario.__name__ in options.only:
                    print(f"{scenario.__name__}: {scenario.__doc__}", flush=True)
                    scenario()
                    print(json.dumps(bench.results.get(scenario.__name__), indent=1), flush=True)
                    path.write_text(json.dumps(bench.results, indent=2) + "\n")
    finally:
        if not options.keep:
            shutil.rmtree(folder)
    if not options.quick and not options.only and not options.nodes and not options.tasks:
        write_page(bench.results)


if __name__ == "__main__":
    main()
