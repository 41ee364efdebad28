"""A check and what it finds; many run side by side, each within a bound."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from proofyard.protocol.types import ProofyardError

BOUND_S = 30.0
"""A check that takes longer has found nothing."""
SIDE_BY_SIDE = 16

T = TypeVar("T")


class State(StrEnum):
    """`NOTE`: it works, and could be better. `SKIPPED`: what it rests on is not there, or not set up."""

    FINE = "fine"
    NOTE = "note"
    FAULT = "fault"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Seen:
    """What a check saw. `looked_at`: where; `found`: what is there; `todo`: the one thing to do about it, if any."""

    state: State
    looked_at: str
    found: str
    todo: str = ""


@dataclass(frozen=True)
class Check:
    """`look` says what is there. It may raise `Skipped`, and any `ProofyardError` for a fault that says what to do."""

    section: str
    name: str
    look: Callable[[], Seen]


@dataclass(frozen=True)
class Finding:
    """What came of a check, in `seconds`."""

    section: str
    name: str
    seen: Seen
    seconds: float


class Skipped(Exception):
    """A check has nothing to look at, for this reason."""


def fine(looked_at: str, found: str) -> Seen:
    return Seen(State.FINE, looked_at, found)


def note(looked_at: str, found: str, todo: str = "") -> Seen:
    return Seen(State.NOTE, looked_at, found, todo)


def fault(looked_at: str, found: str, todo: str) -> Seen:
    return Seen(State.FAULT, looked_at, found, todo)


class Once(Generic[T]):
    """A value that many checks need: made by the first that asks, which the others wait for. What making it raises,
    all get."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: list[T] = []
        self._failed: list[Exception] = []

    def __call__(self) -> T:
        with self._lock:
            if not self._made and not self._failed:
                try:
                    self._made.append(self._make())
                except Exception as error:
                    self._failed.append(error)
        if self._failed:
            raise self._failed[0]
        return self._made[0]


def run(checks: Sequence[Check], *, bound_s: float = BOUND_S, side_by_side: int = SIDE_BY_SIDE) -> list[Finding]:
    """What all checks find, in their order. Threads that hang are left behind: they end with the process."""
    places = threading.Semaphore(side_by_side)
    found: list[Finding | None] = [None] * len(checks)

    def look(at: int, check: Check) -> None:
        with places:
            start = time.monotonic()
            seen = _seen(check)
            found[at] = Finding(check.section, check.name, seen, time.monotonic() - start)

    threads = [threading.Thread(target=look, args=each, daemon=True) for each in enumerate(checks)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + bound_s
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return [each or _late(check, bound_s) for each, check in zip(found, checks, strict=True)]


def _seen(check: Check) -> Seen:
    try:
        return check.look()
    except Skipped as reason:
        return Seen(State.SKIPPED, "", str(reason))
    except ProofyardError as error:
        found, _, todo = str(error).partition("; ")
        return fault("", found, todo or "see `found`")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return fault("", f"{where}{error.strerror or error}", "check the path and who may use it")
    except Exception as error:
        return fault("", f"unexpected {type(error).__name__}: {error}", "run it again with PROOFYARD_DEBUG=1")


def _late(check: Check, bound_s: float) -> Finding:
    seen = fault(
        "", f"no answer within {bound_s:g} s", "see what the program or the machine that is asked is busy with"
    )
    return Finding(check.section, check.name, seen, bound_s)
