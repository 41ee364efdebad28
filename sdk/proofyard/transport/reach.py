"""Where a service listens and where others reach it are two things: a router, a name or another port may lie between.

What is registered for others to dial stays as people wrote it. Only an endpoint on loopback, which nobody else could
use, follows where the service happens to listen.
"""

import ipaddress
import socket

ANYWHERE_IPV4, ANYWHERE = "0.0.0.0", "::"  # noqa: S104


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT` or `[IPV6]:PORT`. Raises `ValueError`."""
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ValueError(f"{endpoint!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def is_dialled_from_elsewhere(endpoint: str) -> bool:
    """Whether an endpoint is meant for other machines: neither empty nor on loopback."""
    try:
        host, _ = split_endpoint(endpoint)
    except ValueError:
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def listening_host(given: str, endpoint: str) -> str:
    """The address to bind: as `given`; or, where that is empty, loopback unless `endpoint` is for other machines."""
    if given or not is_dialled_from_elsewhere(endpoint):
        return given or "127.0.0.1"
    return ANYWHERE if has_ipv6() else ANYWHERE_IPV4


def listening_port(given: int, endpoint: str) -> int:
    """The UDP port to bind: as `given`; or, where that is 0, the endpoint's if it is for other machines."""
    return given or (split_endpoint(endpoint)[1] if is_dialled_from_elsewhere(endpoint) else 0)


def advertised(given: str, registered: str, host: str, port: int) -> str:
    """What the Registry is to say: what was `given`, what was `registered` for other machines, or else where it
    listens."""
    if given or is_dialled_from_elsewhere(registered):
        return given or registered
    if host in (ANYWHERE_IPV4, ANYWHERE):
        host = "127.0.0.1"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def has_ipv6() -> bool:
    """Whether this machine has IPv6 at all."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind((ANYWHERE, 0))
    except OSError:
        return False
    return True
