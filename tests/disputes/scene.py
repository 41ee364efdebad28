"""A committed batch of one task whose states, result and re-execution are given, so that each case is exact."""

from pathlib import Path
from typing import Any

import numpy as np

from proofyard.artifacts import cid_of_bytes
from proofyard.disputes.committed import Committed
from proofyard.disputes.errors import StateWithheld
from proofyard.disputes.replaying import Replayed, Replayer
from proofyard.protocol.cid import cid_bytes, cid_digest, raw_cid
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.mark import mark_of
from proofyard.protocol.members import Member, members_root
from proofyard.protocol.merkle import root
from proofyard.protocol.settlement import Header
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, SegmentIndex, Signature, TaskIndex
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.workload import Inputs

MANIFEST = Manifest(
    workload="lora",
    model=raw_cid(b"model"),
    data=raw_cid(b"data"),
    params={
        "modules": {"m": (4, 4)},
        "rank": 2,
        "alpha": 1.0,
        "lr": 0.1,
        "rounds": 1,
        "workers": 1,
        "segments": 2,
        "segment_steps": 1,
        "batch": 1,
        "seq_len": 8,
    },
)
WORKER = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
MANIFEST_CID = raw_cid(b"manifest")
SPECS = tuple(WORKLOAD.graph(MANIFEST))
JOB, TASK = JobId(1), TaskIndex(0)
FIRST = WORKLOAD.initial_state(MANIFEST, SPECS[0], Inputs())


def moved(state: bytes, by: float, *, done: int) -> bytes:
    """A state whose adapter is `by` farther, after `done` steps; before the first one it is the base as well."""
    tensors = dict(decode_state(state))
    moving = ("adapter.",) if done else ("adapter.", "base.")
    for name in [name for name in tensors if name.startswith(moving)]:
        tensors[name] = tensors[name] + np.float32(by)
    return encode_state(tensors | {"step": np.array(done, np.int64)})


SECOND = moved(FIRST, 0.01, done=1)
THIRD = moved(SECOND, 0.01, done=2)


class Scene:
    """A batch of one task with these states and result; `answers` are what executing its segments gives here: a state,
    or an error. `lists` are the batches of its job that can be found, for a task's inputs."""

    max_state_bytes = 1 << 30

    def __init__(
        self,
        states: list[bytes],
        result: bytes,
        answers: list[bytes | Exception],
        inputs: tuple[Cid, ...] = (),
        node: Address = WORKER,
        manifest: Manifest = MANIFEST,
    ) -> None:
        self.states, self.answers = {cid_of_bytes(state): state for state in states}, answers
        self.results = {cid_of_bytes(result): result}
        self.at_home: dict[Cid, Path] = {}
        self.computed_on: list[Path | None] = []
        trace = tuple(cid_of_bytes(state) for state in states)
        commitment = Commitment(
            job=JOB,
            task=TASK,
            node=node,
            manifest=cid_digest(MANIFEST_CID),
            inputs=root([cid_bytes(MANIFEST_CID), *map(cid_bytes, inputs)]),
            trace_root=root([cid_bytes(cid) for cid in trace]),
            segments=2,
            result=cid_of_bytes(result),
            work_units=1,
            mark=mark_of(bytes(32), decoy=False),
        )
        self.member = Member(commitment, Signature(b""), trace)
        header = Header(members_root([self.member]), 1, Digest(bytes(32)), ())
        self.committed = Committed(
            BatchId(1), raw_cid(b"record"), header, {JOB: manifest}, {JOB: SPECS}, (self.member,)
        )
        chain: Any = None
        network: Any = self
        self.replayer = Replayer(self.committed, chain, network, self, patience_s=0)

    async def state(self, record: Cid | None, member: Member, number: int, patience_s: float, *_: int) -> bytes:
        found = self.states.get(member.trace[number])
        if found is None:
            raise StateWithheld(*member.key, number, ["nobody has it"])
        return found

    async def result(self, member: Member, patience_s: float, *_: int) -> bytes:
        if member.commitment.result not in self.results:
            raise StateWithheld(*member.key, len(member.trace), ["nobody has it"])
        return self.results[member.commitment.result]

    async def read(self, cid: Cid, max_bytes: int) -> bytes:
        return {**self.results, **self.states}[cid]

    def local(self, cid: Cid) -> Path | None:
        return self.at_home.get(cid)

    async def on_disk(self, cid: Cid) -> Path:
        return Path(cid)

    async def run_segment(self, manifest: Manifest, task: Any, index: int, before: bytes, inputs: Inputs) -> bytes:
        self.computed_on.append(inputs.data)
        answer = self.answers[index]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def replay(self, segment: int) -> Replayed:
        return await self.replayer.segment(JOB, TASK, SegmentIndex(segment))


def result_of(last: bytes) -> bytes:
    return WORKLOAD.result(MANIFEST, SPECS[0], lambda _: last)
