"""A race: jobs that trained an adapter for one model, ranked by audited `evaluate` jobs on one data set.

Nothing of it is anybody's word: which adapter a job has trained follows from its settled result, which one was
evaluated from the evaluation's manifest, and how well from that job's settled result. So whoever knows the numbers
finds the same ranking.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from proofyard.protocol.amounts import format_amount
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.types import Cid, JobId, Wei
from proofyard.sdk.adapters import one_adapter, read_adapter
from proofyard.sdk.core import LARGEST_ID
from proofyard.sdk.delivery import evaluated_by, trained_by
from proofyard.sdk.errors import JobRefused
from proofyard.sdk.jobs import EvaluateJob
from proofyard.sdk.terms import Offer

if TYPE_CHECKING:
    from proofyard.sdk.client import Client
    from proofyard.sdk.handles import JobHandle

MAX_ENTRANTS = 100


@dataclass(frozen=True)
class Place:
    """One entrant. `rank` counts from 1, equal results share one; `job` is None for the model without an adapter.
    `loss` is the mean negative log-likelihood of a token in nats, `accuracy` a share where lines have choices. `seen`:
    the job was trained on the very data that it is ranked by."""

    rank: int
    job: JobId | None
    evaluation: JobId
    adapter: Cid | None
    rows: int
    loss: float
    perplexity: float
    accuracy: float | None = None
    seen: bool = False


@dataclass(frozen=True)
class Ranking:
    """The places, best first: by accuracy where there is one, then by loss."""

    model: Cid
    data: Cid
    places: tuple[Place, ...]


def race(
    client: "Client", jobs: Sequence[int], spec: EvaluateJob, offer: Offer, *, nonce: str = "race"
) -> list["JobHandle"]:
    """Have the model of `spec` evaluated without an adapter and with that of each of `jobs`, at the terms `offer` each:
    handles of these evaluations, in that order. `spec` says model, data and how; its `adapter` is left out of account.

    Called again with the same `nonce` it finds what it has opened before. Raises `JobRefused` before anything is paid.
    """
    entrants = _entrants(jobs)
    for job in entrants:
        trained_by(client, job)
    specs = [replace(spec, adapter=job) for job in (None, *entrants)]
    prepared = [client.prepare(each, offer, nonce) for each in specs]
    needed = sum(each.terms.escrow for each in prepared if each.since is None)
    if needed > (balance := client.chain.token_balance(client.wallet.address)):
        raise JobRefused(
            f"reward: {len(prepared)} evaluations take {format_amount(Wei(needed))} CREDIT in all, and the wallet has "
            f"{format_amount(Wei(balance))}; offer less for each, or have tokens sent to it"
        )
    return [client.open(each) for each in prepared]


def ranking(client: "Client", jobs: Sequence[int], evaluations: Sequence[int]) -> Ranking:
    """Rank `jobs` by settled `evaluations`: one of each job's adapter, and as many of the model without one. All are to
    be of the same model, data and parameters. Raises `JobRefused` with what does not fit, and what `JobHandle.result`
    raises where one is not settled."""
    entrants = _entrants(jobs)
    found = {JobId(each): evaluated_by(client, JobId(each)) for each in evaluations}
    _require_alike({job: manifest for job, (manifest, _) in found.items()})
    trained = {job: (trained_by(client, job), _adapter_of(client, job)) for job in entrants}
    of_adapter: dict[Cid | None, list[JobId]] = {}
    for job, (_, cid) in trained.items():
        of_adapter.setdefault(cid, []).append(job)
    if missing := [job for job, (_, cid) in trained.items() if cid not in {m.adapter for m, _ in found.values()}]:
        raise JobRefused(f"evaluations: none is of the adapter of job {missing[0]}; give the job that evaluated it")
    places = []
    for number, (manifest, summary) in found.items():
        owners: list[JobId | None] = [None] if manifest.adapter is None else [*of_adapter.get(manifest.adapter, ())]
        if not owners:
            raise JobRefused(f"evaluations: job {number} evaluated an adapter of none of these jobs; leave it out")
        for owner in owners:
            seen = owner is not None and trained[owner][0].data == manifest.data
            places.append(_place(owner, number, manifest, summary, seen))
    (common, _), *_ = found.values()
    assert common.model is not None and common.data is not None
    return Ranking(common.model, common.data, tuple(ranked(places)))


def ranked(places: Sequence[Place]) -> list[Place]:
    """The same entrants in order, each with its rank; equal ones by their numbers, the model alone first."""
    ordered = sorted(places, key=lambda each: (*_score(each), each.job or 0, each.evaluation))
    ranks = {each: 1 + sum(_score(other) < _score(each) for other in ordered) for each in ordered}
    return [replace(each, rank=ranks[each]) for each in ordered]


def _score(place: Place) -> tuple[float, float]:
    return (-(place.accuracy or 0.0), place.loss)


def _entrants(jobs: Sequence[int]) -> list[JobId]:
    entrants = [JobId(job) for job in jobs]
    if wrong := [job for job in entrants if not 1 <= job <= LARGEST_ID]:
        raise JobRefused(f"jobs: {wrong[0]} is no job's number; they count from 1")
    if len(entrants) != len(set(entrants)):
        twice = next(job for job in entrants if entrants.count(job) > 1)
        raise JobRefused(f"jobs: job {twice} is named twice; name each once")
    if not 1 <= len(entrants) <= MAX_ENTRANTS:
        raise JobRefused(f"jobs: {len(entrants)} are named; a race has 1 to {MAX_ENTRANTS}")
    return entrants


def _adapter_of(client: "Client", job: JobId) -> Cid:
    """The adapter of a job's settled result, as evaluations name it."""
    with TemporaryDirectory(prefix="proofyard-race-") as folder:
        return read_adapter(one_adapter(client.job(job).result(Path(folder) / "result"), f"job {job}")).cid


def _require_alike(manifests: dict[JobId, Manifest]) -> None:
    if not manifests:
        raise JobRefused("evaluations: none is named; give the evaluate jobs, as `job race` printed them")
    first, *others = manifests
    for other in others:
        one, two = _compared(manifests[first]), _compared(manifests[other])
        if differing := next((name for name in one if one[name] != two[name]), ""):
            raise JobRefused(
                f"evaluations: jobs {first} and {other} differ in {differing}; name evaluations of one kind"
            )


def _compared(manifest: Manifest) -> dict[str, Any]:
    """What evaluations have to have in common."""
    params = {name: value for name, value in manifest.params.items() if name != "adapter"}
    return {
        "model": manifest.model,
        "data": manifest.data,
        "precision": manifest.precision,
        **{f"params.{name}": params[name] for name in sorted(params)},
    }


def _place(job: JobId | None, number: JobId, manifest: Manifest, summary: dict[str, Any], seen: bool) -> Place:
    return Place(
        rank=0,
        job=job,
        evaluation=number,
        adapter=manifest.adapter,
        rows=summary["rows"],
        loss=summary["loss"],
        perplexity=summary["perplexity"],
        accuracy=summary.get("accuracy"),
        seen=seen,
    )
