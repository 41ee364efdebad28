"""What every command gets from the options before it."""

from dataclasses import dataclass
from pathlib import Path

import typer


@dataclass(frozen=True)
class Globals:
    """Options that come before the command. `config`: the settings file, None for the default place."""

    config: Path | None


def config_of(context: typer.Context) -> Path | None:
    """The settings file that was named, None for the default place."""
    found = context.find_object(Globals)
    return found.config if found else None
