"""`proofyard job`: have work done, from the shell. Thin over `proofyard.sdk`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proofyard.cli.context import config_of
from proofyard.cli.errors import UsageError
from proofyard.cli.options import WalletFlags, grouped
from proofyard.cli.output import AsJson, emit, note, parse_credits
from proofyard.cli.settings import NETWORK, RequesterSettings, load
from proofyard.protocol.types import JobId

if TYPE_CHECKING:
    from proofyard.protocol.messages import JobReport
    from proofyard.sdk import Client, JobHandle

app = typer.Typer(no_args_is_help=True, help="Have work done: submit a job, follow it, fetch the result.")

Number = Annotated[int, typer.Argument(metavar="JOB", help="The job's number, as `job submit` printed it.")]
Timeout = Annotated[float | None, typer.Option(help="Seconds to wait; the job goes on when they are over.")]


@app.command()
@grouped
def submit(
    context: typer.Context,
    flags: WalletFlags,
    data: Annotated[Path, typer.Option(help="JSONL, one object a line; docs/workloads.md says of what.")],
    reward: Annotated[Any, typer.Option(parser=parse_credits, metavar="CREDIT", help="Pay of the workers.")],
    audit_fee: Annotated[Any, typer.Option(parser=parse_credits, metavar="CREDIT", help="Pay of the auditors.")],
    model: Annotated[Path | None, typer.Option(help="A Hugging Face model directory; map can do without.")] = None,
    workload: Annotated[str, typer.Option(help="lora, sweep, embed, evaluate or map.")] = "lora",
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any parameter of the workload's job spec, its value as JSON or text; may be repeated.",
        ),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="lora: rounds of training and averaging.")] = None,
    workers: Annotated[int | None, typer.Option(help="lora: tasks side by side in a round.")] = None,
    segments: Annotated[int | None, typer.Option(help="Segments a task is checked by.")] = None,
    segment_steps: Annotated[int | None, typer.Option(help="lora: optimizer steps in a segment.")] = None,
    batch: Annotated[int | None, typer.Option(help="lora: sequences in a step.")] = None,
    seq_len: Annotated[int | None, typer.Option(help="lora: tokens in a sequence.")] = None,
    rank: Annotated[int | None, typer.Option(help="lora: rank of the adapter.")] = None,
    lr: Annotated[float | None, typer.Option(help="lora: learning rate.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 0,
    wait_for_it: Annotated[bool, typer.Option("--wait", help="Follow the job until it is done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Publish a job and put its pay in escrow. Prints the job's number.

    For example `--workload sweep --set 'vary={"lr": [0.001, 0.01]}'`; what a workload's parameters mean is documented
    in `proofyard.sdk`'s job specs.
    """
    values = {
        "model": model,
        "data": data,
        "rounds": rounds,
        "workers": workers,
        "segments": segments,
        "segment_steps": segment_steps,
        "batch": batch,
        "seq_len": seq_len,
        "rank": rank,
        "lr": lr,
        "seed": seed,
    }
    given = {name: value for name, value in values.items() if value is not None} | _parsed(parameters or [])
    with open_client(context, flags) as client:
        from proofyard.sdk import make_job

        spec = make_job(workload, given)
        note(f"publishing {' and '.join(str(path) for path in (model, data) if path)}; each block is sent once")
        job = client.submit(spec, reward=reward, audit_fee=audit_fee)
        emit({"job": str(job.job_id)}, as_json=as_json, text=str(job.job_id))
        if wait_for_it:
            _follow(job, None)
        else:
            note(f"next: proofyard job wait {job.job_id}")


def _parsed(parameters: list[str]) -> dict[str, Any]:
    """NAME=VALUE pairs, each value read as JSON where it is JSON."""
    found: dict[str, Any] = {}
    for parameter in parameters:
        name, equals, text = parameter.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {parameter}: give NAME=VALUE")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


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
    dest: Annotated[Path, typer.Argument(help="Directory to write it to.")],
    as_json: AsJson = False,
) -> None:
    """Fetch a finished job's result; every block is checked against the CID that was audited."""
    with open_client(context, flags) as client:
        path = client.job(JobId(job)).result(dest)
    emit({"job": str(job), "path": str(path)}, as_json=as_json, text=str(path))
    if (path / "adapter_config.json").is_file():
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
