"""Epochs, as people count training, in the rounds, segments and steps that a job is made of."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from proofyard.protocol.manifest import MAX_TASKS
from proofyard.sdk.errors import JobRefused
from proofyard.workloads.lora_params import LoraParams

MOST = 1e6


@dataclass(frozen=True)
class TrainingLength:
    """`rounds`, each of `segments` * `segment_steps` steps for every worker: `trained` epochs in all."""

    rounds: int
    segments: int
    segment_steps: int
    trained: float

    def fields(self) -> dict[str, Any]:
        """What a `LoraJob` calls them."""
        return {name: value for name, value in asdict(self).items() if name != "trained"}

    def told(self, epochs: float, documents: int, params: LoraParams) -> str:
        """In a sentence, for whoever pays."""
        row = "pair" if params.objective == "dpo" else "packed row" if params.packing else "sequence"
        more = f" (that is {self.trained:.3g})" if f"{self.trained:.3g}" != f"{epochs:.3g}" else ""
        return (
            f"{_counted(epochs, 'epoch')} of {_counted(documents, 'line')}{more}: {_counted(self.rounds, 'round')} of "
            f"{_counted(params.workers, 'task')}, each {_counted(self.segments, 'segment')} of "
            f"{_counted(self.segment_steps, 'step')} of {_counted(params.batch, row)} of {params.seq_len} tokens"
        )


def check_epochs(epochs: Any, rounds: Any) -> None:
    """Raise `JobRefused` for a number of epochs that is none, and where rounds are given as well."""
    if rounds is not None:
        raise JobRefused(
            f"epochs: is {epochs:g}, and rounds is {rounds}; both say how long it trains, give one of them"
        )
    if not 0 < epochs <= MOST:
        raise JobRefused(f"epochs: is {epochs}; give a number from above 0 to {MOST:,.0f}, such as 2 or 0.5")


def training_length(epochs: float, rows: int, params: LoraParams) -> TrainingLength:
    """The shortest training of at least so many epochs, of data that make `rows` sequences for all workers together.
    A round has at most the segments and steps of `params`; what is left over is spread over all of them. Raises
    `JobRefused` where that makes too many tasks."""
    if params.shard_segments:
        raise JobRefused("epochs: shards train for different lengths, options.shard_segments says; give rounds instead")
    steps = max(1, math.ceil(epochs * rows / (params.workers * params.batch)))
    rounds = math.ceil(steps / params.task_steps)
    if rounds * params.workers > MAX_TASKS:
        raise JobRefused(
            f"epochs: {epochs:g} of this data make {rounds * params.workers:,} tasks, at most {MAX_TASKS:,} are "
            "allowed; raise batch, segments or segment_steps"
        )
    a_round = math.ceil(steps / rounds)
    segment_steps = math.ceil(a_round / params.segments)
    segments = math.ceil(a_round / segment_steps)
    trained = rounds * segments * segment_steps * params.workers * params.batch / max(1, rows)
    return TrainingLength(rounds, segments, segment_steps, trained)


def _counted(number: float, word: str) -> str:
    return f"{number:,.10g} {word}" + ("" if number == 1 else "s")
