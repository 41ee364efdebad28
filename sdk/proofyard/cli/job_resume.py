"""`proofyard job resume`: go on from a round of another job, from chain and artifacts alone."""

from pathlib import Path
from typing import Annotated, Any

import typer

from proofyard.cli.clients import open_client
from proofyard.cli.errors import UsageError
from proofyard.cli.job_flags import TERMS, parsed
from proofyard.cli.options import LARGEST_ID, WalletFlags, parse_duration
from proofyard.cli.output import AsJson, emit, format_credits, note, parse_credits


def resume(
    context: typer.Context,
    flags: WalletFlags,
    job: Annotated[int, typer.Argument(min=1, max=LARGEST_ID, metavar="JOB", help="A job of lora, closed or done.")],
    reward: Annotated[Any, typer.Option(parser=parse_credits, metavar="CREDIT", help="Pay of the workers.")],
    audit_fee: Annotated[Any, typer.Option(parser=parse_credits, metavar="CREDIT", help="Pay of the auditors.")],
    after: Annotated[int | None, typer.Option("--round", min=1, help="After this round; the last settled one.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="How many more; those left if not given.")] = None,
    data: Annotated[Path | None, typer.Option(help="Other data, which makes it a fork.")] = None,
    parameters: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A parameter that changes, such as lr=1e-4.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Folder of its model, if this wallet knows none.", rich_help_panel=TERMS)
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(help="A folder where `job lineage` has kept results.", rich_help_panel=TERMS),
    ] = None,
    verifier_fee: Annotated[
        Any,
        typer.Option(parser=parse_credits, metavar="CREDIT", help="Pay of the verifiers.", rich_help_panel=TERMS),
    ] = None,
    auditors: Annotated[
        int | None, typer.Option(help="Owners that execute each drawn segment; 2.", rich_help_panel=TERMS)
    ] = None,
    segments_per_audit: Annotated[
        int | None, typer.Option(help="Segments drawn of an audited task; 1.", rich_help_panel=TERMS)
    ] = None,
    deadline: Annotated[
        Any,
        typer.Option(parser=parse_duration, metavar="TIME", help="How long it may take; 24h.", rich_help_panel=TERMS),
    ] = None,
    nonce: Annotated[str, typer.Option(help="A word of yours: it is opened once.", rich_help_panel=TERMS)] = "",
    wait_for_it: Annotated[bool, typer.Option("--wait", help="Follow the job until it is done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Open a job that goes on from a round of another one.

    With nothing changed it ends in the bits that the other one would have ended in, unless that one had compression,
    closing or overlap. Prints its number.
    """
    from proofyard.sdk import Offer, go_on
    from proofyard.sdk.voters import told

    changes = parsed(parameters or [])
    if reserved := sorted(changes.keys() & {"round", "rounds", "model", "data"}):
        raise UsageError(f"--set {reserved[0]}: has an option of its own, --{reserved[0]}; give that")
    terms = {
        "auditors_per_segment": auditors,
        "segments_per_audit": segments_per_audit,
        "deadline_s": deadline,
        "verifier_fee": verifier_fee,
    }
    offer = Offer(
        reward=reward, audit_fee=audit_fee, **{name: said for name, said in terms.items() if said is not None}
    )
    with open_client(context, flags, store) as client:
        spec = go_on(client, job, round=after, rounds=rounds, model=model, data=data, **changes)
        prepared = client.prepare(spec, offer, nonce)
        begins = spec.params.begins
        assert begins
        more = spec.params.rounds - begins.round
        note(f"it goes on from round {begins.round} of job {job}, for {more} more")
        if voters := told(prepared.manifest):
            note(voters)
        note(f"into escrow: {format_credits(prepared.terms.escrow)}; what is not spent comes back")
        opened = client.open(prepared)
        if opened.found:
            note(f"this call has opened job {opened.job_id} before; nothing was paid again")
        facts = {"job": str(opened.job_id), "round": begins.round, "rounds": more, "escrow": str(prepared.terms.escrow)}
        emit(facts, as_json=as_json, text=str(opened.job_id))
        if wait_for_it:
            opened.watch()
        step = f"job result {opened.job_id} DIRECTORY" if wait_for_it else f"job wait {opened.job_id}"
        note(f"next: proofyard {step}")
