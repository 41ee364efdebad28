"""A job's result as people pass it on: merged into its model, with a model card, sent to a hub."""

import json
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, Manifest, decode_manifest
from proofyard.protocol.types import Cid, JobId, Wei
from proofyard.sdk.adapters import adapters_of, one_adapter, read_adapter
from proofyard.sdk.cards import Told, audits_of, write_card
from proofyard.sdk.destinations import require_free
from proofyard.sdk.errors import JobRefused, NoVerifier
from proofyard.sdk.hub import push_folder, require_repository
from proofyard.sdk.results import manifest_of
from proofyard.sdk.specs import called, resolve_model
from proofyard.transport import TransportError
from proofyard.workloads.errors import InputRefused
from proofyard.workloads.model_files import link_model
from proofyard.workloads.state import decode_state

if TYPE_CHECKING:
    from proofyard.sdk.client import Client
    from proofyard.sdk.handles import JobHandle

logger = logging.getLogger("proofyard.sdk")

TRAINED = ("lora", "sweep")


def deliver(
    handle: "JobHandle",
    dest: Path | str,
    *,
    merge: bool = False,
    card: bool = False,
    evaluated: Sequence[int] = (),
    push_to: str = "",
    force: bool = False,
    model: Path | str | None = None,
    on_replace: Callable[[list[str]], object] = lambda _: None,
) -> Path:
    """Write a job's result to the directory `dest`, as `JobHandle.result` does, and with `merge` the base model with
    the adapter in it instead (`proofyard.workloads.merging` says which bits).

    `card` adds a model card, with the results of the jobs `evaluated` in it; `push_to` sends all of it to a model
    repository `owner/name` of the hub that huggingface_hub is logged in to. Raises as `result` does, `JobRefused` for
    what cannot be done, and `NotPushed` where only the hub refuses: the folder is there then.
    """
    target, client, job = Path(dest), handle.client, handle.job_id
    if push_to:
        require_repository(push_to)
    if model is not None:
        called(model)
    manifest = trained_by(client, job) if merge or card else None
    if manifest is None or not merge:
        handle.result(target, force=force, model=model, on_replace=on_replace)
    else:
        require_free(target, force=force)
        _merge(handle, manifest, target, model, on_replace)
    if card:
        write_card(target, _told(handle, target, merge, evaluated, model))
    if push_to:
        _require_public(target)
        logger.warning("%s is at %s", target, push_folder(target, push_to))
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
    model: Path | str | None,
    on_replace: Callable[[list[str]], object],
) -> None:
    """The base model with a job's adapter in it, put in place once it is whole."""
    from proofyard.workloads.merging import merge

    dest.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".proofyard-", dir=dest.parent) as folder:
        adapter = one_adapter(handle.result(Path(folder) / "result", model=model), f"job {handle.job_id}")
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


def _told(handle: "JobHandle", dest: Path, merged: bool, evaluated: Sequence[int], model: Path | str | None) -> Told:
    client, job = handle.client, handle.job_id
    cid, manifest = _work(client, job)
    batches = [client.settled(batch) for batch in handle.prove().batches]
    lines = [line for batch in batches for line in batch.event.lines if line.job == job]
    return Told(
        job=job,
        manifest_cid=cid,
        manifest=manifest,
        record=client.chain.job(job),
        network=f"chain {client.chain.chain_id}, Registry {client.chain.registry}",
        audits=audits_of(job, batches),
        batches=[(batch.event.batch, batch.event.record) for batch in batches],
        paid=Wei(sum(line.amount for line in lines)),
        base=str(model) if model and not Path(model).exists() else _base_of(dest),
        merged=merged,
        losses=_losses(handle, manifest),
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


def _losses(handle: "JobHandle", manifest: Manifest) -> list[tuple[int, float]]:
    """The steps of the job with the mean of what nodes reported; none where its verifier is away."""
    params: dict[str, Any] = manifest.params
    if manifest.workload != "lora":
        return []
    found: dict[int, list[float]] = defaultdict(list)
    seen = 0
    try:
        while lines := [line for line in handle.status(seen).log if line.seq > seen]:
            for line in lines:
                if line.loss is not None and line.step and line.task is not None:
                    number = int(line.task) // params["workers"]
                    found[number * params["segments"] * params["segment_steps"] + line.step].append(line.loss)
            seen = lines[-1].seq
    except (NoVerifier, TransportError) as error:
        logger.warning("the card has no losses of training: %s", error)
    return [(step, sum(losses) / len(losses)) for step, losses in sorted(found.items())]


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
