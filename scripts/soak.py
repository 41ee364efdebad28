"""An hour of everything that can go wrong, with everything checked: kills, reorganisations, endpoints, disks, clocks
and databases that fail, against real verifiers and nodes in processes of their own.

    make soak
    .venv/bin/python scripts/soak.py --minutes 10 --seed 7 --only reorg kill

Storms alternate with calms. In a storm jobs are opened while faults are drawn; in the calm after it every job must end,
and then everything is checked: each task paid once, each wei accounted for, each result what a plain execution gives,
each database what the chain says, nothing in flight, nobody busy. Writes out/bench/soak.json; exits 1 where something
does not hold.
"""

import argparse
import json
import random
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import soak_work

soak_work.install()

from proofyard.devnet.process import terminated_like_interrupted  # noqa: E402
from soak_books import Books, Findings  # noqa: E402
from soak_faults import Faults  # noqa: E402
from soak_jobs import Requesters  # noqa: E402
from soak_network import Ended, SoakNetwork  # noqa: E402

FAULTS = ("kill", "half", "reorg", "rpc", "disk", "clock", "database", "freeze", "stop")
OUT = Path("out/bench/soak.json")
STORM_S = 90.0
CALM_S = 300.0
"""Within this a calm must have ended every job; the slowest are told."""
SETTLE_S = 120.0
"""The same for windows, finalizing and the last transactions."""
IDLE_S = 6.0
HOT_SHARE = 0.25
"""Of one CPU, which nobody with nothing to do may take."""
KILL_EVERY_S, FAULT_EVERY_S = 2.0, 5.0
TURN_S = 0.1
BOOKS_EVERY_S = 10.0
TAKEN_OVER = "is another's now"
"""The only reason for which a process that serves may end by itself: another of its verifier has its work."""


class Soak:
    """One run on one network."""

    def __init__(self, network: SoakNetwork, seed: int, only: frozenset[str], *, jobs_at_once: int) -> None:
        self.rng = random.Random(seed)
        self.network = network
        self.jobs_at_once = jobs_at_once
        self.findings = Findings()
        self.requesters = Requesters(network, self.rng)
        self.faults = Faults(network, self.rng, only)
        self.books = Books(network, self.requesters, self.findings)
        self.rounds = 0
        self.calms: list[float] = []
        self._told_ended = 0
        self._looked_at = self._books_at = 0.0
        self.faults.floor = network.chain().block_number()

    def run(self, minutes: float, storm_s: float) -> None:
        end = time.monotonic() + 60 * minutes
        while True:
            self.rounds += 1
            print(f"storm {self.rounds}", flush=True)
            self._storm(min(storm_s, max(10.0, end - time.monotonic())))
            self._calm()
            if time.monotonic() > end:
                break
        self.requesters.close()

    def _storm(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._turn()
            self.faults.begin_due(KILL_EVERY_S, FAULT_EVERY_S)
            if len(self.requesters.unfinished) < self.jobs_at_once and not self.requesters.opening:
                self.requesters.open()
            time.sleep(TURN_S)
        self.faults.end_all()

    def _turn(self) -> None:
        """What goes on all the time."""
        network, now = self.network, time.monotonic()
        network.reap()
        for ended in network.ended[self._told_ended :]:
            self._note_ended(ended)
        self._told_ended = len(network.ended)
        self.faults.end_due()
        self.faults.look_after_postgres()
        if now > self._looked_at + 1.0:
            self._looked_at = now
            self.requesters.look()
        if now > self._books_at + BOOKS_EVERY_S:
            self._books_at = now
            if not network.books().conserved:
                self.findings.add("conserved", f"the books do not add up: {network.books()}")

    def _note_ended(self, ended: Ended) -> None:
        """It is started again, as systemd would. One may refuse to start without a chain or a database."""
        if ended.served and TAKEN_OVER not in ended.said:
            self.findings.add("died", f"{ended.name} ended with {ended.code}: {ended.said}")
        else:
            self.faults.counts["taken over" if ended.served else "refused to start"] += 1
            print(f"  {ended.name} ended: {ended.said}", flush=True)
        self.faults.rest(self.network.programs[ended.name])

    def _calm(self) -> None:
        start = time.monotonic()
        self._until(lambda: not self.requesters.opening, CALM_S)
        self.requesters.forget_missing()
        self._until(lambda: not self.requesters.unfinished, CALM_S)
        for job in self.requesters.unfinished:
            job.given_up = True
            self.findings.add(
                "stuck", f"job {job.number} is not over {time.monotonic() - job.began:.0f} s after its begin"
            )
        ended = time.monotonic() - start
        self.calms.append(ended)
        self._until(lambda: not self.books.settling(), SETTLE_S)
        settled = time.monotonic() - start - ended
        self.books.check()
        self._until(lambda: all(program.alive for program in self.network.programs.values()), CALM_S)
        for name, program in self.network.programs.items():
            if not program.alive:
                self.findings.add("stuck", f"{name} does not start any more")
        self._look_for_hot_loops()
        counts = Counter(kind for kind, _ in self.findings.found)
        print(
            f"  calm: {len(self.requesters.jobs)} jobs so far, all over after {ended:.0f} s, settled {settled:.0f} s "
            f"later; {sum(p.kills for p in self.network.programs.values())} kills, found {dict(counts)}",
            flush=True,
        )

    def _until(self, reached: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._turn()
            if reached():
                return
            time.sleep(0.5)

    def _look_for_hot_loops(self) -> None:
        """Nobody has anything to do now."""
        before = {name: (program.pid, program.cpu_s()) for name, program in self.network.programs.items()}
        time.sleep(IDLE_S)
        for name, (pid, cpu_s) in before.items():
            program = self.network.programs[name]
            if program.pid == pid and (share := (program.cpu_s() - cpu_s) / IDLE_S) > HOT_SHARE:
                self.findings.add("hot", f"{name} takes {share:.0%} of a CPU with nothing to do (round {self.rounds})")

    def figures(self) -> dict[str, Any]:
        """What soak.json holds."""
        found, jobs = self.findings.counts(), [job for job in self.requesters.jobs if job.over]
        stops = [seconds for _, seconds in self.faults.stops]
        return {
            "jobs": len(jobs),
            "tasks": sum(job.manifest.params["rounds"] * job.manifest.params["width"] for job in jobs),
            "kills": sum(program.kills for program in self.network.programs.values()),
            "reorgs": self.faults.counts["reorg"],
            "paid_twice": found["paid_twice"],
            "unpaid": found["unpaid"],
            "stuck": found["stuck"],
            "lost": found["lost"],
            "conserved": not found["conserved"],
            "wronged": found["wronged"],
            "died": found["died"],
            "hot": found["hot"],
            "late_stops": sum(seconds is None for seconds in stops),
            "slowest_stop_s": round(max((s for s in stops if s is not None), default=0.0), 2),
            "slowest_calm_s": round(max(self.calms, default=0.0), 1),
            "median_calm_s": round(statistics.median(self.calms), 1) if self.calms else 0.0,
            "rounds": self.rounds,
            "faults": dict(sorted(self.faults.counts.items())),
            "small_disks": all(disk.own for disk in self.network.disks.values()),
            "found": [{"kind": kind, "what": what} for kind, what in self.findings.found],
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long, calms included (60)")
    parser.add_argument(
        "--seed", type=int, default=None, help="of everything that is drawn; printed, a new one if not given"
    )
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=(), help="these faults alone")
    parser.add_argument(
        "--storm", type=float, default=STORM_S, metavar="SECONDS", help=f"of each storm ({STORM_S:.0f})"
    )
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=4, help="open at a time (4)")
    parser.add_argument(
        "--keep", action="store_true", help="keep the folder with logs and databases, whatever is found"
    )
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--level", default="info")
    chosen = parser.parse_args()
    seed = secrets.randbelow(1 << 30) if chosen.seed is None else chosen.seed
    folder = Path(tempfile.mkdtemp(prefix="proofyard-soak-"))
    # PostgreSQL runs as another user where this one is root.
    folder.chmod(0o711)
    print(f"seed {seed}, {chosen.minutes:g} minutes, logs in {folder}", flush=True)
    began, figures = time.monotonic(), dict[str, Any]()
    with terminated_like_interrupted(), SoakNetwork(folder, nodes=chosen.nodes, level=chosen.level) as network:
        soak = Soak(network, seed, frozenset(chosen.only), jobs_at_once=chosen.jobs)
        try:
            soak.run(chosen.minutes, chosen.storm)
        except KeyboardInterrupt:
            print("stopped before its end", file=sys.stderr)
        finally:
            figures = {"seed": seed, "minutes": round((time.monotonic() - began) / 60, 1)} | soak.figures()
            soak.requesters.close()
            if figures["found"] or chosen.keep:
                with suppress(OSError):
                    keep_disks(network)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps({key: value for key, value in figures.items() if key != "found"}, indent=1))
    if figures["found"] or figures["late_stops"]:
        print(f"see {chosen.out}, and logs and databases in {folder}", file=sys.stderr)
        return 1
    if not chosen.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def keep_disks(network: SoakNetwork) -> None:
    """What lies on small disks goes with them."""
    for name, disk in network.disks.items():
        if disk.own and name in network.databases:
            disk.free()
            shutil.copytree(disk.path, network.folder / "kept" / name, dirs_exist_ok=True)
    with (network.folder / "kept-pair.sql").open("wb") as sink:
        network.postgres.dump(sink)


if __name__ == "__main__":
    sys.exit(main())
