"""A job as it would be opened: everything of submitting that costs nothing."""

import hashlib
import logging
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from proofyard.artifacts import BlockStore
from proofyard.chain import ChainClient, JobTerms, Wallet
from proofyard.protocol.amounts import format_amount
from proofyard.protocol.cid import cid_digest
from proofyard.protocol.manifest import Manifest, TaskSpec, encode_manifest
from proofyard.protocol.offering import objection
from proofyard.protocol.types import Address, Cid, JobId, Wei
from proofyard.sdk.adapters import read_adapter
from proofyard.sdk.bounds import Limits
from proofyard.sdk.errors import JobRefused
from proofyard.sdk.inputs import Sources, as_files
from proofyard.sdk.specs import JobSpec, LoraJob, called, check_spec, resolve_model
from proofyard.sdk.terms import (
    Offer,
    check_audit_fee,
    check_nonce,
    check_sizes,
    check_task_rewards,
    check_verifier_fee,
    check_work,
    job_terms,
    most_of_a_task,
    owners_needed,
)
from proofyard.workloads.errors import InputRefused, ManifestRefused, ModelMisread, UnknownWorkload
from proofyard.workloads.local_data import local_name
from proofyard.workloads.model_files import link_model
from proofyard.workloads.trial import try_model
from proofyard.workloads.workload import all_tasks, caps_of, load_workload, local_data

logger = logging.getLogger("proofyard.sdk")


@dataclass(frozen=True)
class Prepared:
    """A job that could be opened: nothing of it is published or paid yet. `artifacts` are the manifest and its
    inputs; `left_out` names what of the model's folder is not published; `model` is the hub name or directory that the
    requester calls its model, "" for none; `length` says what its epochs came to, "" where it names none."""

    terms: JobTerms
    manifest: Manifest
    artifacts: tuple[Cid, ...]
    call: str = ""
    """By what the same call is known again."""
    since: int | None = None
    """It may have been opened before, from this block on."""
    left_out: tuple[str, ...] = ()
    model: str = ""
    length: str = ""


@dataclass(frozen=True)
class Work:
    """What a spec comes to, its model and data linked into a store."""

    manifest: Manifest
    graph: tuple[TaskSpec, ...]
    inputs: tuple[Cid, ...]
    left_out: tuple[str, ...]
    model: str
    length: str


def work_of(spec: JobSpec, store: BlockStore, sources: Sources, limits: Limits) -> Work:
    """Raises `JobRefused` with the field for whatever nodes would refuse of it."""
    with refusing():
        check_spec(spec, but=("data",))
        with as_files(spec, store, sources, limits) as here:
            check_spec(here)
            here, length = here.measured() if isinstance(here, LoraJob) else (here, "")
            manifest, left_out = _manifest(here, store)
        graph = all_tasks(load_workload(manifest.workload), manifest)
        check_work(manifest, graph)
        model = "" if here.model is None else called(here.model)
        return Work(manifest, graph, tuple(manifest.inputs), tuple(left_out), model, length)


def prepare(
    work: Work,
    offer: Offer,
    nonce: str,
    *,
    chain: ChainClient,
    wallet: Wallet,
    store: BlockStore,
    pays: bool = True,
) -> Prepared:
    """The job that `work` of a spec is, with these terms. Raises `JobRefused` with the field, and where it `pays`
    `InsufficientBalance`."""
    check_nonce(nonce)
    check_task_rewards(work.graph, offer.reward, most_of_a_task(chain.params().court.receipt_penalty))
    check_audit_fee(work.graph, offer)
    gas_price = chain.gas_price()
    check_verifier_fee(len(work.graph), offer, gas_price)
    if work.model:
        with refusing():
            try_model(work.manifest, resolve_model(work.model))
    call = _call(chain, wallet, work.manifest, offer, nonce)
    with wallet.turns.take() as turn:
        cut_off = turn.submission(call)
    own, since = nonce or secrets.token_hex(16), chain.first_block if nonce else None
    if cut_off is not None:
        own, since = cut_off.split()[0], int(cut_off.split()[1])
    manifest = msgspec.structs.replace(work.manifest, nonce=own)
    cid = store.put_bytes(encode_manifest(manifest))
    terms = job_terms(manifest, cid_digest(cid), work.graph, offer, gas_price, chain.next_time())
    require_auditors(chain, manifest, terms, work.graph, wallet.address)
    if since is None and pays:
        chain.require_balance(terms.escrow)
    return Prepared(terms, manifest, (cid, *work.inputs), call, since, work.left_out, work.model, work.length)


def require_auditors(
    chain: ChainClient, manifest: Manifest, terms: JobTerms, graph: Sequence[TaskSpec], requester: Address
) -> None:
    """Raise `JobRefused` where data stays at home and fewer of the owners that the job names have a node now than its
    audits take. Whoever computes a task does not audit it, nor does an owner that leads or signs."""
    local = local_data(load_workload(manifest.workload), manifest)
    if local is None or local.unaudited:
        return
    barred = {requester, *(seat.owner for seat in chain.active_verifiers())}
    there = {node.owner for node in chain.active_nodes() if node.workloads >> terms.workload & 1} - barred
    needed, found = owners_needed(graph, terms) - 1, len(there & local.owners)
    if found < needed:
        raise JobRefused(
            f"local: of the {len(local.owners)} auditors that it names, {found} have a node that may audit now; "
            f"{needed} are needed (k + 1 for each segment that is drawn). Name more owners that were given the data, "
            "or say that nobody audits what is computed from it (unaudited: true)"
        )


UNPAID = "the reward is 0: nodes take such a job only where their setting `unpaid` is on, and it waits for one"


def short_of_owners(chain: ChainClient, prepared: Prepared) -> str:
    """A sentence where the job pays nothing, the network has too few owners for it now, or none whose stake backs one
    of its tasks, so that it would wait for more; else empty."""
    name, terms = prepared.manifest.workload, prepared.terms
    if not terms.reward:
        return UNPAID
    graph, local = all_tasks(load_workload(name), prepared.manifest), local_data(load_workload(name), prepared.manifest)
    needed = 1 if local is not None and local.unaudited else owners_needed(graph, terms)
    nodes = [node for node in chain.active_nodes() if node.workloads >> terms.workload & 1]
    owners = {node.owner for node in nodes}
    if len(owners) < needed:
        return (
            f"this job needs nodes of {needed} owners for {name} (k = {terms.auditors_per_segment} auditors, "
            f"m = {terms.segments_per_audit} segments) and the network has {len(owners)} now: it waits for more"
        )
    capped = caps_of(load_workload(name), prepared.manifest)
    if capped is not None and len(owners) < (least := capped[1].owners_needed(capped[0])):
        return (
            f"this job lets one owner do {capped[1].owner} of the {capped[0]} tasks of a round (caps), which takes "
            f"{least} owners, and the network has {len(owners)} for {name} now: it waits for more"
        )
    params = chain.params()
    for segments, units in {(spec.segments, spec.work_units) for spec in graph}:
        reward = Wei(terms.reward * units // terms.units)
        objections = [
            objection(
                stake,
                reward,
                Wei(0),
                segments=segments,
                segments_per_audit=terms.segments_per_audit,
                auditors_per_segment=terms.auditors_per_segment,
                others=len(owners) - 1,
                collusion_bps=params.collusion_bps,
                given_back_bps=params.given_back_bps,
            )
            for stake in sorted({node.stake for node in nodes}, reverse=True)
        ]
        if all(objections):
            return (
                f"no node can be offered a task of {format_amount(reward)} now: {objections[0]}; the job waits for "
                "more owners or stake, or give less reward a task"
            )
    return ""


def place_of(chain: ChainClient, job: JobId) -> str:
    """By what a wallet knows a job among those of all networks."""
    return f"{chain.chain_id} {chain.registry} {job}"


_FIELDS = {"data file": "data", "adapter": "adapter", "the start": "start"}
"""What errors of inputs name, to the field of a job."""


@contextmanager
def refusing() -> Iterator[None]:
    """What nodes refuse of parameters, model and data, as what is wrong with a job."""
    try:
        yield
    except InputRefused as error:
        field = next((field for word, field in _FIELDS.items() if word in error.what), "model")
        said = _shortened(str(error))
        raise JobRefused(f"{field}: {said}; nothing was published or paid, correct it and submit again") from None
    except ModelMisread as error:
        raise JobRefused(f"model: {error}; nothing was published or paid") from None
    except ManifestRefused as error:
        raise JobRefused(f"{error.field}: {_shortened(error.reason)}; nothing was published or paid") from None
    except UnknownWorkload as error:
        raise JobRefused(f"workload: {error}") from None


def _shortened(text: str) -> str:
    """A reason on one line, without the middle of a value that is a page long."""
    line = " ".join(text.split())
    return line if len(line) <= 600 else f"{line[:300]} ... {line[-300:]}"


def _call(chain: ChainClient, wallet: Wallet, manifest: Manifest, offer: Offer, nonce: str) -> str:
    """What two calls have in common that are the same: network, wallet, work and terms."""
    place = (chain.chain_id, chain.registry, wallet.address, nonce)
    return hashlib.sha256(repr((place, manifest, offer)).encode()).hexdigest()


def _manifest(spec: JobSpec, store: BlockStore) -> tuple[Manifest, list[str]]:
    model: Cid | None = None
    data: Cid | None = None
    left_out: list[str] = []
    if spec.model is not None:
        model, left_out = link_model(store, resolve_model(spec.model))
        if left_out:
            logger.info("of the model's folder are not published: %s", ", ".join(left_out))
    if spec.data is not None and not local_name(spec.data):
        if not Path(spec.data).is_file():
            raise JobRefused(f"data: {spec.data} is no file; give the path of a JSONL, CSV or Parquet file")
        data = store.link_file(Path(spec.data))
    check_sizes({field: store.size(cid) for field, cid in (("model", model), ("data", data)) if cid is not None})
    manifest = spec.manifest(model, data)
    load_workload(manifest.workload).check(manifest)
    for field, cid in (("model", model), ("data", data)):
        if cid is not None and store.local_path(cid) is None:
            raise JobRefused(f"{field}: changed while it was looked at; submit again once nobody writes to it")
    if manifest.adapter is not None:
        start = getattr(spec, "start", None)
        store.put_bytes(read_adapter(Path(getattr(spec, "adapter", ""))).data if start is None else start)
    return manifest, left_out
