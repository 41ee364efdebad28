"""Voters of a round over real QUIC on loopback, with BLS keys, stores and journals on disk, and results that a test
makes up and that are right by their workload's laws."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from proofyard.artifacts import BlockStore, cid_of_bytes, serve_blocks
from proofyard.chain import Wallet
from proofyard.chain.wallet import sign_commitment
from proofyard.node.journal import Journal
from proofyard.node.rounds.ballot import Ballot, next_ballot
from proofyard.node.rounds.course import Course, VotedJob
from proofyard.node.rounds.messages import ShownDelta
from proofyard.node.rounds.service import Rounds
from proofyard.node.rounds.voter import RoundVoter
from proofyard.protocol.certificate import Deltas
from proofyard.protocol.cid import cid_bytes, cid_digest, raw_cid
from proofyard.protocol.commitment import Commitment, Domain
from proofyard.protocol.manifest import Manifest, TaskSpec, encode_manifest
from proofyard.protocol.mark import mark_of
from proofyard.protocol.merkle import root
from proofyard.protocol.messages import SubmitCommitment
from proofyard.protocol.roster import Roster, roster_of
from proofyard.protocol.types import Address, Cid, Digest, JobId, TaskIndex
from proofyard.transport import Connection, Endpoint, PeerUnreachable
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.workload import Inputs

DOMAIN = Domain(31337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))
JOB = JobId(7)
SEED = b"s" * 32
COUNT = 4
MANIFEST = Manifest(
    workload="lora",
    model=raw_cid(b"model"),
    data=raw_cid(b"data"),
    params={
        "modules": {"m": (4, 4)},
        "rank": 2,
        "alpha": 1.0,
        "lr": 0.1,
        "rounds": 3,
        "workers": COUNT,
        "segments": 1,
        "segment_steps": 1,
        "batch": 1,
        "seq_len": 8,
        "outer": "none",
        "closing": {"quorum": 2, "timeout_s": 100},
    },
)
MANIFEST_CID = raw_cid(encode_manifest(MANIFEST))
WALLETS = {wallet.address: wallet for wallet in (Wallet.from_key(bytes([number]) * 32) for number in range(1, 5))}
Made = tuple[ShownDelta, tuple[bytes, ...]]
"""A result with its commitment, and the artifacts that it stands for."""


@cache
def roster() -> Roster:
    return roster_of([wallet.as_voter(1) for wallet in WALLETS.values()])


def ballot(sets: Sequence[Deltas] = ()) -> Ballot:
    return next_ballot(DOMAIN, JOB, MANIFEST_CID, MANIFEST, roster(), sets)


def leaders(of: Ballot) -> tuple[Address, ...]:
    return roster().leaders(SEED, of.round.digest)


def task_of(of: Ballot, worker: Address) -> TaskIndex:
    """Each voter has one in each round."""
    (task,) = [TaskIndex(task) for task in of.terms.tasks if of.worker(TaskIndex(task)) == worker]
    return task


def made(
    of: Ballot, task: int, results: Sequence[bytes] = (), *, by: float = 0.01, signer: Wallet | None = None
) -> Made:
    """What the task's worker, or another `signer`, hands over: an adapter that is `by` farther than its start."""
    index = TaskIndex(task)
    result, *states = computed(of.specs[index], results, by)
    return signed(of, index, signer or WALLETS[of.worker(index)], result, states)


def computed(spec: TaskSpec, results: Sequence[bytes], by: float, seed: int = 0) -> tuple[bytes, bytes, bytes]:
    """Result, first and last state; with a `seed` that is not the job's it begins with what it should not."""
    manifest = replace(MANIFEST, seed=seed)
    first = WORKLOAD.initial_state(manifest, spec, Inputs(results=tuple(results)))
    tensors = dict(decode_state(first))
    for name in [name for name in tensors if name.startswith("adapter.")]:
        tensors[name] = tensors[name] + np.float32(by)
    last = encode_state(tensors | {"step": np.array(1, np.int64)})
    return WORKLOAD.result(MANIFEST, spec, lambda number: (first, last)[number]), first, last


def signed(of: Ballot, task: TaskIndex, wallet: Wallet, result: bytes, states: Sequence[bytes]) -> Made:
    """A commitment to whatever it is."""
    submission = committed(of.specs[task], wallet, of.inputs[task], result, states)
    shown = ShownDelta(of.round.digest, submission.commitment, submission.signature, submission.trace)
    return shown, (result, *states)


def committed(
    spec: TaskSpec, wallet: Wallet, inputs: Digest, result: bytes, states: Sequence[bytes]
) -> SubmitCommitment:
    trace = tuple(map(cid_of_bytes, states))
    commitment = Commitment(
        job=JOB,
        task=spec.index,
        node=wallet.address,
        manifest=cid_digest(MANIFEST_CID),
        inputs=inputs,
        trace_root=root([cid_bytes(cid) for cid in trace]),
        segments=spec.segments,
        result=cid_of_bytes(result),
        work_units=spec.work_units,
        mark=mark_of(bytes(32), decoy=False),
    )
    return SubmitCommitment(commitment, sign_commitment(DOMAIN, commitment, wallet), trace, bytes(32))


@dataclass
class Town:
    """`places`: where everybody is; who is not in it is not reached."""

    folder: Path
    stack: AsyncExitStack
    places: dict[Address, Endpoint] = field(default_factory=dict)

    async def endpoint(self, node: Address) -> Endpoint:
        """Of a voter that the test plays itself."""
        endpoint = Endpoint(WALLETS[node], network=DOMAIN)
        self.places[node] = await self.stack.enter_async_context(endpoint)
        return endpoint

    async def node(self, node: Address) -> "Node":
        endpoint = await self.endpoint(node)
        found = Node(self, node, endpoint, self.folder / node)
        self.stack.push_async_callback(found.close)
        return found

    async def reach(self, endpoint: Endpoint, node: Address) -> Connection:
        to = self.places.get(node)
        if to is None:
            raise PeerUnreachable(node, 0, "it is away")
        return await endpoint.connect(to.host, to.port, expect=node)


class Node:
    """Of a node the parts that vote."""

    def __init__(self, town: Town, address: Address, endpoint: Endpoint, folder: Path) -> None:
        self.town, self.address, self.endpoint = town, address, endpoint
        self.store = BlockStore(folder / "blocks")
        self.journal = Journal(folder / "node.db")
        serve_blocks(endpoint, self.store)
        self.tasks: list[TaskIndex] = []
        """What it was asked to do."""
        self.may_work = asyncio.Event()
        self.may_work.set()
        self.units_paid = 0
        self.rounds = Rounds(
            *(WALLETS[address], endpoint, self.store, self.journal),
            reach=lambda node: town.reach(endpoint, node),
            max_bytes=1 << 20,
        )

    def begin(self, of: Ballot, *, timeout_s: float = 60.0, closes_s: float = 600.0) -> RoundVoter:
        return self.rounds.begin(of, seed=SEED, timeout_s=timeout_s, closes_s=closes_s)

    def finish(self, voter: RoundVoter, results: Sequence[bytes] = ()) -> bytes:
        """Do this node's task; returns the result."""
        of = voter.ballot
        shown, artifacts = made(of, task_of(of, self.address), results)
        for data in artifacts:
            self.store.put_bytes(data)
        voter.finish(shown)
        return artifacts[0]

    def time_is_up(self, voter: RoundVoter) -> None:
        """The round may close, when the test says so and not when a clock does."""
        voter._events.put_nowait((None, voter._machine.close))

    def course(self, *, timeout_s: float = 60.0) -> Course:
        """All rounds of the job."""
        voted = VotedJob(DOMAIN, JOB, MANIFEST_CID, MANIFEST, roster(), SEED)
        return Course(voted, self.address, self.rounds, self.do, self.paid, timeout_s=timeout_s)

    async def paid(self) -> int:
        """The units that the test says are paid."""
        return self.units_paid

    async def do(self, spec: TaskSpec, inputs: tuple[Cid, ...]) -> SubmitCommitment:
        """Execute a task as far as this test does."""
        self.tasks.append(spec.index)
        await self.may_work.wait()
        results = [self.store.get_bytes(cid) for cid in inputs]
        artifacts = computed(spec, results, 0.01 * (spec.index + 1))
        for data in artifacts:
            self.store.put_bytes(data)
        result, *states = artifacts
        rests_on = root([cid_bytes(MANIFEST_CID), *map(cid_bytes, inputs)])
        return committed(spec, WALLETS[self.address], rests_on, result, states)

    async def close(self) -> None:
        await self.rounds.close()
        self.journal.close()

    async def die(self) -> None:
        await self.close()
        await self.town.places.pop(self.address).close()


@asynccontextmanager
async def town_in(folder: Path) -> AsyncIterator[Town]:
    async with AsyncExitStack() as stack:
        yield Town(folder, stack)
