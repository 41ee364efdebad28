"""Stores in temporary folders, served between real QUIC peers."""

import hashlib
import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from eth_account import Account

from proofyard.artifacts import BlockStore, serve_blocks
from proofyard.protocol.commitment import Domain
from proofyard.protocol.types import Address, Digest, Signature
from proofyard.transport import Connection, Endpoint


class LocalIdentity:
    def __init__(self) -> None:
        self._account = Account.create()
        self.address = Address(self._account.address)

    def sign_digest(self, digest: Digest) -> Signature:
        return Signature(bytes(self._account.unsafe_sign_hash(digest).signature))


def make_bytes(size: int) -> bytes:
    """Reproducible bytes: SHA-256 of a 64-bit counter, big-endian; the vectors were made from the same."""
    blocks = (hashlib.sha256(i.to_bytes(8, "big")).digest() for i in range(-(-size // 32)))
    return b"".join(blocks)[:size]


@pytest.fixture(scope="session")
def pattern() -> Callable[[int], bytes]:
    return make_bytes


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    return BlockStore(tmp_path / "store")


@pytest.fixture
async def seeder(tmp_path: Path) -> AsyncIterator[Callable[[BlockStore], Awaitable[Connection]]]:
    """Serves a store to the one `leecher` of the test and gives its connection; `endpoints` are the seeders'."""
    network = Domain(31_337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))
    async with AsyncExitStack() as stack:
        leecher = await stack.enter_async_context(Endpoint(LocalIdentity(), network=network))

        async def serve(served: BlockStore) -> Connection:
            endpoint = await stack.enter_async_context(Endpoint(LocalIdentity(), network=network))
            serve_blocks(endpoint, served)
            serve.endpoints.append(endpoint)  # type: ignore[attr-defined]
            return await leecher.connect("127.0.0.1", endpoint.port, expect=endpoint.address)

        serve.leecher, serve.endpoints = leecher, []  # type: ignore[attr-defined]
        yield serve


@pytest.fixture(scope="session")
def daemons() -> ModuleType:
    """`scripts/ipfs_daemons.py`, with what it needs installed. Skips where npm or pip cannot have it."""
    path = Path(__file__).parents[2] / "scripts" / "ipfs_daemons.py"
    spec = importlib.util.spec_from_file_location("ipfs_daemons", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        module.install()
    except module.Unavailable as error:
        pytest.skip(str(error))
    return module


@pytest.fixture(scope="session")
def daemon(daemons: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A js-ipfs daemon: `api` and `swarm`."""
    with daemons.JsDaemon(tmp_path_factory.mktemp("js-ipfs")) as running:
        yield running


@pytest.fixture(scope="session")
def kubo(daemons: ModuleType, daemon: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Kubo's core, connected to the daemon."""
    with daemons.KuboCore(tmp_path_factory.mktemp("kubo")) as running:
        running.connect(daemon.swarm)
        yield running
