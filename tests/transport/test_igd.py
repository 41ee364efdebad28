"""A router that is asked by UPnP, and every lie that one can tell. The router here is a stand-in: it answers as the
specifications have it, or as a test says, and maps nothing (tests/nat has a real one)."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proofyard.transport.mapping import Mapper, Mapping, discovery, fetching, gateway, mapper
from proofyard.transport.mapping.gateway import Gateway

HOST, ELSEWHERE = "127.0.0.1", "127.0.0.2"
V1, V2 = (f"urn:schemas-upnp-org:service:WANIPConnection:{version}" for version in (1, 2))
DESCRIPTION = (
    '<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device><serviceList><service>'
    "<serviceType>{kind}</serviceType><controlURL>{control}</controlURL></service></serviceList></device></root>"
)
BOMB = (
    '<?xml version="1.0"?><!DOCTYPE root [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    "<root>&b;</root>"
)
Entry = tuple[str, int, str, int]
"""Client, its port, description and lease in seconds."""


class Router(asyncio.DatagramProtocol):
    """The stand-in. `says`: what an action is answered with instead, by its name: the code of an error, or a text.
    `silent_at`: the action that is done and not answered."""

    def __init__(self, kind: str = V1) -> None:
        self.kind, self.description, self.location = kind, "", ""
        self.control = "/control"
        self.says: dict[str, int | str] = {}
        self.entries: dict[int, Entry] = {}
        self.actions: list[str] = []
        self.outside = "198.51.100.7"
        self.is_permanent = False
        self.http: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] = self.answer
        self.port = 0
        self.silent_at, self.fell_silent = "", asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.socket = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        if data.startswith(b"M-SEARCH"):
            location = self.location or f"http://{HOST}:{self.port}/root.xml"
            self.socket.sendto(f"HTTP/1.1 200 OK\r\nLOCATION: {location}\r\nEXT:\r\n\r\n".encode(), address)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self.http(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"Content-Length: (\d+)", head)
        body = (await reader.readexactly(int(length[1]))).decode() if length else ""
        action = re.search(r'SOAPAction: "[^"#]+#(\w+)"', head)
        if action is None:
            status, text = 200, self.description or DESCRIPTION.format(kind=self.kind, control=self.control)
        else:
            self.actions.append(action[1])
            status, text = self.act(action[1], dict(re.findall(r"<(New\w+)>([^<]*)</", body)))
            if action[1] == self.silent_at:
                self.fell_silent.set()
                await reader.read()
        writer.write(f"HTTP/1.1 {status} Said\r\nContent-Length: {len(text.encode())}\r\n\r\n{text}".encode())
        await writer.drain()

    def act(self, action: str, values: dict[str, str]) -> tuple[int, str]:
        said = self.says.get(action)
        if isinstance(said, int):
            return 500, f"<s:Fault><detail><UPnPError><errorCode>{said}</errorCode></UPnPError></detail></s:Fault>"
        if isinstance(said, str):
            return 200, said
        port = int(values.get("NewExternalPort", 0))
        if action == "GetExternalIPAddress":
            return 200, f"<a><NewExternalIPAddress>{self.outside}</NewExternalIPAddress></a>"
        if action == "GetSpecificPortMappingEntry":
            if port not in self.entries:
                return 500, "<a><errorCode>714</errorCode></a>"
            names = ("NewInternalClient", "NewInternalPort", "NewPortMappingDescription", "NewLeaseDuration")
            written = zip(names, self.entries[port], strict=True)
            return 200, "<a>" + "".join(f"<{name}>{value}</{name}>" for name, value in written) + "</a>"
        if action == "DeletePortMapping":
            self.entries.pop(port, None)
            return 200, "<a/>"
        lease = int(values["NewLeaseDuration"])
        if self.is_permanent and lease:
            return 500, "<a><errorCode>725</errorCode></a>"
        if self.entries.get(port, (HOST,))[0] != HOST:
            return 500, "<a><errorCode>718</errorCode></a>"
        client, own = values["NewInternalClient"], int(values["NewInternalPort"])
        self.entries[port] = (client, own, values["NewPortMappingDescription"], lease)
        return 200, f"<a><NewReservedPort>{port}</NewReservedPort></a>" if "Any" in action else "<a/>"


@asynccontextmanager
async def serving(router: Router, host: str = HOST) -> AsyncIterator[int]:
    """Its TCP port."""
    server = await asyncio.start_server(router.serve, host, 0)
    try:
        router.port = server.sockets[0].getsockname()[1]
        yield router.port
    finally:
        server.close()


@pytest.fixture
async def start(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[Router], Awaitable[Gateway]]]:
    """Has a stand-in serve on loopback, where both who is asked and the group are."""
    loop, transports = asyncio.get_running_loop(), list[Any]()
    monkeypatch.setattr(discovery, "GROUP", HOST)
    monkeypatch.setattr(discovery, "MORE_S", 0.02)
    servers = []

    async def begin(router: Router) -> Gateway:
        servers.append(serving(router))
        await servers[-1].__aenter__()
        transport, _ = await loop.create_datagram_endpoint(lambda: router, local_addr=(HOST, 0))
        transports.append(transport)
        monkeypatch.setattr(discovery, "PORT", transport.get_extra_info("sockname")[1])
        return Gateway(HOST, HOST, 4433, "a wallet")

    yield begin
    for transport in transports:
        transport.close()
    for server in servers:
        await server.__aexit__(None, None, None)


async def test_a_router_of_either_version_maps_a_port_renews_it_and_forgets_it(start: Any) -> None:
    for kind, action in ((V1, "AddPortMapping"), (V2, "AddAnyPortMapping")):
        router = Router(kind)
        here = await start(router)
        found = await here.ask()
        assert found is not None
        assert found == Mapping(found.port, 7200, "UPnP", "198.51.100.7")
        assert found.port >= 49_152
        client, port, description, lease = router.entries[found.port]
        assert (client, port, lease) == (HOST, 4433, 7200)
        assert description.startswith("proofyard ")
        assert "wallet" not in description
        assert action in router.actions
        del router.actions[:]
        assert await here.renew() == found
        assert router.actions == ["GetExternalIPAddress", "AddPortMapping", "GetSpecificPortMappingEntry"]
        await here.release()
        assert not router.entries
        del router.actions[:]
        await here.release()
        assert not router.actions


async def test_a_router_that_knows_leases_for_ever_alone_has_them_deleted(start: Any) -> None:
    router = Router()
    router.is_permanent = True
    here = await start(router)
    found = await here.ask()
    assert router.entries[found.port][3] == 0
    assert found.lifetime_s == 7200, "it is looked at as often as others"
    assert await here.renew() == found
    await here.release()
    assert not router.entries


async def test_what_an_ended_program_left_for_ever_is_taken_over(start: Any) -> None:
    router = Router()
    router.is_permanent = True
    first = await (await start(router)).ask()
    again = Gateway(HOST, HOST, 5544, "a wallet")
    assert await again.ask() == first
    assert [entry[1] for entry in router.entries.values()] == [5544]


async def test_a_mapping_is_known_again_where_the_router_loses_its_description(start: Any) -> None:
    router = Router()
    here = await start(router)
    found = await here.ask()
    router.entries[found.port] = (HOST, 4433, "UDP", 7200)
    assert await here.ask() == found
    assert list(router.entries) == [found.port]


async def test_a_port_that_somebody_else_has_is_left_alone_and_another_one_asked_for(start: Any) -> None:
    router = Router()
    here = await start(router)
    of_program, of_machine, untold = here._ports[:3]
    router.entries[of_program] = (HOST, 51_413, "another program of this machine", 0)
    router.entries[of_machine] = ("192.168.1.9", 4433, "proofyard", 0)
    before = dict(router.entries)
    found = await here.ask()
    assert found.port == untold
    await here.release()
    assert router.entries == before
    router.says["GetSpecificPortMappingEntry"] = 401
    router.entries[of_program] = ("192.168.1.9", 1, "untold", 0)
    found = await here.ask()
    assert found.port == untold, "two are refused with error 718"
    router.says["AddPortMapping"] = 718
    assert await here.ask() is None
    await here.release()
    assert ("192.168.1.9", 1, "untold", 0) in router.entries.values()


@pytest.mark.parametrize("code", [401, 402, 606, 728, 0])
async def test_a_router_that_refuses_is_asked_once(start: Any, code: int) -> None:
    router = Router()
    router.says["AddPortMapping"] = code
    here = await start(router)
    assert await here.ask() is None
    assert router.actions.count("AddPortMapping") == 1
    assert here.error == code
    await here.release()
    assert "DeletePortMapping" not in router.actions


async def test_a_second_version_without_its_own_action_is_asked_by_the_first_ones(start: Any) -> None:
    router = Router(V2)
    router.says["AddAnyPortMapping"] = 401
    assert (await (await start(router)).ask()).port in router.entries


@pytest.mark.parametrize(
    ("said", "lasts"), [("0", 7200), ("1", 120), ("600", 600), ("9" * 40, 7200), ("-5", 7200), ("٣", 7200), ("", 7200)]
)
async def test_a_lease_is_believed_within_bounds(start: Any, said: str, lasts: int) -> None:
    router = Router()
    router.says["AddPortMapping"] = "<a/>"
    here = await start(router)
    router.says["GetSpecificPortMappingEntry"] = (
        f"<a><NewInternalClient>{HOST}</NewInternalClient><NewLeaseDuration>{said}</NewLeaseDuration>"
        f"<NewPortMappingDescription>{here._description}</NewPortMappingDescription></a>"
    )
    assert await here.ask() == Mapping(here._ports[0], lasts, "UPnP", "198.51.100.7")


@pytest.mark.parametrize("reserved", ["0", "65536", "-1", "9" * 5000, "1e3", "4433 4434", ""])
async def test_a_reserved_port_that_is_none_is_no_mapping(start: Any, reserved: str) -> None:
    router = Router(V2)
    router.says["AddAnyPortMapping"] = f"<a><NewReservedPort>{reserved}</NewReservedPort></a>"
    assert await (await start(router)).ask() is None


@pytest.mark.parametrize(
    ("said", "read"), [("100.64.3.2", "100.64.3.2"), ("0.0.0.0", ""), ("localhost", ""), ("1" * 9000, "")]
)
async def test_an_address_outside_is_kept_as_what_the_router_says(start: Any, said: str, read: str) -> None:
    router = Router()
    router.outside = said
    router.says["AddPortMapping"] = 501
    here = await start(router)
    assert await here.ask() is None
    assert here.outside == read


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.2:{port}/root.xml",
        "http://127.0.0.1@127.0.0.2:{port}/root.xml",
        "http://127.0.0.2:{port}\\@127.0.0.1/root.xml",
        "https://127.0.0.1:{port}/root.xml",
        "http://localhost:{port}/root.xml",
        "http://2130706433:{port}/root.xml",
        "file:///etc/passwd",
        "//127.0.0.2:{port}/root.xml",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:{port}/a b",
        "http://127.0.0.1:{port}/" + "a" * 900,
        "",
    ],
)
async def test_a_description_is_fetched_from_the_router_alone(start: Any, monkeypatch: Any, location: str) -> None:
    monkeypatch.setattr(discovery, "ROUNDS_S", (0.05, 0.05))
    router, other, called = Router(), Router(), list[str]()

    async def called_up(*_: Any) -> None:
        called.append(location)

    router.http = other.http = called_up
    here = await start(router)
    async with serving(other, ELSEWHERE) as port:
        router.location = location.format(port=port) or " "
        assert await here.ask() is None
    assert not called


async def test_answers_of_others_are_not_heard(start: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(discovery, "ROUNDS_S", (0.05, 0.05))
    router, loop = Router(), asyncio.get_running_loop()
    here = await start(router)
    answers = list[Any]()

    class Other(asyncio.DatagramProtocol):
        """Whoever sees the search in the group, and answers it again and again."""

    other, _ = await loop.create_datagram_endpoint(Other, local_addr=(ELSEWHERE, 0))

    def heard(data: bytes, address: Any) -> None:
        answers.append(address)
        for _ in range(200):
            other.sendto(f"HTTP/1.1 200 OK\r\nLocation: http://{HOST}:{router.port}/root.xml\r\n\r\n".encode(), address)

    router.datagram_received = heard  # type: ignore[method-assign]
    assert await here.ask() is None
    assert answers
    assert not router.actions
    other.close()


@pytest.mark.parametrize(
    "control",
    ["http://127.0.0.2:{port}/c", "//127.0.0.2:{port}/c", "https://127.0.0.1/c", "http://[::1]/c", "http://[/c", ""],
)
async def test_actions_are_asked_for_at_the_router_alone(start: Any, control: str) -> None:
    router, other = Router(), Router()
    here = await start(router)
    async with serving(other, ELSEWHERE) as port:
        base = f"<root><URLBase>http://{ELSEWHERE}:{port}</URLBase>" if not control else "<root>"
        router.description = DESCRIPTION.replace("<root>", base).format(kind=V1, control=control.format(port=port))
        await here.ask()
    assert not other.actions


@pytest.mark.parametrize(
    "description",
    [
        BOMB,
        BOMB.replace("a ", "% a "),
        '<!DOCTYPE a SYSTEM "http://127.0.0.2/a.dtd"><a/>',
        "<a>" * 5000,
        "<a/>" * 5000,
        "<a><b></a>",
        "\ud7ff\0",
        "",
        DESCRIPTION.format(kind="urn:schemas-upnp-org:service:WANIPConnection:3", control="/control"),
    ],
)
async def test_a_description_that_is_none_maps_nothing(start: Any, description: str) -> None:
    router = Router()
    router.description = description or " "
    assert await (await start(router)).ask() is None
    assert not router.actions


async def endless_head(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"A: " + b"a" * 60 + b"\r\n")
        await writer.drain()


async def endless_body(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"<a>" * 5000)
        await writer.drain()


async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n<")
    while True:
        writer.write(b"a")
        await asyncio.sleep(0.01)


def saying(answer: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    return say


@pytest.mark.parametrize(
    "http",
    [
        endless_head,
        endless_body,
        drip,
        saying(b""),
        saying(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        saying(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n<a/>"),
        saying(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n<a/>"),
        saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 5000 + b"\r\n\r\n"),
        saying(b"HTTP/1.1 200 OK\r\n" + b"A: a\r\n" * 500 + b"\r\n<a/>"),
    ],
)
async def test_an_answer_is_bounded_in_bytes_and_time(start: Any, monkeypatch: Any, http: Any) -> None:
    monkeypatch.setattr(fetching, "EXCHANGE_S", 0.3)
    router = Router()
    router.http = http
    here = await start(router)
    async with asyncio.timeout(60):
        assert await here.ask() is None


async def test_nobody_is_followed_elsewhere(start: Any) -> None:
    router, other, called = Router(), Router(), list[int]()

    async def called_up(*_: Any) -> None:
        called.append(1)

    other.http = called_up
    here = await start(router)
    async with serving(other, ELSEWHERE) as port:
        for status in (301, 302, 307, 308):
            router.http = saying(f"HTTP/1.1 {status} There\r\nLocation: http://{ELSEWHERE}:{port}/\r\n\r\n".encode())
            assert await here.ask() is None
    assert not called


async def test_an_answer_in_chunks_on_a_connection_that_stays_open_is_read(start: Any) -> None:
    router = Router()
    here = await start(router)
    text = DESCRIPTION.format(kind=V1, control="control").encode()
    open_still = asyncio.Event()

    async def chunked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        router.http = router.answer
        await reader.readuntil(b"\r\n\r\n")
        for piece in (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"%x\r\n%b\r\n" % (len(text), text)):
            writer.write(piece)
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await open_still.wait()

    router.http = chunked
    assert await here.ask() is not None
    open_still.set()


async def test_a_mapping_whose_answer_never_came_is_given_back(start: Any) -> None:
    router = Router()
    router.silent_at = "AddPortMapping"
    here = await start(router)
    asking = asyncio.create_task(here.ask())
    await router.fell_silent.wait()
    assert len(router.entries) == 1
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await here.release()
    assert not router.entries


async def test_a_router_gone_silent_holds_nobody_up(start: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(gateway, "RELEASE_S", 0.1)
    router = Router()
    here = await start(router)
    assert await here.ask() is not None

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    router.http = silent
    async with asyncio.timeout(fetching.EXCHANGE_S / 2):
        await here.release()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Mapper:
    """Asks the router at `HOST`, which counts as one at home, and where nobody listens for PCP."""
    monkeypatch.setattr(mapper, "is_home_address", lambda _: True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((HOST, 0))
        monkeypatch.setattr(mapper.pcp, "PORT", free.getsockname()[1])
    return Mapper(4433, "a wallet", HOST)


async def test_where_nobody_answers_by_pcp_a_port_is_kept_by_upnp(start: Any, here: Mapper) -> None:
    router = Router()
    await start(router)
    found = await here.ask()
    assert found is not None
    assert (found.protocol, here.public, here.outside, here.refused) == ("UPnP", found.port, "198.51.100.7", "")
    del router.actions[:]
    assert await here.ask() == found
    assert len(router.actions) == 3, "a renewal"
    router.entries.clear()
    router.says["AddPortMapping"] = 606
    assert await here.ask() is None
    assert (here.public, here.refused) == (0, "UPnP with error 606")
    del router.says["AddPortMapping"]
    assert await here.ask() == found
    await here.release()
    assert not router.entries
    assert here.public == 0


async def test_a_router_that_refuses_by_pcp_is_not_asked_by_upnp(start: Any, here: Mapper) -> None:
    class Refuses(asyncio.DatagramProtocol):
        """The stand-in's PCP, which is not authorised to map."""

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, address: Any) -> None:
            self.transport.sendto(b"\x02\x81\0\x02" + bytes(56), address)

    router = Router()
    await start(router)
    at = (HOST, mapper.pcp.PORT)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Refuses, local_addr=at)
    assert await here.ask() is None
    assert here.refused == "PCP"
    assert not router.actions
    transport.close()


async def test_a_mapping_follows_this_machine_to_another_address(start: Any, here: Mapper, monkeypatch: Any) -> None:
    router = Router()
    await start(router)
    found = await here.ask()
    monkeypatch.setattr(mapper, "_own", lambda _: "127.0.0.3")
    assert await here.ask() == found
    assert [entry[0] for entry in router.entries.values()] == ["127.0.0.3"]
    await here.release()
    assert not router.entries
