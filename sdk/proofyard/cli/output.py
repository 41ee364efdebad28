"""Printing: data on stdout, as text or as JSON; everything else on stderr."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from proofyard.protocol.amounts import format_amount, read_amount
from proofyard.protocol.types import Wei
from proofyard.runtime.plain import plain as plain

format_credits = format_amount

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document, ids and amounts as text.")]
"""The option that every command with data on stdout takes."""


def emit(data: Mapping[str, Any] | Sequence[Any], *, as_json: bool, text: str) -> None:
    """Print a command's result: `data` as JSON, or `text` for people."""
    print(json.dumps(data, indent=2) if as_json else plain(text), flush=True)


def names(found: Sequence[str], most: int = 20) -> str:
    """The names of some files for people, the first `most` of them."""
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")


def note(text: str) -> None:
    """Tell the person at the terminal something that is not data: progress, the next command to type."""
    print(plain(text), file=sys.stderr, flush=True)


def parse_credits(text: str, unit: str = "CREDIT") -> Wei:
    """Base units of an amount typed by a person: `12`, `0.5`. Raises `typer.BadParameter`."""
    try:
        return read_amount(text, unit)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Columns padded with spaces: readable, and easy to cut for other programs."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in (header, *rows)
    )
