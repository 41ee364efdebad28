"""A verifier's API over a database with a bit of everything, without a network behind it."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fastapi.testclient import TestClient
from msgspec.structs import replace

from proofyard.artifacts import BlockStore
from proofyard.chain import Params
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.codec import encode
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.messages import Announce
from proofyard.protocol.seal import CANNOT_EXECUTE
from proofyard.protocol.types import Address, Digest, JobId, ProofyardError, Signature, TaskIndex, Wei
from proofyard.verifier.api import types as out
from proofyard.verifier.api import wire
from proofyard.verifier.api.answering import Api
from proofyard.verifier.api.app import build_app
from proofyard.verifier.api.serving import StatusApi
from proofyard.verifier.api.streams import Streams
from proofyard.verifier.api.telling import Teller
from proofyard.verifier.context import Member
from proofyard.verifier.engine.events import NodeJoined, Now
from proofyard.verifier.engine.machine import Engine
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
from proofyard.verifier.engine.world import Rules
from proofyard.verifier.health import Watch
from proofyard.verifier.metrics import Metrics
from proofyard.verifier.store.database import Database
from proofyard.verifier.store.tables import TABLES, values_of

RULES = Rules(own=1)


def address(number: int) -> Address:
    return Address(f"0x{number:040x}")


def digest(number: int) -> Digest:
    return Digest(bytes([number]) * 32)


def job_row(number: int, state: JobState = JobState.RUNNING, **changes: Any) -> Job:
    return Job(
        id=JobId(number),
        manifest=raw_cid(f"manifest {number}".encode()),
        requester=address(99),
        opened_block=3,
        opened_hash=bytes(32),
        units=1 << 60,
        reward=str(10**20),
        audit_fee=str(10**19),
        verifier_fee="5",
        auditors_per_segment=2,
        segments_per_audit=1,
        deadline=2_000_000_000,
        workload=1,
        workload_name="lora",
        tasks=2,
        state=state,
        **changes,
    )


def task_row(job: int, index: int, state: TaskState, **changes: Any) -> Task:
    spec = TaskSpec(index=TaskIndex(index), kind="train", segments=4, work_units=100, deps=())
    return Task(job=JobId(job), index=TaskIndex(index), spec=encode(spec), reward=str(10**18), state=state, **changes)


def everything() -> list[Row]:
    """A job that runs, one of whose tasks was found faulty and given again; another that is done."""
    loss = (float("inf"), float("-inf"), float("nan"), 1.5)
    lines = [
        Log(job=JobId(1), seq=n, at=1.0, kind="progress", text="step", task=0, node=address(1), loss=each, step=n)
        for n, each in enumerate(loss, 1)
    ]
    why = "train given to a node, attempt 1: it has lost 0, holds 0 and did 0, of 3 with room"
    lines.append(Log(job=JobId(1), seq=5, at=2.0, kind="assigned", text=why, task=0, node=address(1)))
    segment = {"batch": 1, "job": JobId(1), "task": TaskIndex(0)}
    return [
        job_row(1, reason="task 1 waits: no node that executes lora is connected"),
        job_row(2, JobState.DONE, result=raw_cid(b"result")),
        task_row(1, 0, TaskState.READY, attempt=1, barred=(address(1),)),
        task_row(1, 1, TaskState.READY),
        Work(
            job=JobId(1),
            task=TaskIndex(0),
            attempt=1,
            node=address(1),
            owner=address(11),
            state=WorkState.SETTLED,
            leaf=digest(7),
            result=raw_cid(b"work"),
            batch=1,
            outcome="faulty",
        ),
        Batch(id=1, root=digest(1), members=b"", lines=((JobId(1), 100),), chain_id=5, state=BatchState.SETTLED),
        Batch(id=2, root=digest(2), members=b"", lines=(), state=BatchState.FORMED),
        Segment(
            **segment,
            index=2,
            auditors=(address(2), address(3)),
            seats=2,
            claimed=digest(3),
            worker=address(1),
            verdict="fault",
            kind=1,
            reason="leads 2 of 2 auditors to another state",
        ),
        Segment(**segment, index=3, auditors=(address(2),), seats=2, claimed=digest(4), worker=address(1)),
        _seat(2, address(2), digest(9)),
        _seat(2, address(3), CANNOT_EXECUTE),
        _seat(3, address(2), digest(4)),
        Fault(**segment, node=address(1), owner=address(11), operator=4, segment=2, kind=1, reason="another state"),
        *lines,
    ]


def _seat(segment: int, auditor: Address, answer: Digest) -> Seat:
    from proofyard.protocol.messages import SealOpened

    why = "it divides by zero" if answer == CANNOT_EXECUTE else ""
    opening = encode(SealOpened(after=answer, keyed=bytes(32), reason=why, salt=bytes(32)))  # type: ignore[arg-type]
    return Seat(
        batch=1,
        job=JobId(1),
        task=TaskIndex(0),
        segment=segment,
        auditor=auditor,
        state=SeatState.OPENED,
        signature=Signature(b"s"),
        seal=digest(8),
        opening=opening,
        answer=answer,
    )


def fill(database: Database, rows: list[Row]) -> None:
    with database.engine.begin() as connection:
        for row in rows:
            kind = type(row)
            values = dict(zip(kind.__struct_fields__, values_of(row), strict=True))
            connection.execute(TABLES[kind].insert().values(values))


class Chain:
    """A chain without challenges, slashes and views."""

    registry, court, chain_id = address(1000), address(1001), 31337

    def operator_of(self, _key: Address) -> int:
        return 1

    def challenge_count(self) -> int:
        return 0

    def settlements(self, _job: int, _block: int) -> list[Any]:
        return []

    def slashes(self, _batch: int) -> list[Any]:
        return []

    def view(self, *_: int) -> Any:
        raise ProofyardError("no view here")

    def eth_balance(self, _key: Address) -> int:
        return 10**18

    def token_balance(self, _key: Address) -> int:
        return 10**18

    def account(self, _owner: Address) -> Any:
        return SimpleNamespace(stake=10**21, exposed=25)


class Direct:
    """What a verifier tells, without a process between."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller

    def health(self) -> out.Health:
        return self._teller.beat().health

    def ready(self) -> out.Ready:
        return self._teller.beat().ready

    def status(self) -> out.Status:
        return self._teller.beat().status

    async def ask(self, question: wire.Question) -> bytes:
        return await self._teller.answer(question)  # type: ignore[arg-type]


class Scene:
    """`app` answers as the verifier's API does; everything runs in the loop of whoever asks. `serving` is a process of
    it, as people run it."""

    counts = False
    """Whether the verifier's seat counts."""

    def __init__(self, folder: Path, rows: list[Row] | None = None, url: str = "") -> None:
        url = url or f"sqlite:///{folder / 'verifier.db'}"
        self.database, self.store = Database(url), BlockStore(folder / "blocks")
        fill(self.database, everything() if rows is None else rows)
        self.engine = Engine(RULES, self.database.load())
        self.now = Now(1000.0, 0.0, 10)
        self.engine.resume(self.now)
        self.metrics, self.streams = Metrics(), Streams(2)
        self.begin = wire.Begin(url, str(self.store.path), 2)
        self.members: dict[Address, Member] = {}
        for number in (1, 2, 3):
            self._join(number)
        self.clock_off_s = 0.0
        runner = SimpleNamespace(engine=self.engine, waiting=0, effects_running={}, tell_all=self._tell_all)
        self.context: Any = SimpleNamespace(
            settings=SimpleNamespace(data_dir=folder),
            database=self.database,
            store=self.store,
            members=self.members,
            wallet=SimpleNamespace(address=address(500)),
            domain=SimpleNamespace(chain_id=31337),
            chain=Chain(),
            runner=runner,
            leads=True,
            registered=None,
            outbox=SimpleNamespace(in_flight=[SimpleNamespace(written_at=1.0)]),
            clock=lambda: (1000.0, 10),
            chain_time=lambda: 1000.0,
            block_time=lambda: 990.0,
            followed_s=lambda: 1.0,
            clock_off_s=lambda: self.clock_off_s,
            on_chain=self._on_chain,
            verifiers=self._verifiers,
            params=self._params,
        )
        self.watch = Watch(self.context, self.metrics)
        self.teller = Teller(self.context, self.metrics, self.watch)
        self.api = Api(self.database.engine, self.store, Direct(self.teller), self.streams)
        self.app = build_app(self.api)
        self.client = TestClient(self.app, raise_server_exceptions=False)

    def serving(self, port: int = 0, **begin: Any) -> StatusApi:
        return StatusApi("127.0.0.1", port, replace(self.begin, **begin), self.teller)

    def _join(self, number: int) -> None:
        node, owner = address(number), address(10 + number)
        record: Any = SimpleNamespace(node=node, owner=owner, id=number, stake=Wei(10**20), consecutive_valid=3)
        announce = Announce(workloads=("lora",), memory_bytes=1, port=1, software="test")
        self.members[node] = Member(None, announce, record)  # type: ignore[arg-type]
        joined = NodeJoined(node, owner, number, Wei(10**20), 3, frozenset(("lora",)), tasks=1, audits=4)
        self.engine.handle(joined, self.now)

    async def _tell_all(self, _events: Any) -> list[str]:
        await asyncio.sleep(0)
        return []

    async def _on_chain(self, call: Any) -> Any:
        return await asyncio.to_thread(call)

    async def _params(self) -> Params:
        return Params()

    async def _verifiers(self) -> list[Any]:
        return [SimpleNamespace(node=address(500), owner=address(501), counts=self.counts)]


@contextmanager
def in_its_process(scene: Scene) -> Iterator[StatusApi]:
    """The API's process, with the verifier's loop in a thread."""
    started: Future[StatusApi] = Future()

    async def run(over: asyncio.Event) -> None:
        async with scene.serving() as api:
            started.set_result(api)
            await over.wait()

    loop, over = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(run(over)))
    thread.start()
    try:
        yield started.result(100)
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(100)
        loop.close()
