"""Peers on loopback, each in a network of its own: 127.0.0.0/8 has 256 of them."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from proofyard.chain import Wallet
from proofyard.protocol.commitment import Domain
from proofyard.protocol.types import Address
from proofyard.transport import Endpoint

sys.path.insert(0, str(Path(__file__).parent))

NETWORK = Domain(31_337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))


@pytest.fixture
async def peer() -> AsyncIterator[Callable[..., Awaitable[Endpoint]]]:
    """Starts an endpoint at 127.NUMBER.0.1; all are closed after the test."""
    async with AsyncExitStack() as stack:

        async def start(number: int, wallet: Wallet | None = None, port: int = 0) -> Endpoint:
            identity = wallet or Wallet.generate()
            endpoint = Endpoint(identity, network=NETWORK, host=f"127.{number}.0.1", port=port)
            return await stack.enter_async_context(endpoint)

        yield start
