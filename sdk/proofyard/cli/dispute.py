"""`proofyard verifier dispute`: check what verifiers settled, without trusting them."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proofyard.cli import challenges
from proofyard.cli.context import config_of
from proofyard.cli.errors import UsageError
from proofyard.cli.evidence import Evidence, ExecuteFlags, Place, evidence, parse_places
from proofyard.cli.extras import require
from proofyard.cli.options import NetworkFlags, grouped
from proofyard.cli.output import AsJson, emit, note
from proofyard.cli.settings import NetworkSettings, load
from proofyard.protocol.types import Address, BatchId, Cid, ExitCode, SegmentIndex, TaskIndex

if TYPE_CHECKING:
    from proofyard.chain import ChainClient
    from proofyard.disputes.replaying import Replayed
    from proofyard.disputes.settled import Settled

dispute = typer.Typer(
    no_args_is_help=True,
    help="Check what was settled, challenge what is wrong, and sit on juries. To begin: `dispute replay BATCH`.",
)

OPEN = "proofyard verifier dispute open"
MAX_TRACE_BYTES = 16 << 20

Batch = Annotated[int, typer.Argument(help="Number of a settled batch.")]


@dispute.command("replay")
@grouped
def replay(
    context: typer.Context,
    flags: NetworkFlags,
    execution: ExecuteFlags,
    batch: Batch,
    segment: Annotated[
        list[str] | None, typer.Option(metavar="TASK:SEGMENT", help="What to execute; the audited segments if empty.")
    ] = None,
    task: Annotated[list[int] | None, typer.Option(help="Execute all segments of this task; may be repeated.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Execute all segments of all tasks.")] = False,
    execute: Annotated[bool, typer.Option(help="Execute segments again, not only recompute everything else.")] = True,
    as_json: AsJson = False,
) -> None:
    """Replay a settled batch: signatures, root, draw, seals, verdicts, payouts, and the computation itself.

    Needs no wallet. Ends with exit code 4 where a proof does not match, and names the challenge to open.
    """
    require("node", "proofyard verifier dispute replay")
    places = parse_places(segment or [])
    chain = _reader(context, flags)

    async def run() -> tuple["Settled", str, list["Replayed"]]:
        from proofyard.disputes.settled import load_settled

        async with evidence(chain, execution) as found:
            settled = await load_settled(chain, found.network.read, BatchId(batch))
            problem = await _problem(chain, settled, found)
            follows = f"{len(settled.tasks)} commitments, plan, seals, verdicts and payouts all follow"
            note(f"batch {batch}: {problem or follows}")
            chosen = _chosen(settled, places, task or [], everything) if execute else []
            return settled, problem, await _execute(found, settled, chosen)

    settled, problem, done = asyncio.run(run())
    wrong, withheld, innocent = _verdicts(chain, settled, done)
    next_steps = _next_steps(batch, problem, wrong, withheld, innocent)
    holds = not problem and not wrong and not innocent
    facts = {
        "batch": str(batch),
        "problem": problem,
        "executed": [_facts(result) for result in done],
        "faults": sorted({str(fault.task) for fault in settled.record.faults if fault.segment is None}),
        "holds": holds,
        "challenges": next_steps,
    }
    emit(facts, as_json=as_json, text=f"batch {batch} holds" if holds else f"batch {batch} does not hold")
    challenges.tell_known(chain, settled.record.batch)
    _advise(chain, settled, next_steps)
    if not holds:
        raise typer.Exit(ExitCode.PROOF_MISMATCH)
    if withheld:
        raise typer.Exit(ExitCode.UNREACHABLE)


@dispute.command("bisect")
@grouped
def bisect(
    context: typer.Context,
    flags: NetworkFlags,
    execution: ExecuteFlags,
    batch: Batch,
    task: Annotated[int, typer.Argument(help="Index of a task in the batch.")],
    trace: Annotated[
        Path | None,
        typer.Option(help="File of another trace, from `bisect --json`; without it the task is executed here."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the first segment in which a worker's trace differs from another one, and execute that one alone.

    Descends the two Merkle trees, so of N states only about 2 log N digests are compared.
    """
    require("node", "proofyard verifier dispute bisect")
    chain, index = _reader(context, flags), TaskIndex(task)
    given = _read_trace(trace) if trace else None

    async def run() -> dict[str, Any]:
        from proofyard.disputes.settled import load_settled

        async with evidence(chain, execution) as found, found.executor() as executor:
            settled = await load_settled(chain, found.network.read, BatchId(batch))
            await asyncio.to_thread(settled.check_commitments, chain)
            replayer = found.replayer(settled, executor)
            theirs = settled.task(index).trace
            if given is None:
                note(f"executing task {task}, {settled.spec(index).segments} segments")
            own = given or await replayer.whole(index, executor)
            state, digests = _first_difference(own, theirs)
            facts: dict[str, Any] = {
                "batch": str(batch),
                "task": str(task),
                "states": len(theirs),
                "digests_compared": digests,
                "first_state": state,
                "trace": own,
            }
            if state is not None:
                facts["segment"] = _facts(await replayer.segment(index, SegmentIndex(max(0, state - 1))))
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
        note(f"next: {OPEN} {batch} --segment {task}:{segment}")
        raise typer.Exit(ExitCode.PROOF_MISMATCH)
    note(
        "the segment itself is right: the difference came in before, or the workload is not exact; "
        f"next: proofyard verifier dispute replay {batch} --task {task}"
    )


challenges.add_commands(dispute)


def _reader(context: typer.Context, flags: NetworkFlags) -> "ChainClient":
    from proofyard.chain import ChainClient

    settings = load(NetworkSettings, "network", toml=config_of(context), flags=flags.given())
    return ChainClient(settings.rpc_url, Address(settings.registry))


async def _problem(chain: "ChainClient", settled: "Settled", found: Evidence) -> str:
    """Why the settlement does not follow from its record; empty where it does."""
    from proofyard.protocol.replay import RecordInvalid
    from proofyard.protocol.signature import SignatureInvalid

    try:
        await settled.check(chain, found.network.read)
    except (RecordInvalid, SignatureInvalid) as error:
        return str(error)
    return ""


def _chosen(settled: "Settled", places: list[Place], tasks: list[int], everything: bool) -> list[Place]:
    """The segments to execute; those that were audited where nothing was chosen."""
    if not (places or tasks or everything):
        return [(audit.task, audit.segment) for audit in settled.record.audits]
    whole = settled.tasks if everything else [TaskIndex(task) for task in tasks]
    every = [(t, SegmentIndex(s)) for t in whole for s in range(settled.task(t).commitment.segments)]
    return list(dict.fromkeys([*places, *every]))


async def _execute(found: Evidence, settled: "Settled", places: Sequence[Place]) -> list["Replayed"]:
    """Run segments in an executor of our own, telling of each as it is done."""
    if not places:
        return []
    results = []
    async with found.executor() as executor:
        replayer = found.replayer(settled, executor)
        for count, place in enumerate(places, 1):
            result = await replayer.segment(*place)
            note(f"{count} of {len(places)}: task {result.task} segment {result.segment}: {result}")
            results.append(result)
    return results


def _verdicts(
    chain: "ChainClient", settled: "Settled", done: Sequence["Replayed"]
) -> tuple[list["Replayed"], list["Replayed"], list[int]]:
    """Segments that are wrong and unpunished, those that nobody delivers, and the faults that accuse the innocent."""
    from proofyard.protocol.audit import Verdict
    from proofyard.protocol.settlement import FaultReason
    from proofyard.workloads.workload import load_workload

    guilty = {fault.task for fault in settled.record.faults if fault.segment is None}
    judged = {(a.task, a.segment) for a in settled.record.audits if a.verdict == Verdict.FAULT}
    right = {(r.task, r.segment) for r in done if r.holds}
    innocent = [
        index
        for index, slash in enumerate(chain.slashes(settled.record.batch))
        if slash.reason == FaultReason.MISMATCH and (slash.task, slash.segment) in right & judged
    ]
    wrong = [result for result in done if result.holds is False and result.task not in guilty]
    withheld = [result for result in done if result.holds is None and result.task not in guilty]
    if (wrong or withheld) and not load_workload(settled.manifest.workload).exact:
        note(f"{settled.manifest.workload} is not exact: no jury convicts a worker for what executing it again gives")
        return [], [], innocent
    return wrong, withheld, innocent


def _next_steps(
    batch: int, problem: str, wrong: Sequence["Replayed"], withheld: Sequence["Replayed"], innocent: Sequence[int]
) -> list[str]:
    """The challenges to open, as commands. One segment of a task is enough: it costs the worker its whole stake."""
    first = {result.task: result for result in reversed([*wrong, *withheld])}
    return [
        *([f"{OPEN} {batch} --payout 0"] if problem else []),
        *(f"{OPEN} {batch} --segment {task}:{first[task].segment}" for task in sorted(first)),
        *(f"{OPEN} {batch} --fault {index}" for index in innocent),
    ]


def _advise(chain: "ChainClient", settled: "Settled", next_steps: Sequence[str]) -> None:
    if not next_steps:
        return
    left = settled.event.claimable_at - chain.now()
    if left <= 0:
        note("its challenge window has closed: nothing in it can be challenged any more")
        return
    note(f"next, within {left} s:")
    for step in next_steps:
        note(f"  {step}")


def _facts(result: "Replayed") -> dict[str, Any]:
    return {
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

    try:
        data = path.read_bytes()[: MAX_TRACE_BYTES + 1]
        found = msgspec.json.decode(data, type=dict[str, Any])["trace"]
        cids = msgspec.convert(found, list[str])
        for cid in cids:
            cid_bytes(Cid(cid))
    except (OSError, msgspec.MsgspecError, KeyError, CidError) as error:
        raise UsageError(f"--trace {path} cannot be read ({error}); write it with `dispute bisect --json`") from None
    return [Cid(cid) for cid in cids]
