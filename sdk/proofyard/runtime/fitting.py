"""Text for people, fit to the width that they have: broken between words, and what is copied stays whole.

A line goes on below where its text began. An address, a CID or a path is never broken, and may be longer than the width
where it stands alone. A command goes on behind a backslash, as a shell reads it.
"""

import os
import re
from collections.abc import Sequence
from typing import IO

LEAST = 20
"""Columns; less is no width to read in."""
ROOM = 24
"""What a column of texts keeps beside others; with less a table's rows become records."""
_WORDS = re.compile(r"`[^`]{1,40}`\S*|\S+")
_ARGUMENTS = re.compile(r"(?:'[^']*'|\"[^\"]*\"|\\.|\S)+")
_COMMAND = re.compile(r"(?P<lead>\s*(?:.*?(?<=[\w)]): )?)(?P<command>(?:proofyard|export|cd|curl|pip|python) .*)")
_SENTENCE = re.compile(r"[,;:.] |[;,.]$")
_LABEL = re.compile(r"\s*\S.*?\s{2,}(?=\S)|\s*")


def width_of(stream: IO[str] | None) -> int | None:
    """The columns of whoever reads a stream: what COLUMNS says, else the terminal's; None where a program reads it, or
    nobody, since it is closed."""
    said = os.environ.get("COLUMNS", "")
    if said.isascii() and said.isdecimal() and int(said):
        return max(LEAST, int(said))
    if stream is None:
        return None
    try:
        return max(LEAST, os.get_terminal_size(stream.fileno()).columns)
    except (OSError, ValueError):
        return None


def fitted(text: str, width: int | None) -> str:
    """`text` in lines of at most `width` columns, as far as its words allow; as it is where that is None."""
    if width is None:
        return text
    return "\n".join(part for line in text.split("\n") for part in _fit(line, width))


def table(rows: Sequence[Sequence[str]], header: Sequence[str], width: int | None = None) -> str:
    """Columns padded with spaces: readable, and easy to cut for other programs. What is wider than `width` has its last
    column wrapped; where that leaves it no room, a line for each cell and a blank one between rows."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    before = sum(each + 2 for each in widths[:-1])
    if width is None or before + widths[-1] <= width:
        return _columns((header, *rows), widths)
    longest = max((len(word) for row in rows for word in row[-1].split()), default=0)
    if width - before >= max(ROOM, longest):
        split = [_wrap(row[-1], width - before) or [""] for row in (header, *rows)]
        cells = [
            (*(row[:-1] if not number else [""] * (len(row) - 1)), part)
            for row, parts in zip((header, *rows), split, strict=True)
            for number, part in enumerate(parts)
        ]
        return _columns(cells, widths)
    names = max(map(len, header))
    records = [
        "\n".join(f"{name:<{names}}  {cell}" for name, cell in zip(header, row, strict=True) if cell) for row in rows
    ]
    return "\n\n".join(records)


def _columns(rows: Sequence[Sequence[str]], widths: Sequence[int]) -> str:
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _fit(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    found = _COMMAND.fullmatch(line)
    if found and not _SENTENCE.search(found["command"]):
        return _fit_command(found["lead"], found["command"], width)
    label = _LABEL.match(line)
    assert label is not None, "nothing at all matches"
    indent = label.end() if label.end() <= width // 2 else len(line) - len(line.lstrip()) + 2
    start = line[: label.end()].rstrip() if indent == label.end() else ""
    rest = line[len(start) :]
    if start:
        lines = _wrap(rest, width - indent)
        first = f"{start:<{indent}}"
        return _hung([first + lines[0], *(" " * indent + each for each in lines[1:])], start, indent, width)
    leading = len(line) - len(line.lstrip())
    lines = _wrap(rest, width - leading)
    again = _wrap(" ".join(lines[1:]), width - min(indent, width // 2))
    return [" " * leading + lines[0], *(" " * min(indent, width // 2) + each for each in again)]


def _hung(lines: list[str], start: str, indent: int, width: int) -> list[str]:
    """What is too long where it hangs stands on a line of its own, a little in."""
    shown: list[str] = []
    for number, line in enumerate(lines):
        if len(line) <= width:
            shown.append(line)
            continue
        shown += [start] if number == 0 and start.strip() else []
        shown.append("  " + line[indent:])
    return shown


def _wrap(text: str, width: int) -> list[str]:
    """Words in lines; one that is longer has a line of its own."""
    lines: list[str] = []
    words = [part for word in _WORDS.findall(text) for part in ([word] if len(word) <= width else word.split())]
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _fit_command(lead: str, command: str, width: int) -> list[str]:
    """A command on lines of its own, that a shell reads as one."""
    leading = len(lead) - len(lead.lstrip())
    lines = [" " * leading + each for each in _wrap(lead, width - leading)]
    indent = leading + (2 if lines else 0)
    shown = [""]
    for argument in _ARGUMENTS.findall(command):
        taken = indent + (4 if len(shown) > 1 else 0) + len(shown[-1])
        if (len(shown) > 1 or " " in shown[-1]) and taken + 1 + len(argument) > width - 2:
            shown.append(argument)
        else:
            shown[-1] += f" {argument}" if shown[-1] else argument
    for number, each in enumerate(shown):
        lines.append(" " * (indent + (4 if number else 0)) + each + (" \\" if number < len(shown) - 1 else ""))
    return lines
