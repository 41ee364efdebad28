"""A verifier's page in a real browser: every state of it, by the mouse, by the keyboard, and what strangers wrote.

`PAGES_PICTURES=1` also writes docs/assets/pages, the pictures of every page in both themes and on a phone.
"""

import os
from pathlib import Path

import pytest
from api_scene import job_row
from browser import Tab
from pages_stage import NOW, Disputed, Stage, key, losses, story

from proofyard.chain.records import Phase
from proofyard.protocol.types import JobId
from proofyard.verifier.engine.rows import JobState, Log
from proofyard.verifier.store.tables import TABLES

PICTURES = Path(__file__).parents[2] / "docs" / "assets" / "pages"
EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'>"


def take_pictures(tab: Tab, name: str, folder: Path) -> None:
    """Of the page as it is, light, dark and on a phone; it has to fit on each."""
    for kind, width, dark in (("light", 1100, False), ("dark", 1100, True), ("phone", 390, False)):
        tab.screen(width, dark=dark)
        tab.wait("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        tab.wait("(c => !c || c.viewBox.baseVal.width <= innerWidth)(document.querySelector('.curves svg'))")
        file = (PICTURES if os.environ.get("PAGES_PICTURES") else folder) / f"{name}-{kind}.webp"
        file.parent.mkdir(exist_ok=True)
        tab.picture(file)
    tab.screen()


def test_a_verifier_without_anything_says_so(tab: Tab, tmp_path: Path) -> None:
    stage = Stage(tmp_path, [])
    stage.scene.members.clear()
    with stage.up() as url:
        tab.go(url)
        tab.shows("No jobs yet.", "No batches yet.", "Live")
        for view, says in (
            ("Nodes", "No nodes are connected."),
            ("Audits", "Nothing has been audited yet."),
            ("Disputes", "Nothing is disputed."),
        ):
            tab.click(view)
            tab.shows(says)
        tab.go(f"{url}/#job/77")
        tab.shows("No job 77 here")
        tab.click("Back to the overview")
        tab.shows("No jobs yet.")


def test_every_view_shows_what_there_is(tab: Tab, tmp_path: Path) -> None:
    stage = Stage(tmp_path, story())
    stage.scene.context.chain = Disputed()
    with stage.up() as url:
        tab.screen()
        tab.go(url)
        tab.shows("running", "failed", "done", "75%", "out of memory")
        take_pictures(tab, "overview", tmp_path)

        tab.click("3")
        tab.shows("Job 3", "8 of 12 tasks accepted", "Loss", "leads 2 of 2 auditors to another state", "agrees")
        tab.shows("proofyard verifier dispute replay 12 --segment 3:6:6", "82.875", "of 110.5 in escrow", "in 2 h")
        assert tab.js("document.querySelectorAll('svg .line[points]').length") == 8
        assert tab.js("document.querySelectorAll('svg .task').length") == 12
        assert tab.js("document.querySelectorAll('svg .edge').length") == 3 * 3 + 2 * 3
        tab.click("Explain where it stands")
        tab.shows("job 3 is running")
        take_pictures(tab, "job", tmp_path)

        tab.click("12")
        tab.shows("Batch 12", "proofyard verifier dispute replay 12", "found another state")
        take_pictures(tab, "batch", tmp_path)
        tab.click("Nodes")
        tab.shows("438", "3:8", "tokens/s, as they say", "proofyard 0.1.0")
        take_pictures(tab, "nodes", tmp_path)
        tab.click("Audits")
        tab.shows("mismatch: leads 2 of 2")
        take_pictures(tab, "audits", tmp_path)
        tab.click("Disputes")
        tab.shows("in 14 min", "decided", "1 wrong, 0 right", "vote", "upheld")
        take_pictures(tab, "disputes", tmp_path)


def test_a_requester_sees_a_job_go_on_and_end(tab: Tab, tmp_path: Path) -> None:
    stage = Stage(tmp_path, story())
    with stage.up() as url:
        tab.go(f"{url}/#job/2")
        tab.shows("It failed: there is no result.", "3 owners could not finish it")
        tab.go(f"{url}/#job/1")
        tab.shows("proofyard job result 1 OUT", "2 of 2 tasks accepted", "of 110.5 in escrow")
        tab.go(f"{url}/#job/3")
        tab.shows("There is no result yet.", "8 of 12 tasks accepted")
        before = tab.js("document.querySelectorAll('.log li').length")
        number = max(line.seq for line in story() if isinstance(line, Log))
        stage.tell(
            Log(
                job=JobId(3),
                seq=number + 1,
                at=NOW,
                kind="progress",
                text="step 9",
                task=9,
                node=key(2),
                loss=0.5,
                step=9,
            )
        )
        tab.shows("step 9, loss 0.5000", "round 2 shard 1: 0.5000")
        assert before == 40 == tab.js("document.querySelectorAll('.log li').length"), "the newest lines alone are kept"


def test_the_verifier_goes_away_and_comes_back(tab: Tab, tmp_path: Path) -> None:
    stage = Stage(tmp_path, story())
    with stage.up() as url:
        tab.go(f"{url}/#job/3")
        tab.shows("Live", "8 of 12 tasks accepted")
    tab.shows("The verifier is away since", "8 of 12 tasks accepted")
    with stage.scene.database.engine.begin() as connection:
        connection.execute(
            TABLES[type(job_row(3))].update().where(TABLES[type(job_row(3))].c.id == 3).values(state=JobState.DONE)
        )
    with stage.up():
        tab.wait("document.getElementById('state').textContent === 'Live'")
        tab.wait("document.querySelector('.title .badge').textContent === 'done'")
    tab.errors.clear()


def test_disputes_are_shown_with_their_deadlines(tab: Tab, tmp_path: Path) -> None:
    stage = Stage(tmp_path, story())
    stage.scene.context.chain = Disputed((Phase.DRAW,))
    with stage.up() as url:
        tab.go(f"{url}/#disputes")
        tab.shows("draw", "in 14 min", "operator 4", "proofyard verifier dispute show 1")


def test_a_long_list_goes_on_by_a_button(tab: Tab, tmp_path: Path) -> None:
    stage = Stage(tmp_path, [job_row(number) for number in range(1, 31)])
    with stage.up() as url:
        tab.go(url)
        tab.wait("document.querySelectorAll('tbody tr').length === 20")
        tab.click("Show older jobs")
        tab.wait("document.querySelectorAll('tbody tr').length === 30")


def test_a_long_log_is_drawn_from_even_samples(tab: Tab, tmp_path: Path) -> None:
    lines = losses(1, 0, 1, 12_000)
    stage = Stage(tmp_path, [job_row(1), *lines])
    with stage.up() as url:
        tab.go(f"{url}/#job/1")
        tab.shows("even samples are drawn")
        points = tab.js("document.querySelector('svg .line').getAttribute('points').split(' ').length")
        assert 4500 <= points <= 5000
        assert len([asked for asked in tab.asked if "/log?" in asked]) <= 25


def test_what_strangers_wrote_stays_text(tab: Tab, tmp_path: Path) -> None:
    rows = story()
    for row in rows:
        for name in ("reason", "text", "workload_name"):
            if isinstance(getattr(row, name, None), str) and getattr(row, name):
                setattr(row, name, EVIL)
    stage = Stage(tmp_path, rows)
    with stage.up() as url:
        for path in ("", "#job/3", "#job/2", "#audits", "#disputes", "#batch/12", f"#{EVIL}"):
            tab.go(f"{url}/{path}")
            tab.wait("!!document.querySelector('h1')")
            if path in ("#job/2", "#audits", "#disputes"):
                tab.shows("<img src=x onerror=alert(1)>")
            assert tab.js("document.querySelectorAll('main img, main script').length") == 0
        with pytest.raises(RuntimeError, match="TrustedHTML"):
            tab.js("document.body.innerHTML = '<b>x</b>'")
    tab.errors.clear()


def test_it_works_by_the_keyboard_alone_and_for_screen_readers(tab: Tab, tmp_path: Path) -> None:
    stage = Stage(tmp_path, story())
    with stage.up() as url:
        tab.go(url)
        tab.shows("75%")
        names = []
        for _ in range(8):
            tab.press("Tab")
            names.append(tab.js("document.activeElement.innerText || document.activeElement.id"))
        assert names[:8] == [
            "Skip to the content",
            "Proofyard verifier",
            "Overview",
            "Nodes",
            "Audits",
            "Disputes",
            "number",
            "Show",
        ]
        tab.js("document.getElementById('number').focus()")
        tab.type("3")
        tab.press("Enter")
        tab.shows("Job 3")
        tab.wait("document.activeElement.id === 'main'")
        assert tab.js("document.title") == "Job 3 – Proofyard verifier"
        unnamed = (
            "[...document.querySelectorAll('a, button, input, svg[role=img], [tabindex=\"0\"], table')].filter(e =>"
            " !(e.innerText || '').trim() && !e.ariaLabel && !e.labels?.length && !e.caption).map(e => e.outerHTML)"
        )
        assert tab.js(unnamed) == []
        assert tab.js("document.querySelectorAll('h1').length") == 1
        assert tab.js("document.getElementById('state').getAttribute('role')") == "status"
        # What is drawn afresh leaves the focus where it is.
        tab.js("document.querySelector('.graph').focus()")
        number = max(line.seq for line in story() if isinstance(line, Log))
        stage.tell(Log(job=JobId(3), seq=number + 1, at=NOW, kind="settled", text="fresh news"))
        tab.shows("fresh news")
        assert tab.js("document.activeElement.className") == "wide graph"


def test_where_nodes_are_is_told_nowhere(tab: Tab, tmp_path: Path) -> None:
    stage = Stage(tmp_path, story())
    with stage.up() as url:
        for path in ("", "#nodes", "#job/3"):
            tab.go(f"{url}/{path}")
            tab.wait("!!document.querySelector('table')")
            tab.wait(r"!/\b\d{1,3}(\.\d{1,3}){3}\b/.test(document.body.innerText)")
        answer = stage.scene.client.get("/v1/nodes").text
        assert "endpoint" not in answer and "host" not in answer
