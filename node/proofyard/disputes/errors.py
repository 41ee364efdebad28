"""What can go wrong in a dispute.

DisputeError
├── NotSettled       the batch is unknown, or not settled now
├── NoSuchPlace      the batch has no such task, segment or fault
├── NoSuchChallenge  the Court knows no challenge of this number
├── DataAtHome       a task was computed on data that nobody publishes and that is not here
├── InputsUnknown    a task's inputs cannot be named: nobody delivers the lists of the batches before it
├── ListWithheld     nobody delivers a batch's member list, or what is delivered is none
├── RecordWithheld   nobody delivers a settlement's record
├── StateWithheld    nobody delivers a committed state
└── VoteRefused      this wallet cannot vote on the challenge now
"""

from collections.abc import Sequence

from proofyard.protocol.types import BatchId, Cid, ExitCode, JobId, ProofyardError, TaskIndex
from proofyard.workloads.local_data import LocalFile


class DisputeError(ProofyardError):
    """Base of this package's errors; those of chain, artifacts and workloads pass through as they are."""


class NotSettled(DisputeError):
    exit_code = ExitCode.USAGE

    def __init__(self, batch: BatchId, reason: str) -> None:
        self.batch = batch
        super().__init__(f"batch {batch} {reason}")


class NoSuchPlace(DisputeError):
    exit_code = ExitCode.USAGE

    def __init__(self, batch: BatchId, what: str, known: str) -> None:
        self.batch, self.what = batch, what
        super().__init__(f"batch {batch} has no {what}; it has {known}")


class NoSuchChallenge(DisputeError):
    exit_code = ExitCode.USAGE

    def __init__(self, challenge: int, count: int) -> None:
        self.challenge = challenge
        known = f"the last one is {count}" if count else "there are none yet"
        super().__init__(f"there is no challenge {challenge}, {known}; see `proofyard verifier dispute list`")


class DataAtHome(DisputeError):
    exit_code = ExitCode.UNREACHABLE

    def __init__(self, task: TaskIndex, data: LocalFile) -> None:
        self.task, self.data = task, data
        super().__init__(
            f"task {task} was computed on {data}, which nobody publishes: only who was given a copy can execute it "
            "again; with one: --data FILE"
        )


class InputsUnknown(DisputeError):
    exit_code = ExitCode.UNREACHABLE

    def __init__(self, task: TaskIndex, before: TaskIndex) -> None:
        self.task, self.before = task, before
        super().__init__(
            f"task {task} builds on task {before}, of which no commitment can be found; try again, or look whether the "
            "member lists of the job's batches can be had"
        )


class ListWithheld(DisputeError):
    """A batch's commit names its member list; its verifiers owe it to everybody."""

    exit_code = ExitCode.UNREACHABLE

    def __init__(self, batch: BatchId, reasons: Sequence[str]) -> None:
        self.batch, self.reasons = batch, tuple(reasons)
        super().__init__(f"the member list of batch {batch} cannot be had ({'; '.join(reasons) or 'nobody has it'})")


class RecordWithheld(DisputeError):
    """Those who signed a settlement owe its record, and what it rests on, to everybody."""

    exit_code = ExitCode.UNREACHABLE

    def __init__(self, batch: BatchId, record: Cid, reason: str) -> None:
        self.batch, self.record = batch, record
        super().__init__(f"the record {record} of batch {batch} cannot be had ({reason}); challenge it as withheld")


class StateWithheld(DisputeError):
    """A worker owes its states until the challenge window closes. `reasons` are those of everybody who was asked."""

    exit_code = ExitCode.UNREACHABLE

    def __init__(self, job: JobId, task: TaskIndex, number: int, reasons: Sequence[str]) -> None:
        self.job, self.task, self.number, self.reasons = job, task, number, tuple(reasons)
        super().__init__(
            f"nobody delivers state {number} of task {task} of job {job} ({'; '.join(reasons) or 'no peer is known'}); "
            "try again, and if it stays so challenge the segment: a jury judges an undelivered state as wrong"
        )


class VoteRefused(DisputeError):
    exit_code = ExitCode.USAGE
