"""The rounds that a node votes in: what their voters say to each other, over this node's connections.

A round is known by its digest, which names chain, job, what was taken before and who votes. Requests are served of the
voters of a round that this node votes in, and of nobody else; each, its host and all together ask so often at most.
"""

import asyncio
import logging
import time
from functools import partial

from proofyard.artifacts import BlockStore
from proofyard.chain import Wallet
from proofyard.discovery.asking import Askers, Rate
from proofyard.node.journal import Journal
from proofyard.node.rounds.ballot import Ballot
from proofyard.node.rounds.machine import RoundMachine
from proofyard.node.rounds.messages import (
    AskRound,
    Certified,
    Heard,
    Message,
    NewView,
    Proposal,
    ShowDelta,
    ShownDelta,
    Vote,
)
from proofyard.node.rounds.outbox import Outbox, Said
from proofyard.node.rounds.results import AT_ONCE, Reach, Results
from proofyard.node.rounds.voter import RoundVoter
from proofyard.protocol.bls import public_key
from proofyard.protocol.messages import Ack, AskVoter, VoterKey
from proofyard.protocol.roster import Voter
from proofyard.protocol.types import Address, Digest, JobId, ProofyardError
from proofyard.transport import Body, Connection, Endpoint, RequestFailed

logger = logging.getLogger("proofyard.node")

OF_PEER, OF_HOST, OF_ALL = Rate(4.0, 128.0), Rate(16.0, 512.0), Rate(100.0, 2000.0)
"""What others may say or ask: a voter says some ten things a round, and shows each of its results once."""
MOST_ROUNDS = 64
"""Rounds whose voters are answered; of more those that were decided first are left."""


class TooManyRounds(ProofyardError):
    """This node votes in as many rounds as it may, none of them decided."""


class NotAVoter(ProofyardError):
    """This node has no vote in a round, or another key has it."""


class Rounds:
    """Of one node. `reach` finds the other voters; a result of more than `max_bytes` is not looked at."""

    def __init__(
        self, wallet: Wallet, endpoint: Endpoint, store: BlockStore, journal: Journal, reach: Reach, *, max_bytes: int
    ) -> None:
        self._wallet, self._store, self._journal, self._reach = wallet, store, journal, reach
        self._max_bytes = max_bytes
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._askers = Askers(OF_PEER, OF_HOST, OF_ALL)
        self._outbox = Outbox(reach, self._heard)
        self._voters: dict[Digest, RoundVoter] = {}
        self._tasks: dict[Digest, asyncio.Task[None]] = {}
        self._own: Voter | None = None
        self._introduced = journal.is_introduced()
        endpoint.on(Proposal, self.hear)
        endpoint.on(Vote, self.hear)
        endpoint.on(NewView, self.hear)
        endpoint.on(Certified, self.hear)
        endpoint.on(AskRound, self.ask)
        endpoint.on(ShownDelta, self.show)
        endpoint.on(ShowDelta, self.shown)
        endpoint.on(AskVoter, self.show_key)

    def begin(self, ballot: Ballot, *, seed: bytes, timeout_s: float, closes_s: float) -> RoundVoter:
        """Vote in a round from now on, going on where this node was; one that it votes in already is returned as it is.
        `seed` is the chain's, for the order of leaders; `timeout_s`: of the first view; `closes_s`: so many seconds
        after this node began it, away or not, it does without what is missing. Raises `NotAVoter`, `TooManyRounds`,
        `JournalError`."""
        digest, own = ballot.round.digest, ballot.roster.by_node.get(self._wallet.address)
        if digest in self._voters:
            return self._voters[digest]
        secret = self._wallet.voter_secret()
        if own is None or own.key != public_key(secret):
            raise NotAVoter(f"the roster of job {ballot.round.job} does not have {self._wallet.address} with its key")
        self._make_place()
        began = self._journal.begin_round(digest, ballot.round.job, now := time.time())
        machine = RoundMachine(
            *(ballot.round, ballot.roster, ballot.terms, self._wallet.address, secret),
            seed=seed,
            timeout_s=timeout_s,
            durable=self._journal.durable(digest),
        )
        results = Results(ballot, self._store, self._journal, self._reach, self._turns, self._max_bytes)
        voter = self._voters[digest] = RoundVoter(
            *(ballot, machine, results, self._outbox, self._journal, self._reach),
            closes_s=min(closes_s, max(0.0, began + closes_s - now)),
            ask_s=timeout_s,
        )
        task = self._tasks[digest] = asyncio.create_task(voter.run())
        task.add_done_callback(partial(self._ended, voter))
        return voter

    @property
    def introduced(self) -> bool:
        """Whether a roster can have this node: somebody has its key."""
        return self._introduced

    def introduce(self) -> None:
        """Somebody has this node's key, or is about to. Raises `JournalError`."""
        self._journal.introduce(time.time())
        self._introduced = True

    async def leave(self, job: JobId) -> None:
        """A job is over: its rounds are forgotten, and those of jobs that had its number before the chain went back."""
        await self.pause(job)
        self._journal.forget_rounds(job)

    async def pause(self, job: JobId) -> None:
        """Vote in a job's rounds no more for now. What was signed in them stays on disk: the job may come back."""
        for digest in [digest for digest, voter in self._voters.items() if voter.ballot.round.job == job]:
            await self._stop(digest)

    async def close(self) -> None:
        for digest in list(self._voters):
            await self._stop(digest)
        await self._outbox.close()

    # What voters say

    async def hear(self, connection: Connection, message: Message, _body: Body) -> Heard:
        voter = self._of(connection, message.round)
        if voter.certificate is None:
            voter.hear(connection.peer, message)
        return Heard(voter.certificate)

    async def ask(self, connection: Connection, message: AskRound, _body: Body) -> Heard:
        return Heard(self._of(connection, message.round).certificate)

    async def show(self, connection: Connection, message: ShownDelta, _body: Body) -> Ack:
        return self._of(connection, message.round).show(connection, message)

    async def show_key(self, connection: Connection, _message: AskVoter, _body: Body) -> VoterKey:
        """With which key this node votes, for whoever makes a roster."""
        if not self._askers.may(connection.peer, *connection.remote, asyncio.get_running_loop().time()):
            raise RequestFailed("busy", "you ask more often than a roster needs; ask again later")
        if self._own is None:
            self._own = await asyncio.to_thread(self._wallet.as_voter, 1)
        if not self._introduced:
            self.introduce()
        return VoterKey(self._own.key, self._own.possession)

    async def shown(self, connection: Connection, message: ShowDelta, _body: Body) -> ShownDelta:
        return self._of(connection, message.round).shown(message.delta)

    def _of(self, connection: Connection, digest: Digest) -> RoundVoter:
        """This node's part in a round that the peer votes in as well."""
        now = asyncio.get_running_loop().time()
        if not self._askers.may(connection.peer, *connection.remote, now):
            raise RequestFailed("busy", "you say more about rounds than voters have to; say it again later")
        voter = self._voters.get(digest)
        if voter is None or connection.peer not in voter.ballot.roster.by_node:
            raise RequestFailed("no-round", "this node votes with you in no such round now")
        connection.vouch()
        return voter

    def _heard(self, peer: Address, message: Said, answer: Heard) -> None:
        voter = self._voters.get(message.round)
        if voter is not None and answer.decided is not None:
            voter.heard(peer, answer.decided)

    def _make_place(self) -> None:
        if len(self._voters) < MOST_ROUNDS:
            return
        decided = next((digest for digest, voter in self._voters.items() if voter.certificate is not None), None)
        if decided is None:
            raise TooManyRounds(f"this node votes in {MOST_ROUNDS} rounds that are not decided; it takes no more jobs")
        del self._voters[decided]

    async def _stop(self, digest: Digest) -> None:
        del self._voters[digest]
        task = self._tasks.get(digest)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _ended(self, voter: RoundVoter, task: asyncio.Task[None]) -> None:
        each = voter.ballot.round
        self._tasks.pop(each.digest, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("this node votes no more in round %s of job %s", each.number, each.job, exc_info=error)
