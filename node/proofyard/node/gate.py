"""When a node takes work: the limits that its operator set, and whether they are kept now.

Pure: what was measured and what the clock says is passed in. What is owed is no new work: states for audits, juries and
defence go on whatever the limits are, since leaving them out costs stake.
"""

from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from proofyard.node.hours import DAY, clock, parse_hours
from proofyard.runtime.bounds import Amount

HOLD_S = 60.0
"""After others used the machine, or it was too hot, nothing new is begun for so long: what stopped it was this node's
own work, or will be back in a moment."""
OTHERS_SHARE = 0.15
"""Of the machine's cores, what others may compute beside a node that works while they are idle, but half a core at
least: a desktop's clock and mail are no use of the machine."""
LEAST_OTHERS = 0.5
UNTIL_RESUMED = -1.0

Celsius = Annotated[int, Meta(ge=0, le=120)]
Text = Annotated[str, Meta(max_length=200)]


class SetLimits(msgspec.Struct, frozen=True, kw_only=True):
    """When an operator lets a node take work, and what it leaves to others: settings of it, and what
    `proofyard node limits` changes while it runs. 0, "" and false stand for no limit.

    `hours`: of the day, local time, in which work is taken, such as `22-6`. `cheap_hours`: those in which power is
    cheap; outside of them a job that has time is left to them. `idle_only`: only while no other process computes on the
    GPU, or on a node without one, while others leave the processors alone. `max_watts`, `max_celsius`: of the hottest
    GPU, else of the processor. `max_upload`: bytes a second that it sends. `least_free_bytes`: memory that others find
    free.
    """

    hours: Text = ""
    cheap_hours: Text = ""
    idle_only: bool = False
    max_watts: Amount = 0
    max_celsius: Celsius = 0
    max_upload: Amount = 0
    least_free_bytes: Amount = 0


class Limits(SetLimits, frozen=True, kw_only=True):
    """What holds now: also `paused_until`, Unix seconds, -1 until it is resumed. Raises `ValueError` for hours that are
    none."""

    paused_until: float = 0.0

    def __post_init__(self) -> None:
        parse_hours(self.hours)
        parse_hours(self.cheap_hours)


@dataclass(frozen=True)
class Sample:
    """What was measured; None for what cannot be told here. `others_on_gpu`: what others compute there, by name;
    `others_cores`: how many cores they keep busy, of `cores`."""

    watts: float | None = None
    celsius: float | None = None
    free_bytes: int | None = None
    others_on_gpu: tuple[str, ...] | None = None
    others_cores: float | None = None
    cores: int = 1


@dataclass(frozen=True)
class Closed:
    """Why no work is taken. `at_once`: also what is under way is given back, because others need the machine now, or
    it has to cool down."""

    reason: str
    at_once: bool = False


def closed_by(limits: Limits, sample: Sample, now: float, minute: int) -> Closed | None:
    """What keeps a node from taking work at `now` (Unix seconds), which is `minute` of the day here; None for nothing.
    What is urgent comes first: it says how what is under way ends."""
    urgent = _urgent(limits, sample)
    if urgent:
        return Closed(urgent, at_once=True)
    if limits.paused_until == UNTIL_RESUMED:
        return Closed("paused; `proofyard node resume` ends that")
    if limits.paused_until > now:
        left = (limits.paused_until - now) / 60
        return Closed(f"paused for {left:.0f} min more; `proofyard node resume` ends that before")
    hours = parse_hours(limits.hours)
    if not hours.has(minute):
        return Closed(
            f"outside of its hours ({limits.hours}); they begin at {clock((minute + hours.wait(minute)) % DAY)}"
        )
    return None


def _urgent(limits: Limits, sample: Sample) -> str:
    if limits.idle_only and sample.others_on_gpu:
        return f"{', '.join(sample.others_on_gpu[:3])} uses the GPU, and it works while that is idle only"
    bound = max(LEAST_OTHERS, OTHERS_SHARE * sample.cores)
    if limits.idle_only and sample.others_on_gpu is None and (sample.others_cores or 0.0) > bound:
        return f"others keep {sample.others_cores:.1f} cores busy, and it works while they are idle only"
    if limits.max_celsius and sample.celsius is not None and sample.celsius > limits.max_celsius:
        return f"it is {sample.celsius:.0f} °C warm, at most {limits.max_celsius} are allowed"
    if limits.max_watts and sample.watts is not None and sample.watts > limits.max_watts:
        return f"it draws {sample.watts:.0f} W, at most {limits.max_watts} are allowed"
    if limits.least_free_bytes and sample.free_bytes is not None and sample.free_bytes < limits.least_free_bytes:
        free, least = sample.free_bytes >> 20, limits.least_free_bytes >> 20
        return f"{free:,} MiB of memory are free, {least:,} are to stay free for others"
    return ""


def blind_spots(limits: Limits, sample: Sample) -> list[str]:
    """Limits that are set and that nothing measures on this machine, in words."""
    spots = []
    if limits.max_celsius and sample.celsius is None:
        spots.append("max_celsius: no temperature can be read here")
    if limits.max_watts and sample.watts is None:
        spots.append("max_watts: no power draw can be read here")
    if limits.least_free_bytes and sample.free_bytes is None:
        spots.append("least_free_bytes: free memory cannot be read here")
    return spots


class Gate:
    """Open or closed, with a memory: what was closed for something urgent stays so until that is over for `HOLD_S`."""

    def __init__(self) -> None:
        self.closed: Closed | None = None
        self._held_until = 0.0

    def look(self, limits: Limits, sample: Sample, now: float, minute: int) -> bool:
        """Take in what was measured; whether anything changed."""
        before, found = self.closed, closed_by(limits, sample, now, minute)
        if found is not None and found.at_once:
            self._held_until = now + HOLD_S
        elif found is None and before is not None and before.at_once and now < self._held_until:
            # A clock that was set back holds nothing for longer.
            self._held_until = min(self._held_until, now + HOLD_S)
            found = before
        self.closed = found
        return (before is None) != (found is None) or (before or Closed("")).at_once != (found or Closed("")).at_once


def waits_for_cheap_power(limits: Limits, now: float, minute: int, deadline: float) -> str:
    """Why a job that ends at `deadline` (Unix seconds, as `now`) is left to the hours of cheap power; empty where it is
    not: they are now, or begin when more than half of its time is over."""
    wait = parse_hours(limits.cheap_hours).wait(minute)
    if not wait or 60 * wait > (deadline - now) / 2:
        return ""
    return f"busy until power is cheap, at {clock((minute + wait) % DAY)}: the job has time until then"
