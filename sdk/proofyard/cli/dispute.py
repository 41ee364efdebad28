"""`proofyard verifier dispute`: check what verifiers settled, without trusting them."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proofyard.cli import challenges
from proofyard.cli.chains import reader
from proofyard.cli.errors import UsageError
from proofyard.cli.evidence import (
    REPLAY_PATIENCE_S,
    Evidence,
    ExecuteFlags,
    Place,
    Spoken,
    evidence,
    job_in,
    parse_place,
    place_in,
)
from proofyard.cli.extras import require
from proofyard.cli.options import LARGEST_ID, NetworkFlags
from proofyard.cli.output import AsJson, emit, note
from proofyard.cli.tree import App
from proofyard.protocol.types import BatchId, Cid, ExitCode, SegmentIndex, TaskIndex

if TYPE_CHECKING:
    from proofyard.chain import ChainClient
    from proofyard.disputes.replaying import Replayed
    from proofyard.disputes.settled import Settled
    from proofyard.protocol.validate import RecordInvalid

dispute = App("Check what was settled, challenge it, sit on juries.")

OPEN = "proofyard verifier dispute open"
MAX_TRACE_BYTES = 16 << 20

Batch = Annotated[int, typer.Argument(min=1, max=LARGEST_ID, help="Number of a settled batch.")]
Job = Annotated[int | None, typer.Option(min=1, help="The tasks' job, where the batch has several.")]


@dispute.verb("replay", "verifier dispute replay 1")
def replay(
    context: typer.Context,
    flags: NetworkFlags,
    execution: ExecuteFlags,
    batch: Batch,
    segment: Annotated[
        list[str] | None, typer.Option(metavar="TASK:SEGMENT", help="What to execute; the audited segments if empty.")
    ] = None,
    task: Annotated[list[int] | None, typer.Option(min=0, help="All segments of this task; may be repeated.")] = None,
    job: Job = None,
    everything: Annotated[bool, typer.Option("--all", help="Execute all segments of all tasks.")] = False,
    execute: Annotated[bool, typer.Option(help="Execute segments again, not only check the rest.")] = True,
    as_json: AsJson = False,
) -> None:
    """Check a settled batch: its record, and its computation.

    Every field of the record is held against the chain, and audited segments are executed again. Ends with exit code 4
    where a proof does not match, and names the challenge to open.
    """
    require("node", "proofyard verifier dispute replay")
    spoken = [parse_place(text) for text in segment or []]
    chain, number = reader(context, flags), BatchId(batch)

    async def run() -> tuple["Settled", "RecordInvalid | None", list["Replayed"], list[int]]:
        async with evidence(chain, execution) as found:
            settled = await _settled(chain, found, number)
            problem = await _problem(settled, found)
            for check in _checks(problem):
                note(f"{'ok' if check['holds'] else 'WRONG':<6}{check['field']:<12} {check['says']}".rstrip())
            chosen = _chosen(settled, spoken, task or [], job, everything) if execute else []
            done = await _execute(found, settled, chosen)
            accused = execute and (everything or not (spoken or task))
            return settled, problem, done, await _innocent(chain, found, number) if accused else []

    settled, problem, done, innocent = asyncio.run(run())
    wrong, withheld = _verdicts(settled, done)
    next_steps = _next_steps(settled, problem is not None, wrong, withheld, innocent)
    holds = problem is None and not wrong and not innocent
    faulty = {(fault.job, fault.task) for fault in settled.record.faults if fault.segment is None}
    facts = {
        "batch": str(batch),
        "checks": _checks(problem),
        "problem": str(problem or ""),
        "executed": [_facts(result) for result in done],
        "faults": [f"{of}:{index}" for of, index in sorted(faulty)],
        "decoys": [f"{of}:{index}" for of, index in sorted(settled.record.decoys)],
        "holds": holds,
        "challenges": next_steps,
    }
    emit(facts, as_json=as_json, text=f"batch {batch} holds" if holds else f"batch {batch} does not hold")
    challenges.tell_known(chain, number)
    _advise(chain, settled, next_steps)
    if not holds:
        raise typer.Exit(ExitCode.PROOF_MISMATCH)
    if withheld:
        raise typer.Exit(ExitCode.UNREACHABLE)


@dispute.verb("bisect", "verifier dispute bisect 1 0")
def bisect(
    context: typer.Context,
    flags: NetworkFlags,
    execution: ExecuteFlags,
    batch: Batch,
    task: Annotated[int, typer.Argument(min=0, help="Index of a task in the batch.")],
    job: Job = None,
    trace: Annotated[
        Path | None,
        typer.Option(help="File of another trace, from `bisect --json`; without it the task is executed here."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the first segment in which two traces differ.

    It alone is executed, of a worker's trace and another one.

    Descends the two Merkle trees, so of N states only about 2 log N digests are compared.
    """
    require("node", "proofyard verifier dispute bisect")
    chain, index = reader(context, flags), TaskIndex(task)
    given = _read_trace(trace) if trace else None

    async def run() -> dict[str, Any]:
        from proofyard.disputes.committed import load_committed
        from proofyard.disputes.settled import cid_of_record

        # Verifiers fetch a worker's state for whoever names the record that it is in.
        record = await asyncio.to_thread(cid_of_record, chain, BatchId(batch))
        async with evidence(chain, execution) as found, found.executor() as executor:
            committed = await load_committed(chain, found.network.read, BatchId(batch), record)
            of = job_in(committed, job)
            replayer = found.replayer(committed, executor)
            theirs = committed.member(of, index).trace
            if given is None:
                note(f"executing task {task}, {committed.spec(of, index).segments} segments")
            own = given or await replayer.whole(of, index, executor)
            state, digests = _first_difference(own, theirs)
            facts: dict[str, Any] = {
                "batch": str(batch),
                "job": str(of),
                "task": str(task),
                "states": len(theirs),
                "digests_compared": digests,
                "first_state": state,
                "trace": own,
            }
            if state is not None:
                facts["segment"] = _facts(await replayer.segment(of, index, SegmentIndex(max(0, state - 1))))
            return facts

    facts = asyncio.run(run())
    found = facts.get("segment")
    compared = f"{facts['digests_compared']} digests of {facts['states']} states compared"
    if found is None:
        emit(facts, as_json=as_json, text=f"the traces are the same; {compared}")
        return
    segment = found["segment"]
    text = f"the traces differ from state {facts['first_state']} on, that is in segment {segment}; {compared}"
    emit(facts, as_json=as_json, text=f"{text}\nsegment {segment}: {found['says']}")
    if found["holds"] is False:
        note(f"next: {OPEN} {batch} --segment {facts['job']}:{task}:{segment}")
        raise typer.Exit(ExitCode.PROOF_MISMATCH)
    note(
        "the segment itself is right: the difference came in before, or the workload is not exact; "
        f"next: proofyard verifier dispute replay {batch} --task {task} --job {facts['job']}"
    )


challenges.add_commands(dispute)


async def _settled(chain: "ChainClient", found: Evidence, batch: BatchId) -> "Settled":
    """The settlement that stands. One whose record cannot be had, or read, is worth a challenge: says which."""
    from proofyard.disputes.errors import RecordWithheld
    from proofyard.disputes.settled import load_settled
    from proofyard.protocol.validate import RecordInvalid

    try:
        return await load_settled(chain, found.network.read, batch)
    except (RecordWithheld, RecordInvalid):
        note(f"what batch {batch} rests on cannot be had or read; if that stays so, next: {OPEN} {batch} --record")
        raise


async def _problem(settled: "Settled", found: Evidence) -> "RecordInvalid | None":
    """The first field of the record that does not follow; None where all do."""
    from proofyard.protocol.validate import RecordInvalid

    try:
        await settled.check(found.network.read)
    except RecordInvalid as error:
        return error
    return None


def _checks(problem: "RecordInvalid | None") -> list[dict[str, Any]]:
    """What was checked, in the order of the record's fields, up to the first that does not hold."""
    from msgspec.structs import fields

    from proofyard.protocol.record import BatchRecord

    names = [field.name for field in fields(BatchRecord)]
    if problem is None:
        return [{"field": name, "holds": True, "says": ""} for name in [*names, "settlement"]]
    broken = re.split(r"[.\[ ]", problem.field, maxsplit=1)[0]
    before = names[: names.index(broken)] if broken in names else names
    held = [{"field": name, "holds": True, "says": ""} for name in before]
    return [*held, {"field": problem.field, "holds": False, "says": problem.reason}]


def _chosen(
    settled: "Settled", spoken: Sequence[Spoken], tasks: Sequence[int], job: int | None, everything: bool
) -> list[Place]:
    """The segments to execute; those that were audited where nothing was chosen."""
    if not (spoken or tasks or everything):
        return [audit.key for audit in settled.record.audits]
    committed = settled.committed
    places = [place_in(committed, each, job) for each in spoken]
    whole = [entry.key for entry in committed.entries] if everything else []
    whole += [(job_in(committed, job), TaskIndex(task)) for task in tasks]
    every = [
        (of, task, SegmentIndex(segment))
        for of, task in whole
        for segment in range(committed.member(of, task).commitment.segments)
    ]
    return list(dict.fromkeys([*places, *every]))


async def _execute(found: Evidence, settled: "Settled", places: Sequence[Place]) -> list["Replayed"]:
    """Run segments in an executor of our own, telling of each as it is done."""
    if not places:
        return []
    results = []
    async with found.executor() as executor:
        replayer = found.replayer(settled.committed, executor)
        for count, place in enumerate(places, 1):
            result = await replayer.segment(*place)
            decoy = " (a decoy)" if (result.job, result.task) in settled.record.decoys else ""
            where = f"job {result.job} task {result.task}{decoy} segment {result.segment}"
            note(f"{count} of {len(places)}: {where}: {result}")
            results.append(result)
    return results


async def _innocent(chain: "ChainClient", found: Evidence, batch: BatchId) -> list[int]:
    """The faults that a jury would find false, by what a juror finds."""
    from proofyard.disputes.judging import judge_fault

    innocent = []
    async with found.executor() as executor:
        for index, slash in enumerate(await asyncio.to_thread(chain.slashes, batch)):
            if slash.absolved:
                continue
            false, reason = await judge_fault(
                chain, found.network, executor, batch, slash, patience_s=REPLAY_PATIENCE_S
            )
            note(f"fault {index}, of operator {slash.operator} in task {slash.task}: {reason}")
            innocent += [index] if false else []
    return innocent


def _verdicts(settled: "Settled", done: Sequence["Replayed"]) -> tuple[list["Replayed"], list["Replayed"]]:
    """Segments that are wrong and unpunished, and those that nobody delivers."""
    from proofyard.protocol.settlement import FaultReason
    from proofyard.workloads.workload import is_exact, workload_of

    guilty = {(fault.job, fault.task) for fault in settled.record.faults if fault.kind != FaultReason.FALSE_AUDIT}
    inexact = {job for job, manifest in settled.manifests.items() if not is_exact(workload_of(manifest), manifest)}
    passed = guilty | settled.record.decoys | settled.record.unopened
    suspects = [result for result in done if not result.holds and (result.job, result.task) not in passed]
    if any(result.job in inexact for result in suspects):
        note("some of it is not exact: no jury convicts a worker for what executing it again gives")
    open_to_challenge = [result for result in suspects if result.job not in inexact]
    wrong = [result for result in open_to_challenge if result.holds is False]
    return wrong, [result for result in open_to_challenge if result.holds is None]


def _next_steps(
    settled: "Settled",
    problem: bool,
    wrong: Sequence["Replayed"],
    withheld: Sequence["Replayed"],
    innocent: Sequence[int],
) -> list[str]:
    """The challenges to open, as commands. One segment of a task is enough: it costs the worker its whole stake."""
    batch = settled.event.batch
    first = {(result.job, result.task): result for result in reversed([*wrong, *withheld])}
    return [
        *([f"{OPEN} {batch} --record"] if problem else []),
        *(f"{OPEN} {batch} --segment {job}:{task}:{first[job, task].segment}" for job, task in sorted(first)),
        *(f"{OPEN} {batch} --fault {index}" for index in innocent),
    ]


def _advise(chain: "ChainClient", settled: "Settled", next_steps: Sequence[str]) -> None:
    if not next_steps:
        return
    opened = chain.batch(settled.event.batch).settled_at
    left = opened + chain.params().challenge_window - chain.now()
    if left <= 0:
        note("its challenge window has closed: nothing in it can be challenged any more")
        return
    note(f"next, within {left} s:")
    for step in next_steps:
        note(f"  {step}")


def _facts(result: "Replayed") -> dict[str, Any]:
    return {
        "job": str(result.job),
        "task": str(result.task),
        "segment": str(result.segment),
        "equal": result.equal,
        "holds": result.holds,
        "says": str(result),
    }


def _first_difference(own: Sequence[Cid], theirs: Sequence[Cid]) -> tuple[int | None, int]:
    """The first state in which two traces differ, and how many digests of the two trees were compared."""
    from proofyard.protocol.bisect import first_difference
    from proofyard.protocol.cid import cid_bytes
    from proofyard.protocol.merkle import levels
    from proofyard.protocol.types import Digest

    if len(own) != len(theirs):
        raise UsageError(f"the trace has {len(own)} states, the task has {len(theirs)}; take it from the same task")
    reads = 0

    def reader(trace: Sequence[Cid]) -> Any:
        rows = levels([cid_bytes(cid) for cid in trace])

        def node(level: int, index: int) -> Digest:
            nonlocal reads
            reads += 1
            return rows[level][index]

        return node

    return first_difference(len(own), reader(own), reader(theirs)), reads


def _read_trace(path: Path) -> list[Cid]:
    """The trace in a file that `bisect --json` wrote."""
    import msgspec

    from proofyard.protocol.cid import CidError, cid_bytes
    from proofyard.protocol.codec import CodecError, decode_json

    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_TRACE_BYTES + 1)
        found = decode_json(data, dict[str, Any])["trace"]
        cids = msgspec.convert(found, list[str])
        for cid in cids:
            cid_bytes(Cid(cid))
    except (OSError, msgspec.MsgspecError, CodecError, KeyError, CidError) as error:
        raise UsageError(f"--trace {path} cannot be read ({error}); write it with `dispute bisect --json`") from None
    return [Cid(cid) for cid in cids]
