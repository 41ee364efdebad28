"""What the documentation's site does beyond mkdocs: pictures of its own are drawn in the page, so that they follow its
colours, and links to files of the repository that are no pages become their names, once these are known to be there."""

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PICTURE = re.compile(r"!\[[^\]]*\]\(((?:\.\./)?assets/[\w.-]+\.svg)\)")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?!https?:|#|mailto:)[^)\s]+)\)")


class BrokenLink(Exception):
    """A page names a file that is not there."""


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The page's text as mkdocs is to read it."""
    folder = (DOCS / page.file.src_uri).parent

    def linked(found: "re.Match[str]") -> str:
        text, target = found[1], found[2]
        file = Path(os.path.normpath(folder / target.partition("#")[0]))
        if file.suffix == ".md" and file.is_relative_to(DOCS):
            return found[0]
        if not file.exists():
            raise BrokenLink(f"docs/{page.file.src_uri} links to {target}, which is not there")
        name = str(file.relative_to(ROOT))
        return f"`{name}`" if text.strip("`") in name else f"{text} (`{name}`)"

    def drawn(found: "re.Match[str]") -> str:
        return f'<div class="picture">{(folder / found[1]).read_text()}</div>'

    parts = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else PICTURE.sub(drawn, LINK.sub(linked, part)) for part in parts)
