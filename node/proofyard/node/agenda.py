"""What a node does next: audits where it would wait anyway, and before anything else once they are due.

An audit is due when the time that is left until its answer is wanted is what executing it takes, with those that are
wanted before it. Until then tasks go first, of whichever job. A task is interrupted for what is due where a segment
ends, so that nothing is lost but the step after it; once it is interrupted, all audits that are ready are executed.

Pure: no clock and no waiting. Times are seconds of whatever clock the caller keeps.
"""

import math
from collections.abc import Iterable

from proofyard.node.work import Owed, Work
from proofyard.protocol.messages import AuditOffer, TaskOffer
from proofyard.protocol.types import Cid
from proofyard.runtime.recent import Recent

UNKNOWN_SHARE = 0.5
"""Of the time until an answer is wanted, what executing is taken for while nothing is known of a job."""
MARGIN = 1.25
"""A segment may take so many times what the last one took."""
JOBS = 256


class Agenda:
    """Work whose inputs are here, in the order in which it is done."""

    def __init__(self) -> None:
        self._ready: list[Work] = []
        self._interrupted = False
        self._segment_s: Recent[Cid, float] = Recent(JOBS)

    def add(self, work: Work) -> None:
        """Something can be done now, or again. Bounded by what the caller accepts."""
        self._ready.append(work)

    def next(self, now: float) -> Work | None:
        """What to do at `now`, which is no longer on the agenda; None where there is nothing."""
        work = self._first(now)
        if work is not None:
            self._ready.remove(work)
        if not self._audits():
            self._interrupted = False
        return work

    def took(self, offer: TaskOffer | AuditOffer, seconds: float, segments: int = 1) -> None:
        """Learn how long segments of a job take on this machine."""
        self._segment_s.put(offer.manifest, seconds / max(1, segments))

    def segment_s(self, offer: TaskOffer | AuditOffer) -> float | None:
        """What a segment of a job took last; None while nothing is known."""
        return self._segment_s.get(offer.manifest)

    def due_at(self) -> float:
        """From when on audits go before tasks; infinity while there is none."""
        due, needed = math.inf, 0.0
        for work in self._audits():
            needed += self._seconds(work)
            due = min(due, work.wanted_at - needed)
        return due

    def interrupts(self, current: Work, now: float, *, at_border: bool) -> bool:
        """Whether a task under way stops for audits; `at_border` where a segment has just ended, so that it would be
        too late at the next border."""
        if not isinstance(current.offer, TaskOffer) or current.cancelled:
            return False
        ahead = MARGIN * (self.segment_s(current.offer) or 0.0) if at_border else 0.0
        self._interrupted = self._interrupted or now + ahead >= self.due_at()
        return self._interrupted

    def _first(self, now: float) -> Work | None:
        owed = [work for work in self._ready if isinstance(work.offer, Owed)]
        tasks = [work for work in self._ready if isinstance(work.offer, TaskOffer)]
        audits = self._audits()
        if owed:
            return _earliest(owed)
        if audits and (not tasks or self._interrupted or now >= self.due_at()):
            return audits[0]
        return _earliest(tasks) if tasks else None

    def _audits(self) -> list[Work]:
        """Those that are wanted first, first."""
        audits = [work for work in self._ready if isinstance(work.offer, AuditOffer)]
        return sorted(audits, key=lambda work: (work.wanted_at, work.number))

    def _seconds(self, work: Work) -> float:
        """What an audit may take."""
        assert isinstance(work.offer, AuditOffer)
        known = self.segment_s(work.offer)
        return UNKNOWN_SHARE * work.offer.wanted_s if known is None else MARGIN * known


def _earliest(works: Iterable[Work]) -> Work:
    return min(works, key=lambda work: work.number)
