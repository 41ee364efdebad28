"""Direct preference optimisation (DPO, Rafailov et al., arXiv 2305.18290): of two answers the chosen one is to become
likelier than the rejected one, measured against the base model.

The loss of a pair is -log(sigmoid(z)), z = beta * (the chosen answer's gain - the rejected one's), a gain being by how
many nats an answer is likelier now than under the model without adapters (a job's first one, with B = 0, changes none).
So a pair's gradient is that of its answers' losses, weighed by beta * sigmoid(-z) and by the negative of that: the
passes that there are anyway, and a number a pair (docs/exact.md, Preferences).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from proofyard.workloads.causal_lm import AdaptedModel
from proofyard.workloads.exact import reference
from proofyard.workloads.packing import Row


def train_pairs(model: AdaptedModel, parts: Sequence[Sequence[Row]], beta: float, adapt: Callable[[], None]) -> float:
    """The mean loss of a step's pairs, which come in parts that are computed at once; its gradient is in the adapters.
    `adapt` has the model compute with the step's adapter."""
    model.decoder.adapters.set({}, 0.0)
    before = [model.answer_losses(_flat(part)) for part in parts]
    adapt()
    share = 1 / sum(map(len, parts))
    losses: list[float] = []

    def weigh(known: Sequence[float], now: Sequence[float]) -> list[float]:
        gains = [old - new for old, new in zip(known, now, strict=True)]
        weights = []
        for chosen, rejected in zip(gains[::2], gains[1::2], strict=True):
            loss, doubt = judge(chosen, rejected, beta)
            losses.append(loss)
            weights += [beta * doubt * share, -(beta * doubt * share)]
        return weights

    for part, known in zip(parts, before, strict=True):
        model.train_answers(_flat(part), partial(weigh, known))
    return math.fsum(losses) * share


def judge(chosen: float, rejected: float, beta: float) -> tuple[float, float]:
    """-log(sigmoid(z)) and sigmoid(-z), binary32, of two gains in nats: z = beta * (chosen - rejected) in binary64,
    rounded to binary32."""
    with np.errstate(all="ignore"):
        z = np.array([beta * (chosen - rejected)], np.float64).astype(np.float32)
        tail = reference.log(np.float32(1) + reference.exp(-np.abs(z)))
        loss = np.where(z < 0, -z, np.float32(0)) + tail
        return float(loss[0]), float(reference.sigmoid(-z)[0])


def _flat(part: Sequence[Row]) -> Row:
    return [tokens for pair in part for tokens in pair]
