"""How long a demo waits for its job: as long as it comes further, and so long again."""

import time
from collections.abc import Callable

from proofyard.runtime.times import span
from proofyard.sdk.following import Look

FURTHER = frozenset({"progress", "committed", "drawn", "sealed", "audit-match", "settled", "valid"})
"""Lines of a job that comes further; those about what was lost or given anew are none."""
WARNINGS = 3
"""Before the end, at even distances."""


class Patience:
    """Taken a look at a time. `seconds` without progress are the end, however long it took before; `tell` hears of each
    part of them that has gone by. `clock`: seconds from any moment on."""

    def __init__(
        self, seconds: float, tell: Callable[[str], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds = seconds
        self._tell, self._clock = tell, clock
        self._since, self._warned = clock(), 0

    def is_over(self, look: Look) -> bool:
        """Whether the job has not come further for too long, this look included."""
        now = self._clock()
        if any(line.kind in FURTHER for line in look.fresh):
            self._since, self._warned = now, 0
        idle = now - self._since
        if idle >= self.seconds:
            return True
        if idle >= (self._warned + 1) * self.seconds / (WARNINGS + 1):
            self._warned += 1
            why = f" ({look.report.reason})" if look.report.reason else ""
            self._tell(
                f"the job has not come further for {span(idle)}{why}; the network is ended in "
                f"{span(self.seconds - idle)} if that stays so (--patience says after how long)"
            )
        return False
