"""The verifiers as a client sees them: dialled when they are needed, asked, and read from."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from proofyard.artifacts import ArtifactUnavailable, BlockStore, fetch, serve_blocks
from proofyard.artifacts.dag import load
from proofyard.artifacts.exchange import PeerBlocks
from proofyard.chain import ChainClient, NodeRecord, VerifierRecord, Wallet
from proofyard.discovery.whereabouts import whereabouts
from proofyard.protocol.commitment import Domain
from proofyard.protocol.messages import Ack, JobQuery, JobReport, Publish
from proofyard.protocol.routes import Route
from proofyard.protocol.settlement import OperatorId
from proofyard.protocol.types import Address, Cid, JobId
from proofyard.sdk.artifacts import PeerAddress
from proofyard.sdk.bounds import Timeout
from proofyard.sdk.errors import BadPeer, JobRefused, NoVerifier
from proofyard.transport import Connection, DeadlineExceeded, Endpoint, TransportError

RETRY_S = 0.5


class Transport(Protocol):
    """How a client reaches peers, and they its blocks. Its own alone, in one event loop."""

    async def connect(self, peer: PeerAddress) -> Connection:
        """A connection to the peer, whose wallet has answered. Raises `TransportError`."""
        ...

    async def reach(self, node: Address, routes: Sequence[Route]) -> Connection:
        """The same by the first of several routes that answers."""
        ...

    async def close(self) -> None:
        """End all connections. Idempotent."""
        ...


OpenTransport = Callable[[Wallet, Domain, BlockStore], Transport]
"""Makes a transport for a wallet in a network, that serves the blocks of a store."""


class Quic:
    """The usual transport: QUIC over one UDP socket, which is opened with the first connection. `host` is the address
    of this machine to send from where the usual one does not do."""

    def __init__(self, wallet: Wallet, network: Domain, store: BlockStore, *, host: str = "127.0.0.1") -> None:
        self._endpoint = Endpoint(wallet, network=network, host=host)
        serve_blocks(self._endpoint, store)
        self._opening = asyncio.Lock()
        self._is_open = False

    async def connect(self, peer: PeerAddress) -> Connection:
        await self._open()
        return await self._endpoint.connect(peer.host, peer.port, expect=peer.wallet)

    async def reach(self, node: Address, routes: Sequence[Route]) -> Connection:
        await self._open()
        return await self._endpoint.connect_by(routes, expect=node)

    async def _open(self) -> None:
        async with self._opening:
            if not self._is_open:
                await self._endpoint.__aenter__()
                self._is_open = True

    async def close(self) -> None:
        if self._is_open:
            await self._endpoint.close()


class Peers:
    """The active verifiers of a network, by the Registry. For use in one event loop; raises `NoVerifier` where none can
    be reached."""

    def __init__(self, chain: ChainClient, store: BlockStore, transport: Transport, timeout: Timeout) -> None:
        self._chain = chain
        self._store = store
        self._transport = transport
        self._timeout = timeout
        self._away: dict[Address, float] = {}

    async def close(self) -> None:
        await self._transport.close()

    async def publish(self, job: JobId | None, artifacts: Sequence[Cid]) -> None:
        """Have a verifier fetch these artifacts: the job's where it has one. Raises `JobRefused` with its reason."""
        total = sum([await asyncio.to_thread(self._store.size, cid) for cid in artifacts])
        async for attempt in self._patiently():
            with attempt:
                connection = await self.one(job)
                message = Publish(tuple(artifacts), total, job)
                answer = await connection.request(message, reply=Ack, timeout=self._timeout.publish)
                if not answer.proceed:
                    raise JobRefused(f"verifier {connection.peer} says: {answer.reason}")

    async def ask(self, query: JobQuery) -> JobReport:
        """How a job is doing, from its own verifier."""
        async for attempt in self._patiently():
            with attempt:
                connection = await self.one(query.job)
                try:
                    return await connection.request(query, reply=JobReport, timeout=self._timeout.answer)
                except DeadlineExceeded:
                    await connection.close("no answer")
                    raise
        raise AssertionError("retrying ends with an answer or an error")

    async def fetch(self, cid: Cid, max_bytes: int) -> None:
        """Have an artifact in the store, each block checked as it comes. Raises `ArtifactUnavailable`."""
        if await asyncio.to_thread(lambda: any(self._store.missing(cid))):
            await fetch(self._store, cid, list(map(PeerBlocks, await self.all())), max_bytes=max_bytes)

    async def read(self, cid: Cid, max_bytes: int) -> bytes:
        """The bytes of a file artifact of at most `max_bytes`."""
        await self.fetch(cid, max_bytes)
        return await asyncio.to_thread(self._store.get_bytes, cid, max_bytes=max_bytes)

    async def names(self, folder: Cid) -> dict[str, Cid]:
        """What a folder of few files holds, of which only its own block is fetched."""
        if not self._store.has(folder):
            for connection in await self.all():
                with suppress(TransportError):
                    async for cid, data in PeerBlocks(connection).blocks([folder]):
                        if data is not None:
                            await asyncio.to_thread(self._store.put_block, cid, data)
        if not self._store.has(folder):
            raise ArtifactUnavailable(folder, 1, ["no verifier has it"])
        node = await asyncio.to_thread(load, self._store.get_block, folder)
        return {} if isinstance(node, bytes) else {link.name: link.cid for link in node.links}

    async def at_hand(self) -> OperatorId:
        """A verifier that can be reached and given a job."""
        verifiers = await asyncio.to_thread(self._chain.active_verifiers)
        reasons = []
        for verifier in verifiers:
            found = await self.dial(verifier) if verifier.counts else f"the seat of {verifier.node} does not count yet"
            if not isinstance(found, str):
                return verifier.id
            reasons.append(found)
        raise NoVerifier(_why(reasons))

    async def one(self, job: JobId | None = None) -> Connection:
        """A connection to an active verifier: the one that the chain says has the job, where there is one."""
        verifiers = await asyncio.to_thread(self._chain.active_verifiers)
        scheduler = None if job is None else (await asyncio.to_thread(self._chain.job, job)).verifier
        asked = [verifier for verifier in verifiers if not scheduler or verifier.id == scheduler]
        reasons = []
        for verifier in asked:
            found = await self.dial(verifier)
            if not isinstance(found, str):
                return found
            reasons.append(found)
        if scheduler:
            why = "; ".join(reasons) or "the Registry does not list it as active"
            raise NoVerifier(
                f"job {job} is with verifier {scheduler}, which cannot be asked now: {why}; the job goes on; "
                f"ask again, or see what the chain says with `proofyard job show {job}`"
            )
        raise NoVerifier(_why(reasons))

    async def all(self) -> list[Connection]:
        """Every active verifier that can be reached: a record that one has lost, or hides, its co-signers have."""
        verifiers = await asyncio.to_thread(self._chain.active_verifiers)
        now = time.monotonic()
        at_hand = [each for each in verifiers if self._away.get(each.node, 0.0) <= now]
        reasons: list[str] = []
        for asked in (at_hand, verifiers):
            dialled = await asyncio.gather(*map(self.dial, asked))
            if found := [each for each in dialled if not isinstance(each, str)]:
                return found
            reasons = [each for each in dialled if isinstance(each, str)]
            if len(asked) == len(verifiers):
                break
        raise NoVerifier(_why(reasons))

    async def dial(self, peer: VerifierRecord | NodeRecord) -> Connection | str:
        """A connection to a peer by what the Registry says of it, or why there is none."""
        try:
            connection = await self._transport.connect(PeerAddress.parse(peer.endpoint, peer.node))
        except (BadPeer, TransportError) as error:
            self._away[peer.node] = time.monotonic() + self._timeout.away
            return str(error)
        self._away.pop(peer.node, None)
        return connection

    async def told_of(self, nodes: Sequence[NodeRecord]) -> dict[Address, Connection]:
        """Connections to nodes that verifiers have met, whatever the Registry says of them."""
        with suppress(NoVerifier):
            domain = await asyncio.to_thread(lambda: self._chain.domain)
            found = await whereabouts([node.node for node in nodes], await self.all(), domain)
            reached = await asyncio.gather(*(self._reach(node, record.routes) for node, record in found.items()))
            return {connection.peer: connection for connection in reached if connection is not None}
        return {}

    async def _reach(self, node: Address, routes: Sequence[Route]) -> Connection | None:
        try:
            return await self._transport.reach(node, routes)
        except TransportError:
            return None

    def _patiently(self) -> AsyncRetrying:
        """Attempts to reach a verifier: one that restarts is waited for."""
        return AsyncRetrying(
            retry=retry_if_exception_type((TransportError, NoVerifier)),
            stop=stop_after_delay(self._timeout.reach),
            wait=wait_fixed(RETRY_S),
            reraise=True,
        )


def _why(reasons: Sequence[str]) -> str:
    return "; ".join(reasons) or "the Registry lists no active verifier; start one with `verifier run`"
