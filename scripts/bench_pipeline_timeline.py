"""Who did what when, from the nodes' own logs: training, auditing, and what they waited for."""

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

ORDERS = "proofyard.workloads.executor"


@dataclass(frozen=True)
class Span:
    """A worker did `what` from `start` to `end` (Unix seconds): "train" or "audit" for the steps themselves, "task" or
    "segment" for a whole order of the executor."""

    worker: str
    what: str
    task: int
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class Orders:
    """What the executors of a network did. `audit_cpu_s`: seconds of CPU of all audited segments."""

    spans: tuple[Span, ...]
    audit_cpu_s: float

    @property
    def audits(self) -> int:
        return sum(span.what == "segment" for span in self.spans)


def read_orders(logs: Iterable[Path], since: float) -> Orders:
    """What was begun since then, by node."""
    spans: list[Span] = []
    audit_cpu_s = 0.0
    for log in sorted(logs):
        begun = 0.0
        for line in log.read_text(encoding="utf-8").splitlines():
            if ORDERS not in line or not line.startswith("{"):
                continue
            event = json.loads(line)
            at = datetime.fromisoformat(event["time"]).timestamp()
            if at < since:
                continue
            audit, task, message = "segment" in event, int(event.get("task", -1)), event["message"]
            if message == "begins":
                begun = at
            elif found := re.match(r"step: ([\d.]+) s", message):
                spans.append(Span(log.stem, "audit" if audit else "train", task, at - float(found[1]), at))
            elif message.startswith("ends"):
                spans.append(Span(log.stem, "segment" if audit else "task", task, begun, at))
                found = re.match(r"ends: ([\d.]+) s of CPU", message)
                audit_cpu_s += float(found[1]) if audit and found else 0.0
    return Orders(tuple(spans), audit_cpu_s)


def window(spans: Iterable[Span]) -> tuple[float, float]:
    """When the first step began and the last one ended."""
    steps = [span for span in spans if span.what == "train"]
    return min(span.start for span in steps), max(span.end for span in steps)


def share(spans: Sequence[Span], what: str, workers: int) -> float:
    """The part of the workers' time between the first and the last step in which they did `what`."""
    start, end = window(spans)
    busy = sum(max(0.0, min(span.end, end) - max(span.start, start)) for span in spans if span.what == what)
    return busy / (workers * (end - start))


def rest_of(spans: Sequence[Span], workers: int) -> dict[str, float]:
    """The parts of the workers' time between the first and the last step, which add up to 1.

    `training`, `auditing`: steps of tasks and of audited segments. `around_steps`: what the executor does in a task
    beside its steps (loading, the round's start, states encoded, checked and written), `around_audits` in an audit.
    `barrier`: between the end of a worker's task and that of the last one of the round, `handover`: from there to the
    start of a worker's next task. `start`: until a worker's first task, `end`: after its last one, both without audits;
    `other` is what is left.
    """
    start, end = window(spans)
    total = workers * (end - start)
    parts = {"training": share(spans, "train", workers), "auditing": share(spans, "audit", workers)}
    parts["around_steps"] = share(spans, "task", workers) - parts["training"]
    parts["around_audits"] = share(spans, "segment", workers) - parts["auditing"]
    gaps = list(_gaps(spans, workers))
    parts["barrier"] = sum(gap[0] for gap in gaps) / total
    parts["handover"] = sum(gap[1] for gap in gaps) / total
    parts["start"], parts["end"] = (seconds / total for seconds in _edges(spans))
    parts["other"] = 1 - sum(parts.values())
    return parts


def _gaps(spans: Sequence[Span], workers: int) -> Iterable[tuple[float, float]]:
    """For each worker and round: seconds until the last one of the round was done, and from there to its next task,
    without those in audits."""
    tasks = [span for span in spans if span.what == "task"]
    last = {r: max(s.end for s in tasks if s.task // workers == r) for r in {s.task // workers for s in tasks}}
    for worker in {span.worker for span in tasks}:
        own = sorted((span for span in tasks if span.worker == worker), key=lambda span: span.start)
        audits = [span for span in spans if span.worker == worker and span.what == "segment"]
        for before, after in itertools.pairwise(own):
            turn = min(max(last[before.task // workers], before.end), after.start)
            yield _free(before.end, turn, audits), _free(turn, after.start, audits)


def _edges(spans: Sequence[Span]) -> tuple[float, float]:
    """Seconds between the first step and the first tasks of all workers, and between their last tasks and the last
    step, without those in audits."""
    start, end = window(spans)
    before = after = 0.0
    for worker in {span.worker for span in spans if span.what == "task"}:
        own = [span for span in spans if span.worker == worker and span.what == "task"]
        audits = [span for span in spans if span.worker == worker and span.what == "segment"]
        before += _free(start, min(span.start for span in own), audits)
        after += _free(max(span.end for span in own), end, audits)
    return before, after


def _free(start: float, end: float, taken: Iterable[Span]) -> float:
    return max(0.0, end - start) - sum(max(0.0, min(span.end, end) - max(span.start, start)) for span in taken)
