"""`proofyard job`: have work done, from the shell. Thin over `proofyard.sdk`."""

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proofyard.cli import job_history, job_lineage
from proofyard.cli.chains import reader
from proofyard.cli.clients import open_client
from proofyard.cli.errors import UsageError
from proofyard.cli.explain import explain
from proofyard.cli.job_flags import JobFlags
from proofyard.cli.job_race import race
from proofyard.cli.job_resume import resume
from proofyard.cli.options import LARGEST_ID, NetworkFlags, WalletFlags
from proofyard.cli.output import AsJson, emit, format_credits, names, note
from proofyard.cli.tree import App
from proofyard.protocol.types import JobId
from proofyard.runtime.times import moment, span

if TYPE_CHECKING:
    from proofyard.chain import ChainClient, JobRecord
    from proofyard.protocol.messages import JobReport
    from proofyard.sdk import JobHandle

app = App("Have work done: submit a job, follow it, fetch the result.")

app.verb("list", "job list")(job_history.list_jobs)
app.verb("logs", "job logs 1")(job_history.logs)
app.verb("race", "job race 3 5 --model M --data held-out.jsonl")(race)
app.verb("lineage", "job lineage 1 lineage/")(job_lineage.lineage)
app.verb("verify", "job verify adapter/")(job_lineage.verify)
app.verb("resume", "job resume 1 --reward 50 --audit-fee 10")(resume)
app.verb("explain", "job explain 1")(explain)

MOST_NAMES = 8
"""Of files in a result that are told."""
PASSED_ON = "passing it on"
"""A panel of options."""
MOMENTS = ("closed_at", "deadline", "escrow_free_from", "surplus_free_from")

Number = Annotated[
    int,
    typer.Argument(min=1, max=LARGEST_ID, metavar="JOB", help="The job's number, as `job submit` printed it."),
]
Timeout = Annotated[float | None, typer.Option(help="Seconds to wait; the job goes on when they are over.")]


class Kind(StrEnum):
    """Job files that there are templates of."""

    LORA = "lora"
    CHAT = "chat"
    SWEEP = "sweep"
    EMBED = "embed"
    EVALUATE = "evaluate"


@app.verb("init", "job init lora job.toml")
def init(
    kind: Annotated[Kind, typer.Argument(metavar="KIND", help="lora, chat, sweep, embed or evaluate.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, such as job.toml.")],
) -> None:
    """Write a commented job file, to edit and submit."""
    from proofyard.cli.job_file import template

    try:
        with file.open("x", encoding="utf-8", errors="backslashreplace") as out:
            out.write(template(kind.value, file))
    except FileExistsError:
        raise UsageError(f"FILE: there is something at {file} already; give a new file") from None
    note(f"written to {file}; name your model and data in it\nnext: proofyard job submit {quote(str(file))}")


@app.verb("submit", "job submit job.toml --wait")
def submit(
    context: typer.Context,
    flags: WalletFlags,
    what: JobFlags,
    wait_for_it: Annotated[bool, typer.Option("--wait", help="Follow the job until it is done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Publish a job and put its pay in escrow.

    Prints its number. Inputs are not encrypted: a CID is all that it takes.
    """
    from proofyard.sdk.voters import told

    spec = what.spec()
    with open_client(context, flags) as client:
        prepared = client.prepare(spec, what.offer(), what.said.terms.get("nonce", ""))
        terms = prepared.terms
        if prepared.length:
            note(prepared.length)
        if voters := told(prepared.manifest):
            note(voters)
        proposed = "" if "verifier_fee" in what.said.terms else ", proposed (--verifier-fee sets it)"
        note(
            f"into escrow: {format_credits(terms.reward)} for work, {format_credits(terms.audit_fee)} for audits, "
            f"{format_credits(terms.verifier_fee)} for verifiers{proposed}; what is not spent comes back"
        )
        if prepared.left_out:
            note(f"not published, as no file of the model: {names(prepared.left_out)}")
        if short := client.short_of_owners(prepared):
            note(short)
        inputs = " and ".join(str(path) for name in ("model", "data") if (path := what.said.parameters.get(name)))
        note(f"opening the job, then sending a verifier {inputs}; each block is sent once")
        job = client.open(prepared)
        if job.found:
            note(f"this call has opened job {job.job_id} before; nothing was paid again")
        facts = {"job": str(job.job_id), "escrow": str(terms.escrow), "verifier_fee": str(terms.verifier_fee)}
        emit(facts, as_json=as_json, text=str(job.job_id))
        if wait_for_it:
            job.watch()
            note(f"job {job.job_id} is done; next: proofyard job result {job.job_id} DIRECTORY")
        else:
            note(f"next: proofyard job wait {job.job_id}")


@app.verb("estimate", "job estimate job.toml")
def estimate(context: typer.Context, flags: WalletFlags, what: JobFlags, as_json: AsJson = False) -> None:
    """Say what a job will take before it is paid: time, money, audits.

    Measured of what the network did lately with such jobs, or not known.
    """
    spec = what.spec()
    with open_client(context, flags) as client:
        found = client.estimate(spec, what.offer())
    from proofyard.cli.estimate_view import facts_of, text_of
    from proofyard.sdk.preparing import UNPAID

    emit(facts_of(found), as_json=as_json, text=text_of(found))
    if not found.reward:
        note(UNPAID)
    note("nothing was published or paid; next: the same with job submit")


@app.verb("status", "job status 1")
def status(
    context: typer.Context,
    flags: WalletFlags,
    job: Number,
    as_json: AsJson = False,
) -> None:
    """Print how a job is doing."""
    with open_client(context, flags) as client:
        report = client.job(JobId(job)).status()
        _print(report, as_json)
        if report.state == "failed" and (left := client.left_of(JobId(job))):
            note(left)


@app.verb("show", "job show 1")
def show(context: typer.Context, flags: NetworkFlags, job: Number, as_json: AsJson = False) -> None:
    """Show what the chain says of a job: terms and money."""
    chain = reader(context, flags)
    record = chain.job(JobId(job))
    facts = _chain_facts(chain, record)
    amounts = ("reward", "audit_fee", "verifier_fee", "escrow", "surplus")
    text = facts | {name: format_credits(int(facts[name])) for name in amounts}
    text |= {name: moment(int(facts[name])) for name in MOMENTS if facts[name] and int(facts[name])}
    emit(
        facts, as_json=as_json, text="\n".join(f"{key:<20} {value}" for key, value in text.items() if value is not None)
    )
    note(_refund_step(chain, record))


@app.verb("refund", "job refund 1")
def refund(
    context: typer.Context,
    flags: WalletFlags,
    job: Number,
    close: Annotated[bool, typer.Option("--close", help="End the job first; what is committed is still paid.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take back what a job that is over did not spend.

    May be called again once more of it is free."""
    _end(context, flags, job, as_json, close=close, refund=True)


@app.verb("cancel", "job cancel 1")
def cancel(context: typer.Context, flags: WalletFlags, job: Number, as_json: AsJson = False) -> None:
    """End a job and take back what is free of its money.

    What is committed is still paid."""
    _end(context, flags, job, as_json, close=True, refund=True)


@app.verb("close", "job close 1")
def close(context: typer.Context, flags: WalletFlags, job: Number, as_json: AsJson = False) -> None:
    """End a job: nothing more is begun, what is committed is still paid. Says when the rest can be had back."""
    _end(context, flags, job, as_json, close=True, refund=False)


def _end(context: typer.Context, flags: WalletFlags, job: int, as_json: bool, *, close: bool, refund: bool) -> None:
    with open_client(context, flags) as client:
        from proofyard.sdk.refunds import take_back

        chain, before = client.chain, client.chain.token_balance(client.wallet.address)
        requester = chain.job(JobId(job)).requester
        if requester != client.wallet.address:
            raise UsageError(
                f"job {job} is of {requester}, and this wallet is {client.wallet.address}; name its wallet"
            )
        if close:
            chain.close_job(JobId(job))
        if refund:
            take_back(chain, chain.job(JobId(job)))
        record, got = chain.job(JobId(job)), chain.token_balance(client.wallet.address) - before
        step = _refund_step(chain, record)
    ended = "closed" if record.closed else "over: all of it is paid"
    facts = {
        "job": str(job),
        "closed": record.closed,
        "refunded": str(got),
        "escrow": str(record.escrow),
        "surplus": str(record.surplus),
    }
    emit(facts, as_json=as_json, text=format_credits(got) if refund else f"job {job} is {ended}")
    note(step)


@app.verb("wait", "job wait 1")
def wait(
    context: typer.Context,
    flags: WalletFlags,
    job: Number,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Follow a job until it is done."""
    with open_client(context, flags) as client:
        _print(client.job(JobId(job)).watch(timeout), as_json)
    note(f"next: proofyard job result {job} DIRECTORY")


@app.verb("result", "job result 1 adapter/")
def result(
    context: typer.Context,
    flags: WalletFlags,
    job: Number,
    dest: Annotated[Path, typer.Argument(help="Directory to write it to, new or empty.")],
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds files.")] = False,
    model: Annotated[
        str | None,
        typer.Option(help="Folder or hub name of the base model, if another."),
    ] = None,
    number: Annotated[
        int | None, typer.Option("--round", min=1, help="After this round; the job need not be done.")
    ] = None,
    lineage: Annotated[bool, typer.Option("--lineage", help="Add lineage.json: where the adapter comes from.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Write the base model with the adapter in it.")] = False,
    card: Annotated[bool, typer.Option("--card", help="Add a model card: data, losses, audits, cost, CIDs.")] = False,
    evaluated: Annotated[
        list[int] | None,
        typer.Option(min=1, metavar="JOB", help="An evaluate job for the card; repeatable.", rich_help_panel=PASSED_ON),
    ] = None,
    push_to: Annotated[
        str,
        typer.Option(
            metavar="OWNER/NAME", help="Send it to a hub, by huggingface_hub's login.", rich_help_panel=PASSED_ON
        ),
    ] = "",
    public: Annotated[
        bool,
        typer.Option("--public", help="Make a new repository one that everybody sees.", rich_help_panel=PASSED_ON),
    ] = False,
    dataset: Annotated[
        list[str] | None,
        typer.Option(metavar="OWNER/NAME", help="The data's name on a hub, for the card.", rich_help_panel=PASSED_ON),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a finished job's result, and check it.

    Settled on chain, signed, packaged here; code 4 where it is not.
    """
    with open_client(context, flags) as client:
        from proofyard.sdk import deliver
        from proofyard.sdk.hub import bound_waiting, require_repository

        if push_to:
            require_repository(push_to)
            bound_waiting()
        handle = client.job(JobId(job))
        path = deliver(
            handle,
            dest,
            merge=merge,
            round=number,
            lineage=lineage,
            card=card or bool(evaluated or dataset),
            evaluated=evaluated or (),
            datasets=dataset or (),
            push_to=push_to,
            private=not public,
            force=force,
            model=model,
            on_replace=lambda found: note(f"replacing in {dest}: {names(found)}"),
        )
        final_at, sent = _rests_on(handle, number)
        final_in = final_at - client.chain.now()
    facts = {"job": str(job), "path": str(path), "final_in": str(max(0, final_in)), "results": len(sent)}
    emit(facts | {"result_bytes": str(sum(sent))}, as_json=as_json, text=str(path))
    _tell_result(path, sent, final_in, merged=merge)


def _rests_on(handle: "JobHandle", number: int | None) -> tuple[int, tuple[int, ...]]:
    """From when on nothing can challenge a result, or a round; and the bytes of each task's result in it."""
    if number is None:
        return handle.prove().final_at, handle.sent_bytes()
    rounds = handle.rounds()
    found = [rounds.done[task] for task in rounds.tasks(number)]
    sizes = [len(rounds.read(each.commitment.result)) for each in found]
    return rounds.final_at(number), tuple(sizes)


def _tell_result(path: Path, sent: Sequence[int], final_in: int, *, merged: bool) -> None:
    """What a result is made of, how long it can be challenged, and what to do with it."""
    files = sorted(f"{each.name}/" if each.is_dir() else each.name for each in path.iterdir())
    note(f"in it: {names(files, MOST_NAMES)}")
    mean = sum(sent) // len(sent)
    note(f"made of {len(sent)} results of {mean:,} bytes on average" if len(sent) > 1 else f"made of {mean:,} bytes")
    if final_in > 0:
        note(f"what it rests on can be challenged for {span(final_in)} more")
    adapter = next((each for each in (path, path / "best") if (each / "adapter_config.json").is_file()), None)
    if adapter is not None:
        base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
        if base.startswith("ipfs://"):
            note("the adapter names its model by CID; --model NAME has it name yours")
            note(f"next, in Python: peft.PeftModel.from_pretrained(model, {str(adapter)!r})")
        else:
            note(f"next, in Python: peft.AutoPeftModelForCausalLM.from_pretrained({str(adapter)!r})")
    elif merged:
        note(f"next, in Python: transformers.AutoModelForCausalLM.from_pretrained({str(path)!r})")


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


def _chain_facts(chain: "ChainClient", record: "JobRecord") -> dict[str, Any]:
    """A job on chain; amounts in base units, times in Unix seconds."""
    from proofyard.sdk.refunds import escrow_free_from, surplus_free_from

    receipt_time = chain.params().receipt_time
    return {
        "job": str(record.id),
        "requester": record.requester,
        "verifier": str(record.verifier) if record.verifier else None,
        "closed_at": str(record.closed_at) if record.closed else None,
        "deadline": str(record.deadline),
        "units": str(record.units),
        "units_open": str(record.units_open),
        "units_paid": str(record.units_paid),
        "reward": str(record.reward),
        "audit_fee": str(record.audit_fee),
        "verifier_fee": str(record.verifier_fee),
        "auditors_per_segment": record.auditors_per_segment,
        "segments_per_audit": record.segments_per_audit,
        "escrow": str(record.escrow),
        "escrow_free_from": str(escrow_free_from(record, receipt_time)),
        "surplus": str(record.surplus),
        "surplus_free_from": str(surplus_free_from(record, receipt_time)),
    }


def _refund_step(chain: "ChainClient", record: "JobRecord") -> str:
    """What comes next for whoever waits for the rest of a job's money."""
    from proofyard.sdk.refunds import more_from

    now, command = chain.now(), f"proofyard job refund {record.id}"
    free = more_from(record, chain.params().receipt_time, now)
    if not free:
        return "nothing is left to be refunded now"
    if free <= now:
        return f"next: {command}"
    sooner = "" if record.over else f", or sooner with job cancel {record.id}"
    return f"next, from {moment(free, now)} on{sooner}: {command}"
