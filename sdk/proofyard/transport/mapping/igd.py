"""What is said to an Internet Gateway Device (UPnP, versions 1 and 2), and how its answers are read.

Sources: WANIPConnection:1 (2001), WANIPConnection:2 (2010), UPnP Device Architecture 1.1 sections 2 and 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from xml.sax.saxutils import escape

from proofyard.transport.mapping.elements import elements
from proofyard.transport.mapping.places import Place, place_at

KINDS = tuple(
    f"urn:schemas-upnp-org:service:{name}" for name in ("WANIPConnection:2", "WANIPConnection:1", "WANPPPConnection:1")
)
"""Services that map ports, the best first."""

ANY_PORT = KINDS[0]
"""The one with AddAnyPortMapping, where the router chooses."""

MOST_SERVICES = 4

SAME_PORT_ONLY, PERMANENT_ONLY = 724, 725
TAKEN = frozenset((718, 729, 501))
"""Errors for a port that is somebody else's; some routers have the general one for it."""

_ENVELOPE = (
    '<?xml version="1.0"?>\r\n<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
    's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
    '<u:{action} xmlns:u="{kind}">{arguments}</u:{action}></s:Body></s:Envelope>\r\n'
)


@dataclass(frozen=True)
class Service:
    """`kind`: one of `KINDS`; `control`: where its actions are asked for."""

    kind: str
    control: Place


def read_services(description: bytes, router: str, at: Place) -> list[Service]:
    """The services that map ports in the description found `at` the router, the best first, without those that it says
    are elsewhere. Raises `ValueError` for what is no description."""
    found: list[Service] = []
    base, fields = at, dict[str, str]()
    for name, text in elements(description):
        if name == "URLBase":
            base = place_at(router, text) or at
        elif name in ("serviceType", "controlURL"):
            fields[name] = text
        elif name == "service":
            control = place_at(router, fields.get("controlURL", ""), base)
            kind = fields.get("serviceType", "")
            if control is not None and kind in KINDS:
                found.append(Service(kind, control))
            fields = {}
    return sorted(dict.fromkeys(found), key=lambda service: KINDS.index(service.kind))[:MOST_SERVICES]


def call(service: Service, action: str, arguments: Mapping[str, object]) -> tuple[dict[str, str], bytes]:
    """Headers and body of a SOAP request."""
    written = "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in arguments.items())
    body = _ENVELOPE.format(action=action, kind=service.kind, arguments=written).encode()
    return {"Content-Type": 'text/xml; charset="utf-8"', "SOAPAction": f'"{service.kind}#{action}"'}, body


def read_reply(body: bytes) -> dict[str, str]:
    """What an action returned, or of a fault its `errorCode`, by name. Some routers return nothing at all. Raises
    `ValueError`."""
    return dict(elements(body)) if body.strip() else {}


def entry_of(port: int) -> dict[str, object]:
    """Which mapping an action means: that of the router's UDP port `port` for everybody."""
    return {"NewRemoteHost": "", "NewExternalPort": port, "NewProtocol": "UDP"}


def mapping_of(port: int, own: str, own_port: int, description: str, lease_s: int) -> dict[str, object]:
    """A mapping to `own_port` of the machine `own`. `lease_s`: seconds, 0 for ever."""
    return {
        **entry_of(port),
        "NewInternalPort": own_port,
        "NewInternalClient": own,
        "NewEnabled": 1,
        "NewPortMappingDescription": description,
        "NewLeaseDuration": lease_s,
    }
