"""`proofyard verifier dispute`: check what verifiers settled, without trusting them."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proofyard.cli.context import config_of
from proofyard.cli.errors import UsageError
from proofyard.cli.extras import require
from proofyard.cli.options import NetworkFlags, grouped
from proofyard.cli.output import AsJson, emit, note
from proofyard.cli.settings import NetworkSettings, load
from proofyard.protocol.types import BatchId, ExitCode, SegmentIndex, TaskIndex

if TYPE_CHECKING:
    from proofyard.protocol.manifest import Manifest
    from proofyard.protocol.record import BatchRecord
    from proofyard.sdk import Client
    from proofyard.verifier.replaying import Replayed

dispute = typer.Typer(no_args_is_help=True, help="Check what was settled: replay a batch from chain and artifacts.")

Place = tuple[TaskIndex, SegmentIndex]


@dispute.command("replay")
@grouped
def replay(
    context: typer.Context,
    flags: NetworkFlags,
    batch: Annotated[int, typer.Argument(help="Number of a settled batch.")],
    segment: Annotated[
        list[str] | None, typer.Option(metavar="TASK:SEGMENT", help="What to execute; the audited segments if empty.")
    ] = None,
    execute: Annotated[bool, typer.Option(help="Execute segments again, not only recompute everything else.")] = True,
    model_dir: Annotated[Path | None, typer.Option(help="The base model, if it is on this machine.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads to execute with.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Replay a settled batch: signatures, root, draw, seals, verdicts, payouts, and the computation itself.

    Needs no wallet. Ends with exit code 4 where a proof does not match.
    """
    require("node", "proofyard verifier dispute replay")
    places = [_place(text) for text in segment or []]
    settings = load(NetworkSettings, "requester", toml=config_of(context), flags=flags.given())
    from proofyard.chain import Wallet
    from proofyard.protocol.replay import check_record
    from proofyard.sdk import Client
    from proofyard.verifier.replaying import audited
    from proofyard.workloads.workload import load_workload

    with Client(settings.rpc_url, settings.registry, Wallet.generate()) as client:
        record, manifest = _fetch(client, BatchId(batch))
        check_record(record, manifest, load_workload(manifest.workload).graph(manifest))
        note(f"batch {batch}: {len(record.tasks)} commitments, plan, seals, verdicts and payouts all follow")
        chosen = (places or audited(record)) if execute else []
        done = _execute(client, record, manifest, chosen, model_dir, threads)
    wrong = [result for result in done if result.holds is False]
    faults = {fault.task for fault in record.faults}
    unpunished = [result for result in wrong if result.task not in faults]
    facts = {
        "batch": str(batch),
        "executed": [_facts(result) for result in done],
        "faults": sorted(str(task) for task in faults),
        "holds": not unpunished,
    }
    text = f"batch {batch} holds" if not unpunished else f"batch {batch} does not hold"
    emit(facts, as_json=as_json, text=text)
    if unpunished:
        raise typer.Exit(ExitCode.PROOF_MISMATCH)


def _place(text: str) -> Place:
    task, separator, segment = text.partition(":")
    if not separator or not task.isdecimal() or not segment.isdecimal():
        raise UsageError(f"--segment {text!r} is not TASK:SEGMENT; write it like 3:0")
    return TaskIndex(int(task)), SegmentIndex(int(segment))


def _fetch(client: "Client", batch: BatchId) -> tuple["BatchRecord", "Manifest"]:
    """The batch's record, as the chain has it, and its manifest."""
    from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, decode_manifest
    from proofyard.protocol.record import MAX_RECORD_BYTES, decode_record
    from proofyard.verifier.replaying import compare_with_chain, compare_with_settlement

    settlements = [event for event in client.chain.settled(client.chain.batch(batch).job) if event.batch == batch]
    if not settlements:
        raise UsageError(f"batch {batch} is not settled yet; replay it once it is")
    record = decode_record(client.read(settlements[-1].record, MAX_RECORD_BYTES))
    compare_with_settlement(settlements[-1], record)
    compare_with_chain(client.chain, record)
    return record, decode_manifest(client.read(record.manifest, MAX_MANIFEST_BYTES))


def _execute(
    client: "Client",
    record: "BatchRecord",
    manifest: "Manifest",
    places: Sequence[Place],
    model_dir: Path | None,
    threads: int,
) -> list["Replayed"]:
    """Run the chosen segments in an executor of our own, telling of each as it is done."""
    if not places:
        return []
    from proofyard.verifier.replaying import execute
    from proofyard.workloads.executor import Executor
    from proofyard.workloads.workload import Resources

    with TemporaryDirectory(prefix="proofyard-replay-") as folder:
        home = Path(folder)
        model = _model(client, manifest, model_dir, home)
        data = client.download(manifest.data, home / "data") if manifest.data else None

        async def run() -> list[Any]:
            async with Executor(home / "executor", resources=Resources(threads=threads)) as executor:
                return await execute(
                    record,
                    manifest,
                    places,
                    model=model,
                    data=data,
                    read=lambda cid, limit: asyncio.to_thread(client.read, cid, limit),
                    executor=executor,
                    on_done=lambda result: note(_line(result)),
                )

        return asyncio.run(run())


def _model(client: "Client", manifest: "Manifest", model_dir: Path | None, home: Path) -> Path | None:
    if manifest.model is None:
        return None
    if model_dir is None:
        return client.download(manifest.model, home / "model")
    found = client.store.link_directory(model_dir)
    if found != manifest.model:
        raise UsageError(f"--model-dir {model_dir} holds {found}, the batch was computed with {manifest.model}")
    return model_dir


def _line(result: "Replayed") -> str:
    place = f"task {result.task} segment {result.segment}"
    if result.equal:
        return f"{place}: the same bytes"
    if result.distance is None:
        return f"{place}: other bytes, and the worker's state is no longer to be had"
    word = "within" if result.holds else "beyond"
    return f"{place}: {result.distance:.3g} of the update away, {word} the tolerance of {result.tolerance:.3g}"


def _facts(result: "Replayed") -> dict[str, Any]:
    return {
        "task": str(result.task),
        "segment": str(result.segment),
        "equal": result.equal,
        "distance": result.distance,
        "holds": result.holds,
    }
