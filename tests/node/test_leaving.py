"""A node that takes no more work: paused, over a limit, or asked to end. Its executor is real."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from machine import UNUSED, Node, until
from stand_ins import CONNECTION

from proofyard.node import control, watch
from proofyard.node.gate import Sample
from proofyard.node.meter import Meter
from proofyard.node.watch import Watch
from proofyard.protocol.messages import TaskFailed

LONG: dict[str, int] = {"budget": 1 << 22, "segments": 6, "segment_steps": 40}
SHORT: dict[str, int] = {"budget": 1 << 20, "segments": 2, "segment_steps": 1}


async def two_tasks(node: Node) -> None:
    """One under way in its second segment or later, one behind it."""
    for index in (0, 1):
        answer = await node.agent.offer_task(CONNECTION, node.offer(index), UNUSED)
        assert answer.proceed, answer.reason
    await until(lambda: node.agent.current is not None and node.agent.current.states >= 1)


async def test_a_closed_node_finishes_what_it_is_at_and_gives_back_the_rest(start: Callable[..., Any]) -> None:
    node: Node = await start(**SHORT | {"segments": 4, "segment_steps": 10})
    await two_tasks(node)
    given_back = await node.agent.close("paused", at_once=False)
    assert len(given_back) == 1 and "task 1" in given_back[0]
    answer = await node.agent.offer_task(CONNECTION, node.offer(1), UNUSED)
    assert not answer.proceed and answer.reason == "busy: paused"
    await until(lambda: node.links.delivered and not node.journal.open_tasks())
    assert node.links.delivered[-1].commitment.task == 0
    assert [(back.task, back.reason) for back in node.links.handed_back] == [(1, "paused")]
    node.agent.open()
    await node.work(1)


async def test_what_others_need_at_once_is_given_back_with_its_memory(start: Callable[..., Any]) -> None:
    node: Node = await start(**LONG)
    await two_tasks(node)
    given_back = await node.agent.close("blender uses the GPU", at_once=True)
    assert len(given_back) == 2
    await until(lambda: len(node.links.told(TaskFailed)) == 2)
    await until(lambda: node.agent._executor._child is None)  # its memory is free
    assert node.agent.current is None and not node.agent.works and not node.links.delivered
    assert not node.journal.open_tasks(), "a restart does not take up what was given back"
    node.agent.open()
    answer = await node.agent.offer_task(CONNECTION, node.offer(0), UNUSED)
    assert answer.proceed
    await node.agent.close("enough", at_once=True)


@pytest.mark.parametrize("within_s", [60.0, 0.0])
async def test_a_node_that_ends_keeps_its_task_and_says_what_became_of_the_segment(
    start: Callable[..., Any], within_s: float
) -> None:
    node: Node = await start(**LONG)
    await two_tasks(node)
    said = await node.agent.wind_down(within_s)
    states = next(iter(node.agent._accepted.values())).states
    how = f"segment {states} of 6 has ended" if within_s else f"segment {states + 1} of 6 was given up after 0 s"
    assert how in said[0] and "goes on from there if this node is back within 15 s" in said[0], said
    assert said[1].endswith("is given back") and "task 1" in said[1]
    (kept,) = node.journal.open_tasks()
    assert kept[1].task.index == 0 and states < 6
    assert not (await node.agent.offer_task(CONNECTION, node.offer(1), UNUSED)).proceed
    assert not node.agent.open() and node.agent.closed, "who is stopping opens no more"


async def test_a_short_task_is_finished_and_delivered_before_the_end(start: Callable[..., Any]) -> None:
    node: Node = await start(**SHORT | {"segments": 1, "segment_steps": 20})
    answer = await node.agent.offer_task(CONNECTION, node.offer(0), UNUSED)
    assert answer.proceed
    await until(lambda: node.agent.current is not None)
    (said,) = await node.agent.wind_down(60.0)
    assert said.endswith("is finished")
    assert [done.commitment.task for done in node.links.delivered] == [0]
    assert not node.journal.open_tasks(), "its receipt came before the end"


async def test_a_verifier_that_answers_nothing_holds_up_no_end(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    node: Node = await start(**SHORT | {"segments": 1, "segment_steps": 20})
    answer = await node.agent.offer_task(CONNECTION, node.offer(0), UNUSED)
    assert answer.proceed
    await until(lambda: node.agent.current is not None)
    waited: list[object] = []

    async def never(verifier: object) -> None:
        waited.append(verifier)
        await asyncio.Event().wait()

    monkeypatch.setattr(node.agent._courier, "answered", never)
    monkeypatch.setattr("proofyard.node.agent.LAST_S", 0.05)
    async with asyncio.timeout(60):
        (said,) = await node.agent.wind_down(3600.0)
    assert said.endswith("is finished") and len(waited) == 1


class Sensors:
    """What the test says that the machine measures."""

    def __init__(self) -> None:
        self.found = Sample()

    def sample(self) -> Sample:
        return self.found


class Links:
    """Counts how often the node announced itself again."""

    def __init__(self) -> None:
        self.announced = 0

    def announce_again(self) -> None:
        self.announced += 1

    def live(self) -> list[Any]:
        return []


class Ends:
    """An endpoint, as far as it is limited here."""

    address = "0xnode"

    def __init__(self) -> None:
        self.upload = -1.0

    def limit_upload(self, bytes_s: float) -> None:
        self.upload = bytes_s


async def test_commands_and_limits_reach_a_running_node_and_its_status_says_why(
    start: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch, "SAMPLE_S", 0.05)
    monkeypatch.setattr(watch, "POLL_S", 0.05)
    node: Node = await start(**SHORT)
    links, ends, eyes, counted = Links(), Ends(), Sensors(), Meter(tmp_path)
    settings = node.agent._settings
    found = Watch(settings, node.agent, cast(Any, links), cast(Any, ends), cast(Any, eyes), counted)
    running = asyncio.create_task(found.run())

    def status() -> control.Status:
        return control.read_status(tmp_path) or control.Status(pid=0, at=0.0)

    try:
        await until(lambda: status().pid)
        assert status().running and not status().reason
        control.change(tmp_path, {"paused_until": -1.0, "max_upload": 1000})
        await until(lambda: status().reason.startswith("paused"))
        assert node.agent.closed.startswith("busy: paused")
        assert (ends.upload, links.announced) == (1000, 1)
        control.change(tmp_path, {"paused_until": 0.0, "max_celsius": 60})
        await until(lambda: not status().reason)
        assert not node.agent.closed and links.announced == 2
        assert "max_celsius" in status().blind[0], "nothing measures it here"
        eyes.found = Sample(celsius=70.0)
        await until(lambda: "70 °C" in status().reason)
        (tmp_path / control.LIMITS).chmod(0o666)
        (tmp_path / control.LIMITS).write_text("{}")
        await until(lambda: "may be written by others" in caplog.text or "70 °C" not in status().reason)
        assert "70 °C" in node.agent.closed and "70 °C" in status().reason, "such a file changes nothing"
        found.stopped(["job 1 task 0 is finished"])
        assert not status().running and status().left == ("job 1 task 0 is finished",)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        counted.close()


@pytest.mark.parametrize("fifos", [True, False])
async def test_a_command_wakes_an_idle_node(
    start: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fifos: bool
) -> None:
    """By the bell; where a system has none the node looks as often as a busy one."""
    monkeypatch.setattr(watch, "POLL_S", 0.05)
    monkeypatch.setattr(watch, "LIVELY_S", 0.0)
    for name in ("IDLE_S", "SAMPLE_S"):
        monkeypatch.setattr(watch, name, 3600.0)
    if not fifos:
        monkeypatch.delattr(os, "mkfifo")
    node: Node = await start(**SHORT)
    links, counted = Links(), Meter(tmp_path)
    found = Watch(node.agent._settings, node.agent, *cast(Any, (links, Ends(), Sensors())), counted)
    looks: list[bool] = []
    commanded = found._is_commanded
    monkeypatch.setattr(found, "_is_commanded", lambda: looks.append(True) or commanded())
    running = asyncio.create_task(found.run())
    try:
        await until(lambda: looks)
        control.change(tmp_path, {"paused_until": -1.0})
        await until(lambda: node.agent.closed.startswith("busy: paused"))
        assert len(looks) < 4 or not fifos, "it slept"
        (tmp_path / control.BELL).unlink(missing_ok=True)
        (tmp_path / control.BELL).write_bytes(b"")
        control.change(tmp_path, {"paused_until": 0.0})
        assert (tmp_path / control.BELL).read_bytes() == b"", "what is no FIFO is not written to"
        found.stir()
        await until(lambda: not node.agent.closed)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        counted.close()
