"""Nodes that compute nothing and behave like real ones: they queue, decline, fall silent, and seal what is right."""

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, cast

from stage import Verifier

from proofyard.artifacts import cid_of_bytes
from proofyard.chain import Wallet
from proofyard.protocol.cid import cid_bytes, cid_digest
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.mark import mark_of, opening_of
from proofyard.protocol.merkle import root
from proofyard.protocol.messages import Ack, AuditOffer, OpenSeal, SealOpened, SubmitCommitment, SubmitSeal, TaskOffer
from proofyard.protocol.seal import keyed_digest, seal_of, seal_struct_hash
from proofyard.protocol.types import Cid, JobId, TaskIndex
from proofyard.transport import RequestFailed
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.workload import Results

SEGMENTS = 4


class Counting:
    """A workload of independent tasks whose states are their names."""

    name, exact, arithmetic = "lora", True, False

    def __init__(self, tasks: int) -> None:
        self._tasks = tasks

    def check(self, manifest: Manifest) -> None:
        """Everything fits."""

    def graph(self, manifest: Manifest) -> Sequence[TaskSpec]:
        return [TaskSpec(index=TaskIndex(i), kind="count", segments=SEGMENTS) for i in range(self._tasks)]

    def initial_state(self, manifest: Manifest, task: TaskSpec, inputs: Any) -> bytes:
        return state(task.index, 0)

    def check_state(self, manifest: Manifest, task: TaskSpec, number: int, found: bytes) -> None:
        if not found.startswith(b"state"):
            raise StateRefused("it is none")

    def check_result(
        self, manifest: Manifest, task: TaskSpec, result: bytes, last: bytes, trace: Sequence[Cid]
    ) -> None:
        if result != b"result of " + last:
            raise StateRefused("it is another one")

    def finals(self, manifest: Manifest) -> Sequence[TaskIndex]:
        return [TaskIndex(self._tasks - 1)]

    def package(self, manifest: Manifest, results: Results, dest: Path) -> Path:
        dest.mkdir()
        (dest / "result").write_bytes(b"".join(map(results, self.finals(manifest))))
        return dest


def state(task: int, number: int) -> bytes:
    return b"state %d of task %d" % (number, task)


class SimulatedNode:
    """One honest node. `queue` audits fit into it at a time; `silence` is how often it forgets one, of 1."""

    def __init__(self, verifier: Verifier, wallet: Wallet, *, queue: int, silence: float, seed: int) -> None:
        self.wallet, self.peer, self.name = wallet, wallet.address, wallet.address
        self.remote = ("127.0.0.1", 1)
        self._verifier, self._queue, self._silence = verifier, queue, silence
        self._random = random.Random(seed)
        self._audits, self._task = 0, False
        self._openings: dict[tuple[int, ...], SealOpened] = {}
        self._states: dict[Cid, bytes] = {}
        self._work: set[asyncio.Task[None]] = set()

    async def blocks(self, cids: Sequence[Cid]) -> AsyncGenerator[tuple[Cid, bytes | None], None]:
        for cid in cids:
            yield cid, self._states.get(cid)

    async def lacks(self, cids: Sequence[Cid]) -> list[Cid]:
        return [cid for cid in cids if cid not in self._states]

    async def request(self, message: Any, *, reply: type, timeout: float) -> Any:
        await asyncio.sleep(0)
        if isinstance(message, OpenSeal):
            place = (message.batch, message.job, message.task, message.segment)
            if place not in self._openings:
                raise RequestFailed("no-seal", "no seal was given")
            return self._openings[place]
        if isinstance(message, TaskOffer):
            if self._task:
                return Ack(False, "busy with another task")
            self._task = True
            self._begin(self._execute(message))
        elif isinstance(message, AuditOffer):
            if self._random.random() < self._silence / 2:
                raise RequestFailed("deadline", "no answer")
            if self._audits >= self._queue:
                return Ack(False, "busy with other audits")
            self._audits += 1
            self._begin(self._audit(message))
        return Ack()

    def _begin(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _execute(self, offer: TaskOffer) -> None:
        await asyncio.sleep(self._random.random() * 0.01)
        states = [state(offer.task.index, number) for number in range(offer.task.segments + 1)]
        result = b"result of " + states[-1]
        for each in (*states, result, opening_of(bytes(32), decoy=False)):
            self._states[cid_of_bytes(each)] = each
        trace = tuple(map(cid_of_bytes, states))
        commitment = Commitment(
            job=JobId(offer.job),
            task=offer.task.index,
            node=self.peer,
            manifest=cid_digest(offer.manifest),
            inputs=root([cid_bytes(offer.manifest)]),
            trace_root=root([cid_bytes(cid) for cid in trace]),
            segments=offer.task.segments,
            result=cid_of_bytes(result),
            work_units=1,
            mark=mark_of(bytes(32), decoy=False),
        )
        signature = self.wallet.sign_digest(self._verifier.context.domain.typed_digest(commitment.struct_hash()))
        self._task = False
        message = SubmitCommitment(commitment, signature, trace, bytes(32))
        await self._verifier.desk.submit_commitment(cast(Any, self), message, cast(Any, None))

    async def _audit(self, offer: AuditOffer) -> None:
        await asyncio.sleep(self._random.random() * 0.02)
        self._audits -= 1
        if self._random.random() < self._silence:
            return
        place = (offer.batch, offer.job, offer.task.index, offer.segment)
        after = state(offer.task.index, offer.segment + 1)
        keyed = keyed_digest(offer.seed, self.peer, after)
        opened = SealOpened(cid_digest(cid_of_bytes(after)), keyed, "", bytes(32))
        self._openings[place] = opened
        seal = seal_of(opened.opening(), self.peer)
        signature = self.wallet.sign_digest(
            self._verifier.context.domain.typed_digest(seal_struct_hash(*place, self.peer, seal))
        )
        await self._verifier.desk.submit_seal(cast(Any, self), SubmitSeal(*place, seal, signature), cast(Any, None))
