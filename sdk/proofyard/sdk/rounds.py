"""The rounds of a `lora` job as they were settled: what each started from, whose deltas it took, and what it came to.

All of it follows from the chain, from records that validate, and from the results that these name; no verifier is
asked. A job need not be done for it, or be open: a round counts once everything that it took is accepted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from proofyard.artifacts.builder import cid_of_bytes
from proofyard.protocol.closing import ClosedRound, rested_on, sets_of
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.types import Cid, JobId, TaskIndex
from proofyard.sdk.checks import TooMuch, too_much_of
from proofyard.sdk.errors import JobRefused, ResultIncomplete
from proofyard.sdk.results import Accepted, accepted_in, check_chain
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.lora_export import export_adapter
from proofyard.workloads.lora_params import LoraParams, read_params
from proofyard.workloads.lora_rounds import Counted, Start, counted, encode_start, start_of_round, whole_adapter
from proofyard.workloads.lora_sets import whole, whole_rounds
from proofyard.workloads.lora_tensors import key_rounds
from proofyard.workloads.peft_folder import canonical
from proofyard.workloads.state import Array
from proofyard.workloads.workload import task_graph

if TYPE_CHECKING:
    from proofyard.disputes.settled import Settled

Read = Callable[[Cid], bytes]
"""The bytes of a task's result, or of what a job begins with."""


@dataclass(frozen=True)
class SettledRounds:
    """The rounds of a job that are settled whole, from `params.begun` + 1 up to `last`, which is `params.begun` where
    none is. `manifest_cid` is what the chain names, `sets` are the tasks whose deltas each round took."""

    job: JobId
    manifest_cid: Cid
    manifest: Manifest
    params: LoraParams
    sets: Sequence[Sequence[TaskIndex]]
    done: Mapping[TaskIndex, Accepted]
    last: int
    read: Read

    def tasks(self, number: int) -> Sequence[TaskIndex]:
        """Those whose deltas round `number`, counted from 1, took: one of each shard where rounds wait for all."""
        return self.sets[number - 1 - self.params.begun]

    def start_after(self, number: int) -> Start:
        """What round `number` came to: the start of the one after it, with `overlap` of the second one after it. That
        of round `params.begun` is what the job itself begins with. Raises `JobRefused` for a round that is not
        settled."""
        if number == self.params.begun:
            return start_of_round(self.params, self.manifest.seed, (), number, self._begins())
        tasks = self._rested_on(number)
        return start_of_round(self.params, self.manifest.seed, self._results(tasks), self._next(number), tasks=tasks)

    def state_after(self, number: int) -> Cid:
        """The artifact that `start_after` is."""
        return cid_of_bytes(encode_start(self.start_after(number)))

    def adapter_after(self, number: int) -> dict[str, Array]:
        """A and B of all layers after a round."""
        return whole_adapter(self.params, self.manifest.seed, self.start_after(number))

    def adapter_cid(self, number: int) -> Cid:
        """The artifact by which an `evaluate` job names the adapter after a round."""
        return cid_of_bytes(canonical(self.adapter_after(number)))

    def counted(self, number: int) -> dict[TaskIndex, Counted]:
        """How each delta counts that a round took."""
        tasks = self._rested_on(number)
        return counted(self.params, self.manifest.seed, self._results(tasks), self._next(number), tasks=tasks)

    def rests_on(self, number: int) -> tuple[TaskIndex, ...]:
        """The tasks whose deltas round `number` took, and with `overlap` those of the round before: nothing says that
        they were accepted before these, as where a round starts from the one before it."""
        first = max(self.params.begun + 1, number - self.params.behind)
        return tuple(task for each in range(first, number + 1) for task in self.tasks(each))

    def final_at(self, number: int) -> int:
        """From when on (Unix seconds) nothing can challenge what a round came to."""
        return max(self.done[task].settled.event.claimable_at for task in self.rests_on(number))

    def too_much(self) -> tuple[TooMuch, ...]:
        """Where an owner did more of a round than the job lets one do."""
        batches = {each.settled.event.batch: each.settled for each in self.done.values()}
        return too_much_of(self.job, self.manifest, batches.values())

    def export(self, number: int, dest: Path) -> Path:
        """The adapter after a round as PEFT loads it, under the CID of its model."""
        return export_adapter(self.manifest, self.adapter_after(number), dest, f"ipfs://{self.manifest.model}")

    def require(self, number: int) -> None:
        """Raise `JobRefused` for a round, counted from 1, that is not settled whole or no round of this job."""
        if self.params.begun < number <= self.last:
            return
        if not self.params.begun < number <= self.params.rounds:
            first = self.params.begun + 1
            raise JobRefused(f"round: job {self.job} has rounds {first} to {self.params.rounds}, and {number} is none")
        settled = f"its last one is {self.last}" if self.last > self.params.begun else "none of its rounds is"
        raise JobRefused(f"round: round {number} of job {self.job} is not settled whole; {settled}")

    def _next(self, number: int) -> int:
        """The first round, counted from 0, that starts from what round `number`, counted from 1, came to."""
        return number + self.params.behind

    def _results(self, tasks: Sequence[TaskIndex]) -> list[bytes]:
        return [self.read(self.done[task].commitment.result) for task in tasks]

    def _rested_on(self, number: int) -> Sequence[TaskIndex]:
        """What the round after `number` rests on. Raises as `require` does."""
        self.require(number)
        if self.params.closing is None:
            return whole_rounds(self.params, self._next(number))
        return rested_on(self.sets, number - self.params.begun, key_rounds(self.params))

    def _begins(self) -> bytes:
        return b"" if self.manifest.adapter is None else self.read(self.manifest.adapter)


def settled_rounds(
    job: JobId,
    cid: Cid,
    manifest: Manifest,
    batches: Sequence["Settled"],
    read: Read,
    closed: Sequence[ClosedRound] = (),
) -> SettledRounds:
    """The rounds of a job that its settled batches hold whole; `closed`: those that are, where they close by rules.
    Raises `ResultUnproven` for batches that do not hold, and `JobRefused` for a job without rounds."""
    if manifest.workload != WORKLOAD.name:
        raise JobRefused(f"job {job}: is one of {manifest.workload}; jobs of lora have rounds")
    graph, params, done = task_graph(WORKLOAD, manifest, closed), read_params(manifest), accepted_in(job, batches)
    every = [whole(params, number) for number in range(params.begun, params.rounds)]
    sets = sets_of(closed) if params.closing else every
    commitments = {task: each.commitment for task, each in done.items()}
    last = params.begun
    for taken in sets:
        try:
            check_chain(job, cid, [graph[task] for task in taken], commitments)
        except ResultIncomplete:
            break
        last += 1
    return SettledRounds(job, cid, manifest, params, sets, done, last, read)
