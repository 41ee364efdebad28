"""A batch as it was committed, and what of it is shown to the Court."""

import pytest
from scene import FIRST, JOB, SECOND, TASK, THIRD, Scene, result_of

from proofyard.artifacts import cid_of_bytes
from proofyard.disputes.errors import NoSuchPlace
from proofyard.protocol.cid import cid_bytes
from proofyard.protocol.merkle import verify
from proofyard.protocol.types import SegmentIndex


def test_a_step_shows_that_its_segment_was_committed_to() -> None:
    scene = Scene([FIRST, SECOND, THIRD], result_of(THIRD), [SECOND, THIRD])
    step = scene.committed.step(JOB, TASK, SegmentIndex(1), bytes(32))
    assert (step.commitment, step.segment, step.after) == (scene.member.commitment, 1, cid_of_bytes(THIRD))
    leaf, header = step.commitment.struct_hash(), scene.committed.header
    assert verify(header.root, leaf, step.index, header.size, step.proof)
    assert verify(step.commitment.trace_root, cid_bytes(step.after), 2, 3, step.trace_proof)
    with pytest.raises(NoSuchPlace):
        scene.committed.step(JOB, TASK, SegmentIndex(2), bytes(32))
