"""How an optional part is installed: Proofyard is on no package index, so from where it came from."""

import json
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from urllib.parse import unquote, urlsplit

CHECKOUT = "."


def install_command(extra: str) -> str:
    """The command that installs an extra, such as `pip install '/home/me/proofyard[node]'`; where the checkout is not
    known it says to be in it."""
    found = checkout()
    command = f"pip install {shlex.quote(f'{found}[{extra}]')}"
    return command if found != CHECKOUT else f"{command}, in a checkout of Proofyard"


def checkout() -> str:
    """The folder that this installation came from, `.` where it is not known."""
    try:
        told = json.loads(distribution("proofyard").read_text("direct_url.json") or "{}")
        url = urlsplit(str(told["url"]))
    except (PackageNotFoundError, ValueError, KeyError, TypeError):
        return CHECKOUT
    return unquote(url.path) if url.scheme == "file" and url.path else CHECKOUT
