"""Where a service listens and where others reach it are two things: a router, a name or another port may lie between.

What is registered for others to dial stays as people wrote it. Only an endpoint on loopback, which nobody else could
use, follows where the service happens to listen.
"""

import ipaddress
import re
import socket

ANYWHERE_IPV4, ANYWHERE = "0.0.0.0", "::"  # noqa: S104
HOME = tuple(map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")))
"""Networks of private use (RFC 1918, RFC 4193)."""
LONGEST_NAME = 253
_ENDPOINT = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>[^\s:\[\]]+)):(?P<port>[0-9]{1,5})")
_LABEL = re.compile(rb"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_NUMBER = re.compile(rb"[0-9]+|0[xX][0-9A-Fa-f]*")


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT` or `[IPV6]:PORT`: an address or a name that could be one. Raises `ValueError`."""
    found = _ENDPOINT.fullmatch(endpoint)
    if found is None or not 0 < int(found["port"]) < 65_536:
        raise ValueError(f"{endpoint!r} is not HOST:PORT")
    if found["ipv6"]:
        ipaddress.IPv6Address(found["ipv6"])
    else:
        _require_name(found["host"])
    return found["ipv6"] or found["host"], int(found["port"])


def _require_name(host: str) -> None:
    """Raise `ValueError` for what is neither an IPv4 address nor a name. A name that ends with a number is one of the
    odd spellings of an address that only some machines read."""
    labels = host.removesuffix(".").encode("idna").split(b".")
    if _NUMBER.fullmatch(labels[-1]):
        ipaddress.IPv4Address(host)
    elif len(host) > LONGEST_NAME or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(f"{host!r} is no name of a host")


def address_in(endpoint: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address in an endpoint, that of IPv4 where it is one in IPv6's clothes; None for a name. Raises
    `ValueError`."""
    host, _ = split_endpoint(endpoint)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return (address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None) or address


def is_near(host: str) -> bool:
    """Whether the IP address `host` is of this machine or of a network at home, to which no router at its edge keeps a
    way open."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    return address.is_loopback or address.is_link_local or any(address in network for network in HOME)


def is_dialled_from_elsewhere(endpoint: str) -> bool:
    """Whether an endpoint is meant for other machines: neither empty nor on loopback."""
    try:
        address = address_in(endpoint)
    except ValueError:
        return False
    if address is not None:
        return not (address.is_loopback or address.is_unspecified)
    name = split_endpoint(endpoint)[0].lower().removesuffix(".")
    return name != "localhost" and not name.endswith(".localhost")


def listening_host(given: str, *endpoints: str) -> str:
    """The address to bind: as `given`; or, where that is empty, loopback unless one of `endpoints` (its own, or those
    of whom it works with) is for other machines."""
    if given or not any(map(is_dialled_from_elsewhere, endpoints)):
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


def exposure(host: str, port: int) -> str:
    """Who can send something to a socket that is bound to the IP address `host`, in words for whoever starts it."""
    address = ipaddress.ip_address(host.split("%")[0])
    if address.is_loopback:
        return f"programs of this machine alone reach it, at UDP port {port}"
    if address.is_unspecified:
        families = "IPv4 and IPv6" if address.version == 6 else "IPv4"
        return f"strangers reach it at every address of this machine, {families}, UDP port {port}"
    return f"strangers reach it at {host}, UDP port {port}"


def has_ipv6() -> bool:
    """Whether this machine has IPv6 at all."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind((ANYWHERE, 0))
    except OSError:
        return False
    return True
