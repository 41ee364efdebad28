"""What adapters become for their requester.

The network's result names the model by its CID, which nothing but Proofyard resolves. The copy that a requester gets
names the model as they call it, with the CID beside it, and holds its tokenizer: AutoPeft loads it as it is.
"""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from proofyard.artifacts.builder import cid_of_bytes
from proofyard.protocol.types import Cid
from proofyard.sdk.errors import JobRefused
from proofyard.sdk.peft_words import from_peft
from proofyard.workloads.model_files import TOKENIZER_FILES
from proofyard.workloads.peft_folder import CONFIG, AdapterShape, canonical, read_tensors, read_words

logger = logging.getLogger("proofyard.sdk")

BESIDE = "proofyard.json"
_OF_TRAINING = {
    "lora_dropout",
    "init_lora_weights",
    "exclude_modules",
    "target_modules",
    "layers_to_transform",
    "revision",
}
"""PEFT's words that say how an adapter came about, or that its tensors say better."""


def adapters_of(result: Path) -> list[Path]:
    """The folders of a result that hold an adapter."""
    return sorted(config.parent for config in result.rglob(CONFIG))


def complete_adapters(result: Path, name: str, tokenizer: Path) -> None:
    """Have each adapter in a result name its model `name`, with the CID beside it, unless it is empty, and bring the
    tokenizer's files of the folder `tokenizer`."""
    for folder in adapters_of(result):
        raw = json.loads((folder / CONFIG).read_text())
        address = raw["base_model_name_or_path"]
        named = raw | {"base_model_name_or_path": name or address}
        (folder / CONFIG).write_text(json.dumps(named, indent=2, sort_keys=True) + "\n")
        (folder / BESIDE).write_text(json.dumps({"base_model": address}, indent=2) + "\n")
        for file in TOKENIZER_FILES:
            if (tokenizer / file).is_file():
                shutil.copyfile(tokenizer / file, folder / file)


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter as nodes read it: its shape, and its tensors as the artifact `cid`, the bytes `data`."""

    shape: AdapterShape
    data: bytes
    cid: Cid


def read_adapter(folder: Path) -> Adapter:
    """The adapter of a folder that PEFT, or a job, has saved. Raises `InputRefused` and `JobRefused` that name what
    nodes cannot compute of it."""
    words = {word: value for word, value in read_words(folder).items() if word not in _OF_TRAINING}
    found = from_peft(words, 8, 8.0)
    rank, alpha = found.get("rank", 8), float(found.get("alpha", 8.0))
    modules, tensors = read_tensors(folder, rank)
    data = canonical(tensors)
    return Adapter(AdapterShape(modules=modules, rank=rank, alpha=alpha), data, cid_of_bytes(data))


def require_base(folder: Path, model: Cid | None) -> None:
    """Say so where an adapter's folder names another model's CID than this one."""
    try:
        named = json.loads((folder / BESIDE).read_bytes())["base_model"]
    except (OSError, ValueError, LookupError, TypeError):
        named = read_words(folder).get("base_model_name_or_path")
    if isinstance(named, str) and named.startswith("ipfs://") and model and named != f"ipfs://{model}":
        logger.warning("the adapter %s was trained on %s, and the model here is ipfs://%s", folder, named, model)


def one_adapter(result: Path, what: str) -> Path:
    """The folder of the one adapter in what was fetched. Raises `JobRefused`."""
    found = adapters_of(result)
    if len(found) != 1:
        raise JobRefused(
            f"adapter: {what} holds {len(found)} adapters; give the folder of one, a CID or a job's number"
        )
    return found[0]
