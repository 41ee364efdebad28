"""Which auditors of a segment gave the same answer.

All that match the worker gave the worker's. Others agree with each other when they are much closer to one another than
to the worker: at most half as far apart as the nearer of them is from it, or within the tolerance. Honest accusers of a
cheat are orders of magnitude closer to each other; answers that were made up independently are as far from each other
as from anything else.
"""

from collections.abc import Sequence

from proofyard.protocol.audit import WORKERS
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.record import BatchRecord
from proofyard.protocol.replay import RecordInvalid
from proofyard.workloads.errors import SketchRefused
from proofyard.workloads.sketch import Sketch, decode_sketch, sketch_distance

CLOSER = 0.5


def number_answers(votes: Sequence[tuple[bytes, float]], tolerance: float) -> list[int]:
    """The number of each vote's answer, from its encoded sketch and its distance from the worker's."""
    others: list[tuple[Sketch, float]] = []
    numbers = []
    for encoded, distance in votes:
        if distance <= tolerance:
            numbers.append(WORKERS)
            continue
        sketch = _decoded(encoded)
        found = next((n for n, other in enumerate(others, 1) if _agree((sketch, distance), other, tolerance)), None)
        if found is None:
            others.append((sketch, distance))
        numbers.append(found or len(others))
    return numbers


def check_answers(record: BatchRecord, manifest: Manifest) -> None:
    """Raise `RecordInvalid` where a record says that auditors agree whose sketches do not, or the other way round."""
    for audit in record.audits:
        numbers = number_answers([(vote.sketch, vote.distance) for vote in audit.votes], manifest.tolerance)
        if numbers != [vote.answer for vote in audit.votes]:
            raise RecordInvalid(
                record.batch, f"who agrees on task {audit.task} segment {audit.segment} is not what the sketches say"
            )


def _agree(one: tuple[Sketch, float], other: tuple[Sketch, float], tolerance: float) -> bool:
    """Two empty sketches, what is left of unreadable ones, agree on nothing."""
    apart = sketch_distance(one[0], other[0])
    return bool(one[0].groups) and apart <= max(tolerance, CLOSER * min(one[1], other[1]))


def _decoded(encoded: bytes) -> Sketch:
    try:
        return decode_sketch(encoded)
    except SketchRefused:
        return Sketch(())
