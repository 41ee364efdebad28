"""All checks, section by section."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from proofyard.doctor import chain, machine, node, verifier, wallet
from proofyard.doctor.checking import Check, Seen, fault
from proofyard.doctor.setup import Setup

_SECTIONS: Mapping[str, Callable[[Setup], list[Check]]] = {
    "machine": machine.checks,
    "chain": chain.checks,
    "wallet": wallet.checks,
    "node": node.checks,
    "verifier": verifier.checks,
}
SECTIONS = tuple(_SECTIONS)


def checks_of(setup: Setup, sections: Sequence[str] = SECTIONS) -> list[Check]:
    """What to look at in these sections, in the order of `SECTIONS`."""
    return [check for name in SECTIONS if name in sections for check in _section(setup, name)]


def _section(setup: Setup, name: str) -> list[Check]:
    wrong = [Check(name, "settings", partial(_settings, setup.wrong[name]))] if name in setup.wrong else []
    return wrong + _SECTIONS[name](setup)


def _settings(message: str) -> Seen:
    found, _, todo = message.partition(": give ")
    return fault("settings", found, f"give {todo}" if todo else "correct it, see docs/cli.md")
