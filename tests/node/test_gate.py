"""When a node takes work: hours, prices, what the machine measures, and what its operator commands."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from proofyard.chain import JobRecord
from proofyard.node import control, earnings, gate, meter, sensors, watch
from proofyard.node.gate import Gate, Limits, Sample, SetLimits, closed_by, waits_for_cheap_power
from proofyard.node.hours import parse_hours
from proofyard.node.limits import OfferRefused
from proofyard.node.prices import check_price, parse_prices
from proofyard.node.settings import NodeSettings
from proofyard.node.work import Work
from proofyard.protocol.types import Wei

CREDIT = 10**18
NOON, NIGHT = 12 * 60, 23 * 60
KEEP = """
import sys, time
from pathlib import Path
from proofyard.runtime.folder import own_folder
with own_folder(Path(sys.argv[1])):
    print("kept", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("", (0, NOON, 1439), ()),
        ("all", (0, NOON, 1439), ()),
        ("9-17", (540, 1019), (539, 1020)),
        ("22-6", (1320, 1439, 0, 359), (360, 1319)),
        ("22:30-06:15, 12-13", (1350, 374, 720, 779), (375, 719, 780, 1349)),
        ("0-12", (0, 719), (720, 1439)),
        ("12-24", (720, 1439), (0, 719)),
    ],
)
def test_hours_are_spans_of_the_day(text: str, inside: tuple[int, ...], outside: tuple[int, ...]) -> None:
    hours = parse_hours(text)
    assert all(map(hours.has, inside)) and not any(map(hours.has, outside))
    assert all(hours.wait(minute) > 0 and hours.has((minute + hours.wait(minute)) % 1440) for minute in outside)


@pytest.mark.parametrize("text", ["22", "22-", "25-3", "9-9", "0-24", "9:60-10", "-1-5", "nine-five", "9-17 18-19"])
def test_what_is_no_hours_is_refused_with_how_they_are_written(text: str) -> None:
    with pytest.raises(ValueError, match="write them like 22-6"):
        parse_hours(text)


@pytest.mark.parametrize(
    ("limits", "sample", "minute", "says", "at_once"),
    [
        ({}, Sample(), NOON, None, False),
        ({"hours": "22-6"}, Sample(), NOON, "begin at 22:00", False),
        ({"hours": "22-6"}, Sample(), NIGHT, None, False),
        ({"paused_until": -1.0}, Sample(), NOON, "paused", False),
        ({"paused_until": 1_090.0}, Sample(), NOON, "paused for 2 min more", False),
        ({"paused_until": 999.0}, Sample(), NOON, None, False),
        ({"idle_only": True}, Sample(others_on_gpu=("blender",)), NOON, "blender uses the GPU", True),
        ({"idle_only": True}, Sample(others_on_gpu=(), others_cores=3.0, cores=4), NOON, None, False),
        ({"idle_only": True}, Sample(others_cores=3.0, cores=4), NOON, "others keep 3.0 cores busy", True),
        ({"idle_only": True}, Sample(others_cores=0.4, cores=2), NOON, None, False),
        ({"max_celsius": 80}, Sample(celsius=80.0), NOON, None, False),
        ({"max_celsius": 80}, Sample(celsius=81.0), NOON, "81 °C warm, at most 80", True),
        ({"max_celsius": 80}, Sample(), NOON, None, False),
        ({"max_watts": 250}, Sample(watts=260.0), NOON, "draws 260 W", True),
        ({"least_free_bytes": 4 << 30}, Sample(free_bytes=3 << 30), NOON, "3,072 MiB of memory are free", True),
        ({"hours": "22-6", "max_celsius": 80}, Sample(celsius=90.0), NOON, "90 °C", True),
    ],
)
def test_a_limit_closes_a_node_and_says_why(
    limits: dict[str, Any], sample: Sample, minute: int, says: str | None, at_once: bool
) -> None:
    closed = closed_by(Limits(**limits), sample, 1_000.0, minute)
    assert (closed is None) == (says is None)
    if closed is not None and says is not None:
        assert says in closed.reason
        assert closed.at_once == at_once


def test_what_its_own_work_heats_up_is_not_begun_again_at_once() -> None:
    node, limits = Gate(), Limits(max_celsius=80)
    node.look(limits, Sample(celsius=85.0), 10_000.0, NOON)
    node.look(limits, Sample(celsius=70.0), 10_030.0, NOON)
    assert node.closed is not None, "it cooled down because it stopped"
    node.look(limits, Sample(celsius=70.0), 10_061.0, NOON)
    assert node.closed is None
    node.look(limits, Sample(celsius=85.0), 10_100.0, NOON)
    node.look(limits, Sample(celsius=70.0), 5_000.0, NOON)
    node.look(limits, Sample(celsius=70.0), 5_061.0, NOON)
    assert node.closed is None, "a clock that is set back closes it for no longer"


def test_a_limit_that_nothing_measures_is_named() -> None:
    limits = Limits(max_watts=1, max_celsius=1, least_free_bytes=1)
    assert len(gate.blind_spots(limits, Sample())) == 3
    assert gate.blind_spots(limits, Sample(watts=1.0, celsius=1.0, free_bytes=1)) == []
    assert gate.blind_spots(Limits(), Sample()) == []


@pytest.mark.parametrize(
    ("hours", "minute", "deadline_h", "waits"),
    [
        ("22-6", NOON, 24, True),  # ten hours until then, of twenty-four
        ("22-6", NOON, 19, False),  # more than half of its time would be over
        ("22-6", NIGHT, 24, False),
        ("", NOON, 24, False),
        ("22-6", NOON, -1, False),
    ],
)
def test_a_job_with_time_is_left_to_the_hours_of_cheap_power(
    hours: str, minute: int, deadline_h: float, waits: bool
) -> None:
    why = waits_for_cheap_power(Limits(cheap_hours=hours), 0.0, minute, 3600 * deadline_h)
    assert bool(why) == waits
    assert not why or why.startswith("busy"), "what begins otherwise is a refusal, and counts as one"


@pytest.mark.parametrize(
    ("prices", "unpaid", "reward", "says"),
    [
        ((), False, 1, None),
        ((), False, 0, "is nothing"),
        ((), True, 0, None),
        (("0.5",), False, 500 * CREDIT, None),
        (("0.5",), False, 500 * CREDIT - 1, "this node's min_price is 0.5 CREDIT"),
        (("0.5", "lora=2"), False, 500 * CREDIT, "is 0.5 CREDIT for a unit of lora"),
        (("2", "lora=0.1"), False, 100 * CREDIT, None),
        (("embed=2",), False, 1, None),
        (("0.5",), True, 0, "min_price"),
    ],
)
def test_a_job_that_pays_less_than_the_price_is_refused(
    prices: tuple[str, ...], unpaid: bool, reward: int, says: str | None
) -> None:
    job = cast(JobRecord, SimpleNamespace(reward=reward, units=1000))
    if says is None:
        check_price(parse_prices(prices), job, "lora", unpaid=unpaid)
        return
    with pytest.raises(OfferRefused, match="the job's reward") as refused:
        check_price(parse_prices(prices), job, "lora", unpaid=unpaid)
    assert says in str(refused.value)


@pytest.mark.parametrize("texts", [("x",), ("=1",), ("lora=",), ("-1",), ("lora=1", "lora=2"), ("1", "2"), ("1e3",)])
def test_a_price_that_is_none_is_refused(texts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError):
        parse_prices(texts)


# What a driver prints: nvidia-smi stands in by its text alone, there being no card where tests run.
H100 = "0, NVIDIA H100 80GB HBM3, 81559, 512, 41, 118.32, 97"
OLD = "1, NVIDIA GeForce GTX 960, 4096, 10, 35, [N/A], [Not Supported]"


def test_what_a_driver_says_of_its_cards_is_read_and_what_it_does_not_say_is_none() -> None:
    first, second = sensors.parse_gpus(f"{H100}\n{OLD}\n")
    assert (first.name, first.memory_bytes, first.used_bytes) == ("NVIDIA H100 80GB HBM3", 81559 << 20, 512 << 20)
    assert (first.celsius, first.watts, first.utilization) == (41.0, 118.32, 97.0)
    assert (second.watts, second.utilization) == (None, None)
    for text in ("", "No devices were found", "x, y, z", "0, A, nan, 1, 2, 3, 4", "0, A, -5, 1, 2, 3, 4", H100[:20]):
        assert sensors.parse_gpus(text) == []
    found = sensors.parse_processes("41, /usr/bin/python3\n42, C:\\a, b\nx, y\n[Insufficient Permissions], x\n")
    assert [(each.pid, each.name) for each in found] == [(41, "python3"), (42, "C:\\a, b")]


def test_this_machine_measures_itself() -> None:
    eyes = sensors.Sensors(on_gpu=False)
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    found = eyes.sample()
    assert found.free_bytes and found.cores >= 1 and found.others_on_gpu is None
    assert found.others_cores is not None and found.others_cores >= 0


def test_children_are_looked_for_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    eyes = sensors.Sensors(on_gpu=False)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in {each.pid for each in eyes._children()}
    looked: list[int] = []
    monkeypatch.setattr(eyes._me, "children", lambda **_: looked.append(1) or [])
    for waited in (ChildProcessError(), None):
        monkeypatch.setattr(os, "waitid", lambda *_, waited=waited: _raised(waited))
        assert eyes._children() == []
    assert looked == [1]


def _raised(error: Exception | None) -> None:
    if error is not None:
        raise error


def settings_in(folder: Path, **changes: Any) -> NodeSettings:
    return NodeSettings(registry="", wallet=folder, data_dir=folder, **changes)


def test_limits_are_described_in_one_place() -> None:
    """Settings, and what the gate keeps to, are the same fields of the same kinds; only a pause is commanded alone."""
    own = {*NodeSettings.__annotations__} & {*SetLimits.__struct_fields__}
    assert issubclass(NodeSettings, SetLimits) and not own
    assert set(Limits.__struct_fields__) - set(SetLimits.__struct_fields__) == {"paused_until"}
    assert not any(f"`{name}`" in (NodeSettings.__doc__ or "") for name in SetLimits.__struct_fields__)


def test_commands_stand_in_place_of_settings_until_they_are_taken_back(tmp_path: Path) -> None:
    settings = control.limits_of(settings_in(tmp_path, hours="9-17", max_watts=300))
    control.change(tmp_path, {"hours": "22-6"})
    control.change(tmp_path, {"idle_only": True, "paused_until": -1.0}, hand_back=True)
    orders = control.read_orders(tmp_path)
    assert control.apply(settings, orders) == Limits(hours="22-6", idle_only=True, max_watts=300, paused_until=-1.0)
    assert orders.hand_back
    assert (tmp_path / control.LIMITS).stat().st_mode & 0o777 == 0o600
    control.write_orders(tmp_path, control.Orders())
    assert control.apply(settings, control.read_orders(tmp_path)) == settings
    assert [path.name for path in tmp_path.iterdir()] == [control.LIMITS]
    for wrong in ({"hours": "x"}, {"max_celsius": 999}, {"idle_only": 3}, {"max_watts": -1}):
        with pytest.raises((ValueError, msgspec.ValidationError)):
            control.change(tmp_path, wrong)
    assert control.read_orders(tmp_path) == control.Orders(), "what is refused is not written"


def test_a_file_that_others_could_have_written_is_not_obeyed(tmp_path: Path) -> None:
    file = tmp_path / control.LIMITS
    control.change(tmp_path, {"hours": "22-6"})
    file.chmod(0o666)
    with pytest.raises(control.ControlUnfit, match="may be written by others"):
        control.read_orders(tmp_path)
    file.chmod(0o600)
    for text in ("", "{", "[]", '{"limits": {"hours": "x"}}', '{"limits": {"hours": 3}}', '{"limits": 3}'):
        file.write_text(text)
        with pytest.raises(control.ControlUnfit, match="cannot be understood"):
            control.read_orders(tmp_path)
    file.write_bytes(b" " * (control.MAX_BYTES + 1))
    with pytest.raises(control.ControlUnfit, match="larger"):
        control.read_orders(tmp_path)
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(control.ControlUnfit, match="cannot be read"):
        control.read_orders(tmp_path)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(control.ControlUnfit, match="regular"):
        control.read_orders(tmp_path)


def test_a_status_is_believed_while_it_is_written(tmp_path: Path) -> None:
    assert control.read_status(tmp_path) is None
    control.write_status(tmp_path, control.Status(pid=1, at=1_000.0, reason="hot"))
    found = control.read_status(tmp_path)
    assert found is not None and found.reason == "hot"
    assert control.is_alive(found, 1_010.0) and control.is_alive(found, 1_000.0 + 2 * watch.IDLE_S)
    assert not control.is_alive(found, 1_200.0)
    assert not control.is_alive(msgspec.structs.replace(found, running=False), 1_010.0)


def test_a_node_that_was_killed_is_not_said_to_run(tmp_path: Path) -> None:
    """Its last word is that it does; nothing keeps its folder any more."""
    command = [sys.executable, "-c", KEEP, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as node:
        assert node.stdout is not None and node.stdout.readline() == b"kept\n"
        control.write_status(tmp_path, control.Status(pid=node.pid, at=1_000.0))
        running = control.read_status(tmp_path)
        node.kill()
    killed = control.read_status(tmp_path)
    assert running is not None and control.is_alive(running, 1_010.0)
    assert killed is not None and not control.is_alive(killed, 1_010.0)


def test_energy_is_what_was_measured_while_a_task_was_under_way(tmp_path: Path) -> None:
    class Offer(SimpleNamespace):
        """Of a task, as far as the meter looks at it."""

    def work(job: int) -> Work:
        return Work(cast(Any, "0x"), cast(Any, Offer(job=job, task=SimpleNamespace(index=2))))

    assert meter.read_used(tmp_path) == []
    counted = meter.Meter(tmp_path)
    hot = Sample(watts=100.0)
    counted.turn_to(work(1), 0.0)
    counted.sample(hot, 10.0, 7.0)
    counted.sample(replace(hot, watts=200.0), 20.0, 7.0)
    counted.turn_to(None, 25.0)  # 5 s more with the power of the last sample
    counted.sample(hot, 30.0, 7.0)
    counted.turn_to(work(2), 30.0)
    counted.turn_to(work(3), 33.0)  # too short for a sample: nothing is known of its power
    counted.sample(Sample(), 40.0, 7.0)
    counted.sample(hot, 40_000.0, 7.0)  # the machine slept: nothing is known of that time
    counted.sample(hot, 39_990.0, 7.0)  # a clock that goes back
    counted.close()
    found = {(one.job, one.how): one for one in meter.read_used(tmp_path)}
    assert set(found) == {(1, meter.MEASURED), (2, meter.UNKNOWN), (3, meter.UNKNOWN)}
    assert (found[1, meter.MEASURED].seconds, found[1, meter.MEASURED].joules) == (25.0, 4_000.0)
    assert (found[2, meter.UNKNOWN].seconds, found[2, meter.UNKNOWN].metered_s) == (3.0, 0.0)
    assert found[3, meter.UNKNOWN].seconds == 7.0

    stated = meter.Meter(tmp_path, watts=50)
    stated.turn_to(work(4), 0.0)
    stated.turn_to(None, 10.0)
    stated.close()
    (one,) = [each for each in meter.read_used(tmp_path) if each.job == 4]
    assert (one.joules, one.how) == (500.0, meter.STATED)


def used(seconds: float, joules: float, how: str) -> meter.Used:
    return meter.Used(1, 2, "task", 0.0, seconds, joules, seconds if how != meter.UNKNOWN else 0.0, how)


def test_the_net_is_shown_where_all_of_the_power_is_known_and_not_otherwise() -> None:
    measured, stated = used(3600, 3_600_000, meter.MEASURED), used(1800, 1_800_000, meter.STATED)
    both = earnings.energy_of([measured, stated])
    assert (both.kwh, both.unknown_s) == (1.5, 0.0)
    assert earnings.net_of(Wei(10 * CREDIT), both, Wei(2 * CREDIT)) == 7 * CREDIT
    assert earnings.net_of(Wei(CREDIT), both, Wei(2 * CREDIT)) == -2 * CREDIT, "a loss is shown as one"
    assert earnings.net_of(Wei(10 * CREDIT), both, Wei(0)) is None
    blind = earnings.energy_of([measured, used(60, 0, meter.UNKNOWN)])
    assert blind.unknown_s == 60.0
    assert earnings.net_of(Wei(10 * CREDIT), blind, Wei(2 * CREDIT)) is None, "nothing is invented"


@pytest.mark.parametrize(
    ("due", "oldest_s", "least", "gas", "claims"),
    [
        (0, 10**6, 0, 0, False),
        (5, 0, 0, 0, True),
        (5, 0, 6, 0, False),
        (6, 0, 6, 0, True),
        (6, 0, 0, 6, False),
        (7, 0, 0, 6, True),
        (1, 100, 6, 6, True),
    ],
)
def test_pay_is_claimed_when_it_is_worth_it_or_has_waited_long(
    due: int, oldest_s: float, least: int, gas: int, claims: bool
) -> None:
    assert earnings.worth_claiming(Wei(due), oldest_s, Wei(least), Wei(gas), 100.0) == claims


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to others")
def test_root_commands_a_node_of_somebody_else_and_others_do_not(tmp_path: Path) -> None:
    os.chown(tmp_path, 1234, 1234)
    control.change(tmp_path, {"hours": "22-6"})
    control.write_status(tmp_path, control.Status(pid=1, at=0.0))
    assert {(tmp_path / name).stat().st_uid for name in (control.LIMITS, control.STATUS)} == {1234}
    assert control.read_orders(tmp_path).limits == {"hours": "22-6"} and control.read_status(tmp_path)
    os.chown(tmp_path / control.LIMITS, 4321, 4321)
    with pytest.raises(control.ControlUnfit, match="may be written by others"):
        control.read_orders(tmp_path)
