"""A job's rounds one after the other, by its voters alone: each does its own tasks, shows what comes of them, votes on
what the round takes, and goes on from there. Nobody gives work out, and nobody is waited for whom the rules do not wait
for.

What was done and decided before is on disk: a node that comes back goes through the rounds that it knows at once, and
is told by others of those that it missed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from proofyard.node.journal import JournalError
from proofyard.node.rounds.ballot import Ballot, next_ballot
from proofyard.node.rounds.messages import ShownDelta
from proofyard.node.rounds.service import Rounds, TooManyRounds
from proofyard.node.rounds.voter import RoundVoter
from proofyard.protocol.certificate import Certificate, Deltas
from proofyard.protocol.closing import rested_on, since
from proofyard.protocol.commitment import Domain
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.messages import SubmitCommitment
from proofyard.protocol.roster import Roster
from proofyard.protocol.types import Address, Cid, JobId, ProofyardError, TaskIndex
from proofyard.workloads.workload import all_tasks, load_workload, rounds_of

logger = logging.getLogger("proofyard.node")

Do = Callable[[TaskSpec, tuple[Cid, ...]], Awaitable[SubmitCommitment]]
"""Executes a task on the results that it rests on, and has what it signs for in the store. What it was asked before it
returns again, however it ended."""

Paid = Callable[[], Awaitable[int]]
"""The units of work of a job that settled records have accepted."""

FIRST_TIMEOUT_S = 20.0
"""Of the first view: a leader's proposal and what is fetched for it; later ones have twice as long, up to 64 times."""
AGAIN_S = 10.0
"""After a task that could not be done, or a round that could not begin."""
PAID_S = 3.0
"""Between two looks at what is paid, where a round waits for that."""


@dataclass(frozen=True)
class VotedJob:
    """A job whose voters decide. `seed`: the chain's, for the order of leaders."""

    domain: Domain
    job: JobId
    manifest_cid: Cid
    manifest: Manifest
    roster: Roster
    seed: bytes


class Course:
    """Of one job, for the voter `node`."""

    def __init__(
        self, voted: VotedJob, node: Address, rounds: Rounds, do: Do, paid: Paid, *, timeout_s: float = FIRST_TIMEOUT_S
    ) -> None:
        self._voted, self._node, self._rounds, self._timeout_s = voted, node, rounds, timeout_s
        self._do, self._paid = do, paid
        self._rules = rounds_of(load_workload(voted.manifest.workload), voted.manifest)
        self._workers = 1 if self._rules is None else self._rules.workers
        self._key_rounds = 1 if self._rules is None else self._rules.key_rounds
        self._done: dict[TaskIndex, SubmitCommitment] = {}
        """Tasks of this node's that no round has taken yet."""
        self._doing: tuple[TaskIndex, asyncio.Task[None]] | None = None
        self.certificates: list[Certificate] = []
        """Of the rounds that are decided."""
        self._voters: list[RoundVoter] = []
        """Of the same, for what they took."""
        self._failed = False
        self._moved = asyncio.Event()
        """Set once another round is decided, and replaced."""

    @property
    def sets(self) -> list[Deltas]:
        return [each.deltas for each in self.certificates]

    async def run(self) -> list[Certificate]:
        """Until the last round is decided; what that one took is here then. Raises `NotAVoter`, and as `next_ballot`
        does."""
        try:
            while self._rules is not None and len(self.certificates) < self._rules.rounds:
                await self._wait_for_pay(self._rules.closing.ahead)
                await self._round(float(self._rules.closing.timeout_s))
            await self._obtain(self._rested_on(len(self._voters)))
        except Exception:
            self._failed = True
            self._move()
            raise
        finally:
            await self._stop_doing()
        return self.certificates

    async def taken(self, task: TaskIndex, inputs: tuple[Cid, ...]) -> Certificate | None:
        """Once a round has taken a task, its certificate; for ever where none does. None where the task rests on other
        results in these rounds than on `inputs`, and where this node votes no more."""
        number, seen = task // self._workers, 0
        while not self._failed:
            if len(self.certificates) >= number and self._inputs(number) != inputs:
                return None
            for certificate in self.certificates[max(number, seen) :]:
                if any(delta.task == task for delta in certificate.deltas):
                    return certificate
            seen = len(self.certificates)
            await self._moved.wait()
        return None

    async def _wait_for_pay(self, ahead: int) -> None:
        """Until what all rounds but the last `ahead` took is paid: what is not is this node's to lose. Who accepts a
        task accepts all that it rests on, so it is paid in about the order of rounds."""
        if not ahead or len(self.certificates) <= ahead:
            return
        tasks = await asyncio.to_thread(all_tasks, load_workload(self._voted.manifest.workload), self._voted.manifest)
        owed = sum(tasks[delta.task].work_units for each in self.sets[:-ahead] for delta in each)
        waits = False
        while (paid := await self._read_paid()) < owed:
            if not waits:
                told = self._voted.job, len(self.certificates), owed - paid
                logger.info("job %s: round %s waits until %s more units of the rounds before are paid", *told)
            waits = True
            await asyncio.sleep(PAID_S)

    async def _read_paid(self) -> int:
        try:
            return await self._paid()
        except ProofyardError as error:
            logger.debug("what is paid of job %s is not known: %s", self._voted.job, error)
            return 0

    async def _round(self, closes_s: float) -> None:
        voted = self._voted
        ballot = await asyncio.to_thread(
            next_ballot, voted.domain, voted.job, voted.manifest_cid, voted.manifest, voted.roster, self.sets
        )
        voter = await self._begin(ballot, closes_s)
        certificate = voter.certificate or await self._take_part(voter)
        self.certificates.append(certificate)
        self._voters.append(voter)
        self._move()
        took = ", ".join(str(delta.task) for delta in certificate.deltas)
        logger.info("job %s: round %s took the results of tasks %s", voted.job, ballot.round.number, took)
        for delta in certificate.deltas:
            self._done.pop(delta.task, None)

    def _move(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def _begin(self, ballot: Ballot, closes_s: float) -> RoundVoter:
        """Once there is space and a place for it."""
        while True:
            try:
                return self._rounds.begin(ballot, seed=self._voted.seed, timeout_s=self._timeout_s, closes_s=closes_s)
            except (JournalError, TooManyRounds) as error:
                logger.warning("job %s: round %s waits: %s", self._voted.job, ballot.round.number, error)
                await asyncio.sleep(AGAIN_S)

    async def _take_part(self, voter: RoundVoter) -> Certificate:
        """Work until the round is decided."""
        working = asyncio.create_task(self._work(voter))
        working.add_done_callback(self._worked)
        try:
            return await voter.decided()
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    def _worked(self, working: asyncio.Task[None]) -> None:
        if not working.cancelled() and (error := working.exception()) is not None:
            logger.error("job %s: this node votes on, and does no task of this round", self._voted.job, exc_info=error)

    async def _work(self, voter: RoundVoter) -> None:
        """This node's tasks of the round, those that are late for it first. What late tasks of others rest on comes
        beside that."""
        ballot = voter.ballot
        for task in [task for task in self._done if task not in ballot.specs]:
            del self._done[task]
        if self._doing is not None and self._doing[0] not in ballot.specs:
            await self._stop_doing()
        own, *late = (self._rested_on(number) for number in _rounds_of(ballot))
        await self._obtain(own)
        beside = asyncio.create_task(self._obtain(sorted({number for each in late for number in each} - set(own))))
        try:
            for task in sorted(task for task in ballot.specs if ballot.worker(task) == self._node):
                while task not in self._done:
                    await self._have_done(ballot, task)
                voter.finish(_shown(ballot, self._done[task]))
            await beside
        finally:
            beside.cancel()

    def _inputs(self, number: int) -> tuple[Cid, ...]:
        """The results that a round rests on."""
        return tuple(delta.result for delta in rested_on(self.sets, number, self._key_rounds))

    def _rested_on(self, number: int) -> range:
        """The rounds whose sets a round rests on."""
        return range(since(number, self._key_rounds), number)

    async def _obtain(self, numbers: Sequence[int]) -> None:
        """What these rounds took."""
        for number in numbers:
            await self._voters[number].obtain(self.sets[number])

    async def _have_done(self, ballot: Ballot, task: TaskIndex) -> None:
        """Do a task, or wait for it where it is under way: what a round did without may be in the next one."""
        if self._doing is None or self._doing[0] != task:
            await self._stop_doing()
            self._doing = task, asyncio.create_task(self._execute(ballot.specs[task], ballot.rests_on[task]))
        _, doing = self._doing
        await asyncio.shield(doing)
        self._doing = None

    async def _execute(self, spec: TaskSpec, inputs: tuple[Cid, ...]) -> None:
        try:
            self._done[spec.index] = await self._do(spec, inputs)
        except ProofyardError as error:
            logger.warning("job %s task %s is not done yet: %s", self._voted.job, spec.index, error)
            await asyncio.sleep(AGAIN_S)

    async def _stop_doing(self) -> None:
        if self._doing is not None:
            _, doing = self._doing
            self._doing = None
            doing.cancel()
            await asyncio.gather(doing, return_exceptions=True)


def _rounds_of(ballot: Ballot) -> list[int]:
    """The rounds whose tasks a round may take, its own first."""
    return sorted({task // ballot.workers for task in ballot.specs}, reverse=True)


def _shown(ballot: Ballot, submission: SubmitCommitment) -> ShownDelta:
    return ShownDelta(ballot.round.digest, submission.commitment, submission.signature, submission.trace)
