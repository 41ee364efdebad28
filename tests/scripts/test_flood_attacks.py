"""The floods of `make fuzz`, a moment of each sort against one endpoint: they do what they are for; it serves on."""

import os
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from flood_attacks import ATTACKS, Attack, Identity, run
from proofyard.artifacts import BlockStore, serve_blocks
from proofyard.artifacts.exchange import PeerBlocks
from proofyard.protocol.commitment import Domain
from proofyard.protocol.types import Address
from proofyard.transport import Endpoint

NETWORK = Domain(31_337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))
SORTS = {
    "one stream in 60,000 pieces": "packets",
    "acknowledgements in 500 ranges": "packets",
    "requests that are taken back": "packets",
    "packets whose numbers have gaps": "packets",
    "first packets that say nothing": "packets",
    "tokens that nobody gave out": "packets",
    "versions that nobody speaks": "packets",
    "silent connections of nine hosts": "connections",
    "acknowledgements while blocks come": "packets",
    "who has a thousand blocks": "requests",
    "lists of seals": "requests",
    "get-blocks, 500 a second": "requests",
}


@pytest.mark.parametrize("name", SORTS)
async def test_an_attack_is_one_and_is_survived(tmp_path: Path, name: str) -> None:
    store = BlockStore(tmp_path)
    blocks = tuple(store.put_bytes(os.urandom(1000)) for _ in range(8))
    async with Endpoint(Identity(), network=NETWORK) as server, Endpoint(Identity(), network=NETWORK) as honest:
        serve_blocks(server, store)
        connection = await honest.connect("127.0.0.1", server.port)
        for seconds in (0.3, 3.0, 30.0):  # on a busy machine it takes a moment to begin
            attack = Attack("127.0.0.1", server.port, NETWORK, time.monotonic() + seconds, blocks=blocks)
            await run(name, attack)
            if attack.counted[SORTS[name]]:
                break
        assert attack.counted[SORTS[name]] > 0, attack
        assert [data async for _, data in PeerBlocks(connection).blocks(blocks)]
        assert len(server._open) < 300


def test_every_sort_of_attack_is_listed() -> None:
    assert set(SORTS) <= set(ATTACKS)
