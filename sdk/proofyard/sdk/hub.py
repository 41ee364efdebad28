"""Results on a hub: a folder becomes a model repository there, by huggingface_hub and the login that it has itself.

The token is read by that library alone (`hf auth login`, or HF_TOKEN), and so is the hub's address (HF_ENDPOINT).
"""

import re
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from proofyard.sdk.errors import JobRefused, NotPushed

T = TypeVar("T")

_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_DATASET = re.compile(r"([\w.-]{1,96}/)?[\w.-]{1,96}", re.ASCII)
WAITS_S = (1.0, 4.0)
"""Before it is tried again where the hub, or the way to it, is out of order."""
ANSWER_S = 120.0
"""So long a hub may say nothing."""
_HTTP = ("httpx", "httpx2", "httpcore", "requests", "urllib3")
_BUSY = "it is out of order or busy: try again later; what is there already is not sent twice"
_STEPS = {
    401: "log in with `hf auth login`, or set HF_TOKEN to a token that may write",
    403: "set HF_TOKEN to a token that may write, and name a repository of an owner that it is of",
    404: "the hub knows no such owner, or its address (HF_ENDPOINT) is not a hub's",
    413: "it is larger than this hub takes; send the adapter and not a merged model, or ask the hub for more",
    429: _BUSY,
}


def require_repository(repository: str) -> str:
    """Raise `JobRefused` for what is no repository's name, where huggingface_hub is not installed, or where its hub
    would get the token in plain text."""
    if not _REPOSITORY.fullmatch(repository):
        raise JobRefused(f"push_to: {repository[:100]!r} is no repository; give one as owner/name")
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise JobRefused("push_to: `pip install huggingface_hub` to send results to a hub") from None
    _require_private_way(str(HfApi().endpoint))
    return repository


def require_dataset(name: str) -> None:
    """Raise `JobRefused` for what is no dataset's name on a hub."""
    if not _DATASET.fullmatch(name):
        raise JobRefused(f"datasets: {name[:100]!r} is no dataset of a hub; give one as owner/name")


def push_folder(folder: Path, repository: str, *, private: bool = True, waits: Sequence[float] = WAITS_S) -> str:
    """Send a folder to the model repository `owner/name`, made private (or public) where it is new, and return its
    address. `waits`: seconds before it is tried again where the hub is out of order.

    Raises `NotPushed` with what the hub says, and the one thing to do; the folder stays as it is.
    """
    require_repository(repository)
    from huggingface_hub import HfApi

    api = HfApi()

    def create() -> object:
        return api.create_repo(repository, private=private, exist_ok=True, repo_type="model")

    def upload() -> object:
        return api.upload_folder(
            repo_id=repository, folder_path=folder, repo_type="model", commit_message="Add a result"
        )

    for call in (create, upload):
        _tried(call, repository, waits)
    return f"{api.endpoint}/{repository}"


def bound_waiting() -> None:
    """Have huggingface_hub give up on a hub that says nothing for `ANSWER_S`; of itself it waits for ever. For programs
    that are this process's only user of that library: it holds for all of its calls."""
    from huggingface_hub.utils import _http as http

    make: Any = getattr(http, "default_client_factory", None)
    install: Any = getattr(http, "set_client_factory", None)
    if make is None or install is None:  # an older release, over another HTTP library
        return

    def patient() -> Any:
        client = make()
        client.timeout = ANSWER_S
        return client

    install(patient)


def _tried(call: Callable[[], T], repository: str, waits: Sequence[float]) -> T:
    for wait in (*waits, None):
        try:
            return call()
        except Exception as error:  # of whichever HTTP library this release uses
            found, passes = _refused(repository, error)
            if wait is None or not passes:
                raise found from None
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _refused(repository: str, error: Exception) -> tuple[NotPushed, bool]:
    """What a call failed with, and whether that may pass by itself."""
    from huggingface_hub.errors import HfHubHTTPError

    lines = str(error).splitlines()
    said = " ".join((lines[0] if lines else "").split())[:300]
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code if error.response is not None else 0
        return NotPushed(repository, said, _STEPS.get(status, _BUSY if status >= 500 else "look at what it says")), (
            status == 429 or status >= 500
        )
    network = isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _HTTP
    reason = f"{type(error).__name__}: {said}"
    return NotPushed(repository, reason, "look at HF_ENDPOINT and the network, and try again"), network


def _require_private_way(endpoint: str) -> None:
    parts = urlsplit(endpoint)
    if parts.scheme == "https" or _is_here(parts.hostname or ""):
        return
    place = f"{parts.scheme}://{parts.hostname}"[:200]
    raise JobRefused(f"push_to: HF_ENDPOINT is {place}, where the token could be read on its way; give one with https")


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
