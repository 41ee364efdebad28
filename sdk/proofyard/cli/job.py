"""`proofyard job`: have a model fine-tuned, from the shell. Thin over `proofyard.sdk`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proofyard.cli.context import config_of
from proofyard.cli.options import WalletFlags, grouped
from proofyard.cli.output import AsJson, emit, note, parse_credits
from proofyard.cli.settings import NETWORK, RequesterSettings, load
from proofyard.protocol.types import JobId

if TYPE_CHECKING:
    from proofyard.protocol.messages import JobReport
    from proofyard.sdk import Client, JobHandle

app = typer.Typer(no_args_is_help=True, help="Have a model fine-tuned: submit a job, follow it, fetch the result.")

Number = Annotated[int, typer.Argument(metavar="JOB", help="The job's number, as `job submit` printed it.")]
Timeout = Annotated[float | None, typer.Option(help="Seconds to wait; the job goes on when they are over.")]


@app.command()
@grouped
def submit(
    context: typer.Context,
    flags: WalletFlags,
    model: Annotated[Path, typer.Option(help="A Hugging Face model directory.")],
    data: Annotated[Path, typer.Option(help='Training text: JSONL, one {"text": ..., "shard": ...} a line.')],
    reward: Annotated[Any, typer.Option(parser=parse_credits, metavar="CREDIT", help="Pay of the workers.")],
    audit_fee: Annotated[Any, typer.Option(parser=parse_credits, metavar="CREDIT", help="Pay of the auditors.")],
    rounds: Annotated[int, typer.Option(help="Rounds of training and averaging.")] = 2,
    workers: Annotated[int, typer.Option(help="Tasks side by side in a round.")] = 4,
    segments: Annotated[int, typer.Option(help="Segments a task is checked by.")] = 4,
    segment_steps: Annotated[int, typer.Option(help="Optimizer steps in a segment.")] = 2,
    batch: Annotated[int, typer.Option(help="Sequences in a step.")] = 4,
    seq_len: Annotated[int, typer.Option(help="Tokens in a sequence.")] = 128,
    rank: Annotated[int, typer.Option(help="LoRA rank.")] = 8,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="The same seed gives the same adapter.")] = 0,
    wait_for_it: Annotated[bool, typer.Option("--wait", help="Follow the job until it is done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Publish a LoRA fine-tuning job and put its pay in escrow. Prints the job's number."""
    with open_client(context, flags) as client:
        from proofyard.sdk import LoraJob

        spec = LoraJob(
            model=model,
            data=data,
            rounds=rounds,
            workers=workers,
            segments=segments,
            segment_steps=segment_steps,
            batch=batch,
            seq_len=seq_len,
            rank=rank,
            lr=lr,
            seed=seed,
        )
        note(f"publishing {model} and {data}; each block is sent once")
        job = client.submit(spec, reward=reward, audit_fee=audit_fee)
        emit({"job": str(job.job_id)}, as_json=as_json, text=str(job.job_id))
        if wait_for_it:
            _follow(job, None)
        else:
            note(f"next: proofyard job wait {job.job_id}")


@app.command()
@grouped
def status(
    context: typer.Context,
    flags: WalletFlags,
    job: Number,
    as_json: AsJson = False,
) -> None:
    """Print how a job is doing."""
    with open_client(context, flags) as client:
        _print(client.job(JobId(job)).status(), as_json)


@app.command()
@grouped
def wait(
    context: typer.Context,
    flags: WalletFlags,
    job: Number,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Follow a job until it is done."""
    with open_client(context, flags) as client:
        _print(_follow(client.job(JobId(job)), timeout), as_json)
    note(f"next: proofyard job result {job} DIRECTORY")


@app.command()
@grouped
def result(
    context: typer.Context,
    flags: WalletFlags,
    job: Number,
    dest: Annotated[Path, typer.Argument(help="Directory to write the adapter to.")],
    as_json: AsJson = False,
) -> None:
    """Fetch a finished job's result; every block is checked against the CID that was audited."""
    with open_client(context, flags) as client:
        path = client.job(JobId(job)).result(dest)
    emit({"job": str(job), "path": str(path)}, as_json=as_json, text=str(path))
    note(f"next, in Python: peft.PeftModel.from_pretrained(model, {str(path)!r})")


def _follow(job: "JobHandle", timeout: float | None) -> "JobReport":
    from proofyard.cli.live import JobView

    with JobView({}, title=f"job {job.job_id}") as view:
        return job.wait(timeout, on_event=view.show)


def _print(report: "JobReport", as_json: bool) -> None:
    facts = {
        "job": str(report.job),
        "state": report.state,
        "tasks": report.tasks,
        "tasks_valid": report.tasks_valid,
        "batches_settled": report.batches_settled,
        "result": report.result,
        "reason": report.reason,
    }
    emit(facts, as_json=as_json, text="\n".join(f"{key:<16}{value}" for key, value in facts.items() if value))


@contextmanager
def open_client(context: typer.Context, flags: WalletFlags) -> Iterator["Client"]:
    """An SDK client for the wallet and network that flags and settings name."""
    shared = NETWORK | {"wallet", "password_file"}
    settings = load(RequesterSettings, "requester", toml=config_of(context), flags=flags.given(), shared=shared)
    from proofyard.cli.wallets import unlock
    from proofyard.sdk import Client

    with Client(settings.rpc_url, settings.registry, unlock(settings.wallet, settings.password_file)) as client:
        yield client
