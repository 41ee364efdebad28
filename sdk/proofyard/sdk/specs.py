"""Job specs: what a requester says, turned into a manifest once the model and the data have their CIDs."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Protocol,
    Self,
    TypeAlias,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from msgspec import Meta

from proofyard.protocol.caps import MOST, Caps
from proofyard.protocol.codec import prepared
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.roster import Voter
from proofyard.protocol.types import Cid
from proofyard.sdk.epochs import check_epochs, training_length
from proofyard.sdk.errors import JobRefused
from proofyard.sdk.peft_words import WORDS, from_peft
from proofyard.workloads.adapted import linear_modules
from proofyard.workloads.compression import Compression
from proofyard.workloads.inspection import check_inputs, training_rows
from proofyard.workloads.local_data import local_name
from proofyard.workloads.lora_params import BETA, LoraParams
from proofyard.workloads.model_files import INDEX, PUBLISHED
from proofyard.workloads.params import misfit
from proofyard.workloads.text_data import usual_split
from proofyard.workloads.workload import Inputs, load_workload

ROUNDS = 2
"""Of a LoRA job that says neither rounds nor epochs."""
OVERLAP_STEP = 0.5
"""How much of a delta is taken that counts a round late, where a job says nothing: a whole one overshoots."""
ROUND_S = 600
"""After so long nodes do without a result that is not there, where a job says nothing."""
if TYPE_CHECKING:
    Data: TypeAlias = Any
else:
    Data = Path | str
"""What holds rows, for whoever makes a job: a path, a dataset, a table, rows. What is no file is written to one
(`tables`) before a job's fields are looked at."""

_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


class JobSpec(Protocol):
    """Anything that `submit_job` takes. `model` is a model directory or hub name, `data` a local file; or None."""

    @property
    def model(self) -> Path | str | None: ...

    @property
    def data(self) -> Path | str | None: ...

    def manifest(self, model: Cid | None, data: Cid | None) -> Manifest:
        """The manifest, given the CIDs of `model` and `data`."""
        ...


class _Shared(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of `LoraParams` that say how a round is shared out."""

    workers: Annotated[int, Meta(ge=1, le=MOST)]
    caps: Caps


@dataclass(frozen=True, kw_only=True)
class LoraJob:
    """Fine-tune a causal language model with LoRA, in rounds over several nodes.

    `model`: a Hugging Face model directory with safetensors weights, or a name on the hub. `data`: rows with a `text`:
    a JSONL, CSV or Parquet file, a dataset, a DataFrame, dictionaries. Where rows have a `shard` too, with as many
    labels as there are workers, each worker trains on its own labels, else documents are dealt out one by one
    (`options={"shard_by": ...}` says which). Or rows with `messages` or `conversations`, of which what the assistant
    says is learned: the model's chat template renders them, or `chat_template`, "chatml" or a .jinja file. Or
    "local:NAME": data that each worker has itself and nobody publishes, of which `local` says {"digests": [...]}, one
    for each worker, and {"schema": "chat"} where lines are no plain texts (docs/federated.md).

    `targets`: names of the linear layers to adapt, or "all-linear", in all transformer layers or the given `layers`
    (negative numbers count from the last). The job takes `rounds` (2 if nothing is said) * `workers` tasks of
    `segments` * `segment_steps` steps, each of `batch` sequences of `seq_len` tokens. `epochs` in place of `rounds`
    trains on all of the data so many times, also a part of it (0.5): rounds follow from the data's measured size, and
    `segments` and `segment_steps` are the most that a round has (`training_length`). `options` sets any other field of
    `proofyard.workloads.lora_params.LoraParams`; PEFT's words are understood there (`use_rslora`) or refused by name,
    and `LoraJob.from_peft` takes its LoraConfig. A round starts on results whose verdicts are still to come, at most
    `look_ahead` of them resting on one another; 0 waits for them. The result is the same; what a cheat spoils is done
    again. `packing` fills the rows of `seq_len` tokens with whole documents that do not see each other; without it they
    stand end to end, and each sees what is before it in its row (docs/workloads.md). `compression`: what a task hands
    over is a small encoding of what it has changed, "int8" (a quarter of the bytes), "sign" (a thirtieth) or others,
    and what that leaves out comes with later rounds (docs/federated.md). `closing`: a round waits for a quorum and a
    time instead of everybody, {"quorum": 3, "timeout_s": 600}; what comes late counts less, in a later round, and what
    nobody commits to is not paid. `rounds_by` "nodes": what a round takes the network's nodes decide among themselves,
    by vote, and go on while no verifier is there; `closing` says when a round does without what is missing.
    `overlap`: a round starts without the deltas of the one before, which travel meanwhile and count in the next one, so
    that nobody waits for its line; half of each is taken, unless `options={"outer_lr": ...}` says how much
    (docs/federated.md).
    `precision` of the frozen weights: "exact", "exact8" (faster, less precise) or "exact4" (QLoRA, the least memory);
    see docs/exact.md.

    `objective` "dpo" (direct preference optimisation, arXiv 2305.18290) learns from rows with `prompt`, `chosen` and
    `rejected`, texts or lists of turns, to prefer what was chosen; a step takes `batch` pairs, and `beta` says how
    closely the model stays with the base model, the larger the closer.

    How a round's results are averaged (docs/federated.md): `aggregation` "ffa" trains and averages B alone, which is
    exact; "fedit" averages A and B, each for itself; "fedex" and "flora" keep the workers' products. `robust` names a
    rule that outvotes hostile results, of which `options={"robust_hostile": ...}` says how many there may be. `caps`:
    of a round's tasks one owner's nodes do {"owner": n} at most, nodes of one subnet {"subnet": n}, and what nobody
    may have waits. `ranks`: one rank for each worker, `rank` being the largest. `rslora` scales by alpha / sqrt(rank).
    """

    model: Path | str
    data: Data
    targets: Sequence[str] | Literal["all-linear"] = ("q_proj", "v_proj")
    layers: Sequence[int] | None = None
    rank: int = 8
    alpha: float = 16.0
    lr: float = 3e-3
    rounds: int | None = None
    epochs: float | None = None
    workers: int = 4
    segments: int = 4
    segment_steps: int = 2
    batch: int = 4
    seq_len: int = 128
    seed: int = 0
    precision: str = "exact"
    look_ahead: int = 1
    chat_template: str = ""
    packing: bool = False
    objective: Literal["sft", "dpo"] = "sft"
    beta: float = BETA
    compression: Compression | None = None
    closing: dict[str, int] | None = None
    rounds_by: Literal["chain", "nodes"] = "chain"
    voters: tuple[Voter, ...] = ()
    """Who decides with `rounds_by` "nodes"; found at submission where nobody is named."""
    overlap: bool = False
    local: dict[str, Any] | None = None
    aggregation: Literal["ffa", "fedit", "fedex", "flora"] = "ffa"
    robust: Literal["mean", "trimmed-mean", "median", "geometric-median", "centered-clipping", "krum", "multi-krum"] = (
        "mean"
    )
    caps: dict[str, int] | None = None
    ranks: Sequence[int] | None = None
    rslora: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_peft(cls, config: Any, *, model: Path | str, data: Data, **more: Any) -> Self:
        """A job from PEFT's `LoraConfig`, or a mapping of its words. Raises `JobRefused` that names what a job cannot
        do."""
        words = config if isinstance(config, Mapping) else config.to_dict()
        found = from_peft(words, cls.rank, cls.alpha, more)
        return cls(model=model, data=data, **{"rank": cls.rank, "alpha": cls.alpha} | found | more)

    def longest_text(self) -> int:
        """The tokens that a conversation may have: it is never cut, and closed by one more."""
        return self.seq_len - 1

    def _set(self) -> dict[str, Any]:
        """The fields that are not what they are anyway."""
        values = {each.name: (getattr(self, each.name), each.default) for each in fields(self)}
        return {name: value for name, (value, usual) in values.items() if value != usual}

    def measured(self) -> tuple[Self, str]:
        """This job with its `epochs` as rounds of its data's size, and a sentence that says so; as it is, and empty,
        where it names none. Reads all of the data. Raises `JobRefused` and `InputRefused`."""
        if self.epochs is None:
            return self, ""
        check_epochs(self.epochs, self.rounds)
        if local_name(self.data):
            raise JobRefused(f"epochs: {self.data} cannot be counted here, nobody but its owners has it; give rounds")
        one_round = replace(self, epochs=None, rounds=1)
        params = one_round._params()
        rows = training_rows(resolve_model(self.model), Path(self.data), params)
        length = training_length(self.epochs, sum(rows.of_workers), params)
        return replace(one_round, **length.fields()), length.told(self.epochs, rows.documents, params)

    def manifest(self, model: Cid | None, data: Cid | None) -> Manifest:
        if self.epochs is not None:
            return self.measured()[0].manifest(model, data)
        manifest = Manifest(
            workload="lora",
            params=_said(self._params()),
            model=model,
            data=data,
            seed=self.seed,
            precision=self.precision,
            look_ahead=self.look_ahead,
        )
        return executable(manifest, self.model, None if local_name(self.data) else self.data)

    @property
    def lacks_voters(self) -> bool:
        """Whether those who decide are still to be found."""
        return self.rounds_by == "nodes" and not self.voters

    def with_voters(self, voters: tuple[Voter, ...]) -> "LoraJob":
        """The same job, whose rounds these decide."""
        return replace(self, voters=voters)

    def _closing(self) -> dict[str, Any] | None:
        """By which rules its rounds close, with those who decide."""
        if self.rounds_by == "chain":
            return self.closing
        if not self.voters:
            raise JobRefused("voters: nobody is named who decides; submit_job asks the network's nodes")
        rules = self.closing or {"quorum": self.workers - self.workers // 3, "timeout_s": ROUND_S}
        return {**rules, "voters": msgspec.to_builtins(self.voters)}

    def _outer(self) -> str:
        """The outer optimizer that its options come to."""
        if self.options.get("outer_momentum", 0):
            return "nesterov"
        return "none" if self.options.get("outer_lr", OVERLAP_STEP if self.overlap else 1) == 1 else "plain"

    def _local(self) -> dict[str, Any]:
        """What its parameters say of data that stays at home."""
        name = local_name(self.data)
        if not name and self.local is None:
            return {}
        if not name or self.local is None or "name" in self.local:
            raise JobRefused(
                'local: goes with data "local:NAME", and says the digests of each worker\'s file: {"digests": [...]}'
            )
        return {"local": {"name": name, **self.local}}

    @property
    def capped(self) -> tuple[int, Caps]:
        """Shards of a round, and the most of them that one owner and one subnet do. Raises `JobRefused`."""
        values = {"workers": self.workers, "caps": self.caps or {}}
        try:
            shared = msgspec.convert(values, prepared(_Shared))
        except msgspec.ValidationError as error:
            field, reason = misfit(error, values, LoraParams)
            raise JobRefused(f"{field}: {reason}") from None
        return shared.workers, shared.caps

    def _params(self) -> LoraParams:
        if twice := sorted(self.options.keys() & {each.name for each in fields(self)}):
            raise JobRefused(
                f"options.{twice[0]}: is a parameter of the job itself; give it there, LoraJob({twice[0]}=...)"
            )
        words = {name: value for name, value in self.options.items() if name in WORDS}
        if self.rslora and words.get("use_rslora"):
            raise JobRefused("options.use_rslora: is rslora; give one of them")
        said = from_peft(words, self.rank, self.alpha, self._set())
        targets, layers = said.pop("targets", self.targets), said.pop("layers", self.layers)
        values = {
            "modules": linear_modules(resolve_model(self.model), targets, layers),
            "rank": self.rank,
            "alpha": self.alpha,
            "lr": self.lr,
            "rounds": ROUNDS if self.rounds is None else self.rounds,
            "workers": self.workers,
            "segments": self.segments,
            "segment_steps": self.segment_steps,
            "batch": self.batch,
            "seq_len": self.seq_len,
            "packing": self.packing,
            "objective": self.objective,
            "beta": self.beta,
            "compression": self.compression,
            "closing": self._closing(),
            "aggregation": self.aggregation,
            "robust": self.robust,
            "ranks": tuple(self.ranks or ()),
            "rslora": self.rslora,
            "outer": self._outer(),
            **({"outer_lr": OVERLAP_STEP} if self.overlap and self.options.get("outer") != "none" else {}),
            **{name: value for name, value in self.options.items() if name not in WORDS},
            **said,
            **self._local(),
            **({"caps": self.caps} if self.caps else {}),
            **({"overlap": True} if self.overlap else {}),
        }
        if "shard_by" not in values and "local" not in values and isinstance(self.workers, int):
            values["shard_by"] = usual_split(Path(self.data), self.workers)
        try:
            return msgspec.convert(values, prepared(LoraParams))
        except msgspec.ValidationError as error:
            field, reason = misfit(error, values, LoraParams)
            raise JobRefused(f"{field or 'options'}: {reason}") from None


def _said(params: LoraParams) -> dict[str, Any]:
    """Parameters as a manifest has them, without rules for rounds where there are none: so manifests of jobs without
    them stay as they were."""
    values: dict[str, Any] = msgspec.to_builtins(params)
    if params.closing is None:
        del values["closing"]
        return values
    for name in ("voters", "ahead"):
        if not getattr(params.closing, name):
            del values["closing"][name]
    return values


def executable(
    manifest: Manifest, model: Path | str | None, data: Path | str | None, adapter: bytes | None = None
) -> Manifest:
    """The manifest, once the code that nodes run has found nothing in model, data and adapter that it would refuse.
    Raises `ManifestRefused` and `InputRefused`."""
    load_workload(manifest.workload).check(manifest)
    inputs = Inputs(None if model is None else resolve_model(model), None if data is None else Path(data))
    with TemporaryDirectory(prefix="proofyard-adapter-") as folder:
        if adapter is not None:
            file = Path(folder) / "adapter"
            file.write_bytes(adapter)
            inputs = replace(inputs, adapter=file)
        check_inputs(manifest, inputs)
    return manifest


def check_spec(spec: Any, *, but: Collection[str] = ()) -> None:
    """Raise `JobRefused` for the first field of a job spec whose value is of another kind than the field says; specs
    that are no dataclasses are left alone, and the fields in `but`."""
    if not is_dataclass(spec):
        return
    hints = get_type_hints(type(spec))
    for each in fields(spec):
        value = getattr(spec, each.name)
        if isinstance(value, str | Path) and Path in get_args(hints[each.name]):
            _check_path(each.name, value)
        if each.name not in but:
            _check_plain(each.name, value)
        if each.name not in but and not _fits(value, hints[each.name]):
            raise JobRefused(f"{each.name}: is {repr(value)[:100]}; give {_called(hints[each.name])}")


DEEPEST = 16
"""Values in values."""


def _check_plain(field: str, value: Any, depth: int = 0) -> None:
    """Raise `JobRefused` for what a manifest cannot say: texts that are none, numbers of more than 64 bits, keys that
    are no texts, values in values without end."""
    if isinstance(value, str) and any("\ud800" <= each <= "\udfff" for each in value):
        raise JobRefused(f"{field}: holds half a character (a lone surrogate); remove it")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise JobRefused(f"{field}: holds the number {str(value)[:40]}; from -2**63 to 2**63 - 1 are possible")
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        if depth == DEEPEST:
            raise JobRefused(f"{field}: holds values more than {DEEPEST} deep; give plain ones")
        for key in value if isinstance(value, Mapping) else ():
            if not isinstance(key, str):
                raise JobRefused(f"{field}: has the key {repr(key)[:40]}; keys are the names of parameters, texts")
            _check_plain(field, key, depth + 1)
        for each in value.values() if isinstance(value, Mapping) else value:
            _check_plain(field, each, depth + 1)


def _check_path(field: str, value: Path | str) -> None:
    """Raise `JobRefused` for a text that can be no path on any machine: too long, empty, with a zero byte, no text."""
    try:
        if not str(value).strip():
            raise ValueError
        Path(value).lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    except (OSError, ValueError):
        raise JobRefused(f"{field}: is {repr(str(value))[:100]}; give a path or a name that can be one") from None


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is what an annotation of a job spec says, as far as a slip of the pen goes."""
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(kind))
    origin = get_origin(kind) or kind
    if origin is Any:
        return True
    if origin is Literal:
        return value in get_args(kind)
    if origin is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if origin in (Sequence, Mapping, dict):
        holds = isinstance(value, Mapping if origin is dict else origin) and not isinstance(value, str | bytes)
        items = value.values() if holds and isinstance(value, Mapping) else value
        return holds and all(_fits(item, get_args(kind)[-1]) for item in items)
    return isinstance(value, origin) and not (origin is int and isinstance(value, bool))


def _called(kind: Any) -> str:
    """An annotation in words."""
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_called(part) for part in get_args(kind))
    names = {
        str: "a text",
        bool: "True or False",
        int: "a whole number",
        float: "a number",
        Path: "a path",
        type(None): "None",
    }
    origin, inner = get_origin(kind) or kind, [part for part in get_args(kind)[-1:] if part is not Any]
    if origin is Sequence:
        return "a list" + "".join(f", each of it {_called(part)}" for part in inner)
    if origin in (Mapping, dict):
        return "a mapping of names" + "".join(f" to {_called(part)}" for part in inner)
    return names.get(origin, str(origin))


def called(model: Path | str) -> str:
    """What programs find a model by: the absolute path of a directory, or a hub name. Raises `JobRefused`."""
    path, name = Path(model), str(model)
    if name and path.is_dir():
        return str(path.resolve())
    if not _HUB_NAME.fullmatch(name):
        raise JobRefused(f"model: {name} is no directory and no hub name (org/name); give one of the two")
    return name


def resolve_model(model: Path | str) -> Path:
    """The model's directory; a hub name such as `org/name` is downloaded once. Raises `JobRefused`."""
    name = called(model)
    if Path(model).is_dir():
        return Path(model)
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise JobRefused(
            f"model: {name} is no local directory; `pip install huggingface_hub` to fetch it from the hub"
        ) from None
    try:
        return Path(
            snapshot_download(name, allow_patterns=[*PUBLISHED, INDEX, "*.safetensors"], ignore_patterns=["*/*"])
        )
    except Exception as error:
        raise JobRefused(f"model: {name} cannot be fetched from the hub ({error}); give a local directory") from None
