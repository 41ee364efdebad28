"""A `lora` job's result as a directory that `peft.PeftModel.from_pretrained` loads, always of the same bytes."""

import json
from collections.abc import Mapping
from pathlib import Path

from proofyard.protocol.manifest import Manifest
from proofyard.workloads.lora_params import LoraParams, read_params
from proofyard.workloads.state import Array, encode_state

PEFT_PREFIX = "base_model.model."


def export_adapter(manifest: Manifest, adapter: Mapping[str, Array], dest: Path, base_model: str) -> Path:
    """Write adapter_model.safetensors and adapter_config.json of an adapter.

    `base_model` is the model's directory or hub name for the configuration.
    """
    params = read_params(manifest)
    named = {f"{PEFT_PREFIX}{name}.weight": array for name, array in adapter.items()}
    dest.mkdir(parents=True, exist_ok=True)
    (dest / "adapter_model.safetensors").write_bytes(encode_state(named, metadata={"format": "pt"}))
    rank = next(array.shape[0] for name, array in adapter.items() if name.endswith("lora_A"))
    config = json.dumps(adapter_config(params, base_model, rank), indent=2, sort_keys=True)
    (dest / "adapter_config.json").write_text(config + "\n")
    return dest


def adapter_config(params: LoraParams, base_model: str, rank: int) -> dict[str, object]:
    """PEFT's configuration of this adapter; the layers are listed by their full names. One with merged factors beside
    it has a `rank` of its own, and an alpha that gives it the job's scale."""
    own = rank == params.rank
    return ({"use_rslora": True} if own and params.rslora else {}) | {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": params.alpha if own else params.scale * rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted(params.modules),
        "task_type": "CAUSAL_LM",
    }
