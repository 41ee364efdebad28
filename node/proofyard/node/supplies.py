"""Getting what a task or an audit needs onto this disk, checked against CIDs and within the operator's limits.

Sizes are those of the content when it is written out, and are known before anything is: a few megabytes of blocks can
name gigabytes. A peer that sends nothing for `SILENCE_S` is given up; whoever waits for it waits in its lane alone.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path

from proofyard.artifacts import ArtifactError, ArtifactTooLarge, ArtifactUnavailable, BlockMissing, BlockStore, fetch
from proofyard.artifacts.exchange import BlockProvider, PeerBlocks
from proofyard.artifacts.gathering import Gatherer
from proofyard.artifacts.portion import Portion
from proofyard.chain import Wallet
from proofyard.node.aside import aside, at_once
from proofyard.node.limits import DataLacking, OfferRefused
from proofyard.node.links import VerifierLinks
from proofyard.node.settings import NodeSettings
from proofyard.protocol.cid import RAW, cid_codec
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, Manifest, TaskSpec, decode_manifest
from proofyard.protocol.messages import PeerHint
from proofyard.protocol.routes import Route
from proofyard.protocol.types import Address, Cid, ProofyardError
from proofyard.runtime.recent import Recent
from proofyard.transport import Connection, Endpoint, TransportError
from proofyard.workloads.local_sets import FOLDER as LOCAL_FOLDER
from proofyard.workloads.local_sets import LocalSets
from proofyard.workloads.workload import Inputs, carried_by, load_workload, local_file

logger = logging.getLogger("proofyard.node")

SILENCE_S = 60.0
ALONE_S, ALONE_BYTES = 6.0, 1 << 20
"""Peers that bring so many bytes in so many seconds, which is less than most home lines send, are left to it; else the
verifier brings a part as well."""

LATE_S = 1.0
"""A peer that relays help to is there in that time; for who is not a fetch from the others does not wait."""

FROM_VERIFIER_BYTES = 16 << 10
"""What is so small the verifier that made the offer is asked for first: it has it, and one request to it is less than a
connection to whoever made it."""

SHARED_BLOCKS, SHARED_S, SHARED_POLL_S = 8, 4.0, 0.25
"""Peers of one job that all lack so many blocks of an artifact fetch it together, as long as more of it comes every so
often; and when they look again what the others have by now."""

MAX_HINTS = 32
UNKNOWN_BYTES = 1 << 62
RESULTS_AT_ONCE = 8
"""Other tasks' results that are fetched at a time."""
MANIFESTS = 64
"""Manifests that are kept in memory; each is at most a block."""


class NothingComes(ProofyardError):
    """Nobody sent any part of an artifact for too long."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(f"nobody sent anything of {what} for {seconds:.0f} s")


class Supplies:
    """Fetches from the peers that an offer names and from the verifier that made it."""

    def __init__(
        self, settings: NodeSettings, wallet: Wallet, endpoint: Endpoint, links: VerifierLinks, store: BlockStore
    ) -> None:
        self._settings = settings
        self._wallet = wallet
        self._endpoint = endpoint
        self._links = links
        self._store = store
        self._gatherer = Gatherer(store, at_once, largest=FROM_VERIFIER_BYTES)
        self._manifests: Recent[Cid, Manifest] = Recent(MANIFESTS)
        self._local = LocalSets(settings.data_dir / LOCAL_FOLDER)
        self._dials: set[asyncio.Future[Connection | None]] = set()
        self.nearby: Callable[[Cid], Awaitable[list[Connection]]] = _nobody
        """Finds further peers that may have an artifact, the nearest first."""
        self.have: Callable[[Cid], object] = lambda _: None
        """Hears of models, data and adapters of several blocks that are here whole now."""

    async def manifest(self, verifier: Address, cid: Cid, hints: Sequence[PeerHint]) -> Manifest:
        """A job's manifest that its workload can execute."""
        known = self._manifests.get(cid)
        if known is None:
            data = await self.bytes_of(verifier, cid, hints, MAX_MANIFEST_BYTES, "the manifest")
            manifest = decode_manifest(data)
            load_workload(manifest.workload).check(manifest)
            known = self._manifests.put(cid, manifest)
        return known

    async def inputs(
        self,
        verifier: Address,
        manifest: Manifest,
        results: Sequence[Cid],
        hints: Sequence[PeerHint],
        task: TaskSpec | None = None,
        *,
        audited: TaskSpec | None = None,
    ) -> Inputs:
        """Everything that a runner reads; of a `task` also what its first state is made from, of an `audited` one what
        a segment is. Raises `OfferRefused` for what is over a limit, `DataLacking` for what nobody publishes."""
        turn = asyncio.Semaphore(RESULTS_AT_ONCE)

        async def one(cid: Cid) -> bytes:
            async with turn:
                return await self._result(verifier, cid, hints)

        found = await asyncio.gather(*map(one, results))
        carried: list[bytes] = []
        if task is not None:
            size = sum(map(len, found))
            named = await aside(size, carried_by, load_workload(manifest.workload), manifest, task, found)
            carried = await asyncio.gather(*map(one, named))
        model = await self._on_disk(verifier, manifest.model, hints, "model", self._settings.max_model_bytes)
        spec = task or audited
        data = None if spec is None else await self.local_data(manifest, spec)
        data = data or await self._on_disk(verifier, manifest.data, hints, "data", self._settings.max_data_bytes)
        adapter = await self._on_disk(verifier, manifest.adapter, hints, "adapter", self._settings.max_state_bytes)
        return Inputs(model, data, tuple(found), adapter, tuple(carried))

    async def local_data(self, manifest: Manifest, task: TaskSpec) -> Path | None:
        """The file that a task computes on where nobody publishes it; None where its job's data is published. Raises
        `DataLacking` where it is not here."""
        wanted = local_file(load_workload(manifest.workload), manifest, task)
        if wanted is None:
            return None
        found = await asyncio.to_thread(self._local.path, wanted.cid)
        if found is None:
            raise DataLacking(wanted.lacking)
        return found

    async def _result(self, verifier: Address, cid: Cid, hints: Sequence[PeerHint]) -> bytes:
        """The content of another task's result."""
        try:
            return await self.bytes_of(verifier, cid, hints, self._settings.max_state_bytes, "an input")
        except ArtifactTooLarge as error:
            raise OfferRefused("inputs", f"holds what is over this node's max_state_bytes: {error}") from None

    async def bytes_of(
        self, verifier: Address, cid: Cid, hints: Sequence[PeerHint], max_bytes: int, what: str
    ) -> bytes:
        """A file's content."""
        size = self._store.block_size(cid) if cid_codec(cid) == RAW else None
        try:
            return await aside(UNKNOWN_BYTES if size is None else size, self._store.get_bytes, cid, max_bytes=max_bytes)
        except BlockMissing:
            await self.fetch(verifier, cid, hints, max_bytes, what)
            return await asyncio.to_thread(self._store.get_bytes, cid, max_bytes=max_bytes)

    def given(self, cid: Cid, data: bytes) -> bool:
        """Keep a small artifact of one block that came with an offer; False where it is not, and is to be fetched."""
        try:
            if data:
                self._store.put_block(cid, data)
        except ArtifactError as error:
            logger.info("what came as %s is not kept: %s", cid, error)
            return False
        return bool(data)

    async def expect(self, verifier: Address, cids: Sequence[Cid]) -> None:
        """Have those of these artifacts that are small and that a verifier has itself: it has looked at the states that
        it has audited."""
        await self._gatherer.gather(verifier, self._links.connection(verifier), cids)

    async def fetch(
        self,
        verifier: Address,
        cid: Cid,
        hints: Sequence[PeerHint],
        max_bytes: int,
        what: str,
        *,
        shared: bool = False,
    ) -> None:
        """Have an artifact in the store; only what is not here yet is asked for. What is `shared` by many nodes is
        looked for nearby as well."""
        if cid_codec(cid) == RAW and self._store.block_size(cid) is not None:
            return
        connection = self._links.connection(verifier)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SILENCE_S):
                if (await self._gatherer.gather(verifier, connection, [cid]))[cid] is not None:
                    return
        if not await asyncio.to_thread(lambda: any(self._store.missing(cid))):
            return
        others = [hint for hint in hints[:MAX_HINTS] if hint.address != self._wallet.address]
        nearby = asyncio.ensure_future(self.nearby(cid) if shared else _nobody(cid))
        named: list[Connection] = []
        providers: list[Connection] = []
        # What peers bring among themselves the verifier need not: it serves everybody.
        try:
            async with contextlib.aclosing(self._reached(others, verifier)) as reached:
                async for named in reached:
                    providers = list(dict.fromkeys([*await nearby, *named]))
                    if not providers:
                        continue
                    with contextlib.suppress(ArtifactUnavailable, TimeoutError):
                        await self._bring(cid, providers, max_bytes, ALONE_S, ALONE_BYTES)
                        return
        finally:
            nearby.cancel()
        if providers and await self._share(cid, named, self._links.connection(verifier), max_bytes):
            return
        connection = self._links.connection(verifier)
        everybody = [*providers, *([] if connection is None else [connection])]
        try:
            await self._bring(cid, everybody, max_bytes, SILENCE_S, 1)
        except TimeoutError:
            raise NothingComes(f"{what} ({cid})", SILENCE_S) from None

    async def _share(self, cid: Cid, peers: Sequence[Connection], verifier: Connection | None, max_bytes: int) -> bool:
        """Have an artifact that the peers of the same job fetch as well: each a portion from the verifier, the rest
        from each other. False where that is not worth it, or does not come further."""
        missing = await self._missing(cid)
        if verifier is None or missing < SHARED_BLOCKS:
            return False
        portion = Portion(PeerBlocks(verifier), self._wallet.address, [peer.peer for peer in peers])
        clock = asyncio.get_running_loop().time
        until = clock() + SHARED_S
        while clock() < until:
            try:
                await self._bring(cid, [portion, *peers], max_bytes, SHARED_S, 1)
                return True
            except TimeoutError:
                return False
            except ArtifactUnavailable:
                left = await self._missing(cid)
                if left < missing:
                    missing, until = left, clock() + SHARED_S
                await asyncio.sleep(SHARED_POLL_S)
        return False

    async def _missing(self, cid: Cid) -> int:
        """Blocks that are known not to be here."""
        return await asyncio.to_thread(lambda: sum(1 for _ in self._store.missing(cid)))

    async def _bring(
        self,
        cid: Cid,
        providers: Sequence[Connection | BlockProvider],
        max_bytes: int,
        within_s: float,
        least_bytes: int,
    ) -> None:
        """Raises `TimeoutError` once fewer than `least_bytes` came in `within_s` seconds."""
        clock, wanted = asyncio.get_running_loop().time, 0
        async with asyncio.timeout(within_s) as patience:

            def moved(fetched: int, _missing: int) -> None:
                nonlocal wanted
                if fetched >= wanted:
                    wanted = fetched + least_bytes
                    patience.reschedule(clock() + within_s)

            await fetch(self._store, cid, providers, max_bytes=max_bytes, on_progress=moved)

    async def _on_disk(
        self, verifier: Address, cid: Cid | None, hints: Sequence[PeerHint], what: str, max_bytes: int
    ) -> Path | None:
        """A large input as a file or directory: used in place where the operator has it, else fetched."""
        if cid is None:
            return None
        local = self._store.local_path(cid)
        if local is not None:
            return local
        try:
            await self.fetch(verifier, cid, hints, max_bytes, f"the {what}", shared=True)
            if cid_codec(cid) != RAW:
                self.have(cid)
            target = self._settings.data_dir / "inputs" / cid
            return await asyncio.to_thread(self._store.export, cid, target, max_bytes)
        except ArtifactTooLarge as error:
            raise OfferRefused(f"the manifest's {what}", f"is over this node's max_{what}_bytes: {error}") from None

    async def _reached(self, hints: Sequence[PeerHint], verifier: Address) -> AsyncGenerator[list[Connection], None]:
        """Connections to these peers: those that are there `LATE_S` after the first one, and all of them where others
        came later."""
        begun = [asyncio.ensure_future(self._dial(hint, verifier)) for hint in hints]
        self._dials.update(begun)  # they go on, for what is fetched next
        for dial in begun:
            dial.add_done_callback(self._dials.discard)
        pending = set(begun)
        while pending and not any(dial.done() and dial.result() for dial in begun):
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if pending:
            _, pending = await asyncio.wait(pending, timeout=LATE_S)
        early = [peer for dial in begun if dial.done() and (peer := dial.result()) is not None]
        yield early
        found = [peer for peer in await asyncio.gather(*begun) if peer is not None]
        if len(found) > len(early):
            yield found

    async def _dial(self, hint: PeerHint, verifier: Address) -> Connection | None:
        try:
            routes = hint.routes or (Route("direct", hint.host, hint.port),)
            return await self._endpoint.connect_by(routes, expect=hint.address, payer=verifier)
        except TransportError as error:
            logger.info("%s cannot help: %s", hint.address, error)
            return None


async def _nobody(_cid: Cid) -> list[Connection]:
    return []
