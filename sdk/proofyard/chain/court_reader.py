"""What the Court says: challenges, juries, and what happened to them."""

from typing import Any

from web3.types import BlockIdentifier

from proofyard.chain.binding import LATEST
from proofyard.chain.events import ChallengeOpened, word
from proofyard.chain.reader import RegistryReader
from proofyard.chain.records import ChallengeId, ChallengeRecord, Kind, Phase
from proofyard.protocol.settlement import OperatorId
from proofyard.protocol.types import Address, BatchId, Digest, JobId, SegmentIndex, TaskIndex, Wei


class CourtReader(RegistryReader):
    """Reads from a Registry and its Court."""

    def challenge(self, challenge: ChallengeId, *, block: BlockIdentifier = LATEST) -> ChallengeRecord:
        return _challenge(challenge, self._call(self._court, "challenge", challenge, block=block))

    def challenge_count(self) -> int:
        """The number of the newest challenge."""
        return int(self._call(self._court, "challengeCount"))

    def challenge_events(self, challenge: ChallengeRecord) -> list[Any]:
        """Everything that happened to a challenge, oldest first."""
        events = self._events_back_to(ChallengeOpened, [None, word(challenge.id)])
        return [event for event in events if getattr(event, "challenge", None) == challenge.id]

    def jurors(self, challenge: ChallengeId, round_: int) -> list[Address]:
        """The owners on the jury of a round: 0, or 1 on appeal."""
        return [Address(juror) for juror in self._call(self._court, "jurors", challenge, round_)]


def _challenge(id_: ChallengeId, row: Any) -> ChallengeRecord:
    challenger, batch, kind, phase, round_, redraws, accused, job, task, segment, entry, *row = row
    opened_at, draw_block, until, votes_wrong, votes_right, wrong, attempt, appellant, fines, bond, *row = row
    subject, leaf, claimed, bench, workload = row
    return ChallengeRecord(
        id=id_,
        challenger=Address(challenger),
        batch=BatchId(batch),
        kind=Kind(kind),
        phase=Phase(phase),
        round=round_,
        redraws=redraws,
        accused=OperatorId(accused),
        job=JobId(job),
        task=TaskIndex(task),
        segment=SegmentIndex(segment),
        entry=entry,
        opened_at=opened_at,
        draw_block=draw_block,
        until=until,
        votes_wrong=votes_wrong,
        votes_right=votes_right,
        wrong=wrong,
        attempt=attempt,
        appellant=Address(appellant),
        fines=Wei(fines),
        bond=Wei(bond),
        subject=Digest(subject),
        leaf=Digest(leaf),
        claimed=Digest(claimed),
        bench=bench,
        workload=workload,
    )
