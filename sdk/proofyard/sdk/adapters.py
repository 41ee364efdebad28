"""What adapters become for their requester.

The network's result names the model by its CID, which nothing but Proofyard resolves. The copy that a requester gets
names the model as they call it, with the CID beside it, and holds its tokenizer: AutoPeft loads it as it is.
"""

import json
import shutil
from pathlib import Path

from proofyard.workloads.model_files import TOKENIZER_FILES

CONFIG, BESIDE = "adapter_config.json", "proofyard.json"


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
