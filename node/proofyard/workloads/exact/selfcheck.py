"""A model's exact forward pass against transformers' own, once for each model directory, precision and machine.

It guards against a configuration that means something else to transformers than to us: the two must agree within the
error of the arithmetic. transformers runs in a process of its own, whose memory is given back; what was found is kept
in this user's cache.
"""

import fcntl
import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import platformdirs

from proofyard.workloads.errors import ExecutionError, InputRefused
from proofyard.workloads.exact.backend import Backend
from proofyard.workloads.exact.bert import Encoder
from proofyard.workloads.exact.decoder import Decoder
from proofyard.workloads.exact.tampering import active
from proofyard.workloads.model_files import read_config, weight_files

TOKENS = 24
EXPECTED = {"exact": 0.05, "exact8": 0.25, "exact4": 0.6}
"""Largest relative L2 distance of the outputs, each row's mean taken off. Seen with SmolLM2-135M: docs/exact.md."""
VERSION = b"1"
TIMEOUT_S = 600.0


def check_decoder(model: Path, decoder: Decoder, precision: str) -> None:
    """Raise `InputRefused` where the logits of a short text are too far from transformers'."""
    ids = _ids(decoder.config.vocabulary, model)
    _check(model, "causal", precision, ids, lambda: decoder.shown_logits(decoder.hidden(ids, [len(ids)])))


def check_encoder(model: Path, encoder: Encoder | Decoder, backend: Backend, precision: str) -> None:
    """Raise `InputRefused` where the hidden states of a short text are too far from transformers'."""
    ids = _ids(encoder.config.vocabulary, model)
    _check(model, "encoder", precision, ids, lambda: backend.numpy(encoder.hidden(ids, [len(ids)])))


def distance(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Relative L2 distance of two matrices, each row's mean taken off; a value that is not finite is infinitely far."""
    a, b = (x.astype(np.float64) - x.astype(np.float64).mean(axis=1, keepdims=True) for x in (one, other))
    found = float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-30))
    return found if np.isfinite(found) else float("inf")


def _check(model: Path, kind: str, precision: str, ids: npt.NDArray[Any], own: Callable[[], npt.NDArray[Any]]) -> None:
    if active():
        return  # a cheat knows what it does
    folder = Path(platformdirs.user_cache_dir("proofyard")) / "checked"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    marker = folder / _key(model, kind, precision)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several nodes on one machine start at once
        if marker.exists():
            return
        found, limit = distance(own(), _reference(model, kind, ids)), EXPECTED[precision]
        if found > limit:
            raise InputRefused(
                f"model directory {model.name}",
                f"computes {found:.1%} apart from transformers here, expected is at most {limit:.0%}: "
                "its config.json asks for something that exact execution does not cover",
            )
        marker.write_text(f"{found:.6f}\n")


def _ids(vocabulary: int, model: Path) -> npt.NDArray[np.int64]:
    """The token that begins or ends texts, then tokens from all over the vocabulary."""
    config = read_config(model)
    first = config.get("bos_token_id") or config.get("eos_token_id") or 0
    first = first[0] if isinstance(first, list) else first
    ids = (np.arange(TOKENS, dtype=np.int64) * 7919 + 11) % vocabulary
    ids[0] = first if isinstance(first, int) and 0 <= first < vocabulary else 0
    return ids


def _key(model: Path, kind: str, precision: str) -> str:
    found = hashlib.sha256(
        b"\0".join([VERSION, kind.encode(), precision.encode(), (model / "config.json").read_bytes()])
    )
    for file in weight_files(model):
        at = file.stat()
        found.update(f"{file.name} {at.st_size} {at.st_mtime_ns}".encode())
    return found.hexdigest()[:32]


def _reference(model: Path, kind: str, ids: npt.NDArray[Any]) -> npt.NDArray[Any]:
    command = [sys.executable, "-m", __name__, str(model), kind, *map(str, ids)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=TIMEOUT_S)  # noqa: S603
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise ExecutionError(
            f"transformers cannot load {model.name} to check it: {words[-1] if words else 'no reason'}"
        )
    return np.frombuffer(done.stdout, np.float32).reshape(len(ids), -1)


def main() -> None:
    """Print transformers' outputs as binary32: MODEL causal|encoder IDS..."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)
    kinds: Any = {"causal": AutoModelForCausalLM, "encoder": AutoModel}
    options = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False, "dtype": "auto"}
    model = kinds[sys.argv[2]].from_pretrained(sys.argv[1], **options).eval()
    with torch.inference_mode():
        out = model(input_ids=torch.tensor([[int(word) for word in sys.argv[3:]]]))
    values = out.logits if sys.argv[2] == "causal" else out.last_hidden_state
    sys.stdout.buffer.write(values[0].float().numpy().tobytes())


if __name__ == "__main__":
    main()
