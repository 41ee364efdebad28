"""Which port a router gives next: what follows from those before, and how a peer learns of them."""

import asyncio
import os

import pytest

from proofyard.protocol.routes import Route
from proofyard.transport import RequestFailed, punching, stun
from proofyard.transport.prediction import FRESH_S, MAX_AHEAD, Forecasts, Standing, given_ports, predict, stand
from proofyard.transport.punching import OPENINGS, Go, Meet, Met
from proofyard.transport.reachability import Observe, Observed

RFC5769_ANSWER = bytes.fromhex(
    "0101001c2112a442b7e7a701bc34d686fa87dfae"  # head, without what signs it
    "8022000b7465737420766563746f7220"
    "002000080001a147e112a643"
)


@pytest.mark.parametrize(
    ("ports", "next_ones"),
    [
        ((40_000, 40_001, 40_002), [40_003, 40_004, 40_005]),
        ((40_000, 40_002, 40_004, 40_006), [40_008, 40_010, 40_012]),
        ((40_007, 40_006, 40_004), [40_003, 40_002, 40_001]),
        ((40_000, 40_001, 40_005, 40_006), [40_007, 40_008, 40_009]),
        ((40_000, 40_007, 40_001), [40_003, 40_002, 40_004]),
        ((65_530, 65_532, 65_534), []),
        ((1_026, 1_025, 1_024), []),
        ((40_000, 40_100, 40_200), []),
        ((40_000, 51_234, 1_500, 33_333), []),
        ((40_000, 40_000, 40_001), []),
        ((40_000, 40_001), []),
        ((), []),
    ],
)
def test_an_easy_rule_shows_in_what_was_given(ports, next_ones):
    assert predict(ports, 3) == next_ones


def test_each_attempt_goes_on_where_the_one_before_has_ended():
    standing = Standing(ahead=predict((40_000, 40_001, 40_002)))
    taken = [standing.take() for _ in range(4)]
    assert [len(each) for each in taken] == [MAX_AHEAD, MAX_AHEAD, MAX_AHEAD, 0]
    assert sum(taken, ()) == tuple(range(40_003, 40_003 + 3 * MAX_AHEAD))


def test_stun_is_as_the_rfc_has_it():
    identifier = RFC5769_ANSWER[8:20]
    assert stun.mapped(RFC5769_ANSWER, identifier) == ("192.0.2.1", 32_853)
    assert stun.mapped(RFC5769_ANSWER, bytes(12)) is None
    for end in range(len(RFC5769_ANSWER)):
        assert stun.mapped(RFC5769_ANSWER[:end], identifier) is None
    asked = stun.request(identifier)
    told = stun.answer(asked, ("198.51.100.7", 4433))
    assert stun.mapped(told, identifier) == ("198.51.100.7", 4433)
    assert len(told) <= len(asked)


def test_only_a_whole_request_is_answered():
    asked, address = stun.request(os.urandom(12)), ("198.51.100.7", 4433)
    plain = b"\0\1\0\0" + asked[4:20]
    for other in (b"", plain, asked[:-1], asked + b"\0", b"\1" + asked[1:], bytes(4) + asked[4:], stun.indication()):
        assert stun.answer(other, address) is None
    assert stun.answer(asked, ("2001:db8::7", 4433, 0, 0)) is None


async def test_a_relay_says_which_ports_new_sockets_have_and_nobody_else_does(peer, monkeypatch):
    monkeypatch.setattr("proofyard.transport.prediction.ANSWER_S", 0.2)
    relay, other = await peer(), await peer()
    relay.become_relay()
    for parity in (0, 1):
        found = await given_ports(("127.0.0.1", relay.port), "127.0.0.1", parity=parity)
        assert len(set(found)) == 4
        assert all(port % 2 == parity for port in found)
    assert await given_ports(("127.0.0.1", relay.port), "198.51.100.7", parity=0) == []
    assert await given_ports(("127.0.0.1", other.port), "127.0.0.1", parity=0) == []
    assert await given_ports(("::1", relay.port), "127.0.0.1", parity=0) == []


async def test_a_relay_is_asked_so_often_and_no_more(peer):
    relay = (await peer()).become_relay()
    asked, address = stun.request(os.urandom(12)), ("198.51.100.7", 4433)
    answered = sum(relay.binding(asked, address) is not None for _ in range(2000))
    assert 400 <= answered < 1500


@pytest.fixture
def sees(peer):
    """A peer that this one has dialled, and that sees it where it is told to."""

    async def start(client, *seen):
        server = await peer()
        server.become_relay()

        async def observe(*_):
            return Observed(*seen)

        if seen:
            server.on(Observe, observe)
        return await client.connect("127.0.0.1", server.port)

    return start


async def test_ports_that_others_see_one_at_show_the_rule_too(peer, sees, monkeypatch):
    """A router may keep a new socket's own port, and count only where that one has a flow already."""
    client = await peer()
    dialled = [await sees(client, "198.51.100.7", port) for port in (40_000, 40_001, 40_002)]
    found = await stand(dialled[2], dialled, client.port)
    assert (found.seen, found.symmetric, found.take()[:2]) == (("198.51.100.7", 40_002), True, (40_003, 40_004))
    few = [await sees(client, "198.51.100.7", port) for port in (40_000, 40_007)]
    assert (await stand(few[0], few, client.port)).take() == ()

    async def one(*_, **__):
        return [40_002]

    with monkeypatch.context() as patch:
        patch.setattr("proofyard.transport.prediction.given_ports", one)
        assert (await stand(few[0], few, client.port)).take()[0] == 40_003
    same = [await sees(client, "198.51.100.7", 40_000) for _ in range(2)]
    assert await stand(same[0], same, client.port) == Standing(("198.51.100.7", 40_000))
    elsewhere = [await sees(client, "203.0.113.5", 1), await sees(client, "2001:db8::7", 2)]
    assert not (await stand(same[0], [*same, *elsewhere], client.port)).symmetric
    assert not (await stand(elsewhere[1], [*same, *elsewhere], client.port)).symmetric
    assert (await stand(same[0], [], client.port)).seen == ("198.51.100.7", 40_000)


async def test_a_forecast_lasts_for_a_few_attempts(peer):
    server, client, now, looks = await peer(), await peer(), [0.0], []
    connection = await client.connect("127.0.0.1", server.port)
    forecasts = Forecasts(lambda: now[0])

    async def look():
        looks.append(now[0])
        return Standing()

    first = await forecasts.of(connection, look)
    assert await forecasts.of(connection, look) is first
    now[0] = FRESH_S + 1
    assert await forecasts.of(connection, look) is not first
    forecasts.forget(connection)
    await connection.close()
    await forecasts.of(connection, look)
    assert len(looks) == 3
    assert not forecasts._kept


async def test_what_a_peer_says_comes_next_costs_few_small_packets_to_one_address(peer, monkeypatch):
    """It may be a victim's."""
    monkeypatch.setattr(punching, "RETRIES_S", ())
    monkeypatch.setattr(punching, "own_networks", list)
    relay, host, caller = await peer(), await peer(), await peer()
    relay.become_relay()
    way = Route("relayed", "127.0.0.1", relay.port, relay.address)
    await host.reserve(way)
    connection = await caller.connect_by([way], expect=host.address)
    host._ways._puncher._here = False
    sent, send = [], host._board._sockets.send

    def note(datagrams):
        sent.extend(each for each in datagrams if each[1][0] != "127.0.0.1")
        send([each for each in datagrams if each[1][0] == "127.0.0.1"])

    monkeypatch.setattr(host._board._sockets, "send", note)
    with pytest.raises(RequestFailed, match="bad-request"):
        await connection.request(Meet((("192.0.2.1", 4433),), tuple(range(2000, 2100))), reply=Met)
    places = (("192.0.2.1", 4433), ("192.0.2.9", 4433))
    await connection.request(Meet(places, (53, 1023, *range(40_000, 40_014))), reply=Met)
    await asyncio.wait_for(connection.request(Go(), reply=Met), 20)
    opened = [(data, address) for data, address in sent if len(data) == 20]
    assert {address for _, address in opened} == {("192.0.2.1", port) for port in range(40_000, 40_014)}
    assert len(opened) == OPENINGS * 14
    assert {address for data, address in sent if len(data) > 20} <= set(places)
