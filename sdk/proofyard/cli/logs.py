"""Logging, set up here and nowhere else: lines on stderr with time and context, as text or as JSON.

Packages log to `logging.getLogger("proofyard.<package>...")`; what a line is about comes from
`proofyard.runtime.about`, or from `extra`. Nothing that `hide` was told of is ever in a line.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Iterable
from enum import StrEnum
from urllib.parse import unquote, unquote_plus

from proofyard.cli.output import plain
from proofyard.runtime.about import about

CONTEXT = ("job", "batch", "task", "segment", "peer")
HIDDEN = "***"
LONG, SHORT = 20, 6
"""A part of a URL's path that is at least so long is taken for an access key; what is shorter hides nothing alone."""
_ODD = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[\w-]{8,}")
"""So is a part with letters and digits."""
_KEY = re.compile(r"(?:0[xX])?([0-9a-fA-F]{64})")


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


_secrets: set[str] = set()


def hide(*secrets: str) -> None:
    """Keep these out of every line that is logged or printed as an error from now on."""
    _secrets.update(secret for secret in secrets if secret)


def hide_in(url: str) -> None:
    """The same of what gives access in a URL, or in several: its password, the values in its query, long parts of its
    path. What is short is hidden with what stands around it: it may be a part of any word."""
    first, *others = re.split(r"[,\s]+(?=[A-Za-z]+://)", url)
    for other in others:
        hide_in(other)
    scheme, there_is, rest = first.partition("://")
    if not there_is:
        return
    is_web = scheme.lower() in ("http", "https", "ws", "wss")
    start = re.match(r"[^?#]*", rest)
    user, at, after = (start[0] if start else "").rpartition("@")
    if at:
        name, _, password = user.partition(":")
        secrets = password.split("@") if password else [name] if is_web else []
        _hide_part(password + at, *(part for secret in secrets for part in (secret, unquote(secret))))
    for each in re.split(r"[&;#]", first.partition("?")[2] or first.partition("#")[2]):
        value = each.partition("=")[2] or each
        _hide_part(*((value, unquote_plus(value)) if len(value) >= SHORT else (each,)))
    if is_web:
        parts = re.split(r"[/?#]", (after if at else rest).partition("/")[2])
        hide(*(part for part in parts if len(part) >= LONG or _ODD.fullmatch(part)))


def hide_what_is_given(texts: Iterable[str]) -> None:
    """The same of what people type or set: URLs, and private keys that stand where something else belongs."""
    for text in texts:
        hide_in(text)
        if found := _KEY.fullmatch(text.strip()):
            hide(found[1])


def _hide_part(*parts: str) -> None:
    hide(*(part for part in parts if len(part) >= SHORT))


def without_secrets(text: str) -> str:
    if not _secrets:
        return text
    return re.sub("|".join(map(re.escape, sorted(_secrets, key=len, reverse=True))), HIDDEN, text)


def context_of(record: logging.LogRecord) -> dict[str, str]:
    """What a line is about."""
    known = about()
    return {key: str(getattr(record, key, known.get(key))) for key in CONTEXT if hasattr(record, key) or key in known}


class PlainFormatter(logging.Formatter):
    """`2026-01-31T12:00:00Z INFO proofyard.node job=3 task=1: text`, in UTC."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        context = "".join(f" {key}={value}" for key, value in context_of(record).items())
        stamp = self.formatTime(record, "%Y-%m-%dT%H:%M:%SZ")
        line = f"{stamp} {record.levelname} {record.name}{context}: {record.getMessage()}"
        # One line each: a reason that a peer gave must not look like a line of its own, nor move the cursor.
        line = plain(line, keep="\t")
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return without_secrets(line)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, then job, batch, task, segment and peer where there is
    one, all strings, and the traceback as `error`."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **context_of(record),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps({key: without_secrets(value) for key, value in line.items()})


FORMATTERS: dict[LogFormat, type[logging.Formatter]] = {LogFormat.TEXT: PlainFormatter, LogFormat.JSON: JsonFormatter}


class StderrHandler(logging.Handler):
    """Writes to what `sys.stderr` is at the moment: whoever calls the commands in a program may replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except (OSError, ValueError):
            self.handleError(record)


def configure(level: LogLevel, form: LogFormat = LogFormat.TEXT) -> None:
    """Send the log of every package to stderr; foreign libraries speak only from WARNING up."""
    handler = StderrHandler()
    handler.setFormatter(FORMATTERS[form]())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("proofyard").setLevel(level.value.upper())
