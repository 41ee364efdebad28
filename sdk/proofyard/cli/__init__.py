"""The command line: `proofyard`. Thin over the packages it drives, which each command loads only when it runs.

stdout carries data, stderr progress and log lines. Exit codes: 0 fine, 1 failed, 2 usage, 3 chain or network
unreachable, 4 a proof does not match, 130 interrupted.
"""

from proofyard.cli.app import guard, main

__all__ = ["guard", "main"]
