"""Optional parts of the distribution: said in one sentence when they are missing."""

from importlib.util import find_spec

from proofyard.cli.errors import MissingExtra

EXTRAS = {
    "node": ("sqlmodel", "torch", "transformers", "peft", "safetensors"),
    "verifier": ("sqlmodel", "fastapi", "uvicorn", "prometheus_client"),
}


def require(extra: str, command: str) -> None:
    """Raise `MissingExtra` unless the packages of `extra` are installed; nothing is imported."""
    for package in EXTRAS[extra]:
        if find_spec(package) is None:
            raise MissingExtra(command, package, extra)
