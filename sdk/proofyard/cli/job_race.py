"""`proofyard job race`: which of several trained adapters is best, by audited evaluations."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proofyard.cli.clients import open_client
from proofyard.cli.errors import UsageError
from proofyard.cli.options import LARGEST_ID, WalletFlags
from proofyard.cli.output import AsJson, emit, note, parse_credits, table

if TYPE_CHECKING:
    from proofyard.sdk import Client, Place


def race(
    context: typer.Context,
    flags: WalletFlags,
    jobs: Annotated[list[int], typer.Argument(metavar="JOB", help="Jobs that trained an adapter.")],
    model: Annotated[str | None, typer.Option(help="Folder or hub name of their base model.")] = None,
    data: Annotated[Path | None, typer.Option(help="What they are ranked by, as for evaluate.")] = None,
    reward: Annotated[
        Any, typer.Option(parser=parse_credits, metavar="CREDIT", help="Pay of the workers, each evaluation.")
    ] = None,
    audit_fee: Annotated[
        Any, typer.Option(parser=parse_credits, metavar="CREDIT", help="Pay of the auditors, the same.")
    ] = None,
    judged: Annotated[
        list[int] | None,
        typer.Option(min=1, max=LARGEST_ID, metavar="JOB", help="An evaluation that is there; may be repeated."),
    ] = None,
    nonce: Annotated[str, typer.Option(help="A word of yours: the same race is paid once.")] = "race",
    as_json: AsJson = False,
) -> None:
    """Rank trained adapters by audited evaluations on one data set.

    With --judged nothing is paid: it ranks by evaluations of anybody.
    """
    from proofyard.sdk import ranking

    with open_client(context, flags) as client:
        evaluations = judged or _evaluate(client, jobs, model, data, reward, audit_fee, nonce)
        found = ranking(client, jobs, evaluations)
    facts = {"model": found.model, "data": found.data, "places": [_facts(place) for place in found.places]}
    rows = [_row(place) for place in found.places]
    emit(facts, as_json=as_json, text=table(rows, ("RANK", "JOB", "LOSS", "PERPLEXITY", "ACCURACY", "EVALUATED BY")))
    for place in found.places:
        if place.seen:
            note(f"job {place.job} was trained on the data that it is ranked by")
    judges = " ".join(f"--judged {number}" for number in evaluations)
    note(f"anybody finds the same: proofyard job race {' '.join(map(str, jobs))} {judges}")


def _evaluate(
    client: "Client",
    jobs: list[int],
    model: str | None,
    data: Path | None,
    reward: Any,
    audit_fee: Any,
    nonce: str,
) -> list[int]:
    """Open the evaluations and wait for them."""
    from proofyard.sdk import EvaluateJob, Offer
    from proofyard.sdk import race as enter

    if model is None or data is None or reward is None or audit_fee is None:
        given = {"--model": model, "--data": data, "--reward": reward, "--audit-fee": audit_fee}
        missing = next(name for name, value in given.items() if value is None)
        raise UsageError(f"{missing}: give it for the evaluations, or --judged with those that are there")
    handles = enter(
        client, jobs, EvaluateJob(model=model, data=data), Offer(reward=reward, audit_fee=audit_fee), nonce=nonce
    )
    numbers = [handle.job_id for handle in handles]
    note(f"evaluations: jobs {', '.join(map(str, numbers))}, the first of the model alone")
    for handle in handles:
        handle.watch()
    return list(numbers)


def _facts(place: "Place") -> dict[str, Any]:
    return asdict(place) | {"job": None if place.job is None else str(place.job), "evaluation": str(place.evaluation)}


def _row(place: "Place") -> tuple[str, ...]:
    accuracy = "" if place.accuracy is None else f"{place.accuracy:.1%}"
    who = "model alone" if place.job is None else str(place.job)
    return (
        str(place.rank),
        who,
        f"{place.loss:.4f}",
        f"{place.perplexity:.3f}",
        accuracy,
        f"job {place.evaluation}",
    )
