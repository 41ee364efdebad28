"""One network, and one trouble after the other that a machine may have: clocks that are wrong, a chain and a database
that are away, full disks. Each time it is looked at who says so, that nobody ends, and that the jobs come to their end
as if nothing had been. Prints as JSON what was found; exits 1 where that is not what it should be.

    .venv/bin/python scripts/soak_troubles.py
"""

import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import soak_work

soak_work.install()

from proofyard.devnet.process import terminated_like_interrupted  # noqa: E402
from proofyard.protocol.manifest import Manifest  # noqa: E402
from soak_books import Books, Findings  # noqa: E402
from soak_jobs import Requesters, Submitted  # noqa: E402
from soak_network import SoakNetwork  # noqa: E402
from soak_proxy import Mode  # noqa: E402

PAIR, LONE = 0.0, 0.9
"""Which verifier a job is for, as `Requesters.open_one` has it."""
HOUR_S = 3600.0
WAIT_S = 120.0
NODES = 5


class Troubles:
    """What is done to one network. `found` says of each trouble whether it came out as it should."""

    def __init__(self, network: SoakNetwork) -> None:
        self.network, self.found = network, {"in_time": True}
        self.findings = Findings()
        self.requesters = Requesters(network, random.Random(1))
        self.books = Books(network, self.requesters, self.findings)
        self._begun = 0

    def run(self) -> None:
        for trouble in (self.clocks, self.away, self.disks):
            trouble()
            print(f"{trouble.__name__}: {self.found}", file=sys.stderr, flush=True)
        self._wait(lambda: not self.books.settling())
        self.books.check()
        self.network.reap()
        self.found["right"] = not self.findings.found
        self.found["nobody_ended"] = not self.network.ended
        self.requesters.close()

    def clocks(self) -> None:
        """A verifier's clock is 25 hours ahead for 4 seconds, and as long again from a restart on; then it goes 10
        minutes wrong for good."""
        lone = self.network.programs["lone"]
        jobs = [self._job(LONE), self._job(LONE)]
        self._wait(lambda: all(job.number and self.requesters.chain.committed(job.number) for job in jobs))
        self._ahead_for_a_while(1)
        self.network.kill(lone)
        self._ahead_for_a_while(2)
        self._wait(lambda: self._says("lone", "agrees with the chain's again", 1))
        self.network.set_clock(lone, -600.0)
        jobs.append(self._job(LONE))
        self.found["clocks"] = self._over(jobs) and self._says("lone", "s behind the chain's", 1)

    def _ahead_for_a_while(self, times: int) -> None:
        lone = self.network.programs["lone"]
        self.network.set_clock(lone, 25 * HOUR_S)
        self.network.start(lone)
        self._wait(lambda: self._says("lone", "s ahead of the chain's", times))
        time.sleep(4.0)
        self.network.set_clock(lone, 0.0)

    def away(self) -> None:
        """The chain is away for everybody, and the database of two processes restarts."""
        jobs = [self._job(PAIR), self._job(LONE)]
        self._wait(lambda: all(job.number and self.requesters.chain.job(job.number).verifier for job in jobs))
        self.network.postgres.stop("immediate")
        for program in self.network.programs.values():
            self.network.relays.set(program.relay, Mode.REFUSING)
        self._wait(
            lambda: self._says("lone", "the chain cannot be followed", 1) and self._says("pair", "not to be had", 1)
        )
        self.network.postgres.start()
        for program in self.network.programs.values():
            self.network.relays.set(program.relay, Mode.PASSING)
        self.found["away"] = self._over(jobs)

    def disks(self) -> None:
        """The disks of a verifier and of two nodes are full. The verifier takes no job meanwhile, and does when there
        is room."""
        full = ("lone", "node-1", "node-2")
        jobs = [self._job(PAIR, rounds=4), self._job(LONE)]
        self._wait(lambda: all(job.number and self.requesters.chain.committed(job.number) for job in jobs))
        for name in full:
            self.network.disks[name].fill()
        self._begin(LONE)
        self._wait(lambda: all(self._says(name, "full", 1) or self._says(name, "No space", 1) for name in full))
        refused = len(self.requesters.jobs) == self._begun - 1
        for name in full:
            self.network.disks[name].free()
        jobs.append(self._opened())
        self.found["disks"] = refused and self._over(jobs) and self._led_by_lone(jobs[-1])

    # What is seen

    def _job(self, verifier: float, rounds: int = 2) -> Submitted:
        self._begin(verifier, rounds)
        return self._opened()

    def _begin(self, verifier: float, rounds: int = 2) -> None:
        """To open a job, as soon as its verifier takes its manifest."""
        self._begun += 1
        manifest = Manifest(workload="lora", params={"rounds": rounds, "width": 3}, seed=self._begun)
        self.requesters.open_one(manifest, verifier)

    def _opened(self) -> Submitted:
        self._wait(lambda: len(self.requesters.jobs) == self._begun)
        return self.requesters.jobs[-1]

    def _over(self, jobs: list[Submitted]) -> bool:
        return self._wait(lambda: all(job.over for job in jobs))

    def _led_by_lone(self, job: Submitted) -> bool:
        chain = self.requesters.chain
        assert job.number is not None
        lone = chain.active_verifiers()[-1]
        return chain.job(job.number).verifier == lone.id

    def _says(self, name: str, text: str, times: int) -> bool:
        """Whether the processes of this name have logged so so often, all together."""
        logs = [each.log for each in self.network.programs.values() if each.name.startswith(name)]
        return sum(log.read_text(errors="replace").count(text) for log in logs) >= times

    def _wait(self, reached: Callable[[], bool]) -> bool:
        """At most `WAIT_S`; whether it was reached. Where it was not, `in_time` is false for good."""
        end = time.monotonic() + WAIT_S
        while not reached():
            if time.monotonic() > end:
                self.found["in_time"] = False
                return False
            time.sleep(0.2)
            self.requesters.look()
        return True


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="proofyard-troubles-"))
    # PostgreSQL runs as another user where this one is root.
    folder.chmod(0o711)
    with terminated_like_interrupted(), SoakNetwork(folder, nodes=NODES) as network:
        small = all(disk.own for disk in network.disks.values())
        if not small:
            print("no file systems can be mounted here: disks cannot be filled", file=sys.stderr)
            return 3
        troubles = Troubles(network)
        troubles.run()
    print(json.dumps(troubles.found | {"found": [what for _, what in troubles.findings.found]}))
    if not all(troubles.found.values()):
        print(f"logs in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
