"""Moments and durations as people read them. Programs get seconds, in JSON."""

import time
from datetime import datetime

_UNITS = (("day", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def moment(at: float, now: float | None = None) -> str:
    """A Unix time in this machine's zone, and how far it is from `now`, its clock's time if None, such as `2026-01-31
    14:05:00+01:00 (in 3 h)`."""
    try:
        shown = datetime.fromtimestamp(at).astimezone().isoformat(sep=" ", timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return "at a time that nobody knows yet"
    return f"{shown} ({from_now(at - (time.time() if now is None else now))})"


def from_now(seconds: float) -> str:
    """`in 3 h`, `5 min ago` or `now`."""
    if abs(seconds) < 1:
        return "now"
    return f"in {span(seconds)}" if seconds > 0 else f"{span(-seconds)} ago"


def span(seconds: float) -> str:
    """A duration, which is not negative, by its two largest units: `2 days 3 h`, `5 min`, `0 s`."""
    left, parts = max(0, round(seconds)), []
    for name, size in _UNITS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {name}{'s' if name == 'day' and count > 1 else ''}")
        elif parts:
            break
    return " ".join(parts[:2]) or "0 s"
