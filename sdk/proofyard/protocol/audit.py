"""The audit plan: which tasks of a batch are audited, on which segments, by whom; and how votes become a verdict.

Everything here is a pure function of the draw seed (fixed by a block after the commit), the batch and public facts at
that block, in integers only, so anyone recomputes the same plan. The draws are keyed hashes rather than a shared
generator: one task's draw does not depend on the order of the others. Auditors are dealt by index, so a segment costs
as many hashes as it has auditors, however many nodes there are.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from proofyard.protocol.dial import WAD, AuditOdds
from proofyard.protocol.keccak import keccak
from proofyard.protocol.seal import NO_STATE
from proofyard.protocol.types import Address, Digest, JobId, SegmentIndex, TaskIndex

LISTED = 32
"""Auditors on a segment's list where there are so many owners, or four times k + 1 where that is more."""

UNDECIDED_AFTER_S = 600
"""So long after its draw a segment may stay undecided while auditors of its list have not answered."""

SegmentKey = tuple[JobId, TaskIndex, SegmentIndex]


@dataclass(frozen=True)
class Operator:
    """An active node at the draw. Redundancy counts `owner`s, never nodes."""

    node: Address
    owner: Address


@dataclass(frozen=True)
class BatchEntry:
    """One commitment of the batch. `leaf` is its EIP-712 struct hash, `odds` what the dial says of it, `barred` the
    owners that do not audit it: its worker's and the job's requester."""

    job: JobId
    task: TaskIndex
    segments: int
    leaf: Digest
    odds: AuditOdds
    auditors_per_segment: int
    barred: frozenset[Address]
    named: frozenset[Address] | None = None
    """The owners from whom its auditors are drawn, where that is not everybody."""


@dataclass(frozen=True)
class SegmentAudit:
    """One segment to re-execute. The first k of `auditors` hold the seats, the others stand in, in this order."""

    job: JobId
    task: TaskIndex
    segment: SegmentIndex
    auditors: tuple[Address, ...]

    @property
    def key(self) -> SegmentKey:
        return self.job, self.task, self.segment


@dataclass(frozen=True)
class AuditPlan:
    """In the order of the batch, and of the segments of a task."""

    audits: tuple[SegmentAudit, ...]
    skipped: tuple[tuple[JobId, TaskIndex], ...]


@dataclass(frozen=True)
class Pool:
    """Who may audit: `owners` in ascending order, and the active nodes of each, ascending too."""

    owners: tuple[Address, ...]
    nodes: Mapping[Address, Sequence[Address]]


def pool_of(operators: Iterable[Operator], excluded: Collection[Address] = ()) -> Pool:
    """The pool of a batch without the owners that audit nothing in it."""
    nodes: dict[Address, list[Address]] = {}
    for operator in operators:
        if operator.owner not in excluded:
            nodes.setdefault(operator.owner, []).append(operator.node)
    return Pool(tuple(sorted(nodes, key=_number)), {owner: sorted(its, key=_number) for owner, its in nodes.items()})


def audit_plan(seed: Digest, batch: Iterable[BatchEntry], pool: Pool) -> AuditPlan:
    """Draw the audits of a batch.

    A task is audited when its draw falls below its probability, and never where nobody is named that could. Its
    segments are drawn without replacement, and its auditors as `seat_auditors` says.
    """
    audits: list[SegmentAudit] = []
    skipped: list[tuple[JobId, TaskIndex]] = []
    for entry in batch:
        nobody = entry.named is not None and not entry.named
        if nobody or _draw(seed, entry.leaf, b"audit") * WAD >= entry.odds.wad << 256:
            skipped.append((entry.job, entry.task))
            continue
        seats = seat_auditors(seed, entry, pool)
        audits += [SegmentAudit(entry.job, entry.task, segment, seats[segment]) for segment in sorted(seats)]
    return AuditPlan(tuple(audits), tuple(skipped))


def seat_auditors(seed: Digest, entry: BatchEntry, pool: Pool) -> dict[SegmentIndex, tuple[Address, ...]]:
    """The auditors of each drawn segment of a task, one node an owner; no owner is on the lists of two of its segments.

    The segments take turns in the order of their draws: in the first turn each is dealt k owners, in every later one a
    stand-in, until its list is full or nobody is left. Where there are fewer than k owners a segment, the last ones
    stay without."""
    segments = draw_segments(seed, entry.leaf, entry.segments, entry.odds.segments)
    owners = pool.owners
    if entry.named is not None:
        owners = tuple(sorted((owner for owner in entry.named if owner in pool.nodes), key=_number))
    deck = _Deck(seed, entry, owners)
    seats: dict[SegmentIndex, list[Address]] = {segment: [] for segment in segments}
    full = max(LISTED, 4 * (entry.auditors_per_segment + 1))
    turn = entry.auditors_per_segment
    while deck.left and any(len(seats[segment]) < full for segment in segments):
        for segment in segments:
            for _ in range(turn):
                if (owner := deck.deal(segment)) is not None:
                    seats[segment].append(_node_of(seed, entry.leaf, pool.nodes[owner]))
        turn = 1
    return {segment: tuple(nodes) for segment, nodes in seats.items()}


class _Deck:
    """The owners of a pool that have no seat at a task yet: a shuffle that is made as far as it is dealt."""

    def __init__(self, seed: Digest, entry: BatchEntry, owners: Sequence[Address]) -> None:
        self._entry, self._owners = entry, owners
        self._drawn = seed + entry.leaf + b"auditor"
        self._moved: dict[int, int] = {}
        self._dealt = 0
        self.left = len(owners)

    def deal(self, segment: SegmentIndex) -> Address | None:
        """The next owner for a segment that is not barred; None where nobody is left."""
        drawn = self._drawn + _u32(segment)
        while self.left:
            at = int.from_bytes(keccak(drawn + _u32(self._dealt)), "big") % self.left
            self._dealt += 1
            self.left -= 1
            owner = self._owners[self._moved.get(at, at)]
            self._moved[at] = self._moved.get(self.left, self.left)
            if owner not in self._entry.barred:
                return owner
        return None


def draw_segments(seed: Digest, leaf: Digest, segments: int, count: int) -> list[SegmentIndex]:
    """`count` different segments of `segments` in the order of their draws; all of them where there are no more."""
    ranked = sorted(range(segments), key=lambda i: _draw(seed, leaf, b"segment", _u32(i)))
    return [SegmentIndex(i) for i in ranked[:count]]


def _node_of(seed: Digest, leaf: Digest, nodes: Sequence[Address]) -> Address:
    """Which of an owner's nodes audits: more of them give it no more seats."""
    if len(nodes) == 1:
        return nodes[0]
    return nodes[_draw(seed, leaf, b"node", bytes.fromhex(nodes[0][2:])) % len(nodes)]


def _draw(seed: Digest, leaf: Digest, *purpose: bytes) -> int:
    """A uniform integer below 2**256 that belongs to this purpose alone."""
    return int.from_bytes(keccak(b"".join((seed, leaf, *purpose))), "big")


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "big")


def _number(address: Address) -> int:
    return int(address, 16)


class Verdict(StrEnum):
    """What a segment's votes say of the worker."""

    PENDING = "pending"
    VALID = "valid"
    FAULT = "fault"
    UNDECIDED = "undecided"


def tally(
    answers: Collection[Digest], claimed: Digest, auditors_per_segment: int, *, exhausted: bool, decoy: bool = False
) -> Verdict:
    """The verdict of one segment. `answers` are those of different owners, `claimed` is the worker's.

    k auditors that all give the worker's answer find it right. Where answers differ, the worker's among them, more
    auditors are seated until k + 1 owners give one answer, and more than any other: nobody is accused by fewer, and
    auditors that make up their answers by themselves convict nobody. Where no auditor is left (`exhausted`) it stays
    undecided: the task is done again, and nobody is punished. k is at least 2.

    What a `decoy` claims is false, as its own worker has sealed: answers that repeat it decide nothing, and auditors
    are seated until k + 1 owners give another one.
    """
    k, counts = max(2, auditors_per_segment), Counter(answers)
    # A trace that names an answer that is no state is refused; were it not, such answers would still not confirm it.
    right = 0 if claimed in NO_STATE else counts.pop(claimed, 0)
    right = 0 if decoy else right
    most = max(counts.values(), default=0)
    if right > max(k, most) or (right == k and not counts):
        return Verdict.VALID
    if most > max(k, right):
        return Verdict.FAULT
    return Verdict.UNDECIDED if exhausted else Verdict.PENDING


def asked_of(listed: Sequence[Address], voters: Collection[Address]) -> int:
    """How many of a segment's list were asked, up to the last one that voted."""
    return max((place + 1 for place, auditor in enumerate(listed) if auditor in voters), default=0)


def is_late(drawn_at: float, now: float) -> bool:
    """Whether a segment may stay undecided while auditors are silent. Unix seconds of the chain's clock."""
    return now > drawn_at + UNDECIDED_AFTER_S


def verdict_of(
    answers: Collection[Digest],
    claimed: Digest,
    auditors_per_segment: int,
    *,
    votes: int,
    asked: int,
    listed: int,
    late: bool,
    decoy: bool = False,
) -> Verdict:
    """The verdict that a record may say of a segment, PENDING as long as it may say none: leaders judge by it, and
    everybody holds their records against it.

    Of the `listed` auditors of the plan `asked` were asked, the first ones in its order up to the last that voted, and
    `votes` of these voted; `answers` are those of the voters that have a say. At most half of those asked may be absent
    where something is decided: nobody chooses its auditors by not hearing others. Undecided is a segment once its whole
    list has voted, or `late` (`is_late`)."""
    verdict = tally(answers, claimed, auditors_per_segment, exhausted=True, decoy=decoy)
    if verdict != Verdict.UNDECIDED and asked - votes <= votes:
        return verdict
    return Verdict.UNDECIDED if late or votes == listed else Verdict.PENDING


def carried(answers: Iterable[Digest], claimed: Digest, verdict: str) -> Digest | None:
    """The answer that a verdict rests on; None where it rests on none."""
    if verdict == Verdict.VALID:
        return claimed
    counts = Counter(answer for answer in answers if answer != claimed or answer in NO_STATE)
    return min(counts, key=lambda answer: (-counts[answer], answer)) if verdict == Verdict.FAULT and counts else None
