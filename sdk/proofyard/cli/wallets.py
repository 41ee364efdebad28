"""Which keystore a command means, and its password: from a file, or typed and never shown."""

from pathlib import Path
from typing import TYPE_CHECKING

from proofyard.cli.settings import config_dir

if TYPE_CHECKING:
    pass


def keystore_dir(given: Path | None) -> Path:
    """Where wallets lie: the directory that was named, or `wallets` next to the settings."""
    return given or config_dir() / "wallets"


def wallet_file(given: str | None, directory: Path | None) -> Path | None:
    """The keystore file of a wallet that was named on the command line by name or by path."""
    if given is None:
        return None
    path = Path(given).expanduser()
    by_path = len(path.parts) > 1 or path.suffix == ".json"
    return path if by_path else keystore_dir(directory) / f"{given}.json"
