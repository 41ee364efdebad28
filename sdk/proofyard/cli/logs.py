"""Logging, set up here and nowhere else: plain lines on stderr, with time and context.

Packages log to `logging.getLogger("proofyard.<package>")` and put what a line is about into `extra`; the keys
in `CONTEXT` are shown when present.
"""

import logging
import sys
import time
from enum import StrEnum

from proofyard.cli.output import plain

CONTEXT = ("job", "batch", "task", "segment", "peer")


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class PlainFormatter(logging.Formatter):
    """`2026-01-31T12:00:00Z INFO proofyard.node job=3 task=1: text`, in UTC."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        context = "".join(f" {key}={getattr(record, key)}" for key in CONTEXT if hasattr(record, key))
        stamp = self.formatTime(record, "%Y-%m-%dT%H:%M:%SZ")
        line = f"{stamp} {record.levelname} {record.name}{context}: {record.getMessage()}"
        # One line each: a reason that a peer gave must not look like a line of its own, nor move the cursor.
        line = plain(line, keep="\t")
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class StderrHandler(logging.Handler):
    """Writes to what `sys.stderr` is at the moment: whoever calls the commands in a program may replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except (OSError, ValueError):
            self.handleError(record)


def configure(level: LogLevel) -> None:
    """Send the log of every package to stderr; foreign libraries speak only from WARNING up."""
    handler = StderrHandler()
    handler.setFormatter(PlainFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("proofyard").setLevel(level.value.upper())
