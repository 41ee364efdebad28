"""A model's exact forward pass against transformers' own, once for each model, precision and machine.

It guards against a configuration that means something else to transformers than to us, and a model whose loss is
another one than ours: outputs, and the loss that the model itself makes of labels, some of them masked, must agree
within the error of the arithmetic. transformers computes in binary32 with the weights that the precision makes of the
model's, in a process of its own, whose memory is given back; what was found is kept in this user's cache.

A model that is too far away is not executed here, but that is no defined failure: how far it is depends in its last
digits on this machine and on the release of transformers, and a model could be made to stand right at the limit.
"""

import hashlib
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from proofyard.workloads.checked import current
from proofyard.workloads.errors import ExecutionError, InputRefused, ModelMisread
from proofyard.workloads.exact.backend import Backend
from proofyard.workloads.exact.bert import Encoder
from proofyard.workloads.exact.causal import CausalModel
from proofyard.workloads.exact.slicing import frozen_values
from proofyard.workloads.exact.tampering import active
from proofyard.workloads.model_files import read_config, weight_files, weight_shapes
from proofyard.workloads.sandbox import helper

TOKENS = 24
LIMIT = 0.05
"""Largest relative L2 distance of the outputs, each row's mean taken off. Seen: docs/exact.md, Models."""
HALF_LIMIT = 0.1
"""The same where memory is only enough for transformers to compute in the precision that the weights are stored in."""
TIMEOUT_S = 600.0
LOSS_WEIGHT = 2.0
"""A mean over tokens is closer than outputs are: docs/exact.md, Models."""
MASKED = 6
"""So many of the first tokens have no label."""
WHOLE_BYTES = 64 << 20
"""Smaller weight files are known again by their content, others by size, time and their beginning."""
_SOURCES = (
    *("bert.py", "causal.py", "config.py", "decoder.py", "fields.py", "gpt2.py", "selfcheck.py", "slicing.py"),
    *("tables.py", "weights.py"),
)


@dataclass(frozen=True)
class Seen:
    """What a model makes of the tokens that are tried: (tokens, n) logits or hidden states, and the mean loss in nats
    of the tokens from number `MASKED` on, None where it has none."""

    outputs: npt.NDArray[Any]
    loss: float | None = None


def check_decoder(model: Path, decoder: CausalModel[Any], precision: str) -> None:
    """Raise `ModelMisread` where logits or loss of a short text are too far from transformers', `ExecutionError` where
    they cannot be compared here."""
    ids = _ids(model, decoder.config.vocabulary, decoder.config.room)

    def own() -> Seen:
        logits = decoder.shown_logits(decoder.hidden(ids, [len(ids)]))
        if len(ids) <= MASKED:
            return Seen(logits)
        losses = decoder.losses(ids[:-1], ids[1:], [len(ids) - 1], np.arange(MASKED - 1, len(ids) - 1))
        return Seen(logits, float(losses.astype(np.float64).mean()))

    _check(model, "causal", precision, ids, own)


def check_encoder(model: Path, encoder: Encoder | CausalModel[Any], backend: Backend, precision: str) -> None:
    """The same for the hidden states of a model that embeds."""
    ids = _ids(model, encoder.config.vocabulary, encoder.config.room)
    _check(model, "encoder", precision, ids, lambda: Seen(backend.numpy(encoder.hidden(ids, [len(ids)]))))


def distance(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Relative L2 distance of two matrices, each row's mean taken off; a value that is not finite is infinitely far."""
    a, b = (x.astype(np.float64) - x.astype(np.float64).mean(axis=1, keepdims=True) for x in (one, other))
    found = float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-30))
    return found if np.isfinite(found) else float("inf")


def _apart(one: Seen, other: Seen) -> float:
    """How far two are apart: the larger one of the distances of outputs and of losses, these measured by the spread of
    the logits."""
    if one.loss is None or other.loss is None:
        return distance(one.outputs, other.outputs)
    logits = other.outputs.astype(np.float64)
    spread = float((logits - logits.mean(axis=1, keepdims=True)).std())
    losses = LOSS_WEIGHT * abs(one.loss - other.loss) / max(spread, 1e-30)
    return max(distance(one.outputs, other.outputs), losses if np.isfinite(losses) else float("inf"))


def _check(model: Path, kind: str, precision: str, ids: npt.NDArray[Any], own: Callable[[], Seen]) -> None:
    if active():
        return  # a cheat knows what it does
    checked, key = current(), comparison(model, kind, precision)
    if checked.has(key):
        return
    with checked.turn(model):
        if checked.has(key):
            return
        dtype, limit = ("float32", LIMIT) if _fits(model) else ("auto", HALF_LIMIT)
        try:
            found = _apart(own(), _theirs(model, kind, precision, dtype, ids))
        except InputRefused as error:  # of the text that is tried here, which no job holds
            raise ExecutionError(f"model directory {model.name} cannot be checked: {error}") from None
        if found > limit:
            raise ModelMisread(
                f"model directory {model.name} computes {found:.1%} apart from transformers here, expected is at most "
                f"{limit:.0%}: its config.json or its loss asks for something that exact execution does not cover"
            )
        checked.add(key, found)


def _ids(model: Path, vocabulary: int, room: int) -> npt.NDArray[np.int64]:
    """The token that begins or ends texts, then tokens from all over the vocabulary."""
    config = read_config(model)
    first = config.get("bos_token_id") or config.get("eos_token_id") or 0
    first = first[0] if isinstance(first, list) and first else first
    ids = (np.arange(min(TOKENS, room), dtype=np.int64) * 7919 + 11) % vocabulary
    ids[0] = first if isinstance(first, int) and 0 <= first < vocabulary else 0
    return ids


def comparison(model: Path, kind: str, precision: str) -> str:
    """A name for what is checked: the model, and the code on both sides."""
    found = hashlib.sha256("\0".join([kind, precision, version("transformers")]).encode())
    for source in _SOURCES:
        found.update(hashlib.sha256(Path(__file__).with_name(source).read_bytes()).digest())
    found.update((model / "config.json").read_bytes())
    for file in weight_files(model):
        at = file.stat()
        whole = at.st_size <= WHOLE_BYTES
        found.update(f"{file.name} {at.st_size} {0 if whole else at.st_mtime_ns}".encode())
        with file.open("rb") as stream:
            found.update(stream.read(WHOLE_BYTES if whole else 1 << 20))
    return found.hexdigest()[:32]


def _fits(model: Path) -> bool:
    """Whether there is memory for the model in binary32."""
    need = 4 * sum(map(prod, weight_shapes(model).values()))
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    room: int = psutil.virtual_memory().available
    return 1.2 * need < (room if limit == resource.RLIM_INFINITY else min(room, limit))


def _theirs(model: Path, kind: str, precision: str, dtype: str, ids: npt.NDArray[Any]) -> Seen:
    arguments = (str(model), kind, precision, dtype, *map(str, ids))
    try:
        done = helper.run("proofyard.workloads.exact.selfcheck", arguments, TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise ExecutionError(f"transformers takes over {TIMEOUT_S:.0f} s to check {model.name}") from None
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise ExecutionError(
            f"transformers cannot load {model.name} to check it: {words[-1] if words else 'no reason'}"
        )
    loss, *outputs = np.split(np.frombuffer(done.stdout, np.float32), [1])
    return Seen(outputs[0].reshape(len(ids), -1), float(loss[0]) if kind == "causal" and len(ids) > MASKED else None)


def main() -> None:
    """Print the loss and transformers' outputs as binary32: MODEL causal|encoder PRECISION float32|auto IDS..."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D
    from transformers.utils import logging as transformers_logging

    path, kind, precision, dtype, *ids = sys.argv[1:]
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)
    kinds: Any = {"causal": AutoModelForCausalLM, "encoder": AutoModel}
    options = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False, "dtype": dtype}
    options["attn_implementation"] = "eager"  # the others leave soft caps out in some versions of transformers
    model = kinds[kind].from_pretrained(path, **options).eval()
    head = model.get_output_embeddings() if kind == "causal" else None
    with torch.inference_mode():
        for layer in model.modules():
            if isinstance(layer, torch.nn.Linear | Conv1D) and layer is not head and precision != "exact":
                weight = layer.weight.t() if isinstance(layer, Conv1D) else layer.weight  # (out, in)
                values = frozen_values(weight.float().contiguous().numpy(), precision)
                weight.copy_(torch.from_numpy(values))
        tokens = torch.tensor([[int(word) for word in ids]])
        labels = tokens.clone()
        labels[:, :MASKED] = -100  # what the loss of transformers passes over
        out = model(input_ids=tokens, labels=labels) if kind == "causal" else model(input_ids=tokens)
    values = out.logits if kind == "causal" else out.last_hidden_state
    loss = out.loss if kind == "causal" else torch.zeros(())
    sys.stdout.buffer.write(loss.float().numpy().tobytes() + values[0].float().numpy().tobytes())


if __name__ == "__main__":
    main()
