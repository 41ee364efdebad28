"""Which jobs a node votes in: those whose roster has it, and that its operator wants."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from proofyard.artifacts import ArtifactUnavailable
from proofyard.chain import Wallet
from proofyard.chain.events import JobOpened, Position
from proofyard.node.limits import OfferRefused
from proofyard.node.news import News
from proofyard.node.rounds import courses
from proofyard.node.rounds.courses import Courses
from proofyard.protocol import closing
from proofyard.protocol.bls import BlsSignature
from proofyard.protocol.certificate import Certificate, Delta, Phase
from proofyard.protocol.cid import cid_digest, raw_cid
from proofyard.protocol.commitment import Domain
from proofyard.protocol.manifest import Manifest, encode_manifest
from proofyard.protocol.messages import TaskOffer
from proofyard.protocol.types import Address, Cid, Digest, JobId
from proofyard.protocol.workload_bits import workload_bit
from proofyard.workloads.workload import all_tasks, load_workload

ME, OTHER = (Wallet.from_key(bytes([number]) * 32) for number in (1, 2))
VOTERS = tuple(sorted((ME.as_voter(1), OTHER.as_voter(1)), key=lambda voter: bytes.fromhex(voter.node[2:])))
JOB = JobId(7)
WORKERS = 2


def manifest(*voters: Any) -> Manifest:
    params = {
        "modules": {"m": (4, 4)},
        "rank": 2,
        "alpha": 1.0,
        "lr": 0.1,
        "rounds": 2,
        "workers": WORKERS,
        "segments": 1,
        "segment_steps": 1,
        "batch": 1,
        "seq_len": 8,
        "outer": "none",
        "closing": {"quorum": 1, "timeout_s": 60, "voters": msgspec.to_builtins(voters)},
    }
    return Manifest(workload="lora", model=raw_cid(b"model"), data=raw_cid(b"data"), params=params)


class World:
    """A chain with one job, and a node that has no rounds of its own."""

    domain = Domain(31337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))
    first_block = 0

    def __init__(self, said: Manifest) -> None:
        self.manifest = said
        self.cid = raw_cid(encode_manifest(said))
        self.here, self.over, self.refuses = True, False, ""
        self.introduced, self.block = True, 1
        self.looks = 0
        self.left: list[JobId] = []
        self.paused: list[JobId] = []
        self.reads = 0
        self.done: Any = None
        self.asked: list[TaskOffer] = []
        parts: Any = (ME, self, self, self.allow, self.do, self.read, self, ("lora",), News())
        self.courses = Courses(*parts)

    def opened(self, *, since: int) -> list[Any]:
        """Only since the block of the job, which a look is told of again and again."""
        self.looks += 1
        if self.block < since:
            return []
        place = Position(self.block, Digest(bytes([self.block]) * 32), 0)
        parts: Any = (place, JOB, ME.address, cid_digest(self.cid), 1, 1, 1, 4, 99, 2, 1, workload_bit("lora"))
        return [JobOpened(*parts)] if self.block else []

    def turn(self, block: int, said: Manifest) -> None:
        """Another block has the job's number."""
        self.manifest, self.cid, self.block = said, raw_cid(encode_manifest(said)), block

    def introduce(self) -> None:
        self.introduced = True

    def block_number(self) -> int:
        return 10

    def block_hash(self, _block: int) -> Digest:
        return Digest(bytes(32))

    def job(self, _job: JobId) -> Any:
        digest = cid_digest(self.cid)
        paid = 1 if self.over else 0
        return SimpleNamespace(
            manifest=digest, open_block=1, units=1, units_paid=paid, commits_end=lambda receipt_time: receipt_time
        )

    def params(self) -> Any:
        return SimpleNamespace(receipt_time=100)

    def now(self) -> int:
        return 50

    async def leave(self, job: JobId) -> None:
        self.left.append(job)

    async def pause(self, job: JobId) -> None:
        self.paused.append(job)

    async def close(self) -> None: ...

    async def read(self, cid: Cid, _max_bytes: int) -> bytes:
        self.reads += 1
        if not self.here:
            raise ArtifactUnavailable(cid, 1, [])
        return encode_manifest(self.manifest)

    async def allow(self, offer: TaskOffer) -> None:
        self.asked.append(offer)
        if self.refuses:
            raise OfferRefused("the job's reward", self.refuses)

    async def do(self, offer: TaskOffer) -> Any:
        raise AssertionError

    def submission(self, *_: Any) -> Any:
        return self.done


class Still:
    """A course that decides what the test says."""

    certificate: Certificate | None = None

    def __init__(self, *_: Any, **__: Any) -> None: ...

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def taken(self, *_: Any) -> Certificate | None:
        return self.certificate


@pytest.fixture
async def tasks(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[asyncio.Task[None]]]:
    monkeypatch.setattr(courses, "LOOK_S", 0.01)
    monkeypatch.setattr(courses, "OVER_S", 0.01)
    monkeypatch.setattr(courses, "Course", Still)
    begun: list[asyncio.Task[None]] = []
    yield begun
    for task in begun:
        task.cancel()
    await asyncio.gather(*begun, return_exceptions=True)


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_node_votes_in_a_job_whose_roster_has_it_until_that_is_over(tasks: Any) -> None:
    world = World(manifest(*VOTERS))
    world.here = False
    tasks.append(asyncio.create_task(world.courses.run()))
    await until(lambda: world.reads > 2)
    assert not world.courses.votes_in(JOB), "nobody has the manifest yet"
    world.here = True
    await until(lambda: world.courses.votes_in(JOB))
    (own,) = [place for place, voter in enumerate(VOTERS) if voter.node == ME.address]
    assert [offer.task.index for offer in world.asked] == [own], "its operator was asked about its own shard"
    world.over = True
    await until(lambda: world.left == [JOB])
    await until(lambda: not world.courses.votes_in(JOB))


@pytest.mark.parametrize("why", ["another's", "refused", "strange key", "over", "by the chain"])
async def test_a_job_that_is_not_this_nodes_to_vote_in_is_left_alone(tasks: Any, why: str) -> None:
    strange = msgspec.structs.replace(VOTERS[0], possession=BlsSignature(bytes(96)))
    of = {"another's": (OTHER.as_voter(1),), "strange key": (strange, VOTERS[1]), "by the chain": ()}
    world = World(manifest(*of.get(why, VOTERS)))
    world.refuses = "is too little" if why == "refused" else ""
    world.over = why == "over"
    tasks.append(asyncio.create_task(world.courses.run()))
    await until(lambda: world.courses._seen and not world.courses._wanted)
    assert not world.courses.votes_in(JOB)
    reads = world.reads
    await asyncio.sleep(0.1)
    assert world.reads == reads, "it is looked at once"


async def test_who_others_voters_are_is_not_looked_at(tasks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proofs of 128 voters take a minute, and anybody opens jobs that name them."""
    looked_at: list[Any] = []
    monkeypatch.setattr(closing, "roster_of", looked_at.append)
    world = World(manifest(OTHER.as_voter(3)))
    tasks.append(asyncio.create_task(world.courses.run()))
    await until(lambda: world.courses._seen and not world.courses._wanted)
    assert world.reads and not looked_at


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_job_that_takes_anothers_number_is_looked_at_for_itself(tasks: Any, comes_back: bool) -> None:
    world = World(manifest(*VOTERS))
    tasks.append(asyncio.create_task(world.courses.run()))
    await until(lambda: world.courses.votes_in(JOB))
    world.turn(2, manifest(OTHER.as_voter(1)))  # the chain went back, and another job has the number
    await until(lambda: world.paused == [JOB] and not world.courses._wanted)
    assert not world.courses.votes_in(JOB) and not world.left, "what was signed in the first job is kept"
    again = manifest(*VOTERS)
    world.turn(3, again if comes_back else msgspec.structs.replace(again, seed=again.seed + 1))
    await until(lambda: world.courses.votes_in(JOB))
    assert not world.left, "a round names its manifest: what was signed in either job is of no use in the other"
    world.block = 0
    await until(lambda: not world.courses.votes_in(JOB) and not world.courses._wanted)
    await until(lambda: world.paused == [JOB, JOB])


async def test_jobs_are_forgotten_once_the_chain_cannot_go_back_to_them(tasks: Any) -> None:
    world = World(manifest(OTHER.as_voter(1)))
    tasks.append(asyncio.create_task(world.courses.run()))
    await until(lambda: world.courses._seen)
    world.first_block = world.block + 1
    await until(lambda: not world.courses._seen)


async def test_a_node_whose_key_nobody_asked_for_looks_for_no_jobs(tasks: Any) -> None:
    world = World(manifest(*VOTERS))
    world.introduced = False
    tasks.append(asyncio.create_task(world.courses.run()))
    await asyncio.sleep(0.1)
    assert not world.looks and not world.reads
    (own,) = [place for place, voter in enumerate(VOTERS) if voter.node == ME.address]
    spec = all_tasks(load_workload("lora"), world.manifest)[own]
    coming = world.courses.voted(TaskOffer(JOB, world.cid, spec, (), (), 15.0), world.manifest)
    assert coming is not None
    tasks.append(asyncio.ensure_future(coming))
    await until(lambda: world.courses.votes_in(JOB))
    assert world.introduced, "an offer shows that a roster has it, though this disk does not know"


async def test_a_verifiers_offer_of_this_nodes_task_waits_for_the_round_that_takes_it(
    tasks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(manifest(*VOTERS))
    specs = all_tasks(load_workload("lora"), world.manifest)
    (own,) = [place for place, voter in enumerate(VOTERS) if voter.node == ME.address]
    offers = [TaskOffer(JOB, world.cid, spec, (), (), 15.0) for spec in specs]
    assert world.courses.voted(offers[1 - own], world.manifest) is None, "another's"
    assert world.courses.voted(offers[own], manifest()) is None, "times decide"
    coming = world.courses.voted(offers[own], world.manifest)
    assert coming is not None
    waiting = asyncio.ensure_future(coming)
    tasks.append(waiting)
    delta = Delta(specs[own].index, raw_cid(b"result"))
    certificate = Certificate(Phase.COMMIT, 1, (delta,), b"\3", BlsSignature(bytes(96)))
    monkeypatch.setattr(Still, "certificate", certificate)

    class Done(msgspec.Struct, frozen=True):
        commitment: Any
        certificate: Certificate | None = None

    world.done = Done(SimpleNamespace(result=raw_cid(b"result")))
    tasks.append(asyncio.create_task(world.courses.run()))
    found: Any = await asyncio.wait_for(waiting, 60)
    assert found == Done(world.done.commitment, certificate)
    world.done = Done(SimpleNamespace(result=raw_cid(b"another")))
    again = world.courses.voted(offers[own], world.manifest)
    assert again is not None and await again is None, "what a round took is another one's word"
