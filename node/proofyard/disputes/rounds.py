"""Which rounds of a job are closed, and what each took: read from the chain and from the lists that it names.

Times are those of the blocks in which batches were committed, and who is in a batch its member list says, whose digest
is on chain. So whoever reads the same chain finds the same sets. What is dropped later counts on: what is closed
does not open again. A commitment counts that its node signed, to this job's manifest. Nobody says more: not what came
when, nor what a delta weighs. Where nodes decide, a list holds their certificates, and these count in place of times.

Lists are read once: what counts in a batch is kept by the hash of the block that it was committed in.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from proofyard.chain import ChainClient, ChainError
from proofyard.chain.events import BatchCommitted
from proofyard.protocol.certificate import Certificate
from proofyard.protocol.closing import ClosedRound, Commit, Rounds, certified, close_rounds
from proofyard.protocol.commitment import Domain
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.members import Member
from proofyard.protocol.roster import RosterInvalid
from proofyard.protocol.types import BatchId, Digest, JobId
from proofyard.workloads.workload import load_workload, rounds_of

MembersOf = Callable[[BatchCommitted], Awaitable[Sequence[Member]]]
"""Reads the list of a batch."""
Key = tuple[JobId, BatchId, Digest]
"""A job, a batch with a line of it, and the hash of the block that it was committed in."""
Counts = tuple[tuple[Commit, ...], tuple[Certificate, ...]]
"""What a list says about a job's rounds: when what was committed, and what voters signed."""
KEPT = 1024
TRIES = 3


class Counted:
    """What counts for jobs in batches, of the last `limit` that were read."""

    def __init__(self, limit: int = KEPT) -> None:
        self._limit = limit
        self._known: OrderedDict[Key, Counts] = OrderedDict()

    def get(self, key: Key) -> Counts | None:
        return self._known.get(key)

    def put(self, key: Key, counts: Counts) -> None:
        self._known[key] = counts
        while len(self._known) > self._limit:
            self._known.popitem(last=False)


class ChainMoved(ChainError):
    """The chain went back again and again while it was read."""

    def __init__(self, job: JobId) -> None:
        super().__init__(f"the chain went back while the rounds of job {job} were read; try again")


async def closed_rounds(
    chain: ChainClient, job: JobId, manifest: Manifest, members_of: MembersOf, counted: Counted | None = None
) -> tuple[ClosedRound, ...]:
    """The rounds of a job that are closed for good; none for a job whose rounds wait for all of the one before.
    `counted` keeps what was read for the next time. Raises what `members_of` raises, and `ChainError`."""
    rounds = rounds_of(load_workload(manifest.workload), manifest)
    if rounds is None:
        return ()
    known = Counted() if counted is None else counted
    for _ in range(TRIES):
        found = await _read(chain, job, rounds, members_of, known)
        if found is not None:
            return found
    raise ChainMoved(job)


async def _read(
    chain: ChainClient, job: JobId, rounds: Rounds, members_of: MembersOf, known: Counted
) -> tuple[ClosedRound, ...] | None:
    """The same, None where the chain went back meanwhile."""
    head, now = await asyncio.to_thread(chain.head)
    fork = await asyncio.to_thread(chain.block_hash, head)
    opened = await asyncio.to_thread(chain.job, job)
    opened_at = await asyncio.to_thread(chain.block_time, opened.open_block)
    fresh: dict[Key, Counts] = {}
    commits: list[Commit] = []
    certificates: list[Certificate] = []
    for event in await asyncio.to_thread(chain.committed, job):
        key = job, event.batch, event.position.block_hash
        held = known.get(key)
        if held is None:
            at, members = await asyncio.to_thread(chain.block_time, event.position.block), await members_of(event)
            own = [member for member in members if member.commitment.job == job]
            held = await asyncio.to_thread(_counting, chain.domain, opened.manifest, rounds, at, own)
            fresh[key] = held
        commits += held[0]
        certificates += held[1]
    if await asyncio.to_thread(chain.block_hash, head) != fork:
        return None
    for key, held in fresh.items():
        known.put(key, held)
    if rounds.closing.voters:
        return await asyncio.to_thread(_certified, chain.domain, job, opened.manifest, rounds, certificates)
    return close_rounds(rounds.closing, rounds.workers, rounds.rounds, opened_at, commits, now)


def _certified(
    domain: Domain, job: JobId, manifest: Digest, rounds: Rounds, certificates: Sequence[Certificate]
) -> tuple[ClosedRound, ...]:
    """What voters have signed; nothing where not all of them have shown that their keys are their own."""
    if not certificates:
        return ()
    try:
        roster = rounds.roster
    except RosterInvalid:
        roster = None
    return () if roster is None else certified(domain, job, manifest, rounds, roster, certificates)


def _counting(domain: Domain, manifest: Digest, rounds: Rounds, at: int, members: Sequence[Member]) -> Counts:
    """The commitments of a list that a round may take, to a task of the job and signed; where nodes decide, the
    certificates beside them."""
    if rounds.closing.voters:
        return (), tuple(member.certificate for member in members if member.certificate is not None)
    tasks = range(rounds.rounds * rounds.workers)
    commits = tuple(
        (at, member.commitment.task)
        for member in members
        if member.commitment.manifest == manifest
        and member.commitment.task in tasks
        and member.commitment.is_signed(domain, member.signature)
    )
    return commits, ()
