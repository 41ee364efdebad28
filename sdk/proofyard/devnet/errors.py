"""What can go wrong with a local network.

ProofyardError
└── DevnetError             exit code 1
    ├── ChildDied           a process ended by itself before it was ready
    ├── ChildNotReady       a process did not become ready in time
    └── DirectoryTaken      exit code 2: the directory is not free
"""

from pathlib import Path

from proofyard.protocol.types import ExitCode, ProofyardError


class DevnetError(ProofyardError):
    """Base of the local network's errors."""


class ChildDied(DevnetError):
    """A process ended by itself. `last` is the last line of its log."""

    def __init__(self, name: str, code: int, log: Path, last: str) -> None:
        super().__init__(f"{name} ended with exit code {code}: {last or 'it logged nothing'} (log: {log})")
        self.name = name
        self.code = code


class ChildNotReady(DevnetError):
    """A process is alive but did not serve in time."""

    def __init__(self, name: str, seconds: float, log: Path, last: str) -> None:
        super().__init__(
            f"{name} was not ready after {seconds:.0f} s; its last words: {last or 'none'} (log: {log}); "
            "on a slow machine start fewer nodes"
        )
        self.name = name


class DirectoryTaken(DevnetError):
    """The directory is another network's, or holds something else."""

    exit_code = ExitCode.USAGE

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"the directory {path} {why}")
        self.path = path
