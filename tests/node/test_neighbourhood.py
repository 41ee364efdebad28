"""A node finds who has an artifact beside its verifiers, keeps whom it knows on disk, and hides its address if told."""

import asyncio
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
from stand_ins import DOMAIN

from proofyard.artifacts import BlockStore, serve_blocks
from proofyard.chain import Wallet
from proofyard.discovery import Gossip
from proofyard.node.neighbourhood import FILE, Neighbourhood
from proofyard.node.presence import Presence
from proofyard.node.settings import NodeSettings
from proofyard.node.supplies import Supplies
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.routes import Route
from proofyard.protocol.types import Address
from proofyard.transport import Endpoint, PeerUnreachable
from proofyard.transport.reachability import Nat, Reachability


class Chain:
    """A Registry that lists nobody, and says where some are."""

    endpoints: ClassVar[dict[Address, str]] = {}

    def active_nodes(self) -> list[Any]:
        raise PeerUnreachable("registry", 0, "it is away")

    def operator_of(self, node: Address) -> Address | None:
        return node if node in self.endpoints else None

    def operator(self, node: Address) -> Any:
        return SimpleNamespace(endpoint=self.endpoints[node])


class Links:
    def live(self) -> list[Any]:
        return []

    def connection(self, _verifier: str) -> None:
        return None


def place(endpoint: Endpoint) -> Route:
    return Route("direct", endpoint.host, endpoint.port)


class Place:
    """A node with nothing but its endpoint, blocks and neighbourhood."""

    def __init__(self, endpoint: Endpoint, folder: Any, *peers: Endpoint) -> None:
        folder.mkdir()
        named = tuple(f"{each.address}@{each.host}:{each.port}" for each in peers)
        settings = cast(
            Any, SimpleNamespace(data_dir=folder, peers=named, relays=(), discover=True, lan=False, hide_address=False)
        )
        self.endpoint, self.store = endpoint, BlockStore(folder / "blocks")
        serve_blocks(endpoint, self.store)
        presence = SimpleNamespace(is_local=False, routes=lambda: (place(endpoint),))
        links = cast(Any, Links())
        self.company = Neighbourhood(
            settings, cast(Any, Chain()), endpoint, links, cast(Presence, presence), self.store, here=True
        )
        self.supplies = Supplies(settings, cast(Any, endpoint.identity), endpoint, links, self.store)
        self.supplies.nearby, self.supplies.have = self.company.nearby, self.company.have


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


async def test_an_artifact_comes_from_a_peer_that_nobody_named_while_registry_and_verifiers_are_away(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proofyard.discovery.gossip.STEP_S", 0.1)
    monkeypatch.setattr("proofyard.node.neighbourhood.NEARBY_S", 30.0)
    async with AsyncExitStack() as stack:
        ends = [
            await stack.enter_async_context(Endpoint(Wallet.generate(), network=DOMAIN, host=f"127.{at}.0.1"))
            for at in range(1, 5)
        ]
        seed, holder, middle, asker = ends
        Gossip(seed, here=True).serve()
        places = [Place(each, tmp_path / f"{at}", seed) for at, each in enumerate((holder, middle, asker))]
        (tmp_path / "model").write_bytes(bytes(range(256)) * 8192)
        cid = places[0].store.put_file(tmp_path / "model")
        running = [asyncio.create_task(each.company.run()) for each in places]
        await until(lambda: all(len(each.company._gossip.neighbours()) > 2 for each in places))
        places[0].company.have(cid)
        async with asyncio.timeout(60):
            while not await places[2].company.nearby(cid):
                await asyncio.sleep(0.1)
        await places[2].supplies.fetch(seed.address, cid, (), 1 << 30, "a model", shared=True)
        assert places[2].store.get_bytes(cid, max_bytes=1 << 30) == bytes(range(256)) * 8192
        assert places[2].company.summary().startswith(f"{len(places[2].company._gossip.table)} peers")
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        assert (tmp_path / "2" / FILE).stat().st_size > 100


async def test_a_fetch_that_is_given_up_looks_nearby_no_longer(tmp_path: Any) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def nearby(_cid: Any) -> list[Any]:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return []

    async with Endpoint(Wallet.generate(), network=DOMAIN) as endpoint:
        supplies = Place(endpoint, tmp_path / "asker").supplies
        supplies.nearby = nearby
        fetch = supplies.fetch(endpoint.address, raw_cid(b"a model"), (), 1 << 20, "a model", shared=True)
        fetching = asyncio.create_task(fetch)
        await asyncio.wait_for(begun.wait(), 60)
        fetching.cancel()
        await asyncio.wait_for(ended.wait(), 60)
        assert await asyncio.gather(fetching, return_exceptions=True) != [None]


async def test_a_node_that_hides_its_address_names_relays_alone(tmp_path: Any) -> None:
    async with AsyncExitStack() as stack:
        relay, node, caller = [
            await stack.enter_async_context(Endpoint(Wallet.generate(), network=DOMAIN)) for _ in range(3)
        ]
        relay.become_relay()
        node.stay_relayed()
        by = Route("relayed", "127.0.0.1", relay.port, relay.address)
        await node.reserve(by)
        settings = cast(Any, SimpleNamespace(relays=(), hide_address=True, map_port=False))
        presence = Presence(settings, node, cast(Any, Links()))
        presence._found = Reachability(Nat.OPEN, (("192.0.2.1", 4000),), (Route("direct", "192.0.2.1", 4000),))
        assert presence.routes() == (by,)
        connection = await caller.connect_by([by], expect=node.address)
        assert connection.way == "relayed"
        await asyncio.sleep(1.0)
        assert connection.way == "relayed"


async def test_a_node_is_reached_by_whatever_is_known_of_it(tmp_path: Any) -> None:
    async with AsyncExitStack() as stack:
        asker, named, heard = [
            await stack.enter_async_context(Endpoint(Wallet.generate(), network=DOMAIN, host=f"127.{at}.0.1"))
            for at in range(1, 4)
        ]
        company = Place(asker, tmp_path / "asker", named).company
        assert (await company.reach(named.address)).peer == named.address
        assert company._gossip.believe(
            [Gossip(heard, routes=lambda: (place(heard),), here=True).record()], by=asker.connections[named.address]
        )
        first = await company.reach(heard.address)
        assert first.peer == heard.address and await company.reach(heard.address) is first
        with pytest.raises(PeerUnreachable, match="nobody says where it is"):
            await company.reach(Wallet.generate().address)


async def test_a_node_of_this_machine_alone_looks_for_nobody(tmp_path: Any) -> None:
    settings = NodeSettings(registry=DOMAIN.registry, wallet=tmp_path / "wallet", data_dir=tmp_path)
    async with Endpoint(Wallet.generate(), network=DOMAIN) as endpoint:
        links, store = cast(Any, Links()), BlockStore(tmp_path / "blocks")
        presence = Presence(settings, endpoint, links)
        company = Neighbourhood(settings, cast(Any, Chain()), endpoint, links, presence, store)
        company.have(raw_cid(b"a model"))
        running = asyncio.create_task(company.run())
        assert await company.nearby(raw_cid(b"a model")) == []
        assert company.summary() == ""
        with pytest.raises(PeerUnreachable, match="nobody says where it is"):
            await company.reach(Wallet.generate().address)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert not (tmp_path / FILE).exists()


async def test_on_this_machine_alone_a_node_is_reached_where_the_registry_says(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = NodeSettings(registry=DOMAIN.registry, wallet=tmp_path / "wallet", data_dir=tmp_path)
    elsewhere = Wallet.generate().address
    own, other = Wallet.generate(), Wallet.generate()
    async with Endpoint(own, network=DOMAIN) as endpoint, Endpoint(other, network=DOMAIN) as to:
        links = cast(Any, Links())
        presence = Presence(settings, endpoint, links)
        company = Neighbourhood(
            settings, cast(Any, Chain()), endpoint, links, presence, BlockStore(tmp_path / "blocks")
        )
        known = {to.address: f"{to.host}:{to.port}", elsewhere: "203.0.113.7:9000"}
        monkeypatch.setattr(Chain, "endpoints", known)
        assert (await company.reach(to.address)).peer == to.address
        with pytest.raises(PeerUnreachable, match="nobody says where it is"):
            await company.reach(elsewhere)
