"""Printing: data on stdout, as text or as JSON; everything else on stderr."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from proofyard.protocol.types import Wei

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout; amounts and ids are strings.")]
"""The option that every command with data on stdout takes."""


def emit(data: Mapping[str, Any] | Sequence[Any], *, as_json: bool, text: str) -> None:
    """Print a command's result: `data` as JSON, or `text` for people."""
    print(json.dumps(data, indent=2) if as_json else text, flush=True)


def note(text: str) -> None:
    """Tell the person at the terminal something that is not data: progress, the next command to type."""
    print(text, file=sys.stderr, flush=True)


def format_credits(amount: int) -> str:
    """An amount in base units as people read it, such as `1,250.5 CREDIT`. Exact: no digit is rounded away."""
    whole, rest = divmod(abs(amount), 10**18)
    fraction = f".{rest:018d}".rstrip("0") if rest else ""
    return f"{'-' if amount < 0 else ''}{whole:,}{fraction} CREDIT"


def parse_credits(text: str) -> Wei:
    """Base units of an amount typed by a person: `12`, `0.5`. Raises `typer.BadParameter`."""
    whole, _, fraction = text.removesuffix("CREDIT").strip().replace(",", "").partition(".")
    if not (whole + fraction).isdecimal() or len(fraction) > 18:
        raise typer.BadParameter(f"{text!r} is not an amount of CREDIT; write it like 12 or 0.5, at most 18 decimals")
    return Wei(int(whole or "0") * 10**18 + int(fraction.ljust(18, "0")))


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Columns padded with spaces: readable, and easy to cut for other programs."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in (header, *rows)
    )
