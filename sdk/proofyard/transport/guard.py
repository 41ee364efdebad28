"""Bad behaviour adds up: a score per wallet or host that fades, and a ban for a time when it is too high."""

from dataclasses import dataclass

BAN_SCORE = 100.0
"""Score at which a peer is banned: one forged block or ten malformed frames in short order."""

VIOLATION_POINTS = 10.0
"""For a message that no correct peer sends."""

FADE_PER_SECOND = 0.1
BAN_SECONDS = 600.0
MAX_ENTRIES = 10_000


@dataclass
class _Entry:
    score: float
    at: float
    banned_until: float = 0.0
    reason: str = ""


class Guard:
    """Scores by key (a wallet's address, or `host_key`). `now` is monotonic seconds, passed in."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def penalise(self, key: str, points: float, reason: str, now: float) -> bool:
        """Add `points`; True when this bans the peer."""
        entry = self._entries.pop(key, None) or _Entry(0.0, now)
        faded = max(0.0, entry.score - (now - entry.at) * FADE_PER_SECOND)
        entry.score, entry.at, entry.reason = faded + points, now, reason
        banned = entry.score >= BAN_SCORE
        if banned:
            entry.banned_until, entry.score = now + BAN_SECONDS, 0.0
        self._entries[key] = entry
        if len(self._entries) > MAX_ENTRIES:
            del self._entries[next(iter(self._entries))]
        return banned

    def ban_reason(self, key: str, now: float) -> str | None:
        """Why `key` is banned at present, or None."""
        entry = self._entries.get(key)
        if entry is None or entry.banned_until <= now:
            return None
        return f"banned for {entry.banned_until - now:.0f} s more: {entry.reason}"


class Allowance:
    """A token bucket: `rate` a second, at most `burst` saved up."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._at = burst, 0.0

    def take(self, now: float) -> bool:
        """Use one up; False when there is none."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def host_key(host: str, port: int) -> str:
    """The key of somebody who has not proved a wallet. On loopback every process is a host of its own."""
    return f"{host}:{port}" if host.startswith("127.") or host == "::1" else host
