"""The pages that people look at, a verifier's and a node's: plain files that both serve from here, as they are.

A page asks its own origin alone, for what programs ask as well, and shows what strangers wrote as text: its policy lets
no script run but these files', and no string become HTML (Trusted Types).
"""

from collections.abc import Container
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from ipaddress import ip_address
from typing import Final

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind} 'self'" for kind in ("script-src", "style-src", "connect-src", "img-src")),
        *(f"{kind} 'none'" for kind in ("base-uri", "form-action", "frame-ancestors")),
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer that is a file of a page."""
NETWORK, OPERATOR = "network.html", "node.html"
"""The page of a verifier, and that of a node."""
FOLDER: Final = "/pages/"
"""Where a page looks for the files beside it."""
PARTS: Final = ("icon.svg", "pages.css", "parts.js", "network.js", "node.js")
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@dataclass(frozen=True)
class File:
    """A file as it is answered."""

    body: bytes
    media_type: str


@cache
def read(name: str) -> File:
    """A file of the pages, by one of the names above."""
    body = (files(__name__) / "static" / name).read_bytes()
    return File(body, f"{_TYPES[name.rpartition('.')[2]]}; charset=utf-8")


def is_meant(header: str, names: Container[str] = ()) -> bool:
    """Whether a Host header means this machine: it names an address, `localhost`, or one of `names`. A name of somebody
    else that was made to lead here (DNS rebinding) is in the requests of its pages, and is none of these."""
    host = header.strip().lower()
    name = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    try:
        ip_address(name)
    except ValueError:
        return name == "localhost" or name in names
    return True
