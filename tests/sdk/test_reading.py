"""Where a client reads artifacts."""

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proofyard.artifacts import BlockStore
from proofyard.chain import Wallet
from proofyard.protocol.commitment import Domain
from proofyard.protocol.types import Address
from proofyard.sdk import NoVerifier, PeerAddress, Quic, Timeout
from proofyard.sdk.peers import Peers
from proofyard.transport import Connection, Endpoint, TransportError

pytestmark = pytest.mark.timeout(60)
DOMAIN = Domain(31337, Address("0x" + "11" * 20))
HERE, GONE = Wallet.generate(), Wallet.generate()


@pytest.fixture
async def there() -> AsyncIterator[Endpoint]:
    async with Endpoint(HERE, network=DOMAIN, host="127.0.0.1") as endpoint:
        yield endpoint


class Counting(Quic):
    """The usual transport, some of whose peers are gone."""

    def __init__(self, store: BlockStore) -> None:
        super().__init__(Wallet.generate(), DOMAIN, store)
        self.dialled: list[Address | None] = []
        self.gone = {GONE.address}

    async def connect(self, peer: PeerAddress) -> Connection:
        self.dialled.append(peer.wallet)
        if peer.wallet in self.gone:
            raise TransportError("no answer")
        return await super().connect(peer)


@pytest.mark.parametrize(("away_s", "times"), [(30.0, 1), (1e-9, 3)], ids=["remembered", "come back"])
async def test_a_verifier_that_is_gone_is_not_dialled_for_each_artifact(
    there: Endpoint, tmp_path: Path, away_s: float, times: int
) -> None:
    seats = [
        SimpleNamespace(node=HERE.address, endpoint=f"127.0.0.1:{there.port}"),
        SimpleNamespace(node=GONE.address, endpoint="127.0.0.1:9"),
    ]
    chain: Any = SimpleNamespace(domain=DOMAIN, active_verifiers=lambda: list(seats))
    store = BlockStore(tmp_path)
    transport = Counting(store)
    peers = Peers(chain, store, transport, Timeout(away=away_s))
    try:
        for _ in range(3):
            assert [each.peer for each in await peers.all()] == [HERE.address]
        assert transport.dialled.count(GONE.address) == times

        transport.gone.add(HERE.address)
        for more in (1, 2):
            with pytest.raises(NoVerifier):
                await peers.all()
            assert transport.dialled.count(GONE.address) == times + more, "where nobody else is there, all are asked"
    finally:
        await peers.close()
