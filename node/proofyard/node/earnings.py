"""What a node earned, less what its power cost, as far as both are known. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from proofyard.node.meter import MEASURED, STATED, UNKNOWN, Used
from proofyard.protocol.types import Wei

JOULES_PER_KWH = 3_600_000


@dataclass(frozen=True)
class Energy:
    """Seconds of work and kilowatt hours, by how power was told."""

    seconds: float
    measured_s: float
    stated_s: float
    measured_kwh: float
    stated_kwh: float

    @property
    def unknown_s(self) -> float:
        return max(0.0, self.seconds - self.measured_s - self.stated_s)

    @property
    def kwh(self) -> float:
        return self.measured_kwh + self.stated_kwh


def energy_of(used: Iterable[Used]) -> Energy:
    """What all of it took."""
    seconds: dict[str, float] = dict.fromkeys((MEASURED, STATED, UNKNOWN), 0.0)
    joules: dict[str, float] = dict.fromkeys(seconds, 0.0)
    for each in used:
        seconds[each.how] += each.seconds
        joules[each.how] += each.joules
    kwh = {how: amount / JOULES_PER_KWH for how, amount in joules.items()}
    return Energy(sum(seconds.values()), seconds[MEASURED], seconds[STATED], kwh[MEASURED], kwh[STATED])


def cost_of(energy: Energy, price: Wei) -> Wei:
    """What the known energy cost at a price for a kilowatt hour."""
    return Wei(int(energy.kwh * price))


def net_of(earned: Wei, energy: Energy, price: Wei) -> Wei | None:
    """What is left; None where it is not known, because some energy was not told, or no price is set."""
    if not price or energy.unknown_s >= 1:
        return None
    return Wei(earned - cost_of(energy, price))


def worth_claiming(due: Wei, oldest_s: float, least: Wei, gas_cost: Wei, latest_s: float) -> bool:
    """Whether pay is collected now: it is `least` in all and more than the gas costs, or has waited for `latest_s`
    since it was due. What is never claimed counts towards no reputation."""
    return bool(due) and (oldest_s >= latest_s or (due >= least and due > gas_cost))
