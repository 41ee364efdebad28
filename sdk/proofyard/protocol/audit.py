"""The audit plan: which tasks of a batch are audited, on which segments, by whom; and how votes become a verdict.

Everything here is a pure function of the draw seed (fixed by a block after the batch root), the batch and the
registry's state at that block, in integers only, so anyone recomputes the same plan. The draws are keyed hashes
rather than a shared generator: one task's draw does not depend on the order of the others.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from eth_hash.auto import keccak

from proofyard.protocol.dial import WAD
from proofyard.protocol.seal import CANNOT_EXECUTE
from proofyard.protocol.types import Address, Digest, SegmentIndex, TaskIndex


@dataclass(frozen=True)
class Operator:
    """A node as the Registry shows it at the draw. Redundancy counts `owner`s, never nodes."""

    node: Address
    owner: Address


@dataclass(frozen=True)
class BatchEntry:
    """One commitment of the batch. `owner` is its worker's, also where the node is no longer listed; `leaf` its EIP-712
    struct hash. `audit_wad` and `drawn` are what the Registry's `auditProbability` says of this task at the draw: the
    probability of its audit, and how many segments are drawn then."""

    task: TaskIndex
    node: Address
    owner: Address
    segments: int
    leaf: Digest
    audit_wad: int
    drawn: int


@dataclass(frozen=True)
class SegmentAudit:
    """One segment to re-execute. The first k of `auditors` hold the seats, the others stand in, in this order."""

    task: TaskIndex
    segment: SegmentIndex
    auditors: tuple[Address, ...]


@dataclass(frozen=True)
class AuditPlan:
    audits: tuple[SegmentAudit, ...]
    skipped: tuple[TaskIndex, ...]


def audit_plan(
    seed: Digest, batch: Iterable[BatchEntry], operators: Sequence[Operator], *, auditors_per_segment: int
) -> AuditPlan:
    """Draw the audits of a batch.

    A task is audited when its draw falls below its probability. Its segments are drawn without replacement, and its
    auditors as `seat_auditors` says.
    """
    audits: list[SegmentAudit] = []
    skipped: list[TaskIndex] = []
    for entry in batch:
        if _draw(seed, entry.leaf, b"audit") * WAD >= entry.audit_wad << 256:
            skipped.append(entry.task)
            continue
        seats = seat_auditors(seed, entry, operators, auditors_per_segment)
        audits += [SegmentAudit(entry.task, segment, seats[segment]) for segment in sorted(seats)]
    return AuditPlan(tuple(audits), tuple(skipped))


def seat_auditors(
    seed: Digest, entry: BatchEntry, operators: Sequence[Operator], auditors_per_segment: int
) -> dict[SegmentIndex, tuple[Address, ...]]:
    """The auditors of each drawn segment of a task: every owner but the worker's at one segment, with one node.

    The segments take turns in the order of their draws. In the first turn each takes the k free owners that rank
    first with it, in every later one a stand-in, until no owner is free. So nobody sees two segments of a task, whoever
    has to stand in; where there are fewer than k owners a segment, the last ones stay without.
    """
    owner_of = {operator.node: operator.owner for operator in operators}
    segments = draw_segments(seed, entry.leaf, entry.segments, entry.drawn)
    queues = {segment: iter(rank_auditors(seed, entry.leaf, segment, operators)) for segment in segments}
    seats: dict[SegmentIndex, list[Address]] = {segment: [] for segment in segments}
    free = set(owner_of.values()) - {entry.owner}
    turn = auditors_per_segment
    while free and segments:
        for segment in segments:
            for _ in range(min(turn, len(free))):
                node = next(node for node in queues[segment] if owner_of[node] in free)
                free.remove(owner_of[node])
                seats[segment].append(node)
        turn = 1
    return {segment: tuple(nodes) for segment, nodes in seats.items()}


def draw_segments(seed: Digest, leaf: Digest, segments: int, count: int) -> list[SegmentIndex]:
    """`count` different segments of `segments` in the order of their draws; all of them where there are no more."""
    ranked = sorted(range(segments), key=lambda i: _draw(seed, leaf, b"segment", i.to_bytes(4, "big")))
    return [SegmentIndex(i) for i in ranked[:count]]


def rank_auditors(seed: Digest, leaf: Digest, segment: SegmentIndex, operators: Sequence[Operator]) -> list[Address]:
    """One node of every owner, owners in the order of their draw: more keys give an owner no more seats."""
    nodes: dict[Address, list[Address]] = {}
    for operator in operators:
        nodes.setdefault(operator.owner, []).append(operator.node)
    at = segment.to_bytes(4, "big")

    def rank(address: Address) -> int:
        return _draw(seed, leaf, b"auditor", at, bytes.fromhex(address[2:]))

    return [min(nodes[owner], key=rank) for owner in sorted(nodes, key=rank)]


def _draw(seed: Digest, leaf: Digest, *purpose: bytes) -> int:
    """A uniform integer below 2**256 that belongs to this purpose alone."""
    return int.from_bytes(keccak(b"".join((seed, leaf, *purpose))), "big")


class Verdict(StrEnum):
    """What a segment's votes say of the worker."""

    PENDING = "pending"
    VALID = "valid"
    FAULT = "fault"
    UNDECIDED = "undecided"


def tally(answers: Mapping[Address, Digest], claimed: Digest, auditors_per_segment: int, *, exhausted: bool) -> Verdict:
    """The verdict of one segment. `answers` maps an auditor's owner to its answer, `claimed` is the worker's.

    k auditors that all give the worker's answer find it right. Where answers differ, the worker's among them, more
    auditors are seated until k + 1 owners give one answer: nobody is accused by fewer, and auditors that make up their
    answers by themselves convict nobody. Where no auditor is left (`exhausted`) it stays undecided: the task is done
    again, and nobody is punished.
    """
    counts = Counter(answers.values())
    # A worker could commit to the very text that `CANNOT_EXECUTE` is the digest of.
    match = 0 if claimed == CANNOT_EXECUTE else counts.pop(claimed, 0)
    if match > auditors_per_segment or (match == auditors_per_segment and not counts):
        return Verdict.VALID
    if max(counts.values(), default=0) > auditors_per_segment:
        return Verdict.FAULT
    return Verdict.UNDECIDED if exhausted else Verdict.PENDING


def carried(answers: Iterable[Digest], claimed: Digest, verdict: str) -> Digest | None:
    """The answer that a verdict rests on; None where it rests on none."""
    if verdict == Verdict.VALID:
        return claimed
    counts = Counter(answer for answer in answers if answer != claimed or answer == CANNOT_EXECUTE)
    return min(counts, key=lambda answer: (-counts[answer], answer)) if verdict == Verdict.FAULT and counts else None
