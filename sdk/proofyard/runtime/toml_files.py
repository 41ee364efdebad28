"""TOML files that people write: of a bounded size, and what is wrong with one in a few words."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

MOST_BYTES = 4 << 20


class NoToml(ValueError):
    """What a file is instead, and what to do about it: goes behind the file's name."""


def read_toml(file: Path, parse_float: Callable[[str], Any] = float) -> dict[str, Any]:
    """What a file says; with `parse_float` numbers that are not whole are what that makes of their text. Raises
    `NoToml` and `OSError`."""
    with file.open("rb") as stream:
        data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise NoToml(f"has more than {MOST_BYTES >> 20} MiB, and is no file of settings; name another one")
    try:
        return tomllib.loads(data.decode("utf-8-sig"), parse_float=parse_float)
    except UnicodeDecodeError as error:
        raise NoToml(f"is no UTF-8 (byte {error.start + 1}); save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise NoToml(f"is not valid TOML: {error}; correct it") from None
    except RecursionError:
        raise NoToml("is not valid TOML: lists or tables in it are nested without end; correct it") from None
    except ValueError:
        raise NoToml("is not valid TOML: a number in it has thousands of digits; correct it") from None
