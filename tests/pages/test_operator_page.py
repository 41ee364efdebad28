"""An operator's page in a real browser: with the token and without, at work, paused, refusing, away and back."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import Tab
from pages_scene import PageScene, hurry, task_work
from test_network_page import EVIL, take_pictures

from proofyard.node import control
from proofyard.node.page import url_of


@contextmanager
def served(scene: PageScene) -> Iterator[str]:
    """In a loop of its own; the address that opens it."""
    over = asyncio.Event()

    async def run() -> None:
        async with scene.up():
            await over.wait()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    try:
        yield url_of(scene.url, scene.token)
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(100)
        loop.close()


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PageScene:
    hurry(monkeypatch)
    return PageScene(tmp_path)


def busy(scene: PageScene) -> None:
    """At work, with a past."""
    scene.agent.works = [task_work(12, 3, states=5), task_work(12, 6)]
    tally = scene.agent.tally
    tally.tasks, tally.audits, tally.later = 31, 58, 7
    for _ in range(4):
        tally.refuse(
            "job 9 task 2 (shard 2)", "the job's price is 0.0004 a unit, this node's min_price is 0.001", 1_795e6
        )
    tally.refuse(
        "job 14 task 0 (row 0)", "model makes 68719476736, this node's max_model_bytes is 34359738368", 1_795e6
    )
    tally.give_back("job 8 task 4 (shard 4)", "the task took longer than this node's max_task_s of 86400 s", 1_795e6)


def test_without_its_token_the_page_says_how_to_get_it(tab: Tab, scene: PageScene) -> None:
    with served(scene) as url:
        tab.go(scene.url)
        tab.shows("This page needs its token", "proofyard node page", "Locked")
        tab.go(f"{scene.url}/#{'x' * 43}")
        tab.shows("The node does not know this token")
        tab.go("about:blank")
        tab.go(url)
        tab.shows("Waits for work", "Live")
        assert tab.js("location.href") == f"{scene.url}/", "the token does not stay in the address"
        assert not any(scene.token in asked.partition("#")[0] for asked in tab.asked)


def test_everything_an_operator_asks_for_is_there(tab: Tab, scene: PageScene, tmp_path: Path) -> None:
    busy(scene)
    with served(scene) as url:
        tab.screen()
        tab.go(url)
        tab.shows("At work", "5 of 8 segments", "9.215", "7.004 can be claimed", "4.485", "31.4")
        tab.shows("250", "2 of 5 nodes", "RTX 4090", "97 %", "17 GiB of 24 GiB", "66 °C", "312 W", "not told")
        tab.shows("min_price is 0.001", "given back", "41 audits", "31", "58", "bubblewrap, seccomp")
        take_pictures(tab, "node", tmp_path)
        scene.eyes.cards = ()
        tab.shows("nvidia-smi says nothing here")


def test_it_is_paused_and_resumed(tab: Tab, scene: PageScene, tmp_path: Path) -> None:
    busy(scene)
    with served(scene) as url:
        tab.screen()
        tab.go(url)
        tab.click("Pause for an hour")
        tab.shows("Takes no work", "paused for 60 min more")
        assert scene.agent.works, "what is under way is finished"
        tab.click("Resume")
        tab.shows("At work")
        tab.click("Pause, and give back what is under way")
        tab.shows("Takes no work", "It holds nothing.", "paused; `proofyard node resume` ends that")
        assert control.read_orders(scene.folder).hand_back
        take_pictures(tab, "node-paused", tmp_path)
        tab.click("Resume")
        tab.shows("Waits for work")


def test_limits_are_set_and_what_is_wrong_is_said(tab: Tab, scene: PageScene) -> None:
    with served(scene) as url:
        tab.go(url)
        tab.shows("Waits for work")
        for name, text in (("hours", "22-6"), ("max_celsius", "75")):
            tab.js(f"document.getElementById('{name}').focus()")
            tab.type(text)
        tab.press("Enter")
        tab.shows("keeps to these limits")
        limits = control.read_orders(scene.folder).limits
        assert (limits["hours"], limits["max_celsius"], limits["max_watts"]) == ("22-6", 75, 0)
        tab.js("document.getElementById('hours').focus()")
        tab.type("x")
        tab.press("Enter")
        tab.shows("write them like 22-6")
        assert tab.js("document.getElementById('hours').value") in ("22-6x", "x22-6"), "what is typed stays"
        assert control.read_orders(scene.folder).limits["hours"] == "22-6"


def test_the_node_goes_away_and_comes_back(tab: Tab, scene: PageScene, tmp_path: Path) -> None:
    with served(scene) as url:
        tab.go(url)
        tab.shows("Waits for work")
    tab.shows("The node is away since", "Waits for work")
    again = PageScene(tmp_path, port=int(scene.url.rpartition(":")[2]))
    busy(again)
    with served(again):
        tab.shows("At work", "Live")
    tab.errors.clear()


def test_a_node_that_is_not_registered_says_what_to_do(
    tab: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    scene = PageScene(tmp_path, registered=False)
    with served(scene) as url:
        tab.go(url)
        tab.shows("not registered yet: proofyard node register", "Not known yet.")


def test_it_works_by_the_keyboard_alone(tab: Tab, scene: PageScene) -> None:
    busy(scene)
    with served(scene) as url:
        tab.go(url)
        tab.shows("At work")
        for _ in range(20):
            tab.press("Tab")
            if tab.js("document.activeElement.innerText") == "Pause":
                break
        tab.press("Enter")
        tab.shows("Takes no work")
        unnamed = "[...document.querySelectorAll('input')].filter(e => !e.labels?.length).map(e => e.outerHTML)"
        assert tab.js(unnamed) == []


def test_what_strangers_wrote_stays_text(tab: Tab, scene: PageScene) -> None:
    scene.agent.tally.refuse(EVIL, EVIL, 1.0)
    with served(scene) as url:
        tab.go(url)
        tab.shows("<img src=x onerror=alert(1)>")
        assert tab.js("document.querySelectorAll('main img, main script').length") == 0
