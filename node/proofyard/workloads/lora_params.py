"""The parameters of a LoRA job: what they mean, their defaults, and which values are refused."""

import math
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from proofyard.protocol.caps import Caps
from proofyard.protocol.closing import Closing
from proofyard.protocol.codec import Key
from proofyard.protocol.manifest import MAX_DEPS, MAX_TASKS, Manifest
from proofyard.workloads.aggregation.checks import MAX_RANK, check_aggregation
from proofyard.workloads.compression import MAX_BLOCK, MAX_TURNS, MIN_BLOCK, Compression
from proofyard.workloads.errors import ManifestRefused
from proofyard.workloads.local_data import LocalData, check_local
from proofyard.workloads.params import check_common, convert_params
from proofyard.workloads.state import MAX_STATE_BYTES

MAX_ADAPTER_VALUES = 1 << 28
BETA = 0.1
"""Of `dpo`, where nobody says another."""

Count = Annotated[int, Meta(ge=1, le=1 << 20)]
Fraction = Annotated[float, Meta(ge=0, lt=1)]
Positive = Annotated[float, Meta(gt=0, le=1e6)]


LARGEST_START = 2.0**40
"""Of the numbers that a job goes on from: far below where a round's start would be no number any more."""


class Begins(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a job goes on that does not begin with its seed: after round `round` of `job` of the Registry `registry` on
    chain `chain_id`. `within`: no number of its start is larger. What it starts from is the manifest's `adapter`."""

    round: Annotated[int, Meta(ge=1, le=1 << 20)]
    within: Annotated[float, Meta(gt=0, le=LARGEST_START)]
    chain_id: Annotated[int, Meta(ge=1)]
    registry: Key
    job: Annotated[str, Meta(pattern=r"\A[1-9][0-9]{0,77}\Z")]


class LoraParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`rounds` rounds; in each, `workers` tasks train on their own shards from the same adapter, and what they make of
    it is averaged where the next round starts.

    Adapter: `modules` maps every adapted linear layer to its (out, in) features, so that a state's schema follows
    from the manifest alone; `rank` and `alpha` as in LoRA (arXiv 2106.09685, scale alpha / rank).
    Inner optimizer: AdamW with `lr` (linear warm-up over `warmup_steps`, then linear decay to `lr_end` * lr over the
    job), `beta1`, `beta2`, `eps`, `weight_decay`; gradients are clipped to the norm `clip`. Moments start at zero in
    every round. With `lr` 0 only the moments change.
    A step takes `batch` sequences of `seq_len` predicted tokens; a task has `segments` segments of `segment_steps`.
    `shard_segments` gives each shard a number of its own, the largest being `segments`, for machines that are slower; a
    shard's delta counts in a mean by its work.
    Outer optimizer: Nesterov momentum on the averaged delta (DiLoCo, arXiv 2311.08105); `outer_lr` 1 and
    `outer_momentum` 0 is plain averaging. A delta longer than `max_delta_ratio` times the median one is shortened
    to that.
    Aggregation (docs/federated.md): `aggregation` "fedit" averages A and B each for itself, "ffa" trains and averages B
    alone, "fedex" and "flora" add up the workers' products and carry what no adapter of this rank can say as `merged`
    factors of rank `merged_rank` (0: of all that the rounds can add, so that nothing is lost). `ranks` gives each shard
    a rank of its own, the largest being `rank`; `rslora` scales by alpha / sqrt(rank) (arXiv 2312.03732).
    `robust` names what stands for the mean: `robust_hostile` results of a round may be hostile, the mean of
    `robust_bucket` results each is taken first, `robust_steps` iterations are done, and "centered-clipping" clips at
    `robust_radius` times the median norm. `outer` "none" and "plain" carry no velocity.
    Data: `shard_by` "label" gives each worker a contiguous run of labels, "document" deals the documents out.
    `holdout_percent` of the documents, by their hash, are never trained on. Without `packing` texts stand end to end
    and each row of `seq_len` tokens is one sequence; with it a row is whole documents, each a sequence of its own
    (`proofyard.workloads.packing`), so that none sees another.
    Objective: "sft" learns the text. "dpo" (arXiv 2305.18290) learns from pairs of answers to prefer the chosen one; a
    step takes `batch` pairs, each answer of at most `seq_len` tokens with its prompt, and `beta` says how closely
    the model stays with the base model (`proofyard.workloads.dpo`).
    Results: with `compression` a task sends what it has changed in a small encoding, and what that leaves out with the
    next round's (`proofyard.workloads.compression`); without, its adapter as it is. `topk-2bit` keeps eight of every
    `compression_block` numbers, `sign` sends the signs of one of `compression_turns` parts of them in each round; the
    first `compression_warmup` rounds are sent in `int8`.
    `begins`: the job goes on from another one's round. `rounds` counts those before it, and so do learning rate,
    batches and seeds: with the parameters and data of that job it ends in the bits that one would have ended in, but
    with `overlap`, where its first two rounds start from the same, and that job's would not have.
    Rounds: with `closing` a round waits for no more than a quorum and a time, and every result carries what its round
    started from, so that a later one can take it (`proofyard.protocol.closing`); without, it waits for all shards. With
    `voters` in it these decide what a round takes, and shard w is the work of voter w.
    `local`: each shard is a file that nobody publishes (`proofyard.workloads.local_data`), and the manifest has no
    `data`; `shard_by` says nothing then. `caps`: how many of a round's shards one owner and one subnet do at most
    (`proofyard.protocol.caps`).
    `overlap`: a round starts without the deltas of the one before, which travel while it is trained; they count in the
    round after it (`lora_rounds`). Nothing is left out of the job's result.
    """

    modules: Annotated[dict[str, tuple[Count, Count]], Meta(min_length=1, max_length=4096)]
    rank: Annotated[int, Meta(ge=1, le=1024)]
    alpha: Positive
    lr: Annotated[float, Meta(ge=0, le=1e6)]
    rounds: Count
    workers: Annotated[int, Meta(ge=1, le=10_000)]
    segments: Annotated[int, Meta(ge=1, le=4096)]
    segment_steps: Count
    batch: Annotated[int, Meta(ge=1, le=4096)]
    seq_len: Annotated[int, Meta(ge=8, le=1 << 17)]
    warmup_steps: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    lr_end: Annotated[float, Meta(ge=0, le=1)] = 1.0
    beta1: Fraction = 0.9
    beta2: Fraction = 0.99
    eps: Annotated[float, Meta(ge=1e-30, le=1)] = 1e-5
    weight_decay: Fraction = 0.0
    clip: Positive = 1.0
    outer_lr: Annotated[float, Meta(gt=0, le=10)] = 1.0
    outer_momentum: Fraction = 0.0
    max_delta_ratio: Annotated[float, Meta(ge=1, le=1e6)] = 3.0
    aggregation: Literal["fedit", "ffa", "fedex", "flora"] = "fedit"
    ranks: Annotated[tuple[Annotated[int, Meta(ge=1, le=1024)], ...], Meta(max_length=10_000)] = ()
    rslora: bool = False
    shard_segments: Annotated[tuple[Annotated[int, Meta(ge=1, le=4096)], ...], Meta(max_length=10_000)] = ()
    merged_rank: Annotated[int, Meta(ge=0, le=MAX_RANK)] = 0
    outer: Literal["none", "plain", "nesterov"] = "nesterov"
    robust: Literal["mean", "trimmed-mean", "median", "geometric-median", "centered-clipping", "krum", "multi-krum"] = (
        "mean"
    )
    robust_hostile: Annotated[int, Meta(ge=0, le=MAX_DEPS)] = 0
    robust_bucket: Annotated[int, Meta(ge=1, le=MAX_DEPS)] = 1
    robust_steps: Annotated[int, Meta(ge=1, le=100)] = 10
    robust_radius: Positive = 1.0
    shard_by: Literal["label", "document"] = "label"
    holdout_percent: Annotated[int, Meta(ge=1, le=50)] = 2
    packing: bool = False
    objective: Literal["sft", "dpo"] = "sft"
    beta: Positive = BETA
    compression: Compression | None = None
    compression_block: Annotated[int, Meta(ge=MIN_BLOCK, le=MAX_BLOCK)] = 400
    compression_turns: Annotated[int, Meta(ge=1, le=MAX_TURNS)] = 1
    compression_warmup: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    closing: Closing | None = None
    begins: Begins | UnsetType = UNSET
    local: LocalData | UnsetType = UNSET
    caps: Caps | UnsetType = UNSET
    overlap: bool | UnsetType = UNSET

    @property
    def begun(self) -> int:
        """The rounds that were done before this job."""
        return self.begins.round if self.begins else 0

    @property
    def behind(self) -> int:
        """How many rounds later than the next one a round's deltas count."""
        return 1 if self.overlap else 0

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @property
    def averages_a(self) -> bool:
        """Whether A is trained; else it stays as the seed has it."""
        return self.aggregation != "ffa"

    @property
    def most_deltas(self) -> int:
        """What a round takes at most."""
        return self.workers * (1 + (self.closing.late_rounds if self.closing else 0))

    @property
    def merges(self) -> bool:
        """Whether rounds leave merged factors beside the adapter."""
        return self.aggregation in ("fedex", "flora")

    def rank_of(self, shard: int) -> int:
        """Of the adapter that a shard trains."""
        return self.ranks[shard] if self.ranks else self.rank

    @property
    def added_rank(self) -> int:
        """What one round can add to the rank of the merged factors."""
        return sum(self.rank_of(shard) for shard in range(self.workers)) if self.merges else 0

    def merged_rank_of(self, module: str) -> int:
        """Of the factors of one layer that carry what earlier rounds have merged."""
        return min(*self.modules[module], self.merged_rank or self.rounds * self.added_rank) if self.merges else 0

    @property
    def task_steps(self) -> int:
        """Of a round: those of the shard that does most."""
        return self.segments * self.segment_steps

    @property
    def step_tokens(self) -> int:
        """The most that a step computes."""
        return self.batch * self.seq_len * sequences_of(self.objective)

    def segments_of(self, shard: int) -> int:
        """Of a task of a shard."""
        return self.shard_segments[shard] if self.shard_segments else self.segments

    def steps_of(self, shard: int) -> int:
        """Of a task of a shard."""
        return self.segments_of(shard) * self.segment_steps

    @property
    def shares(self) -> tuple[int, ...]:
        """The work of each shard's tasks as the smallest whole numbers; 1 where all do the same."""
        segments = [self.segments_of(shard) for shard in range(self.workers)]
        return tuple(each // math.gcd(*segments) for each in segments)

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0 over all rounds."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        rest = max(1, self.rounds * self.task_steps - self.warmup_steps)
        return self.lr * (1 - (1 - self.lr_end) * (step - self.warmup_steps) / rest)


def sequences_of(objective: object) -> int:
    """How many sequences of `seq_len` a row has at most."""
    return 2 if objective == "dpo" else 1


def read_params(manifest: Manifest) -> LoraParams:
    """The job's parameters. Raises `ManifestRefused` with the field that is wrong."""
    params = convert_params(manifest, LoraParams)
    _check_sizes(params)
    check_aggregation(params)
    return params


def check_manifest(manifest: Manifest) -> LoraParams:
    """The parameters of a manifest that is executable as a whole."""
    params = read_params(manifest)
    check_common(manifest, adapter=bool(params.begins), data=not params.local)
    return params


def _check_sizes(params: LoraParams) -> None:
    if params.compression and params.merges:
        reason = (
            f"is {params.compression!r}; {params.aggregation} carries products that no delta says, use fedit or ffa"
        )
        raise ManifestRefused("params.compression", reason)
    if params.overlap and (params.compression or params.closing or params.merges):
        other = "compression" if params.compression else "closing" if params.closing else params.aggregation
        raise ManifestRefused("params.overlap", f"is set, and does not go with {other}; leave one of them out")
    if params.local:
        check_local(params.local, params.workers, params.objective)
    if params.objective == "dpo" and params.packing:
        raise ManifestRefused("params.packing", "is set; with objective dpo a row is a pair of answers, leave it out")
    if params.objective != "dpo" and params.beta != BETA:
        raise ManifestRefused("params.beta", f"is {params.beta}; it goes with objective dpo alone, leave it out")
    if params.begun >= params.rounds:
        reason = f"is {params.rounds}, of which {params.begun} were done before it; give more"
        raise ManifestRefused("params.rounds", reason)
    tasks = (params.rounds - params.begun) * params.workers
    if tasks > MAX_TASKS:
        raise ManifestRefused("params.rounds", f"and workers make {tasks} tasks, at most {MAX_TASKS} are allowed")
    values = sum(params.rank * sum(shape) for shape in params.modules.values())
    if values > MAX_ADAPTER_VALUES:
        raise ManifestRefused("params.rank", f"makes an adapter of {values} values, at most {MAX_ADAPTER_VALUES}")
    most = MAX_DEPS // (1 + params.behind)
    if params.rounds > 1 and params.workers > most:
        raise ManifestRefused("params.workers", f"is {params.workers}, a round starts from at most {most} results")
    merged = sum(params.merged_rank_of(name) * sum(shape) for name, shape in params.modules.items())
    if values + merged > MAX_ADAPTER_VALUES:
        raise ManifestRefused(
            "params.merged_rank", f"makes merged factors of {merged} values, at most {MAX_ADAPTER_VALUES} are allowed"
        )
    together = 4 * (values * (params.workers + 2) + merged) * (1 + params.behind)
    if params.closing:
        together = 4 * values * params.most_deltas * (3 if params.outer == "nesterov" else 2)
    if together > MAX_STATE_BYTES:
        raise ManifestRefused(
            "params.workers", f"and rank make {together} bytes of results a round, at most {MAX_STATE_BYTES}"
        )
    for name, shape in params.modules.items():
        if params.rank > min(shape):
            raise ManifestRefused("params.rank", f"is {params.rank}, but {name} has only {min(shape)} features")
    if params.step_tokens > 1 << 22:
        raise ManifestRefused("params.batch", f"times seq_len is {params.step_tokens} tokens a step, over 2**22")
