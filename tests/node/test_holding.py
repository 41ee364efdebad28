"""A second holder: who is handed states at the commit, and whose it takes; over real QUIC."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from machine import Node
from stand_ins import DOMAIN, FakeChain

from proofyard.artifacts import BlockStore, Keeper, cid_of_bytes, serve_blocks
from proofyard.chain import Wallet
from proofyard.node import holding
from proofyard.node.holding import Holder, SecondHolder
from proofyard.node.limits import OfferRefused
from proofyard.node.settings import NodeSettings
from proofyard.protocol.types import Cid
from proofyard.transport import Endpoint

STATES = [bytes([number]) * 300_000 for number in range(3)]


def settings(folder: Path, **changes: Any) -> NodeSettings:
    return NodeSettings(registry=DOMAIN.registry, wallet=folder, data_dir=folder, **changes)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "FIRST_RETRY_S", 0.01)


async def handed_over(tmp_path: Path, *, known: bool, room: int) -> BlockStore:
    """What another node holds of a node's states, once it has taken them or was asked for the last time."""
    own, other = Wallet.generate(), Wallet.generate()
    store, theirs = BlockStore(tmp_path / "own"), BlockStore(tmp_path / "theirs")
    async with Endpoint(own, network=DOMAIN) as endpoint, Endpoint(other, network=DOMAIN) as holder:
        serve_blocks(endpoint, store)
        allowed = (own.address if known else other.address,)
        chain: Any = FakeChain()
        Holder(settings(tmp_path, hold_for=allowed, hold_bytes=room), chain, holder, theirs)
        second = SecondHolder(
            settings(tmp_path, second_holder=f"{other.address}@127.0.0.1:{holder.port}"), endpoint, store
        )
        second.take([store.put_bytes(state) for state in STATES], "job 1 task 0")
        async with asyncio.timeout(60):
            await asyncio.gather(*second._under_way)
    return theirs


async def test_states_are_with_the_second_holder_soon_after_the_commit(
    tmp_path: Path,
) -> None:
    theirs = await handed_over(tmp_path, known=True, room=1 << 30)
    assert [theirs.get_bytes(cid_of_bytes(state)) for state in STATES] == STATES


async def test_a_commit_hands_over_every_state_that_is_kept_and_the_result(start: Callable[..., Any]) -> None:
    """Before its verifier has the commitment: whoever is cut off from then on can be answered for."""
    node: Node = await start(budget=1 << 20, segments=2, segment_steps=1)
    given: list[tuple[set[Cid], int]] = []
    second = node.agent._second
    second.take = lambda cids, _what: given.append((set(cids), len(node.links.delivered)))  # type: ignore[method-assign]
    trace = await node.work()
    ((held, delivered),) = given
    assert held == {*trace, node.links.delivered[0].commitment.result}
    assert delivered == 0


@pytest.mark.parametrize(("known", "room"), [(False, 1 << 30), (True, 400_000)], ids=["a stranger", "no room"])
async def test_a_holder_takes_what_its_operator_allows(tmp_path: Path, known: bool, room: int) -> None:
    theirs = await handed_over(tmp_path, known=known, room=room)
    assert len(Keeper(theirs).pins(0.0)) == (1 if known else 0)


def test_a_holder_that_is_neither_wallet_nor_daemon_is_refused_at_the_start(tmp_path: Path) -> None:
    endpoint: Any = SimpleNamespace()
    with pytest.raises(OfferRefused, match="WALLET@HOST:PORT"):
        SecondHolder(settings(tmp_path, second_holder="example.org:4001"), endpoint, BlockStore(tmp_path / "store"))
