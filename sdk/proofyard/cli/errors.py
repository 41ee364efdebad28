"""What the command line itself can refuse.

ProofyardError
└── CliError            exit code 1
    ├── MissingExtra    a command needs packages that are not installed
    ├── ApiUnreachable  exit code 3: nobody answers at a verifier's HTTP API
    ├── ApiRefused      a verifier's HTTP API answers with an error
    └── UsageError      exit code 2: the call cannot be carried out as it was made

What is wrong with settings is `proofyard.sdk.errors.BadSetting`.
"""

from proofyard.protocol.types import ExitCode, ProofyardError
from proofyard.runtime.installing import install_command


class CliError(ProofyardError):
    """Base of the command line's own errors."""


class MissingExtra(CliError):
    """Packages of an optional part are not installed."""

    def __init__(self, command: str, package: str, extra: str) -> None:
        super().__init__(f"{command} needs the package {package}, which is not installed: {install_command(extra)}")
        self.package = package
        self.extra = extra


class ApiUnreachable(CliError):
    """Nobody answers at a verifier's HTTP API."""

    exit_code = ExitCode.UNREACHABLE

    def __init__(self, api: str, reason: str) -> None:
        self.api = api
        super().__init__(
            f"no verifier answers at {api} ({reason}); give --api the address that its log names as `status`, or write "
            "it into the settings as api"
        )


class ApiRefused(CliError):
    """A verifier's HTTP API answers with an error."""

    def __init__(self, url: str, status: int, reason: str) -> None:
        self.url, self.status = url, status
        super().__init__(f"{url} answers with status {status}: {reason}")


class UsageError(CliError):
    """The call cannot be carried out as it was made; the message says how to make it."""

    exit_code = ExitCode.USAGE
