"""What a settled record means for the works of a verifier; and a batch waits for those that it rests on."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "protocol"))

from worlds import TOKEN, Work, World, network
from worlds import Job as ProtocolJob

from proofyard.protocol.cid import raw_cid
from proofyard.protocol.members import encode_members
from proofyard.protocol.types import BatchId, JobId, Wei
from proofyard.verifier import leading
from proofyard.verifier.engine.effects import ReadRecord
from proofyard.verifier.engine.rows import Batch, BatchState
from proofyard.verifier.records import told

JOB = JobId(1)
HERE = BatchId(10)


def chain(**changes: Any) -> World:
    job = ProtocolJob(JOB, (2, 2, 2), deps=((), (0,), (1,)))
    work = [Work(1, 0, "n0", fake=(0, 1)), Work(1, 1, "n1"), Work(1, 2, "n2")]
    return replace(World([job], network(9, stake=Wei(10**6 * TOKEN)), work), **changes)


def outcomes(world: World) -> dict[int, str]:
    event = told(world.view, world.record, raw_cid(b"record"), ReadRecord(1, 0, 0), 5, 9)
    assert (event.paid > 0, event.operators) == (bool(world.record.payouts), len(world.record.payouts))
    return {task: outcome for (_, task), outcome, _ in event.outcomes}


def test_what_rests_on_a_fake_is_stale_and_nobodys_fault() -> None:
    assert outcomes(chain()) == {0: "faulty", 1: "stale", 2: "stale"}
    assert outcomes(chain(work=[Work(1, 0, "n0"), Work(1, 1, "n1"), Work(1, 2, "n2")])) == dict.fromkeys(
        range(3), "accepted"
    )


def test_a_decoy_is_told_as_one_and_what_rests_on_its_task_as_stale() -> None:
    work = [Work(1, 0, "n0", fake=(0, 1), decoy=True), Work(1, 1, "n1")]
    assert outcomes(chain(work=work)) == {0: "decoy", 1: "stale"}


class Waiting:
    """A verifier's context on a chain where batch 9, which others lead, is over or not."""

    def __init__(self, world: World, *, over: bool, grace: float = 10_000.0) -> None:
        self.world, self.over = world, over
        self.runner = SimpleNamespace(rules=SimpleNamespace(settle_grace=grace, last_margin_s=300.0))
        self.chain: Any = self

    def batch(self, batch: BatchId) -> Any:
        return SimpleNamespace(id=batch, dropped=batch == 9 and self.over, settled_at=0, voided=False, attempt=0)

    async def on_chain(self, ask: Any) -> Any:
        return ask()

    def chain_time(self) -> float:
        return 1000.0

    async def graph_of(self, _job: Any, _cid: Any) -> Any:
        return self.world.jobs[0].graph

    async def job_of(self, _cid: Any) -> Any:
        return None, self.world.jobs[0].graph


async def over(context: Waiting, monkeypatch: pytest.MonkeyPatch) -> Any:
    async def fetched(*_: Any) -> None:
        pass

    monkeypatch.setattr(leading, "fetch_manifests", fetched)
    world: Any = context.world
    lists = SimpleNamespace(members=world.members)
    batch = Batch(id=1, state=BatchState.JUDGED, root=world.view.header.root, members=b"", lines=(), opened_at=1000)
    batch.members = encode_members(world.members[HERE])
    return await leading._over(context, world.view, batch, lists)  # type: ignore[arg-type]


@pytest.mark.parametrize(("held", "waits"), [(0, True), (1, True), (2, False)])
async def test_a_batch_waits_for_an_earlier_one_that_holds_what_it_rests_on(
    held: int, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own task 1, or task 0 that it rests on; not for one that rests on it."""
    world = chain(work=[Work(1, 1, "n1")], others={9: [Work(1, held, "n8")]})
    if waits:
        with pytest.raises(leading.WaitsFor, match="batches 9"):
            await over(Waiting(world, over=False), monkeypatch)
    else:
        assert await over(Waiting(world, over=False), monkeypatch) == ()
    assert await over(Waiting(world, over=True), monkeypatch) == ((BatchId(9), None),)


async def test_no_batch_waits_until_it_could_be_dropped_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    world = chain(work=[Work(1, 1, "n1")], others={9: [Work(1, 0, "n8")]})
    assert await over(Waiting(world, over=False, grace=200.0), monkeypatch) == ()
