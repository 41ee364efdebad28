"""What people write for PEFT, as parameters of a LoRA job: a word means here what it means there, or it is refused.

`use_rslora` scales by alpha / sqrt(rank) (arXiv 2312.03732), which is alpha * sqrt(rank) with the usual scale.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from proofyard.sdk.errors import JobRefused
from proofyard.workloads.adapted import ALL_LINEAR

RENAMED = {"r": "rank", "lora_alpha": "alpha", "target_modules": "targets", "layers_to_transform": "layers"}
"""PEFT's word to the job's."""
SILENT = frozenset(
    {"auto_mapping", "base_model_name_or_path", "fan_in_fan_out", "inference_mode", "megatron_core", "peft_version"}
    | {"qalora_group_size", "layers_pattern", "ephemeral_gpu_offload", "runtime_config"}
)
"""Words that say nothing of what is trained."""
PLAIN = {"bias": "none", "init_lora_weights": True, "peft_type": "LORA", "task_type": "CAUSAL_LM", "revision": "main"}
"""The one value, beside nothing, that says what is done anyway."""
REFUSED = {
    "use_dora": "DoRA's magnitudes are not among what segments compute; leave it out, or use_rslora",
    "modules_to_save": "whole layers are not trained, adapters alone are; name them in targets where they are linear",
    "lora_dropout": "nothing is dropped at random, so that every machine computes the same; leave it out",
    "bias": "biases stay as they are",
    "init_lora_weights": "A begins uniform and B zero, from the job's seed",
    "rank_pattern": "one rank holds for all layers",
    "alpha_pattern": "one alpha holds for all layers",
    "exclude_modules": "name what is adapted in targets, and in layers",
    "revision": "the hub's main is fetched; download another revision and give its folder as model",
    "task_type": "a LoRA job trains a causal language model (CAUSAL_LM)",
    "peft_type": "adapters are LoRA's",
}
_OTHERS = frozenset(
    {"alora_invocation_tokens", "arrow_config", "corda_config", "ensure_weight_tying", "eva_config", "kasa_config"}
    | {"layer_replication", "loftq_config", "lora_bias", "lora_ga_config", "megatron_config", "monteclora_config"}
    | {"target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora", "velora_config"}
)
WORDS = frozenset({*RENAMED, *SILENT, *PLAIN, *REFUSED, *_OTHERS, "use_rslora"})
"""All that PEFT's LoraConfig knows, as of release 0.21."""


def from_peft(
    words: Mapping[str, Any], rank: int, alpha: float, given: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """PEFT's `words` as parameters of a LoRA job whose rank and alpha are these unless the words say otherwise. Raises
    `JobRefused` that names the word, also where it says something else than what is `given` by the job's own name."""
    found: dict[str, Any] = {}
    for word, value in words.items():
        if word not in WORDS:
            raise JobRefused(f"{word}: a LoRA job has no such parameter, and neither has PEFT's LoraConfig")
        if word == "target_modules" and isinstance(value, str) and value != ALL_LINEAR:
            raise JobRefused(
                f"{word}: is {value!r}; regular expressions are not understood, list names or {ALL_LINEAR!r}"
            )
        if word == "layers_to_transform" and isinstance(value, int) and not isinstance(value, bool):
            value = [value]
        if word in RENAMED and value is not None:
            own = RENAMED[word]
            found[own] = sorted(value) if isinstance(value, set) else value
            if own in given and given[own] != found[own]:
                raise JobRefused(
                    f"{word}: is {value!r}, and {own} is {given[own]!r}; they are the same, give one of them"
                )
        elif word not in SILENT | RENAMED.keys() | {"use_rslora"} and not _plain(word, value):
            reason = REFUSED.get(word, "this kind of LoRA is not among what segments compute; leave it out")
            raise JobRefused(f"{word}: is {value!r}; {reason}")
    if not isinstance(words.get("use_rslora") or False, bool):
        raise JobRefused(f"use_rslora: is {words['use_rslora']!r}; give true or false")
    if words.get("use_rslora"):
        found["alpha"] = _number(found.get("alpha", alpha)) * math.sqrt(_number(found.get("rank", rank)))
    return found


def _plain(word: str, value: Any) -> bool:
    if word == "init_lora_weights" and value is False:
        return False  # which leaves B random
    return not value or str(getattr(value, "value", value)) == str(PLAIN.get(word))


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise JobRefused(f"use_rslora: needs numbers for rank and alpha, not {value!r}")
    return value
