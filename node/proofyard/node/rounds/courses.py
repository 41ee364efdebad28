"""The jobs that a node votes in: found on chain as they are opened, each with its course, until the job is over.

Who is in a job's roster its manifest says, and a roster has only nodes that were asked for their key: one that never
was looks for none. A job is known by the event that opened it: where the chain goes back, another may take its number.
A node does its tasks unasked; a verifier that comes to offer one is given what was done, with the certificate of the
round that took it, so that the chain's lists say what a round took.
"""

import asyncio
import contextlib
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
from proofyard.protocol.types import Address, Cid, JobId, ProofyardError
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
        self._seen: set[JobOpened] = set()
        """Jobs of the last blocks that were looked at, or are to be."""
        self._wanted: dict[JobId, JobOpened] = {}
        """Those whose manifest was not read yet, or that this node votes in."""
        self._courses: dict[JobId, Course] = {}
        self._turn = asyncio.Lock()
        """Held by who looks."""
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
                if not self._rounds.introduced:
                    await self._news.wait(self._news.check_s if self._news.live else LOOK_S)
                    continue
                if self._lookout.begins() and await self._look():
                    self._lookout.ended()
                await self._news.wait(self._lookout.next_at() - asyncio.get_running_loop().time())
        finally:
            await self._duties.close()
            await self._rounds.close()

    async def _look(self) -> bool:
        """Note the jobs that were opened, and what the chain has taken back. False where they are not known now."""
        async with self._turn:
            try:
                since, opened = await asyncio.to_thread(self._opened)
            except ProofyardError as error:
                logger.warning("jobs that this node may vote in are not known: %s", error)
                return False
            for job, known in list(self._wanted.items()):
                if known.position.block >= since and known not in opened:
                    logger.warning("job %s: the chain has gone back to before it was opened", job)
                    del self._wanted[job]
            fresh = [event for event in opened[-MOST_BACK:] if event not in self._seen]
            self._seen = set(opened)
            self._wanted.update({event.job: event for event in fresh})
            self._move()
            for job in self._wanted:
                self._duties.begin(("the rounds of job", job), partial(self._follow, job))
        return True

    def _opened(self) -> tuple[int, list[JobOpened]]:
        """Those of the workloads that this node executes, and since which block."""
        head, first = self._chain.block_number(), self._chain.first_block
        since = max(first, head - BACK_BLOCKS) if self._since is None else self._since
        opened = [event for event in self._chain.opened(since=since) if self._bits >> event.workload & 1]
        self._since = max(first, head - AGAIN_BLOCKS)
        return since, opened

    async def _follow(self, job: JobId) -> None:
        """Vote in the job of this number until it is over, where its roster has this node; and in the one that took its
        place on the chain, if one did."""
        while (opened := self._wanted.get(job)) is not None:
            voted = await self._asked_for(opened)
            if voted is not None:
                await self._vote_in(voted, opened)
            if self._wanted.get(job) == opened:
                del self._wanted[job]
            self._move()

    async def _vote_in(self, voted: VotedJob, opened: JobOpened) -> None:
        """Until the job is over, or the chain no longer has it. What this node signed in it is kept then: the same job
        may come back in another block, and nobody signs twice."""
        rules = rounds_of(load_workload(voted.manifest.workload), voted.manifest)
        assert rules is not None
        timeout_s = min(FIRST_TIMEOUT_S, float(rules.closing.timeout_s))
        do, paid = partial(self._execute, voted), partial(self._paid, voted.job)
        course = Course(voted, self._own, self._rounds, do, paid, timeout_s=timeout_s)
        logger.info("job %s: this node is one of %s that decide its rounds", voted.job, len(voted.roster.voters))
        running = asyncio.create_task(course.run())
        running.add_done_callback(partial(self._ended, voted.job))
        self._courses[voted.job] = course
        self._move()
        try:
            await self._over(opened)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            del self._courses[voted.job]
            self._move()
        if self._wanted.get(voted.job) == opened:
            await self._rounds.leave(voted.job)
        else:
            await self._rounds.pause(voted.job)

    async def _asked_for(self, opened: JobOpened) -> VotedJob | None:
        """A job that this node is to vote in; None for any other, and for one that the chain no longer has."""
        pause, job = LOOK_S, opened.job
        while self._wanted.get(job) == opened:
            try:
                async with self._looking:
                    return await self._voted_job(job)
            except (OfferRefused, WorkloadError, RosterInvalid, CodecError) as error:
                logger.info("job %s: this node does not vote on its rounds: %s", job, error)
                return None
            except ProofyardError as error:
                logger.info("job %s: whether this node votes is looked at again in %.0f s: %s", job, pause, error)
            await self._replaced(opened, pause)
            pause = min(2 * pause, LAST_AGAIN_S)
        return None

    async def _replaced(self, opened: JobOpened, seconds: float) -> bool:
        """Whether the chain no longer has this job: at once, or after so many seconds with it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._wanted.get(opened.job) == opened:
                    await self._moved.wait()
        return self._wanted.get(opened.job) != opened

    async def _voted_job(self, job: JobId) -> VotedJob | None:
        """A job with this node in its roster; None for any other, and for one that is over."""
        record = await asyncio.to_thread(self._chain.job, job)
        if await asyncio.to_thread(self._is_over, record):
            await self._rounds.leave(job)
            return None
        cid = make_cid(record.manifest, RAW)
        manifest = decode_manifest(await self._read(cid, MAX_MANIFEST_BYTES))
        found = await asyncio.to_thread(_roster, manifest, self._own)
        if found is None:
            return None
        rules, roster = found
        shard = list(roster.by_node).index(self._own) % rules.workers
        first = (await asyncio.to_thread(all_tasks, load_workload(manifest.workload), manifest))[shard]
        await self._allow(TaskOffer(job, cid, first, (), (), 0.0))
        seed = await asyncio.to_thread(self._chain.block_hash, record.open_block)
        return VotedJob(self._chain.domain, job, cid, manifest, roster, seed)

    async def _paid(self, job: JobId) -> int:
        return (await asyncio.to_thread(self._chain.job, job)).units_paid

    async def _execute(self, voted: VotedJob, spec: TaskSpec, inputs: tuple[Cid, ...]) -> SubmitCommitment:
        return await self._do(TaskOffer(voted.job, voted.manifest_cid, spec, inputs, (), 0.0))

    async def _over(self, opened: JobOpened) -> None:
        """Until it is, or the chain no longer has it."""
        while not await self._replaced(opened, OVER_S):
            try:
                if await asyncio.to_thread(lambda: self._is_over(self._chain.job(opened.job))):
                    return
            except ProofyardError as error:
                logger.info("whether job %s is over is not known now: %s", opened.job, error)

    def _is_over(self, record: JobRecord) -> bool:
        """Whether nothing of a job can be committed any more."""
        ended = record.commits_end(self._chain.params().receipt_time)
        return record.units_paid >= record.units or self._chain.now() > ended

    async def _taken(self, offer: TaskOffer) -> SubmitCommitment | None:
        if not self._rounds.introduced:
            self._rounds.introduce()  # its key was asked for when it had another disk
            self._since = None
        while offer.job not in self._wanted:
            if await self._look():
                break
            await asyncio.sleep(LOOK_S)
        while offer.job not in self._courses:
            if offer.job not in self._wanted:
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


def _roster(manifest: Manifest, own: Address) -> tuple[Rules, Roster] | None:
    """The rules of a job whose rounds nodes decide, and who they are; None where `own` is none of them: the proofs of
    many voters take a minute. Raises `ManifestRefused`, `RosterInvalid`."""
    workload = load_workload(manifest.workload)
    workload.check(manifest)
    rules = rounds_of(workload, manifest)
    if rules is None or all(voter.node != own for voter in rules.closing.voters):
        return None
    roster = rules.roster
    return None if roster is None else (rules, roster)
