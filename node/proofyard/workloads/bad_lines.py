"""Why a line of a data file is no row: where it goes wrong, and what to do about it."""

import codecs
import json
import re

from proofyard.workloads.errors import InputRefused

_ONE_A_LINE = "write one JSON object a line"
_OTHER_FILES = {
    codecs.BOM_UTF16_LE: "the file is UTF-16; save it as UTF-8",
    codecs.BOM_UTF16_BE: "the file is UTF-16; save it as UTF-8",
    b"\x1f\x8b": "the file is compressed (gzip); unpack it",
    b"PAR1": "the file is Parquet; name it .parquet and submit it as it is",
    b"PK\x03\x04": "the file is a zip archive or a spreadsheet; save the table as CSV",
    b"\x28\xb5\x2f\xfd": "the file is compressed (zstd); unpack it",
}
"""What else files begin with."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def refused_line(number: int, line: bytes, kind: str, error: Exception) -> InputRefused:
    """The error for a line that is no `kind`. `error` is the decoder's. Columns count characters from 1."""
    column, reason = _why(number, line, error)
    return InputRefused(f"data file line {number}", f"is no {kind}: column {column}: {reason}")


def _why(number: int, line: bytes, error: Exception) -> tuple[int, str]:
    for beginning, reason in _OTHER_FILES.items():
        if number == 1 and line.startswith(beginning):
            return 1, reason
    try:
        text = line.decode().rstrip("\r\n")
    except UnicodeDecodeError as bad:
        column = len(line[: bad.start].decode(errors="replace")) + 1
        return column, f"the byte 0x{line[bad.start]:02x} is no UTF-8; save the file as UTF-8"
    try:
        value = json.loads(text)
    except json.JSONDecodeError as bad:
        return bad.colno, f"{bad.msg}; {_advice(text)}"
    except RecursionError:
        return 1, f"the object is nested too deeply; {_ONE_A_LINE}"
    if not isinstance(value, dict):
        return 1, f'it holds a {_called(value)}, not an object; {_ONE_A_LINE}, such as {{"text": "..."}}'
    if surrogate := next((found for found in _SURROGATE.finditer(text) if _is_lone(text, found)), None):
        return surrogate.start() + 1, f"{surrogate[0]} is half of a character (a lone surrogate); replace or remove it"
    reason, _, path = str(error).partition(" - at `$")
    field = path.strip("`.").partition("[")[0].partition(".")[0]
    at = text.find(f'"{field}"') if field else -1
    if field in value:
        return max(at, 0) + 1, f"{reason} in {field}; {_repair(field, value[field])}"
    return 1, f'{reason}; give every object a "text"'


def _is_lone(text: str, found: "re.Match[str]") -> bool:
    """Whether the escape is not one half of a pair."""
    low = r"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    high = r"\\u[dD][89abAB][0-9a-fA-F]{2}"
    if re.fullmatch(high, found[0]):
        return re.match(low, text[found.end() :]) is None
    return re.fullmatch(high, text[max(0, found.start() - 6) : found.start()]) is None


def _advice(text: str) -> str:
    if text.strip() in ("{", "[", "[{") or text.lstrip().startswith("["):
        return f"{_ONE_A_LINE}: the file looks pretty-printed, `jq -c '.[]? // .' FILE` writes it so"
    if not text.lstrip().startswith("{"):
        return f"{_ONE_A_LINE}; a table may be given as it is where its name ends in .csv, .tsv or .parquet"
    return f"{_ONE_A_LINE}, whole and alone in it"


def _repair(field: str, value: object) -> str:
    if value is None:
        return f"leave {field} out where it has no value"
    if isinstance(value, int | float) and field in ("text", "shard"):
        return f'write it as text: "{field}": "{json.dumps(value)}"'
    return "docs/workloads.md says what each field holds"


def _called(value: object) -> str:
    names = {list: "list", str: "text", bool: "truth value", int: "number", float: "number"}
    return names.get(type(value), "null")
