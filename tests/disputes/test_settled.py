"""A settlement is held against everything that it rests on, by whoever has the chain and the artifacts."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "protocol"))

from worlds import BATCH, Work, World, changed, simple, states_of

from proofyard.artifacts import ArtifactTooLarge, ArtifactUnavailable
from proofyard.chain.events import Position
from proofyard.disputes import refusals, settled
from proofyard.disputes.committed import committed_results, load_committed, load_members
from proofyard.disputes.errors import ListWithheld, NotSettled, RecordWithheld
from proofyard.disputes.judging import judge_record
from proofyard.disputes.refusals import check_keyed, check_refusals
from proofyard.disputes.settled import Settled, load_settled
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.manifest import encode_manifest
from proofyard.protocol.members import encode_members
from proofyard.protocol.record import BatchRecord, encode_record
from proofyard.protocol.settlement import payout_root
from proofyard.protocol.settling import settlement_of
from proofyard.protocol.types import BatchId, Cid, Digest, JobId
from proofyard.protocol.validate import RecordInvalid
from proofyard.workloads.errors import StateRefused


class Store:
    """The chain and the artifacts of a world; what `gone` names nobody delivers."""

    def __init__(self, world: World, record: BatchRecord | None = None) -> None:
        self.world, self.record = world, record or world.record
        self.artifacts: dict[Cid, bytes] = {}
        self.cid = self.put(encode_record(self.record))
        for job in world.jobs:
            self.put(encode_manifest(job.manifest))
        self.lists = {batch: self.put(encode_members(members)) for batch, members in world.members.items()}
        self.state: Any = SimpleNamespace(settled_at=5, voided=False, dropped=False, attempt=0)

    def put(self, data: bytes) -> Cid:
        cid = raw_cid(data)
        self.artifacts[cid] = data
        return cid

    async def read(self, cid: Cid, max_bytes: int) -> bytes:
        if cid not in self.artifacts:
            raise ArtifactUnavailable(cid, 1, ["nobody has it"])
        return self.artifacts[cid]

    def batch(self, _batch: BatchId) -> Any:
        return self.state

    def view(self, _batch: BatchId, _attempt: int | None = None) -> Any:
        return self.world.view

    def header(self, batch: BatchId) -> Any:
        return self.world.header_of(batch)

    def settled(self, _job: JobId) -> list[Any]:
        settlement = settlement_of(self.world.record, self.world.view, self.cid)
        lines = [
            replace(line, paid_units=share.paid_units)
            for line, share in zip(self.world.view.header.lines, settlement.shares, strict=True)
        ]
        return [
            SimpleNamespace(
                batch=BATCH,
                attempt=0,
                record=self.cid,
                payout_root=payout_root(BATCH, settlement.payouts),
                payout_total=settlement.total,
                audit_root=settlement.audit_root,
                lines=tuple(lines),
                position=Position(100, Digest(bytes(32)), 1),
            )
        ]

    def job(self, job: JobId) -> Any:
        return SimpleNamespace(manifest=self.world.by_job[job].facts.manifest)

    async def load(self) -> Settled:
        chain: Any = self
        return await load_settled(chain, self.read, BATCH)


@pytest.fixture(autouse=True)
def workload(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the workload of these worlds says of states; by default nothing is against a law."""
    laws: dict[str, Any] = {
        "check_state": lambda *_: None,
        "check_result": lambda *_: None,
        "max_bytes": lambda *_: 1 << 20,
        "exact": True,
    }
    for module in (settled, refusals):
        monkeypatch.setattr(module, "workload_of", lambda _: SimpleNamespace(**laws))

    async def graph_of(chain: Any, read: Any, number: Any, manifest: Any) -> Any:
        return next(job.graph for job in WORLD.jobs if job.manifest == manifest)

    monkeypatch.setattr(settled, "graph_of", graph_of)
    monkeypatch.setattr("proofyard.disputes.committed.graph_of", graph_of)
    return laws


WORLD = simple()


async def test_an_honest_settlement_holds_and_is_the_one_on_chain() -> None:
    found = await Store(WORLD).load()
    await found.check(Store(WORLD).read)
    assert found.tasks == [member.key for member in WORLD.members[BATCH]]
    assert found.committed.entries == WORLD.members[BATCH]
    job, task = found.tasks[-1]
    assert found.position(job, task) == len(found.tasks) - 1
    assert found.spec(job, task) == WORLD.by_job[job].graph[task]


async def test_a_record_that_settles_something_else_is_not_the_one_on_chain() -> None:
    store = Store(WORLD)
    event = store.settled(JobId(1))[0]
    for field, value in (("payout_root", Digest(bytes(32))), ("payout_total", 1), ("audit_root", Digest(bytes(32)))):
        setattr(event, field, value)
        store.settled = lambda _, event=event: [event]  # type: ignore[method-assign]
        with pytest.raises(RecordInvalid, match="does not give the settlement on chain"):
            (await store.load()).check_record()


async def test_a_forged_record_is_refused_by_the_field() -> None:
    cheaper = changed(WORLD.record, payouts=())
    with pytest.raises(RecordInvalid) as refusal:
        (await Store(WORLD, cheaper).load()).check_record()
    assert refusal.value.field == "payouts"


FORGED = {
    "payouts": changed(WORLD.record, payouts=()),
    "audits": changed(WORLD.record, audits=WORLD.record.audits[1:]),
    "leader": changed(WORLD.record, leader=2),
}


@pytest.mark.parametrize("field", FORGED)
async def test_a_jury_finds_a_forged_record_wrong_and_an_honest_one_right(field: str) -> None:
    """With nothing but the chain and the artifacts."""
    for record, expected in ((WORLD.record, False), (FORGED[field], True)):
        store: Any = Store(WORLD, record)
        wrong, reason = await judge_record(store, store, BATCH, patience_s=0)
        assert wrong is expected, reason
        assert not wrong or f": {field}: " in reason


@pytest.mark.parametrize("gone", ["record", "list", "manifest"])
async def test_what_a_record_rests_on_is_owed_with_it(gone: str) -> None:
    store = Store(WORLD)
    manifest = WORLD.jobs[0].cid
    del store.artifacts[{"record": store.cid, "list": store.lists[BATCH], "manifest": manifest}[gone]]
    with pytest.raises(RecordWithheld):
        await store.load()


async def test_garbage_and_other_batches_records_are_no_record_of_this_one() -> None:
    store = Store(WORLD)
    store.cid = store.put(b"no record at all")
    with pytest.raises(RecordInvalid, match="cannot be read"):
        await store.load()
    store.cid = store.put(encode_record(changed(WORLD.record, attempt=3)))
    with pytest.raises(RecordInvalid, match="attempt 3"):
        await store.load()


NOT_SETTLED = {
    "not settled yet": {"settled_at": 0},
    "voided": {"voided": True, "attempt": 1},
    "dropped": {"settled_at": 0, "dropped": True},
}


@pytest.mark.parametrize("reason", NOT_SETTLED)
async def test_what_is_not_settled_says_why(reason: str) -> None:
    store = Store(WORLD)
    vars(store.state).update(NOT_SETTLED[reason])
    with pytest.raises(NotSettled, match=reason):
        await store.load()


async def test_a_batch_is_known_from_what_was_committed_or_from_a_record_that_repeats_it() -> None:
    store = Store(WORLD)
    chain: Any = store
    assert (await load_committed(chain, store.read, BATCH)).entries == WORLD.members[BATCH]
    del store.artifacts[store.lists[BATCH]]
    with pytest.raises(ListWithheld):
        await load_committed(chain, store.read, BATCH)
    assert (await load_committed(chain, store.read, BATCH, store.cid)).entries == WORLD.members[BATCH]


async def test_every_result_that_was_committed_for_a_task_may_be_what_another_was_computed_from() -> None:
    """One that was done again has several, and the newest need not be the one that was used."""
    again = replace(WORLD, work=[replace(work, fake=(0,)) for work in WORLD.work])
    store = Store(WORLD)
    lists = [store.put(encode_members(world.members[BATCH])) for world in (WORLD, again)]
    events = [event_of(world, number) for number, world in enumerate((WORLD, again), 1)]
    store.committed = lambda _: events  # type: ignore[attr-defined]
    chain: Any = store
    key = WORLD.members[BATCH][0].key

    async def found() -> tuple[list[set[Cid]], list[BatchId]]:
        hidden: list[BatchId] = []
        results = committed_results(chain, store.read, key[0], frozenset({key[1]}), hidden)
        return [set(known[key[1]]) async for known in results], hidden

    first, second = (world.members[BATCH][0].commitment.result for world in (WORLD, again))
    assert await found() == ([{second}, {first, second}], [])
    del store.artifacts[lists[0]]
    assert await found() == ([{second}], [BatchId(1)])


def event_of(world: World, number: int) -> Any:
    header = world.header_of(BATCH, fresh=True)
    return SimpleNamespace(batch=BatchId(number), **{name: getattr(header, name) for name in HEADER})


HEADER = ("root", "size", "members", "lines")


async def test_a_list_that_is_not_that_of_its_root_counts_as_withheld() -> None:
    store = Store(WORLD)
    header = replace(WORLD.view.header, root=Digest(bytes(32)))
    with pytest.raises(ListWithheld, match="not the list of its root"):
        await load_members(store.read, BATCH, header)


async def test_a_state_that_is_called_against_a_law_must_be(workload: dict[str, Any]) -> None:
    lawless = replace_work(WORLD, lawless=True)
    store = Store(lawless)
    places = [(fault.task_key, fault.segment or 0) for fault in lawless.record.faults]
    states = [lawless.record.by_key[key].trace[segment] for key, segment in places]
    manifests = {job.id: job.manifest for job in lawless.jobs}
    graphs = {job.id: job.graph for job in lawless.jobs}
    with pytest.raises(ArtifactUnavailable):
        await check_refusals(lawless.record, manifests, graphs, store.read)
    store.artifacts |= dict.fromkeys(states, b"the state")
    with pytest.raises(RecordInvalid, match="is called a fault and is in order"):
        await check_refusals(lawless.record, manifests, graphs, store.read)

    def refuse(*_: Any) -> None:
        raise StateRefused("its step is wrong")

    workload["check_state"] = refuse
    await check_refusals(lawless.record, manifests, graphs, store.read)

    async def huge(cid: Cid, max_bytes: int) -> bytes:
        raise ArtifactTooLarge(cid, max_bytes + 1, max_bytes)

    workload["check_state"] = lambda *_: None
    await check_refusals(lawless.record, manifests, graphs, huge)


async def test_a_keyed_digest_is_checked_where_the_state_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proofyard.protocol.findings.keyed_is_checked", lambda *_: True)
    store, record, view = Store(WORLD), WORLD.record, WORLD.view
    manifests = {job.id: job.manifest for job in WORLD.jobs}
    await check_keyed(view, record, manifests, store.read)
    audit = record.audits[0]
    trace = record.by_key[audit.task_key].trace
    known = {raw_cid(state): state for work in WORLD.work for state in all_states(work)}
    store.artifacts[trace[audit.segment + 1]] = known[trace[audit.segment + 1]]
    await check_keyed(view, record, manifests, store.read)
    vote = audit.votes[0]
    other = changed(vote, keyed=Digest(b"x" * 32))
    forged = changed(record, audits=(changed(audit, votes=(other, *audit.votes[1:])), *record.audits[1:]))
    with pytest.raises(RecordInvalid, match=f"the keyed digest of {vote.auditor}"):
        await check_keyed(view, forged, manifests, store.read)


def all_states(work: Work) -> list[bytes]:
    return states_of(work, WORLD.by_job[work.job].graph[work.task].segments)


def replace_work(world: World, **changes: Any) -> World:
    """The world in which every task is done in this way."""
    return replace(world, work=[replace(work, **changes) for work in world.work])
