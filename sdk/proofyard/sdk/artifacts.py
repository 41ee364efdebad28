"""Artifacts without a job: put files and folders under their CIDs, fetch them from peers, keep and check them.

artifacts = Artifacts("store/", swarm=Swarm.from_chain(RegistryReader(rpc_url, registry)))
cid = artifacts.put("model/")
artifacts.get(cid, "copy/")
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from proofyard.artifacts import (
    ArtifactError,
    BlockMissing,
    BlockStore,
    Collected,
    CorruptArtifact,
    Keeper,
    Pin,
    SourceUnusable,
    UnsupportedArtifact,
    fetch,
    serve_blocks,
)
from proofyard.artifacts.car import car_pieces, read_car
from proofyard.artifacts.dag import FOREIGN, Entry, all_blocks, children_of, entries
from proofyard.artifacts.exchange import BlockProvider, RemoteBlocks
from proofyard.artifacts.ipfs import IpfsNode
from proofyard.artifacts.keeper import GRACE_SECONDS
from proofyard.chain import Wallet
from proofyard.chain.reader import RegistryReader
from proofyard.protocol.cid import is_cid
from proofyard.protocol.commitment import Domain
from proofyard.protocol.types import Address, Cid
from proofyard.sdk.destinations import require_new
from proofyard.sdk.errors import BadPeer
from proofyard.transport import Endpoint
from proofyard.transport.reach import split_endpoint

MAX_ARTIFACT_BYTES = 64 << 30
"""What is fetched unless the caller allows more."""


@dataclass(frozen=True)
class PeerAddress:
    """Where a peer listens (UDP), and which wallet must answer there; None for any."""

    host: str
    port: int
    wallet: Address | None = None

    @classmethod
    def parse(cls, text: str, wallet: Address | None = None) -> Self:
        """From `HOST:PORT`, `[IPV6]:PORT` for an IPv6 address. Raises `BadPeer`."""
        try:
            return cls(*split_endpoint(text), wallet)
        except ValueError:
            raise BadPeer(text) from None


@dataclass(frozen=True)
class Swarm:
    """Who is asked for artifacts: `peers` of the network whose Registry has the domain `network`.

    `wallet` proves who asks; without one a new key is made, which most peers accept.
    """

    network: Domain
    peers: tuple[PeerAddress, ...]
    wallet: Wallet = field(default_factory=Wallet.generate)

    @classmethod
    def from_chain(
        cls, chain: RegistryReader, *, peers: Sequence[PeerAddress] = (), wallet: Wallet | None = None
    ) -> Self:
        """These `peers`, or if none are given every verifier and node that has an endpoint in the Registry."""
        return cls(chain.domain, tuple(peers) or _listed(chain), wallet or Wallet.generate())


@dataclass(frozen=True)
class Kept:
    """An artifact that collections leave alone. `pin` says why and how long; `path` is where it lies if not in the
    store. `size` counts its content in bytes, None while a part of it is missing or where there is a `fault`."""

    cid: Cid
    pin: Pin | None
    path: Path | None
    size: int | None
    fault: ArtifactError | None = None


@dataclass(frozen=True)
class Imported:
    """What a CAR file brought: its roots, now pinned, how many of its blocks are stored, and how many were passed over
    because this network has no CIDs for them."""

    roots: tuple[Cid, ...]
    blocks: int
    passed_over: int


@dataclass(frozen=True)
class Verified:
    """What a check found: blocks and bytes that are right, blocks that were not what their CID says, and missing ones.

    Damaged blocks have been deleted, so that they can be fetched again.
    """

    blocks: int
    bytes: int
    damaged: tuple[Cid, ...]
    missing: tuple[Cid, ...]


class Artifacts:
    """A store of artifacts in the folder `path`, a `swarm` to fetch from, and the RPC of an IPFS daemon (a
    multiaddress), both optional.

    Raises `ArtifactError` and `TransportError`. Several programs may use one store. Not for use inside an event loop.
    """

    def __init__(self, path: Path | str, *, swarm: Swarm | None = None, ipfs: str = "") -> None:
        self.store = BlockStore(path)
        self._keeper = Keeper(self.store)
        self._swarm = swarm
        self._ipfs = ipfs

    def put(
        self,
        path: Path | str,
        *,
        link: bool = False,
        follow: bool = False,
        on_read: Callable[[int], object] | None = None,
    ) -> Cid:
        """Make a file or folder an artifact, pinned, and return its CID. Published to the IPFS daemon if there is one.

        With `link` its content stays where it is and is not copied. Symbolic links in a folder stay links unless
        `follow` is set. `on_read` gets the bytes of each piece.
        """
        source, told = Path(path), on_read or (lambda _: None)
        with self.store.putting():
            put = self.store.link_directory if link else self.store.put_directory
            cid = put(source, told, follow=follow)
            self._keeper.pin(cid, reason=source.name.encode(errors="replace").decode())
        if self._ipfs:
            asyncio.run(self._publish(cid))
        return cid

    def put_car(self, path: Path | str) -> Imported:
        """Take the blocks of a CAR file and pin its roots. Raises `UnusableCar`, `CorruptArtifact` for a block that is
        not what its CID says, and `UnsupportedArtifact` for a root that this network has no CID for."""
        stored = passed_over = 0
        try:
            with Path(path).open("rb") as source, self.store.putting():
                car = read_car(source)
                for root in car.roots:
                    if not is_cid(root):
                        raise UnsupportedArtifact(root, FOREIGN)
                for cid, data in car.blocks:
                    if is_cid(cid):
                        self.store.put_block(cid, data)
                        stored += 1
                    else:
                        passed_over += 1
                for root in car.roots:
                    self._keeper.pin(root, reason=Path(path).name.encode(errors="replace").decode())
        except OSError as error:
            raise SourceUnusable(path, f"cannot be read: {error.strerror or error}") from None
        return Imported(car.roots, stored, passed_over)

    def write_car(self, cid: Cid, path: Path | str) -> Path:
        """Write an artifact that is all here as a CAR file. Raises `BlockMissing`."""
        target = Path(path).absolute()
        blocks = ((block, self.store.get_block(block)) for block in all_blocks(self.store.get_block, cid))
        self.store.write_file(target, car_pieces([cid], blocks))
        return target

    def get(
        self,
        cid: Cid,
        destination: Path | str,
        *,
        span: tuple[int, int] | None = None,
        max_bytes: int = MAX_ARTIFACT_BYTES,
        car: bool = False,
        outside_links: bool = False,
        force: bool = False,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> Path:
        """Write an artifact to `destination`, fetching what is missing here. Each file is written whole or not at all.
        Raises `DestinationTaken` unless that is new, or an empty directory; with `force` files are replaced.

        With `span` only a file's bytes from its start up to its stop are fetched and written; with `car` a CAR file of
        all blocks. Symbolic links out of the artifact are left out unless `outside_links` is set (`PartlySupported`,
        after all else is written). `on_progress` gets the bytes fetched and the number of blocks still missing.
        """
        require_new(Path(destination), force=force)
        # What was put long ago may be collected at any time; while it is read it counts as put just now.
        with self.store.putting():
            self.store.renew(cid)
            return self._get(cid, destination, span, max_bytes, car, outside_links, on_progress)

    def _get(
        self,
        cid: Cid,
        destination: Path | str,
        span: tuple[int, int] | None,
        max_bytes: int,
        car: bool,
        outside_links: bool,
        on_progress: Callable[[int, int], object] | None,
    ) -> Path:
        if span is not None and self.store.has(cid):
            self.store.require_range(cid, *span, max_bytes)
        if not self.is_complete(cid, span):
            asyncio.run(self._fetch(cid, span, max_bytes, on_progress))
        if car:
            return self.write_car(cid, destination)
        if span is None:
            return self.store.export(cid, destination, max_bytes, outside_links=outside_links)
        return self.store.export_range(cid, destination, *span, max_bytes)

    def is_complete(self, cid: Cid, span: tuple[int, int] | None = None) -> bool:
        """Whether an artifact, or these bytes of it, can be had without asking anybody."""
        missing = self.store.missing(cid) if span is None else iter(self.store.missing_of_range(cid, *span))
        return next(missing, None) is None

    def entries(self, cid: Cid) -> list[Entry]:
        """The artifact and all files and folders in it, as far as the store has their nodes."""
        return list(entries(self.store.get_block, cid))

    def kept(self) -> list[Kept]:
        """What is pinned, and what lies elsewhere."""
        pins = {pin.cid: pin for pin in self._keeper.pins(time.time())}
        linked = self.store.linked()
        return [Kept(cid, pins.get(cid), linked.get(cid), *self._size(cid)) for cid in {**pins, **linked}]

    def pin(self, cid: Cid, *, seconds: float | None = None, reason: str = "") -> None:
        """Keep an artifact, or what will be fetched of it; with `seconds` it is a lease that ends."""
        self._keeper.pin(cid, until=None if seconds is None else time.time() + seconds, reason=reason)
        # A collection that began before this pin looks at the blocks' times once more.
        self.store.renew(cid)

    def unpin(self, cid: Cid) -> None:
        """Let the next collection have it. Idempotent."""
        self._keeper.unpin(cid)

    def collect(self, *, quota_bytes: int = 0, grace_s: float = GRACE_SECONDS) -> Collected:
        """Delete blocks that nothing kept needs, the oldest first, until `quota_bytes` are left; see `Keeper`."""
        return self._keeper.collect(time.time(), quota_bytes=quota_bytes, grace_s=grace_s)

    def verify(self, cid: Cid | None = None, *, on_read: Callable[[int], object] | None = None) -> Verified:
        """Read and hash every block of an artifact, or of all that is kept and whatever else is in the store."""
        roots = [*(pin.cid for pin in self._keeper.pins(time.time())), *self.store.linked()] if cid is None else [cid]
        seen: set[Cid] = set()
        damaged: list[Cid] = []
        missing: list[Cid] = []
        size = 0

        def check(block: Cid) -> list[Cid]:
            nonlocal size
            seen.add(block)
            present = self.store.has(block)
            try:
                data = self.store.get_block(block)
            except BlockMissing:
                (damaged if present else missing).append(block)
                return []
            size += len(data)
            if on_read is not None:
                on_read(len(data))
            try:
                return children_of(block, data)
            except CorruptArtifact:
                return []  # the bytes that its author meant, though no node

        while roots:
            block = roots.pop()
            if block not in seen:
                roots += check(block)
        for block in [] if cid is not None else [each.cid for each in self.store.blocks()]:
            if block not in seen:
                check(block)
        return Verified(len(seen) - len(damaged) - len(missing), size, tuple(damaged), tuple(missing))

    def _size(self, cid: Cid) -> tuple[int | None, ArtifactError | None]:
        try:
            return (self.store.size(cid) if self.is_complete(cid) else None), None
        except BlockMissing:
            return None, None
        except ArtifactError as error:
            return None, error

    async def _publish(self, cid: Cid) -> None:
        node = IpfsNode(self._ipfs)
        try:
            await node.publish(self.store, cid)
        finally:
            await node.close()

    async def _fetch(
        self,
        cid: Cid,
        span: tuple[int, int] | None,
        max_bytes: int,
        on_progress: Callable[[int, int], object] | None,
    ) -> None:
        async with AsyncExitStack() as stack:
            providers: list[BlockProvider] = []
            if self._swarm is not None and self._swarm.peers:
                endpoint = Endpoint(self._swarm.wallet, network=self._swarm.network)
                serve_blocks(endpoint, self.store)
                await stack.enter_async_context(endpoint)
                providers += [RemoteBlocks(endpoint, peer.host, peer.port, peer.wallet) for peer in self._swarm.peers]
            if self._ipfs:
                self.store.fallback = node = IpfsNode(self._ipfs)
                stack.push_async_callback(node.close)
            await fetch(self.store, cid, providers, max_bytes=max_bytes, span=span, on_progress=on_progress)


def _listed(chain: RegistryReader) -> tuple[PeerAddress, ...]:
    verifiers = [(record.endpoint, record.node) for record in chain.active_verifiers()]
    nodes = [(record.endpoint, record.node) for record in chain.active_nodes()]
    found = []
    for endpoint, wallet in verifiers + nodes:
        with suppress(BadPeer):  # most nodes have none, and nobody checked the others
            found.append(PeerAddress.parse(endpoint, wallet))
    return tuple(found)
