"""Job specs of the workloads beside `lora`: what a requester says, turned into a manifest once the inputs have CIDs.

from proofyard.sdk import EmbedJob, submit_job

handle = submit_job(EmbedJob(model="all-minilm-l6-v2", data="sentences.jsonl"))
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

import msgspec

from proofyard.protocol.manifest import Manifest
from proofyard.protocol.types import Cid
from proofyard.sdk.adapters import Adapter, read_adapter, require_base
from proofyard.sdk.errors import JobRefused
from proofyard.sdk.peft_words import WORDS, from_peft
from proofyard.sdk.specs import Data, JobSpec, LoraJob, executable, resolve_model
from proofyard.workloads.adapted import linear_modules
from proofyard.workloads.embed import WORKLOAD as EMBED
from proofyard.workloads.errors import InputRefused
from proofyard.workloads.evaluate import WORKLOAD as EVALUATE
from proofyard.workloads.exact.models import encoder_blueprint
from proofyard.workloads.preprocess import WORKLOAD as MAP
from proofyard.workloads.rows import RowsWorkload
from proofyard.workloads.sweep import WORKLOAD as SWEEP
from proofyard.workloads.text_data import Document, each_line

ENTRY_POINT_GROUP = "proofyard.jobs"
SEQ_LEN = 128
"""Of a sweep's candidates that say nothing else."""


@dataclass(frozen=True, kw_only=True)
class RowsJob:
    """What jobs over the lines of a JSONL file share: `segments` segments of `segment_rows` lines make a task."""

    data: Data
    segment_rows: int = 64
    segments: int = 8
    seed: int = 0
    precision: str = "exact"

    def _manifest(
        self,
        workload: RowsWorkload,
        params: dict[str, Any],
        model: Cid | None,
        data: Cid | None,
        folder: Path | str | None,
        adapter: Adapter | None = None,
    ) -> Manifest:
        rows = count_rows(Path(self.data), workload.row_type)
        manifest = Manifest(
            workload=workload.name,
            params={"rows": rows, "segment_rows": self.segment_rows, "segments": self.segments} | params,
            model=model,
            data=data,
            seed=self.seed,
            precision=self.precision,
            adapter=None if adapter is None else adapter.cid,
        )
        return executable(manifest, folder, self.data, None if adapter is None else adapter.data)


@dataclass(frozen=True, kw_only=True)
class EmbedJob(RowsJob):
    """A vector for every line's `text`, from the encoder in the directory `model`. See `EmbedParams`."""

    model: Path | str
    max_tokens: int = 256
    pooling: str = "mean"
    normalize: bool = True

    def manifest(self, model: Cid | None, data: Cid | None) -> Manifest:
        params = {
            "dimensions": encoder_blueprint(resolve_model(self.model)).config.hidden,
            "max_tokens": self.max_tokens,
            "pooling": self.pooling,
            "normalize": self.normalize,
        }
        return self._manifest(EMBED, params, model, data, self.model)


@dataclass(frozen=True, kw_only=True)
class EvaluateJob(RowsJob):
    """Perplexity of `model` on every line, or its accuracy where lines have `choices`. See `EvaluateParams`.

    Of conversations what the assistant says is scored; `chat_template` as for `LoraJob`. With `adapter` the model is
    evaluated with that LoRA adapter: a folder that PEFT or a job has saved, the CID of one, or the number of the job
    that trained it.
    """

    model: Path | str
    choices: int = 1
    max_tokens: int = 512
    chat_template: str = ""
    adapter: Path | str | int | None = None

    def longest_text(self) -> int:
        """The tokens that a conversation may have."""
        return self.max_tokens

    def manifest(self, model: Cid | None, data: Cid | None) -> Manifest:
        params: dict[str, Any] = {"choices": self.choices, "max_tokens": self.max_tokens}
        if self.adapter is None:
            return self._manifest(EVALUATE, params, model, data, self.model)
        folder = Path(str(self.adapter))
        adapter = read_adapter(folder)
        require_base(folder, model)
        params["adapter"] = msgspec.to_builtins(adapter.shape)
        return self._manifest(EVALUATE, params, model, data, self.model, adapter)


@dataclass(frozen=True, kw_only=True)
class MapJob(RowsJob):
    """Clean, filter, chunk and deduplicate a text set. `model` lends its tokenizer where chunks have a size."""

    model: Path | str | None = None
    min_characters: int = 1
    max_characters: int = 1 << 24
    chunk_tokens: int = 0

    def manifest(self, model: Cid | None, data: Cid | None) -> Manifest:
        params = {
            "min_characters": self.min_characters,
            "max_characters": self.max_characters,
            "chunk_tokens": self.chunk_tokens,
        }
        return self._manifest(MAP, params, model, data, self.model)


@dataclass(frozen=True, kw_only=True)
class SweepJob:
    """A search over `vary` (parameter of `LoraParams` to values), every candidate trained with `base` otherwise.

    `samples` 0 tries all combinations. `targets` and `layers` choose the adapted linear layers, as for `lora`.
    """

    model: Path | str
    data: Data
    vary: Mapping[str, Sequence[Any]]
    base: Mapping[str, Any] = field(default_factory=dict)
    targets: Sequence[str] | Literal["all-linear"] = ("q_proj", "v_proj")
    layers: Sequence[int] | None = None
    samples: int = 0
    sequences: int = 32
    seed: int = 0
    precision: str = "exact"
    chat_template: str = ""

    def longest_text(self) -> int:
        """The tokens that a conversation may have in every candidate."""
        lengths = [self.base.get("seq_len", SEQ_LEN), *self.vary.get("seq_len", ())]
        return min((each for each in lengths if isinstance(each, int)), default=SEQ_LEN) - 1

    def manifest(self, model: Cid | None, data: Cid | None) -> Manifest:
        count_rows(Path(self.data), Document)
        base = dict(self.base)
        if "modules" in base:
            raise JobRefused("base.modules: name the linear layers in targets, and in layers")
        words = {name: base.pop(name) for name in list(base) if name in WORDS}
        said = from_peft(words, base.get("rank", 8), base.get("alpha", 16.0), base)
        targets, layers = said.pop("targets", self.targets), said.pop("layers", self.layers)
        modules = linear_modules(resolve_model(self.model), targets, layers)
        usual = {
            "rank": 8,
            "alpha": 16.0,
            "lr": 3e-3,
            "segments": 4,
            "segment_steps": 2,
            "batch": 4,
            "seq_len": SEQ_LEN,
        }
        params = {
            "base": usual | base | said | {"modules": modules},
            "vary": {name: list(values) for name, values in self.vary.items()},
            "samples": self.samples,
            "sequences": self.sequences,
        }
        manifest = Manifest(
            workload=SWEEP.name,
            params=params,
            model=model,
            data=data,
            seed=self.seed,
            precision=self.precision,
        )
        return executable(manifest, self.model, self.data)


def count_rows(data: Path, kind: type[Any]) -> int:
    """The lines of a JSONL file, each read as a node will: as a `kind`. Raises `InputRefused` with the number of the
    first that does not fit, or where there is none."""
    try:
        return sum(1 for _ in each_line(data, kind))
    except OSError as error:
        raise InputRefused("data file", f"{data} cannot be read: {error.strerror}") from None


JOBS: dict[str, type[LoraJob | EmbedJob | EvaluateJob | MapJob | SweepJob]] = {
    "lora": LoraJob,
    "embed": EmbedJob,
    "evaluate": EvaluateJob,
    "map": MapJob,
    "sweep": SweepJob,
}
"""The job spec of each workload that comes with Proofyard."""


def job_kind(workload: str) -> type[Any]:
    """The job spec of a workload, also of one from outside: a dataclass under its name among the entry points
    `proofyard.jobs`. Raises `JobRefused`."""
    found = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if workload in JOBS:
        return JOBS[workload]
    if workload not in found:
        known = ", ".join([*JOBS, *sorted(found.keys() - JOBS.keys())])
        raise JobRefused(f"workload: {str(workload)[:80]!r} has no job spec here; known are {known}")
    try:
        kind = found[workload].load()
    except Exception as error:  # it is somebody else's code
        raise JobRefused(
            f"workload: the job spec of {workload} cannot be loaded ({error}); install it again"
        ) from error
    if not (isinstance(kind, type) and is_dataclass(kind) and callable(getattr(kind, "manifest", None))):
        raise JobRefused(f"workload: {found[workload].value} is no job spec: a dataclass with a method manifest")
    return kind


def make_job(workload: str, values: Mapping[str, Any]) -> JobSpec:
    """The job spec of a workload from named values. Raises `JobRefused` for an unknown workload or name."""
    kind = job_kind(workload)
    if kind is LoraJob and (words := {name: value for name, value in values.items() if name in WORDS}):
        said = from_peft(words, values.get("rank", LoraJob.rank), values.get("alpha", LoraJob.alpha), values)
        values = {name: value for name, value in values.items() if name not in WORDS} | said
    known = {item.name: item for item in fields(kind)}
    unknown = sorted(values.keys() - known.keys())
    if unknown:
        raise JobRefused(f"{unknown[0]}: the {workload} job has no such parameter; it has {', '.join(known)}")
    needed = {n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING}
    missing = sorted(needed - values.keys())
    if missing:
        raise JobRefused(f"{missing[0]}: the {workload} job needs it")
    found: JobSpec = kind(**values)
    return found
