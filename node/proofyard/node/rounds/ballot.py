"""What a round is decided by where nodes decide, and which results may be in it: a function of the manifest, the roster
and the sets that the rounds before took. Pure.

Who does what follows from the roster as well: shard w of every round is that of voter w, counted around in the order of
their addresses. So nobody has to give work out, and nobody's result takes the place of another's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from proofyard.node.rounds.messages import ShownDelta
from proofyard.protocol.certificate import Delta, Deltas, Round, Terms, round_after
from proofyard.protocol.cid import CidError, cid_bytes, cid_digest
from proofyard.protocol.closing import rested_on, terms_of, voter_of
from proofyard.protocol.commitment import Domain
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.merkle import root
from proofyard.protocol.roster import Roster
from proofyard.protocol.types import Address, Cid, Digest, JobId, ProofyardError, TaskIndex
from proofyard.workloads.workload import all_tasks, load_workload, rounds_of


class NoBallot(ProofyardError, ValueError):
    """A job in which there is no such round to decide."""


@dataclass(frozen=True)
class Ballot:
    """`specs`: the tasks whose results the round may take, as they rest on what was taken before; `rests_on`: those
    results; `inputs`: what a commitment to each has as its inputs."""

    round: Round
    roster: Roster
    terms: Terms
    manifest: Manifest
    workers: int
    specs: Mapping[TaskIndex, TaskSpec]
    rests_on: Mapping[TaskIndex, tuple[Cid, ...]]
    inputs: Mapping[TaskIndex, Digest]

    def worker(self, task: TaskIndex) -> Address:
        """Whose task it is."""
        return voter_of(self.workers, tuple(self.roster.by_node), task)

    def objection(self, shown: ShownDelta) -> str:
        """Why a result that somebody shows cannot be in the round, whatever its bytes are; empty where it can."""
        commitment = shown.commitment
        spec = self.specs.get(commitment.task)
        if commitment.job != self.round.job or commitment.manifest != self.round.manifest or spec is None:
            return f"task {commitment.task} of job {commitment.job} is none that this round may take"
        if commitment.node != self.worker(commitment.task):
            return f"task {commitment.task} is {self.worker(commitment.task)}'s, not {commitment.node}'s"
        if (commitment.segments, commitment.work_units) != (spec.segments, spec.work_units):
            return f"segments or units of work of task {commitment.task} are not those of the job"
        if commitment.inputs != self.inputs[commitment.task]:
            return f"task {commitment.task} does not rest on what the round before it took"
        if len(shown.trace) != spec.segments + 1 or not _is_trace(shown):
            return f"the states of task {commitment.task} are not those that were committed to"
        if not commitment.is_signed(self.round.domain, shown.signature):
            return f"{commitment.node} has not signed the commitment to task {commitment.task}"
        return ""


def next_ballot(
    domain: Domain, job: JobId, manifest_cid: Cid, manifest: Manifest, roster: Roster, sets: Sequence[Deltas]
) -> Ballot:
    """Of the round after those that took `sets`. Raises `NoBallot`, and `WorkloadError` for a manifest that its
    workload refuses."""
    workload = load_workload(manifest.workload)
    tasks, rounds = all_tasks(workload, manifest), rounds_of(workload, manifest)
    if rounds is None or len(sets) >= rounds.rounds:
        raise NoBallot(f"job {job} has no round {len(sets)} that closes on a quorum")
    terms = terms_of(rounds.closing, rounds.workers, sets)
    specs: dict[TaskIndex, TaskSpec] = {}
    rests_on: dict[TaskIndex, tuple[Cid, ...]] = {}
    for task in (*map(TaskIndex, terms.tasks), *sorted(terms.late)):
        taken = rested_on(sets, task // rounds.workers, rounds.key_rounds)
        specs[task] = replace(tasks[task], deps=tuple(delta.task for delta in taken))
        rests_on[task] = tuple(delta.result for delta in taken)
    return Ballot(
        round_after(domain, job, cid_digest(manifest_cid), roster, sets),
        roster,
        terms,
        manifest,
        rounds.workers,
        specs,
        rests_on,
        {task: root([cid_bytes(manifest_cid), *map(cid_bytes, cids)]) for task, cids in rests_on.items()},
    )


def delta_of(shown: ShownDelta) -> Delta:
    return Delta(shown.commitment.task, shown.commitment.result)


def _is_trace(shown: ShownDelta) -> bool:
    try:
        cid_digest(shown.commitment.result)
        return root([cid_bytes(cid) for cid in shown.trace]) == shown.commitment.trace_root
    except CidError:
        return False
