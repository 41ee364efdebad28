"""Why a line of a data file is no row: where it goes wrong, and what to do about it."""

import codecs
import json
import re
from typing import Any, NoReturn

from proofyard.workloads.errors import InputRefused

_ONE_A_LINE = "write one JSON object a line"
_OTHER_FILES = {
    codecs.BOM_UTF16_LE: "the file is UTF-16; save it as UTF-8",
    codecs.BOM_UTF16_BE: "the file is UTF-16; save it as UTF-8",
    codecs.BOM_UTF32_BE: "the file is UTF-32; save it as UTF-8",
    b"\x1f\x8b": "the file is compressed (gzip); unpack it",
    b"BZh": "the file is compressed (bzip2); unpack it",
    b"\xfd7zXZ": "the file is compressed (xz); unpack it",
    b"\x28\xb5\x2f\xfd": "the file is compressed (zstd); unpack it",
    b"PAR1": "the file is Parquet; name it .parquet and submit it as it is",
    b"ARROW1": "the file is Arrow; load it with `datasets` or pyarrow and submit that",
    b"\xff\xff\xff\xff": "the file is an Arrow stream; load it with `datasets` or pyarrow and submit that",
    b"SQLite format 3": "the file is a SQLite database; export the table as CSV",
    b"PK\x03\x04": "the file is a zip archive or a spreadsheet; save the table as CSV",
}
"""What else files begin with."""
MAX_NESTING = 100
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_HIGH, _LOW = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}"), re.compile(r"\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def refused_line(number: int, line: bytes, kind: str, error: Exception) -> InputRefused:
    """The error for a line that is no `kind`. `error` is the decoder's. Columns count characters from 1."""
    column, reason = _why(number, line, error)
    return InputRefused(f"data file line {number}", f"is no {kind}: column {column}: {reason}")


def require_flat(number: int, line: bytes, kind: str) -> None:
    """Raise `InputRefused` for a line that is nested too deeply: how deep a decoder gets depends on who calls it."""
    if line.count(b"{") + line.count(b"[") <= MAX_NESTING:
        return
    depth = 0
    for byte in _STRING.sub(b"", line):
        depth += (byte in b"{[") - (byte in b"}]")
        if depth > MAX_NESTING:
            reason = f"objects in it are nested more than {MAX_NESTING} deep; leave out what is not the text"
            raise InputRefused(f"data file line {number}", f"is no {kind}: column 1: {reason}")


def require_single_keys(number: int, line: bytes, kind: str) -> None:
    """Raise `InputRefused` where the object of a line has a key twice: decoders take the last one without a word."""
    text = line.decode()
    pairs: list[tuple[str, Any]] = json.loads(text, object_pairs_hook=list, parse_int=str, parse_float=str)
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            column = text.rfind(json.dumps(key, ensure_ascii=False)) + 1
            reason = f"column {column}: it has {key!r} twice; keep one of them"
            raise InputRefused(f"data file line {number}", f"is no {kind}: {reason}")
        seen.add(key)


def _why(number: int, line: bytes, error: Exception) -> tuple[int, str]:
    for beginning, reason in _OTHER_FILES.items():
        if number == 1 and line.startswith(beginning):
            return 1, reason
    try:
        text = line.decode().rstrip("\r\n")
    except UnicodeDecodeError as bad:
        column = len(line[: bad.start].decode(errors="replace")) + 1
        return column, f"the byte 0x{line[bad.start]:02x} is no UTF-8; save the file as UTF-8"
    if "\0" in text:
        return text.index("\0") + 1, "a zero byte, as in UTF-16 or a damaged file; save it as UTF-8 without zero bytes"
    try:
        value = json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as bad:
        return bad.colno, f"{bad.msg}; {_advice(text)}"
    except _NoNumber as bad:
        return text.find(str(bad)) + 1, f"{bad} is no JSON; leave the field out, or write null where it is none of ours"
    except ValueError:
        return 1, f"a number has too many digits; {_ONE_A_LINE}"
    if not isinstance(value, dict):
        return 1, f'it holds {_called(value)}, not an object; {_ONE_A_LINE}, such as {{"text": "..."}}'
    if surrogate := next((found for found in _SURROGATE.finditer(text) if _is_lone(text, found)), None):
        return surrogate.start() + 1, f"{surrogate[0]} is half of a character (a lone surrogate); replace or remove it"
    reason, _, path = str(error).partition(" - at `$")
    field = path.strip("`.").partition("[")[0].partition(".")[0]
    at = text.find(f'"{field}"') if field else -1
    if field in value:
        return max(at, 0) + 1, f"{reason} in {field}; {_repair(field, value[field])}"
    if "text" not in value:
        has = ", ".join(map(repr, value))[:100] or "nothing"
        if "chosen" in value or "rejected" in value:
            return 1, 'it is a pair of answers; lora takes those with objective "dpo"'
        if "messages" in value or "conversations" in value:
            return 1, 'it is a conversation; lora, sweep and evaluate take those, the others want a "text"'
        return 1, f'{reason}: it has {has}; give every object a "text"'
    return 1, f"{reason}; {_ONE_A_LINE}, of plain JSON"


class _NoNumber(Exception):
    """NaN, Infinity or -Infinity."""


def _no_number(word: str) -> NoReturn:
    raise _NoNumber(word)


def _is_lone(text: str, found: "re.Match[str]") -> bool:
    """Whether the escape is not one half of a pair."""
    if _HIGH.fullmatch(found[0]):
        return _LOW.match(text, found.end()) is None
    return _HIGH.fullmatch(text, max(0, found.start() - 6), found.start()) is None


def _advice(text: str) -> str:
    if text.strip() in ("{", "[", "[{") or text.lstrip().startswith("["):
        return f"{_ONE_A_LINE}: the file looks pretty-printed, `jq -c '.[]? // .' FILE` writes it so"
    if "\r" in text:
        return f"{_ONE_A_LINE}: lines end with a carriage return alone here, `tr '\\r' '\\n' <FILE` mends it"
    if not text.lstrip().startswith("{"):
        return f"{_ONE_A_LINE}; a table may be given as it is where its name ends in .csv, .tsv or .parquet"
    return f"{_ONE_A_LINE}, whole and alone in it"


def _repair(field: str, value: object) -> str:
    if value is None:
        return f"leave {field} out where it has no value"
    if isinstance(value, int | float) and field in ("text", "shard"):
        return f'write it as text: "{field}": "{json.dumps(value)}"'
    if isinstance(value, dict | list) and field in ("text", "shard"):
        return f"{field} is one text, not {_called(value)}"
    if field == "choices":
        return "choices are a list of texts"
    if field == "answer":
        return "answer is the place of the right choice, a whole number counted from 0"
    return "docs/workloads.md says what each field holds"


def _called(value: object) -> str:
    names = {list: "a list", str: "a text", bool: "a truth value", int: "a number", float: "a number"}
    return names.get(type(value), "an object" if isinstance(value, dict) else "a null")
