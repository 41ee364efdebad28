"""What can go wrong in a dispute.

DisputeError
├── NotSettled       the batch is unknown, or not settled now
├── NoSuchPlace      the batch has no such task, segment, payout or fault
├── NoSuchChallenge  the Registry knows no challenge of this number
├── InputsUnknown    a task's inputs cannot be named: a task before it is not settled
├── StateWithheld    nobody delivers a committed state
└── VoteRefused      this wallet cannot vote on the challenge now
"""

from proofyard.protocol.types import BatchId, ExitCode, ProofyardError, TaskIndex


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


class InputsUnknown(DisputeError):
    exit_code = ExitCode.UNREACHABLE

    def __init__(self, task: TaskIndex, before: TaskIndex) -> None:
        self.task, self.before = task, before
        super().__init__(f"task {task} builds on task {before}, which is not settled yet; try again once it is")


class StateWithheld(DisputeError):
    """A worker owes its states until the challenge window closes. `reasons` are those of everybody who was asked."""

    exit_code = ExitCode.UNREACHABLE

    def __init__(self, task: TaskIndex, number: int, reasons: list[str]) -> None:
        self.task, self.number, self.reasons = task, number, tuple(reasons)
        super().__init__(
            f"nobody delivers state {number} of task {task} ({'; '.join(reasons) or 'no peer is known'}); try again, "
            "and if it stays so challenge the segment: a jury judges an undelivered state as wrong"
        )


class VoteRefused(DisputeError):
    exit_code = ExitCode.USAGE
