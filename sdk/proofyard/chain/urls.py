"""What may be shown of a chain's addresses: scheme, host and port. User, password, path and query may be keys."""

import re
from urllib.parse import urlsplit

HIDDEN = "***"


def split(rpc_url: str) -> list[str]:
    """The endpoints that an `rpc_url` names, separated by commas or spaces."""
    return [part for part in re.split(r"[,\s]+(?=[A-Za-z]+://)|\s+", rpc_url.strip().rstrip(",")) if part]


def shown(url: str) -> str:
    """What may be shown of one URL."""
    try:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "") if host else HIDDEN
    except ValueError:
        return HIDDEN


def shown_all(rpc_url: str) -> str:
    """The same of all endpoints that an `rpc_url` names."""
    return ", ".join(map(shown, split(rpc_url)))
