"""What a result becomes for its requester: a folder that is theirs, adapters that name their model.

The network's result names the model by its CID, which nothing but Proofyard resolves. The copy that a requester gets
names the model as they call it, with the CID beside it, and holds its tokenizer: AutoPeft loads it as it is.
"""

import json
import shutil
from pathlib import Path

from proofyard.sdk.errors import DestinationTaken
from proofyard.workloads.model_files import TOKENIZER_FILES

CONFIG, BESIDE = "adapter_config.json", "proofyard.json"


def require_free(dest: Path, *, force: bool) -> None:
    """Raise `DestinationTaken` unless the directory `dest` is new or empty, or its files may be replaced (`force`)."""
    if dest.exists() and not dest.is_dir():
        raise DestinationTaken(dest, "is a file; name a folder")
    if not force and dest.is_dir() and (held := sorted(entry.name for entry in dest.iterdir())):
        more = f" and {len(held) - 3} more" if len(held) > 3 else ""
        raise DestinationTaken(dest, f"is not empty: it holds {', '.join(held[:3])}{more}")


def complete_adapters(result: Path, name: str, model: Path) -> None:
    """Have each adapter in a result name its model `name`, a hub name or the directory `model`, and bring the tokenizer
    of the latter."""
    called = str(model.resolve()) if Path(name).is_dir() else name
    for config in sorted(result.rglob(CONFIG)):
        raw = json.loads(config.read_text())
        address = raw["base_model_name_or_path"]
        config.write_text(json.dumps(raw | {"base_model_name_or_path": called}, indent=2, sort_keys=True) + "\n")
        (config.parent / BESIDE).write_text(json.dumps({"base_model": address}, indent=2) + "\n")
        for file in TOKENIZER_FILES:
            if (model / file).is_file():
                shutil.copyfile(model / file, config.parent / file)
