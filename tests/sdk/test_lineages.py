"""Where an adapter comes from: a document that follows from chain and artifacts, and what is found in a false one."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from proofyard.artifacts import cid_of_bytes
from proofyard.protocol import merkle
from proofyard.protocol.cid import cid_bytes, raw_cid
from proofyard.protocol.closing import ClosedRound, Taken, sets_of
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.manifest import Manifest, encode_manifest
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, TaskIndex
from proofyard.sdk import JobRefused, LineageFalse, ResultUnproven, go_on, lineage, verify_lineage, verify_result
from proofyard.sdk import results as proving
from proofyard.sdk.lineages import MAX_LINEAGE_BYTES, decode_lineage, encode_lineage, lineage_cid, require_true
from proofyard.sdk.rounds import SettledRounds, settled_rounds
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.lora_params import read_params
from proofyard.workloads.lora_rounds import encode_start, start_of_round
from proofyard.workloads.lora_sets import whole_rounds
from proofyard.workloads.lora_tensors import first_state, put, take
from proofyard.workloads.peft_folder import CONFIG, WEIGHTS
from proofyard.workloads.state import decode_state, encode_state

REGISTRY = Address("0x" + "8" * 40)
NODES = [Address("0x" + digit * 40) for digit in "12"]
PARAMS: dict[str, Any] = {
    "modules": {"layer.q": [8, 6], "layer.v": [4, 6]},
    "rank": 2,
    "alpha": 4.0,
    "lr": 0.01,
    "rounds": 3,
    "workers": 2,
    "segments": 2,
    "segment_steps": 1,
    "batch": 2,
    "seq_len": 16,
    "aggregation": "ffa",
    "outer": "none",
}


@dataclass
class World:
    """A chain and its artifacts, as far as a lineage reads them: jobs whose workers made results up."""

    artifacts: dict[Cid, bytes] = field(default_factory=dict)
    jobs: dict[int, SettledRounds] = field(default_factory=dict)
    chain: Any = field(default_factory=lambda: SimpleNamespace(chain_id=31337, registry=REGISTRY))
    wallet: Any = None

    def put(self, data: bytes) -> Cid:
        cid = cid_of_bytes(data)
        self.artifacts[cid] = data
        return cid

    def rounds(self, job: JobId) -> SettledRounds:
        return self.jobs[job]

    def settle(
        self, job: int, manifest: Manifest, rounds: int, size: float = 0.01, closed: Sequence[ClosedRound] = ()
    ) -> SettledRounds:
        """Have `rounds` rounds of a job settled, a batch each; `closed`: what they took where they do not wait."""
        params, graph = read_params(manifest), WORKLOAD.graph(manifest)
        cid, results, batches = raw_cid(encode_manifest(manifest)), [], []
        for number in range(params.begun, params.begun + rounds):
            tasks = whole_rounds(params, number)
            if closed:
                taken = sets_of(closed[: number - params.begun])[-1:]
                tasks = tuple(TaskIndex(task) for each in taken for task in each)
            given = [results[task] for task in tasks]
            begins = self.artifacts[manifest.adapter] if manifest.adapter and not given else b""
            said = [self.artifacts[each] for each in given]
            start = start_of_round(params, manifest.seed, said, number, begins, tasks=tasks)
            made = []
            for shard in range(params.workers):
                rng = np.random.default_rng([job, number, shard])
                state = take(first_state(params, shard, start.outer), "adapter")
                trained = {
                    name: (array + size * rng.standard_normal(array.shape)).astype(np.float32)
                    for name, array in sorted(state.items())
                }
                carried = {} if shard and not closed else start.outer
                data = encode_state(put(trained, "adapter") | carried)
                made.append((len(results) + shard, self.put(data), NODES[shard]))
            committed = [commitment(job, task, cid, given, result, node) for task, result, node in made]
            batches.append(Batch(10 * job + number, committed))
            results += [result for _, result, _ in made]
        read = self.artifacts.__getitem__
        self.jobs[job] = settled_rounds(JobId(job), cid, manifest, batches, read, closed)  # type: ignore[arg-type]
        assert len(graph) == (params.rounds - params.begun) * params.workers
        return self.jobs[job]


def commitment(job: int, task: int, manifest: Cid, given: list[Cid], result: Cid, node: Address) -> Commitment:
    return Commitment(
        job=JobId(job),
        task=TaskIndex(task),
        node=node,
        manifest=Digest(bytes(32)),
        inputs=merkle.root([cid_bytes(each) for each in (manifest, *given)]),
        trace_root=Digest(bytes(32)),
        segments=2,
        result=result,
        work_units=64,
        mark=Digest(bytes(32)),
    )


@dataclass(frozen=True)
class Batch:
    """Stands in for `proofyard.disputes.settled.Settled`."""

    number: int
    commitments: list[Commitment]
    view: Any = None

    @property
    def event(self) -> Any:
        position = SimpleNamespace(block=self.number, block_hash=bytes([self.number]) * 32, index=1)
        return SimpleNamespace(
            batch=BatchId(self.number),
            attempt=0,
            record=raw_cid(b"record %d" % self.number),
            signers=0b101,
            position=position,
            claimable_at=1000 + self.number,
        )

    @property
    def record(self) -> Any:
        return SimpleNamespace(tasks=tuple(SimpleNamespace(commitment=each) for each in self.commitments))

    def check_record(self) -> None:
        return


@pytest.fixture(autouse=True)
def accepting(monkeypatch: pytest.MonkeyPatch) -> None:
    def accepted(view: Any, record: Any) -> frozenset[tuple[JobId, TaskIndex]]:
        return frozenset((task.commitment.job, task.commitment.task) for task in record.tasks)

    monkeypatch.setattr(proving, "accepted", accepted)


def manifest_with(**changes: Any) -> Manifest:
    return Manifest(workload="lora", params=PARAMS | changes, model=raw_cid(b"model"), data=raw_cid(b"data"), seed=7)


@pytest.fixture
def world() -> Any:
    found = World()
    found.wallet = SimpleNamespace(turns=SimpleNamespace(take=lambda: Turn()))
    return found


class Turn:
    """A wallet that remembers no model."""

    def __enter__(self) -> Any:
        return SimpleNamespace(model=lambda job: "")

    def __exit__(self, *_: object) -> None:
        return


def leaves(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to each value of a document."""
    if not isinstance(value, dict | list):
        yield keys
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from leaves(each, (*keys, key))


def altered(value: Any, keys: tuple[Any, ...]) -> Any:
    """A document with another value of its own kind at a place."""
    if not keys:
        return other(value)
    copy = list(value) if isinstance(value, list) else dict(value)
    copy[keys[0]] = altered(value[keys[0]], keys[1:])
    return copy


def named(keys: tuple[Any, ...]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def other(value: Any) -> Any:
    if value is None or str(value).startswith("baf"):
        return raw_cid(b"another one")
    if isinstance(value, str) and value.startswith("0x"):
        return value[:-1] + ("0" if value[-1] != "0" else "1")
    if isinstance(value, str) and "/" in value:
        return "3/7"
    if isinstance(value, str):
        return value.replace("1", "2") if "1" in value else f"{value}x"
    return value + 1


def test_rounds_that_overlap_name_the_second_one_before_as_their_start(world: Any) -> None:
    rounds = world.settle(1, manifest_with(rounds=4, overlap=True), 4)
    documents = lineage(world, 1)
    assert [each.start.round for each in documents] == [0, 0, 1, 2]
    assert [each.start.lineage for each in documents[2:]] == [lineage_cid(each) for each in documents[:2]]
    assert [each.start.state for each in documents[2:]] == [each.state for each in documents[:2]]
    assert len({each.state for each in documents}) == 4
    assert [[delta.task for delta in each.deltas] for each in documents] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert {delta.late for each in documents for delta in each.deltas} == {0}
    onto = [each.onto for each in documents]
    assert [each and each.round for each in onto] == [0, 1, 2, 3], "no delta is on no way back to the seed"
    assert [each and each.lineage for each in onto[1:]] == [lineage_cid(each) for each in documents[:3]]
    assert onto[0] == documents[0].start
    assert lineage(world, 1)[3] == verify_lineage(world, encode_lineage(documents[3]))
    results = [rounds.read(rounds.done[task].commitment.result) for task in WORKLOAD.finals(rounds.manifest)]
    last = start_of_round(rounds.params, rounds.manifest.seed, results, 5)
    assert documents[-1].state == cid_of_bytes(encode_start(last)), "what the job comes to"


def test_what_a_round_that_overlaps_comes_to_is_final_with_the_round_before(world: Any) -> None:
    """No round says of the one before that it was accepted: its tasks start without that one's results."""

    def final(rounds: SettledRounds) -> list[int]:
        at = [SimpleNamespace(claimable_at=each) for each in (10, 40, 30, 50)]
        done = {TaskIndex(task): SimpleNamespace(settled=SimpleNamespace(event=at[task // 2])) for task in range(8)}
        found = replace(rounds, done=done)  # type: ignore[arg-type]
        return [found.final_at(number) for number in range(1, 5)]

    assert final(world.settle(1, manifest_with(rounds=4, overlap=True), 4)) == [10, 40, 40, 50]
    assert final(world.settle(2, manifest_with(rounds=4), 4)) == [10, 40, 30, 50]


def test_a_document_of_a_round_that_waits_has_nothing_that_its_deltas_move_beside_its_start(world: Any) -> None:
    world.settle(1, manifest_with(), 2)
    world.settle(2, manifest_with(overlap=True), 2)
    (plain, _), (both, _) = lineage(world, 1), lineage(world, 2)
    assert b"onto" not in encode_lineage(plain)
    for said in (msgspec.structs.replace(plain, onto=plain.start), msgspec.structs.replace(both, onto=msgspec.UNSET)):
        with pytest.raises(LineageFalse) as refused:
            verify_lineage(world, encode_lineage(said))
        assert [field for field, *_ in refused.value.wrong] == ["onto"]


def test_every_round_names_what_it_started_from_took_and_came_to(world: Any) -> None:
    rounds = world.settle(1, manifest_with(), 3)
    documents = lineage(world, 1)
    assert [each.round for each in documents] == [1, 2, 3]
    first, second, third = documents
    assert (first.start.round, first.start.lineage) == (0, None)
    assert second.start.lineage == lineage_cid(first) and second.start.state == first.state
    assert third.start.lineage == lineage_cid(second)
    assert [each.result for each in second.deltas] == [
        rounds.done[TaskIndex(task)].commitment.result for task in (2, 3)
    ]
    assert [each.share for each in second.deltas] == ["1/2", "1/2"] and {each.factor for each in second.deltas} == {1.0}
    assert second.settlements[0].signers == (0, 2)
    assert decode_lineage(encode_lineage(second)) == second
    assert lineage(world, 1) == documents


def test_a_delta_that_was_shortened_says_so(world: Any) -> None:
    world.settle(1, manifest_with(max_delta_ratio=1.0), 1)
    factors = [each.factor for each in lineage(world, 1)[0].deltas]
    assert min(factors) < 1.0 and max(factors) == 1.0


RULES = {"quorum": 1, "timeout_s": 60, "discount_bps": 5000}


def closed_rounds(*sets: Sequence[int]) -> list[ClosedRound]:
    """Rounds of two shards that took these tasks."""
    return [
        ClosedRound(number, 0, tuple(Taken(TaskIndex(task), number - task // 2) for task in taken), ())
        for number, taken in enumerate(sets)
    ]


def test_a_round_that_did_not_wait_names_what_it_took_and_how_late_that_was(world: Any) -> None:
    rounds = world.settle(1, manifest_with(closing=RULES), 3, closed=closed_rounds([0], [1, 2, 3], [5]))
    documents = lineage(world, 1)
    assert [each.decided for each in documents] == ["times"] * 3
    assert [[(one.task, one.shard, one.late, one.share) for one in each.deltas] for each in documents] == [
        [(0, 1, 0, "1/1")],
        [(1, 2, 1, "1/5"), (2, 1, 0, "2/5"), (3, 2, 0, "2/5")],
        [(5, 2, 0, "1/1")],
    ]
    taken = [decode_state(world.artifacts[each.result]) for each in documents[1].deltas]
    before = rounds.start_after(1).adapter
    for name, array in rounds.start_after(2).adapter.items():
        moved = [each[f"adapter.{name}"] - each[f"base.{name}"] for each in taken]
        mean = 0.2 * moved[0] + 0.4 * moved[1] + 0.4 * moved[2]
        np.testing.assert_allclose(array, before[name] + mean, atol=1e-7)
    assert verify_lineage(world, encode_lineage(documents[1])) == documents[1]


def test_a_round_that_is_closed_is_none_yet_while_one_that_it_took_is_not_accepted(world: Any) -> None:
    rounds = world.settle(1, manifest_with(closing=RULES), 3, closed=closed_rounds([0], [1, 2, 3], [5]))
    for left_out, last in ((1, 1), (4, 3), (0, 0), (5, 2)):
        left = [each.commitment for task, each in rounds.done.items() if task != left_out]
        closed = closed_rounds([0], [1, 2, 3], [5])
        found = settled_rounds(
            JobId(1),
            rounds.manifest_cid,
            rounds.manifest,
            [Batch(1, left)],
            rounds.read,
            closed,  # type: ignore[list-item]
        )
        assert found.last == last


def test_a_job_goes_on_from_a_round_that_did_not_wait(world: Any) -> None:
    world.settle(1, manifest_with(closing=RULES), 2, closed=closed_rounds([0], [1, 2]))
    manifest = continued(world, 1, rounds=2)
    assert manifest.params["closing"] == RULES | {"late_rounds": 1, "voters": (), "ahead": 0}
    closed = closed_rounds([0], [1, 3])
    world.settle(2, manifest, 2, closed=closed)
    before, (third, fourth) = lineage(world, 1)[1], lineage(world, 2)
    assert (third.round, third.start.round, third.start.state) == (3, 2, before.state)
    assert [(one.task, one.late) for one in fourth.deltas] == [(1, 1), (3, 0)]
    assert continued(world, 1, closing=None).params["closing"] is None


@pytest.mark.parametrize("way", [{}, {"closing": RULES}, {"overlap": True}])
def test_each_false_field_is_found_and_named(world: Any, way: dict[str, Any]) -> None:
    closed = closed_rounds([0], [1, 2, 3], [5]) if "closing" in way else []
    world.settle(1, manifest_with(**way), 3, closed=closed)
    document = lineage(world, 1)[1]
    true = json.loads(encode_lineage(document))
    for keys in leaves(true):
        if keys[0] in ("version", "network", "job", "round"):
            continue
        said = decode_lineage(canonical(altered(true, keys)))
        with pytest.raises(LineageFalse) as refused:
            verify_lineage(world, encode_lineage(said))
        assert [field for field, *_ in refused.value.wrong] == [named(keys)]
        assert refused.value.exit_code == 4
    require_true(document, document)
    assert verify_lineage(world, encode_lineage(document)) == document


def canonical(value: Any) -> bytes:
    return msgspec.json.format(json.dumps(value).encode(), indent=1) + b"\n"


def test_a_round_that_is_another_ones_or_not_there_is_false(world: Any) -> None:
    world.settle(1, manifest_with(), 2)
    first, second = lineage(world, 1)
    with pytest.raises(LineageFalse, match="round is 3, and not one that is settled whole"):
        verify_lineage(world, encode_lineage(msgspec.structs.replace(second, round=3)))
    with pytest.raises(LineageFalse, match=r"start\.round is 1, and not 0"):
        verify_lineage(world, encode_lineage(msgspec.structs.replace(second, round=1)))
    world.chain.chain_id = 1
    with pytest.raises(JobRefused, match=r"on chain 31337, and this is .* on chain 1; name that network"):
        verify_lineage(world, encode_lineage(first))


def test_deltas_that_are_left_out_or_more_are_found(world: Any) -> None:
    world.settle(1, manifest_with(), 1)
    document = lineage(world, 1)[0]
    for deltas in (document.deltas[:1], document.deltas * 2, ()):
        with pytest.raises(LineageFalse, match=f"deltas is {len(deltas)} of them, and not 2 of them"):
            verify_lineage(world, encode_lineage(msgspec.structs.replace(document, deltas=deltas)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[:-1], "not in its one form"),
        (lambda data: data + b" ", "not in its one form"),
        (lambda data: data.replace(b'"version": 2', b'"version": 1'), "of version 1"),
        (lambda data: data.replace(b'"version": 2', b'"version": 2,\n "more": 1'), "unknown field `more`"),
        (lambda data: data.replace(b'"round": 1', b'"round": 0'), "`int` >= 1"),
        (lambda data: data.replace(b'"job": "1"', b'"job": "../../1"'), "matching regex"),
        (lambda data: data.replace(b'"share": "1/2"', b'"share": "1/0"'), "matching regex"),
        (lambda data: b"[" * 100_000, "cannot be decoded"),
        (lambda data: b"\xff", "cannot be decoded"),
        (lambda data: b" " * (MAX_LINEAGE_BYTES + 1), "no document more than"),
    ],
)
def test_what_is_no_document_is_refused(change: Any, reason: str, world: Any) -> None:
    world.settle(1, manifest_with(), 1)
    with pytest.raises(JobRefused, match=reason):
        verify_lineage(world, change(encode_lineage(lineage(world, 1)[0])))


def test_a_round_that_is_not_whole_is_none_yet(world: Any) -> None:
    manifest = manifest_with()
    rounds = world.settle(1, manifest, 2)
    part = {task: each for task, each in rounds.done.items() if task != 3}
    batches = [Batch(number, [part[task].commitment]) for number, task in enumerate(part, 1)]
    found = settled_rounds(JobId(1), rounds.manifest_cid, manifest, batches, rounds.read)  # type: ignore[arg-type]
    assert found.last == 1
    with pytest.raises(JobRefused, match="round 2 of job 1 is not settled whole; its last one is 1"):
        found.require(2)
    with pytest.raises(JobRefused, match="has rounds 1 to 3, and 4 is none"):
        found.start_after(4)
    result = batches[0].commitments[0].result
    wrong = replace(batches[0], commitments=[commitment(1, 0, raw_cid(b"another"), [], result, NODES[0])])
    with pytest.raises(ResultUnproven, match="built on other results"):
        settled_rounds(JobId(1), rounds.manifest_cid, manifest, [wrong, *batches[1:]], rounds.read)  # type: ignore[arg-type]
    with pytest.raises(JobRefused, match="jobs of lora have rounds"):
        settled_rounds(JobId(1), raw_cid(b"m"), Manifest(workload="map", params={}), [], rounds.read)


def continued(world: Any, job: int, **more: Any) -> Manifest:
    """The manifest of a job that goes on from another one, without a look at model and data."""
    spec = go_on(world, job, **more)
    world.put(spec.start)
    return Manifest(
        workload="lora",
        params=msgspec.to_builtins(spec.params),
        model=Cid(spec.base),
        data=raw_cid(b"data"),
        seed=spec.seed,
        adapter=cid_of_bytes(spec.start),
    )


def test_a_job_that_goes_on_names_the_round_that_it_goes_on_from(world: Any) -> None:
    world.settle(1, manifest_with(), 2)
    world.settle(2, continued(world, 1, round=1, lr=0.1, rounds=2), 2)
    before, first = lineage(world, 1)[0], lineage(world, 2)[0]
    assert (first.round, first.rounds) == (2, 3)
    assert (first.start.job, first.start.round, first.start.lineage) == ("1", 1, lineage_cid(before))
    assert first.start.state == before.state
    assert verify_lineage(world, encode_lineage(first)) == first


def test_a_job_that_says_it_goes_on_from_what_it_does_not_is_refused(world: Any) -> None:
    world.settle(1, manifest_with(), 2)
    honest = continued(world, 1, round=1)

    def settled(number: int, **begins: Any) -> None:
        params = honest.params | {"begins": honest.params["begins"] | begins}
        world.settle(number, msgspec.structs.replace(honest, params=params), 1)

    settled(2, round=2)
    with pytest.raises(JobRefused, match="and it does not: that round came to another adapter"):
        lineage(world, 2)
    settled(3, job="3")
    with pytest.raises(JobRefused, match="goes on from job 3, one that was not there before it"):
        lineage(world, 3)
    settled(4, chain_id=5)
    (document,) = lineage(world, 4)
    assert document.start.network.chain_id == 5 and document.start.lineage is None
    world.settle(5, msgspec.structs.replace(honest, seed=8), 1)
    with pytest.raises(JobRefused, match="that job has another seed"):
        lineage(world, 5)
    world.settle(6, msgspec.structs.replace(honest, model=raw_cid(b"other")), 1)
    with pytest.raises(JobRefused, match="that job has another model"):
        lineage(world, 6)
    world.settle(7, msgspec.structs.replace(honest, params=honest.params | {"alpha": 8.0}), 1)
    with pytest.raises(JobRefused, match=r"params\.alpha cannot change"):
        lineage(world, 7)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"round": 3}, "round 3 of job 1 is not settled whole"),
        ({"rank": 4}, "rank: cannot change"),
        ({"begins": None}, "begins: cannot change"),
        ({"seed": 8}, "its A follows from the seed"),
        ({"rounds": 0}, "rounds: is 0, after round 2 of 3"),
        ({"lr": "x"}, "lr: is 'x'"),
        ({"colour": 1}, "colour: a lora job has no such parameter"),
    ],
)
def test_what_cannot_change_is_refused_by_name(more: dict[str, Any], reason: str, world: Any) -> None:
    world.settle(1, manifest_with(), 2)
    with pytest.raises(JobRefused, match=reason):
        go_on(world, 1, **more)


def test_a_fork_may_change_workers_outer_step_and_length(world: Any) -> None:
    world.settle(1, manifest_with(aggregation="fedex", shard_segments=[1, 2]), 3)
    spec = go_on(world, 1, rounds=5, workers=1, seed=9)
    assert (spec.params.rounds, spec.params.begun, spec.params.shard_segments, spec.seed) == (8, 3, (), 9)
    world.settle(2, manifest_with(aggregation="fedit"), 3)
    spec = go_on(world, 2, rounds=1, outer="nesterov", outer_lr=0.7, outer_momentum=0.9)
    world.put(spec.start)
    found = start_of_round(spec.params, 7, (), 3, spec.start)
    assert found.velocity and not any(array.any() for array in found.velocity.values())
    assert spec.model == raw_cid(b"model")
    assert go_on(world, 2, rounds=1, objective="dpo").objective == "dpo"


def test_half_steps_come_and_go_with_overlap_unless_somebody_says_how_much(world: Any) -> None:
    world.settle(1, manifest_with(), 2)
    world.settle(2, manifest_with(overlap=True, outer="plain", outer_lr=0.5), 2)
    world.settle(3, manifest_with(outer="nesterov", outer_lr=0.7, outer_momentum=0.5), 2)

    def step(job: int, **more: Any) -> Any:
        params = go_on(world, job, **more).params
        return params.outer, params.outer_lr

    assert step(1) == ("none", 1.0) and step(1, overlap=True) == ("plain", 0.5)
    assert step(1, overlap=True, outer="plain", outer_lr=0.25) == ("plain", 0.25)
    assert step(1, overlap=True, outer="none") == ("none", 1.0)
    assert step(2) == step(2, overlap=True) == ("plain", 0.5) and step(2, overlap=False) == ("none", 1.0)
    assert step(3, overlap=True) == ("nesterov", 0.7)
    with pytest.raises(JobRefused, match="overlap: is 'yes'"):
        go_on(world, 1, overlap="yes")


def test_jobs_with_overlap_go_on_from_those_without_and_the_other_way(world: Any) -> None:
    world.settle(1, manifest_with(rounds=5), 2)
    world.settle(2, continued(world, 1, overlap=True), 3)
    world.settle(3, continued(world, 2, round=4, rounds=2, overlap=False), 2)
    one, two, three = (lineage(world, job) for job in (1, 2, 3))
    assert [(each.start.job, each.start.round) for each in two] == [("1", 2), ("1", 2), ("2", 3)]
    assert [each.onto and each.onto.round for each in two] == [2, 3, 4]
    assert [(each.start.job, each.start.round) for each in three] == [("2", 4), ("3", 5)]
    assert two[0].start.lineage == lineage_cid(one[1]) and three[0].start.lineage == lineage_cid(two[1])
    for each in (*two, *three):
        assert verify_lineage(world, encode_lineage(each)) == each


def test_a_folder_is_held_against_its_document(world: Any, tmp_path: Path) -> None:
    rounds = world.settle(1, manifest_with(), 3)
    document = lineage(world, 1)[2]
    folder = rounds.export(3, tmp_path / "adapter")
    with pytest.raises(JobRefused, match=r"holds no lineage\.json"):
        verify_result(world, folder)
    (folder / "lineage.json").write_bytes(encode_lineage(document))
    with pytest.raises(LineageFalse, match=r"proofyard\.json is none"):
        verify_result(world, folder)
    (folder / "proofyard.json").write_text(json.dumps({"base_model": f"ipfs://{document.model}"}))
    assert verify_result(world, folder) == document
    assert verify_result(world, folder / "lineage.json") == document
    for name, change in (
        (WEIGHTS, lambda data: data[:-1] + b"\x01"),
        (CONFIG, lambda data: data.replace(b'"lora_alpha": 4.0', b'"lora_alpha": 40.0')),
        (CONFIG, lambda data: data.replace(b'"r": 2', b'"r": 2,\n "auto_mapping": {"x": "y"}')),
        ("proofyard.json", lambda data: b"[" * 100_000),
    ):
        right = (folder / name).read_bytes()
        (folder / name).write_bytes(change(right))
        with pytest.raises(LineageFalse, match=name.replace(".", r"\.")):
            verify_result(world, folder)
        (folder / name).write_bytes(right)
    (folder / CONFIG).write_bytes(b" " * (2 << 20))
    with pytest.raises(JobRefused, match="holds no adapter of a job"):
        verify_result(world, folder)
