"""Moving challenges on, whoever they are about: drawing juries, which pays, and ending what nobody else has ended.

Every node does it, so no challenge waits for those who would rather see it expire. Each takes its turn after a delay of
its own, so that not all of them send the same.
"""

import asyncio
import hashlib
import logging

from proofyard.chain import ChainClient, ChallengeId, ChallengeRecord, Court, Phase
from proofyard.node.duties import Duties
from proofyard.protocol.types import Address

logger = logging.getLogger("proofyard.node")

DRAW_TURNS_S = 8
"""Within so many seconds of the draw's block everybody has had a turn at drawing."""
END_TURNS_S = 60
"""Longer than the jurors' own turns at ending a round."""
AGAIN_S = 30.0


class Clerk:
    """Draws and resolves as this wallet."""

    def __init__(self, chain: ChainClient, address: Address, duties: Duties) -> None:
        self._chain = chain
        self._court = Court(chain)
        self._address = address
        self._duties = duties
        self._tried: dict[tuple[ChallengeId, Phase, int], float] = {}

    async def consider(self, record: ChallengeRecord, now: int) -> None:
        """Begin with whatever is due on a challenge at chain time `now`."""
        clock = asyncio.get_running_loop().time()
        key = (record.id, record.phase, record.draw_block)
        if clock - self._tried.get(key, -AGAIN_S) < AGAIN_S:
            return
        if record.phase == Phase.DRAW and now < record.until:
            if await asyncio.to_thread(self._chain.block_number) > record.draw_block:
                self._tried[key] = clock
                self._duties.begin(("drawing the jury of challenge", record.id), lambda: self._draw(record))
        elif now >= self._ends(record) + self._delay(record, END_TURNS_S):
            self._tried[key] = clock
            self._duties.begin(("ending a round of challenge", record.id), lambda: self._end(record))

    def forget(self, open_now: set[ChallengeId]) -> None:
        """Keep nothing of challenges that are decided."""
        self._tried = {key: at for key, at in self._tried.items() if key[0] in open_now}

    async def _draw(self, record: ChallengeRecord) -> None:
        await asyncio.sleep(self._delay(record, DRAW_TURNS_S))
        current = await asyncio.to_thread(self._chain.challenge, record.id)
        if (current.phase, current.draw_block) == (Phase.DRAW, record.draw_block):
            jurors = await asyncio.to_thread(self._court.draw_jury, record.id)
            logger.info("challenge %s: drew its jury of %s, for the reward", record.id, len(jurors))

    async def _end(self, record: ChallengeRecord) -> None:
        phase = await asyncio.to_thread(self._court.resolve, record.id)
        logger.info("challenge %s: moved on to %s, because its time was over", record.id, phase.name.lower())

    def _ends(self, record: ChallengeRecord) -> int:
        """Chain time from which `resolve` has something to do."""
        reveal = self._chain.params().court.reveal_time if record.phase == Phase.VOTE else 0
        return record.until + reveal

    def _delay(self, record: ChallengeRecord, turns_s: int) -> int:
        """Seconds, another number for each node and challenge."""
        drawn = hashlib.sha256(f"{self._address}{record.id}{record.phase}".encode()).digest()
        return int.from_bytes(drawn[:4], "big") % turns_s
