"""Where a peer listens, where others reach it, and whom it can dial are three things."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from proofyard.transport import EndpointUnavailable, PeerUnreachable
from proofyard.transport.reach import (
    advertised,
    exposure,
    has_ipv6,
    is_dialled_from_elsewhere,
    is_near,
    listening_host,
    listening_port,
    split_endpoint,
)
from proofyard.transport.sockets import reaches

ROLES = Path(__file__).parents[2] / "scripts" / "transport_roles.py"
needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    text: str = ""


class Told(msgspec.Struct, frozen=True, tag="told"):
    text: str = ""


async def answer(connection, message, body):
    return Told(connection.remote[0])


@pytest.mark.parametrize(
    ("given", "registered", "bound", "says"),
    [
        ("", "verifier.example.org:4433", ("127.0.0.1", 4433), "verifier.example.org:4433"),
        ("", "192.0.2.7:4433", ("::", 9), "192.0.2.7:4433"),
        ("", "[2001:db8::7]:4433", ("0.0.0.0", 9), "[2001:db8::7]:4433"),
        ("198.51.100.1:1", "192.0.2.7:4433", ("0.0.0.0", 9), "198.51.100.1:1"),
        ("", "127.0.0.1:4433", ("127.0.0.1", 9), "127.0.0.1:9"),
        ("", "localhost:4433", ("::1", 9), "[::1]:9"),
        ("", "", ("0.0.0.0", 9), "127.0.0.1:9"),
        ("", "0.0.0.0:4433", ("10.0.0.1", 9), "10.0.0.1:9"),
        ("", "[::]:4433", ("2001:db8::1", 9), "[2001:db8::1]:9"),
        ("", "rubbish", ("127.0.0.1", 9), "127.0.0.1:9"),
    ],
)
def test_what_was_registered_for_others_stays(given, registered, bound, says):
    assert advertised(given, registered, *bound) == says


def test_where_nothing_else_is_said_one_listens_where_one_is_dialled():
    anywhere = "::" if has_ipv6() else "0.0.0.0"
    for endpoint in ("verifier.example.org:4433", "192.0.2.7:4433", "[2001:db8::7]:4433"):
        assert is_dialled_from_elsewhere(endpoint)
        assert (listening_host("", endpoint), listening_port(0, endpoint)) == (anywhere, 4433)
        assert (listening_host("10.0.0.1", endpoint), listening_port(7, endpoint)) == ("10.0.0.1", 7)
    for endpoint in ("", "127.0.0.1:4433", "127.9.9.9:4433", "[::1]:4433", "localhost:4433", "x", "192.0.2.7:99999"):
        assert (listening_host("", endpoint), listening_port(0, endpoint)) == ("127.0.0.1", 0)


def test_a_node_that_nobody_dials_listens_where_it_can_reach_its_verifiers():
    anywhere = "::" if has_ipv6() else "0.0.0.0"
    assert listening_host("", "", "127.0.0.1:1", "192.0.2.7:4433") == anywhere
    assert listening_host("", "", "127.0.0.1:1", "[::1]:2") == "127.0.0.1"
    assert listening_host("10.0.0.1", "", "192.0.2.7:4433") == "10.0.0.1"


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("127.0.0.1", "programs of this machine alone"),
        ("::1", "programs of this machine alone"),
        ("::", "every address of this machine, IPv4 and IPv6"),
        ("0.0.0.0", "every address of this machine, IPv4,"),
        ("192.0.2.7", "strangers reach it at 192.0.2.7"),
        ("fe80::1%eth0", "strangers reach it at fe80::1%eth0"),
    ],
)
def test_a_program_says_who_can_reach_it(host, says):
    assert says in exposure(host, 4433)
    assert "4433" in exposure(host, 4433)


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("verifier.example.org:4433", "verifier.example.org"),
        ("verifier.example.org.:4433", "verifier.example.org."),
        ("m\u00fcnchen.example:4433", "m\u00fcnchen.example"),
        ("xn--mnchen-3ya.example:4433", "xn--mnchen-3ya.example"),
        ("my_host-1:04433", "my_host-1"),
        ("192.0.2.7:4433", "192.0.2.7"),
        ("[2001:db8::7]:4433", "2001:db8::7"),
        ("[::ffff:192.0.2.7]:4433", "::ffff:192.0.2.7"),
        ("[fe80::1%eth0]:4433", "fe80::1%eth0"),
    ],
)
def test_an_endpoint_is_a_host_and_a_port(endpoint, host):
    assert split_endpoint(endpoint) == (host, 4433)


@pytest.mark.parametrize(
    "endpoint",
    [
        *("", "h", ":4433", "h:", "h:0", "h:65536", "h:-1", "h:+443", "h:4_433", "h:1e3", "h:\u0664\u0664", "h:4433/"),
        *("h:4433 ", " h:4433", "h :4433", "h:4433\n", "h\n:4433", "a b:4433", "h\0:4433", "h:4433\r"),
        *("http://h:4433", "udp://h:4433", "/ip4/192.0.2.7/udp/4433/quic", "user:pw@h:4433", "h?:4433", "h#:4433"),
        *("::1", "::1:4433", "2001:db8::7:4433", "[::1", "[::1:4433", "::1]:4433", "[[::1]]:4433", "[]:4433", "[h]:1"),
        *("h:1,g:2", "h,g:4433", "*:4433", "-h:4433", "h-.org:4433", "h..org:4433", f"{'x' * 64}:1", f"{'x.' * 127}:1"),
        *("1.2.3:4433", "1.2.3.4.5:1", "256.1.1.1:1", "0177.0.0.1:1", "0x7f.1:1", "2130706433:1", "127.1:1", "0:4433"),
    ],
)
def test_what_nobody_could_dial_is_no_endpoint(endpoint):
    with pytest.raises(ValueError, match=r"."):
        split_endpoint(endpoint)
    assert not is_dialled_from_elsewhere(endpoint)


@pytest.mark.parametrize("host", ["LOCALHOST", "localhost.", "a.localhost", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"])
def test_loopback_has_several_spellings(host):
    assert not is_dialled_from_elsewhere(f"{host}:4433")
    assert advertised("", f"{host}:4433", "127.0.0.1", 9) == "127.0.0.1:9"


async def test_who_listens_at_a_name_dials_all_the_same(peer):
    server, named = await peer(), await peer(host="localhost")
    assert (await named.connect("127.0.0.1", server.port)).peer == server.address
    assert named.host in ("127.0.0.1", "::1")
    connection = await named.connect_to(f"127.0.0.1:{server.port}", expect=server.address)
    assert connection.peer == server.address


@pytest.mark.parametrize("host", ["*", "[::1]", "no.such.invalid", "h:4433", " ", "\0", "\u00fc" * 70])
async def test_a_host_that_is_none_cannot_be_listened_at(peer, host):
    with pytest.raises(EndpointUnavailable, match="choose another --host"):
        await peer(host=host)


@pytest.mark.parametrize("endpoint", ["", "h", "h:0", "http://h:1", "h\n:1", "x" * 5000, "::1:4433"])
async def test_an_endpoint_in_the_registry_that_is_none_is_somebody_out_of_reach(peer, new_identity, endpoint):
    with pytest.raises(PeerUnreachable, match="is not HOST:PORT") as caught:
        await (await peer()).connect_to(endpoint, expect=new_identity().address)
    assert len(str(caught.value)) < 1000


async def test_a_name_that_is_not_resolved_in_time_is_given_up(peer, monkeypatch):
    client = await peer()

    async def never(*_, **__):
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    with pytest.raises(PeerUnreachable, match="no answer within"):
        await client.connect("slow.example", 4433, timeout=0.1)


@pytest.mark.parametrize(
    ("bound", "host", "does"),
    [
        ("127.0.0.1", "127.0.0.2", True),
        ("127.0.0.1", "192.0.2.1", False),
        ("127.0.0.1", "::1", False),
        ("0.0.0.0", "192.0.2.1", True),
        ("0.0.0.0", "::1", False),
        ("::", "192.0.2.1", True),
        ("::", "2001:db8::1", True),
        ("::1", "2001:db8::1", False),
        ("10.0.0.1", "192.0.2.1", True),
        ("10.0.0.1", "fe80::1%eth0", False),
    ],
)
def test_which_socket_reaches_whom(bound, host, does):
    assert reaches(bound, host) == does


@needs_ipv6
@pytest.mark.parametrize("listens", ["127.0.0.1", "::1", "::", "0.0.0.0"])
async def test_everybody_is_dialled_from_wherever_one_listens(peer, listens):
    client = await peer(host=listens)
    for host in ("127.0.0.1", "::1", "::"):
        server = await peer(host=host)
        server.on(Ask, answer)
        for target in ("127.0.0.1", "::1") if host == "::" else (host,):
            connection = await client.connect(target, server.port, expect=server.address)
            assert await connection.request(Ask(), reply=Told) == Told(target)
            await connection.close()


@needs_ipv6
async def test_a_name_is_tried_at_all_of_its_addresses(peer, monkeypatch):
    """The first does not answer, the second is of a family that the server does not have, the third is right."""
    server, client = await peer(), await peer()
    found = [
        (socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.77", server.port)),
        (socket.AF_INET6, socket.SOCK_DGRAM, 17, "", ("::1", server.port, 0, 0)),
        (socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.1", server.port)),
    ]

    async def lookup(*_, **__):
        return found

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lookup)
    connection = await client.connect("verifier.example", server.port, expect=server.address, timeout=20)
    assert connection.peer == server.address
    assert len(client._open) == 1
    found[:] = found[:1]
    with pytest.raises(PeerUnreachable, match="no answer"):
        await client.connect("other.example", server.port, timeout=1)
    assert len(client._open) == 1


async def test_nobody_comes_in_by_the_socket_that_only_dials(peer):
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    client, server, stranger = await peer(), await peer(host="::1"), await peer()
    await client.connect("::1", server.port)
    (dialling,) = client._board._sockets._dialling.values()
    with pytest.raises(PeerUnreachable):
        await stranger.connect("::1", dialling.address[1], timeout=1)
    assert len(client.connections) == 1


@pytest.mark.parametrize(
    ("host", "near"),
    [
        *(("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("fe80::1%eth0", True), ("fd00::7", True)),
        *(("10.1.2.3", True), ("172.31.0.1", True), ("192.168.1.5", True), ("::ffff:192.168.1.5", True)),
        *(("172.32.0.1", False), ("203.0.113.5", False), ("2001:db8::1", False)),
        # Behind a provider's router, and behind a relay.
        *(("100.64.0.1", False), ("100::5", False)),
    ],
)
def test_what_is_near_has_no_router_in_between_that_forgets(host, near):
    assert is_near(host) == near


async def test_a_second_process_of_a_wallet_finds_the_first(peer, new_identity):
    identity = new_identity()
    first, other = await peer(identity=identity), await peer()
    second = await peer(identity=identity)
    assert await second.runs_elsewhere("127.0.0.1", first.port, timeout=20)
    assert not await second.runs_elsewhere("127.0.0.1", second.port, timeout=20)
    assert not await second.runs_elsewhere("127.0.0.1", other.port, timeout=20)
    await first.close()
    assert not await second.runs_elsewhere("127.0.0.1", first.port, timeout=0.5)


@needs_ipv6
@pytest.mark.parametrize("family", ["addresses", "addresses6"])
def test_a_peer_with_default_settings_reaches_another_host(links, family, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(500_000))

    def role(link, side, *arguments):
        command = [*link.command(side), sys.executable, str(ROLES), *map(str, arguments)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with links.VethPair() as link:
        there = getattr(link, family)["a"]
        with role(link, "a", "seed", source, "--host", "::") as seed:
            ready = json.loads(seed.stdout.readline())
            with role(link, "b", "leech", ready["cid"], f"{there}:{ready['port']}") as leech:
                done = json.loads(leech.stdout.readline())
            seed.stdin.close()
    assert done["bytes"] == 500_000
