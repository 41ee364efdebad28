"""A verifier's API and a node's page with something to show, each as people run it: a story told by rows."""

import asyncio
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from api_scene import Chain, Scene, digest, job_row

from proofyard.chain.records import ChallengeId, Phase
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.codec import encode
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.messages import Announce
from proofyard.protocol.types import Address, JobId, TaskIndex, Wei
from proofyard.verifier.api.serving import StatusApi
from proofyard.verifier.context import Member
from proofyard.verifier.engine.events import NodeJoined
from proofyard.verifier.engine.rows import (
    Batch,
    BatchState,
    Fault,
    Job,
    JobState,
    Log,
    Row,
    Seat,
    SeatState,
    Segment,
    Task,
    TaskState,
    Work,
    WorkState,
)

CREDIT = 10**18
WORKERS, ROUNDS = 3, 3
NOW = 1_795_000_000.0


def key(number: int) -> Address:
    """A node's key that looks like one."""
    return Address("0x" + digest(number).hex()[:2] * 4 + f"{number * 0x9E3779B97F4A7C15:032x}"[-32:])


def task(job: int, index: int, state: TaskState, label: str, deps: tuple[int, ...], **changes: Any) -> Task:
    spec = TaskSpec(
        index=TaskIndex(index),
        kind="train",
        segments=8,
        work_units=100,
        deps=tuple(map(TaskIndex, deps)),
        label=label,
    )
    return Task(
        job=JobId(job), index=TaskIndex(index), spec=encode(spec), reward=str(CREDIT // 4), state=state, **changes
    )


def work(job: int, index: int, state: WorkState, batch: int = 0, **changes: Any) -> Work:
    node = key(1 + index % WORKERS)
    return Work(
        job=JobId(job),
        task=TaskIndex(index),
        attempt=1,
        node=node,
        owner=key(40),
        state=state,
        leaf=digest(index + 1),
        result=raw_cid(b"%d" % index),
        batch=batch,
        **changes,
    )


def losses(job: int, index: int, first: int, steps: int = 24) -> list[Log]:
    """A task's steps: a loss that falls, as losses do."""
    round_, worker = divmod(index, WORKERS + 1)
    found = []
    for step in range(steps):
        x = round_ * steps + step
        loss = 1.1 + 2.4 * math.exp(-x / 22) + 0.06 * math.sin(2.1 * x + worker)
        at = NOW - 3600 + (round_ * steps + step) * 40 + worker * 7
        text = f"step {step}, {410 + 30 * worker} tokens/s"
        node = key(1 + worker)
        found.append(
            Log(
                job=JobId(job),
                seq=first + step,
                at=at,
                kind="progress",
                text=text,
                task=index,
                node=node,
                loss=loss,
                step=step,
            )
        )
    return found


def running(job: int) -> list[Row]:
    """A job in its third round; a task of the second was found faulty and done again."""
    rows: list[Row] = []
    lines: list[Log] = []
    for round_ in range(ROUNDS):
        base = round_ * (WORKERS + 1)
        before = (base - 1,) if round_ else ()
        for worker in range(WORKERS):
            state = TaskState.ACCEPTED if round_ < 2 else TaskState.GIVEN if worker < 2 else TaskState.READY
            rows.append(task(job, base + worker, state, f"round {round_} shard {worker}", before, attempt=1))
            if state != TaskState.READY:
                settled = WorkState.SETTLED if round_ < 2 else WorkState.GIVEN
                rows.append(work(job, base + worker, settled, round_ + 2, outcome="ok" if round_ < 2 else ""))
                lines += losses(job, base + worker, len(lines) + 1, 24 if round_ < 2 else 9)
        state = TaskState.ACCEPTED if round_ < 2 else TaskState.WAITING
        merged = tuple(range(base, base + WORKERS))
        rows.append(task(job, base + WORKERS, state, f"round {round_} average", merged, attempt=1))
        if state == TaskState.ACCEPTED:
            rows.append(work(job, base + WORKERS, WorkState.SETTLED, round_ + 2, outcome="ok"))
    lines.append(
        Log(
            job=JobId(job),
            seq=len(lines) + 1,
            at=NOW - 60,
            kind="assigned",
            text="train given to a node, attempt 1: it has lost 0, holds 0 and did 4, of 3 with room",
            task=9,
            node=key(2),
        )
    )
    return [*rows, *sorted(lines, key=lambda line: line.seq)]


def segments(batch: int, job: int, tasks: range, faulty: int = -1) -> list[Row]:
    rows: list[Row] = []
    for index in tasks:
        wrong = index == faulty
        place = {"batch": batch, "job": JobId(job), "task": TaskIndex(index)}
        rows.append(
            Segment(
                **place,
                index=index % 7,
                auditors=(key(4), key(5)),
                seats=2,
                claimed=digest(3),
                worker=key(1 + index % WORKERS),
                verdict="fault" if wrong else "valid",
                kind=1 if wrong else 0,
                reason="leads 2 of 2 auditors to another state" if wrong else "",
            )
        )
        for auditor in (4, 5):
            rows.append(
                Seat(
                    **place,
                    segment=index % 7,
                    auditor=key(auditor),
                    state=SeatState.OPENED,
                    seal=digest(8),
                    answer=digest(9 if wrong else 3),
                )
            )
        if wrong:
            rows.append(
                Fault(
                    **place,
                    node=key(3),
                    owner=key(40),
                    operator=4,
                    segment=index % 7,
                    kind=1,
                    reason="leads 2 of 2 auditors to another state",
                )
            )
    return rows


def batch(row: int, job: int, number: int, state: BatchState, **changes: Any) -> Batch:
    lines = ((JobId(job), 400),)
    return Batch(
        id=row,
        root=digest(row),
        members=b"",
        lines=lines,
        chain_id=number,
        state=state,
        commit_block=90 + row,
        **changes,
    )


def story() -> list[Row]:
    """Jobs in every state, with batches, audits, a fault."""
    settled = {"settled_block": 118, "claimable_at": int(NOW) + 40, "seed": digest(6)}
    done = {"result": raw_cid(b"result"), "units_paid": 1 << 60, "units_open": 0}
    rows = [
        job_row(1, JobState.DONE, **done),
        job_row(2, JobState.FAILED, reason="task 0 cannot be done: 3 owners could not finish it (out of memory)"),
        job_row(3, units_paid=3 << 58, units_open=1 << 58, reason=""),
        job_row(4, JobState.WAITING, reason="its manifest is looked for"),
        *running(3),
        *(task(1, n, TaskState.ACCEPTED, f"round 0 shard {n}", (), attempt=1) for n in range(2)),
        *(work(1, n, WorkState.SETTLED, 1, outcome="ok") for n in range(2)),
        task(2, 0, TaskState.READY, "round 0 shard 0", ()),
        batch(1, 1, 9, BatchState.FINAL, record=raw_cid(b"record 9"), **settled),
        batch(2, 3, 11, BatchState.FINAL, record=raw_cid(b"record 11"), **settled),
        batch(3, 3, 12, BatchState.SETTLED, record=raw_cid(b"record 12"), **settled),
        batch(4, 3, 13, BatchState.AUDITING, drawn_at=int(NOW)),
        *segments(2, 3, range(3)),
        *segments(3, 3, range(4, 7), faulty=6),
    ]
    for row in rows:
        if isinstance(row, Job):
            row.deadline, row.requester, row.verifier_fee = int(NOW) + 7200, key(50), str(CREDIT // 2)
            row.tasks = sum(isinstance(each, Task) and each.job == row.id for each in rows)
    return rows


class Disputed(Chain):
    """A chain with challenges."""

    def __init__(self, phases: tuple[Phase, ...] = (Phase.UPHELD, Phase.VOTE)) -> None:
        self.phases = phases

    def challenge_count(self) -> int:
        return len(self.phases)

    def challenge(self, number: ChallengeId) -> Any:
        return SimpleNamespace(
            id=number,
            kind=SimpleNamespace(name="FAULT"),
            phase=self.phases[number - 1],
            batch=12,
            job=3,
            task=6,
            segment=6,
            accused=4,
            challenger=key(40),
            bond=50 * CREDIT,
            opened_at=int(NOW) - 300,
            until=int(NOW) + 840,
            votes_wrong=1,
            votes_right=0,
        )


class Named(Scene):
    """Whose nodes are those of the story."""

    def _join(self, number: int) -> None:
        node, owner = key(number), key(40 + number)
        record: Any = SimpleNamespace(node=node, owner=owner, id=number, stake=Wei(250 * CREDIT), consecutive_valid=17)
        announce = Announce(workloads=("lora",), memory_bytes=1, port=1, software="proofyard 0.1.0")
        self.members[node] = Member(None, announce, record, tokens_per_s=397.5 + 40 * number)  # type: ignore[arg-type]
        joined = NodeJoined(node, owner, number, Wei(250 * CREDIT), 17, frozenset(("lora",)), tasks=2, audits=4)
        self.engine.handle(joined, self.now)


class Stage:
    """A verifier's API that can go away and come back on its port."""

    def __init__(self, folder: Path, rows: list[Row]) -> None:
        self.scene: Scene = Named(folder, rows)
        self.scene.counts = True
        for number, index in ((3, 8), (1, 9)) if rows else ():
            self.scene.engine.world.nodes[key(number)].holds.add((JobId(3), TaskIndex(index)))
        self.scene.begin = msgspec.structs.replace(self.scene.begin, streams=20, names=())
        self.scene.context.chain = Disputed(())
        self.scene.context.clock = lambda: (NOW, 124)
        self.scene.context.wallet.address = key(77)
        self.scene.context.verifiers = self._verifiers
        self.scene.context.registered = 7
        asyncio.run(self.scene.watch.look())
        self.api: StatusApi | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _verifiers(self) -> list[Any]:
        return [SimpleNamespace(node=key(77), owner=key(78), counts=True)]

    @contextmanager
    def up(self) -> Iterator[str]:
        async def run(over: asyncio.Event) -> None:
            async with self.scene.serving(self.port) as api:
                self.api = api
                started.set_result(api)
                await over.wait()

        started: Future[StatusApi] = Future()
        with in_thread(run) as self._loop:
            self.port = started.result(100).port
            yield self.url

    def tell(self, line: Log) -> None:
        """A line of the log that lasts, as the engine's listeners hear it."""
        from api_scene import fill

        fill(self.scene.database, [line])
        assert self._loop is not None and self.api is not None
        self._loop.call_soon_threadsafe(self.api.publish, line)


@contextmanager
def in_thread(run: Callable[[asyncio.Event], Any]) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop of its own for what serves, until the end."""
    loop, over = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(run(over)))
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(100)
        loop.close()
