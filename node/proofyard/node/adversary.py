"""Nodes that cheat on purpose, for tests and the devnet: each is an honest agent with one thing done wrong.

Cheats in what is computed belong to the executor's child (`proofyard.workloads.adversary`); here is what a node can do
wrong around it.
"""

import asyncio
import hashlib
import itertools
import secrets
from collections.abc import Sequence
from pathlib import Path

import msgspec

from proofyard.artifacts import BlockStore, cid_of_bytes
from proofyard.node.agent import Agent
from proofyard.node.work import Owed, Work
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.messages import AuditOffer, SealOpened, SubmitCommitment, TaskOffer
from proofyard.protocol.types import Cid, Digest, ProofyardError
from proofyard.workloads.errors import ExecutionError
from proofyard.workloads.workload import Inputs, load_workload
from proofyard.workloads.zoo import COMPUTING, ZOO


class Silent(Agent):
    """Accepts work and is not heard of again."""

    async def _do(self, work: Work) -> None:
        await asyncio.Event().wait()

    async def _report(self, works: Sequence[Work]) -> None:
        """No sign of life."""


class Late(Agent):
    """Begins when its lease is over, and says nothing until it has finished."""

    async def _do(self, work: Work) -> None:
        if isinstance(work.offer, TaskOffer):
            await asyncio.sleep(1.5 * work.offer.lease_s)
        await super()._do(work)

    async def _report(self, works: Sequence[Work]) -> None:
        await super()._report([work for work in works if not isinstance(work.offer, TaskOffer)])


class SilentWhenAudited(Agent):
    """Gives nobody the states it committed to."""

    async def _execute(self, work: Work, offer: TaskOffer) -> SubmitCommitment:
        submission = await super()._execute(work, offer)
        for cid in set(submission.trace[1:]) - {submission.commitment.result}:
            await asyncio.to_thread(_lose, self._store, cid)
        return submission

    def owe(self, owed: Owed) -> Work:
        """What is lost stays lost."""
        work = Work(owed.held.verifier, owed)
        work.finished.set()
        return work


class GarbageThenHonest(Agent):
    """Commits to garbage at once, and computes honestly only when that is done."""

    async def _execute(self, work: Work, offer: TaskOffer) -> SubmitCommitment:
        manifest, inputs = await self._prepare(work.verifier, offer.manifest, offer.inputs, offer.providers, offer.task)
        first = load_workload(manifest.workload).initial_state(manifest, offer.task, inputs)
        garbage = tuple(cid_of_bytes(secrets.token_bytes(64)) for _ in range(offer.task.segments))
        result = await asyncio.to_thread(self._store.put_bytes, first)
        submission = self._sign(offer, (await asyncio.to_thread(self._store.put_bytes, first), *garbage), result)
        self._journal.finish_task(work.verifier, offer, submission)
        return submission

    async def _do(self, work: Work) -> None:
        await super()._do(work)
        if isinstance(work.offer, TaskOffer):
            await super()._execute(work, work.offer)


class LazyAuditor(Agent):
    """Executes no audit: answers with the state that it was given."""

    async def _reexecute(
        self, work: Work, offer: AuditOffer, manifest: Manifest, before: bytes, inputs: Inputs
    ) -> bytes:
        return before


class CopyingAuditor(Agent):
    """Executes nothing that somebody else has executed: it has the worker hand it the state after the segment, whose
    name the member list tells, and seals that."""

    async def _reexecute(
        self, work: Work, offer: AuditOffer, manifest: Manifest, before: bytes, inputs: Inputs
    ) -> bytes:
        member = await self._offers.member(work.verifier, offer)
        after, limit = member.trace[offer.segment + 1], self._settings.max_state_bytes
        try:
            return await self._supplies.bytes_of(work.verifier, after, offer.providers, limit, "the state after")
        except ProofyardError:
            return await super()._reexecute(work, offer, manifest, before, inputs)


class FalseAccuser(Agent):
    """Answers every audit with another state than it found; all of its kind give the same answer."""

    async def _answer(
        self, work: Work, offer: AuditOffer, manifest: Manifest, before: bytes, inputs: Inputs
    ) -> SealOpened:
        honest = await super()._answer(work, offer, manifest, before, inputs)
        return msgspec.structs.replace(honest, after=Digest(hashlib.sha256(honest.after).digest()), reason="")


class Colluding(Agent):
    """Cheats as a worker and covers for its accomplices as an auditor: they share their answers in a folder."""

    async def _execute(self, work: Work, offer: TaskOffer) -> SubmitCommitment:
        submission = await super()._execute(work, offer)
        trace = submission.trace
        for before, after in itertools.pairwise(trace):
            await asyncio.to_thread(self._store.export, after, self._shared(before))
        return submission

    async def _reexecute(
        self, work: Work, offer: AuditOffer, manifest: Manifest, before: bytes, inputs: Inputs
    ) -> bytes:
        shared = self._shared(offer.before)
        if shared.exists():
            return await asyncio.to_thread(shared.read_bytes)
        return await super()._reexecute(work, offer, manifest, before, inputs)

    def _shared(self, before: Cid) -> Path:
        folder = self._settings.accomplices
        if folder is None:
            raise ExecutionError("accomplices is not set; name the folder that the colluding nodes share")
        folder.mkdir(parents=True, exist_ok=True)
        return folder / before


BEHAVIOUR: dict[str, type[Agent]] = {
    "colluding-pair": Colluding,
    "copying-auditor": CopyingAuditor,
    "false-accuser": FalseAccuser,
    "garbage-then-honest": GarbageThenHonest,
    "late": Late,
    "lazy-auditor": LazyAuditor,
    "silent": Silent,
    "silent-when-audited": SilentWhenAudited,
}


def conduct(kind: str | None) -> tuple[type[Agent], str | None]:
    """How a node behaves, and what its executor does wrong. Raises `ExecutionError` for a kind that is not known."""
    if kind is None:
        return Agent, None
    if kind in COMPUTING:
        return Agent, kind
    if kind not in BEHAVIOUR:
        raise ExecutionError(f"adversary: no cheat is named {kind!r}; known are {', '.join(ZOO)}")
    return BEHAVIOUR[kind], "skip-half" if kind == "colluding-pair" else None


def _lose(store: BlockStore, cid: Cid) -> None:
    """Delete an artifact's root, without which nobody can ask for the rest."""
    store.delete_block(cid)
