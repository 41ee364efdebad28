"""A job's result as people pass it on: merged into its model, with a model card, sent to a hub."""

import json
import logging
import math
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from proofyard.artifacts.builder import cid_of_bytes
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, Manifest, decode_manifest
from proofyard.protocol.types import Cid, JobId, Wei
from proofyard.sdk.adapters import adapters_of, one_adapter, read_adapter
from proofyard.sdk.ancestry import lineage as lineage_of_job
from proofyard.sdk.ancestry import write_lineage
from proofyard.sdk.cards import Round, Told, write_card
from proofyard.sdk.checks import checks_of
from proofyard.sdk.destinations import require_free
from proofyard.sdk.errors import JobRefused, NoVerifier
from proofyard.sdk.hub import push_folder, require_dataset, require_repository
from proofyard.sdk.lineages import FILE
from proofyard.sdk.results import Accepted, accepted_in, manifest_of, standing_batches
from proofyard.sdk.specs import called, resolve_model
from proofyard.transport import TransportError
from proofyard.workloads.errors import InputRefused
from proofyard.workloads.lora_params import read_params
from proofyard.workloads.model_files import link_model
from proofyard.workloads.state import decode_state

if TYPE_CHECKING:
    from proofyard.disputes.settled import Settled
    from proofyard.sdk.client import Client
    from proofyard.sdk.handles import JobHandle

logger = logging.getLogger("proofyard.sdk")

TRAINED = ("lora", "sweep")


def deliver(
    handle: "JobHandle",
    dest: Path | str,
    *,
    merge: bool = False,
    round: int | None = None,
    lineage: bool = False,
    card: bool = False,
    evaluated: Sequence[int] = (),
    datasets: Sequence[str] = (),
    push_to: str = "",
    private: bool = True,
    force: bool = False,
    model: Path | str | None = None,
    on_replace: Callable[[list[str]], object] = lambda _: None,
) -> Path:
    """Write a job's result to the directory `dest`, as `JobHandle.result` does, and with `merge` the base model with
    the adapter in it instead (`proofyard.workloads.merging` says which bits).

    `round` takes the adapter after that round, counted from 1, of a job that need not be done; `lineage` adds the
    document of where it comes from (`proofyard.sdk.lineages`).
    `card` adds a model card, with the results of the jobs `evaluated` in it, and `datasets` as the hub's names of the
    data; `push_to` sends all of it to a model repository `owner/name` of the hub that huggingface_hub is logged in to,
    `private` where it is new. Raises as `result` does, `JobRefused` for
    what cannot be done, and `NotPushed` where only the hub refuses: the folder is there then.
    """
    target, client, job = Path(dest), handle.client, handle.job_id
    if push_to:
        require_repository(push_to)
    for name in datasets:
        require_dataset(name)
    if model is not None:
        called(model)
    manifest = trained_by(client, job) if merge or card else None

    def write(folder: Path, **more: Any) -> Path:
        if round is None:
            return handle.result(folder, model=model, **more)
        return handle.round_result(round, folder, model=model, **more)

    if manifest is None or not merge:
        write(target, force=force, on_replace=on_replace)
    else:
        require_free(target, force=force)
        _merge(handle, manifest, target, write, on_replace)
    if lineage:
        documents = lineage_of_job(client, job)
        number = documents[-1].round if round is None else round
        write_lineage(target, next(each for each in documents if each.round == number))
    if card:
        write_card(target, _told(handle, target, merge, round, evaluated, model, datasets))
    if push_to:
        _require_public(target)
        logger.warning("%s is at %s", target, push_folder(target, push_to, private=private))
    return target


def trained_by(client: "Client", job: JobId) -> Manifest:
    """The manifest of a job that trains an adapter. Raises `JobRefused` for others."""
    _, manifest = _work(client, job)
    if manifest.workload not in TRAINED:
        raise JobRefused(f"job {job}: is one of {manifest.workload}; only adapters are merged and have a model card")
    return manifest


def _merge(
    handle: "JobHandle",
    manifest: Manifest,
    dest: Path,
    write: Callable[[Path], Path],
    on_replace: Callable[[list[str]], object],
) -> None:
    """The base model with a job's adapter in it, put in place once it is whole."""
    from proofyard.workloads.merging import merge

    dest.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".proofyard-", dir=dest.parent) as folder:
        adapter = one_adapter(write(Path(folder) / "result"), f"job {handle.job_id}")
        name = json.loads((adapter / "adapter_config.json").read_bytes())["base_model_name_or_path"]
        if name.startswith("ipfs://"):
            raise JobRefused(
                f"model: the adapter names its model by CID alone; give the directory or hub name of {name}"
            )
        base = resolve_model(name)
        cid, _ = link_model(handle.client.store, base)
        if cid != manifest.model:
            raise JobRefused(f"model: {name} is {cid}, and the job trained on {manifest.model}; give that one")
        read = read_adapter(adapter)
        try:
            merged = merge(base, read.shape, decode_state(read.data), Path(folder) / "merged")
        except InputRefused as error:
            raise JobRefused(f"model: {error}") from None
        shutil.copyfile(adapter / "proofyard.json", merged / "proofyard.json")
        files = sorted(merged.iterdir())
        if replaced := [file.name for file in files if os.path.lexists(dest / file.name)]:
            on_replace(replaced)
        dest.mkdir(exist_ok=True)
        for file in files:
            file.replace(dest / file.name)


def _require_public(folder: Path) -> None:
    """Raise `JobRefused` where an adapter names its model by a path that only this machine has."""
    for each in adapters_of(folder):
        name = json.loads((each / "adapter_config.json").read_bytes())["base_model_name_or_path"]
        if Path(name).is_absolute():
            raise JobRefused(
                f"push_to: the adapter in {folder} names its model by a path of this machine; give its hub name "
                "(--model OWNER/NAME) with --force, or merge it"
            )


def _told(
    handle: "JobHandle",
    dest: Path,
    merged: bool,
    round: int | None,
    evaluated: Sequence[int],
    model: Path | str | None,
    datasets: Sequence[str],
) -> Told:
    client, job = handle.client, handle.job_id
    cid, manifest = _work(client, job)
    numbers = handle.prove().batches if round is None else standing_batches(client.chain, job)
    batches = [client.settled(batch) for batch in numbers]
    losses = _losses(handle, manifest)
    lines = [line for batch in batches for line in batch.event.lines if line.job == job]
    return Told(
        job=job,
        manifest_cid=cid,
        manifest=manifest,
        record=client.chain.job(job),
        network=f"chain {client.chain.chain_id}, Registry {client.chain.registry}",
        checks=checks_of(job, manifest, batches),
        batches=[(batch.event.batch, batch.event.record) for batch in batches],
        paid=Wei(sum(line.amount for line in lines)),
        base=str(model) if model and not Path(model).exists() else _base_of(dest),
        merged=merged,
        rounds=_rounds(job, manifest, batches, losses),
        losses=[(step, mean_of(found)) for step, found in sorted(losses.items())],
        gas=_gas(client, batches),
        lineage=cid_of_bytes((dest / FILE).read_bytes()) if (dest / FILE).is_file() else None,
        datasets=datasets,
        evaluations=[_evaluation(client, JobId(number)) for number in evaluated],
    )


def _work(client: "Client", job: JobId) -> tuple[Cid, Manifest]:
    """A job's manifest as the chain names it."""
    cid = manifest_of(client.chain, job)
    return cid, decode_manifest(client.read(cid, MAX_MANIFEST_BYTES))


def _base_of(dest: Path) -> str:
    """What the result's model is called by whoever is not on this machine: a hub name, or the CID."""
    for folder in adapters_of(dest)[:1]:
        name: str = json.loads((folder / "adapter_config.json").read_bytes())["base_model_name_or_path"]
        if not name.startswith("/"):
            return name
    with suppress(OSError, ValueError, LookupError):
        address: str = json.loads((next(dest.rglob("proofyard.json"), dest)).read_bytes())["base_model"]
        return address
    return ""


def _rounds(
    job: JobId, manifest: Manifest, batches: Sequence["Settled"], losses: Mapping[int, Sequence[float]]
) -> list[Round]:
    """The rounds of a `lora` job, as far as the batches hold their tasks."""
    if manifest.workload != "lora":
        return []
    params, found = read_params(manifest), accepted_in(job, batches)
    rounds: dict[int, list[Accepted]] = defaultdict(list)
    for task, each in sorted(found.items()):
        rounds[params.begun + task // params.workers + 1].append(each)
    last: dict[int, float] = {}
    for step in sorted(losses):
        last[(step - 1) // params.task_steps + 1] = mean_of(losses[step])
    return [
        Round(
            number=number,
            deltas=len(taken),
            nodes=len({each.commitment.node for each in taken}),
            batches=tuple(sorted({each.settled.event.batch for each in taken})),
            loss=last.get(number),
        )
        for number, taken in sorted(rounds.items())
    ]


def _losses(handle: "JobHandle", manifest: Manifest) -> dict[int, list[float]]:
    """What nodes reported of each step, counted from 1 over all rounds; nothing where the job's verifier is away."""
    found: dict[int, list[float]] = defaultdict(list)
    if manifest.workload != "lora":
        return found
    params = read_params(manifest)
    try:
        for line in handle.log():
            if line.loss is not None and math.isfinite(line.loss) and line.step and line.task is not None:
                number = params.begun + int(line.task) // params.workers
                if params.begun <= number < params.rounds and line.step <= params.task_steps:
                    found[number * params.task_steps + line.step].append(line.loss)
    except (NoVerifier, TransportError) as error:
        logger.warning("the card has no losses of training: %s", error)
    return found


def mean_of(found: Sequence[float]) -> float:
    return math.fsum(found) / len(found)


def _gas(client: "Client", batches: Sequence["Settled"]) -> int | None:
    """Of the transactions that settled some batches; None where the endpoint has forgotten one."""
    found = [client.chain.gas_of(batch.event.position) for batch in batches]
    return sum(each for each in found if each is not None) if None not in found else None


def _evaluation(client: "Client", job: JobId) -> tuple[JobId, str, dict[str, Any]]:
    manifest, summary = evaluated_by(client, job)
    return job, "base model" if manifest.adapter is None else f"with adapter {manifest.adapter}", summary


def evaluated_by(client: "Client", job: JobId) -> tuple[Manifest, dict[str, Any]]:
    """What an `evaluate` job was to score, and its settled result (evaluation.json). Raises `JobRefused` for another
    kind of job, and what `JobHandle.result` raises."""
    _, manifest = _work(client, job)
    if manifest.workload != "evaluate":
        raise JobRefused(f"evaluated: job {job} is one of {manifest.workload}; give jobs of evaluate")
    with TemporaryDirectory(prefix="proofyard-evaluation-") as folder:
        path = client.job(job).result(Path(folder) / "result") / "evaluation.json"
        summary: dict[str, Any] = json.loads(path.read_bytes())
    return manifest, summary
