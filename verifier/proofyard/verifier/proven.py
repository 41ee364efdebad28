"""What a node has shown of the memory and speed that it claims, and what follows from that.

Pure: times are passed in. After a claim that fails half of it is asked for, until something is shown, and then twice
what was shown, until that is the claim: a slow minute of an honest machine costs it an hour and not its place.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from proofyard.protocol.capability import BLOCK_BYTES, Capability

GIB = 1 << 30
SMALL_BYTES = 8 * GIB
"""What a node is trusted with that claims nothing, or was not checked yet."""
SLOWER, LATE_S = 2.0, 3.0
"""A check may take so many times what the claim makes it take, and so many seconds more on the way."""
LEAST_BLOCKS = 1024
MOST_UNFINISHED = 3
"""Who breaks off so many checks one after the other, each time for work, has not shown what was asked."""


@dataclass
class Proven:
    """`blocks` are what was shown last, at `steps_per_s` and at chain time `checked_at`; 0 where nothing was. `reason`:
    why that is less than the claim; `asks`: the blocks of the next check."""

    claim: Capability | None = None
    blocks: int = 0
    steps_per_s: int = 0
    checked_at: int = 0
    reason: str = ""
    asks: int = 0
    unfinished: int = 0

    def claims(self, claim: Capability | None) -> bool:
        """What the node claims now; whether that is news. What was shown, and what was not, stays known."""
        if claim == self.claim:
            return False
        self.claim = claim
        if claim is not None:
            self.asks = min(self.asks, claim.blocks) if self.reason else claim.blocks
            self.blocks = min(self.blocks, claim.blocks)
        return True

    @property
    def due_s(self) -> float:
        """How long the next check may take."""
        assert self.claim is not None, "what is not claimed is not checked"
        return self.asks / self.claim.steps_per_s * SLOWER + LATE_S

    @property
    def memory_bytes(self) -> int:
        """The most memory that work for this node may take."""
        if not self.reason:
            return max(SMALL_BYTES, self.blocks * BLOCK_BYTES)
        return self.blocks * BLOCK_BYTES or min(SMALL_BYTES, self.asks * BLOCK_BYTES)

    def showed(self, seconds: float, now: int) -> None:
        """It filled what it was asked for."""
        assert self.claim is not None, "what is not claimed is not checked"
        self.blocks, self.steps_per_s, self.checked_at = self.asks, max(1, int(self.asks / max(seconds, 1e-3))), now
        self.unfinished = 0
        if self.blocks >= self.claim.blocks:
            self.reason = ""
        else:
            self.asks = min(self.claim.blocks, 2 * self.asks)

    def failed(self, reason: str, now: int) -> None:
        """It did not show what it was asked for."""
        self.reason, self.checked_at, self.unfinished = reason, now, 0
        if self.blocks >= self.asks:
            self.blocks = 0
        self.asks = max(min(LEAST_BLOCKS, self.asks), self.asks // 2)

    def broke_off(self, reason: str, now: int) -> None:
        """It gave up a check that had begun."""
        self.unfinished += 1
        if self.unfinished >= MOST_UNFINISHED:
            self.failed(f"it broke off {self.unfinished} checks in a row: {reason}", now)

    def said(self) -> str:
        """In words."""
        if self.claim is None:
            return f"it claims nothing, and is trusted with {in_gib(self.memory_bytes)}"
        claimed = f"it claims {in_gib(self.claim.memory_bytes)}"
        if not self.checked_at:
            return f"{claimed}, which was not checked yet"
        shown = f"{in_gib(self.blocks * BLOCK_BYTES)} were shown" if self.blocks else "nothing was shown"
        at = datetime.fromtimestamp(self.checked_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
        return f"{claimed}; at {at} {shown}" + (f" ({self.reason})" if self.reason else "")


def in_gib(size: int) -> str:
    """Bytes in words."""
    return f"{size / GIB:.2f} GiB of memory"
