"""`proofyard node earnings`: pay from settled batches, and the power that the work took."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from proofyard.cli.chains import network_of
from proofyard.cli.limits import DataDir, node_settings
from proofyard.cli.node_report import duration
from proofyard.cli.node_status import address_in_settings
from proofyard.cli.options import NetworkFlags
from proofyard.cli.output import AsJson, emit, format_credits, note
from proofyard.protocol.amounts import read_amount
from proofyard.protocol.types import Address, JobId, Wei

if TYPE_CHECKING:
    from proofyard.node.earnings import Energy
    from proofyard.sdk import Client

WIDTH = 18
MOST_JOBS = 500


def earnings(
    context: typer.Context,
    flags: NetworkFlags,
    jobs: Annotated[int, typer.Option(min=1, max=MOST_JOBS, metavar="COUNT", help="Of the last jobs so many.")] = 50,
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what this machine's node earned, and its power.

    Pay is what settled batches say of it, from their records. Power is as measured on the GPU while it worked, or as
    `watts` states it; the setting `power_price` makes a cost of it.
    """
    settings, key = node_settings(context, folder), Address(address_in_settings(context))
    network = network_of(context, flags)
    from proofyard.chain import Wallet
    from proofyard.node.earnings import cost_of, energy_of, net_of
    from proofyard.node.meter import read_used
    from proofyard.sdk import Client

    used = read_used(settings.data_dir)
    numbers = list(dict.fromkeys(JobId(each.job) for each in used))[:jobs]
    used = [each for each in used if each.job in numbers]
    where = (network.rpc_url, network.registry, Wallet.generate())  # it signs nothing
    with Client(*where, first_block=network.from_block, chain_id=network.chain_id or None) as client:
        paid = _paid(client, key, numbers)
    energy, price = energy_of(used), read_amount(settings.power_price or "0")
    earned = Wei(sum(paid[name] for name in ("claimed", "claimable", "waiting")))
    net = net_of(earned, energy, price)
    facts: dict[str, Any] = {
        "node": key,
        "jobs": [str(number) for number in numbers],
        "earned": str(earned),
        **{name: str(amount) for name, amount in paid.items()},
        "seconds": energy.seconds,
        "measured_s": energy.measured_s,
        "stated_s": energy.stated_s,
        "kwh": energy.kwh if energy.unknown_s < energy.seconds else None,
        "power_price": str(price) if price else None,
        "power_cost": str(cost_of(energy, price)) if price else None,
        "net": None if net is None else str(net),
    }
    lines = [
        _line("earned", f"{format_credits(earned)} for {len(numbers)} {'job' if len(numbers) == 1 else 'jobs'}"),
        _line("  claimed", format_credits(paid["claimed"])),
        _line("  can be claimed", format_credits(paid["claimable"])),
        _line("  in its window", format_credits(paid["waiting"])),
        _line("worked", duration(energy.seconds)),
        _line("energy", _energy(energy)),
        _line("power", f"{format_credits(cost_of(energy, price))}" if price else "no power_price is set"),
        _line("net", format_credits(net) if net is not None else "not known without all of the above"),
    ]
    emit(facts, as_json=as_json, text="\n".join(lines))
    if paid["claimable"]:
        note(f"next, unless the node does it by itself: proofyard node claim {' '.join(map(str, numbers[:20]))}")


def _paid(client: "Client", key: Address, numbers: list[JobId]) -> dict[str, Wei]:
    """What the settled batches of these jobs pay a node: base units that are claimed, that can be, and that cannot
    yet. A batch may hold work for other jobs as well; its pay is one amount."""
    from proofyard.sdk import settled_batches

    found = {batch.event.batch: batch for number in numbers for batch in settled_batches(client, number)}
    sums = {"claimed": 0, "claimable": 0, "waiting": 0}
    now = client.chain.now()
    for number, batch in found.items():
        for index, (payout, paid) in enumerate(zip(batch.payouts, batch.record.payouts, strict=False)):
            if paid.node == key:
                claimed = client.chain.is_claimed(number, index)
                where = "claimed" if claimed else "claimable" if batch.event.claimable_at <= now else "waiting"
                sums[where] += payout.amount
    return {name: Wei(amount) for name, amount in sums.items()}


def _energy(energy: "Energy") -> str:
    parts = []
    if energy.measured_s:
        parts.append(f"{energy.measured_kwh:.3f} kWh measured in {duration(energy.measured_s)}")
    if energy.stated_s:
        parts.append(f"{energy.stated_kwh:.3f} kWh as `watts` states, in {duration(energy.stated_s)}")
    if not energy.seconds:
        return "nothing has been done yet"
    if energy.unknown_s >= 1:
        parts.append(f"not measured for {duration(energy.unknown_s)}")
    return "; ".join(parts)


def _line(name: str, text: str) -> str:
    return f"{name:<{WIDTH}}{text}"
