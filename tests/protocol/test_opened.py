"""What is refused before anybody works for it, because no record of it could hold."""

import msgspec
import pytest
from worlds import simple

from proofyard.protocol.opened import objection_to_job
from proofyard.protocol.workload_bits import workload_bit


def test_a_job_is_held_against_what_its_manifest_makes() -> None:
    job = simple().jobs[0]
    bit, units, graph = workload_bit(job.manifest.workload), sum(spec.work_units for spec in job.graph), job.graph
    assert objection_to_job(bit, units, job.manifest, graph) == ""
    for other in (bit + 1, 63):
        assert "the job was opened with bit" in objection_to_job(other, units, job.manifest, graph)
    for wrong in (0, 1, units - 1, units + 1, 1 << 48):
        assert "work units, the job was opened with" in objection_to_job(bit, wrong, job.manifest, graph)


@pytest.mark.parametrize("change", [{"segments": 0}, {"work_units": 0}, {"work_units": -3}, {"index": 2}])
def test_a_graph_whose_tasks_no_record_takes_is_none(change: dict[str, int]) -> None:
    """A workload of a third party may make such a graph."""
    job = simple().jobs[0]
    bad = msgspec.structs.replace(job.graph[0], **change)
    graph = (bad, *job.graph[1:])
    units = sum(spec.work_units for spec in graph)
    assert objection_to_job(workload_bit(job.manifest.workload), units, job.manifest, graph)
