"""Peers that reach each other through a relay, and then without it."""

import asyncio
import os

import msgspec
import pytest

from proofyard.protocol.routes import Route
from proofyard.transport import ConnectionLost, PeerUnreachable, RequestFailed, punching
from proofyard.transport.carried import MAX_FLOWS_OF_RELAY, head_of, new_tag
from proofyard.transport.punching import Go, Meet, Met, worth_probing
from proofyard.transport.reachability import DialBack, DialledBack, Nat, classify
from proofyard.transport.relay import Coming, Opened, RelayLimits, Reserve, Reserved, Shares, Through


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    size: int = 0


class Told(msgspec.Struct, frozen=True, tag="told"):
    text: str = ""


DATA = os.urandom(3_000_000)


async def answer(connection, message, body):
    return Told(connection.way), DATA[: message.size]


def send(peer, datagram, to):
    """A datagram from one peer's socket to another's."""
    peer._board._sockets.send([(datagram, ("127.0.0.1", to.port))])


async def until(condition, seconds=60):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def three(peer):
    """A host with a reservation, a relay, and a caller; what the caller knows of the host is the relay."""
    relay, host, caller = await peer(), await peer(), await peer()
    service = relay.become_relay()
    host.on(Ask, answer)
    way = Route("relayed", "127.0.0.1", relay.port, relay.address)
    await host.reserve(way)
    return host, relay, caller, way, service


async def ask(connection, size=0):
    async with connection.exchange(Ask(size), reply=Told) as reply:
        return reply.message, await reply.body.read_all(1 << 24)


async def test_a_peer_is_reached_through_a_relay_and_then_without(three):
    host, relay, caller, way, service = three
    connection = await caller.connect_by([way], expect=host.address)
    assert connection.peer == host.address
    assert connection.way == "relayed"
    by_relay = {each.subnet for each in (connection, *host.connections.values())}
    assert by_relay == {f"127.0.0.1:{relay.port}"}, "nobody else knows where it is"
    told, data = await ask(connection, 100_000)
    assert data == DATA[:100_000]
    await until(lambda: connection.way == "punched")
    told, data = await ask(connection, len(DATA))
    assert data == DATA
    assert told.text == "punched" and connection.subnet == f"127.0.0.1:{host.port}"
    assert connection is caller.connections[host.address]
    await until(lambda: service.circuits == 0)
    carried = service.carried_bytes
    assert (await ask(connection, len(DATA)))[1] == DATA
    assert service.carried_bytes == carried
    assert len(host.carrier) == len(caller.carrier) == 0


async def test_the_path_changes_in_mid_transfer_and_nothing_is_lost(three):
    host, _, caller, way, _service = three
    connection = await caller.connect_by([way], expect=host.address)
    async with asyncio.timeout(60):
        while connection.way == "relayed":
            got = await asyncio.gather(*(ask(connection, len(DATA)) for _ in range(2)))
            assert all(data == DATA for _, data in got)
    assert connection.way == "punched"


async def test_a_direct_route_that_answers_wins_over_the_relay(three):
    host, _, caller, way, service = three
    routes = [way, Route("direct", "127.0.0.1", 9), Route("direct", "127.0.0.1", host.port)]
    connection = await caller.connect_by(routes, expect=host.address)
    assert connection.way == "direct"
    assert service.circuits_opened == 0


async def test_a_peer_without_a_route_is_out_of_reach(peer, new_identity):
    caller = await peer()
    with pytest.raises(PeerUnreachable, match="no route"):
        await caller.connect_by([], expect=new_identity().address)
    with pytest.raises(PeerUnreachable):
        await caller.connect_by([Route("direct", "100::1", 4433)], expect=new_identity().address, timeout=1)


async def test_a_relay_is_no_open_proxy(three, peer, new_identity):
    """It carries to whoever has reserved with a proved wallet, and to no address that anybody names."""
    host, relay, caller, _, service = three
    connection = await caller.connect("127.0.0.1", relay.port)
    for stranger in (new_identity().address, caller.address):
        with pytest.raises(RequestFailed, match="has no reservation"):
            await connection.request(Through(stranger), reply=Opened)
    for nobody in ("0x", "127.0.0.1:9"):
        with pytest.raises(RequestFailed, match="bad-request"):
            await connection.request(Through(nobody), reply=Opened)
    for head in (head_of(new_tag()), head_of(new_tag())[:5], b"\x0c"):
        send(caller, head + os.urandom(1200) * (len(head) > 5), relay)
    await host.close()
    await until(lambda: service.reservations == 0)
    with pytest.raises(RequestFailed, match="has no reservation"):
        await connection.request(Through(host.address), reply=Opened)
    assert service.carried_bytes == service.circuits == 0


async def test_only_a_relay_that_was_asked_announces_callers(peer):
    host, stranger = await peer(), await peer()
    host.on(Ask, answer)
    connection = await stranger.connect("127.0.0.1", host.port)
    with pytest.raises(RequestFailed, match="no reservation"):
        await connection.request(Coming(new_tag(), stranger.address), reply=Opened)
    send(stranger, head_of(new_tag()) + os.urandom(1200), host)
    await connection.request(Ask(), reply=Told)
    assert len(host.carrier) == 0


async def test_reservations_and_circuits_have_bounds(peer, monkeypatch):
    monkeypatch.setattr(punching, "RETRIES_S", ())  # a connection that gets through directly has no circuit any more
    relay = await peer()
    relay.become_relay(RelayLimits(reservations=3, circuits_of_wallet=2))
    way = Route("relayed", "127.0.0.1", relay.port, relay.address)
    hosts = [await peer() for _ in range(4)]
    for host in hosts[:3]:
        await host.reserve(way)
    with pytest.raises(RequestFailed, match="no place left"):
        await hosts[3].reserve(way)
    caller = await peer()
    for host in hosts[:2]:
        assert (await caller.connect_by([way], expect=host.address)).peer == host.address
    with pytest.raises(RequestFailed, match="carries as much as it may"):
        await caller.connect_by([way], expect=hosts[2].address)


async def test_a_circuit_ends_when_it_has_carried_what_it_may(peer, monkeypatch):
    monkeypatch.setattr(punching, "RETRIES_S", ())
    relay, host, caller = await peer(), await peer(), await peer()
    service = relay.become_relay(RelayLimits(circuit_bytes=100_000))
    host.on(Ask, answer)
    way = Route("relayed", "127.0.0.1", relay.port, relay.address)
    await host.reserve(way)
    connection = await caller.connect_by([way], expect=host.address)
    with pytest.raises(ConnectionLost, match="carried all that it may"):
        await ask(connection, len(DATA))
    await until(lambda: not host.connections.get(caller.address))
    assert service.carried_bytes <= 100_000
    assert len(host.carrier) == len(caller.carrier) == service.circuits == 0


async def test_a_relay_that_drops_repeats_and_forges_changes_nothing(three, monkeypatch):
    host, _, caller, way, service = three
    monkeypatch.setattr(punching, "RETRIES_S", ())
    pass_on, seen, last = service.pass_on, [], [b""]

    def tamper(tag, data, address):
        seen.append(data)
        on_its_way = pass_on(tag, data, address)
        if on_its_way is None:
            return None
        (sent, target), turn = on_its_way, len(seen) % 10
        forged = {
            5: last[0] or sent,
            7: sent[:-1] + bytes([sent[-1] ^ 1]),
            9: sent[:9] + os.urandom(100),
        }
        last[0] = sent
        return None if turn == 3 else (forged.get(turn, sent), target)

    monkeypatch.setattr(service, "pass_on", tamper)
    connection = await caller.connect_by([way], expect=host.address)
    told, data = await ask(connection, 200_000)
    assert (told.text, data) == ("relayed", DATA[:200_000])
    assert not any(DATA[at : at + 16] in b"".join(seen) for at in range(0, 200_000, 20_000))


async def test_whoever_is_reached_by_two_relays_loses_one_and_is_reached(peer, monkeypatch):
    monkeypatch.setattr(punching, "RETRIES_S", ())
    host, caller, relays = await peer(), await peer(), [await peer(), await peer()]
    host.on(Ask, answer)
    for relay in relays:
        relay.become_relay()
    ways = [Route("relayed", "127.0.0.1", each.port, each.address) for each in relays]
    for way in ways:
        await host.reserve(way)
    connection = await caller.connect_by(ways, expect=host.address)
    await ask(connection)
    await relays[0].close()
    await until(connection.closed.is_set)
    assert "the relay that carried it is gone" in connection.reason
    again = await caller.connect_by(ways, expect=host.address)
    assert (await ask(again, 100))[1] == DATA[:100]
    await until(lambda: host.relays() == ways[1:])


async def test_who_is_behind_a_relay_is_no_relay_and_reserves_at_none(three, monkeypatch):
    host, _, caller, way, _service = three
    monkeypatch.setattr(punching, "RETRIES_S", ())
    host.become_relay()
    connection = await caller.connect_by([way], expect=host.address)
    for message, reply in ((Reserve(), Reserved), (Through(host.address), Opened)):
        with pytest.raises(RequestFailed, match="reached directly"):
            await connection.request(message, reply=reply)
    with pytest.raises(RequestFailed, match="is not dialled back"):
        await connection.request(DialBack(4433, b""), reply=DialledBack)


async def test_a_peer_that_asks_to_meet_all_the_time_is_told_to_wait(three, monkeypatch):
    host, _, caller, way, _service = three
    monkeypatch.setattr(punching, "RETRIES_S", ())
    connection = await caller.connect_by([way], expect=host.address)
    with pytest.raises(RequestFailed, match="nobody has met"):
        await connection.request(Go(), reply=Met)
    with pytest.raises(RequestFailed, match="later"):
        for _ in range(20):
            await connection.request(Meet((("192.0.2.1", 4433),)), reply=Met)
    with pytest.raises(RequestFailed, match="bad-request"):
        await connection.request(Meet((("192.0.2.1", 4433),) * 100), reply=Met)
    direct = await caller.connect("127.0.0.1", host.port)
    with pytest.raises(RequestFailed, match="direct already"):
        await direct.request(Meet(()), reply=Met)


async def test_peers_say_where_one_is_seen_and_get_through_to_it(peer):
    server, client = await peer(), await peer()
    await client.connect("127.0.0.1", server.port)
    found = await client.examine()
    assert found.nat == Nat.OPEN
    assert found.observed == (("127.0.0.1", client.port),)
    assert [(each.host, each.port) for each in found.confirmed] == [("127.0.0.1", client.port)]


async def test_a_peer_that_only_says_that_it_got_through_is_not_believed(peer):
    liar, client = await peer(), await peer()

    async def lie(*_):
        return DialledBack(True)

    liar.on(DialBack, lie)
    await client.connect("127.0.0.1", liar.port)
    assert not (await client.examine()).confirmed


async def test_a_relay_that_does_not_answer_is_left_alone(peer, new_identity):
    """Peers name relays: one could name a victim."""
    caller, victim = await peer(), Route("relayed", "127.0.0.1", 9, new_identity().address)
    for _ in range(3):
        with pytest.raises(PeerUnreachable):
            await caller.connect_by([victim], expect=new_identity().address, timeout=0.2)
    start = asyncio.get_running_loop().time()
    with pytest.raises(PeerUnreachable, match="a moment ago"):
        await caller.connect_by([victim], expect=new_identity().address)
    assert asyncio.get_running_loop().time() - start < 5


async def test_a_relay_cannot_make_up_callers_without_end(three):
    host, relay, _, _, _ = three
    (connection,) = relay.connections.values()
    with pytest.raises(RequestFailed, match="too many"):
        for _ in range(1000):
            await connection.request(Coming(new_tag(), relay.address), reply=Opened)
    assert len(host.carrier) == MAX_FLOWS_OF_RELAY


async def test_nobody_is_dialled_back_elsewhere_or_often(peer):
    server, client = await peer(), await peer()
    connection = await client.connect("127.0.0.1", server.port)
    for port in (0, 53, 1023, 65_536, -1):
        with pytest.raises(RequestFailed, match="is not dialled back"):
            await connection.request(DialBack(port, b""), reply=DialledBack)
    assert not (await connection.request(DialBack(client.port, b"another's"), reply=DialledBack)).reached
    with pytest.raises(RequestFailed, match="too many"):
        for _ in range(20):
            await connection.request(DialBack(client.port, b""), reply=DialledBack)
    assert client.connections.keys() == {server.address}


def test_what_lies_between_shows_in_what_others_see():
    seen = {"asked": 2, "own": ("198.51.100.1", "10.0.0.2"), "port": 4433}
    assert classify([("192.0.2.1", 5)] * 2, reached=True, **seen) == Nat.OPEN
    assert classify([("192.0.2.1", 5)] * 2, reached=False, **seen) == Nat.CONE
    assert classify([("192.0.2.1", 5), ("192.0.2.1", 6)], reached=False, **seen) == Nat.SYMMETRIC
    assert classify([("198.51.100.1", 4433)] * 2, reached=False, **seen) == Nat.FIREWALL
    assert classify([("192.0.2.1", 5)], reached=False, **seen | {"asked": 1}) == Nat.UNKNOWN


def test_no_packet_goes_where_a_peer_has_no_business():
    networks = ["192.168.7.2/24", "2001:db8:7::2/64"]
    good = [("198.51.100.1", 4433), ("192.168.7.9", 4433), ("2001:db8:9::1", 4433)]
    bad = [
        *(("198.51.100.1", port) for port in (0, 53, 123, 443, 1023)),
        *((host, 4433) for host in ("192.168.8.9", "10.0.0.1", "172.16.0.1", "100.64.0.1", "fd00::1")),
        *((host, 4433) for host in ("127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255")),
        *(
            (host, 4433)
            for host in ("169.254.1.1", "fe80::1", "100::1", "victim.example", "", "1.2.3", "::ffff:10.0.0.1")
        ),
    ]
    found = worth_probing([*bad, *good, *bad], networks, here=False)
    assert [(each[0], each[1]) for each in found] == good
    assert worth_probing([("127.0.0.1", 4433), *good], networks, here=True) == [("127.0.0.1", 4433)]


def test_each_user_of_a_relay_has_a_share_of_its_rate():
    shares, carried = Shares(1_000_000.0), dict.fromkeys("abc", 0)
    for tick in range(20_000):
        now = tick / 4000
        for user, wants in (("a", 10), ("b", 1), ("c", 1 if now > 2.5 else 0)):
            for _ in range(wants):
                carried[user] += 1200 * shares.take(user, 1200, now)
    assert 0.9 < carried["a"] / carried["b"] < 1.1
    assert 4_500_000 < sum(carried.values()) < 5_600_000
    assert carried["c"] > 600_000


async def test_a_tag_is_worth_nothing_at_another_address(three, peer, monkeypatch):
    """Whoever learns one neither spends what the relay carries for others nor reaches anybody by it."""
    host, relay, caller, way, service = three
    monkeypatch.setattr(punching, "RETRIES_S", ())
    connection = await caller.connect_by([way], expect=host.address)
    thief, tags = await peer(), list(service._legs)
    await thief.connect("127.0.0.1", relay.port)
    carried = service.carried_bytes
    for tag in tags:
        for target in (relay, host, caller):
            send(thief, head_of(tag) + os.urandom(1200), target)
    told, data = await ask(connection, 1000)
    assert (told.text, data) == ("relayed", DATA[:1000])
    assert service.carried_bytes - carried < 1200 * len(tags) * 3


async def test_a_relay_sends_to_no_address_that_has_not_answered(three, monkeypatch):
    """An end could write a victim's address on its packets."""
    host, _, caller, way, service = three
    monkeypatch.setattr(punching, "RETRIES_S", ())
    await caller.connect_by([way], expect=host.address)
    tag, (_, leg, other) = next(iter(service._legs.items()))
    here = leg.end.link.address
    assert service.pass_on(tag, head_of(tag) + b"packet", here) == (other.head + b"packet", other.end.link.address)
    monkeypatch.setattr(other.end.link.quic, "address_proved", lambda: False)
    assert service.pass_on(tag, head_of(tag) + b"packet", here) is None


async def test_a_connection_whose_direct_path_dies_goes_on_by_the_relay(three, monkeypatch):
    host, _, caller, way, service = three
    connection = await caller.connect_by([way], expect=host.address)
    await until(lambda: connection.way == "punched" and service.circuits == 0)
    for one, other in ((host, caller), (caller, host)):
        cut_off(one, other, monkeypatch)
    told, data = await ask(connection, len(DATA))
    assert (told.text, data) in (("punched", DATA), ("relayed", DATA))
    assert connection.way == "relayed"
    assert connection is caller.connections[host.address]


def cut_off(peer, other, monkeypatch):
    """Nothing that `peer` sends to `other` arrives."""
    sockets = peer._board._sockets
    send = sockets.send
    monkeypatch.setattr(
        sockets, "send", lambda datagrams: send([each for each in datagrams if each[1][1] != other.port])
    )
