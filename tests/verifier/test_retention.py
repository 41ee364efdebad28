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
from proofyard.protocol.manifest import Manifest, TaskSpec, encode_manifest
from proofyard.protocol.members import Member, encode_members
from proofyard.protocol.types import Address, Cid, Digest, JobId, Signature, TaskIndex
from proofyard.verifier.context import Context
from proofyard.verifier.database import Batch, BatchState, Database, Job, JobState, Line, Task, TaskState
from proofyard.verifier.retention import tidy

ADDRESS = Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
NAMES = ("model", "data", "state", "result", "record", "counted", "package", "stray")


class Shelf:
    """A verifier with one settled job in its database, and one artifact of every kind in its store."""

    def __init__(self, folder: Path) -> None:
        store = BlockStore(folder / "blocks")
        self.clock = SimpleNamespace(now=100, claimable_at=160, settled_at=90)
        chain = SimpleNamespace(now=lambda: self.clock.now, batch=lambda _: self._batch())
        self.settings = SimpleNamespace(keep_s=1e12, cache_bytes=0)
        self.context = Context(
            *cast(Any, (self.settings, Wallet.generate(), Domain(1, ADDRESS), chain)),
            Database(f"sqlite:///{folder / 'verifier.db'}"),
            store,
            cast(Any, None),
        )
        self.cids: dict[str, Cid] = {name: store.put_bytes(name.encode()) for name in NAMES}
        manifest = Manifest(workload="lora", params={}, model=self.cids["model"], data=self.cids["data"])
        self.cids["manifest"] = store.put_bytes(encode_manifest(manifest))
        digest = Digest(bytes(32))
        commitment = Commitment(JobId(1), TaskIndex(0), ADDRESS, digest, digest, digest, 1, self.cids["result"], 1)
        member = Member(commitment, Signature(bytes(65)), (self.cids["state"],))
        with self.context.database.session() as session:
            terms = {"auditors_per_segment": 2, "segments_per_audit": 1, "deadline": 10}
            pay = {"reward": "1", "audit_fee": "1"}
            session.add(Job(id=1, requester="", units=1, manifest=self.cids["manifest"], **pay, **terms))
            session.flush()
            spec = TaskSpec(index=TaskIndex(0), kind="k")
            session.add(Task(job=1, index=0, spec=encode(spec), state=TaskState.VALID, result=self.cids["result"]))
            members, counted = encode_members([member]), [(2, self.cids["counted"])]
            self.cids["list"] = store.put_bytes(members)
            batch = Batch(id=1, root=digest, members=members, chain_id=1, record=self.cids["record"])
            batch.counted = encode(counted)
            session.add(batch)
            session.flush()
            session.add(Line(batch=1, job=1, units=1))

    def _batch(self) -> Any:
        return SimpleNamespace(
            settled_at=self.clock.settled_at, claimable_at=self.clock.claimable_at, open_challenges=0, voided=False
        )

    def finish(self) -> None:
        with self.context.database.session() as session:
            job, batch = session.get(Job, 1), session.get(Batch, 1)
            assert job is not None and batch is not None
            job.state, job.result = JobState.DONE, self.cids["package"]
            batch.state, batch.settled_at = BatchState.SETTLED, 90.0

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


async def test_a_running_job_keeps_what_it_needs_and_nothing_else_stays(shelf: Shelf) -> None:
    with shelf.context.database.session() as session:
        job = session.get(Job, 1)
        assert job is not None
        job.state = JobState.RUNNING
    assert await shelf.kept() == {"manifest", "model", "data", "state", "result", "record", "counted", "list"}


async def test_states_go_when_the_window_closes_and_the_rest_when_the_job_is_long_over(shelf: Shelf) -> None:
    shelf.finish()
    assert {"state", "result", "record", "counted", "list", "manifest", "package"} <= await shelf.kept()
    shelf.clock.now = 160
    assert await shelf.kept() == {"manifest", "record", "package"}
    shelf.settings.keep_s = 0.0
    assert await shelf.kept() == set()


async def test_a_cache_within_its_size_is_left_alone(shelf: Shelf) -> None:
    shelf.settings.cache_bytes = 1 << 20
    assert "stray" in await shelf.kept()
