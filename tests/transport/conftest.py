"""Peers on loopback: real sockets, real TLS, real signatures."""

import importlib.util
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from eth_account import Account

from proofyard.protocol.commitment import Domain
from proofyard.protocol.types import Address, Digest, Signature
from proofyard.runtime import compiling
from proofyard.transport import Endpoint, compiled

sys.path.insert(0, str(Path(__file__).parent))

NETWORK = Domain(31_337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))


class LocalIdentity:
    def __init__(self) -> None:
        self._account = Account.create()
        self.address = Address(self._account.address)

    def sign_digest(self, digest: Digest) -> Signature:
        return Signature(bytes(self._account.unsafe_sign_hash(digest).signature))


@pytest.fixture
def library() -> compiled.Library:
    """What handles groups of packets in C. Skips where a machine cannot have it, fails where it is not as it should."""
    compiled.load()
    if compiled.library is None:
        if not any(map(shutil.which, compiling.COMPILERS)):
            pytest.skip("no C compiler here")
        try:
            compiled.library = compiled.Library()
        except (OSError, AttributeError) as error:
            pytest.skip(f"no OpenSSL of Python's: {error}")
    return compiled.library


@pytest.fixture(params=["python", "c"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once with each of the two that handle groups of packets."""
    if request.param == "c":
        request.getfixturevalue("library")
    else:
        monkeypatch.setattr(compiled, "library", None)


@pytest.fixture
def network() -> Domain:
    return NETWORK


@pytest.fixture
def new_identity() -> Callable[[], LocalIdentity]:
    return LocalIdentity


@pytest.fixture
async def peer() -> AsyncIterator[Callable[..., Awaitable[Endpoint]]]:
    """Starts an endpoint; all are closed after the test."""
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> Endpoint:
            options.setdefault("network", NETWORK)
            endpoint = Endpoint(options.pop("identity", None) or LocalIdentity(), **options)
            return await stack.enter_async_context(endpoint)

        yield start


@pytest.fixture(scope="session")
def links() -> ModuleType:
    """`scripts/shaped_link.py`: paths with delay, loss and a rate. Skips where namespaces cannot be made."""
    path = Path(__file__).parents[2] / "scripts" / "shaped_link.py"
    spec = importlib.util.spec_from_file_location("shaped_link", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not module.available():
        pytest.skip("needs root and /dev/net/tun")
    return module
