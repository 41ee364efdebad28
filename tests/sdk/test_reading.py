"""Where a client reads artifacts."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proofyard.chain import Wallet
from proofyard.protocol.commitment import Domain
from proofyard.protocol.types import Address
from proofyard.sdk import Client, NoVerifier
from proofyard.sdk import client as clients
from proofyard.transport import Endpoint, TransportError

pytestmark = pytest.mark.timeout(60)
DOMAIN = Domain(31337, Address("0x" + "11" * 20))
HERE, GONE = Wallet.generate(), Wallet.generate()


@pytest.fixture
async def there() -> AsyncIterator[Endpoint]:
    async with Endpoint(HERE, network=DOMAIN, host="127.0.0.1") as endpoint:
        yield endpoint


@pytest.fixture
def client(there: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    seats = [
        SimpleNamespace(node=HERE.address, endpoint=f"127.0.0.1:{there.port}"),
        SimpleNamespace(node=GONE.address, endpoint="127.0.0.1:9"),
    ]
    chain = SimpleNamespace(domain=DOMAIN, active_verifiers=lambda: list(seats))
    monkeypatch.setattr(clients, "ChainClient", lambda *_, **__: chain)
    with Client("http://127.0.0.1:1", str(DOMAIN.registry), Wallet.generate(), data_dir=tmp_path) as client:
        yield client


@pytest.mark.parametrize(("away_s", "times"), [(clients.AWAY_S, 1), (0.0, 3)], ids=["remembered", "come back"])
async def test_a_verifier_that_is_gone_is_not_dialled_for_each_artifact(
    client: Any, monkeypatch: pytest.MonkeyPatch, away_s: float, times: int
) -> None:
    dialled: list[Address | None] = []
    gone, connect = {GONE.address}, Endpoint.connect

    async def dial(self: Endpoint, host: str, port: int, *, expect: Address | None = None) -> Any:
        dialled.append(expect)
        if expect in gone:
            raise TransportError("no answer")
        return await connect(self, host, port, expect=expect)

    async def verifiers() -> list[Address]:
        found = await asyncio.to_thread(client._run, client._verifiers())
        return [each.peer for each in found]

    monkeypatch.setattr(Endpoint, "connect", dial)
    monkeypatch.setattr(clients, "AWAY_S", away_s)
    for _ in range(3):
        assert await verifiers() == [HERE.address]
    assert dialled.count(GONE.address) == times

    gone.add(HERE.address)
    for more in (1, 2):
        with pytest.raises(NoVerifier):
            await verifiers()
        assert dialled.count(GONE.address) == times + more, "where nobody else is there, everybody is asked"
