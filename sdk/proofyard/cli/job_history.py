"""`proofyard job list` and `logs`: which jobs there are, and what happened to one."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from proofyard.cli.chains import reader, requester_of
from proofyard.cli.clients import open_client
from proofyard.cli.errors import UsageError
from proofyard.cli.options import LARGEST_ID, WalletFlags, address_of
from proofyard.cli.output import AsJson, emit, format_credits, note, table
from proofyard.protocol.types import Address, JobId
from proofyard.runtime.times import moment

if TYPE_CHECKING:
    from proofyard.chain import JobRecord
    from proofyard.protocol.messages import LogLine

LISTED = 50
"""Jobs that are shown at once, the newest."""


def list_jobs(
    context: typer.Context,
    flags: WalletFlags,
    of: Annotated[
        str | None, typer.Option(metavar="WALLET", help="Whose jobs, by name or address, if not this wallet's.")
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", help="Everybody's jobs.")] = False,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first, by what the chain says."""
    if everybody and of is not None:
        raise UsageError("give either --of or --all")
    chain = reader(context, flags)
    whose = None if everybody else address_of(of, flags.keystore_dir) if of else _own(context, flags)
    found = chain.jobs_of(whose)
    now = chain.next_time()
    records = [chain.job(job) for job in sorted(found, reverse=True)[:LISTED]]
    facts = [_facts(record, now) for record in records]
    rows = [
        (each["job"], each["workload"], each["state"], each["paid"], format_credits(int(each["reward"])))
        for each in facts
    ]
    emit(facts, as_json=as_json, text=table(rows, ("JOB", "WORKLOAD", "STATE", "PAID", "REWARD")))
    if len(found) > LISTED:
        note(f"{len(found) - LISTED} older ones are not shown")
    if not found:
        note("there are none; next: proofyard job submit --help")


def logs(
    context: typer.Context,
    flags: WalletFlags,
    job: Annotated[int, typer.Argument(metavar="JOB", min=1, max=LARGEST_ID, help="The job's number.")],
    as_json: AsJson = False,
) -> None:
    """Print what happened to a job, by its verifier and the chain.

    The chain's part needs no verifier. `job explain` says why things went as they did.
    """
    with open_client(context, flags) as client:
        from proofyard.sdk import NoVerifier

        number = JobId(job)
        record = client.chain.job(number)
        try:
            lines = client.job(number).log()
        except NoVerifier as error:
            lines = []
            note(f"its verifier says nothing: {error}")
        settled = client.chain.settled(number)
    facts = {
        "job": str(job),
        "state": state_of(record, record.deadline),
        "events": [_event(line) for line in lines],
        "settled": [
            {"batch": str(event.batch), "record": event.record, "block": str(event.position.block)} for event in settled
        ],
    }
    shown = [
        f"{moment(line.at)}  {line.kind:<14} {line.text}{f' (task {line.task})' if line.task is not None else ''}"
        for line in lines
    ]
    shown += [
        f"on chain: batch {event.batch} settled in block {event.position.block}, record {event.record}"
        for event in settled
    ]
    emit(facts, as_json=as_json, text="\n".join(shown))
    note(f"next, to see why: proofyard job explain {job}")


def state_of(record: "JobRecord", now: int) -> str:
    """A job's state in a word or two, as the chain has it at `now`."""
    if record.closed:
        return "closed"
    if record.over:
        return "paid whole"
    if now > record.deadline:
        return "out of time"
    return "at work" if record.verifier else "waits"


def _own(context: typer.Context, flags: WalletFlags) -> Address:
    """The address of the wallet that the settings name, which stays locked."""
    from proofyard.chain.keystores import address_in
    from proofyard.chain.wallet import read_keystore

    file = requester_of(context, flags).wallet
    address = address_in(read_keystore(file))
    if address is None:
        raise UsageError(f"--of: the wallet {file} does not say its address; give the address itself")
    return address


def _facts(record: "JobRecord", now: int) -> dict[str, str]:
    from proofyard.protocol.workload_bits import WORKLOADS

    paid = 100 * record.units_paid // record.units if record.units else 0
    return {
        "job": str(record.id),
        "requester": record.requester,
        "workload": WORKLOADS[record.workload] if record.workload < len(WORKLOADS) else f"bit {record.workload}",
        "state": state_of(record, now),
        "paid": f"{paid}%",
        "reward": str(record.reward),
        "deadline": str(record.deadline),
    }


def _event(line: "LogLine") -> dict[str, Any]:
    return {"at": line.at, "kind": line.kind, "text": line.text, "task": line.task, "node": line.node}
