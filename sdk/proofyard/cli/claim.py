"""`proofyard node claim`: have settled work paid out."""

from typing import Annotated

import typer

from proofyard.cli.chains import operator_with
from proofyard.cli.job import open_client
from proofyard.cli.options import LARGEST_ID, WalletFlags, address_of, grouped
from proofyard.cli.output import AsJson, emit, format_credits, note
from proofyard.protocol.types import JobId


@grouped
def claim(
    context: typer.Context,
    flags: WalletFlags,
    job: Annotated[
        list[int],
        typer.Argument(
            min=1, max=LARGEST_ID, metavar="JOB...", help="Numbers of the jobs, as the node's log has them."
        ),
    ],
    node: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="Hot key's address or its wallet's name; everybody's pay if empty."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Claim what settled batches owe. The money goes to the nodes' owners, whoever's wallet sends this."""
    keys = [address_of(each, flags.keystore_dir) for each in node or ()]
    with open_client(context, flags) as client:
        from proofyard.sdk import claim_all, settled_batches, unclaimed

        for key in keys:
            operator_with(client.chain, key)
        found = [batch for number in job for batch in settled_batches(client, JobId(number))]
        batches = {batch.event.batch: batch for batch in found}  # one batch may hold tasks of several jobs
        dues = unclaimed(client, batches.values(), keys or None)
        paid = claim_all(client, dues)
        waiting = [due for due in dues if due.claimable_at > client.chain.now()]
    facts = {"paid": str(paid), "waiting": str(sum(due.amount for due in waiting))}
    emit(facts, as_json=as_json, text=format_credits(paid))
    if waiting:
        last = max(due.claimable_at for due in waiting)
        amount = format_credits(sum(due.amount for due in waiting))
        note(
            f"{amount} can be claimed when their challenge window has closed, at Unix time {last}: call this again then"
        )
    elif not dues:
        note("nothing is left to claim: none of it is settled yet, or all is paid")
