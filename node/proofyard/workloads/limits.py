"""What a job asks of whoever executes it, from the manifest alone: nothing is fetched before it is refused.

A job's numbers come from its opener, who pays by work units and not by seconds. So every operator has limits, and a
requester looks at the usual ones before it pays.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.workloads.lora_params import sequences_of


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a node takes unless its operator says otherwise.

    `max_task_steps`: optimizer steps, or rows, of one task. `max_step_tokens`: tokens that one step computes, or of the
    longest text. `max_segments` of one task. Sizes are content in bytes: of the model's directory, of the data file, of
    one state or result.
    """

    max_task_steps: int = 1 << 20
    max_step_tokens: int = 1 << 20
    max_segments: int = 4096
    max_model_bytes: int = 32 << 30
    max_data_bytes: int = 32 << 30
    max_state_bytes: int = 2 << 30


USUAL = Limits()


@dataclass(frozen=True)
class Demand:
    """`field` of the manifest comes to `amount`, which `limit` (a field of `Limits`) bounds."""

    field: str
    amount: int
    limit: str


def demands(manifest: Manifest, task: TaskSpec) -> Iterator[Demand]:
    """What a task asks for. `manifest` has passed its workload's `check`; a parameter that a workload does not have
    asks for nothing."""
    yield Demand("the task's segments", task.segments, "max_segments")
    for prefix, params in _parameters(manifest):
        steps = task.segments * _number(params, "segment_steps", 1)
        tokens = _number(params, "batch", 1) * _number(params, "seq_len", 1) * sequences_of(params.get("objective"))
        rows = task.segments * _number(params, "segment_rows", 1)
        longest = max(_number(params, name, 0) for name in ("max_tokens", "chunk_tokens"))
        yield Demand(f"{prefix}.segment_steps", steps, "max_task_steps")
        yield Demand(f"{prefix}.batch", tokens, "max_step_tokens")
        yield Demand(f"{prefix}.segment_rows", rows, "max_task_steps")
        yield Demand(f"{prefix}.max_tokens", longest, "max_step_tokens")


def _parameters(manifest: Manifest) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The parameters to look at; those of a sweep are those that its candidates share, and the largest that it
    tries."""
    base, vary = manifest.params.get("base"), manifest.params.get("vary")
    if isinstance(base, dict) and isinstance(vary, dict):
        tried = {name: max(filter(_is_count, values), default=0) for name, values in vary.items()}
        yield "params.base", base | {name: value for name, value in tried.items() if value}
    else:
        yield "params", manifest.params


def _number(params: Mapping[str, Any], name: str, default: int) -> int:
    value = params.get(name, default)
    return math.ceil(value) if _is_count(value) else default


def _is_count(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
