"""What a job will take, for people and for programs."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from proofyard.cli.output import format_credits

if TYPE_CHECKING:
    from proofyard.sdk import Estimate, Spread

UNKNOWN = "not known"
UNITS = ("B", "KB", "MB", "GB", "TB")


def facts_of(found: "Estimate") -> dict[str, Any]:
    """For programs: amounts and units as texts, as everywhere."""
    facts = asdict(found)
    amounts = ("units", "reward", "audit_fee", "verifier_fee", "gas", "gas_cost")
    return facts | {name: None if facts[name] is None else str(facts[name]) for name in amounts}


def text_of(found: "Estimate") -> str:
    """For people, a line each."""
    paid = "" if found.usual_reward is None else f" (others paid {_credits(found.usual_reward)} for as much)"
    gas = UNKNOWN if found.gas is None else f"{found.gas:,} units, {format_credits(found.gas_cost or 0, 'ETH')} now"
    measured = "" if found.audit_overhead is None else f"{found.audit_overhead:.0%} lately, "
    most = f"{found.audit_overhead_most:.0%} at most"
    lines = {
        **({"length": found.length} if found.length else {}),
        "job": f"{found.workload}, {found.tasks:,} task{'s' if found.tasks > 1 else ''}, {found.units:,} units of work",
        "time": UNKNOWN if found.seconds is None else _times(found.seconds),
        "reward": f"{format_credits(found.reward)}{paid}",
        "audits": f"{format_credits(found.audit_fee)}, work done again: {measured}{most}",
        "verifiers": format_credits(found.verifier_fee),
        "into escrow": f"{format_credits(found.escrow)}, of which what is not spent comes back",
        "gas": gas,
        "sent": f"{_size(found.bytes_up)}, less what verifiers have",
        "fetched": f"{_size(found.bytes_down)} at most",
        "rests on": found.basis,
    }
    return "\n".join(f"{name:<12} {text}" for name, text in lines.items())


def _times(spread: "Spread") -> str:
    least, middle, most = (_time(each) for each in (spread.least, spread.middle, spread.most))
    return f"about {middle}" + ("" if least == most else f" (from {least} to {most})")


def _credits(spread: "Spread") -> str:
    return format_credits(round(spread.middle))


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _size(count: float) -> str:
    for unit in UNITS:
        if count < 1000 or unit == UNITS[-1]:
            break
        count /= 1000
    return f"{count:.3g} {unit}"
