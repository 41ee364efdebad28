"""What every command gets from the options before it."""

from dataclasses import dataclass
from pathlib import Path

import typer

from proofyard.cli.logs import LogFormat, LogLevel, configure


@dataclass(frozen=True)
class Globals:
    """Options that come before the command. `config`: the settings file, None for the default place. `log_level`: None
    for what suits the command. `log_format`: how."""

    config: Path | None
    log_level: LogLevel | None = None
    log_format: LogFormat = LogFormat.TEXT


def serve_logs(context: typer.Context) -> None:
    """Log what a service does, unless another level was asked for."""
    found = context.find_object(Globals)
    if found is None or found.log_level is None:
        configure(LogLevel.INFO, found.log_format if found else LogFormat.TEXT)


def config_of(context: typer.Context) -> Path | None:
    """The settings file that was named, None for the default place."""
    found = context.find_object(Globals)
    return found.config if found else None
