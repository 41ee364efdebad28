"""What a node did and refused since it started, for its operator: numbers, and the latest reasons."""

from collections import Counter, deque

import msgspec

RECENT = 20
REASONS = 64
"""Reasons that are counted apart; those of later ones are `OTHER`. Who offers work words some of them."""
OTHER = "other reasons"
LATER = "busy"
"""How a reason begins that is no refusal: the same may be offered again."""


class Turned(msgspec.Struct, frozen=True):
    """Work that was refused, or taken and given back, at `at` (Unix seconds)."""

    at: float
    what: str
    reason: str
    given_back: bool


class Tally:
    """Counts. `tasks` and `audits` were finished; `later`: offers that came while the node was busy or closed;
    `refused`: by reason; `given_back`: what was taken and not finished."""

    def __init__(self) -> None:
        self.tasks = self.audits = self.later = self.given_back = 0
        self.refused: Counter[str] = Counter()
        self.recent: deque[Turned] = deque(maxlen=RECENT)

    def refuse(self, what: str, reason: str, at: float) -> None:
        if reason.startswith(LATER):
            self.later += 1
            return
        known = reason in self.refused or len(self.refused) < REASONS
        self.refused[reason if known else OTHER] += 1
        self.recent.appendleft(Turned(at, what, reason, given_back=False))

    def give_back(self, what: str, reason: str, at: float) -> None:
        self.given_back += 1
        self.recent.appendleft(Turned(at, what, reason, given_back=True))
