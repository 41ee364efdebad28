"""A provider between a client and anvil that behaves as public ones do: it limits, forgets, lags and fails."""

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests

Forward = Callable[[dict[str, Any]], dict[str, Any]]
Rule = Callable[[dict[str, Any], Forward], "Answer | dict[str, Any] | None"]
"""Gets a request and a way to forward it. Gives an answer, the JSON of one, or None to leave it to the next rule."""


class Answer:
    """An HTTP answer as it is."""

    def __init__(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.status, self.body, self.headers = status, body, headers


class StandIn:
    """Where it listens, what it was asked, and the rules that it follows, first one first."""

    def __init__(self, upstream: str) -> None:
        self.rules: list[Rule] = []
        self.asked: Counter[str] = Counter()
        self.paths: list[str] = []
        self.authorizations: list[str | None] = []
        self._upstream = upstream
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                data = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                stand_in.paths.append(self.path)
                stand_in.authorizations.append(self.headers.get("Authorization"))
                answer = stand_in.answer(data)
                self.send_response(answer.status)
                for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def answer(self, data: Any) -> Answer:
        if isinstance(data, list):
            self.asked["batch"] += 1
            return Answer(200, json.dumps([self._forward(each) for each in data]).encode())
        self.asked[data["method"]] += 1
        for rule in list(self.rules):
            found = rule(data, self._forward)
            if isinstance(found, Answer):
                return found
            if found is not None:
                return Answer(200, json.dumps({"jsonrpc": "2.0", "id": data["id"], **found}).encode())
        return Answer(200, json.dumps(self._forward(data)).encode())

    def _forward(self, data: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = requests.post(self._upstream, json=data, timeout=30).json()
        return answer


@contextmanager
def standing_in(upstream: str, *rules: Rule) -> Iterator[StandIn]:
    """A stand-in for the endpoint at `upstream`, while it is needed."""
    stand_in = StandIn(upstream)
    stand_in.rules.extend(rules)
    thread = threading.Thread(target=stand_in._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield stand_in
    finally:
        stand_in._server.shutdown()
        stand_in._server.server_close()
        thread.join()


def times(count: int, rule: Rule, *methods: str) -> Rule:
    """A rule for the first `count` requests (of these methods, or of any)."""
    left = [count]

    def limited(data: dict[str, Any], forward: Forward) -> Answer | dict[str, Any] | None:
        if left[0] <= 0 or (methods and data["method"] not in methods):
            return None
        left[0] -= 1
        return rule(data, forward)

    return limited


def status(number: int, body: bytes = b"<html>no</html>", **headers: str) -> Rule:
    return lambda data, forward: Answer(number, body, **headers)


def null(data: dict[str, Any], forward: Forward) -> dict[str, Any]:
    return {"result": None}


def lost_answer(data: dict[str, Any], forward: Forward) -> Answer:
    """Does what it is asked, and answers 502."""
    forward(data)
    return Answer(502, b"Bad Gateway")


def error(code: int, message: str, number: int = 200) -> Rule:
    """A JSON-RPC error with a status."""

    def rule(data: dict[str, Any], forward: Forward) -> Answer:
        said = {"jsonrpc": "2.0", "id": data["id"], "error": {"code": code, "message": message}}
        return Answer(number, json.dumps(said).encode())

    return rule


def per_second(limit: int) -> Rule:
    """429 for whatever is more than `limit` requests in a second."""
    recent: deque[float] = deque()
    lock = threading.Lock()

    def rule(data: dict[str, Any], forward: Forward) -> Answer | None:
        with lock:
            now = time.monotonic()
            while recent and now - recent[0] > 1:
                recent.popleft()
            if len(recent) >= limit:
                return Answer(429, b"slow down")
            recent.append(now)
            return None

    return rule


def log_range(blocks: int, complaint: Rule) -> Rule:
    """`complaint` for more than so many blocks of logs at once."""

    def rule(data: dict[str, Any], forward: Forward) -> Answer | dict[str, Any] | None:
        if data["method"] != "eth_getLogs" or "fromBlock" not in data["params"][0]:
            return None
        first, last = (int(data["params"][0][name], 16) for name in ("fromBlock", "toBlock"))
        return complaint(data, forward) if last - first >= blocks else None

    return rule
