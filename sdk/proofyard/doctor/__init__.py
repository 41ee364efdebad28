"""What keeps a wallet, a node or a verifier from working on this machine: looked at, explained, with the one thing to
do. Every check is a small function of what it looks at; `proofyard doctor` runs them side by side and prints them."""

from proofyard.doctor.checking import Check, Finding, Seen, Skipped, State, run
from proofyard.doctor.everything import SECTIONS, checks_of
from proofyard.doctor.setup import Setup, WalletUse

__all__ = [
    "SECTIONS",
    "Check",
    "Finding",
    "Seen",
    "Setup",
    "Skipped",
    "State",
    "WalletUse",
    "checks_of",
    "run",
]
