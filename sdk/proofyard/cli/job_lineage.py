"""`proofyard job lineage` and `proofyard job verify`: where an adapter comes from, told and held against the chain."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proofyard.cli.chains import network_of
from proofyard.cli.errors import UsageError
from proofyard.cli.options import LARGEST_ID, NetworkFlags
from proofyard.cli.output import AsJson, emit, note, table
from proofyard.protocol.codec import read_json

if TYPE_CHECKING:
    from proofyard.sdk import Client
    from proofyard.sdk.lineages import RoundLineage

Store = Annotated[Path | None, typer.Option(help="A folder that keeps what is read, for when no peer does any more.")]
HEADER = ("ROUND", "STARTED FROM", "DELTAS", "NODES", "BATCHES", "ADAPTER")


def lineage(
    context: typer.Context,
    flags: NetworkFlags,
    job: Annotated[int, typer.Argument(min=1, max=LARGEST_ID, metavar="JOB", help="A job of lora, done or not.")],
    dest: Annotated[Path | None, typer.Argument(metavar="DIR", help="A folder for the documents, one a round.")] = None,
    number: Annotated[int | None, typer.Option("--round", min=1, help="This round alone, counted from 1.")] = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Say where each round's adapter comes from.

    What it started from, whose deltas it took, which records accepted them and who signed those. From chain and
    artifacts alone: no verifier is asked, and no wallet is needed.
    """
    from proofyard.sdk.ancestry import lineage_of_rounds
    from proofyard.sdk.lineages import encode_lineage, lineage_cid

    with visiting(context, flags, store) as client:
        rounds = client.rounds(client.job(job).job_id)
        documents = lineage_of_rounds(client, rounds)
        if number is not None:
            rounds.require(number)
    chosen = [each for each in documents if number in (None, each.round)]
    if dest is not None:
        dest.mkdir(parents=True, exist_ok=True)
        for each in chosen:
            file = dest / f"round-{each.round}.json"
            try:
                with file.open("xb") as out:
                    out.write(encode_lineage(each))
            except FileExistsError:
                raise UsageError(f"DIR: there is something at {file} already; give a new folder") from None
    facts = [{"lineage": lineage_cid(each), "document": read_json(encode_lineage(each))} for each in chosen]
    emit(facts, as_json=as_json, text=table([_row(each) for each in chosen], HEADER))
    for one in rounds.too_much():
        note(str(one))
    if not chosen:
        note("no round of it is settled whole yet")
    elif dest is not None:
        note(f"next, for anybody: proofyard job verify {dest / f'round-{chosen[-1].round}.json'}")


def verify(
    context: typer.Context,
    flags: NetworkFlags,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A result with lineage.json, or such a document.")],
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Hold an adapter and its lineage against chain and artifacts.

    Each false field is named, with exit code 4. No verifier is believed, and no wallet is needed.
    """
    from proofyard.sdk.ancestry import verify_result
    from proofyard.sdk.lineages import lineage_cid

    with visiting(context, flags, store) as client:
        said, now = verify_result(client, path), client.chain.now()
        final_at = max(each.final_at for each in said.settlements)
        if said.onto:
            final_at = client.rounds(client.job(int(said.job)).job_id).final_at(said.round)
    final_in = max(0, final_at - now)
    facts = {"job": said.job, "round": said.round, "lineage": lineage_cid(said), "adapter": said.adapter}
    text = f"round {said.round} of job {said.job}: every field holds"
    emit(facts | {"final_in": str(final_in)}, as_json=as_json, text=text)
    if final_in:
        note(f"what it rests on can be challenged for {final_in} s more")
    if said.start.network != said.network:
        there = said.start.network
        note(f"it goes on from job {said.start.job} of Registry {there.registry} on chain {there.chain_id}: look there")


@contextmanager
def visiting(context: typer.Context, flags: NetworkFlags, store: Path | None) -> Iterator["Client"]:
    """An SDK client of nobody in particular, which pays and signs nothing on chain; `store` keeps what it reads."""
    settings = network_of(context, flags)
    from proofyard.chain import Wallet
    from proofyard.sdk import Client

    with Client(
        settings.rpc_url,
        settings.registry,
        Wallet.generate(),
        data_dir=store,
        first_block=settings.from_block,
        chain_id=settings.chain_id or None,
    ) as client:
        yield client


def _row(said: "RoundLineage") -> tuple[str, ...]:
    start = said.start
    before = f"round {start.round}" if start.round else "the seed"
    return (
        f"{said.round} of {said.rounds}",
        before if start.job == said.job else f"{before} of job {start.job}",
        str(len(said.deltas)),
        str(len({each.node for each in said.deltas})),
        ", ".join(each.batch for each in said.settlements),
        said.adapter,
    )
