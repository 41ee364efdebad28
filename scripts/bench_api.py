"""How long the verifier's API takes to answer `CLIENTS` dashboards, each asking once a second, while the verifier's
loop is busy for most of its time and its database is written to: prints p50, p95 and p99 in ms for each route, as JSON.

    PYTHONPATH=tests/verifier python scripts/bench_api.py [SECONDS]

On a machine that others share, run it with `chrt -f 5`, or it measures them.

The verifier is a stand-in: `BUSY_MS` of Python, then rows to the database, again and again; the rows are those of a job
of `TASKS` tasks with its works, audits and log. The clients are a process of their own on the same cores.
"""

import asyncio
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from api_scene import Scene, address, digest, everything, job_row, task_row

from proofyard.protocol.types import JobId, TaskIndex
from proofyard.verifier.api import StatusApi
from proofyard.verifier.engine.rows import JobState, Log, Row, Segment, TaskState, Work, WorkState
from proofyard.verifier.engine.world import Step
from proofyard.verifier.service import SWITCH_S

CLIENTS, PAUSE_S, TASKS, JOBS = 50, 1.0, 10_000, 200
BUSY_MS, ROWS = 20, 500
JOB = JobId(1000)
ROUTES = (
    *("/health", "/ready", "/metrics", "/v1/jobs", f"/v1/jobs/{JOB}", f"/v1/jobs/{JOB}/tasks", "/v1/nodes"),
    *(f"/v1/jobs/{JOB}/works", f"/v1/jobs/{JOB}/audits", f"/v1/jobs/{JOB}/log", "/v1/batches"),
)


def rows() -> list[Row]:
    """A large job beside many small ones that are over."""
    found: list[Row] = [*everything(), job_row(JOB), *(job_row(n, JobState.DONE) for n in range(10, 10 + JOBS))]
    for index in range(TASKS):
        found.append(task_row(JOB, index, TaskState.ACCEPTED, attempt=1))
        found.append(work(index))
        if index % 10 == 0:
            found.append(
                Segment(
                    batch=1,
                    job=JOB,
                    task=TaskIndex(index),
                    index=0,
                    auditors=tuple(address(n) for n in range(1, 30)),
                    seats=2,
                    claimed=digest(1),
                    worker=address(1),
                    verdict="valid",
                )
            )
        found.append(line(index + 1))
    return found


def work(index: int) -> Work:
    state, node, owner = WorkState.SETTLED, address(1), address(11)
    return Work(job=JOB, task=TaskIndex(index), attempt=1, node=node, owner=owner, state=state, batch=1)


def line(seq: int) -> Log:
    return Log(job=JOB, seq=seq, at=1.0, kind="valid", text="audited and valid", task=seq, node=address(1))


async def be_busy(scene: Scene, seconds: float) -> float:
    """Compute and write; the part of the time in which the loop was computing."""
    end, seq, worked = time.monotonic() + seconds, TASKS, 0.0
    start = time.monotonic()
    while time.monotonic() < end:
        begin = time.monotonic()
        while time.monotonic() - begin < BUSY_MS / 1000:
            sum(number * number for number in range(1000))
        worked += time.monotonic() - begin
        changed = tuple(line(seq + number) for number in range(ROWS))
        seq += ROWS
        await scene.database.write(Step(changed, (), ()))
    return worked / (time.monotonic() - start)


def ask(url: str, seconds: float, answers: Any) -> None:
    """The clients, in a process of their own."""
    found: dict[str, list[float]] = {route: [] for route in ROUTES}

    async def client(api: httpx.AsyncClient, number: int) -> None:
        await asyncio.sleep(PAUSE_S * number / CLIENTS)
        end, turn = time.monotonic() + seconds, number
        while time.monotonic() < end:
            route = ROUTES[turn % len(ROUTES)]
            start = time.monotonic()
            answer = await api.get(route)
            assert answer.status_code in (200, 503), answer.text
            found[route].append(1000 * (time.monotonic() - start))
            turn += 1
            await asyncio.sleep(PAUSE_S)

    async def run() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60) as api:
            await asyncio.gather(*(client(api, number) for number in range(CLIENTS)))

    asyncio.run(run())
    answers.put(found)


async def main(seconds: float) -> dict[str, Any]:
    sys.setswitchinterval(SWITCH_S)
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder), rows())
        await scene.watch.look()
        context = multiprocessing.get_context("spawn")
        async with StatusApi(scene.api) as api:
            answers = context.Queue()
            process = context.Process(target=ask, args=(api.url, seconds, answers))
            process.start()
            busy = await be_busy(scene, seconds + 4)
            found = await asyncio.to_thread(answers.get)
            process.join()
        scene.database.close()
    everything_ = [each for times in found.values() for each in times]
    return {
        "clients": CLIENTS,
        "requests": len(everything_),
        "loop_busy": round(busy, 2),
        "api_p95_ms": quantile(everything_, 95),
        "api_p50_ms": quantile(everything_, 50),
        "api_p99_ms": quantile(everything_, 99),
        "p95_ms_of": {route: quantile(times, 95) for route, times in found.items()},
    }


def quantile(values: list[float], percent: int) -> float:
    return round(statistics.quantiles(values, n=100)[percent - 1], 1)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 20.0)), indent=2))
