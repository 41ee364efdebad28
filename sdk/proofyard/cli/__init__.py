"""The command line: `proofyard`. Thin over the packages it drives, which each command loads only when it runs.

stdout carries data, stderr progress and log lines. Exit codes are those of `proofyard.protocol.types.ExitCode`; 0 is
fine, 130 interrupted.
"""

from collections.abc import Callable, Sequence

__all__ = ["guard", "main"]


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; see `proofyard.cli.app`."""
    try:
        from proofyard.cli import app
    except KeyboardInterrupt:  # at once, before anything was done
        return 130
    return app.main(args)


def guard(run: Callable[[], object]) -> int:
    """The exit code of `run`; see `proofyard.cli.app`."""
    from proofyard.cli import app

    return app.guard(run)
