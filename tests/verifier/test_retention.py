"""What a verifier's store lets go of, and when."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proofyard.artifacts import BlockStore
from proofyard.chain import Wallet
from proofyard.protocol.codec import encode
from proofyard.protocol.commitment import Commitment, Domain
from proofyard.protocol.manifest import Manifest, encode_manifest
from proofyard.protocol.members import Member, encode_members
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, Signature, TaskIndex
from proofyard.verifier.context import Context
from proofyard.verifier.engine.rows import Batch, BatchState, Job, JobState, Row, Work, WorkState
from proofyard.verifier.engine.world import Step
from proofyard.verifier.retention import tidy
from proofyard.verifier.store.database import Database

ADDRESS = Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
NAMES = ("model", "data", "state", "result", "record", "counted", "package", "stray")


class Shelf:
    """A verifier with one settled job in its database, and one artifact of every kind in its store."""

    def __init__(self, folder: Path) -> None:
        store = BlockStore(folder / "blocks")
        self.settings = SimpleNamespace(keep_s=1e12, cache_bytes=0)
        self.context = Context(
            *cast(Any, (self.settings, Wallet.generate(), Domain(1, ADDRESS), None)),
            Database(f"sqlite:///{folder / 'verifier.db'}"),
            store,
            cast(Any, None),
        )
        self.cids: dict[str, Cid] = {name: store.put_bytes(name.encode()) for name in NAMES}
        manifest = Manifest(workload="lora", params={}, model=self.cids["model"], data=self.cids["data"])
        self.cids["manifest"] = store.put_bytes(encode_manifest(manifest))
        digest = Digest(bytes(32))
        commitment = Commitment(
            JobId(1), TaskIndex(0), ADDRESS, digest, digest, digest, 1, self.cids["result"], 1, digest
        )
        member = Member(commitment, Signature(bytes(65)), (self.cids["state"],))
        self.job = Job(
            id=JobId(1),
            manifest=self.cids["manifest"],
            requester=ADDRESS,
            opened_block=1,
            opened_hash=bytes(32),
            units=1,
            reward="1",
            audit_fee="1",
            verifier_fee="1",
            auditors_per_segment=2,
            segments_per_audit=1,
            deadline=10,
            workload=0,
            state=JobState.RUNNING,
        )
        self.work = Work(
            job=JobId(1), task=TaskIndex(0), attempt=1, node=ADDRESS, owner=ADDRESS, result=self.cids["result"]
        )
        self.work.state, self.work.batch = WorkState.BATCHED, 1
        members, counted = encode_members([member]), [(2, self.cids["counted"])]
        self.cids["list"] = store.put_bytes(members)
        self.batch = Batch(id=1, root=digest, members=members, lines=((JobId(1), 1),), chain_id=BatchId(1))
        self.batch.record, self.batch.counted = self.cids["record"], encode(counted)

    async def write(self, *rows: Row) -> None:
        await self.context.database.write(Step(rows, (), ()))

    async def finish(self) -> None:
        self.job.state, self.job.result = JobState.DONE, self.cids["package"]
        self.batch.state, self.batch.claimable_at = BatchState.SETTLED, 160
        self.work.state = WorkState.SETTLED
        await self.write(self.job, self.batch, self.work)

    async def kept(self) -> set[str]:
        """What a pass leaves once all leases of earlier passes are over."""
        for lease in (self.context.store.path / "pins").glob("*"):
            lease.unlink()
        await tidy(self.context, grace_s=-1)
        return {name for name, cid in self.cids.items() if self.context.store.has(cid)}


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path)
    yield made
    made.context.database.close()


EVERYTHING = {"manifest", "model", "data", "state", "result", "record", "counted", "list"}


async def test_a_running_job_keeps_what_it_needs_and_nothing_else_stays(shelf: Shelf) -> None:
    await shelf.write(shelf.job, shelf.batch, shelf.work)
    assert await shelf.kept() == EVERYTHING


async def test_a_result_that_others_may_start_from_stays_before_it_is_in_a_batch(shelf: Shelf) -> None:
    shelf.work.state, shelf.work.batch = WorkState.COMMITTED, 0
    await shelf.write(shelf.job, shelf.work)
    assert await shelf.kept() == {"manifest", "model", "data", "result"}


async def test_states_go_when_the_batch_is_final_and_the_rest_when_the_job_is_long_over(shelf: Shelf) -> None:
    await shelf.finish()
    assert {"state", "result", "record", "counted", "list", "manifest", "package"} <= await shelf.kept()
    shelf.batch.state = BatchState.FINAL
    await shelf.write(shelf.batch)
    assert await shelf.kept() == {"manifest", "record", "package"}
    shelf.settings.keep_s = 0.0
    assert await shelf.kept() == set()


async def test_what_came_to_nothing_is_not_kept(shelf: Shelf) -> None:
    shelf.batch.state, shelf.batch.record = BatchState.DROPPED, None
    shelf.work.state = WorkState.LOST
    await shelf.write(shelf.job, shelf.batch, shelf.work)
    assert not {"state", "counted", "list"} & await shelf.kept()


async def test_a_cache_within_its_size_is_left_alone(shelf: Shelf) -> None:
    shelf.settings.cache_bytes = 1 << 20
    assert "stray" in await shelf.kept()
