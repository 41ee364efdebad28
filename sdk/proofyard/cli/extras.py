"""Optional parts of the distribution: said in one sentence when they are missing."""

from importlib.util import find_spec

from proofyard.cli.errors import MissingExtra

EXTRAS = {
    "node": ("torch", "transformers", "peft", "safetensors"),
    "verifier": ("sqlmodel", "fastapi", "uvicorn", "prometheus_client"),
}


def require(extra: str, command: str) -> None:
    """Raise `MissingExtra` unless the packages of `extra`, or of several with commas, are installed; nothing is
    imported."""
    for package in (package for each in extra.split(",") for package in EXTRAS[each]):
        if find_spec(package) is None:
            raise MissingExtra(command, package, extra)
