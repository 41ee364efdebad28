"""Where the evidence of a dispute comes from: the active verifiers, and through them the workers behind home routers.

A worker dials its verifiers and is dialled by nobody, so whoever wants one of its states asks a verifier to fetch it
(`ObtainState`) and takes it from there. Every block is checked against its CID, whoever sent it.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from proofyard.artifacts import ArtifactError, ArtifactUnavailable, BlockStore, fetch
from proofyard.chain import ChainClient
from proofyard.disputes.errors import StateWithheld
from proofyard.protocol.messages import Ack, ObtainState
from proofyard.protocol.record import CommittedTask
from proofyard.protocol.types import Address, Cid
from proofyard.transport import Connection, Endpoint, TransportError

logger = logging.getLogger(__name__)

MAX_STATE_BYTES = 8 << 30
MAX_INPUT_BYTES = 64 << 30
OBTAIN_S = 300.0
"""A verifier's time to fetch a state from its worker."""
RETRY_S = 1.0


class Network:
    """Artifacts for replaying. `store` keeps what is fetched, `folder` large inputs as files."""

    def __init__(self, chain: ChainClient, endpoint: Endpoint, store: BlockStore, folder: Path) -> None:
        self._chain = chain
        self._endpoint = endpoint
        self._store = store
        self._folder = folder

    async def read(self, cid: Cid, max_bytes: int) -> bytes:
        """A file artifact of at most `max_bytes`. Raises `ArtifactError`."""
        await self._fetch(cid, await self._verifiers(cid), max_bytes)
        return await asyncio.to_thread(self._store.get_bytes, cid, max_bytes=max_bytes)

    async def on_disk(self, cid: Cid) -> Path:
        """A large input as a file or directory, used in place where it is linked."""
        local = self._store.local_path(cid)
        if local is not None:
            return local
        await self._fetch(cid, await self._verifiers(cid), MAX_INPUT_BYTES)
        return await asyncio.to_thread(self._store.export, cid, self._folder / cid)

    async def state(self, record: Cid, task: CommittedTask, number: int, patience_s: float) -> bytes:
        """State `number` of a committed task, from whoever has it; a worker may have to compute it again first.

        After `patience_s` it raises `StateWithheld` if some verifier could be asked and could not get it either, and
        `ArtifactUnavailable` if none could: that may be this machine's own line.
        """
        cid = task.trace[number]
        if not await asyncio.to_thread(lambda: any(self._store.missing(cid))):
            return await asyncio.to_thread(self._store.get_bytes, cid, max_bytes=MAX_STATE_BYTES)
        clock = asyncio.get_running_loop().time
        give_up = clock() + patience_s
        while True:
            verifiers = await self._verifiers(cid)
            worker = await self._dial_worker(task.commitment.node)
            peers = verifiers if worker is None else [*verifiers, worker]
            refusals = await self._obtain(ObtainState(record, task.commitment.task, number), verifiers)
            try:
                await self._fetch(cid, peers, MAX_STATE_BYTES)
                return await asyncio.to_thread(self._store.get_bytes, cid, max_bytes=MAX_STATE_BYTES)
            except ArtifactError as error:
                if clock() < give_up:
                    await asyncio.sleep(RETRY_S)
                elif refusals:
                    raise StateWithheld(task.commitment.task, number, refusals) from None
                else:
                    raise ArtifactUnavailable(cid, 1, [str(error)]) from None

    async def _obtain(self, request: ObtainState, verifiers: Sequence[Connection]) -> list[str]:
        """Have a verifier fetch a state; where none has it, the refusals of those that answered."""
        refusals = []
        for verifier in verifiers:
            try:
                answer = await verifier.request(request, reply=Ack, timeout=OBTAIN_S)
            except TransportError as error:
                logger.info(
                    "%s was asked for state %s of task %s: %s", verifier.peer, request.number, request.task, error
                )
                continue
            if answer.proceed:
                return []
            refusals.append(f"{verifier.peer}: {answer.reason}")
        return refusals

    async def _fetch(self, cid: Cid, peers: Sequence[Connection], max_bytes: int) -> None:
        if await asyncio.to_thread(lambda: any(self._store.missing(cid))):
            await fetch(self._store, cid, peers, max_bytes=max_bytes)

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
        host, _, port = endpoint.rpartition(":")
        try:
            return await self._endpoint.connect(host.strip("[]"), int(port or 0), expect=peer)
        except (TransportError, ValueError, OverflowError) as error:
            return str(error)
