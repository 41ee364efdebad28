"""From a job's log, as its verifier tells it, to what the page draws."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from proofyard.devnet.report.data import LossPoint, Mark, Span
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.messages import LogLine
from proofyard.protocol.record import AuditedSegment, AuditVote
from proofyard.protocol.seal import CANNOT_EXECUTE
from proofyard.protocol.types import Address, Digest, TaskIndex

CHAIN_EVENTS = ("batch", "drawn", "settled", "slashed", "unpaid")


def spans_of(
    log: Iterable[LogLine], tasks: Mapping[TaskIndex, TaskSpec], names: Mapping[Address, str], *, since: float
) -> tuple[Span, ...]:
    """Who was busy with what. `since`: the Unix time that counts as 0.

    Work spans from `assigned` to `committed`, an audit from `audit-assigned` to `sealed`; both end early when the
    lease is `lost` or the holder has `failed`. A later `fault` marks the span of the work it condemns.
    """
    opened: defaultdict[tuple[str, TaskIndex, Address], list[float]] = defaultdict(list)
    spans: list[tuple[TaskIndex, Address, Span]] = []
    faulty: set[tuple[TaskIndex, Address]] = set()

    def close(purpose: str, line: LogLine, outcome: str) -> None:
        assert line.task is not None and line.node is not None
        starts = opened[purpose, line.task, line.node]
        if not starts:
            return
        spec = tasks[line.task]
        span = Span(
            node=names.get(line.node, line.node),
            kind="audit" if purpose == "audit" else spec.kind,
            label=spec.label or f"task {line.task}",
            start=starts.pop(0) - since,
            end=line.at - since,
            outcome=outcome,
        )
        spans.append((line.task, line.node, span))

    for line in log:
        if line.task is None or line.node is None:
            continue
        match line.kind:
            case "assigned":
                opened["work", line.task, line.node].append(line.at)
            case "audit-assigned":
                opened["audit", line.task, line.node].append(line.at)
            case "committed":
                close("work", line, "ok")
            case "sealed":
                close("audit", line, "ok")
            case "lost" | "failed":
                close("work", line, "lost")
                close("audit", line, "lost")
            case "fault":
                faulty.add((line.task, line.node))
    return tuple(
        Span(span.node, span.kind, span.label, span.start, span.end, "fault")
        if (task, node) in faulty and span.kind != "audit"
        else span
        for task, node, span in spans
    )


def answers_of(audit: AuditedSegment, claimed: Digest, names: Mapping[Address, str]) -> dict[str, str]:
    """What each auditor of a segment answered, by name, in words; `claimed` is the worker's own answer."""
    counted = audit.answers()

    def told(vote: AuditVote) -> str:
        if vote.after == CANNOT_EXECUTE:
            return f"cannot be executed, {vote.reason}"
        if vote.auditor in audit.copied:
            return "copied from somebody else"
        return "the same" if counted[vote.auditor] == claimed else f"another state, {vote.after.hex()[:8]}"

    return {names[vote.auditor]: told(vote) for vote in audit.votes}


def losses_of(
    log: Iterable[LogLine], tasks: Mapping[TaskIndex, TaskSpec], names: Mapping[Address, str], *, since: float
) -> tuple[LossPoint, ...]:
    """Every training loss that was reported, in the order of arrival."""
    return tuple(
        LossPoint(names.get(line.node, line.node), tasks[line.task].label, line.at - since, line.loss)
        for line in log
        if line.kind == "progress" and line.loss is not None and line.task is not None and line.node is not None
    )


def marks_of(log: Iterable[LogLine], *, since: float) -> tuple[Mark, ...]:
    """What happened on the chain."""
    return tuple(Mark(line.at - since, line.kind, line.text) for line in log if line.kind in CHAIN_EVENTS)
