"""The page's files as a verifier serves them: everything that they name is there, nothing of it is elsewhere, and their
policy lets no string become a script. What the page does in a browser is in tests/pages."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from api_scene import Scene

from proofyard import pages


class Named(HTMLParser):
    """The files that a page loads and links to, and whether it has anything inline."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.files: list[str] = []
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.files += [given[name] or "" for name in ("href", "src") if name in given]
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        self.inline += [tag] if tag == "style" or (tag == "script" and "src" not in given) else []


def test_a_verifier_serves_everything_that_its_page_names(tmp_path: Path) -> None:
    client = Scene(tmp_path).client
    answer = client.get("/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    page = Named(answer.text)
    assert page.inline == [] and "/pages/network.js" in page.files
    for path in page.files:
        assert path.startswith(("/", "#")) and not path.startswith("//")
        assert path.startswith("#") or client.get(path).status_code == 200, path
    for name in pages.PARTS:
        answer = client.get(pages.FOLDER + name)
        assert answer.status_code == 200 and answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/pages/../pyproject.toml").status_code == 404
    assert client.get("/pages/network.html").status_code == 404


def test_the_policy_lets_nothing_in_and_no_string_become_html(tmp_path: Path) -> None:
    policy = Scene(tmp_path).client.get("/").headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["script-src"] == rules["connect-src"] == rules["style-src"] == "'self'"
    assert rules["require-trusted-types-for"] == "'script'" and rules["trusted-types"] == "'none'"


@pytest.mark.parametrize("name", [each for each in pages.PARTS if each.endswith(".js")])
def test_scripts_make_no_html_of_text_and_ask_nobody_else(name: str) -> None:
    text = pages.read(name).body.decode()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
    assert set(re.findall(r"https?://[^\"'` ]+", text)) <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        *(("127.0.0.1:8790", True), ("localhost", True), ("[::1]:8790", True), ("192.168.1.9", True)),
        *(("Proxy.example.org:443", True), ("evil.test:8790", False), ("127.0.0.1.evil.test", False), ("", False)),
    ],
)
def test_on_loopback_it_answers_to_no_name_of_others(tmp_path: Path, host: str, answered: bool) -> None:
    scene = Scene(tmp_path)
    scene.api.names = ("proxy.example.org",)
    for path in ("/", "/v1/jobs", "/pages/parts.js"):
        answer = scene.client.get(path, headers={"Host": host})
        assert answer.status_code == (200 if answered else 421)
        assert answered or answer.json()["error"] == "misdirected"
    scene.api.names = None
    assert scene.client.get("/v1/jobs", headers={"Host": host}).status_code == 200
