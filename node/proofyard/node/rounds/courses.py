"""The jobs that a node votes in: found on chain as they are opened, each with its course, until the job is over.

Who is in a job's roster its manifest says. A node does its tasks unasked; a verifier that comes to offer one is given
what was done, with the certificate of the round that took it, so that the chain's lists say what a round took.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from msgspec.structs import replace

from proofyard.chain import ChainClient, JobRecord, Wallet
from proofyard.chain.events import JobOpened
from proofyard.disputes.committed import Read
from proofyard.node.duties import Duties
from proofyard.node.journal import Journal
from proofyard.node.limits import OfferRefused
from proofyard.node.news import Lookout, News
from proofyard.node.rounds.course import FIRST_TIMEOUT_S, Course, VotedJob
from proofyard.node.rounds.service import NotAVoter, Rounds
from proofyard.protocol.certificate import Delta
from proofyard.protocol.cid import RAW, make_cid
from proofyard.protocol.closing import Rounds as Rules
from proofyard.protocol.closing import voter_of
from proofyard.protocol.codec import CodecError
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, Manifest, TaskSpec, decode_manifest
from proofyard.protocol.messages import SubmitCommitment, TaskOffer
from proofyard.protocol.roster import Roster, RosterInvalid
from proofyard.protocol.types import Cid, JobId, ProofyardError
from proofyard.protocol.workload_bits import workload_bits
from proofyard.workloads.errors import WorkloadError
from proofyard.workloads.workload import all_tasks, load_workload, rounds_of

logger = logging.getLogger("proofyard.node")

LOOK_S = 3.0
"""Between two looks for jobs, where the chain does not push what happens; and between two tries of one."""
BACK_BLOCKS, MOST_BACK = 50_000, 256
"""A node that starts looks so far back for jobs that it votes in, and at so many."""
AGAIN_BLOCKS = 64
"""What is looked at again, since the chain may go back."""
OVER_S = 20.0
"""Between two looks whether a job is over."""
AT_ONCE = 4
"""Manifests that are looked at at a time."""

LAST_AGAIN_S = 600.0
"""A job whose manifest is not to be had is tried again after twice as long each time, up to this."""

Allow = Callable[[TaskOffer], Awaitable[None]]
"""Raises `OfferRefused` for a task that this node's operator does not want, and `LeftForLater`."""
Do = Callable[[TaskOffer], Awaitable[SubmitCommitment]]
"""Executes one: `Agent.do`."""


class Courses:
    """Of one node, which executes `workloads`. `read` fetches manifests."""

    def __init__(
        self,
        wallet: Wallet,
        chain: ChainClient,
        rounds: Rounds,
        allow: Allow,
        do: Do,
        read: Read,
        journal: Journal,
        workloads: tuple[str, ...],
        news: News,
    ) -> None:
        self._own, self._chain, self._rounds = wallet.address, chain, rounds
        self._allow, self._do = allow, do
        self._read, self._journal, self._bits = read, journal, workload_bits(workloads)
        self._news = news
        self._lookout = Lookout(news, (JobOpened,), lambda: LOOK_S)
        self._since: int | None = None
        self._seen: set[JobId] = set()
        """Jobs that were looked at, or are to be."""
        self._wanted: dict[JobId, None] = {}
        """Those whose manifest was not read yet, or that this node votes in."""
        self._courses: dict[JobId, Course] = {}
        self._duties = Duties()
        self._looking = asyncio.Semaphore(AT_ONCE)
        self._moved = asyncio.Event()
        """Set once a course begins or is left, and replaced."""

    def votes_in(self, job: JobId) -> bool:
        return job in self._courses

    def voted(self, offer: TaskOffer, manifest: Manifest) -> Awaitable[SubmitCommitment | None] | None:
        """What comes of a task that a verifier offers, where it is this node's as a voter: its commitment, once a round
        has taken it; None where it is to be done like any other. None at once where it is not."""
        rules = rounds_of(load_workload(manifest.workload), manifest)
        voters = [voter.node for voter in rules.closing.voters] if rules is not None else []
        if rules is None or not voters or voter_of(rules.workers, voters, offer.task.index) != self._own:
            return None
        return self._taken(offer)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                if self._lookout.begins():
                    try:
                        await asyncio.to_thread(self._look)
                        self._lookout.ended()
                    except ProofyardError as error:
                        logger.warning("jobs that this node may vote in are not known: %s", error)
                for job in self._wanted:
                    self._duties.begin(("the rounds of job", job), partial(self._follow, job))
                due = self._lookout.next_at() - asyncio.get_running_loop().time()
                waits = len(self._courses) < len(self._wanted)
                await self._news.wait(max(1.0, min(due, LOOK_S)) if waits else due)
        finally:
            await self._duties.close()
            await self._rounds.close()

    def _look(self) -> None:
        """Note the jobs that were opened."""
        head, first = self._chain.block_number(), self._chain.first_block
        since = max(first, head - BACK_BLOCKS) if self._since is None else self._since
        opened = [event for event in self._chain.opened(since=since) if self._bits >> event.workload & 1]
        fresh = [event.job for event in opened[-MOST_BACK:] if event.job not in self._seen]
        self._seen.update(fresh)
        self._wanted.update(dict.fromkeys(fresh))
        self._since = max(first, head - AGAIN_BLOCKS)

    async def _follow(self, job: JobId) -> None:
        """Vote in a job until it is over, where its roster has this node."""
        voted = await self._asked_for(job)
        if voted is None:
            self._wanted.pop(job, None)
            self._move()
            return
        rules = rounds_of(load_workload(voted.manifest.workload), voted.manifest)
        assert rules is not None
        timeout_s = min(FIRST_TIMEOUT_S, float(rules.closing.timeout_s))
        course = Course(voted, self._own, self._rounds, partial(self._execute, voted), timeout_s=timeout_s)
        logger.info("job %s: this node is one of %s that decide its rounds", job, len(voted.roster.voters))
        running = asyncio.create_task(course.run())
        running.add_done_callback(partial(self._ended, job))
        self._courses[job] = course
        self._move()
        try:
            await self._over(job)
            self._wanted.pop(job, None)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            del self._courses[job]
            self._move()
        await self._rounds.leave(job)

    async def _asked_for(self, job: JobId) -> VotedJob | None:
        """A job that this node is to vote in; None for any other."""
        pause = LOOK_S
        while True:
            try:
                async with self._looking:
                    return await self._voted_job(job)
            except (OfferRefused, WorkloadError, RosterInvalid, CodecError) as error:
                logger.info("job %s: this node does not vote on its rounds: %s", job, error)
                return None
            except ProofyardError as error:
                logger.info("job %s: whether this node votes is looked at again in %.0f s: %s", job, pause, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_AGAIN_S)

    async def _voted_job(self, job: JobId) -> VotedJob | None:
        """A job with this node in its roster; None for any other, and for one that is over."""
        record = await asyncio.to_thread(self._chain.job, job)
        if await asyncio.to_thread(self._is_over, record):
            await self._rounds.leave(job)
            return None
        cid = make_cid(record.manifest, RAW)
        manifest = decode_manifest(await self._read(cid, MAX_MANIFEST_BYTES))
        found = await asyncio.to_thread(_roster, manifest)
        if found is None or self._own not in found[1].by_node:
            return None
        rules, roster = found
        shard = list(roster.by_node).index(self._own) % rules.workers
        first = (await asyncio.to_thread(all_tasks, load_workload(manifest.workload), manifest))[shard]
        await self._allow(TaskOffer(job, cid, first, (), (), 0.0))
        seed = await asyncio.to_thread(self._chain.block_hash, record.open_block)
        return VotedJob(self._chain.domain, job, cid, manifest, roster, seed)

    async def _execute(self, voted: VotedJob, spec: TaskSpec, inputs: tuple[Cid, ...]) -> SubmitCommitment:
        return await self._do(TaskOffer(voted.job, voted.manifest_cid, spec, inputs, (), 0.0))

    async def _over(self, job: JobId) -> None:
        """Until it is."""
        while True:
            await asyncio.sleep(OVER_S)
            try:
                if await asyncio.to_thread(lambda: self._is_over(self._chain.job(job))):
                    return
            except ProofyardError as error:
                logger.info("whether job %s is over is not known now: %s", job, error)

    def _is_over(self, record: JobRecord) -> bool:
        """Whether nothing of a job can be committed any more."""
        ended = record.commits_end(self._chain.params().receipt_time)
        return record.units_paid >= record.units or self._chain.now() > ended

    async def _taken(self, offer: TaskOffer) -> SubmitCommitment | None:
        while offer.job not in self._courses:
            if offer.job in self._seen and offer.job not in self._wanted:
                return None
            await self._moved.wait()
        certificate = await self._courses[offer.job].taken(offer.task.index, offer.inputs)
        done = self._journal.submission(self._own, offer)
        if certificate is None or done is None:
            return None
        delta = Delta(offer.task.index, done.commitment.result)
        return replace(done, certificate=certificate) if delta in certificate.deltas else None

    def _ended(self, job: JobId, running: "asyncio.Task[object]") -> None:
        if running.cancelled():
            return
        error = running.exception()
        if isinstance(error, NotAVoter):
            logger.warning("job %s: %s", job, error)
        elif error is not None:
            logger.error("job %s: this node votes no more", job, exc_info=error)

    def _move(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()


def _roster(manifest: Manifest) -> tuple[Rules, Roster] | None:
    """The rules of a job whose rounds nodes decide, and who they are. Raises `ManifestRefused`."""
    workload = load_workload(manifest.workload)
    workload.check(manifest)
    rules = rounds_of(workload, manifest)
    roster = None if rules is None else rules.roster
    return None if rules is None or roster is None else (rules, roster)
