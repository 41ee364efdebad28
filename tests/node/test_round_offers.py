"""Offers of a job whose rounds do not wait for everybody, held against this node's own chain."""

from typing import Any

import msgspec
import pytest

from proofyard.node import offers
from proofyard.node.limits import LeftForLater, OfferRefused
from proofyard.node.offers import Offers
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.closing import ClosedRound, Taken
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.messages import TaskOffer
from proofyard.protocol.types import Address, JobId, TaskIndex
from proofyard.workloads.workload import load_workload, task_graph

PARAMS = {
    "modules": {"m": (4, 4)},
    "rank": 2,
    "alpha": 1.0,
    "lr": 0.1,
    "rounds": 2,
    "workers": 2,
    "segments": 2,
    "segment_steps": 1,
    "batch": 1,
    "seq_len": 8,
    "outer": "none",
    "closing": {"quorum": 1, "timeout_s": 60},
}
MANIFEST = Manifest(workload="lora", model=raw_cid(b"model"), data=raw_cid(b"data"), params=PARAMS)
ROUND = ClosedRound(0, 100, (Taken(TaskIndex(1), 0),), ())
VERIFIER = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")


def graph(*closed: ClosedRound) -> tuple[TaskSpec, ...]:
    return task_graph(load_workload("lora"), MANIFEST, closed)


class Known(Offers):
    """What a node knows of offers whose chain says that these rounds are closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        nothing: Any = None
        super().__init__(nothing, nothing, nothing)
        self.closed: tuple[ClosedRound, ...] = ()
        self.reads = 0

        async def graph_of(*_: Any) -> tuple[TaskSpec, ...]:
            self.reads += 1
            return graph(*self.closed)

        monkeypatch.setattr(offers, "graph_of", graph_of)
        monkeypatch.setattr(offers, "LOOK_S", 0.0)
        self._supplies: Any = self

    async def bytes_of(self, *_: Any) -> bytes:
        raise AssertionError("no list is read here")

    async def check(self, spec: TaskSpec) -> None:
        offer = TaskOffer(JobId(1), raw_cid(b"manifest"), spec, (), (), 15.0)
        await self._check_spec(VERIFIER, offer, MANIFEST)


async def test_a_task_of_a_round_that_is_not_open_here_is_left_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Known(monkeypatch)
    await known.check(graph()[0])
    assert known.reads == 1
    with pytest.raises(LeftForLater, match=r"^busy: the round of task 2"):
        await known.check(graph(ROUND)[2])
    known.closed = (ROUND,)
    await known.check(graph(ROUND)[2])
    before = known.reads
    await known.check(graph(ROUND)[3])
    assert known.reads == before, "what is known fits"


async def test_false_offers_do_not_have_the_chain_read_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Known(monkeypatch)
    monkeypatch.setattr(offers, "LOOK_S", 3600.0)
    for _ in range(5):
        with pytest.raises(LeftForLater):
            await known.check(graph(ROUND)[2])
    assert known.reads == 1


async def test_a_set_that_the_chain_does_not_say_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Known(monkeypatch)
    known.closed = (ROUND,)
    for deps in ((), (0,), (0, 1)):
        lie = msgspec.structs.replace(graph(ROUND)[2], deps=tuple(map(TaskIndex, deps)))
        with pytest.raises(OfferRefused, match="task 2 of the job's graph"):
            await known.check(lie)
    with pytest.raises(LeftForLater):
        await known.check(msgspec.structs.replace(graph(ROUND)[2], index=TaskIndex(9)))
