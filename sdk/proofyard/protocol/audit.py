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

from proofyard.protocol.types import Address, Digest, SegmentIndex, TaskIndex

WAD = 10**18
"""Probabilities are integers in units of 1e-18, as the Registry computes them."""


@dataclass(frozen=True)
class Operator:
    """A node as the Registry shows it at the draw. Redundancy counts `owner`s, never nodes."""

    node: Address
    owner: Address


@dataclass(frozen=True)
class BatchEntry:
    """One commitment of the batch. `leaf` is its EIP-712 struct hash; `audit_wad` the Registry's
    `auditProbability(node, tasks in flight, reward in flight)` at the draw."""

    task: TaskIndex
    node: Address
    segments: int
    leaf: Digest
    audit_wad: int


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
    seed: Digest,
    batch: Iterable[BatchEntry],
    operators: Sequence[Operator],
    *,
    auditors_per_segment: int,
    segments_per_audit: int,
) -> AuditPlan:
    """Draw the audits of a batch.

    A task is audited when its draw falls below its probability. Its segments are drawn without replacement. A
    segment's auditors are ranked by hash among all owners but the worker's, one node an owner; the seats of
    neighbouring segments go to different owners, because the state before one is the answer to the other.
    """
    owner_of = {operator.node: operator.owner for operator in operators}
    audits: list[SegmentAudit] = []
    skipped: list[TaskIndex] = []
    for entry in batch:
        if _draw(seed, entry.leaf, b"audit") * WAD >= entry.audit_wad << 256:
            skipped.append(entry.task)
            continue
        worker = owner_of.get(entry.node)
        seated: dict[SegmentIndex, set[Address | None]] = {}
        for segment in draw_segments(seed, entry.leaf, entry.segments, segments_per_audit):
            ranked = rank_auditors(seed, entry.leaf, segment, operators)
            barred = seated.get(SegmentIndex(segment - 1), set()) | {worker}
            auditors = tuple(node for node in ranked if owner_of[node] not in barred)
            seated[segment] = {owner_of[node] for node in auditors[:auditors_per_segment]}
            audits.append(SegmentAudit(entry.task, segment, auditors))
    return AuditPlan(tuple(audits), tuple(skipped))


def draw_segments(seed: Digest, leaf: Digest, segments: int, count: int) -> list[SegmentIndex]:
    """`count` different segments of `segments`, ascending; all of them where there are no more."""
    ranked = sorted(range(segments), key=lambda i: _draw(seed, leaf, b"segment", i.to_bytes(4, "big")))
    return sorted(SegmentIndex(i) for i in ranked[:count])


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


WORKERS = 0
"""The number of the worker's own answer among the answers to a segment."""


def tally(answers: Mapping[Address, int], auditors_per_segment: int, *, exhausted: bool) -> Verdict:
    """The verdict of one segment. `answers` maps an auditor's owner to the number of its answer: `WORKERS`, or another
    that it shares with whoever agrees with it.

    k equal answers decide. A split accuses nobody: more auditors are seated until k + 1 owners give one answer.
    Accusers who contradict each other are a split as well, so idle auditors that make up their answers convict nobody.
    Where no auditor is left (`exhausted`) a strict majority of at least two decides; failing that it stays undecided:
    the task is done again, and nobody is punished.
    """
    match, mismatch = _strongest(answers)
    needed = auditors_per_segment + (1 if len(set(answers.values())) > 1 else 0)
    if match >= needed:
        return Verdict.VALID
    if mismatch >= needed:
        return Verdict.FAULT
    if not exhausted:
        return Verdict.PENDING
    if match > mismatch and match >= min(2, auditors_per_segment):
        return Verdict.VALID
    if mismatch > match and mismatch >= 2:
        return Verdict.FAULT
    return Verdict.UNDECIDED


def carried(answers: Iterable[int], verdict: str) -> int | None:
    """The answer that a verdict rests on; None where it rests on none."""
    if verdict == Verdict.VALID:
        return WORKERS
    counts = Counter(answer for answer in answers if answer != WORKERS)
    return min(counts, key=lambda answer: (-counts[answer], answer)) if verdict == Verdict.FAULT and counts else None


def _strongest(answers: Mapping[Address, int]) -> tuple[int, int]:
    """How many give the worker's answer, and how many agree on another."""
    counts = Counter(answers.values())
    return counts.pop(WORKERS, 0), max(counts.values(), default=0)
