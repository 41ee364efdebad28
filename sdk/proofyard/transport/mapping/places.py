"""Where at a router something is: a port and a path, since the host is never another one."""

import re
from dataclasses import dataclass
from urllib.parse import urljoin

_URL = re.compile(r"http://([0-9.]{7,15})(?::([0-9]{1,5}))?((?:/[!-\"$-~]{0,255})?)(?:#.*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    port: int
    path: str


def place_at(router: str, url: str, base: Place | None = None) -> Place | None:
    """Where `url` leads, which may be relative to `base`; None unless that is the router, by its address and HTTP."""
    try:
        whole = url if base is None else urljoin(f"http://{router}:{base.port}{base.path}", url)
    except ValueError:
        return None
    found = _URL.fullmatch(whole.strip())
    if found is None or found[1] != router or not 0 < int(found[2] or 80) < 65_536:
        return None
    return Place(int(found[2] or 80), found[3] or "/")
