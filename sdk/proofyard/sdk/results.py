"""Whether a job's result is what the network settled: nobody's word is taken for it.

The chain says which batches of the job are settled, and by the CID in each settlement's event which record that rests
on. A record has to validate and to be what was settled (`proofyard.disputes.settled`), its commitments are signed and
under the batch's root. Every task of the job must be accepted in one of them, each built on the accepted results of the
tasks before it. What is packaged here of the results of the workload's `finals` is the job's result.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proofyard.chain import ChainClient
from proofyard.protocol import merkle
from proofyard.protocol.cid import cid_bytes, make_cid
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.earnings import accepted
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.signature import SignatureInvalid
from proofyard.protocol.types import BatchId, Cid, JobId, TaskIndex
from proofyard.protocol.validate import RecordInvalid
from proofyard.sdk.errors import ResultIncomplete, ResultUnproven

if TYPE_CHECKING:
    from proofyard.disputes.settled import Settled


@dataclass(frozen=True)
class Proven:
    """What the settled batches show of a finished job. `results`: artifacts of the tasks that its result is made of.
    `batches` are those that accepted its tasks; until `final_at` (Unix seconds on the chain's clock) one of them can
    still be challenged."""

    job: JobId
    results: Mapping[TaskIndex, Cid]
    batches: tuple[BatchId, ...]
    final_at: int


@dataclass(frozen=True)
class Accepted:
    """A task's commitment, in the settled batch that accepted it."""

    commitment: Commitment
    settled: "Settled"


def standing_batches(chain: ChainClient, job: JobId) -> list[BatchId]:
    """The batches with a line of the job that are settled now; what a challenge voided is not."""
    known = dict.fromkeys(event.batch for event in chain.settled(job))
    states = [chain.batch(batch) for batch in known]
    return [state.id for state in states if state.settled_at and not state.voided]


def prove(
    job: JobId, manifest: Cid, graph: Sequence[TaskSpec], finals: Iterable[TaskIndex], batches: Iterable["Settled"]
) -> Proven:
    """What the job's result is made of, the results of the tasks `finals`, from its settled batches. Raises
    `ResultUnproven`, which says what does not match."""
    found = accepted_in(job, batches)
    done = {task: each.commitment for task, each in found.items()}
    check_chain(job, manifest, graph, done)
    used = {each.settled.event.batch: each.settled.event.claimable_at for each in found.values()}
    if not (finals := tuple(finals)):
        raise ResultIncomplete(job, TaskIndex(len(graph)))  # its rounds are not over
    results = {task: done[task].result for task in finals}
    return Proven(job, results, tuple(used), max(used.values()))


def accepted_in(job: JobId, batches: Iterable["Settled"]) -> dict[TaskIndex, Accepted]:
    """The tasks of a job that settled batches accepted, none of them twice. Raises `ResultUnproven` for a record that
    does not hold."""
    done: dict[TaskIndex, Accepted] = {}
    for settled in batches:
        _require_valid(job, settled)
        for task, commitment in accepted_of(job, settled).items():
            if task in done:
                raise ResultUnproven(job, f"task {task} is paid in batch {settled.event.batch} and in another one")
            done[task] = Accepted(commitment, settled)
    return done


def check_chain(job: JobId, manifest: Cid, graph: Sequence[TaskSpec], done: Mapping[TaskIndex, Commitment]) -> None:
    """Raise `ResultUnproven` unless `done` has each task of the graph, built on this manifest and these results."""
    for spec in graph:
        commitment = done.get(spec.index)
        if commitment is None:
            raise ResultIncomplete(job, spec.index)
        inputs = [manifest, *(done[task].result for task in spec.deps)]
        if commitment.inputs != merkle.root([cid_bytes(cid) for cid in inputs]):
            raise ResultUnproven(job, f"task {spec.index} was built on other results than the accepted ones")


def require_package(job: JobId, said: Cid, made: Cid) -> None:
    """Raise `ResultUnproven` unless the package that a verifier reports is the one that was made here."""
    if said != made:
        raise ResultUnproven(job, f"the verifier reports {said}, the settled results give {made}")


def manifest_of(chain: ChainClient, job: JobId) -> Cid:
    """The CID of the manifest that the job was opened with."""
    return make_cid(chain.job(job).manifest)


def _require_valid(job: JobId, settled: "Settled") -> None:
    try:
        settled.check_record()
    except (RecordInvalid, SignatureInvalid) as error:
        raise ResultUnproven(job, f"batch {settled.event.batch} does not follow from its record: {error}") from None


def accepted_of(job: JobId, settled: "Settled") -> dict[TaskIndex, Commitment]:
    """The commitments to this job's tasks that a batch accepted."""
    found = {task for where, task in accepted(settled.view, settled.record) if where == job}
    commitments = (committed.commitment for committed in settled.record.tasks)
    return {c.task: c for c in commitments if c.job == job and c.task in found}
