"""The model card of a job's result: what a hub, and whoever takes the model from there, wants to know of it.

What it says of tasks, audits and money is read from the chain and from settled records that are validated here; a loss
while training is what a node reported, and the card says so.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from proofyard.protocol.amounts import format_amount
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.types import BatchId, Cid, JobId, Wei
from proofyard.sdk.checks import Checks

if TYPE_CHECKING:
    from proofyard.chain import JobRecord

CARD = "README.md"
TAGS = ("lora", "proofyard", "verified-compute")
MOST_LOSSES = 20
MUCH = 1e6
"""A loss beyond it is no longer shown with four decimals."""
MOST_ROWS = 50
"""Of a table."""

T = TypeVar("T")


@dataclass(frozen=True)
class Round:
    """A round of training, counted from 1: how many deltas it took of how many nodes, the batches that accepted them,
    and the mean of the last losses that these nodes reported, None where nobody did."""

    number: int
    deltas: int
    nodes: int
    batches: tuple[BatchId, ...]
    loss: float | None = None


@dataclass(frozen=True)
class Told:
    """All that a card says. `base` is what the model is called, `paid` what was settled for the job; `losses` are steps
    (from 1) with the mean loss that nodes reported; `gas` is that of the settlements, None where it is not known;
    `lineage` is the document beside the card; `datasets` are hub names that the requester gives; `evaluations` are
    jobs, what they evaluated, and their summaries (evaluation.json)."""

    job: JobId
    manifest_cid: Cid
    manifest: Manifest
    record: "JobRecord"
    network: str
    checks: Checks
    batches: Sequence[tuple[BatchId, Cid]]
    paid: Wei
    base: str
    merged: bool
    rounds: Sequence[Round] = ()
    losses: Sequence[tuple[int, float]] = ()
    gas: int | None = None
    lineage: Cid | None = None
    datasets: Sequence[str] = ()
    evaluations: Sequence[tuple[JobId, str, Mapping[str, Any]]] = ()


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
        _rounds(told),
        _losses(told),
        _evaluations(told),
        _checks(told),
        _faults(told),
        _costs(told),
        _check_it(told),
    ]
    return "\n".join(part for part in parts if part)


def _head(told: Told) -> str:
    # JSON is YAML, so no name can break out of its line.
    values: dict[str, Any] = {} if told.base.startswith(("ipfs://", "/")) else {"base_model": told.base}
    if told.datasets:
        values["datasets"] = list(told.datasets)
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
    rows += [(name, said[name]) for name in _NAMES if said.get(name) not in (None, False)]
    if begins := said.get("begins"):
        rows.append(("goes on from", f"round {begins['round']} of job {begins['job']}"))
    return "## Training\n\n" + _table(("what", "value"), rows)


_NAMES = (
    *("objective", "beta", "rank", "alpha", "lr", "rounds", "workers", "segments", "segment_steps"),
    *("batch", "seq_len", "packing", "aggregation", "robust", "compression", "overlap"),
)


def _rounds(told: Told) -> str:
    if not told.rounds:
        return ""
    rows = [
        (
            each.number,
            each.deltas,
            each.nodes,
            ", ".join(map(str, each.batches)),
            "" if each.loss is None else _loss(each.loss),
        )
        for each in evenly(told.rounds, MOST_ROWS)
    ]
    return "### Rounds\n\n" + _table(("round", "deltas", "nodes", "accepted in batches", "loss reported last"), rows)


def _losses(told: Told) -> str:
    if not told.losses:
        return ""
    rows = [(step, _loss(loss)) for step, loss in evenly(told.losses, MOST_LOSSES)]
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
    checks = told.checks
    rows: list[tuple[object, ...]] = [
        ("tasks committed", checks.tasks),
        ("nodes that worked", checks.nodes),
        ("segments executed again by auditors", checks.segments),
        *((f"of these {verdict}", count) for verdict, count in checks.verdicts),
        ("faults", len(checks.faults)),
        *((str(each), "") for each in _most(checks.too_much)),
        ("auditors a segment", told.record.auditors_per_segment),
    ]
    found = "## Checks\n\n" + _table(("what", "value"), rows)
    if checks.auditors:
        shown = _most(checks.auditors)
        found += "\n" + _table(("auditor (owner)", "answers"), shown) + _left_out(checks.auditors)
    return found


def _faults(told: Told) -> str:
    faults = told.checks.faults
    if not faults:
        return ""
    rows = [
        (each.batch, each.task, "result" if each.segment is None else each.segment, each.owner, each.kind, each.reason)
        for each in _most(faults)
    ]
    head = "### Faults\n\nWhat was found faulty was not paid, and done again.\n\n"
    return head + _table(("batch", "task", "segment", "owner", "what", "reason"), rows) + _left_out(faults)


def _costs(told: Told) -> str:
    record, checks = told.record, told.checks
    rows = [
        ("escrow for work", format_amount(record.reward)),
        ("escrow for audits", format_amount(record.audit_fee)),
        ("escrow for verifiers", format_amount(record.verifier_fee)),
        ("paid of it, in the batches below", format_amount(told.paid)),
        ("verifiers' part of these batches", format_amount(checks.fees)),
    ]
    if told.gas is not None:
        rows.append(("gas of settling them", f"{told.gas:,}"))
    found = "## Cost\n\n" + _table(("what", "value"), rows)
    if checks.paid:
        paid = [(each.owner, format_amount(each.work), format_amount(each.audits)) for each in _most(checks.paid)]
        found += "\n" + _table(("owner", "for work", "for audits"), paid) + _left_out(checks.paid)
    if checks.shared:
        named = ", ".join(map(str, _most(checks.shared)))
        found += f"\nOther jobs have tasks in batches {named}: what owners were paid there is for all of them.\n"
    return found


def _check_it(told: Told) -> str:
    rows: list[tuple[object, ...]] = [("manifest", told.manifest_cid)]
    rows += [(name, cid) for name, cid in (("model", told.manifest.model), ("data", told.manifest.data)) if cid]
    if told.manifest.adapter:
        rows.append(("what it goes on from", told.manifest.adapter))
    if told.lineage:
        rows.append(("lineage.json", told.lineage))
    rows += [(f"record of batch {batch}", cid) for batch, cid in _most(told.batches)]
    commands = "\n".join(f"proofyard verifier dispute replay {batch}" for batch, _ in _most(told.batches))
    if told.lineage and not told.merged:
        commands = "proofyard job verify .\n" + commands
    return (
        f"## Check it\n\nJob {told.job} on {told.network}.\n\n"
        + _table(("artifact", "CID"), rows)
        + _left_out(told.batches)
        + f"\n```sh\nproofyard job show {told.job}\n{commands}\n```\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(_plain(str(cell)) for cell in line) + " |\n" for line in lines)


def _loss(loss: float) -> str:
    return f"{loss:.4f}" if abs(loss) < MUCH else f"{loss:.3e}"


def _plain(text: str) -> str:
    """A text from outside in a cell: on one line, and no markup of its own."""
    return "".join(" " if ord(c) < 32 else f"\\{c}" if c in "|`<>[]\\" else c for c in text)[:300]


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most so many of them, evenly, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def _most(items: Sequence[T]) -> Sequence[T]:
    return items[:MOST_ROWS]


def _left_out(items: Sequence[object]) -> str:
    return f"\nAnd {len(items) - MOST_ROWS} more.\n" if len(items) > MOST_ROWS else ""
