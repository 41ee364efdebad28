"""The errors of this package.

WorkloadError
├── UnknownWorkload      no workload of that name is installed here
├── ManifestRefused      a parameter of the job is missing, unknown or out of range (names the field)
├── InputRefused*        the model directory or the data file does not fit the manifest
├── StateRefused*        bytes that should be a state are not the canonical state expected (names the tensor)
└── ExecutionError
    ├── ModelMisread     a model's outputs or loss here are not those of its own code
    ├── SegmentFailed*   the computation itself failed, for example with a loss that is not a number
    ├── OutOfMemory      the memory limit was reached; another machine may still do the task
    ├── OutOfDisk        a state cannot be written here
    ├── TimeLimit        no progress within the time allowed
    ├── TaskStopped      stopped on request at a segment boundary; the states so far are kept
    └── ExecutorCrashed  the process that computes ended

* defined: a function of manifest, inputs and state alone. Every machine gets the same one, so in an audit it is an
answer ("this segment cannot be executed"). Whatever depends on the machine must never be raised as one of these.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from proofyard.protocol.types import ProofyardError


class WorkloadError(ProofyardError):
    """Base of every error of `proofyard.workloads`. `defined`: see the module's docstring."""

    defined: bool = False


class UnknownWorkload(WorkloadError):
    exit_code = 2

    def __init__(self, name: str, known: list[str], lacking: Sequence[str] = ()) -> None:
        self.name, self.known, self.lacking = name, known, list(lacking)
        problem = f"the one installed lacks {', '.join(lacking)}" if lacking else "none is installed"
        super().__init__(f"no workload named {name!r} can be used: {problem}; known here: {', '.join(known) or 'none'}")


class ManifestRefused(WorkloadError, ValueError):
    exit_code = 2

    def __init__(self, field: str, reason: str) -> None:
        self.field, self.reason = field, reason
        super().__init__(f"the manifest's {field} {reason}; correct it and submit the job again")


class InputRefused(WorkloadError, ValueError):
    defined = True

    def __init__(self, what: str, reason: str) -> None:
        self.what, self.reason = what, reason
        super().__init__(f"{what} {reason}")


class StateRefused(WorkloadError, ValueError):
    exit_code = 4
    defined = True

    def __init__(self, reason: str, tensor: str | None = None) -> None:
        self.reason, self.tensor = reason, tensor
        super().__init__(f"state refused: tensor {tensor!r} {reason}" if tensor else f"state refused: {reason}")


class ExecutionError(WorkloadError):
    """A task or segment could not be executed here."""

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)


class SegmentFailed(ExecutionError):
    defined = True

    def __init__(self, segment: int, reason: str) -> None:
        super().__init__(f"segment {segment} failed: {reason}")
        self.segment, self.reason = segment, reason


class ModelMisread(ExecutionError):
    pass


class OutOfMemory(ExecutionError):
    pass


class OutOfDisk(ExecutionError):
    pass


class TimeLimit(ExecutionError):
    pass


class TaskStopped(ExecutionError):
    pass


class ExecutorCrashed(ExecutionError):
    pass


@contextmanager
def within_memory(what: str) -> Iterator[None]:
    """Raise `OutOfMemory`, of `what` does not fit, for a lack of memory in any library's words: Python's and numpy's
    `MemoryError`, and the `RuntimeError`s of torch for processors and cards."""
    try:
        yield
    except MemoryError as error:
        raise OutOfMemory(f"{what} does not fit in memory: {error}") from None
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError" and "allocate memory" not in str(error):
            raise
        raise OutOfMemory(f"{what} does not fit in memory: {error}") from None


_CROSSING: dict[str, type[WorkloadError]] = {
    kind.__name__: kind
    for kind in (
        UnknownWorkload,
        ManifestRefused,
        InputRefused,
        StateRefused,
        ExecutionError,
        ModelMisread,
        SegmentFailed,
        OutOfMemory,
        OutOfDisk,
        TaskStopped,
    )
}


MAX_TEXT = 2000
"""Characters of an operand that cross."""


def to_wire(error: WorkloadError) -> tuple[str, dict[str, Any]]:
    """Name and operands of an error, so that it can cross from the executor's child to its parent, whatever names of a
    stranger's model or state are in it."""
    if type(error).__name__ not in _CROSSING:
        return ExecutionError.__name__, {"message": _carried(str(error))}
    operands = {name: _carried(value) for name, value in vars(error).items() if not name.startswith("_")}
    if isinstance(error, SegmentFailed):
        del operands["message"]
    return type(error).__name__, operands


def _carried(value: Any) -> Any:
    """A text of a bounded length in which half characters, which no encoding has, are spelt out."""
    return value[:MAX_TEXT].encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def from_wire(name: str, operands: dict[str, Any]) -> WorkloadError:
    """The error that `to_wire` took apart; `ExecutorCrashed` where whoever sent it made it up."""
    try:
        return _CROSSING[name](**operands)
    except (KeyError, TypeError, ValueError):
        return ExecutorCrashed(f"the executor failed with an error that does not exist: {name[:64]!r}")
