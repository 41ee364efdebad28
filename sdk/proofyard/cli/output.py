"""Printing: data on stdout, as text or as JSON; everything else on stderr."""

import io
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from proofyard.protocol.amounts import format_amount, read_amount
from proofyard.protocol.types import Wei
from proofyard.runtime import fitting
from proofyard.runtime.fitting import fitted, width_of
from proofyard.runtime.plain import plain as plain

format_credits = format_amount

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document, ids and amounts as text.")]
"""The option that every command with data on stdout takes."""


def take_any_character() -> None:
    """Have no character end a command: a terminal of another encoding gets escapes for what it cannot show."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def emit(data: Mapping[str, Any] | Sequence[Any], *, as_json: bool, text: str) -> None:
    """Print a command's result: `data` as JSON, or `text` for people."""
    if as_json:
        print(json.dumps(data, indent=2), flush=True)
    else:
        say(text)


def say(text: str) -> None:
    """Print data for people, as wide as their terminal."""
    print(fitted(plain(text), width_of(sys.stdout)), flush=True)


def names(found: Sequence[str], most: int = 20) -> str:
    """The names of some files for people, the first `most` of them."""
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")


def note(text: str) -> None:
    """Tell the person at the terminal something that is not data: progress, the next command to type."""
    if sys.stderr is not None:  # closed by whoever called: print would take stdout in its place
        print(fitted(plain(text), width_of(sys.stderr)), file=sys.stderr, flush=True)


def parse_credits(text: str, unit: str = "CREDIT") -> Wei:
    """Base units of an amount typed by a person: `12`, `0.5`. Raises `typer.BadParameter`."""
    try:
        return read_amount(text, unit)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Columns, or on a terminal that is too narrow for them a line for each cell."""
    return fitting.table(rows, header, width_of(sys.stdout))
