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
from proofyard.protocol.messages import (
    Ack,
    Acks,
    AuditOffer,
    AuditOffers,
    CancelTasks,
    OpenSeal,
    OpenSeals,
    SealOpened,
    SealsOpened,
    SubmitCommitment,
    SubmitCommitments,
    SubmitSeal,
    SubmitSeals,
    TaskOffer,
    TaskOffers,
)
from proofyard.protocol.seal import keyed_digest, seal_of, seal_struct_hash
from proofyard.protocol.types import Cid, JobId, TaskIndex
from proofyard.transport import RequestFailed
from proofyard.verifier.runner import InternalError
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.workload import Results

SEGMENTS = 4
TRIES = 100


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

    def max_bytes(self, manifest: Manifest, task: TaskSpec) -> int:
        return 1 << 20

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
    """One honest node. `queue` audits and `held` tasks fit into it at a time; `silence` is how often it forgets an
    audit, of 1."""

    def __init__(
        self, verifier: Verifier, wallet: Wallet, *, queue: int, silence: float, seed: int, held: int = 2
    ) -> None:
        self.wallet, self.peer, self.name = wallet, wallet.address, wallet.address
        self.remote, self.subnet = ("127.0.0.1", 1), "127.0.0.1:1"
        self._verifier, self._queue, self._silence, self._held = verifier, queue, silence, held
        self._random = random.Random(seed)
        self._audits, self._tasks = 0, 0
        self._openings: dict[tuple[int, ...], SealOpened] = {}
        self._states: dict[Cid, bytes] = {}
        self._work: set[asyncio.Task[None]] = set()
        self.closed = asyncio.Event()

    async def blocks(self, cids: Sequence[Cid]) -> AsyncGenerator[tuple[Cid, bytes | None], None]:
        for cid in cids:
            yield cid, self._states.get(cid)

    async def lacks(self, cids: Sequence[Cid]) -> list[Cid]:
        return [cid for cid in cids if cid not in self._states]

    async def request(self, message: Any, *, reply: type, timeout: float) -> Any:
        await asyncio.sleep(0)
        match message:
            case OpenSeal():
                opened = self._opened(message)
                if opened is None:
                    raise RequestFailed("no-seal", "no seal was given")
                return opened
            case OpenSeals():
                return SealsOpened(tuple(self._opened(seal) for seal in message.seals))
            case TaskOffers():
                return Acks(tuple(self._take_task(offer) for offer in message.offers))
            case CancelTasks():
                return Acks((Ack(),) * len(message.tasks))
            case AuditOffers():
                if self._random.random() < self._silence / 2:
                    raise RequestFailed("deadline", "no answer")
                return Acks(tuple(self._take_audit(offer) for offer in message.offers))
        raise AssertionError(message)

    def _opened(self, seal: OpenSeal) -> SealOpened | None:
        return self._openings.get((seal.batch, seal.job, seal.task, seal.segment))

    def _take_task(self, offer: TaskOffer) -> Ack:
        if self._tasks >= self._held:
            return Ack(False, "busy with other tasks")
        self._tasks += 1
        self._begin(self._execute(offer))
        return Ack()

    def _take_audit(self, offer: AuditOffer) -> Ack:
        if self._audits >= self._queue:
            return Ack(False, "busy with other audits")
        self._audits += 1
        self._begin(self._audit(offer))
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
        self._tasks -= 1
        message = SubmitCommitments((SubmitCommitment(commitment, signature, trace, bytes(32)),))
        await self._deliver(self._verifier.desk.submit_commitments, message)

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
            self._verifier.context.domain.typed_digest(seal_struct_hash(*place, offer.seed, self.peer, seal))
        )
        message = SubmitSeals((SubmitSeal(*place, offer.seed, seal, signature),))
        await self._deliver(self._verifier.desk.submit_seals, message)

    async def _deliver(self, handler: Any, message: Any) -> None:
        """Until it is taken, as a courier does."""
        for _ in range(TRIES):
            try:
                found = await handler(cast(Any, self), message, cast(Any, None))
            except InternalError:
                found = None
            if found is not None and not any(getattr(answer, "code", "") == "busy" for answer in found.answers):
                return
            await asyncio.sleep(0.05)
