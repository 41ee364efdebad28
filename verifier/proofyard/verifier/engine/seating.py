"""Who sits at which audited segment next: pure rules over the seats taken so far.

The plan's order decides. A stand-in is asked only where somebody before it is away: not connected, or without an answer
again and again. Who is busy is waited for, and whoever gave no answer is asked again, later each time. So too few or
slow auditors delay a verdict and never make one: a segment is left undecided only where everybody on its list has
answered, where after the protocol's time for it nobody is there to be asked, or where the batch would be lost
otherwise; and no verdict is given that a record may not say (`audit.verdict_of`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from proofyard.protocol.audit import Verdict, asked_of, verdict_of
from proofyard.protocol.types import Address, Digest
from proofyard.verifier.engine.rows import SeatState

BACKOFF_S = 1.0
MAX_BACKOFF_S = 60.0
AWAY_AFTER = 2
"""Who gave no answer so often counts as away, until it does."""
HOPELESS = 8
"""Who gave no answer so often is not waited for once the protocol's time is over."""


class Patience(IntEnum):
    """How long a batch has waited for its auditors: still in the protocol's time, beyond it, or as long as it can."""

    EARLY = 0
    OVERDUE = 1
    LAST = 2


@dataclass(frozen=True)
class Chair:
    """One auditor's seat as it is now. `not_before`: by the monotonic clock; `tries` without answer."""

    state: SeatState
    tries: int = 0
    not_before: float = 0.0
    answer: Digest | None = None


NEVER_ASKED = Chair(SeatState.AWAY)


@dataclass(frozen=True)
class Step:
    """What to do at a segment: its verdict, whom to seat, whose seals to open."""

    verdict: Verdict = Verdict.PENDING
    seat: tuple[Address, ...] = ()
    open: tuple[Address, ...] = ()


def backoff(tries: int) -> float:
    """Seconds until an auditor that gave no answer `tries` times is asked again."""
    return min(MAX_BACKOFF_S, BACKOFF_S * 2.0 ** min(max(tries - 1, 0), 16))


def next_step(
    auditors: Sequence[Address],
    chairs: Mapping[Address, Chair],
    claimed: Digest,
    seats: int,
    *,
    there: Callable[[Address], bool],
    has_room: Callable[[Address], bool],
    at: float,
    patience: Patience,
    decoy: bool = False,
) -> Step:
    """One look at a segment. `auditors` is the plan's list, an owner each, `seats` is k; `there` says who is connected
    and does such work, `has_room` who of them can take one more audit.

    Seals are opened together, once there are as many answers as the first verdict takes; in every later round the
    seals of that round together.
    """
    chairs = {auditor: chairs.get(auditor, NEVER_ASKED) for auditor in auditors}
    votes = {a: c.answer for a, c in chairs.items() if c.state == SeatState.OPENED and c.answer is not None}
    opened = {a for a, c in chairs.items() if c.state == SeatState.OPENED}
    verdict = verdict_of(
        list(votes.values()),
        claimed,
        seats,
        votes=len(opened),
        asked=asked_of(auditors, opened),
        listed=len(auditors),
        late=patience != Patience.EARLY,
        decoy=decoy,
    )
    if verdict != Verdict.PENDING and (verdict != Verdict.UNDECIDED or _exhausted(chairs, there, patience)):
        return Step(verdict)
    working = [a for a, c in chairs.items() if c.state == SeatState.WORKING]
    sealed = [a for a, c in chairs.items() if c.state == SeatState.SEALED]
    wanted = max(seats - len(votes), 1) - len(working) - len(sealed)
    seated = _seated(chairs, wanted, votes=len(votes), there=there, has_room=has_room, at=at)
    enough = len(votes) + len(sealed) >= seats or patience != Patience.EARLY
    complete = sealed and not working and not seated and enough
    return Step(seat=seated, open=tuple(sealed) if complete else ())


def _exhausted(chairs: Mapping[Address, Chair], there: Callable[[Address], bool], patience: Patience) -> bool:
    """Whether no further answer is waited for."""
    silent = [a for a, chair in chairs.items() if chair.state != SeatState.OPENED]
    hope = any(there(a) and chairs[a].tries < HOPELESS for a in silent)
    return not silent or patience == Patience.LAST or (patience == Patience.OVERDUE and not hope)


def _seated(
    chairs: Mapping[Address, Chair],
    wanted: int,
    *,
    votes: int,
    there: Callable[[Address], bool],
    has_room: Callable[[Address], bool],
    at: float,
) -> tuple[Address, ...]:
    """The next auditors to ask, in the plan's order. A record names those who are passed over, and holds no more of
    them than votes."""
    seated: list[Address] = []
    passed, places, most = 0, wanted, votes + max(wanted, 0)
    for auditor, chair in chairs.items():
        if places <= 0 or passed > most:
            break
        if chair.state != SeatState.AWAY:
            continue
        if not there(auditor):
            passed += 1
            continue
        if chair.tries >= AWAY_AFTER:
            passed += 1
        else:
            # It is waited for even where it cannot be asked now.
            places -= 1
        if chair.not_before <= at and has_room(auditor) and len(seated) < wanted:
            seated.append(auditor)
    return tuple(seated)
