"""The command line: `proofyard`. Thin over the packages it drives, which each command loads only when it runs.

stdout carries data, stderr progress and log lines. Exit codes are those of `proofyard.protocol.types.ExitCode`; 0 is
fine, 130 interrupted.
"""

from proofyard.cli.app import guard, main

__all__ = ["guard", "main"]
