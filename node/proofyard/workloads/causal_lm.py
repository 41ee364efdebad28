"""A frozen causal language model with LoRA adapters beside chosen linear layers.

The weights stay memory-mapped from the model directory, so several executors on one machine share them. The loss
is computed in chunks of tokens, because the logits of a whole batch would be the largest thing in memory.
"""

import gc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from proofyard.workloads.determinism import DTYPES, pick_device
from proofyard.workloads.errors import InputRefused, OutOfMemory
from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.model_files import read_config, weight_files
from proofyard.workloads.quantized import quantize
from proofyard.workloads.state import Array
from proofyard.workloads.workload import Resources

LOSS_CHUNK_TOKENS = 128
_SCALED_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale")


class LoraLinear(nn.Module):
    """base(x) + scale * B A x. A is (rank, in), B is (out, rank); both are set from a state."""

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base = base
        self.scale = scale
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.zeros(rank, base.in_features, dtype=torch.float32, device=device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, dtype=torch.float32, device=device))

    def forward(self, x: Tensor) -> Tensor:
        low = functional.linear(x.to(self.lora_A.dtype), self.lora_A)
        out: Tensor = self.base(x)
        return out + (functional.linear(low, self.lora_B) * self.scale).to(out.dtype)


class AdaptedModel:
    """The model of one job, ready to compute losses and gradients for any adapter of that job's shape."""

    def __init__(self, path: Path, params: LoraParams, precision: str, resources: Resources) -> None:
        self.device = pick_device(resources.device)
        self.model: Any = load_frozen(path, precision, resources.attention).to(self.device).eval()
        self._adapters = {name: _adapt(self.model, name, params) for name in sorted(params.modules)}
        quantize(self.model, precision, self.model.get_output_embeddings())

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable tensors under the names they have in a state."""
        found = {}
        for module, adapter in self._adapters.items():
            found[f"{module}.lora_A"], found[f"{module}.lora_B"] = adapter.lora_A, adapter.lora_B
        return found

    def set_adapter(self, tensors: Mapping[str, Array]) -> None:
        """Take over an adapter; an empty mapping means none, the base model as it is."""
        with torch.no_grad():
            for name, parameter in self.parameters().items():
                values = tensors.get(name)
                parameter.copy_(torch.zeros_like(parameter) if values is None else torch.from_numpy(np.array(values)))

    def loss_sum(self, rows: Array, *, backward_scale: float | None = None) -> float:
        """The summed negative log-likelihood, in nats, of `rows` of tokens (count, seq_len + 1).

        With `backward_scale` the gradient of that sum times the scale is added to the parameters' gradients.
        """
        tokens = torch.from_numpy(np.array(rows)).to(self.device)
        with torch.set_grad_enabled(backward_scale is not None):
            hidden: Tensor = self.model.base_model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
        flat = hidden.detach().reshape(-1, hidden.shape[-1])
        gradient = torch.zeros_like(flat)
        total = 0.0
        for part, targets, into in _chunks(flat, tokens[:, 1:].reshape(-1), gradient):
            total += self._chunk_loss(part, targets, into, backward_scale)
        if backward_scale is not None:
            torch.autograd.backward(hidden, gradient.reshape(hidden.shape))
        return total

    def _chunk_loss(self, part: Tensor, targets: Tensor, into: Tensor, scale: float | None) -> float:
        """The loss of one chunk; its gradient with respect to the hidden states goes to `into`."""
        part.requires_grad_(scale is not None)
        logits = self.model.get_output_embeddings()(part).float()
        loss = functional.cross_entropy(logits, targets, reduction="sum")
        if scale is not None:
            (gradient,) = torch.autograd.grad(loss * scale, part)
            into.copy_(gradient)
        return float(loss.detach())


def _chunks(flat: Tensor, targets: Tensor, gradient: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for start in range(0, flat.shape[0], LOSS_CHUNK_TOKENS):
        here = slice(start, start + LOSS_CHUNK_TOKENS)
        yield flat[here], targets[here], gradient[here]


def load_frozen(path: Path, precision: str, attention: str) -> Any:
    """The model in a directory, without gradients. Never runs code that comes with it. Raises `InputRefused`."""
    config = read_config(path)
    scaled = [name for name in _SCALED_LOGITS if config.get(name)]
    if scaled:
        raise InputRefused(f"model directory {path.name}", f"scales its logits ({scaled[0]}), which is not supported")
    if "auto_map" in config:
        raise InputRefused(f"model directory {path.name}", "asks to run code of its own, which is never done here")
    transformers_logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=getattr(torch, DTYPES[precision]),
        attn_implementation=attention,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    return model.requires_grad_(False)


def _adapt(model: nn.Module, name: str, params: LoraParams) -> LoraLinear:
    try:
        base = model.get_submodule(name)
    except AttributeError:
        raise InputRefused("the model", f"has no layer {name}, which the manifest's params.modules names") from None
    if not isinstance(base, nn.Linear):
        raise InputRefused("the model", f"has a {type(base).__name__} at {name}, only linear layers can be adapted")
    found = (base.out_features, base.in_features)
    if found != params.modules[name]:
        raise InputRefused("the model", f"has {found} features at {name}, params.modules says {params.modules[name]}")
    parent, _, last = name.rpartition(".")
    adapter = LoraLinear(base, params.rank, params.scale)
    setattr(model.get_submodule(parent), last, adapter)
    return adapter


_loaded: dict[tuple[object, ...], AdaptedModel] = {}


def adapted_model(path: Path, params: LoraParams, precision: str, resources: Resources) -> AdaptedModel:
    """The model for a job, kept loaded from task to task. Raises `OutOfMemory` before loading one that cannot fit."""
    modules = tuple(sorted(params.modules.items()))
    memory = resources.memory_bytes
    key = (path.resolve(), modules, params.rank, params.scale, precision, resources.device, resources.attention)
    if key not in _loaded:
        size = sum(file.stat().st_size for file in weight_files(path))
        if memory is not None and size > memory:
            raise OutOfMemory(
                f"the model's weights have {size >> 20} MiB, over this node's limit of {memory >> 20} MiB"
            )
        _loaded.clear()
        gc.collect()
        _loaded[key] = AdaptedModel(path, params, precision, resources)
    return _loaded[key]
