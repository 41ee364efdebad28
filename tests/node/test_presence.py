"""A node behind a router keeps several relays, says so, and brings what it needs from peers that are behind others."""

import asyncio
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any, cast

import pytest
from stand_ins import DOMAIN

from proofyard.artifacts import BlockStore, fetcher, serve_blocks
from proofyard.artifacts.builder import CHUNK_BYTES
from proofyard.chain import Wallet
from proofyard.node import presence
from proofyard.node import supplies as supplies_module
from proofyard.node.links import VerifierLinks
from proofyard.node.presence import Presence
from proofyard.node.settings import NodeSettings
from proofyard.node.supplies import Supplies
from proofyard.protocol.messages import PeerHint, Relays, RelaysQuery
from proofyard.protocol.routes import Route
from proofyard.transport import Connection, ConnectionLost, Endpoint
from proofyard.transport.mapping import Mapper, Mapping
from proofyard.transport.reachability import Nat, Reachability

CONE = Reachability(Nat.CONE, (("192.0.2.1", 40_000),))


class Links:
    """The verifiers that a node has joined."""

    def __init__(self, *joined: Connection) -> None:
        self._joined = joined
        self.announced = 0

    def live(self) -> list[Connection]:
        return list(self._joined)

    def connection(self, verifier: str) -> Connection | None:
        return next((each for each in self._joined if each.peer == verifier), None)

    def announce_again(self) -> None:
        self.announced += 1


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def start(stack: AsyncExitStack, **options: Any) -> Endpoint:
    return await stack.enter_async_context(Endpoint(Wallet.generate(), network=DOMAIN, **options))


def at(relay: Endpoint) -> Route:
    return Route("relayed", "127.0.0.1", relay.port, relay.address)


def supplies_of(endpoint: Endpoint, links: Links, store: BlockStore) -> Supplies:
    settings = cast(NodeSettings, SimpleNamespace(data_dir=store.path))
    return Supplies(settings, cast(Any, endpoint.identity), endpoint, cast(VerifierLinks, links), store)


async def test_a_node_keeps_relays_and_replaces_one_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "LOOK_S", 0.1)
    monkeypatch.setattr(presence, "MAX_RELAYS", 2)
    async with AsyncExitStack() as stack:
        relays = [await start(stack) for _ in range(3)]
        for relay in relays:
            relay.become_relay()
        verifier, node = await start(stack), await start(stack)

        async def known(*_: Any) -> Relays:
            return Relays((at(relays[1]), at(relays[2])))

        verifier.on(RelaysQuery, known)
        links = Links(await node.connect("127.0.0.1", verifier.port))

        async def found(**_: Any) -> Reachability:
            return CONE

        monkeypatch.setattr(node, "examine", found)
        monkeypatch.setattr(Presence, "is_local", False)
        named = f"{relays[0].address}@127.0.0.1:{relays[0].port}"
        settings = cast(NodeSettings, SimpleNamespace(relays=(named,), map_port=False, hide_address=False))
        here = Presence(settings, node, cast(VerifierLinks, links))
        running = asyncio.create_task(here.run())
        await until(lambda: len(here.routes()) == 2)
        assert at(relays[0]) in here.routes()
        assert here.summary().startswith("by 2 relays")
        await relays[0].close()
        await until(lambda: set(here.routes()) == {at(relays[1]), at(relays[2])})
        assert links.announced >= 2
        for relay in relays:
            await relay.close()
        await until(lambda: not here.routes())
        assert here.summary().startswith("not at all")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_node_waits_for_no_router_and_gives_its_port_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "LOOK_S", 0.05)
    monkeypatch.setattr(presence, "UNMAPPED_S", 0.0)
    monkeypatch.setattr(Presence, "is_local", False)
    asked, released, examined, answers = list[str](), list[str](), list[int](), asyncio.Event()

    async def ask(mapper: Mapper) -> Mapping:
        asked.append(mapper._name)
        await answers.wait()
        mapper.found = Mapping(50_001, 7200, "UPnP", "192.0.2.1")
        return mapper.found

    async def release(mapper: Mapper) -> None:
        released.append(mapper._name)

    async def examine(published: int = 0) -> Reachability:
        examined.append(published)
        return CONE

    monkeypatch.setattr(Mapper, "ask", ask)
    monkeypatch.setattr(Mapper, "release", release)
    async with AsyncExitStack() as stack:
        relay, node = [await start(stack) for _ in range(2)]
        relay.become_relay()
        monkeypatch.setattr(node, "examine", examine)
        links = Links(await node.connect("127.0.0.1", relay.port))
        named = f"{relay.address}@127.0.0.1:{relay.port}"
        settings = cast(NodeSettings, SimpleNamespace(relays=(named,), map_port=True, hide_address=False))
        here = Presence(settings, node, cast(VerifierLinks, links))
        running = asyncio.create_task(here.run())
        await until(lambda: asked and here.routes())
        assert examined == [0], "a relay carries while the router says nothing"
        answers.set()
        await until(lambda: 50_001 in examined)
        assert "the router maps UDP port 50001 by UPnP" in here.summary()
        await until(lambda: len(asked) > 1)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert set(asked) == {node.address}
        assert released == [node.address]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is, peers are left to bring it."""
    monkeypatch.setattr(supplies_module, "ALONE_S", 60.0)
    monkeypatch.setattr(supplies_module, "SHARED_S", 60.0)
    monkeypatch.setattr(fetcher, "HEDGE_SECONDS", 60.0)


async def test_a_state_comes_from_the_peer_that_has_it_and_not_from_the_verifier(tmp_path: Any, patient: None) -> None:
    data = bytes(range(256)) * 8192
    (tmp_path / "state").write_bytes(data)
    async with AsyncExitStack() as stack:
        relay, verifier, worker, auditor = [await start(stack) for _ in range(4)]
        relay.become_relay()
        stores = {name: BlockStore(tmp_path / name) for name in ("verifier", "worker", "auditor")}
        asked: list[int] = []
        for endpoint, name in ((verifier, "verifier"), (worker, "worker")):
            serve_blocks(endpoint, stores[name])
            cid = stores[name].put_file(tmp_path / "state")
        bring = stores["verifier"].get_block
        stores["verifier"].get_block = lambda *each: (asked.append(1), bring(*each))[1]  # type: ignore[method-assign]
        await worker.reserve(at(relay))
        links = Links(await auditor.connect("127.0.0.1", verifier.port))
        supplies = supplies_of(auditor, links, stores["auditor"])
        hints = [PeerHint(worker.address, "127.0.0.1", 9, (at(relay),))]
        await supplies.fetch(verifier.address, cid, hints, 1 << 30, "a state")
        assert stores["auditor"].get_bytes(cid, max_bytes=1 << 30) == data
        assert auditor.connections[worker.address].way in ("relayed", "punched")
        assert len(asked) <= 1, "of nine blocks the root, which is asked for before anybody is dialled"


async def test_nodes_that_begin_with_a_job_take_its_data_from_the_verifier_once(tmp_path: Any, patient: None) -> None:
    blocks, sent = 16, list[int]()
    (tmp_path / "data").write_bytes(b"".join(bytes([number]) * CHUNK_BYTES for number in range(blocks)))
    async with AsyncExitStack() as stack:
        verifier, *nodes = [await start(stack) for _ in range(5)]
        source = BlockStore(tmp_path / "verifier")
        cid = source.put_file(tmp_path / "data")
        serve_blocks(verifier, source, on_sent=lambda _, size: sent.append(size))
        fetches = []
        for node in nodes:
            store = BlockStore(tmp_path / node.address)
            serve_blocks(node, store)
            supplies = supplies_of(node, Links(await node.connect("127.0.0.1", verifier.port)), store)
            hints = [PeerHint(each.address, "127.0.0.1", each.port) for each in nodes if each is not node]
            fetches.append((store, supplies.fetch(verifier.address, cid, hints, 1 << 30, "the data")))
        await asyncio.gather(*(fetch for _, fetch in fetches))
        for store, _ in fetches:
            assert store.get_bytes(cid, max_bytes=1 << 30) == (tmp_path / "data").read_bytes()
        assert sum(sent) < 2 * blocks * CHUNK_BYTES, "each would be four times as much"


async def test_data_that_no_other_node_brings_comes_from_the_verifier(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(supplies_module, "SHARED_S", 0.5)
    (tmp_path / "data").write_bytes(b"".join(bytes([number]) * CHUNK_BYTES for number in range(16)))
    async with AsyncExitStack() as stack:
        verifier, node, idle = [await start(stack) for _ in range(3)]
        source, store = BlockStore(tmp_path / "verifier"), BlockStore(tmp_path / "node")
        cid = source.put_file(tmp_path / "data")
        serve_blocks(verifier, source)
        serve_blocks(idle, BlockStore(tmp_path / "idle"))
        supplies = supplies_of(node, Links(await node.connect("127.0.0.1", verifier.port)), store)
        hints = [PeerHint(idle.address, "127.0.0.1", idle.port)]
        await supplies.fetch(verifier.address, cid, hints, 1 << 30, "the data")
        assert store.get_bytes(cid, max_bytes=1 << 30) == (tmp_path / "data").read_bytes()


@pytest.mark.parametrize("who", ["maker", "late", "nobody"])
async def test_a_peer_that_does_not_answer_holds_no_fetch_up(tmp_path: Any, monkeypatch: Any, who: str) -> None:
    """Who is there brings it at once; who comes late brings what the others lack, before the verifier is asked."""
    monkeypatch.setattr(supplies_module, "LATE_S", 0.1)
    data = b"".join(bytes([number]) * CHUNK_BYTES for number in range(9))
    (tmp_path / "state").write_bytes(data)
    async with AsyncExitStack() as stack:
        verifier, node, maker, idle = [await start(stack) for _ in range(4)]
        sent: dict[Endpoint, list[int]] = {verifier: [], maker: [], idle: []}
        stores = {endpoint: BlockStore(tmp_path / endpoint.address) for endpoint in sent}
        for holder in (verifier, maker):
            cid = stores[holder].put_file(tmp_path / "state")
        for endpoint, sizes in sent.items():
            serve_blocks(endpoint, stores[endpoint], on_sent=lambda _, size, sizes=sizes: sizes.append(size))
        ended, dial = asyncio.Event(), Endpoint.connect_by

        async def connect_by(self: Endpoint, routes: Any, *, expect: Any, payer: Any) -> Any:
            if expect == maker.address and who != "maker":
                await asyncio.sleep(0.5)
            if expect == maker.address and who == "nobody":
                raise ConnectionLost("127.0.0.1:9", "no answer")
            if expect == idle.address and who == "maker":
                await ended.wait()
            return await dial(self, routes, expect=expect, payer=payer)

        monkeypatch.setattr(Endpoint, "connect_by", connect_by)
        store = BlockStore(tmp_path / "node")
        supplies = supplies_of(node, Links(await node.connect("127.0.0.1", verifier.port)), store)
        hints = [PeerHint(each.address, "127.0.0.1", each.port) for each in (maker, idle)]
        await supplies.fetch(verifier.address, cid, hints, 1 << 30, "a state")
        assert store.get_bytes(cid, max_bytes=1 << 30) == data
        assert (len(sent[verifier]) > 1, len(sent[maker]) > 1) == (who == "nobody", who != "nobody")
        ended.set()
