"""What `job submit` and `job estimate` are told: the job and its terms."""

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proofyard.cli.errors import UsageError
from proofyard.cli.options import parse_duration
from proofyard.cli.output import parse_credits
from proofyard.protocol.codec import read_json

if TYPE_CHECKING:
    from proofyard.sdk import JobSpec, Offer

TERMS, TRAINING = "terms", "training"
"""Panels of options."""


@dataclass(frozen=True, kw_only=True)
class JobFlags:
    """A job and what is offered for it."""

    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A job file, as `job init` makes one.")] = None
    data: Annotated[Path | None, typer.Option(help="JSONL, CSV, TSV or Parquet; local:NAME stays at home.")] = None
    reward: Annotated[Any, typer.Option(parser=parse_credits, metavar="CREDIT", help="Pay of the workers.")] = None
    audit_fee: Annotated[Any, typer.Option(parser=parse_credits, metavar="CREDIT", help="Pay of the auditors.")] = None
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
        int | None,
        typer.Option(help="Owners that execute each segment that is drawn; 2 if not given.", rich_help_panel=TERMS),
    ] = None
    segments_per_audit: Annotated[
        int | None,
        typer.Option(help="Segments that are drawn of an audited task; 1 if not given.", rich_help_panel=TERMS),
    ] = None
    deadline: Annotated[
        Any,
        typer.Option(
            parser=parse_duration,
            metavar="TIME",
            help="How long the job may take, such as 12h; 24h if not given.",
            rich_help_panel=TERMS,
        ),
    ] = None
    model: Annotated[Path | None, typer.Option(help="A Hugging Face model directory.")] = None
    workload: Annotated[str | None, typer.Option(help="lora (if not given), sweep, embed, evaluate or map.")] = None
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any parameter of the job, as JSON or text.",
        ),
    ] = None
    rounds: Annotated[
        int | None, typer.Option(help="lora: rounds of training and averaging.", rich_help_panel=TRAINING)
    ] = None
    epochs: Annotated[
        float | None,
        typer.Option(help="lora: in place of rounds, times that all of the data is learned.", rich_help_panel=TRAINING),
    ] = None
    workers: Annotated[
        int | None, typer.Option(help="lora: tasks side by side in a round.", rich_help_panel=TRAINING)
    ] = None
    segments: Annotated[int | None, typer.Option(help="Segments a task is checked by.", rich_help_panel=TRAINING)] = (
        None
    )
    segment_steps: Annotated[
        int | None, typer.Option(help="lora: optimizer steps in a segment.", rich_help_panel=TRAINING)
    ] = None
    batch: Annotated[int | None, typer.Option(help="lora: sequences in a step.", rich_help_panel=TRAINING)] = None
    seq_len: Annotated[int | None, typer.Option(help="lora: tokens in a sequence.", rich_help_panel=TRAINING)] = None
    rank: Annotated[int | None, typer.Option(help="lora: rank of the adapter.", rich_help_panel=TRAINING)] = None
    lr: Annotated[float | None, typer.Option(help="lora: learning rate.", rich_help_panel=TRAINING)] = None
    packing: Annotated[
        bool | None,
        typer.Option(
            "--packing/--no-packing",
            help="lora: rows of whole documents that do not see each other.",
            rich_help_panel=TRAINING,
        ),
    ] = None
    objective: Annotated[
        str | None,
        typer.Option(
            help="lora: sft, or dpo for pairs of answers (prompt, chosen, rejected).", rich_help_panel=TRAINING
        ),
    ] = None
    beta: Annotated[
        float | None,
        typer.Option(
            help="lora, dpo: how closely the model stays with the base; 0.1 if not given.", rich_help_panel=TRAINING
        ),
    ] = None
    look_ahead: Annotated[
        int | None,
        typer.Option(
            help="lora: rounds that may start before the verdicts of those before; 1 if not given.",
            rich_help_panel=TRAINING,
        ),
    ] = None
    compression: Annotated[
        str | None,
        typer.Option(help="lora: int8, int4, two-bit, sign, topk-2bit: tasks send less.", rich_help_panel=TRAINING),
    ] = None
    chat_template: Annotated[
        str | None,
        typer.Option(
            help="For conversations, where the model has none: chatml, or a .jinja file.", rich_help_panel=TRAINING
        ),
    ] = None
    adapter: Annotated[
        str | None,
        typer.Option(
            help="evaluate: a LoRA adapter for the model: a folder, a CID, or a job's number.", rich_help_panel=TRAINING
        ),
    ] = None
    preset: Annotated[
        str | None, typer.Option(help="small, medium or large; other options change it.", rich_help_panel=TRAINING)
    ] = None
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same result; 0 if not given.", rich_help_panel=TRAINING)
    ] = None
    nonce: Annotated[
        str | None,
        typer.Option(
            help="A word of yours: every call with the same word and job finds the one job.", rich_help_panel=TERMS
        ),
    ] = None

    @cached_property
    def said(self) -> "Said":
        """What file and options come to, options last. Raises `UsageError` with the name that does not fit."""
        known = {each.name for each in fields(self)} - {"file", "parameters"}
        given = {name: value for name in sorted(known) if (value := getattr(self, name)) is not None}
        named = parsed(self.parameters or [])
        if twice := sorted(given.keys() & named.keys()):
            raise UsageError(f"--set {twice[0]}: --{twice[0].replace('_', '-')} says it too; give one of them")
        from proofyard.cli import job_file

        options = given | named
        values = ({} if self.file is None else job_file.read_job_file(self.file)) | options
        for name, other in (("epochs", "rounds"), ("rounds", "epochs")):
            if name in options and other not in options:  # options say it last, also how long it trains
                values.pop(other, None)
        workload = str(values.pop("workload", "lora"))
        job_file.require_known(values, workload)
        terms = {name: values.pop(name) for name in job_file.TERMS if name in values}
        for name in ("reward", "audit_fee"):
            if name not in terms:
                raise UsageError(
                    f"{name}: how much is it? Give --{name.replace('_', '-')}, or write it into a job file"
                )
        preset = values.pop("preset", None)
        return Said(workload, values if preset is None else _preset(str(preset), workload, values), terms)

    def spec(self) -> "JobSpec":
        """The job. Raises `UsageError` for what contradicts itself, `JobRefused` for what is no job."""
        from proofyard.sdk import make_job

        return make_job(self.said.workload, self.said.parameters)

    def offer(self) -> "Offer":
        """What is offered for it."""
        from proofyard.sdk import Offer

        terms = {_OFFERED.get(name, name): value for name, value in self.said.terms.items() if name != "nonce"}
        return Offer(**terms)


@dataclass(frozen=True)
class Said:
    """A job as it is called for: workload, parameters of its spec, terms by the names of job files."""

    workload: str
    parameters: dict[str, Any]
    terms: dict[str, Any]


_OFFERED = {"auditors": "auditors_per_segment", "deadline": "deadline_s"}
"""What terms are called in an `Offer`, where that is not their own name."""


def _preset(name: str, workload: str, given: dict[str, Any]) -> dict[str, Any]:
    from proofyard.runtime.presets import JOB_PRESETS, job_preset

    if name not in JOB_PRESETS:
        raise UsageError(f"--preset: there is none named {name!r}; give {', '.join(JOB_PRESETS)}")
    return job_preset(name, workload, given)


_PYTHONS = {"True": True, "False": False, "None": None}
"""Values that people know from Python; as texts they would be true."""


def parsed(parameters: list[str]) -> dict[str, Any]:
    """NAME=VALUE pairs, each value read as JSON where it is JSON."""
    found: dict[str, Any] = {}
    for parameter in parameters:
        name, equals, text = parameter.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {parameter}: give NAME=VALUE")
        if name in found:
            raise UsageError(f"--set {parameter}: {name} is set twice; give it once")
        try:
            found[name] = _PYTHONS[text] if text in _PYTHONS else read_json(text)
        except ValueError:
            found[name] = text
    return found
