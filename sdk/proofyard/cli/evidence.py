"""What the dispute commands execute with: a peer of its own, what it fetches, and an executor, gone when it is done."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from proofyard.cli.errors import UsageError
from proofyard.protocol.types import SegmentIndex, TaskIndex

if TYPE_CHECKING:
    from proofyard.chain import ChainClient
    from proofyard.disputes.network import Network
    from proofyard.disputes.replaying import Replayer
    from proofyard.disputes.settled import Settled
    from proofyard.workloads.executor import Executor

Place = tuple[TaskIndex, SegmentIndex]

REPLAY_PATIENCE_S = 30.0
"""How long a worker's state is asked for; a worker may have to compute it again."""


@dataclass(frozen=True, kw_only=True)
class ExecuteFlags:
    """How segments are executed here."""

    model_dir: Annotated[
        list[Path] | None, typer.Option(help="A base model that is on this machine; may be repeated.")
    ] = None
    threads: Annotated[int, typer.Option(min=1, help="CPU threads to execute with.")] = 1


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

    def replayer(self, settled: "Settled", executor: "Executor") -> "Replayer":
        from proofyard.disputes.replaying import Replayer

        return Replayer(settled, self.chain, self.network, executor, patience_s=REPLAY_PATIENCE_S)


@asynccontextmanager
async def evidence(chain: "ChainClient", flags: ExecuteFlags | None = None) -> AsyncIterator[Evidence]:
    """Connect as the chain client's wallet, or as nobody in particular where it has none."""
    from proofyard.artifacts import BlockStore
    from proofyard.chain import Wallet
    from proofyard.disputes.network import Network
    from proofyard.transport import Endpoint

    given = flags or ExecuteFlags()
    with TemporaryDirectory(prefix="proofyard-dispute-") as name:
        home = Path(name)
        store = BlockStore(home / "blocks")
        for directory in given.model_dir or []:
            if not directory.is_dir():
                raise UsageError(f"--model-dir {directory} is no directory; give the one that holds the base model")
            await asyncio.to_thread(store.link_directory, directory)
        async with Endpoint(chain.wallet or Wallet.generate(), network=chain.domain) as endpoint:
            yield Evidence(chain, Network(chain, endpoint, store, home / "inputs"), home, given.threads)


def parse_places(texts: Sequence[str]) -> list[Place]:
    """`TASK:SEGMENT` as people type it. Raises `UsageError`."""
    return [parse_place(text) for text in texts]


def parse_place(text: str) -> Place:
    task, separator, segment = text.partition(":")
    if not separator or not task.isdecimal() or not segment.isdecimal():
        raise UsageError(f"--segment {text!r} is not TASK:SEGMENT; write it like 3:0")
    return TaskIndex(int(task)), SegmentIndex(int(segment))
