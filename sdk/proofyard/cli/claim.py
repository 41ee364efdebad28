"""`proofyard node claim`: have settled work paid out."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proofyard.cli.chains import operator_with
from proofyard.cli.clients import open_client
from proofyard.cli.options import LARGEST_ID, WalletFlags, address_of
from proofyard.cli.output import AsJson, emit, format_credits, note
from proofyard.protocol.types import Address, JobId, Wei
from proofyard.runtime.times import moment

if TYPE_CHECKING:
    from proofyard.chain import ChainClient
    from proofyard.sdk import Due

MOST_SHARES = 20
"""Owners that are told of one by one."""


def claim(
    context: typer.Context,
    flags: WalletFlags,
    job: Annotated[
        list[int],
        typer.Argument(min=1, max=LARGEST_ID, metavar="JOB", help="Numbers of the jobs, as the node's log has them."),
    ],
    node: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="Hot key's address or its wallet's name; everybody's pay if empty."),
    ] = None,
    proofs: Annotated[
        bool, typer.Option("--proofs", help="Print the claims with their proofs, for any wallet to send; send nothing.")
    ] = False,
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
        if proofs:
            print(json.dumps(proofs_of(client.chain, dues), indent=2), flush=True)
            return
        paid = claim_all(client, dues)
        waiting = [due for due in dues if due.claimable_at > client.chain.now()]
    facts = {"paid": str(paid), "waiting": str(sum(due.amount for due in waiting))}
    emit(facts, as_json=as_json, text=format_credits(paid))
    shares = shares_of([due for due in dues if due not in waiting])
    if shares and sum(shares.values()) == paid:
        for owner, share in shares.items():
            note(f"of it {format_credits(share)} to the owner {owner}")
    if waiting:
        last = max(due.claimable_at for due in waiting)
        amount = format_credits(sum(due.amount for due in waiting))
        note(f"{amount} can be claimed when their challenge window has closed, at {moment(last)}: call this again then")
    elif not dues:
        note("nothing is left to claim: none of it is settled yet, or all is paid")


def shares_of(dues: Sequence["Due"]) -> dict[Address, Wei]:
    """What each owner is due, the largest share first, of at most `MOST_SHARES`."""
    owners = {due.owner for due in dues}
    sums = {owner: Wei(sum(due.amount for due in dues if due.owner == owner)) for owner in owners}
    return dict(sorted(sums.items(), key=lambda each: (-each[1], each[0]))[:MOST_SHARES])


def proofs_of(chain: "ChainClient", dues: Sequence["Due"]) -> list[dict[str, Any]]:
    """Claims by the names that the contract gives their fields, numbers as text and bytes in hex, each with whom it
    pays and from when."""
    from proofyard.chain.abi import contract

    entry = next(entry for entry in contract("Registry").abi if entry.get("name") == "claim")
    names = [item["name"] for item in entry["inputs"][0]["components"]]
    rows = chain.claim_rows([due.claim for due in dues])
    return [
        {name: _plain(value) for name, value in zip(names, row, strict=True)}
        | {"node": due.node, "owner": due.owner, "claimable_at": due.claimable_at}
        for row, due in zip(rows, dues, strict=True)
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else str(value)
