"""Hours of the day, as people write them: `22-6`, `22:30-06:00,12-13`, in this machine's local time."""

import re
from dataclasses import dataclass

DAY = 24 * 60
"""Minutes of a day."""
MOST_SPANS = 12
ALL = "all"
"""The whole day, in words."""
_SPAN = re.compile(r"(\d{1,2})(?::(\d{2}))?\s*-\s*(\d{1,2})(?::(\d{2}))?")


@dataclass(frozen=True)
class Hours:
    """Spans of minutes since midnight, from the first to before the second; one that ends before it begins goes over
    midnight. None at all stands for the whole day."""

    spans: tuple[tuple[int, int], ...] = ()

    def has(self, minute: int) -> bool:
        """Whether a minute of the day is in one of them."""
        return not self.spans or any((minute - start) % DAY < (end - start) % DAY for start, end in self.spans)

    def wait(self, minute: int) -> int:
        """Minutes until one of them begins; 0 in one."""
        return 0 if self.has(minute) else min((start - minute) % DAY for start, _ in self.spans)


def parse_hours(text: str) -> Hours:
    """Raises `ValueError`, which says how hours are written."""
    parts = [part.strip() for part in text.split(",") if part.strip() not in ("", ALL)]
    if len(parts) > MOST_SPANS:
        raise ValueError(f"{len(parts)} spans of hours are more than {MOST_SPANS}; write fewer")
    return Hours(tuple(_span(part) for part in parts))


def _span(text: str) -> tuple[int, int]:
    found = _SPAN.fullmatch(text)
    start, end = (_minute(found[1], found[2]), _minute(found[3], found[4])) if found else (-1, -1)
    if start < 0 or end < 0 or start % DAY == end % DAY:
        raise ValueError(
            f"{text!r} are no hours of a day; write them like 22-6 or 22:30-06:00, several with commas, or all"
        )
    return start % DAY, end % DAY


def _minute(hour: str, minute: str | None) -> int:
    total = int(hour) * 60 + int(minute or 0)
    return total if total <= DAY and int(minute or 0) < 60 else -1


def clock(minute: int) -> str:
    """A minute of the day as a clock shows it."""
    return f"{minute // 60 % 24:02d}:{minute % 60:02d}"
