"""Jury duty: the node executes what is in dispute, seals its vote and opens it, without being told to.

Every open challenge is looked at afresh each time, so a restarted node knows what is to be done from the chain alone.
A juror is fined for silence and paid for voting with the majority, which is why it also moves a challenge on when its
time has come and nobody else does.
"""

import asyncio
import logging
from functools import partial
from pathlib import Path

from proofyard.chain import ChainClient, ChallengeId, ChallengeRecord, Court, Phase, Refused
from proofyard.disputes.judging import Finding, judge
from proofyard.disputes.network import Network
from proofyard.disputes.replaying import SegmentExecutor
from proofyard.disputes.voting import Seat, commit, reveal, seat_of
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.types import ProofyardError
from proofyard.workloads.executor import Executor
from proofyard.workloads.workload import Inputs, Resources

logger = logging.getLogger("proofyard.node")

POLL_S = 2.0
RETRY_S = 5.0
SCANNED = 200
"""Challenges before the newest that a starting node looks at: far more than can be open at once."""
PATIENCE = 0.4
"""Part of the voting time that is left in which a worker must deliver a state: twice that, for a segment has two."""
TURN_S = 5
"""Chain seconds between the jurors' turns at moving a challenge on, so that not all of them send the same."""


class SpareExecutor:
    """The node's own executor while it is idle. A vote cannot wait for the end of a long task, so while one is computed
    a second process is started under `folder`."""

    def __init__(self, executor: Executor, resources: Resources, folder: Path) -> None:
        self._executor = executor
        self._resources = resources
        self._folder = folder
        self._turn = asyncio.Lock()

    async def run_segment(self, manifest: Manifest, task: TaskSpec, index: int, before: bytes, inputs: Inputs) -> bytes:
        if not self._executor.busy:
            return await self._executor.run_segment(manifest, task, index, before, inputs)
        async with self._turn, Executor(self._folder, resources=self._resources) as executor:
            return await executor.run_segment(manifest, task, index, before, inputs)


class Juror:
    """Watches for juries that this node's key sits on, and serves on them."""

    def __init__(self, chain: ChainClient, network: Network, executor: SegmentExecutor) -> None:
        self._chain = chain
        self._court = Court(chain)
        self._network = network
        self._executor = executor
        self._open: set[ChallengeId] = set()
        self._seen = 0
        self._sealed: set[tuple[ChallengeId, int]] = set()
        self._at_work: dict[ChallengeId, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Follow the Registry's challenges until cancelled; an unreachable chain is waited for."""
        try:
            while True:
                try:
                    await self.look()
                except ProofyardError as error:
                    logger.warning("challenges cannot be followed: %s", error)
                await asyncio.sleep(POLL_S)
        finally:
            left = list(self._at_work.values())
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def look(self) -> None:
        """Take notice of new challenges and begin with whatever is due."""
        count = await asyncio.to_thread(self._chain.challenge_count)
        first = max(self._seen + 1, count - SCANNED)
        self._open |= {ChallengeId(number) for number in range(max(1, first), count + 1)}
        self._seen = count
        for challenge in sorted(self._open - self._at_work.keys()):
            record = await asyncio.to_thread(self._chain.challenge, challenge)
            if record.phase in (Phase.UPHELD, Phase.REJECTED, Phase.DISMISSED):
                self._open.discard(challenge)
            elif await self._may_be_due(record):
                seat = await asyncio.to_thread(seat_of, self._chain, record)
                if seat is not None:
                    work = asyncio.create_task(self._serve(seat))
                    self._at_work[challenge] = work
                    work.add_done_callback(partial(self._served, challenge))

    async def _may_be_due(self, record: ChallengeRecord) -> bool:
        """Whether it is worth the many requests to look closer: not while a verdict or a sealed vote only waits."""
        waits = record.phase == Phase.VERDICT or (record.id, record.draw_block) in self._sealed
        return not waits or await asyncio.to_thread(self._chain.now) >= record.until

    def _served(self, challenge: ChallengeId, _task: asyncio.Task[None]) -> None:
        del self._at_work[challenge]

    async def _serve(self, seat: Seat) -> None:
        """The step that is due at one seat, if any."""
        try:
            await self._step(seat)
        except Refused as error:
            logger.info("challenge %s: %s", seat.challenge.id, error)
        except ProofyardError as error:
            logger.warning("challenge %s: %s; trying again", seat.challenge.id, error)
            await asyncio.sleep(RETRY_S)
        except Exception:
            logger.exception("jury duty on challenge %s failed", seat.challenge.id)
            await asyncio.sleep(RETRY_S)

    async def _step(self, seat: Seat) -> None:
        challenge, now = seat.challenge, await asyncio.to_thread(self._chain.now)
        turn = seat.number * TURN_S
        if challenge.phase == Phase.VERDICT:
            if now >= challenge.until + turn:
                await asyncio.to_thread(self._court.resolve, challenge.id)
        elif now < challenge.until:
            if not seat.committed:
                await self._vote(seat)
            self._sealed.add((challenge.id, challenge.draw_block))
        elif now < seat.reveal_ends:
            if seat.committed and not seat.revealed:
                wrong = await asyncio.to_thread(reveal, self._chain, seat)
                logger.info("challenge %s: opened the vote %s", challenge.id, "wrong" if wrong else "right")
        elif now >= seat.reveal_ends + turn:
            await asyncio.to_thread(self._court.resolve, challenge.id)

    async def _vote(self, seat: Seat) -> None:
        challenge = seat.challenge
        logger.info("on the jury of challenge %s: %s of batch %s", challenge.id, challenge.kind.name, challenge.batch)
        left = challenge.until - await asyncio.to_thread(self._chain.now)
        finding = await judge(self._chain, self._network, self._executor, challenge, patience_s=left * PATIENCE)
        await asyncio.to_thread(commit, self._chain, seat, finding.wrong)
        logger.info("challenge %s: sealed a vote after finding: %s", challenge.id, _told(finding))


def _told(finding: Finding) -> str:
    return f"{'wrong' if finding.wrong else 'right'}, {finding.reason}"
