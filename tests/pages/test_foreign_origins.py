"""What a web page of elsewhere can do to a node's and a verifier's page through a browser that reaches them: nothing.

Tried as pages do it: requests and forms across origins (CSRF), frames, scripts, images, and a name of theirs that is
made to lead to this machine (DNS rebinding)."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import FOREIGN, Tab
from pages_scene import PageScene, hurry
from pages_stage import Stage, story
from test_operator_page import served

from proofyard.node import control


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """A site of somebody else."""

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>evil</title><body>evil</body>")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://{FOREIGN}:{server.server_port}"
        server.shutdown()
        thread.join()


def attempt(tab: Tab, url: str, options: str = "{}") -> str:
    """What a script learns of an answer."""
    return str(tab.js(f"fetch({json.dumps(url)}, {options}).then(a => a.text()).catch(e => 'failed: ' + e.name)"))


def test_a_page_of_elsewhere_neither_reads_nor_changes_a_node(
    tab: Tab, tmp_path: Path, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    scene = PageScene(tmp_path)
    with served(scene):
        tab.go(elsewhere)
        tab.shows("evil")
        header = json.dumps({"X-Proofyard-Token": scene.token, "Content-Type": "application/json"})
        for path in ("/", "/v1/node", "/v1/events", "/pages/node.js"):
            assert attempt(tab, scene.url + path) == "failed: TypeError", path
            assert attempt(tab, scene.url + path, f"{{headers: {header}}}") == "failed: TypeError", path
            assert attempt(tab, scene.url + path, "{mode: 'no-cors'}") in ("", "failed: TypeError"), path
        for body in (
            "{method: 'POST', mode: 'no-cors', body: '{}'}",
            f"{{method: 'POST', headers: {header}, body: '{{}}'}}",
        ):
            attempt(tab, scene.url + "/v1/pause", body)
        tab.js(
            f"(() => {{ const f = document.createElement('form'); f.method = 'post'; f.action = '{scene.url}/v1/pause';"
            " f.enctype = 'text/plain'; f.target = 'frame';"
            " const i = document.createElement('iframe'); i.name = 'frame';"
            " document.body.append(i, f); f.submit(); })()"
        )
        framed = (
            f"new Promise(done => {{ const i = document.createElement('iframe'); i.src = '{scene.url}/';"
            " i.onload = () => { try { done(i.contentDocument ? 'read' : 'closed') } catch { done('closed') } };"
            " document.body.append(i); })"
        )
        assert tab.js(framed) == "closed"
        script = (
            f"new Promise(done => {{ const s = document.createElement('script'); s.src = '{scene.url}/pages/parts.js';"
            " s.type = 'module'; s.onload = () => done('ran'); s.onerror = () => done('refused');"
            " document.body.append(s); })"
        )
        assert tab.js(script) == "refused"
        assert not (tmp_path / control.LIMITS).exists()
    tab.errors.clear()


def test_a_name_that_is_made_to_lead_here_gets_nothing(
    tab: Tab, tmp_path: Path, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    node, verifier = tmp_path / "node", tmp_path / "verifier"
    for folder in (node, verifier):
        folder.mkdir()
    scene, stage = PageScene(node), Stage(verifier, story())
    with served(scene), stage.up():
        for port, paths in (
            (scene.url.rpartition(":")[2], ("/", "/v1/node", "/pages/node.js")),
            (stage.port, ("/", "/v1/jobs", "/v1/status", "/openapi.json", "/metrics")),
        ):
            # The site's name now leads to the port of the page: for the browser that is one origin.
            tab.go(f"http://{FOREIGN}:{port}/")
            tab.shows("misdirected")
            for path in paths:
                assert "misdirected" in attempt(tab, path), path
        header = json.dumps({"X-Proofyard-Token": scene.token, "Content-Type": "application/json"})
        tab.go(f"http://{FOREIGN}:{scene.url.rpartition(':')[2]}/")
        tab.shows("misdirected")
        said = attempt(tab, "/v1/pause", f"{{method: 'POST', headers: {header}, body: '{{}}'}}")
        assert "misdirected" in said and not (node / control.LIMITS).exists()
        # From elsewhere, a verifier's answers are closed to scripts as well.
        tab.go(elsewhere)
        tab.shows("evil")
        assert attempt(tab, f"{stage.url}/v1/jobs") == "failed: TypeError"
    tab.errors.clear()
