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


async def test_a_job_is_given_to_a_verifier_that_answers_and_whose_seat_counts(there: Endpoint, tmp_path: Path) -> None:
    young = SimpleNamespace(id=7, node=Wallet.generate().address, endpoint="127.0.0.1:9", counts=False)
    gone = SimpleNamespace(id=8, node=GONE.address, endpoint="127.0.0.1:9", counts=True)
    here = SimpleNamespace(id=9, node=HERE.address, endpoint=f"127.0.0.1:{there.port}", counts=True)
    seats = [young, gone, here]
    chain: Any = SimpleNamespace(domain=DOMAIN, active_verifiers=lambda: list(seats))
    store = BlockStore(tmp_path)
    peers = Peers(chain, store, Counting(store), Timeout())
    try:
        assert await peers.at_hand() == 9
        seats.pop()
        with pytest.raises(NoVerifier, match="does not count yet; no answer"):
            await peers.at_hand()
    finally:
        await peers.close()


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
