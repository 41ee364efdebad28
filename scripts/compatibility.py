"""docs/compatibility.md: what was tried with Proofyard, written from the tables that the tests work through.

Each file in tests/compatibility is one section: `order`, `title`, `text`, `columns` (key to heading) and `rows`. A test
reads its table with `section` and tries every row, or a row names its `test`, so a row stands on the page because a
test goes through it; keys of a row that are no column are the test's own. `$name` in a text is the version of a package
that the tests run with. `python -m scripts.compatibility` writes the page.
"""

import json
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

ROOT = Path(__file__).parent.parent
TABLES = ROOT / "tests" / "compatibility"
PAGE = ROOT / "docs" / "compatibility.md"
HEAD = """# What Proofyard was tried with

Written by `python -m scripts.compatibility` from the tables in `tests/compatibility`: the tests try every row. What is
not listed may work as well; nobody has tried it here.
"""


@dataclass(frozen=True)
class Section:
    """A table of the page. `columns`: what is shown, key to heading; a row may hold more."""

    order: int
    title: str
    text: str
    columns: dict[str, str]
    rows: list[dict[str, Any]]


def section(name: str) -> Section:
    """The table in tests/compatibility/`name`.toml."""
    return Section(**tomllib.loads((TABLES / f"{name}.toml").read_text(encoding="utf-8")))


def versions() -> dict[str, str]:
    """The versions of packages, without their last number: of Python's as pinned, of npm's by their own names."""
    pins = dict(re.findall(r"^([\w-]+)==(\d+\.\d+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    for package in (ROOT / "package.json", ROOT / "tests" / "chain" / "dapps" / "package.json"):
        for name, version in json.loads(package.read_text())["devDependencies"].items():
            pins[name.rpartition("/")[2]] = version.rpartition(".")[0]
    return pins


def page() -> str:
    """The whole page."""
    found = sorted((section(path.stem) for path in TABLES.glob("*.toml")), key=lambda each: (each.order, each.title))
    return "\n".join([HEAD, *map(_markdown, found)])


def _markdown(part: Section) -> str:
    lines = ["| " + " | ".join(part.columns.values()) + " |", "|" + "---|" * len(part.columns)]
    lines += ["| " + " | ".join(_cell(row.get(key, "")) for key in part.columns) + " |" for row in part.rows]
    text = Template(part.text.strip()).substitute(versions())
    return f"## {part.title}\n{text}\n\n" + "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    text = ", ".join(value) if isinstance(value, list) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def main() -> int:
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
