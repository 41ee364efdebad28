"""How long this node worked for each job, and what power that took: measured on its GPU while it ran, or stated by its
operator, or not known. Nothing is estimated."""

import contextlib
import sqlite3
import threading
import time
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


Place = tuple[int, int, str]
"""Job, task and kind of a piece of work."""


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
    """Adds up, in a database of its own in `folder`, written with each sample. `watts`: what the operator says that the
    machine draws while it works, 0 for nothing.

    Times are of any steady clock, in seconds. A stretch of work counts with the power of the sample at its end, or of
    the last one within the same work; where there is none it is not measured.
    """

    def __init__(self, folder: Path, watts: int = 0) -> None:
        self._stated = float(watts)
        self._turn = threading.Lock()
        self._db = sqlite3.connect(folder / FILE, check_same_thread=False, timeout=5.0)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute(SCHEMA)
        self._db.commit()
        self._place: Place | None = None
        self._since = 0.0
        self._watts: float | None = None
        self._pending: dict[tuple[Place, str], list[float]] = {}

    def turn_to(self, work: Work | None, now: float) -> None:
        """The node turns to another piece of work, or to none."""
        with self._turn:
            self._count(now, self._watts)
            self._place, self._watts = _place(work), None

    def sample(self, sample: Sample, now: float, clock: float) -> None:
        """What was measured at `now`, which is `clock` (Unix seconds)."""
        with self._turn:
            self._count(now, sample.watts)
            self._watts = sample.watts
            self._write(clock)

    def _count(self, now: float, watts: float | None) -> None:
        seconds, self._since = now - self._since, now
        if self._place is None or not 0 < seconds <= LONGEST_S:
            return
        how = MEASURED if watts is not None else STATED if self._stated else UNKNOWN
        draw = watts if watts is not None else self._stated
        sums = self._pending.setdefault((self._place, how), [0.0, 0.0, 0.0])
        metered = seconds if how != UNKNOWN else 0.0
        for number, amount in enumerate((seconds, draw * seconds, metered)):
            sums[number] += amount

    def _write(self, clock: float) -> None:
        pending, self._pending = self._pending, {}
        if not pending:
            return
        with self._db:
            self._db.executemany(
                "insert into work values (?, ?, ?, ?, ?, ?, ?, ?) on conflict (job, task, kind, how) do update set "
                "seconds = seconds + excluded.seconds, joules = joules + excluded.joules, "
                "metered_s = metered_s + excluded.metered_s",
                [(*place, clock, *sums, how) for (place, how), sums in pending.items()],
            )
            self._db.execute(
                "delete from work where rowid in (select rowid from work order by rowid desc limit -1 offset ?)",
                (MOST_ROWS,),
            )

    def close(self) -> None:
        with self._turn:
            self._write(time.time())
            self._db.close()


def read_used(folder: Path, since: float = 0.0) -> list[Used]:
    """What was used since (Unix seconds), the latest first; nothing where no node has run."""
    if not (folder / FILE).is_file():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{folder / FILE}?mode=ro", uri=True, timeout=5.0)) as db:
        columns = "job, task, kind, began, seconds, joules, metered_s, how"
        rows = db.execute(f"select {columns} from work where began >= ? order by began desc", (since,))  # noqa: S608
        return [Used(*row) for row in rows]


def _place(work: Work | None) -> Place | None:
    if work is None or isinstance(work.offer, Owed):
        return None
    return work.offer.job, work.offer.task.index, "audit" if isinstance(work.offer, AuditOffer) else "task"
