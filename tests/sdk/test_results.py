"""A result is handed out only where settled batches show it, whatever a verifier says."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proofyard.artifacts import BlockStore
from proofyard.chain.turns import Turns
from proofyard.protocol import merkle
from proofyard.protocol.cid import cid_bytes, raw_cid
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.messages import JobReport
from proofyard.protocol.types import Address, BatchId, Cid, Digest, ExitCode, JobId, TaskIndex
from proofyard.protocol.validate import RecordInvalid
from proofyard.sdk import AsyncClient, AsyncJobHandle, Proven, ResultUnproven
from proofyard.sdk import results as proving
from proofyard.sdk.results import prove, require_package, standing_batches
from proofyard.workloads.workload import Results

JOB, OTHER = JobId(7), JobId(8)
MANIFEST = raw_cid(b"manifest")
NODE = Address("0x" + "1" * 40)
GRAPH = [
    TaskSpec(index=TaskIndex(0), kind="train"),
    TaskSpec(index=TaskIndex(1), kind="train"),
    TaskSpec(index=TaskIndex(2), kind="train", deps=(TaskIndex(0), TaskIndex(1))),
]
FINALS = (TaskIndex(1), TaskIndex(2))


def result_of(task: int) -> Cid:
    return raw_cid(b"result %d" % task)


def commitment(task: int, *, job: JobId = JOB, inputs: Sequence[Cid] | None = None) -> Commitment:
    deps = [result_of(dep) for dep in GRAPH[task].deps] if inputs is None else inputs
    return Commitment(
        job=job,
        task=TaskIndex(task),
        node=NODE,
        manifest=Digest(bytes(32)),
        inputs=merkle.root([cid_bytes(cid) for cid in (MANIFEST, *deps)]),
        trace_root=Digest(bytes(32)),
        segments=1,
        result=result_of(task),
        work_units=1,
        mark=Digest(bytes(32)),
    )


@dataclass(frozen=True)
class Batch:
    """Stands in for `proofyard.disputes.settled.Settled`. `rejected` are tasks that the record does not accept."""

    number: int
    commitments: list[Commitment]
    rejected: tuple[int, ...] = ()
    problem: str = ""
    view: Any = field(default=None)

    @property
    def event(self) -> Any:
        return SimpleNamespace(batch=BatchId(self.number), claimable_at=100 * self.number)

    @property
    def record(self) -> Any:
        tasks = tuple(SimpleNamespace(commitment=each) for each in self.commitments)
        return SimpleNamespace(tasks=tasks, rejected=self.rejected)

    def check_record(self) -> None:
        if self.problem:
            raise RecordInvalid(BatchId(self.number), "payouts", self.problem)


@pytest.fixture(autouse=True)
def accepting(monkeypatch: pytest.MonkeyPatch) -> None:
    def accepted(view: Any, record: Any) -> frozenset[tuple[JobId, TaskIndex]]:
        commitments = (task.commitment for task in record.tasks)
        return frozenset((c.job, c.task) for c in commitments if c.task not in record.rejected)

    monkeypatch.setattr(proving, "accepted", accepted)


def proven(*batches: Batch) -> Proven:
    return prove(JOB, MANIFEST, GRAPH, FINALS, batches)  # type: ignore[arg-type]


def test_a_job_whose_tasks_are_all_accepted_is_proven() -> None:
    found = proven(Batch(1, [commitment(0), commitment(1)]), Batch(2, [commitment(2), commitment(0, job=OTHER)]))
    assert found == Proven(JOB, {task: result_of(task) for task in FINALS}, (BatchId(1), BatchId(2)), 200)


def test_a_task_that_was_done_again_counts_where_it_was_accepted() -> None:
    first = Batch(1, [commitment(0), commitment(1)], rejected=(1,))
    assert proven(first, Batch(2, [commitment(1)]), Batch(3, [commitment(2)])).final_at == 300


@pytest.mark.parametrize(
    ("batches", "reason"),
    [
        ([], "task 0 is accepted in no settled batch"),
        ([Batch(1, [commitment(0), commitment(1)])], "task 2 is accepted in no settled batch"),
        ([Batch(1, [commitment(0), commitment(1), commitment(2)], rejected=(1,))], "task 1 is accepted in no"),
        ([Batch(1, [commitment(task, job=OTHER) for task in range(3)])], "task 0 is accepted in no"),
        ([Batch(1, [commitment(0), commitment(1), commitment(2)], problem="no")], "batch 1 does not follow .*: no"),
        ([Batch(1, [commitment(0), commitment(1), commitment(2)]), Batch(2, [commitment(2)])], "task 2 is paid in"),
        (
            [Batch(1, [commitment(0), commitment(1), commitment(2, inputs=[result_of(1), result_of(0)])])],
            "task 2 was built on other results",
        ),
        ([Batch(1, [commitment(0, inputs=[result_of(1)]), commitment(1), commitment(2)])], "task 0 was built on"),
    ],
    ids=["nothing", "last", "rejected", "another job", "invalid", "twice", "other inputs", "invented inputs"],
)
def test_what_is_settled_must_be_the_whole_job(batches: list[Batch], reason: str) -> None:
    with pytest.raises(ResultUnproven, match=reason) as refused:
        proven(*batches)
    assert refused.value.exit_code == ExitCode.PROOF_MISMATCH


def test_a_voided_settlement_does_not_count() -> None:
    settled_at = {1: 10, 2: 0, 3: 10}
    chain: Any = SimpleNamespace(
        settled=lambda job: [SimpleNamespace(batch=number) for number in (1, 2, 3, 1)],
        batch=lambda number: SimpleNamespace(id=number, settled_at=settled_at[number], voided=number == 3),
    )
    assert standing_batches(chain, JOB) == [1]


def test_another_package_than_the_one_made_here_is_refused() -> None:
    require_package(JOB, raw_cid(b"one"), raw_cid(b"one"))
    with pytest.raises(ResultUnproven, match=f"reports {raw_cid(b'one')}"):
        require_package(JOB, raw_cid(b"one"), raw_cid(b"other"))


class Packing:
    """A workload whose package is the results in a file."""

    def package(self, manifest: Manifest, results: Results, dest: Path) -> Path:
        dest.mkdir(parents=True)
        (dest / "result.bin").write_bytes(b", ".join(map(results, FINALS)))
        return dest


class Believer(AsyncClient):
    """A client whose verifier says what the test wants; what is settled are the results of two tasks."""

    def __init__(self, folder: Path, said: Cid | None) -> None:
        super().__init__("", "", cast(Any, SimpleNamespace(turns=Turns(None))), data_dir=folder)
        self.said = said
        self.held = {task: self.store.put_bytes(b"settled %d" % task) for task in FINALS}

    async def report(self, job: JobId, since: int = 0) -> JobReport:
        return JobReport(job, "done" if self.said else "running", 3, 3, 2, self.said, "", ())

    async def prove(self, job: JobId) -> Proven:
        return Proven(job, self.held, (BatchId(1),), 0)

    @property
    def chain(self) -> Any:
        return SimpleNamespace(chain_id=1, registry="0x", job=lambda job: SimpleNamespace(units=2, units_paid=1))

    @property
    def peers(self) -> Any:
        async def read(cid: Cid, max_bytes: int) -> bytes:
            return self.store.get_bytes(cid, max_bytes=max_bytes)

        return SimpleNamespace(read=read, names=None)

    async def _work(self, job: JobId) -> Any:
        return MANIFEST, Manifest(workload="packing", params={})


def fetched(client: Believer, dest: Path) -> Path:
    return asyncio.run(AsyncJobHandle(client, JOB).result(dest))


@pytest.fixture
def packing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proofyard.sdk.packaging.load_workload", lambda name: Packing())


def package_of(folder: Path, content: str) -> Cid:
    manifest = Manifest(workload="packing", params={})
    made = Packing().package(manifest, lambda task: b"%s %d" % (content.encode(), task), folder / "made")
    return BlockStore(folder / "other").put_directory(made)


def test_a_result_is_packaged_here_and_written(packing: None, tmp_path: Path) -> None:
    client = Believer(tmp_path / "store", package_of(tmp_path, "settled"))
    dest = fetched(client, tmp_path / "out")
    assert (dest / "result.bin").read_bytes() == b"settled 1, settled 2"


def test_a_verifier_that_invents_a_result_is_refused_and_nothing_is_written(packing: None, tmp_path: Path) -> None:
    client = Believer(tmp_path / "store", package_of(tmp_path, "invented"))
    with pytest.raises(ResultUnproven, match="the verifier reports"):
        fetched(client, tmp_path / "out")
    assert not (tmp_path / "out").exists()
