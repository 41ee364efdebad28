"""A verifier that is gone for good in the middle of its jobs: the others take over its batches and its jobs, and finish
them. Prints as JSON what came of the jobs; exits 1 where that is not what it should be.

    .venv/bin/python scripts/soak_takeover.py
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

from proofyard.chain import Params  # noqa: E402
from proofyard.protocol.manifest import Manifest  # noqa: E402
from proofyard.verifier.engine.rows import Job  # noqa: E402
from proofyard.verifier.store.database import Database  # noqa: E402
from soak_books import packaged  # noqa: E402
from soak_jobs import Requesters, Submitted  # noqa: E402
from soak_network import SoakNetwork  # noqa: E402

SEATS = {"one": ("",), "two": ("",), "three": ("",), "four": ("",)}
"""Without one of four two thirds are left."""
PARAMS = Params(challenge_window=10, settle_time=150, takeover_timeout=150)
AHEAD_S = 240
"""The chain's clock is set ahead so far: all time-outs and turns are over then."""
WAIT_S = 400.0
JOBS = 2


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="proofyard-takeover-"))
    folder.chmod(0o711)
    with SoakNetwork(folder, nodes=5, seats=SEATS, params=PARAMS) as network:
        requesters = Requesters(network, random.Random(1))
        for seed in range(JOBS):
            requesters.open_one(Manifest(workload="lora", params={"rounds": 3, "width": 2}, seed=seed), 0.0)
        chain, first = network.chain(), network.programs["one"]

        def is_begun() -> bool:
            requesters.look()
            numbers = [job.number for job in requesters.jobs]
            return len(numbers) == JOBS and all(number and chain.committed(number) for number in numbers)

        wait(is_begun)
        network.kill(first)
        network.anvil.warp(AHEAD_S)
        before = [chain.job(job.number).verifier for job in requesters.jobs if job.number]

        def is_over() -> bool:
            requesters.look()
            return not requesters.unfinished

        wait(is_over)
        found = {
            "over": not requesters.unfinished,
            "taken_over": all(
                chain.job(job.number).verifier != gone
                for job, gone in zip(requesters.jobs, before, strict=True)
                if job.number
            ),
            "right": all(is_right(job, network) for job in requesters.jobs),
            "conserved": network.books().conserved,
        }
        requesters.close()
    print(json.dumps(found))
    if not all(found.values()):
        print(f"logs in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def is_right(job: Submitted, network: SoakNetwork) -> bool:
    """Whether a verifier that is left has the result that an execution here gives."""
    living = [Database(url) for name, url in network.databases.items() if name != "one"]
    try:
        results = {
            getattr(row, "result", None) for each in living for row in each.rows(Job) if row.key == (job.number,)
        }
        return packaged(job) in results
    finally:
        for each in living:
            each.close()


def wait(reached: Callable[[], bool]) -> None:
    """At most `WAIT_S`."""
    end = time.monotonic() + WAIT_S
    while not reached() and time.monotonic() < end:
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
