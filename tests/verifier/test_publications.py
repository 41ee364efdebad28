"""What is fetched for whom: an open job's inputs, a seat's lists, and next to nothing of strangers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
from simulated import Counting
from stage import CREDIT, FakeChain, Link, Verifier, make_verifier

from proofyard.artifacts import ArtifactTooLarge, BlockStore
from proofyard.artifacts.unixfs import Link as UnixLink
from proofyard.artifacts.unixfs import directory_node, node_cid
from proofyard.chain import Wallet
from proofyard.protocol.cid import cid_digest, raw_cid
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, Manifest, encode_manifest
from proofyard.protocol.messages import Publish
from proofyard.protocol.types import Cid, JobId, Wei
from proofyard.protocol.view import JobFacts
from proofyard.transport import RequestFailed
from proofyard.verifier import publications
from proofyard.verifier.engine.rows import JobState
from proofyard.verifier.limits import Limiter
from proofyard.verifier.publications import Publications


@dataclass
class Scene:
    """A verifier, and a requester with a store of its own whose model is a megabyte."""

    chain: FakeChain
    verifier: Verifier
    publications: Publications
    requester: Wallet
    store: BlockStore
    model: Cid
    manifest: Cid

    def link(self, wallet: Wallet | None = None) -> Any:
        return Link((wallet or self.requester).address, self.store)

    async def publish(self, *cids: Cid, total: int = 1 << 22, job: JobId | None = None, link: Any = None) -> str:
        """Empty where it is taken, else why not."""
        message = Publish(cids, total, job)
        answer = await self.publications.publish(link or self.link(), message, cast(Any, None))
        return "" if answer.proceed else answer.reason

    def open(self, **changes: Any) -> JobId:
        facts = JobFacts(
            manifest=cid_digest(self.manifest),
            requester=self.requester.address,
            reward=Wei(CREDIT),
            audit_fee=Wei(CREDIT),
            verifier_fee=Wei(0),
            units=4,
            auditors_per_segment=2,
            segments_per_audit=1,
            workload=0,
            deadline=self.chain.clock + 10_000,
        )
        return self.chain.add_job(replace(facts, **changes))

    @property
    def kept(self) -> set[Cid]:
        return {block.cid for block in self.verifier.context.store.blocks()}


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    chain = FakeChain()
    verifier = make_verifier(chain, tmp_path / "verifier", workload=Counting(4), lease_s=60.0, batch_s=60.0)
    store = BlockStore(tmp_path / "requester")
    model = store.put_bytes(bytes(range(256)) * 4096)
    manifest = store.put_bytes(encode_manifest(Manifest(workload="lora", params={}, model=model)))
    async with verifier.running():
        yield Scene(chain, verifier, Publications(verifier.context), Wallet.generate(), store, model, manifest)


async def test_what_an_open_job_names_is_fetched_and_its_manifest_last(scene: Scene) -> None:
    job = scene.open()
    assert await scene.publish(scene.manifest, scene.model, job=job) == ""
    store = scene.verifier.context.store
    assert not any(store.missing(scene.manifest, scene.model))
    await scene.verifier.until(lambda: scene.verifier.rows.jobs[job].state == JobState.RUNNING)
    assert await scene.publish(scene.manifest, scene.model, job=job) == ""


async def test_a_job_does_not_begin_with_half_of_its_inputs(scene: Scene) -> None:
    job = scene.open()
    with pytest.raises(ArtifactTooLarge):
        await scene.publish(scene.manifest, scene.model, total=1000, job=job)
    assert not scene.verifier.context.store.has(scene.manifest)


@pytest.mark.parametrize(
    ("who", "named", "reason"),
    [
        ("stranger", True, "is not an open job of"),
        ("requester", False, "does not name"),
        ("closed", True, "is not an open job of"),
        ("elsewhere", True, "is with another verifier"),
    ],
)
async def test_only_the_inputs_of_ones_own_open_job_are_fetched(
    scene: Scene, who: str, named: bool, reason: str
) -> None:
    job = scene.open()
    await scene.verifier.until(lambda: job in scene.verifier.rows.jobs)
    row = scene.verifier.rows.jobs[job]
    row.state, row.elsewhere = JobState.FAILED if who == "closed" else row.state, who == "elsewhere"
    other = scene.store.put_bytes(b"something else")
    link = scene.link(Wallet.generate() if who == "stranger" else None)
    before = scene.kept
    assert reason in await scene.publish(scene.manifest, scene.model if named else other, job=job, link=link)
    assert scene.kept == before


@pytest.mark.parametrize(
    ("changes", "settings", "reason"),
    [
        ({}, {"least_fee_bps": 10_000}, "verifier_fee: is 0 CREDIT"),
        ({"verifier_fee": Wei(1)}, {"least_fee_bps": 10_000}, "verifier_fee: is 0.0"),
        ({}, {"job_tasks": 0}, "this verifier takes 0 of a job at most"),
        ({"units": 5}, {}, "work units"),
        ({"workload": 3}, {}, "workload"),
    ],
)
async def test_nothing_is_fetched_for_a_job_that_this_verifier_never_takes(
    scene: Scene, changes: dict[str, Any], settings: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opens jobs that pay nothing would fill its disk, 16 GiB for each."""
    context = scene.verifier.context
    vars(context.settings).update(settings)
    monkeypatch.setattr(context.chain, "gas_price", lambda: 10**9, raising=False)
    job = scene.open(**changes)
    assert reason in await scene.publish(scene.manifest, scene.model, job=job)
    assert not context.store.has(scene.model)
    await scene.verifier.until(lambda: scene.verifier.rows.jobs[job].state == JobState.FAILED)
    assert reason in scene.verifier.rows.jobs[job].reason


async def test_a_job_that_was_just_opened_is_waited_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    early = asyncio.create_task(scene.publish(scene.manifest, scene.model, job=JobId(1)))
    await asyncio.sleep(0)
    assert scene.open() == 1
    assert await early == ""
    monkeypatch.setattr(publications, "SEEN_S", 0.0)
    with pytest.raises(RequestFailed, match="not seen on chain yet"):
        await scene.publish(scene.manifest, job=JobId(99))


async def test_jobs_that_there_are_not_cost_few_looks_whoever_waits_for_them(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publications, "SEEN_S", 0.5)
    looks, at_once, most = 0, 0, 0
    stored = Publications._stored

    def counted(self: Publications, number: JobId) -> Any:
        nonlocal looks, at_once, most
        looks, at_once = looks + 1, at_once + 1
        most = max(most, at_once)
        try:
            return stored(self, number)
        finally:
            at_once -= 1

    monkeypatch.setattr(Publications, "_stored", counted)
    links = [scene.link(Wallet.generate()) for _ in range(20)]
    asked = [scene.publish(scene.manifest, job=JobId(100 + n), link=link) for n, link in enumerate(links)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(each, RequestFailed) and each.code == "not-seen" for each in found)
    assert looks == len(links)
    assert most == 1, "other work has threads left"


async def test_a_stranger_leaves_single_blocks_and_nothing_else(scene: Scene) -> None:
    assert await scene.publish(scene.manifest, total=1000) == ""
    assert scene.manifest in scene.kept
    before = scene.kept
    leaf = scene.store.put_bytes(b"leaf")
    block = directory_node([UnixLink(leaf, f"{n}", 0) for n in range(40_000)]).encode()
    scene.store.put_block(node_cid(block), block)
    for cids, total in (
        ((scene.model,), 1),
        ((scene.model,), 1 << 20),
        ((node_cid(block),), 1),
        ((leaf,), 20 << 20),
        ((leaf, scene.model), 1),
    ):
        assert "single blocks" in await scene.publish(*cids, total=total)
    assert "more than 16" in await scene.publish(*(raw_cid(bytes([n])) for n in range(100)), total=1)
    large = scene.store.put_bytes(bytes(MAX_MANIFEST_BYTES))
    with pytest.raises(RequestFailed, match="over the 1 that were announced"):
        await scene.publish(large, total=1)
    with pytest.raises(RequestFailed, match="do not have"):
        await scene.publish(raw_cid(b"nowhere"), total=100)
    assert scene.kept == before


async def test_what_strangers_leave_is_bounded_together(scene: Scene) -> None:
    scene.publications._left = Limiter("KiB", per_s=0.0, burst=100)
    taken = 0
    for number in range(40):
        cid = scene.store.put_bytes(b"%d" % number + bytes(10 << 10))
        taken += not await scene.publish(cid, total=11 << 10, link=scene.link(Wallet.generate()))
    assert 5 < taken < 10
    assert "for now" in await scene.publish(scene.store.put_bytes(bytes(9 << 10)), total=11 << 10)
    assert await scene.publish(scene.store.put_bytes(b"0" + bytes(10 << 10)), total=11 << 10) == "", (
        "it is here already"
    )


async def test_who_sends_something_else_is_held_to_it(scene: Scene) -> None:
    link = scene.link()

    async def forged(cids: Any) -> Any:
        for cid in cids:
            yield cid, b"something else"

    link.blocks = forged
    with pytest.raises(RequestFailed, match="is not"):
        await scene.publish(raw_cid(b"this"), total=100, link=link)
    assert link.points > 0


async def test_one_wallet_publishes_one_thing_after_another(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publications, "AT_ONCE", 4)
    gate = asyncio.Event()
    link = scene.link()

    async def slow(cids: Any) -> Any:
        await gate.wait()
        for cid in cids:
            yield cid, scene.store.get_block(cid)

    link.blocks = slow
    cids = [scene.store.put_bytes(b"%d" % number) for number in range(9)]
    asked = [asyncio.create_task(scene.publish(cid, total=100, link=link)) for cid in cids]
    await asyncio.sleep(0.05)
    assert await scene.publish(scene.manifest, total=1000, link=scene.link(Wallet.generate())) == ""
    gate.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    busy = [each for each in answers if isinstance(each, RequestFailed) and each.code == "busy"]
    assert len(busy) == 5
