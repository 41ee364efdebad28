"""Which choices of aggregation go together, and what they may cost: docs/federated.md."""

from typing import TYPE_CHECKING

from proofyard.protocol.closing import ClosingRefused, check_closing
from proofyard.protocol.manifest import MAX_DEPS
from proofyard.workloads.errors import ManifestRefused

if TYPE_CHECKING:
    from proofyard.workloads.lora_params import LoraParams

MAX_RANK = 1024
"""Of an adapter with the merged factors beside it: more no `evaluate` job takes."""
MAX_FOLDING = 1 << 37
"""Multiplications that a round's merging may take: every worker and verifier does them."""
COORDINATEWISE = ("trimmed-mean", "median")
"""Rules that decide entry by entry; the others weigh whole results."""


def check_aggregation(params: "LoraParams") -> None:
    """Raise `ManifestRefused` for choices of aggregation that do not go together, by the first field that is wrong."""
    _check_ranks(params)
    _check_segments(params)
    _check_closing(params)
    _check_outer(params)
    _check_robust(params)
    if params.merges:
        _check_merging(params)
    elif params.merged_rank:
        raise ManifestRefused("params.merged_rank", f"is given, but aggregation {params.aggregation!r} merges nothing")


def _check_ranks(params: "LoraParams") -> None:
    if not params.ranks:
        return
    if params.aggregation not in ("ffa", "flora"):
        raise ManifestRefused(
            "params.ranks", f"are given, but aggregation {params.aggregation!r} averages one rank; take ffa or flora"
        )
    if len(params.ranks) != params.workers:
        raise ManifestRefused("params.ranks", f"are {len(params.ranks)}, one for each of {params.workers} workers")
    if max(params.ranks) != params.rank:
        raise ManifestRefused("params.ranks", f"go up to {max(params.ranks)}, the largest must be rank {params.rank}")
    if params.robust != "mean" and len(set(params.ranks)) > 1:
        raise ManifestRefused(
            "params.ranks", f"differ, but robust {params.robust!r} compares updates of one shape; give mean or one rank"
        )


def _check_segments(params: "LoraParams") -> None:
    said = params.shard_segments
    if not said:
        return
    if len(said) != params.workers:
        raise ManifestRefused("params.shard_segments", f"are {len(said)}, one for each of {params.workers} workers")
    if max(said) != params.segments:
        raise ManifestRefused(
            "params.shard_segments", f"go up to {max(said)}, the largest must be segments {params.segments}"
        )
    if params.robust != "mean" and len(set(said)) > 1:
        raise ManifestRefused(
            "params.shard_segments",
            f"differ, but robust {params.robust!r} compares updates of one length; give mean or one number",
        )


def _check_closing(params: "LoraParams") -> None:
    """What goes with rounds that do not wait for all of their shards."""
    if params.closing is None:
        return
    try:
        check_closing(params.closing, params.workers)
    except ClosingRefused as error:
        raise ManifestRefused("params.closing", f"cannot be: {error}") from None
    if params.merges:
        raise ManifestRefused(
            "params.closing",
            f"is given, but aggregation {params.aggregation!r} adds products up as they are; take ffa or fedit",
        )
    if params.robust != "mean" and params.closing.late_rounds:
        raise ManifestRefused(
            "params.closing.late_rounds",
            f"is {params.closing.late_rounds}, but robust {params.robust!r} compares updates of one round; give 0",
        )


def _check_outer(params: "LoraParams") -> None:
    if params.outer != "nesterov" and params.outer_momentum:
        raise ManifestRefused("params.outer", f"is {params.outer!r}, which has no outer_momentum; give nesterov")
    if params.outer == "none" and params.outer_lr != 1:
        raise ManifestRefused("params.outer", "is 'none', which has no outer_lr; give plain or nesterov")
    if params.merges and params.outer != "none":
        raise ManifestRefused(
            "params.outer",
            f"is {params.outer!r}; aggregation {params.aggregation!r} adds products up as they are: none",
        )


def _check_robust(params: "LoraParams") -> None:
    """That a rule has as many results as its guarantee asks for."""
    rule, hostile = params.robust, params.robust_hostile
    if rule == "mean":
        if hostile or params.robust_bucket > 1:
            raise ManifestRefused("params.robust", "is 'mean', which outvotes nobody; name a robust rule")
        return
    if params.workers > MAX_DEPS:
        raise ManifestRefused("params.robust", f"takes at most {MAX_DEPS} workers a round, there are {params.workers}")
    if params.merges and (rule in COORDINATEWISE or (rule == "centered-clipping" and params.aggregation == "fedex")):
        raise ManifestRefused(
            "params.robust",
            f"is {rule!r}, which weighs no workers: {params.aggregation} takes mean, geometric-median, "
            "krum or multi-krum" + (", or centered-clipping" if params.aggregation == "flora" else ""),
        )
    least = params.closing.quorum if params.closing else params.workers
    voters = -(-least // params.robust_bucket)
    most = (voters - 3) // 2 if rule in ("krum", "multi-krum") else (voters - 1) // 2
    if not 1 <= hostile <= most:
        allowed = f"1 to {most}" if most >= 1 else "none; give more workers or a smaller robust_bucket"
        raise ManifestRefused("params.robust_hostile", f"is {hostile}; {rule} of {voters} votes allows {allowed}")


def _check_merging(params: "LoraParams") -> None:
    widest = max(map(params.merged_rank_of, params.modules))
    if params.rank + widest > MAX_RANK:
        raise ManifestRefused(
            "params.merged_rank", f"comes to {widest} with rank {params.rank} beside it, at most {MAX_RANK} together"
        )
    work = 0
    for name, (rows, columns) in params.modules.items():
        kept = params.merged_rank_of(name)
        stacked = kept + params.added_rank
        if params.rounds * params.added_rank > kept:
            work += stacked * (
                rows * columns if kept == min(rows, columns) else stacked * (rows + columns + 16 * stacked)
            )
    if work > MAX_FOLDING:
        raise ManifestRefused(
            "params.merged_rank", f"and workers make a round's merging {work} multiplications, at most {MAX_FOLDING}"
        )
