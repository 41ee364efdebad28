"""What the dispute commands execute with: a peer of its own, what it fetches, and an executor, gone when it is done."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from proofyard.cli.errors import UsageError
from proofyard.protocol.types import Cid, JobId, SegmentIndex, TaskIndex

if TYPE_CHECKING:
    from proofyard.chain import ChainClient
    from proofyard.disputes.committed import Committed
    from proofyard.disputes.network import Network
    from proofyard.disputes.replaying import Replayer
    from proofyard.workloads.executor import Executor

Place = tuple[JobId, TaskIndex, SegmentIndex]
"""A segment: of which job, of which task."""

EXECUTING = "executing"
"""A panel of options."""
REPLAY_PATIENCE_S = 30.0
"""How long a worker's state is asked for; a worker may have to compute it again."""


@dataclass(frozen=True, kw_only=True)
class ExecuteFlags:
    """How segments are executed here."""

    model_dir: Annotated[
        list[Path] | None,
        typer.Option(help="A base model that is on this machine; may be repeated.", rich_help_panel=EXECUTING),
    ] = None
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="A data set that stays at home and that you were given; may be repeated.", rich_help_panel=EXECUTING
        ),
    ] = None
    threads: Annotated[int, typer.Option(min=1, help="CPU threads to execute with.", rich_help_panel=EXECUTING)] = 1


@dataclass(frozen=True)
class Evidence:
    """A connection to the network, and what can be executed with it."""

    chain: "ChainClient"
    network: "Network"
    folder: Path
    threads: int

    @asynccontextmanager
    async def executor(self) -> "AsyncIterator[Executor]":
        from proofyard.workloads.executor import Executor
        from proofyard.workloads.workload import Resources

        async with Executor(self.folder / "executor", resources=Resources(threads=self.threads)) as executor:
            yield executor

    def replayer(self, committed: "Committed", executor: "Executor") -> "Replayer":
        from proofyard.disputes.replaying import Replayer

        return Replayer(committed, self.chain, self.network, executor, patience_s=REPLAY_PATIENCE_S)


@asynccontextmanager
async def evidence(chain: "ChainClient", flags: ExecuteFlags | None = None) -> AsyncIterator[Evidence]:
    """Connect as the chain client's wallet, or as nobody in particular where it has none."""
    from proofyard.artifacts import BlockStore
    from proofyard.artifacts.builder import cid_of_file
    from proofyard.chain import Wallet
    from proofyard.disputes.network import Network
    from proofyard.transport import Endpoint
    from proofyard.workloads.model_files import link_model

    given = flags or ExecuteFlags()
    with TemporaryDirectory(prefix="proofyard-dispute-") as name:
        home = Path(name)
        store = BlockStore(home / "blocks")
        for directory in given.model_dir or []:
            if not directory.is_dir():
                raise UsageError(f"--model-dir {directory} is no directory; give the one that holds the base model")
            await asyncio.to_thread(link_model, store, directory)
        at_home: dict[Cid, Path] = {}
        for file in given.data or []:
            if not file.is_file():
                raise UsageError(f"--data {file} is no file; give the one that `proofyard node data list` shows")
            at_home[await asyncio.to_thread(cid_of_file, file)] = file.absolute()
        async with Endpoint(chain.wallet or Wallet.generate(), network=chain.domain) as endpoint:
            yield Evidence(
                chain, Network(chain, endpoint, store, home / "inputs", local=at_home.get), home, given.threads
            )


@dataclass(frozen=True)
class Spoken:
    """A segment as people name it; `job` is None where they leave it out."""

    job: JobId | None
    task: TaskIndex
    segment: SegmentIndex


def parse_place(text: str) -> Spoken:
    """`TASK:SEGMENT` or `JOB:TASK:SEGMENT`. Raises `UsageError`."""
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(part.isdecimal() for part in parts):
        raise UsageError(f"--segment {text!r} is not TASK:SEGMENT; write it like 3:0, or with the job like 12:3:0")
    *job, task, segment = map(int, parts)
    return Spoken(JobId(job[0]) if job else None, TaskIndex(task), SegmentIndex(segment))


def job_in(committed: "Committed", job: int | None) -> JobId:
    """The job that is meant in a batch. Raises `UsageError` where there are several and none was named."""
    known = [line.job for line in committed.header.lines]
    names = ", ".join(map(str, known))
    if job is None and len(known) > 1:
        raise UsageError(f"batch {committed.batch} has tasks of jobs {names}; say which with --job")
    if job is not None and job not in known:
        raise UsageError(f"batch {committed.batch} has no task of job {job}, it has jobs {names}")
    return known[0] if job is None else JobId(job)


def place_in(committed: "Committed", spoken: Spoken, job: int | None) -> Place:
    """The segment that is meant in a batch; `job` is that of `--job`."""
    return job_in(committed, job if spoken.job is None else spoken.job), spoken.task, spoken.segment
