"""What `job submit` and `job estimate` are told: the job and its terms."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proofyard.cli.errors import UsageError
from proofyard.cli.output import parse_credits

if TYPE_CHECKING:
    from proofyard.sdk import JobSpec, Offer

TERMS, TRAINING = "terms", "training"
"""Panels of options."""
FIELDS = (
    *("model", "data", "rounds", "workers", "segments", "segment_steps", "batch", "seq_len", "rank", "lr"),
    *("look_ahead", "chat_template", "adapter", "seed"),
)
"""Options that are fields of the job's spec."""


@dataclass(frozen=True, kw_only=True)
class JobFlags:
    """A job and what is offered for it."""

    data: Annotated[Path, typer.Option(help="JSONL, CSV, TSV or Parquet.")]
    reward: Annotated[Any, typer.Option(parser=parse_credits, metavar="CREDIT", help="Pay of the workers.")]
    audit_fee: Annotated[Any, typer.Option(parser=parse_credits, metavar="CREDIT", help="Pay of the auditors.")]
    verifier_fee: Annotated[
        Any,
        typer.Option(
            parser=parse_credits,
            metavar="CREDIT",
            help="Pay of the verifiers; without it 5% of the reward and their gas.",
            rich_help_panel=TERMS,
        ),
    ] = None
    auditors: Annotated[
        int,
        typer.Option(help="Owners that execute each segment that is drawn; at least 2.", rich_help_panel=TERMS),
    ] = 2
    segments_per_audit: Annotated[
        int,
        typer.Option(help="Segments that are drawn of an audited task.", rich_help_panel=TERMS),
    ] = 1
    deadline: Annotated[
        int,
        typer.Option(metavar="SECONDS", help="How long the job may take.", rich_help_panel=TERMS),
    ] = 24 * 3600
    model: Annotated[Path | None, typer.Option(help="A Hugging Face model directory; map can do without.")] = None
    workload: Annotated[str, typer.Option(help="lora, sweep, embed, evaluate or map.")] = "lora"
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any parameter of the job, as JSON or text.",
        ),
    ] = None
    rounds: Annotated[
        int | None,
        typer.Option(help="lora: rounds of training and averaging.", rich_help_panel=TRAINING),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(help="lora: tasks side by side in a round.", rich_help_panel=TRAINING),
    ] = None
    segments: Annotated[
        int | None,
        typer.Option(help="Segments a task is checked by.", rich_help_panel=TRAINING),
    ] = None
    segment_steps: Annotated[
        int | None,
        typer.Option(help="lora: optimizer steps in a segment.", rich_help_panel=TRAINING),
    ] = None
    batch: Annotated[int | None, typer.Option(help="lora: sequences in a step.", rich_help_panel=TRAINING)] = None
    seq_len: Annotated[int | None, typer.Option(help="lora: tokens in a sequence.", rich_help_panel=TRAINING)] = None
    rank: Annotated[int | None, typer.Option(help="lora: rank of the adapter.", rich_help_panel=TRAINING)] = None
    lr: Annotated[float | None, typer.Option(help="lora: learning rate.", rich_help_panel=TRAINING)] = None
    look_ahead: Annotated[
        int | None,
        typer.Option(
            help="lora: rounds that may start before the verdicts of those before; 1 if not given.",
            rich_help_panel=TRAINING,
        ),
    ] = None
    chat_template: Annotated[
        str | None,
        typer.Option(
            help="For conversations, where the model has none: chatml, or a .jinja file.",
            rich_help_panel=TRAINING,
        ),
    ] = None
    adapter: Annotated[
        str | None,
        typer.Option(
            help="evaluate: a LoRA adapter for the model: a folder, a CID, or a job's number.",
            rich_help_panel=TRAINING,
        ),
    ] = None
    preset: Annotated[
        str | None,
        typer.Option(help="A size: small, medium or large; other options change it.", rich_help_panel=TRAINING),
    ] = None
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.", rich_help_panel=TRAINING)] = 0
    nonce: Annotated[
        str,
        typer.Option(
            help="A word of yours: every call with the same word and job finds the one job.",
            rich_help_panel=TERMS,
        ),
    ] = ""

    def spec(self) -> "JobSpec":
        """The job. Raises `UsageError` for options that contradict each other, `JobRefused` for what is no job."""
        from proofyard.sdk import make_job

        values = {name: getattr(self, name) for name in FIELDS}
        given = {name: value for name, value in values.items() if value is not None}
        parsed = _parsed(self.parameters or [])
        if twice := sorted((given.keys() - {"seed"}) & parsed.keys()):
            raise UsageError(f"--set {twice[0]}: --{twice[0].replace('_', '-')} says it too; give one of them")
        given |= parsed
        return make_job(self.workload, given if self.preset is None else _preset(self.preset, self.workload, given))

    def offer(self) -> "Offer":
        """What is offered for it."""
        from proofyard.sdk import Offer

        return Offer(
            reward=self.reward,
            audit_fee=self.audit_fee,
            verifier_fee=self.verifier_fee,
            auditors_per_segment=self.auditors,
            segments_per_audit=self.segments_per_audit,
            deadline_s=self.deadline,
        )


def _preset(name: str, workload: str, given: dict[str, Any]) -> dict[str, Any]:
    from proofyard.runtime.presets import JOB_PRESETS, job_preset

    if name not in JOB_PRESETS:
        raise UsageError(f"--preset: there is none named {name!r}; give {', '.join(JOB_PRESETS)}")
    return job_preset(name, workload, given)


_PYTHONS = {"True": True, "False": False, "None": None}
"""Values that people know from Python; as texts they would be true."""


def _parsed(parameters: list[str]) -> dict[str, Any]:
    """NAME=VALUE pairs, each value read as JSON where it is JSON."""
    found: dict[str, Any] = {}
    for parameter in parameters:
        name, equals, text = parameter.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {parameter}: give NAME=VALUE")
        if name in found:
            raise UsageError(f"--set {parameter}: {name} is set twice; give it once")
        try:
            found[name] = _PYTHONS[text] if text in _PYTHONS else json.loads(text)
        except ValueError:
            found[name] = text
    return found
