"""Logging, set up here and nowhere else: lines on stderr with time and context, as text or as JSON.

Packages log to `logging.getLogger("proofyard.<package>...")`; what a line is about comes from
`proofyard.runtime.about`, or from `extra`. Nothing that `hide` was told of is ever in a line.
"""

import json
import logging
import sys
import time
from enum import StrEnum

from proofyard.runtime.about import about
from proofyard.runtime.plain import plain
from proofyard.runtime.secrets import without_secrets

CONTEXT = ("job", "batch", "task", "segment", "peer")


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


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
