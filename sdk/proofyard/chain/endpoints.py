"""The addresses behind which a chain is reached: what may be shown of them, their connections, how often each is asked.

A network's `rpc_url` may name several endpoints, separated by commas: the first that is in order is asked, the next
ones while it is not. An endpoint that says "too many requests" is asked less often from then on (`Budget`), so nobody
has to know its limit.
"""

import threading
import time
from collections import deque
from functools import lru_cache
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, NewConnectionError, TimeoutError
from urllib3.util import Timeout

from proofyard.chain.errors import BadProxy, BadRpcUrl
from proofyard.chain.urls import shown, split
from proofyard.runtime.answers import NoAnswer, read_body

CONNECT_S, ANSWER_S, BODY_S = 10.0, 30.0, 60.0
"""To connect, without a byte, and for a whole answer."""
RECONNECT_S = 1.0
"""So long a connection that is refused or lost is made again, where there is no other endpoint."""
CONNECTIONS = 64
"""To one endpoint that are kept open."""
MAX_ENDPOINTS = 16
FIRST_PAUSE_S, REST_S = 0.25, 30.0
"""How long an endpoint that failed is not asked where there are others: the first time, and at most."""
MAX_ANSWER_BYTES = 256 << 20
LEAST_RATE, MOST_RATE = 2.0, 100.0
"""Requests a second that a budget is bounded by; above the second there is none."""
EASED_S = 2.0
"""After so long without a refusal a budget grows by `GROWTH`."""
GROWTH = 1.5
BUSY_STATUS = 429
LONGEST_WAIT_S = 30.0
"""An endpoint may ask to be left alone for so long at most (Retry-After)."""


def addresses(rpc_url: str) -> list[str]:
    """The endpoints that a network's `rpc_url` names, in order. Raises `BadRpcUrl`."""
    found = split(rpc_url)
    if not 0 < len(found) <= MAX_ENDPOINTS:
        raise BadRpcUrl(f"a list of {len(found)} (1 to {MAX_ENDPOINTS} are taken)")
    for url in found:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            requests.Request("POST", url).prepare()
        except (ValueError, requests.RequestException):
            usable = False
        if not usable:
            raise BadRpcUrl(shown(url))
    return found


class EndpointFailed(Exception):
    """An endpoint gave no answer that can be used. `patience`: so many seconds it is worth asking it again."""

    def __init__(self, reason: str, *, patience: float = 0.0, wait: float | None = None) -> None:
        self.reason, self.patience, self.wait = reason, patience, wait
        super().__init__(reason)


class Budget:
    """How often an endpoint is asked: as often as one likes, until it says that this is too often. Then half as often
    as in the second before, and slowly more again. Times are of one monotonic clock."""

    def __init__(self) -> None:
        self.rate: float | None = None
        self._next = 0.0
        self._changed = 0.0
        self._asked: deque[float] = deque(maxlen=int(4 * MOST_RATE))

    def wait(self, now: float) -> float:
        """Seconds until the next request may go; it is counted as sent."""
        if self.rate is not None and now - self._changed > EASED_S:
            self.rate, self._changed = self.rate * GROWTH, now
            if self.rate > MOST_RATE:
                self.rate = None
        start = now if self.rate is None else max(now, self._next)
        if self.rate is not None:
            self._next = start + 1 / self.rate
        self._asked.append(start)
        return start - now

    def refused(self, now: float) -> None:
        """It was too much. Refusals of requests that were under way together count once."""
        if self.rate is not None and now - self._changed < 1.0:
            return
        recent = sum(1 for at in self._asked if now - 1.0 < at <= now)
        self.rate = max(LEAST_RATE, min(self.rate or MOST_RATE, recent) / 2)
        self._changed = now


class Endpoint:
    """One address of the chain, for all threads of this process, with the proxies and certificates that `requests`
    would use. `requests` finds them out anew for each request, which takes longer than the request itself."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.shown = shown(url)
        self.chain_id: int | None = None
        self.asked_at = float("-inf")
        """When it was asked which chain it is."""
        self.rests_until = 0.0
        self.failure = ""
        """Why it rests."""
        self.takes_batches = True
        self._failures = 0
        self._budget = Budget()
        self._lock = threading.Lock()
        session, adapter = requests.Session(), HTTPAdapter(pool_maxsize=CONNECTIONS)
        settings = session.merge_environment_settings(url, {}, False, None, None)
        headers = {"Content-Type": "application/json", "User-Agent": "proofyard"}
        first = session.prepare_request(requests.Request("POST", url, headers=headers, data=b"{}"))
        try:
            self._pool = adapter.get_connection_with_tls_context(
                first, settings["verify"], proxies=settings["proxies"], cert=settings["cert"]
            )
            self._path = adapter.request_url(first, settings["proxies"])
        except (requests.RequestException, HTTPError, ValueError) as error:
            raise BadProxy(url, str(error).strip(" .")) from None
        self._headers = {name: str(value) for name, value in first.headers.items() if name != "Content-Length"}

    def failed(self, failure: "EndpointFailed") -> None:
        """Ask others first, for longer each time."""
        pause = min(REST_S, FIRST_PAUSE_S * 2.0 ** min(self._failures, 10)) if failure.patience else REST_S
        self._failures += 1
        self.rests_until, self.failure = time.monotonic() + (failure.wait or pause), failure.reason

    def answered(self) -> None:
        self._failures, self.rests_until, self.failure = 0, 0.0, ""

    def too_often(self) -> None:
        with self._lock:
            self._budget.refused(time.monotonic())

    def post(self, data: bytes) -> tuple[int, bytes]:
        """Status and body of the answer, once it is this request's turn. Raises `EndpointFailed`."""
        with self._lock:
            pause = self._budget.wait(time.monotonic())
        if pause > 0:
            time.sleep(pause)
        try:
            answer = self._pool.urlopen(
                "POST",
                self._path,
                body=data,
                headers=self._headers,
                retries=False,
                redirect=False,
                timeout=Timeout(connect=CONNECT_S, read=ANSWER_S),
                preload_content=False,
            )
            body = read_body(answer, MAX_ANSWER_BYTES, BODY_S)
        except NoAnswer as error:
            raise EndpointFailed(error.reason) from None
        except HTTPError as error:
            if isinstance(error, TimeoutError) and not isinstance(error, NewConnectionError):
                raise EndpointFailed(f"no answer in {ANSWER_S:.0f} s") from None
            raise EndpointFailed("connection refused or lost", patience=RECONNECT_S) from None
        answer.release_conn()
        if 300 <= answer.status < 400:
            target = shown(answer.headers.get("Location", ""))
            raise EndpointFailed(f"HTTP status {answer.status}, a redirect to {target}; give the address that answers")
        if answer.status == BUSY_STATUS:
            self.too_often()
            raise EndpointFailed(
                "HTTP status 429, too many requests",
                patience=LONGEST_WAIT_S,
                wait=_retry_after(answer.headers.get("Retry-After", "")),
            )
        return answer.status, body


@lru_cache(maxsize=64)
def endpoint(url: str) -> Endpoint:
    """The one `Endpoint` of a URL in this process: its budget is shared by all who ask it."""
    return Endpoint(url)


def _retry_after(header: str) -> float | None:
    return min(float(header), LONGEST_WAIT_S) if header.isdecimal() else None
