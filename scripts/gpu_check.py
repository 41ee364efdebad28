"""Whether this machine's GPU computes what its CPU does, to the bit, and how fast (`make gpu-check`).

Each of the CUDA backends (docs/exact.md) is held to the golden vectors and then, with the models in
`.cache/models`, to a CPU backend: a LoRA step and an evaluation of SmolLM2-135M, embeddings of MiniLM. Beside it stand
the times of plain bf16 and float32 with transformers and PEFT. Prints a table, writes `out/bench/gpu.json`. Exits with
1 where there is no CUDA device, where no backend reproduces the golden vectors, or where one that does differs from
the CPU afterwards.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from proofyard.workloads.adapted import linear_modules
from proofyard.workloads.exact import backend_for, backends
from proofyard.workloads.exact.backend import Backend
from proofyard.workloads.exact.bert import Encoder
from proofyard.workloads.exact.decoder import Decoder
from proofyard.workloads.exact.golden import check_backend, digest, golden, large
from proofyard.workloads.exact.golden_training import training
from proofyard.workloads.exact.optimizer import AdamW, Hyperparameters
from proofyard.workloads.randomness import raw_words, uniform
from proofyard.workloads.tiny import write_tiny_model
from proofyard.workloads.workload import Resources

Numpy = npt.NDArray[Any]
Run = Callable[[], list[Numpy]]

MODELS = Path(".cache/models")
DECODER, ENCODER = "smollm2-135m-instruct", "all-minilm-l6-v2"
OUT = Path("out/bench/gpu.json")
RANK, FACTOR, RATE = 8, 2.0, 1e-3
BATCH, SEQ_LEN = 4, 128
TARGETS = ("q_proj", "v_proj")
TEXTS = 64


@dataclass
class Found:
    """What one backend did: cases it computes differently, and a digest and a time in seconds by kind of work."""

    backend: str
    reason: str = ""
    different: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        return not self.reason and not self.different


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", help="other backends than CUDA's, to try the program itself")
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--repeat", type=int, default=5, help="runs of which the median time is taken")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the CPU")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    names = args.backends or [name for name in backends() if name.startswith("cuda-")]
    if any(name.startswith("cuda-") for name in names) and not torch.cuda.is_available():
        built = torch.version.cuda or "no CUDA"
        sys.exit(
            f"gpu-check: torch {torch.__version__} (built for {built}) sees no CUDA device on this machine, so nothing "
            "was checked. Run it where `nvidia-smi` lists a GPU, with a torch that is built for CUDA."
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    machine = describe(device)
    print(f"gpu-check on {machine['device']}: torch {machine['torch']}, CUDA {machine['cuda']}; CPU {machine['cpu']}")
    torch.set_num_threads(args.threads)
    _quiet()
    with tempfile.TemporaryDirectory() as folder:
        tiny = write_tiny_model(Path(folder) / "tiny")
        works = available_works(args.models)
        witness = check("CPU", backend_for(Resources(threads=args.threads, device="cpu")), tiny, works, args.repeat)
        found = [check_named(name, args.threads, tiny, works, args.repeat) for name in names]
    plain = [plain_times(kind, device, args.models, args.repeat) for kind in ("bf16", "float32")]
    verdict = judge(witness, found)
    print_table([witness, *found, *plain], witness)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"machine": machine, "verdict": verdict or "exact", "cpu": asdict(witness)}
    report |= {"backends": [asdict(each) for each in found], "plain": [asdict(each) for each in plain]}
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    if verdict:
        sys.exit(f"gpu-check: {verdict}")
    fastest = next(each.backend for each in found if each.exact)
    print(f"gpu-check: exact; a node here would compute with {fastest}. Report: {args.out}")


def describe(device: str) -> dict[str, str]:
    """What this runs on."""
    described = {"torch": torch.__version__, "cuda": torch.version.cuda or "none", "cpu": _cpu_name()}
    if device != "cuda":
        return described | {"device": "no GPU"}
    properties = torch.cuda.get_device_properties(0)
    return described | {
        "device": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": str(properties.total_memory),
    }


def _quiet() -> None:
    """No progress bars and notices of transformers between our lines."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


# -- exact work ----------------------------------------------------------------------------------------------------


def check_named(name: str, threads: int, tiny: Path, works: "Works", repeat: int) -> Found:
    try:
        backend = backends(threads)[name]()
    except Exception as error:  # whatever a device that cannot do this raises
        return Found(name, reason=f"{type(error).__name__}: {error}")
    return check(name, backend, tiny, works, repeat)


def check(name: str, backend: Backend, tiny: Path, works: "Works", repeat: int) -> Found:
    """Golden vectors, and the works where they are reproduced."""
    found = Found(name if name == backend.name else f"{backend.name} ({name})")
    try:
        found.different = check_backend(backend)
        found.different += [case for case, run in large().items() if digest(run(backend)) != golden()[case]]
        steps = training(backend, tiny, "exact")
        found.digests["tiny steps"] = digest(
            x for step in steps for x in (step.losses, step.norm, _hashed(step.digest))
        )
        for work, make in works.items() if found.exact else ():
            run = make(backend)
            found.digests[work] = digest(run())
            found.seconds[work] = median_seconds(run, repeat)
    except Exception as error:  # out of memory, or a kernel that the device lacks
        found.reason = f"{type(error).__name__}: {error}"
    return found


def _hashed(digest_hex: str) -> Numpy:
    return np.frombuffer(bytes.fromhex(digest_hex), np.uint8)


Works = dict[str, Callable[[Backend], Run]]


def available_works(models: Path) -> Works:
    """What can be computed with the models that are there."""
    works: Works = {}
    if (models / DECODER).exists():
        works["train"] = lambda backend: exact_step(backend, models / DECODER)
        works["evaluate"] = lambda backend: exact_losses(backend, models / DECODER)
    if (models / ENCODER).exists():
        works["embed"] = lambda backend: exact_vectors(backend, models / ENCODER)
    if len(works) < 3:
        print(
            f"gpu-check: not all models are in {models} (`make demo` puts them there); the rest is checked without them"
        )
    return works


def exact_step(backend: Backend, model: Path) -> Run:
    """A LoRA step on 4 sequences of 128 tokens: losses, the gradient's norm, and the adapter afterwards."""
    modules = linear_modules(model, list(TARGETS))
    decoder = Decoder(backend, model, "exact", modules)
    ids, targets = _tokens(BATCH * SEQ_LEN, decoder.config.vocabulary)
    weights: dict[str, Numpy] = {}
    for name, (outputs, inputs) in modules.items():
        weights[f"{name}.lora_A"] = uniform(RANK * inputs, 0.05, "gpu", name, "A").astype(np.float32).reshape(RANK, -1)
        weights[f"{name}.lora_B"] = uniform(outputs * RANK, 0.05, "gpu", name, "B").astype(np.float32).reshape(-1, RANK)
    zeros = {name: np.zeros_like(x) for name, x in weights.items()}

    def run() -> list[Numpy]:
        optimizer = AdamW(backend, weights, zeros, zeros, Hyperparameters(0.9, 0.999, 1e-8, 0.0, 1.0))
        decoder.adapters.set(optimizer.weights, FACTOR)
        losses = decoder.train(ids, targets, [SEQ_LEN] * BATCH, 1 / len(ids))
        norm = optimizer.step(decoder.adapters.gradients(), 1, RATE)
        after = [group[name] for group in optimizer.tensors() for name in sorted(group)]
        return [losses, np.array([norm], np.float32), *after]

    return run


def exact_losses(backend: Backend, model: Path) -> Run:
    """Losses of texts of many lengths."""
    decoder = Decoder(backend, model, "exact")
    lengths = _lengths()
    ids, targets = _tokens(sum(lengths), decoder.config.vocabulary)
    return lambda: [decoder.losses(ids, targets, lengths)]


def exact_vectors(backend: Backend, model: Path) -> Run:
    """Embeddings of texts of many lengths."""
    encoder = Encoder(backend, model)
    lengths = _lengths()
    ids, _ = _tokens(sum(lengths), encoder.config.vocabulary)

    def run() -> list[Numpy]:
        return [backend.numpy(backend.unit_length(backend.pool_mean(encoder.hidden(ids, lengths), lengths)))]

    return run


def _tokens(count: int, vocabulary: int) -> tuple[Numpy, Numpy]:
    """Tokens, and those that follow."""
    ids = (raw_words(count + 1, "gpu check", vocabulary) % np.uint64(vocabulary)).astype(np.int64)
    return ids[:-1], ids[1:]


def _lengths() -> list[int]:
    return [8 + int(word % np.uint64(120)) for word in raw_words(TEXTS, "gpu check lengths")]


# -- plain work, for its time --------------------------------------------------------------------------------------


def plain_times(kind: str, device: str, models: Path, repeat: int) -> Found:
    """The same work with transformers and PEFT in a floating-point type."""
    found = Found(f"plain {kind}")
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    works: dict[str, Callable[[], Run]] = {}
    if (models / DECODER).exists():
        works["train"] = lambda: plain_step(models / DECODER, device, dtype)
        works["evaluate"] = lambda: plain_losses(models / DECODER, device, dtype)
    if (models / ENCODER).exists():
        works["embed"] = lambda: plain_vectors(models / ENCODER, device, dtype)
    for name, make in works.items():
        found.seconds[name] = median_seconds(make(), repeat)
    return found


def plain_step(path: Path, device: str, dtype: torch.dtype) -> Run:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    config = LoraConfig(r=RANK, lora_alpha=FACTOR * RANK, target_modules=list(TARGETS), lora_dropout=0.0)
    model: Any = get_peft_model(base, config).to(device).train()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
    ids, targets = _padded([SEQ_LEN] * BATCH, base.config.vocab_size, device)

    def run() -> list[Numpy]:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(ids).logits.flatten(0, 1).float(), targets.flatten())
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        return [loss.detach().cpu().numpy()]

    return run


def plain_losses(path: Path, device: str, dtype: torch.dtype) -> Run:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(device).eval()
    lengths = _lengths()
    ids, targets = _padded(lengths, model.config.vocab_size, device)
    mask = _mask(lengths, device)

    @torch.inference_mode()
    def run() -> list[Numpy]:
        found = []
        for some in torch.split(torch.arange(TEXTS), 16):
            logits = model(input_ids=ids[some], attention_mask=mask[some]).logits[mask[some].bool()].float()
            losses = torch.nn.functional.cross_entropy(logits, targets[some][mask[some].bool()], reduction="none")
            found.append(losses.cpu().numpy())
        return found

    return run


def plain_vectors(path: Path, device: str, dtype: torch.dtype) -> Run:
    from transformers import AutoModel

    model: Any = AutoModel.from_pretrained(path, dtype=dtype).to(device).eval()
    lengths = _lengths()
    ids, _ = _padded(lengths, model.config.vocab_size, device)
    mask = _mask(lengths, device)

    @torch.inference_mode()
    def run() -> list[Numpy]:
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.float() * mask[:, :, None]
        vectors = torch.nn.functional.normalize(hidden.sum(1) / mask.sum(1, keepdim=True), dim=1)
        return [vectors.cpu().numpy()]

    return run


def _padded(lengths: Sequence[int], vocabulary: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens of `_tokens` as (sequences, longest), zeros behind, and those that follow."""
    flat = _tokens(sum(lengths), vocabulary)
    both = torch.zeros(2, len(lengths), max(lengths), dtype=torch.int64)
    for row, (start, end) in enumerate(pairwise(np.cumsum([0, *lengths]).tolist())):
        for into, tokens in zip(both, flat, strict=True):
            into[row, : end - start] = torch.from_numpy(tokens[start:end])
    ids, targets = both.to(device)
    return ids, targets


def _mask(lengths: Sequence[int], device: str) -> torch.Tensor:
    return (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).to(torch.int64).to(device)


def median_seconds(run: Run, repeat: int) -> float:
    """The median time of some runs after one more; results are numpy's, so a device has finished."""
    run()
    return statistics.median(_seconds(run) for _ in range(repeat))


def _seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


# -- the verdict ---------------------------------------------------------------------------------------------------


def judge(witness: Found, found: Sequence[Found]) -> str:
    """What is wrong, or nothing."""
    if not witness.exact:
        return f"the CPU's own backend is not exact here: {witness.reason or witness.different}"
    working = [each for each in found if each.exact]
    wrong = [f"{each.backend} at {work!r}" for each in working for work in differences(each, witness)]
    if wrong:
        return f"different from the CPU although the golden vectors are reproduced: {', '.join(wrong)}"
    return "" if working else "no backend reproduces the golden vectors on this device"


def differences(found: Found, witness: Found) -> Iterator[str]:
    for work, expected in witness.digests.items():
        if found.digests.get(work) != expected:
            yield work


def print_table(rows: Sequence[Found], witness: Found) -> None:
    works = list(witness.seconds)
    heads = ["", "golden vectors", *(f"{work}, s" for work in works), "bits"]
    lines = [heads]
    for row in rows:
        plain = row.backend.startswith("plain")
        state = "-" if plain else "reproduced" if row.exact else row.reason or f"{len(row.different)} different"
        times = [f"{row.seconds[work]:.4f}" if work in row.seconds else "-" for work in works]
        equal = "-" if plain or not row.exact else "different" if list(differences(row, witness)) else "equal"
        lines.append([row.backend, state, *times, equal])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
