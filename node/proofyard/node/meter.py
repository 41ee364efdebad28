"""How long this node worked for each job, and what power that took: measured on its GPU while it ran, or stated by its
operator, or not known. Nothing is estimated."""

import contextlib
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

from proofyard.node.gate import Sample
from proofyard.node.work import Owed, Work
from proofyard.protocol.messages import AuditOffer

FILE = "meter.db"
LONGEST_S = 30.0
"""Between two samples; a longer time is one in which the machine slept, and nothing is known of it."""
MOST_ROWS = 50_000
MEASURED, STATED, UNKNOWN = "measured", "stated", "not measured"
SCHEMA = """
create table if not exists work (
    job integer not null, task integer not null, kind text not null, began real not null,
    seconds real not null, joules real not null, metered_s real not null, how text not null,
    primary key (job, task, kind, how)
)
"""


@dataclass(frozen=True)
class Used:
    """What one kind of work for one task took. `joules` is for `metered_s` of the `seconds`, from power that was `how`
    told."""

    job: int
    task: int
    kind: str
    began: float
    seconds: float
    joules: float
    metered_s: float
    how: str


class Meter:
    """Adds up, in a database of its own in `folder`. `watts`: what the operator says that the machine draws while it
    works, 0 for nothing."""

    def __init__(self, folder: Path, watts: int = 0) -> None:
        self._watts = watts
        self._turn = threading.Lock()
        self._db = sqlite3.connect(folder / FILE, check_same_thread=False, timeout=5.0)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute(SCHEMA)
        self._db.commit()
        self._last: tuple[tuple[int, int, str], float] | None = None

    def take(self, sample: Sample, work: Work | None, now: float, clock: float = 0.0) -> None:
        """What was measured at `now` (seconds of any steady clock, `clock` Unix seconds), while `work` was under way.
        The time since the last sample counts where that was of the same work."""
        place = _place(work)
        last, self._last = self._last, None if place is None else (place, now)
        if place is None or last is None or last[0] != place or not 0 < now - last[1] <= LONGEST_S:
            return
        watts, how = sample.watts, MEASURED
        if watts is None:
            watts, how = (float(self._watts), STATED) if self._watts else (0.0, UNKNOWN)
        self._add(place, now - last[1], watts, how, clock)

    def _add(self, place: tuple[int, int, str], seconds: float, watts: float, how: str, clock: float) -> None:
        metered = seconds if how != UNKNOWN else 0.0
        with self._turn, self._db:
            self._db.execute(
                "insert into work values (?, ?, ?, ?, ?, ?, ?, ?) on conflict (job, task, kind, how) do update set "
                "seconds = seconds + excluded.seconds, joules = joules + excluded.joules, "
                "metered_s = metered_s + excluded.metered_s",
                (*place, clock, seconds, seconds * watts, metered, how),
            )
            self._db.execute(
                "delete from work where rowid in (select rowid from work order by rowid desc limit -1 offset ?)",
                (MOST_ROWS,),
            )

    def close(self) -> None:
        with self._turn:
            self._db.close()


def read_used(folder: Path, since: float = 0.0) -> list[Used]:
    """What was used since (Unix seconds), the latest first; nothing where no node has run."""
    if not (folder / FILE).is_file():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{folder / FILE}?mode=ro", uri=True, timeout=5.0)) as db:
        columns = "job, task, kind, began, seconds, joules, metered_s, how"
        rows = db.execute(f"select {columns} from work where began >= ? order by began desc", (since,))  # noqa: S608
        return [Used(*row) for row in rows]


def _place(work: Work | None) -> tuple[int, int, str] | None:
    if work is None or isinstance(work.offer, Owed):
        return None
    return work.offer.job, work.offer.task.index, "audit" if isinstance(work.offer, AuditOffer) else "task"
