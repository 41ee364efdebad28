"""What a job that goes on from another one's round starts from: that round's start as the new parameters have it.

With the same parameters it is the same bytes, so a job that is resumed ends in the bits of one that never paused (but
for what docs/lineage.md names).
"""

from collections.abc import Mapping

import numpy as np

from proofyard.workloads.aggregation.folding import Factors, fold, stack
from proofyard.workloads.errors import ManifestRefused
from proofyard.workloads.lora_params import LARGEST_START, LoraParams
from proofyard.workloads.lora_rounds import Start
from proofyard.workloads.state import Array

KEPT = ("modules", "rank", "alpha", "rslora", "aggregation")
"""Parameters that say what an adapter is: they stay."""
LEAST_WITHIN = 2.0**-20


def continued(start: Start, before: LoraParams, after: LoraParams) -> Start:
    """The start of a job with the parameters `after`, which goes on from one with `before` that had come to `start`.

    An outer velocity stays where both have one, and begins with zeros where the first had none; merged factors are
    filled up with zeros to a larger rank, or made smaller as a round makes them. Raises `ManifestRefused`."""
    for name in KEPT:
        if getattr(before, name) != getattr(after, name):
            raise ManifestRefused(f"params.{name}", "cannot change where a job goes on: it says what the adapter is")
    velocity: Mapping[str, Array] = {}
    if after.outer == "nesterov":
        velocity = start.velocity or {name: np.zeros_like(array) for name, array in start.adapter.items()}
    merged: dict[str, Array] = {}
    for module in after.modules if after.merges else ():
        merged |= _merged(start, module, after.merged_rank_of(module))
    return Start(start.adapter, velocity, merged)


def _merged(start: Start, module: str, rank: int) -> dict[str, Array]:
    names = [f"{module}.lora_{kind}" for kind in "BA"]
    b, a = (start.merged[name] for name in names)
    if b.shape[1] == rank:
        return {names[0]: b, names[1]: a}
    folded = fold(stack([Factors(b.astype(np.float64), a.astype(np.float64))]), rank)
    return {
        names[0]: np.ascontiguousarray(folded.b, np.float32),
        names[1]: np.ascontiguousarray(folded.a, np.float32),
    }


def within(start: Start) -> float:
    """What no number of a start is larger than, for `Begins.within`. Raises `ManifestRefused` for one that is too large
    to go on from."""
    largest = max(float(np.abs(array).max(initial=0.0)) for array in start.outer.values())
    if not largest <= LARGEST_START:
        raise ManifestRefused("params.begins", f"holds {largest:g}, over {LARGEST_START:g}: that job has diverged")
    return max(largest, LEAST_WITHIN)
