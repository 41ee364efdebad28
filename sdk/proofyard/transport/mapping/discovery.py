"""Finding where a router describes itself, by SSDP.

Asked are the router alone and, as some answer nothing else, the group of the local network; heard is the router alone.
Anybody there can send in its name, so what an answer says is a place at the router and nothing more (`places`).
"""

import asyncio
import contextlib
import socket

from proofyard.transport.mapping.places import Place, place_at

PORT, GROUP = 1900, "239.255.255.250"
TARGETS = tuple(f"urn:schemas-upnp-org:device:InternetGatewayDevice:{version}" for version in (2, 1))
ROUNDS_S = (1.0, 2.0)
"""How long the router alone, and then everybody, has for an answer; of devices that hear a group that is up to a
second at random."""

MORE_S = 0.2
"""What follows the first answer by so much is heard as well."""

MOST_HEARD = 64
"""Datagrams of anybody, in a round."""

MOST_PLACES = 4
_HOPS = 2
_MAX_ANSWER = 2048


def search(target: str, host: str) -> bytes:
    """M-SEARCH of the UPnP Device Architecture 1.1 section 1.3.2."""
    lines = ("M-SEARCH * HTTP/1.1", f"HOST: {host}:{PORT}", 'MAN: "ssdp:discover"', "MX: 1", f"ST: {target}", "", "")
    return "\r\n".join(lines).encode()


def read_answer(answer: bytes, router: str) -> Place | None:
    """The place that an answer to a search names; None for anything else."""
    first, *lines = answer.decode("latin-1").splitlines() or [""]
    if not first.startswith(("HTTP/1.1 200", "HTTP/1.0 200")):
        return None
    fields = (line.partition(":") for line in lines)
    location = next((text for name, _, text in fields if name.strip().lower() == "location"), "")
    return place_at(router, location.strip())


async def discover(router: str, own: str) -> list[Place]:
    """Where the router says that it describes itself. `own`: this machine's address on its network."""
    found: dict[Place, None] = {}
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _HOPS)
        sock.bind((own, 0))
        for wait, hosts in zip(ROUNDS_S, ((router,), (router, GROUP)), strict=True):
            for host in hosts:
                for target in TARGETS:
                    with contextlib.suppress(OSError):
                        sock.sendto(search(target, host), (host, PORT))
            await _hear(sock, router, wait, found)
            if found:
                break
    return list(found)[:MOST_PLACES]


async def _hear(sock: socket.socket, router: str, wait: float, found: dict[Place, None]) -> None:
    """Take answers for so many seconds, or until some time after the first."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(wait) as end:
            for _ in range(MOST_HEARD):
                answer, (host, _) = await loop.sock_recvfrom(sock, _MAX_ANSWER)
                place = read_answer(answer, router) if host == router else None
                if place is not None and not found:
                    end.reschedule(loop.time() + MORE_S)
                if place is not None:
                    found[place] = None
