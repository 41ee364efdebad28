"""A provider between a client and anvil that behaves as public ones do: it limits, forgets, lags and fails."""

import contextlib
import json
import random
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
        self.nodes: list[Rule] = []
        """Where there are several behind the address, what each does: each request or batch goes to any of them."""
        self.without_batches: Answer | None = None
        self.asked: Counter[str] = Counter()
        self.paths: list[str] = []
        self.authorizations: list[str | None] = []
        self._upstream = upstream
        self._chance = random.Random(7)
        self._lock = threading.Lock()
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
                if "Drip" not in answer.headers:
                    self.wfile.write(answer.body)
                    return
                with contextlib.suppress(OSError):  # whoever asked has gone
                    for at in range(len(answer.body)):
                        self.wfile.write(answer.body[at : at + 1])
                        time.sleep(float(answer.headers["Drip"]))

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def answer(self, data: Any) -> Answer:
        with self._lock:
            node = [self._chance.choice(self.nodes)] if self.nodes else []
        if not isinstance(data, list):
            return self._answer_one(data, node)
        self.asked["batch"] += 1
        if self.without_batches:
            return self.without_batches
        said = []
        for each in data:
            answer = self._answer_one(each, node)
            try:
                said.append(json.loads(answer.body))
            except ValueError:
                return answer
            if answer.status != 200 or not isinstance(said[-1], dict):
                return answer
        return Answer(200, json.dumps(said).encode())

    def _answer_one(self, data: Any, node: list[Rule]) -> Answer:
        self.asked[data["method"]] += 1
        for rule in [*self.rules, *node]:
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


def ordinary(data: dict[str, Any], forward: Forward) -> None:
    """A node that is in order."""


def behind(blocks: int) -> Rule:
    """A node whose newest block is so many before that of the others, and that does not know it."""

    def rule(data: dict[str, Any], forward: Forward) -> dict[str, Any] | None:
        head = int(forward({**data, "method": "eth_blockNumber", "params": []})["result"], 16) - blocks
        method, params = data["method"], list(data["params"])
        if method == "eth_blockNumber":
            return {"result": hex(head)}
        if method == "eth_getLogs":
            return _logs_until(head, data, forward)
        if method in ("eth_getTransactionReceipt", "eth_getTransactionByHash"):
            found = forward(data)["result"]
            return {"result": found if found and int(found["blockNumber"] or "0x0", 16) <= head else None}
        place = {"eth_getBlockByNumber": 0, "eth_call": 1, "eth_estimateGas": 1, "eth_getTransactionCount": 1}.get(
            method
        )
        if place is None:
            return None
        wanted = params[place] if len(params) > place else "latest"
        if wanted in ("latest", "pending"):
            return _without_id(forward({**data, "params": [*params[:place], hex(head), *params[place + 1 :]]}))
        if int(wanted, 16) <= head:
            return None
        return {"result": None} if place == 0 else {"error": {"code": -32000, "message": "header not found"}}

    return rule


def _logs_until(head: int, data: dict[str, Any], forward: Forward) -> dict[str, Any] | None:
    (wanted,) = data["params"]
    if "blockHash" in wanted:
        asked = {**data, "method": "eth_getBlockByHash", "params": [wanted["blockHash"], False]}
        known = forward(asked)["result"]
        late = known is None or int(known["number"], 16) > head
        return {"error": {"code": -32000, "message": "unknown block"}} if late else None
    last = min(head, int(wanted["toBlock"], 16))
    if last < int(wanted["fromBlock"], 16):
        return {"result": []}
    return _without_id(forward({**data, "params": [{**wanted, "toBlock": hex(last)}]}))


def _without_id(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name in ("result", "error")}


def elsewhere(upstream: str) -> Rule:
    """A node that is on another chain than the others, with the same id."""

    def rule(data: dict[str, Any], forward: Forward) -> dict[str, Any]:
        answer: dict[str, Any] = requests.post(upstream, json=data, timeout=30).json()
        return _without_id(answer)

    return rule
