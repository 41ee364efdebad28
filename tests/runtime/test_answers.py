"""Bodies of servers that mean harm, or are none: one error, within bounds."""

import gzip
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from proofyard.cli import main
from proofyard.runtime.answers import NoAnswer, get

HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
BOMB = gzip.compress(bytes(3 << 20))


class Server(BaseHTTPRequestHandler):
    said = b""
    drip_s = 0.0

    def do_GET(self) -> None:
        self.close_connection = True
        try:
            self.wfile.write(self.said)
            while self.drip_s:
                self.wfile.write(b"x")
                time.sleep(self.drip_s)
        except OSError:
            return  # whoever asked has gone

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


BROKEN = {
    "gzip that is none": HEAD + b"Content-Encoding: gzip\r\n\r\nnone",
    "a body that is cut off": HEAD + b"Content-Length: 100\r\n\r\n{",
    "a chunk that is none": HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nabc\r\n",
    "no HTTP": b"JUNK\r\n\r\n",
    "nothing": b" ",
    "too much": HEAD + b"Content-Length: %d\r\n\r\n" % (2 << 20) + bytes(2 << 20),
    "a bomb": HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB,
}


@pytest.mark.parametrize("said", BROKEN.values(), ids=BROKEN.keys())
def test_a_body_that_is_none_is_one_error(
    said: bytes, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Server, "said", said)
    with pytest.raises(NoAnswer):
        get(url, 1 << 20, 30)
    monkeypatch.setattr("proofyard.cli.explain.MAX_BYTES", 1 << 20)
    assert main(["job", "explain", "1", "--api", url]) == 3
    assert f"no verifier answers at {url}" in capsys.readouterr().err


def test_a_body_without_an_end_has_one(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "said", HEAD + b"\r\n")
    monkeypatch.setattr(Server, "drip_s", 0.02)
    with pytest.raises(NoAnswer, match="it does not end"):
        get(url, 1 << 20, 2.0)


@pytest.mark.parametrize("address", ["http://x..y", "http://127.0.0.1:1/a b", "http://[::1", "x", "http://"])
def test_an_address_that_is_none_is_the_same_error(address: str) -> None:
    with pytest.raises(NoAnswer):
        get(address, 1, 1)
