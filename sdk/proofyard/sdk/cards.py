"""The model card of a job's result: what a hub, and whoever takes the model from there, wants to know of it.

What it says of tasks, audits and money is read from the chain and from settled records that are validated here; a loss
while training is what a node reported, and the card says so.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proofyard.protocol.amounts import format_amount
from proofyard.protocol.audit import Verdict
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.types import BatchId, Cid, JobId, Wei

if TYPE_CHECKING:
    from proofyard.chain import JobRecord
    from proofyard.disputes.settled import Settled

CARD = "README.md"
TAGS = ("lora", "proofyard", "verified-compute")
MOST_LOSSES = 20


@dataclass(frozen=True)
class Audits:
    """What the settled records of a job say: tasks committed, segments that auditors executed again and how many of
    these were found right, faults, and how many nodes worked."""

    tasks: int
    segments: int
    valid: int
    faults: int
    nodes: int


@dataclass(frozen=True)
class Told:
    """All that a card says. `base` is what the model is called, `paid` what was settled for the job; `losses` are steps
    (from 1) with the mean loss that nodes reported; `evaluations` are jobs, what they evaluated, and their summaries
    (evaluation.json)."""

    job: JobId
    manifest_cid: Cid
    manifest: Manifest
    record: "JobRecord"
    network: str
    audits: Audits
    batches: Sequence[tuple[BatchId, Cid]]
    paid: Wei
    base: str
    merged: bool
    losses: Sequence[tuple[int, float]] = ()
    evaluations: Sequence[tuple[JobId, str, Mapping[str, Any]]] = ()


def audits_of(job: JobId, batches: Sequence["Settled"]) -> Audits:
    """Counts over the settled batches of a job."""
    segments = [each for batch in batches for each in batch.record.audits if each.job == job]
    faults = [each for batch in batches for each in batch.record.faults if each.job == job]
    tasks = [each.commitment for batch in batches for each in batch.record.tasks if each.commitment.job == job]
    valid = sum(each.verdict is Verdict.VALID for each in segments)
    return Audits(len(tasks), len(segments), valid, len(faults), len({each.node for each in tasks}))


def write_card(folder: Path, told: Told) -> Path:
    """Write the card of a result into its folder."""
    file = folder / CARD
    file.write_text(card(told), encoding="utf-8")
    return file


def card(told: Told) -> str:
    """The card, with the hub's metadata at its head."""
    parts = [
        _head(told),
        _what(told),
        _training(told),
        _losses(told),
        _evaluations(told),
        _checks(told),
        _check_it(told),
    ]
    return "\n".join(part for part in parts if part)


def _head(told: Told) -> str:
    # JSON is YAML, so no name can break out of its line.
    values: dict[str, Any] = {} if told.base.startswith(("ipfs://", "/")) else {"base_model": told.base}
    library = {"library_name": "transformers"} if told.merged else {"library_name": "peft"}
    values |= library | {"pipeline_tag": "text-generation", "tags": list(TAGS)}
    return "---\n" + "".join(f"{name}: {json.dumps(value)}\n" for name, value in values.items()) + "---\n"


def _what(told: Told) -> str:
    what = "Model with the LoRA adapter of" if told.merged else "LoRA adapter of"
    merged = ", with the adapter merged into its weights" if told.merged else ""
    return f"""# {what} job {told.job}

`{_plain(told.base)}`, fine-tuned on a Proofyard network{merged}: by nodes that stake on their work, in segments
that others executed again, to the same bits.
"""


def _training(told: Told) -> str:
    manifest, params = told.manifest, told.manifest.params
    said = params.get("base", params)
    rows: list[tuple[str, object]] = [
        ("workload", manifest.workload),
        ("precision of the frozen weights", manifest.precision),
    ]
    rows += [("seed", manifest.seed)]
    rows += [(name, said[name]) for name in _NAMES if name in said]
    return "## Training\n\n" + _table(("what", "value"), rows)


_NAMES = (
    *("objective", "beta", "rank", "alpha", "lr", "rounds", "workers", "segments", "segment_steps"),
    *("batch", "seq_len", "packing"),
)


def _losses(told: Told) -> str:
    if not told.losses:
        return ""
    rows = [(step, f"{loss:.4f}") for step, loss in thinned(told.losses, MOST_LOSSES)]
    head = (
        "Mean loss in nats a learned token, as nodes reported it while they worked; these figures are not audited.\n\n"
    )
    return "### Losses\n\n" + head + _table(("step", "loss"), rows)


def _evaluations(told: Told) -> str:
    if not told.evaluations:
        return ""
    rows = [
        (job, what, summary.get("rows", ""), f"{summary['loss']:.4f}", f"{summary['perplexity']:.3f}")
        for job, what, summary in told.evaluations
    ]
    return "## Evaluation\n\nBy audited jobs.\n\n" + _table(("job", "model", "rows", "loss", "perplexity"), rows)


def _checks(told: Told) -> str:
    audits, record = told.audits, told.record
    rows = [
        ("tasks committed", audits.tasks),
        ("nodes that worked", audits.nodes),
        ("segments executed again by auditors", audits.segments),
        ("of these found right", audits.valid),
        ("faults", audits.faults),
        ("auditors a segment", record.auditors_per_segment),
        ("escrow for work", format_amount(record.reward)),
        ("escrow for audits", format_amount(record.audit_fee)),
        ("escrow for verifiers", format_amount(record.verifier_fee)),
    ]
    rows.append(("paid of it, in the batches below", format_amount(told.paid)))
    return "## Checks and cost\n\n" + _table(("what", "value"), rows)


def _check_it(told: Told) -> str:
    rows: list[tuple[object, ...]] = [("manifest", told.manifest_cid)]
    rows += [(name, cid) for name, cid in (("model", told.manifest.model), ("data", told.manifest.data)) if cid]
    rows += [(f"record of batch {batch}", cid) for batch, cid in told.batches]
    commands = "\n".join(f"proofyard verifier dispute replay {batch}" for batch, _ in told.batches)
    return (
        f"## Check it\n\nJob {told.job} on {told.network}.\n\n"
        + _table(("artifact", "CID"), rows)
        + f"\n```sh\nproofyard job show {told.job}\n{commands}\n```\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(_plain(str(cell)) for cell in line) + " |\n" for line in lines)


def _plain(text: str) -> str:
    """A text from outside in a cell: on one line, and no markup of its own."""
    return "".join(" " if ord(c) < 32 else f"\\{c}" if c in "|`<>[]\\" else c for c in text)[:300]


def thinned(items: Sequence[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """At most so many of them, evenly, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]
