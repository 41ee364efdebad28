"""The page for people: what there is, where the rest is, and nothing in it that strangers wrote is taken for HTML."""

from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from api_scene import Scene, address, everything, job_row

from proofyard.verifier.engine.rows import Batch, BatchState, Row

EVIL = "<script>alert(1)</script>\"'><img src=http://evil/x>&amp;"


class Links(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name == "href"]


def test_every_link_of_the_page_leads_somewhere(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    answer = scene.client.get("/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    links = Links(answer.text).links
    assert {"/v1/jobs", "/v1/jobs/1/explain", "/v1/batches/5/audits", f"/v1/nodes/{address(1)}"} <= set(links)
    for path in set(links) - {"/v1/events"}:
        assert scene.client.get(path).status_code in (200, 503), path
    assert "not ready: seat: not looked at yet" in answer.text


@pytest.mark.parametrize("kind", ["job", "batch", "node", "check"])
def test_what_strangers_wrote_is_text(tmp_path: Path, kind: str) -> None:
    rows: list[Row] = everything()
    if kind == "job":
        rows = [job_row(1, reason=EVIL)]
        rows[0].workload_name = EVIL  # type: ignore[attr-defined]
    if kind == "batch":
        rows.append(
            Batch(id=9, root=bytes(32), members=b"", lines=(), chain_id=9, state=BatchState.DROPPED, reason=EVIL)
        )  # type: ignore[arg-type]
    scene = Scene(tmp_path, rows)
    if kind == "node":
        for member in scene.members.values():
            member.announce = msgspec.structs.replace(member.announce, software=EVIL, workloads=(EVIL,))
    if kind == "check":
        scene.context.wallet.address = EVIL
    text = scene.client.get("/").text
    found = Links(text)
    assert "alert(1)" in text, "it is shown"
    assert found.tags.isdisjoint({"script", "img", "iframe", "link"})
    assert not {name for name in found.attributes if name.startswith("on")}
    assert all(link.startswith("/") and not link.startswith("//") for link in found.links)


def test_an_empty_verifier_says_so(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [])
    scene.members.clear()
    text = scene.client.get("/").text
    assert "No jobs yet." in text and "No batches yet." in text and "No nodes yet." in text


def test_a_long_list_names_where_all_of_it_is(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [job_row(number) for number in range(1, 60)])
    assert scene.client.get("/").text.count('/explain">') == 20
    assert 'The first 20; <a href="/v1/jobs">all of them</a>' in scene.client.get("/").text
