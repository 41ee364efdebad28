"""Where the evidence of a dispute comes from: the active verifiers, and through them the workers behind home routers.

A worker dials its verifiers and is dialled by nobody, so whoever wants one of its states asks a verifier to fetch it
(`ObtainState`) and takes it from there. Every block is checked against its CID, whoever sent it.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from proofyard.artifacts import ArtifactError, ArtifactTooLarge, ArtifactUnavailable, BlockStore, CorruptArtifact, fetch
from proofyard.chain import ChainClient
from proofyard.disputes.errors import StateWithheld
from proofyard.protocol.mark import SALT_BYTES, mark_cid
from proofyard.protocol.members import Member
from proofyard.protocol.messages import Ack, ObtainState
from proofyard.protocol.types import Address, Cid
from proofyard.transport import Connection, Endpoint, TransportError
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.state import MAX_STATE_BYTES

logger = logging.getLogger(__name__)

MAX_INPUT_BYTES = 64 << 30
"""Content when it is written out, like `MAX_STATE_BYTES`; an operator may set less."""
OBTAIN_S, MIN_OBTAIN_S = 300.0, 5.0
"""A verifier's time to fetch a state from its worker."""
RETRY_S = 1.0


READ_S = 30.0
"""One attempt at a record or a list takes no longer: what came stays, so whoever has more patience asks again. A juror
that waited for somebody's trickle would miss its vote."""


class Network:
    """Artifacts for replaying. `store` keeps what is fetched, `folder` large inputs as files. What is larger than
    `max_state_bytes`, or an input than `max_input_bytes`, is refused before it is fetched whole or written out. `local`
    finds files that nobody publishes, by their CIDs, where they are here."""

    def __init__(
        self,
        chain: ChainClient,
        endpoint: Endpoint,
        store: BlockStore,
        folder: Path,
        *,
        max_state_bytes: int = MAX_STATE_BYTES,
        max_input_bytes: int = MAX_INPUT_BYTES,
        local: Callable[[Cid], Path | None] = lambda _: None,
    ) -> None:
        self.local = local
        self.max_state_bytes = max_state_bytes
        self._max_input_bytes = max_input_bytes
        self._chain = chain
        self._endpoint = endpoint
        self._store = store
        self._folder = folder

    async def read(self, cid: Cid, max_bytes: int) -> bytes:
        """A file artifact of at most `max_bytes`. Raises `ArtifactError`."""
        await self._fetch(cid, await self._verifiers(cid), max_bytes, READ_S)
        return await asyncio.to_thread(self._store.get_bytes, cid, max_bytes=max_bytes)

    async def on_disk(self, cid: Cid) -> Path:
        """A large input as a file or directory, used in place where it is linked."""
        local = self._store.local_path(cid)
        if local is not None:
            return local
        await self._fetch(cid, await self._verifiers(cid), self._max_input_bytes)
        return await asyncio.to_thread(self._store.export, cid, self._folder / cid, self._max_input_bytes)

    async def state(
        self, record: Cid | None, member: Member, number: int, patience_s: float, most: int = MAX_STATE_BYTES
    ) -> bytes:
        """State `number` of a committed task, from whoever has it; a worker may have to compute it again first.
        `record` is that of its batch, by which a verifier finds the worker.

        After `patience_s` it raises `StateWithheld` if some verifier could be asked and could not get it either, and
        `ArtifactUnavailable` if none could: that may be this machine's own line. Raises `StateRefused` for what is no
        file or larger than `most`, the bytes that its workload can make, and `ArtifactTooLarge` for what is only too
        large for this machine.
        """
        cid, (job, task) = member.trace[number], member.key
        if not await asyncio.to_thread(lambda: any(self._store.missing(cid))):
            return await self._content(cid, most)
        clock = asyncio.get_running_loop().time
        give_up = clock() + patience_s
        while True:
            verifiers = await self._verifiers(cid)
            worker = await self._dial_worker(member.commitment.node)
            peers = verifiers if worker is None else [*verifiers, worker]
            asked = [] if record is None else verifiers
            left = max(MIN_OBTAIN_S, min(OBTAIN_S, give_up - clock()))
            refusals = await self._obtain(ObtainState(record or cid, job, task, number), asked, left)
            try:
                await self._fetch(cid, peers, MAX_STATE_BYTES, max(left, give_up - clock()))
            except (ArtifactTooLarge, CorruptArtifact) as error:
                raise StateRefused(str(error)) from None
            except ArtifactError as error:
                if clock() < give_up:
                    await asyncio.sleep(RETRY_S)
                elif refusals:
                    raise StateWithheld(job, task, number, refusals) from None
                else:
                    raise ArtifactUnavailable(cid, 1, [str(error)]) from None
            else:
                return await self._content(cid, most)

    async def _content(self, cid: Cid, most: int) -> bytes:
        size = await asyncio.to_thread(self._size, cid)
        if size > most:
            raise StateRefused(f"{size} bytes, and its workload makes at most {most}")
        try:
            return await asyncio.to_thread(self._store.get_bytes, cid, max_bytes=self.max_state_bytes)
        except CorruptArtifact as error:
            raise StateRefused(str(error)) from None

    def _size(self, cid: Cid) -> int:
        try:
            return self._store.size(cid)
        except CorruptArtifact as error:
            raise StateRefused(str(error)) from None

    async def result(self, member: Member, patience_s: float, most: int = MAX_STATE_BYTES) -> bytes:
        """A committed task's result. After `patience_s` it raises `StateWithheld` where verifiers could be asked, and
        else as `state` does."""
        cid, (job, task) = member.commitment.result, member.key
        clock = asyncio.get_running_loop().time
        give_up = clock() + patience_s
        while True:
            try:
                peers = await self._verifiers(cid)
                await self._fetch(cid, peers, MAX_STATE_BYTES, max(MIN_OBTAIN_S, give_up - clock()))
                return await self._content(cid, most)
            except (ArtifactTooLarge, CorruptArtifact) as error:
                if isinstance(error, ArtifactTooLarge) and error.limit < MAX_STATE_BYTES:
                    raise
                raise StateRefused(str(error)) from None
            except ArtifactUnavailable as error:
                if clock() >= give_up:
                    verifiers = await self._verifiers(cid)
                    reasons = [f"{peer.peer} lacks the result" for peer in verifiers]
                    raise StateWithheld(job, task, len(member.trace), reasons) from error
                await asyncio.sleep(RETRY_S)

    async def opening(self, record: Cid, member: Member) -> bytes:
        """The 33 bytes that open a commitment's mark. Raises `ArtifactError`."""
        cid, (job, task) = mark_cid(member.commitment.mark), member.key
        verifiers, worker = await self._verifiers(cid), await self._dial_worker(member.commitment.node)
        await self._obtain(ObtainState(record, job, task, len(member.trace)), verifiers, MIN_OBTAIN_S)
        await self._fetch(cid, verifiers if worker is None else [*verifiers, worker], SALT_BYTES + 1, READ_S)
        return await asyncio.to_thread(self._store.get_bytes, cid, max_bytes=SALT_BYTES + 1)

    async def _obtain(self, request: ObtainState, verifiers: Sequence[Connection], timeout_s: float) -> list[str]:
        """Have the verifiers fetch a state; where none has it, what they say. All are asked at once, so that one that
        never answers costs the others nothing; that it does not answer is its refusal."""

        async def ask(verifier: Connection) -> str:
            try:
                answer = await verifier.request(request, reply=Ack, timeout=timeout_s)
            except TransportError as error:
                return f"{verifier.peer}: {error}"
            return "" if answer.proceed else f"{verifier.peer}: {answer.reason}"

        asked = [asyncio.create_task(ask(verifier)) for verifier in verifiers]
        refusals = []
        try:
            for answer in asyncio.as_completed(asked):
                reason = await answer
                if not reason:
                    return []
                logger.info("state %s of task %s: %s", request.number, request.task, reason)
                refusals.append(reason)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return refusals

    async def _fetch(
        self, cid: Cid, peers: Sequence[Connection], max_bytes: int, within_s: float | None = None
    ) -> None:
        """Have an artifact here. Raises `ArtifactUnavailable`, also for one that is not here `within_s` seconds."""
        if await asyncio.to_thread(lambda: any(self._store.missing(cid))):
            await fetch(self._store, cid, peers, max_bytes=max_bytes, within_s=within_s)

    async def _verifiers(self, cid: Cid) -> list[Connection]:
        """Every active verifier that can be reached, unless `cid` is here already."""
        if not await asyncio.to_thread(lambda: any(self._store.missing(cid))):
            return []
        known = await asyncio.to_thread(self._chain.active_verifiers)
        dialled = await asyncio.gather(*(self._dial(v.node, v.endpoint) for v in known))
        found = [peer for peer in dialled if isinstance(peer, Connection)]
        if not found:
            reasons = [peer for peer in dialled if isinstance(peer, str)]
            raise ArtifactUnavailable(cid, 1, reasons or ["the Registry lists no active verifier"])
        return found

    async def _dial_worker(self, node: Address) -> Connection | None:
        """A worker that the Registry says can be reached."""
        operator = await asyncio.to_thread(self._chain.operator_of, node)
        if operator is None or node == self._endpoint.address:
            return None
        record = await asyncio.to_thread(self._chain.operator, operator)
        peer = await self._dial(node, record.endpoint) if record.endpoint else None
        return peer if isinstance(peer, Connection) else None

    async def _dial(self, peer: Address, endpoint: str) -> Connection | str:
        try:
            return await self._endpoint.connect_to(endpoint, expect=peer)
        except TransportError as error:
            return str(error)
