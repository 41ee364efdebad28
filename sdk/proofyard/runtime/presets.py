"""Sizes of machines and of jobs, in one place: starting points that each setting and flag may change.

`NODE_PRESETS` has settings of a node (`proofyard.node.settings.NodeSettings`): `[node] preset`, `node run --preset`,
`node init --preset`. `JOB_PRESETS` has parameters of a job's spec by workload: `job submit --preset`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

GIB, MIB = 1 << 30, 1 << 20
HOUR_S = 3600.0

_SMALL = {
    "memory_limit_bytes": 4 * GIB,
    "state_budget_bytes": 4 * GIB,
    "cache_bytes": 4 * GIB,
    "max_model_bytes": 2 * GIB,
    "max_data_bytes": 2 * GIB,
    "max_state_bytes": 256 * MIB,
    "max_step_tokens": 1 << 14,
    "max_task_s": HOUR_S,
    "tasks_held": 1,
}
_MEDIUM = {
    "memory_limit_bytes": 12 * GIB,
    "state_budget_bytes": 16 * GIB,
    "cache_bytes": 16 * GIB,
    "max_model_bytes": 8 * GIB,
    "max_data_bytes": 8 * GIB,
    "max_state_bytes": 1 * GIB,
    "max_step_tokens": 1 << 17,
    "max_task_s": 6 * HOUR_S,
    "tasks_held": 2,
}
_LARGE = {
    "memory_limit_bytes": 0,
    "state_budget_bytes": 64 * GIB,
    "cache_bytes": 128 * GIB,
    "max_model_bytes": 64 * GIB,
    "max_data_bytes": 64 * GIB,
    "max_state_bytes": 4 * GIB,
    "max_step_tokens": 1 << 20,
    "max_task_s": 24 * HOUR_S,
    "tasks_held": 4,
}

NODE_PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "small": _SMALL,
        "medium": _MEDIUM,
        "large": _LARGE,
        "home": _MEDIUM
        | {"idle_only": True, "least_free_bytes": 2 * GIB, "max_celsius": 80, "max_upload": 1 * MIB, "tasks_held": 1},
        "farm": _LARGE | {"tasks_held": 8},
    }
)
"""`small`: a machine with 8 GB of memory; `medium`: 16 to 32; `large`: 64 and more. `home`: a medium one that somebody
else uses too; `farm`: large ones that do nothing else."""

WHAT_NODES_ARE = MappingProxyType(
    {
        "small": "8 GB of memory, 8 GB of disk",
        "medium": "16 to 32 GB of memory, 32 GB of disk",
        "large": "64 GB of memory and more, 192 GB of disk",
        "home": "medium, and people use it too: idle times alone, not too hot, 1 MiB/s up",
        "farm": "large, and nothing else runs on it",
    }
)
"""The presets in words."""

JOB_PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "small": {
            "lora": {
                "rounds": 1,
                "workers": 2,
                "segments": 2,
                "segment_steps": 2,
                "batch": 2,
                "seq_len": 32,
                "rank": 4,
            },
            "embed": {"segment_rows": 8, "segments": 2},
            "evaluate": {"segment_rows": 8, "segments": 2},
            "map": {"segment_rows": 16, "segments": 2},
            "sweep": {"sequences": 8, "base": {"segments": 2, "segment_steps": 2, "batch": 2, "seq_len": 32}},
        },
        "medium": {
            "lora": {
                "rounds": 4,
                "workers": 4,
                "segments": 4,
                "segment_steps": 8,
                "batch": 4,
                "seq_len": 256,
                "rank": 8,
            },
            "embed": {"segment_rows": 64, "segments": 8},
            "evaluate": {"segment_rows": 64, "segments": 8},
            "map": {"segment_rows": 256, "segments": 8},
            "sweep": {"sequences": 64, "base": {"segments": 4, "segment_steps": 8, "batch": 4, "seq_len": 256}},
        },
        "large": {
            "lora": {
                "rounds": 16,
                "workers": 8,
                "segments": 8,
                "segment_steps": 16,
                "batch": 8,
                "seq_len": 1024,
                "rank": 16,
            },
            "embed": {"segment_rows": 256, "segments": 16},
            "evaluate": {"segment_rows": 256, "segments": 16},
            "map": {"segment_rows": 1024, "segments": 16},
            "sweep": {"sequences": 256, "base": {"segments": 8, "segment_steps": 16, "batch": 8, "seq_len": 1024}},
        },
    }
)
"""`small`: to try something out, in seconds; `medium`: a model of a few hundred million parameters on a data set of
megabytes; `large`: some billions, over a day."""


def job_preset(name: str, workload: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a job: `given` ones, and those of a preset beside them."""
    usual = dict(JOB_PRESETS[name].get(workload, {}))
    if given.get("epochs") is not None:
        usual.pop("rounds", None)
    both = {key: value | given[key] for key, value in usual.items() if _both_mappings(value, given.get(key))}
    return {**usual, **given, **both}


def _both_mappings(one: Any, other: Any) -> bool:
    return isinstance(one, Mapping) and isinstance(other, Mapping)
