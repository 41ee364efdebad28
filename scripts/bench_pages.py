"""What the pages cost: a verifier's dashboard over 200,000 rows of history, and a node's page while it is open.

`python scripts/bench_pages.py` writes out/bench/pages.json. `dashboard_ms`: server time of all requests that the
overview makes, one after the other, in the API's own process on SQLite, the median of `RUNS`; `slowest` names the
slowest of them. `job_ms` is the same for a job's page. `node_core_percent`: processor time of a node's process while a
page reads its events, less what it takes without, in percent of a core. A node's work is not part of it: everything
around the page is real but the agent and the chain, which are stand-ins of the tests.
"""

import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.extend(str(Path(__file__).resolve().parents[1] / "tests" / name) for name in ("verifier", "node"))

import httpx
from api_scene import Scene, address, digest, in_its_process, job_row, task_row
from pages_scene import PageScene

from proofyard.node.page import TOKEN_HEADER
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.types import BatchId, JobId, TaskIndex
from proofyard.verifier.engine.rows import (
    Batch,
    BatchState,
    Fault,
    JobState,
    Log,
    Row,
    Segment,
    TaskState,
    Work,
    WorkState,
)
from proofyard.verifier.store.tables import TABLES, values_of

OUT = Path(__file__).resolve().parents[1] / "out" / "bench" / "pages.json"
ROWS, RUNS = 200_000, 15
JOBS, TASKS = 400, 50
OPEN_S = 40.0
OVERVIEW = ("/v1/status", "/ready", "/v1/jobs?limit=20", "/v1/batches?limit=20")
JOB: tuple[str, ...] = ("/v1/status", "/v1/jobs/{0}", "/v1/jobs/{0}/tasks?limit=200", "/v1/jobs/{0}/audits?limit=100")
JOB += ("/v1/jobs/{0}/faults?limit=50", "/v1/jobs/{0}/log?cursor=0&limit=250")


def history() -> Iterable[Row]:
    """Finished jobs with everything about them, the last one's log long."""
    drawn = random.Random(1)
    for job in range(1, JOBS + 1):
        yield job_row(job, JobState.DONE, result=raw_cid(b"result %d" % job))
        yield Batch(
            id=job,
            root=digest(job % 256),
            members=bytes(2000),
            lines=((JobId(job), 100),),
            chain_id=BatchId(job),
            state=BatchState.FINAL,
            record=raw_cid(b"record %d" % job),
        )
        for task in range(TASKS):
            node, owner = address(1 + task % 40), address(100 + task % 40)
            place: dict[str, Any] = {"job": JobId(job), "task": TaskIndex(task)}
            yield task_row(job, task, TaskState.ACCEPTED, attempt=1)
            yield Work(
                **place,
                attempt=1,
                node=node,
                owner=owner,
                state=WorkState.SETTLED,
                leaf=digest(1),
                batch=job,
                outcome="ok",
            )
            audited: dict[str, Any] = {**place, "batch": job}
            yield Segment(
                **audited, index=0, auditors=(address(2),), seats=2, claimed=digest(3), worker=node, verdict="valid"
            )
            if drawn.random() < 0.01:
                yield Fault(**audited, node=node, owner=owner, operator=4, segment=0, kind=1, reason="another state")
    for number in range(ROWS - JOBS * (2 + 3 * TASKS)):
        job, seq = 1 + number % 3, 1 + number // 3
        step: dict[str, Any] = {"text": "step", "task": seq % TASKS, "node": address(1), "loss": 1.0 / seq, "step": seq}
        yield Log(job=JobId(job), seq=seq, at=float(seq), kind="progress", **step)


def fill(scene: Scene) -> int:
    rows: dict[type[Row], list[dict[str, Any]]] = {}
    for row in history():
        kind = type(row)
        rows.setdefault(kind, []).append(dict(zip(kind.__struct_fields__, values_of(row), strict=True)))
    with scene.database.engine.begin() as connection:
        for kind, values in rows.items():
            connection.execute(TABLES[kind].insert(), values)
    return sum(map(len, rows.values()))


def timed(url: str, paths: Sequence[str]) -> dict[str, float]:
    """Milliseconds of each request, over a connection that stays."""
    found = {}
    with httpx.Client(base_url=url, timeout=60) as client:
        client.get("/health")
        for path in paths:
            start = time.perf_counter()
            client.get(path).raise_for_status()
            found[path] = 1000 * (time.perf_counter() - start)
    return found


def median(url: str, paths: Sequence[str]) -> tuple[float, float, tuple[str, float]]:
    """The median and the least of all requests together, and the slowest of them in the median."""
    runs = [timed(url, paths) for _ in range(RUNS)]
    sums = [sum(run.values()) for run in runs]
    each = {path: statistics.median(run[path] for run in runs) for path in paths}
    return statistics.median(sums), min(sums), max(each.items(), key=lambda item: item[1])


def dashboard(folder: Path) -> dict[str, Any]:
    scene = Scene(folder, [])
    rows = fill(scene)
    scene.counts = True
    asyncio.run(scene.watch.look())
    with in_its_process(scene) as api:
        overview, least, slowest = median(api.url, OVERVIEW)
        job = median(api.url, [path.format(1) for path in JOB])
    return {
        "rows": rows,
        "dashboard_ms": round(overview, 1),
        "dashboard_least_ms": round(least, 1),
        "slowest": {slowest[0]: round(slowest[1], 1)},
        "job_ms": round(job[0], 1),
        "job_least_ms": round(job[1], 1),
    }


async def node_cost(folder: Path, *, opened: bool) -> float:
    """Seconds of processor time that a node's process takes in `OPEN_S`."""
    scene = PageScene(folder)
    async with scene.up() as url, httpx.AsyncClient(base_url=url, headers={TOKEN_HEADER: scene.token}) as client:
        reading = asyncio.create_task(_read(client)) if opened else None
        await asyncio.sleep(2)
        start = time.process_time()
        await asyncio.sleep(OPEN_S)
        took = time.process_time() - start
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
    return took


async def _read(client: httpx.AsyncClient) -> None:
    async with client.stream("GET", "/v1/events", timeout=None) as stream:
        async for _ in stream.aiter_bytes():
            pass


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="proofyard-pages-") as name:
        folder = Path(name)
        for part in ("verifier", "closed", "open"):
            (folder / part).mkdir()
        found = dashboard(folder / "verifier")
        closed = asyncio.run(node_cost(folder / "closed", opened=False))
        opened = asyncio.run(node_cost(folder / "open", opened=True))
    found |= {
        "node_core_percent": round(100 * (opened - closed) / OPEN_S, 3),
        "node_core_percent_closed": round(100 * closed / OPEN_S, 3),
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
