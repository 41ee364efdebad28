"""What happens to a job, as typed events: of a verifier's log lines what they are about, and how far the job is.

JobEvent            of a kind that this release does not know, or a general one: opened, waits, batch
├── StepDone        an optimizer step, or some rows, with the loss where there is one
├── TaskEvent       a task was assigned, committed, lost, or is to be done again
├── AuditEvent      a segment was drawn, given to an auditor, answered, judged
├── FaultEvent      somebody lost stake or pay
├── SettledEvent    a batch is settled, what it accepts is paid
└── EndEvent        the job is done, or failed
A verifier says all this and it is nobody's proof: what is proven is in `JobHandle.prove`.
"""

from dataclasses import dataclass

from proofyard.protocol.messages import JobReport, LogLine
from proofyard.protocol.types import Address, JobId, TaskIndex


@dataclass(frozen=True)
class Standing:
    """How far a job is. `worked`: tasks that are committed, `valid`: that are accepted. `left_s`: seconds that the rest
    takes at the pace so far, None before the first task is done."""

    state: str
    tasks: int
    worked: int
    valid: int
    seconds: float
    left_s: float | None

    @property
    def fraction(self) -> float:
        """From 0 to 1: half of a task's way is its work, the other half the verdict."""
        return 1.0 if self.state == "done" else (self.worked + self.valid) / max(1, 2 * self.tasks)


@dataclass(frozen=True, kw_only=True)
class JobEvent:
    """`at`: Unix seconds, by the verifier's clock. `standing`: how far the job was when this was heard."""

    job: JobId
    seq: int
    at: float
    kind: str
    text: str
    task: TaskIndex | None
    node: Address | None
    standing: Standing


@dataclass(frozen=True, kw_only=True)
class StepDone(JobEvent):
    step: int | None
    loss: float | None


@dataclass(frozen=True, kw_only=True)
class TaskEvent(JobEvent):
    pass


@dataclass(frozen=True, kw_only=True)
class AuditEvent(JobEvent):
    pass


@dataclass(frozen=True, kw_only=True)
class FaultEvent(JobEvent):
    pass


@dataclass(frozen=True, kw_only=True)
class SettledEvent(JobEvent):
    pass


@dataclass(frozen=True, kw_only=True)
class EndEvent(JobEvent):
    pass


_KINDS: dict[type[JobEvent], str] = {
    TaskEvent: "assigned committed lost stale",
    AuditEvent: "drawn audit-assigned sealed audit-match audit-mismatch undecided decoy valid",
    FaultEvent: "fault caught slashed unpaid",
    SettledEvent: "settled",
    EndEvent: "done failed",
}
_OF_KIND = {kind: each for each, kinds in _KINDS.items() for kind in kinds.split()}


class Journal:
    """Makes a job's events of its verifier's lines, and knows how far it is."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._heard = 0.0
        self._worked: set[int] = set()

    def take(self, report: JobReport, line: LogLine) -> JobEvent:
        """The event of one line, the next in order."""
        self._began = line.at if self._began is None else self._began
        self._heard = max(self._heard, line.at)
        if line.task is not None:
            if line.kind == "committed":
                self._worked.add(line.task)
            elif line.kind in ("lost", "stale", "assigned"):
                self._worked.discard(line.task)
        facts = {
            "job": report.job,
            "seq": line.seq,
            "at": line.at,
            "kind": line.kind,
            "text": line.text,
            "task": line.task,
            "node": line.node,
            "standing": self.standing(report),
        }
        if line.kind == "progress":
            return StepDone(**facts, step=line.step, loss=line.loss)  # type: ignore[arg-type]
        return _OF_KIND.get(line.kind, JobEvent)(**facts)  # type: ignore[arg-type]

    def standing(self, report: JobReport) -> Standing:
        """How far the job of a report is."""
        tasks = max(0, report.tasks)
        valid = min(max(0, report.tasks_valid), tasks)
        worked = min(tasks, max(valid, len(self._worked)))
        seconds = max(0.0, self._heard - (self._began or self._heard))
        done = (worked + valid) / 2
        over = report.state in ("done", "failed")
        left = 0.0 if over else seconds * (tasks - done) / done if done else None
        return Standing(report.state, tasks, worked, valid, seconds, left)
