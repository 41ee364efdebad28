"""Whether anything of a job can ever be settled: what its opener said on chain against what its manifest makes.

The contract knows neither workloads nor graphs. A job whose numbers do not fit them can be worked on, committed and
audited, but no record of it ever validates: its leader would pay for a batch that nobody can settle, and everybody in
it would have worked for nothing. So it is refused before anything is done for it.
"""

from collections.abc import Sequence

from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.workload_bits import workload_bit


def objection_to_job(workload: int, units: int, manifest: Manifest, graph: Sequence[TaskSpec]) -> str:
    """Why no record can hold work of a job that was opened with this `workload` bit and these `units`, empty where one
    can."""
    bit, made = workload_bit(manifest.workload), sum(spec.work_units for spec in graph)
    if bit != workload:
        return f"the workload {manifest.workload} has bit {bit}, the job was opened with bit {workload}"
    if made != units:
        return f"the manifest makes {made} work units, the job was opened with {units}"
    for place, spec in enumerate(graph):
        if spec.index != place or min(spec.segments, spec.work_units) <= 0:
            return f"task {spec.index} has no segments, no work units or not its place in the graph"
    return ""
