"""What `node init` tells before it asks: the machine, what the network paid lately, what is at risk, what is set."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from proofyard.cli.output import format_credits

if TYPE_CHECKING:
    from proofyard.chain import ChainClient, Params
    from proofyard.node.advice import Advice
    from proofyard.node.hardware import Hardware
    from proofyard.node.lately import Lately

WIDTH = 13
GIB = 1 << 30


def machine(hardware: "Hardware", uplink: float | None) -> list[str]:
    """What there is to work with."""
    free = f"{hardware.free_bytes / GIB:.1f} of {hardware.memory_bytes / GIB:.1f} GiB free"
    lines = [_line("machine", f"{hardware.processor}, {hardware.cores} cores"), _line("memory", free)]
    for card in hardware.cards:
        lines.append(_line("GPU", f"{card.name}, {card.memory_bytes / GIB:.1f} GiB ({card.told_by})"))
    if not hardware.cards:
        lines.append(_line("GPU", "none found"))
    right = "gives the right bits here" if hardware.backend else "none gives the right bits here"
    lines.append(_line("arithmetic", f"{hardware.backend} {right}".strip()))
    lines.append(_line("disk", f"{hardware.disk_bytes / GIB:.1f} GiB free"))
    sent = "not measured: no verifier let itself be sent to" if uplink is None else f"{uplink / 1e6:.1f} MB/s, measured"
    return [*lines, _line("uplink", sent)]


def pay(lately: "Lately") -> list[str]:
    """What was paid lately, as far as there is a history."""
    here = f"{lately.nodes} nodes are active now"
    if not lately.paid:
        return [_line("paid lately", f"no history yet: nothing was settled lately; {here}")]
    jobs = "1 job" if lately.jobs == 1 else f"{lately.jobs} jobs"
    what = f"{format_credits(lately.total())} for the work of {jobs} in {duration(lately.seconds)}; {here}"
    lines = [_line("paid lately", what)]
    for name, low in lately.low_prices().items():
        usual = lately.usual_price(name) or low
        span = format_credits(low) + (f" to {format_credits(usual)}" if usual > low else "")
        lines.append(_line("", f"{name}: {span} a unit"))
    return lines


def risk(params: "Params", stake: int) -> list[str]:
    """What is put up, and what it can be lost for."""
    court = params.court
    lost = "All of it is lost for a result that does not follow from its task, or an accusation that a jury overturns."
    kept = "Crashes and time-outs before a commitment cost no stake."
    left_out, late = format_credits(court.juror_fine), format_credits(court.late_fine)
    return [
        _line("at risk", f"{format_credits(stake)} of stake. {lost} {kept}"),
        _line("fines", f"{left_out} for a jury that is left out, {late} for a committed state that comes late"),
        _line("back", f"{duration(params.unstake_delay)} after it leaves: node unstake, then withdraw"),
    ]


def settings(advice: "Advice", file: str) -> list[str]:
    """What will be written."""
    lines = [_line("settings", file)]
    lines += [_line("", f"{name} = {_shown(name, value)}") for name, value in advice.settings.items()]
    return [*lines, *(_line("note", text) for text in advice.notes)]


def duration(seconds: float) -> str:
    """A length of time as people say it, in its largest units."""
    whole = int(seconds)
    for size, name in ((86_400, "days"), (3600, "h"), (60, "min")):
        if whole >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{whole} s"


def report(
    chain: "ChainClient", hardware: "Hardware", lately: "Lately", uplink: float | None, advice: "Advice", file: str
) -> list[str]:
    """All of it, as lines."""
    params = chain.params()
    parts: Sequence[list[str]] = (
        machine(hardware, uplink),
        pay(lately),
        risk(params, params.node_stake),
        settings(advice, file),
    )
    return [line for part in parts for line in part]


def _shown(name: str, value: Any) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{value} ({value / GIB:.1f} GiB)"
    if name == "max_upload":
        return f"{value} ({value / 1e6:.1f} MB/s)"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _line(name: str, text: str) -> str:
    return f"{name:<{WIDTH}}{text}"
