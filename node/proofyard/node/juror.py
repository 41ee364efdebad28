"""Jury duty: the node executes what is in dispute, seals its vote and opens it, without being told to.

A juror is fined for silence and paid for finding what the majority finds, which is why it also moves a challenge on
when its time has come and nobody else does. A seat is an owner's: its nodes take turns, so that one that is down is
stood in for.
"""

import asyncio
import contextlib
import logging
from pathlib import Path

from proofyard.chain import ChainClient, ChallengeId, ChallengeRecord, Court, Phase
from proofyard.chain.refusals import BadVote
from proofyard.disputes import voting
from proofyard.disputes.judging import Finding, judge
from proofyard.disputes.network import Network
from proofyard.disputes.replaying import SegmentExecutor
from proofyard.disputes.voting import Seat
from proofyard.node.duties import Duties
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.workloads.executor import Executor
from proofyard.workloads.sandbox import Sandbox
from proofyard.workloads.workload import Inputs, Resources

logger = logging.getLogger("proofyard.node")

PATIENCE = 0.4
"""Part of the voting time that is left in which a worker must deliver a state: twice that, for a segment has two."""
TURN_S = 5
"""Chain seconds between the jurors' turns at moving a challenge on, so that not all of them send the same."""
LOOK_AGAIN = 0.25
"""Part of the voting time that is left after which a juror looks whether its vote is still on chain."""
STAND_IN = 0.25
"""Part of the voting time after which the next of an owner's nodes stands in; the last has the time that is left."""
MAX_RANK = 2


class SpareExecutor:
    """The node's own executor while it is idle. A vote cannot wait for the end of a long task, so while one is computed
    a second process is started under `folder`."""

    def __init__(self, executor: Executor, resources: Resources, folder: Path, sandbox: Sandbox | None = None) -> None:
        self._executor = executor
        self._resources = resources
        self._folder = folder
        self._sandbox = sandbox
        self._turn = asyncio.Lock()

    async def run_segment(self, manifest: Manifest, task: TaskSpec, index: int, before: bytes, inputs: Inputs) -> bytes:
        if not self._executor.busy:
            return await self._executor.run_segment(manifest, task, index, before, inputs)
        async with self._turn, Executor(self._folder, resources=self._resources, sandbox=self._sandbox) as executor:
            return await executor.run_segment(manifest, task, index, before, inputs)


class Juror:
    """Serves on juries that this node's owner sits on; what it seals is kept in `folder`."""

    def __init__(
        self, chain: ChainClient, network: Network, executor: SegmentExecutor, folder: Path, duties: Duties
    ) -> None:
        self._chain = chain
        self._court = Court(chain)
        self._network = network
        self._executor = executor
        self._folder = folder
        self._duties = duties
        self._sealed: dict[tuple[ChallengeId, int], float] = {}
        """Votes that are on chain, and when to look whether they still are: a block may go, and its vote with it."""

    async def consider(self, record: ChallengeRecord, now: int) -> None:
        """Begin with whatever is due on a challenge at chain time `now`."""
        key = ("jury duty on challenge", record.id)
        waits = record.phase == Phase.VERDICT or now < self._sealed.get((record.id, record.draw_block), 0.0)
        # Not worth the requests to look closer while a verdict or a sealed vote only waits.
        if self._duties.busy(key) or record.phase not in (Phase.VOTE, Phase.VERDICT) or (waits and now < record.until):
            return
        seat = await asyncio.to_thread(voting.seat_of, self._chain, record)
        if seat is not None:
            self._duties.begin(key, lambda: self._step(seat))

    async def _step(self, seat: Seat) -> None:
        """The step that is due at one seat, if any."""
        challenge, now = seat.challenge, await asyncio.to_thread(self._chain.now)
        turn = (seat.number + seat.rank) * TURN_S
        if challenge.phase == Phase.VERDICT:
            if now >= challenge.until + turn:
                await asyncio.to_thread(self._court.resolve, challenge.id)
        elif now < challenge.until:
            if not seat.committed:
                if now < self._turn_to_vote(seat):
                    return
                await self._vote(seat)
                now = await asyncio.to_thread(self._chain.now)
            self._sealed[challenge.id, challenge.draw_block] = now + (challenge.until - now) * LOOK_AGAIN
        elif now < seat.reveal_ends:
            if seat.own and not seat.revealed:
                await self._open(seat)
        elif now >= seat.reveal_ends + turn:
            await asyncio.to_thread(self._court.resolve, challenge.id)

    def _turn_to_vote(self, seat: Seat) -> float:
        """Chain time from which this one of the owner's nodes votes, if none before it has."""
        vote_time = self._chain.params().court.vote_time
        return seat.challenge.until - vote_time * (1 - STAND_IN * min(seat.rank, MAX_RANK))

    async def _vote(self, seat: Seat) -> None:
        challenge = seat.challenge
        if (challenge.id, challenge.draw_block) in self._sealed and await self._seal_again(seat):
            return
        logger.info("on the jury of challenge %s: %s of batch %s", challenge.id, challenge.kind.name, challenge.batch)
        finding = await self._find(seat, challenge.until)
        await asyncio.to_thread(voting.commit, self._chain, seat, voting.ballot_of(finding), self._folder)
        logger.info("challenge %s: sealed a vote after finding: %s", challenge.id, _told(finding))

    async def _seal_again(self, seat: Seat) -> bool:
        """This node's vote was on chain and is not any more, or not for an endpoint that is behind: the same once more.
        Another one could not be opened where the first one comes back. False where it has none: the vote that is gone
        was another node's of the owner."""
        ballot = await asyncio.to_thread(voting.kept, self._folder, seat.challenge)
        if ballot is None:
            return False
        with contextlib.suppress(BadVote):  # it is there
            await asyncio.to_thread(voting.commit, self._chain, seat, ballot, self._folder)
            logger.info("challenge %s: sealed the same vote again, whose block was gone", seat.challenge.id)
        return True

    async def _open(self, seat: Seat) -> None:
        """Open what was sealed; where the disk has lost it, find it again."""
        ballot = await asyncio.to_thread(voting.kept, self._folder, seat.challenge)
        if ballot is None:
            logger.warning("challenge %s: what was sealed is gone; looking again", seat.challenge.id)
            ballot = voting.ballot_of(await self._find(seat, seat.reveal_ends))
        wrong = await asyncio.to_thread(voting.reveal_ballot, self._chain, seat, ballot)
        logger.info("challenge %s: opened the vote %s", seat.challenge.id, "wrong" if wrong else "right")

    async def _find(self, seat: Seat, until: int) -> Finding:
        left = until - await asyncio.to_thread(self._chain.now)
        return await judge(
            self._chain, self._network, self._executor, seat.challenge, owner=seat.owner, patience_s=left * PATIENCE
        )


def _told(finding: Finding) -> str:
    return f"{'wrong' if finding.wrong else 'right'}, {finding.reason}"
