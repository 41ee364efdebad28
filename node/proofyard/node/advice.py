"""What a machine like this one had best do on this network. Pure: what was found is passed in.

The numbers are shares of what there is, not measurements of jobs to come: a job that asks for more is refused by the
limits that follow from them, and says which.
"""

from dataclasses import dataclass
from typing import Any

from proofyard.node.hardware import Hardware
from proofyard.node.lately import Lately
from proofyard.protocol.amounts import format_amount
from proofyard.protocol.workload_bits import WORKLOADS
from proofyard.runtime.presets import NODE_PRESETS
from proofyard.workloads.workload import load_workload

GIB = 1 << 30
LEAST_TRAINING_BYTES = 4 * GIB
"""Below this, training leaves no room for a model of use beside the executor itself."""
TRAINING = frozenset({"lora", "sweep"})
KEPT_BYTES = 2 * GIB
"""Of memory and of disk, for whatever else runs on the machine; a quarter of the memory if that is more."""
LEAST_MEMORY_BYTES = 1 << 30
MODEL_SHARE = 4
"""A model's content is at most this part of the memory: it is held as slices, beside states and activations."""
DISK_SHARE = 3
MOST_DISK_BYTES = 64 * GIB
UPLOAD_SHARE = 0.8


@dataclass(frozen=True)
class Advice:
    """Settings of `NodeSettings` by name, and what to know beside them."""

    settings: dict[str, Any]
    notes: tuple[str, ...]


def advise(hardware: Hardware, lately: Lately, uplink: float | None) -> Advice:
    """What to set on a machine, given what the network paid lately, and how many bytes a second it sends."""
    memory, notes = hardware.working_bytes, []
    workloads = [name for name in WORKLOADS if hardware.backend or not load_workload(name).arithmetic]
    if not hardware.backend:
        notes.append("no arithmetic gives the right bits here, so only work without any is taken; see docs/exact.md")
    if memory < LEAST_TRAINING_BYTES:
        workloads = [name for name in workloads if name not in TRAINING]
        notes.append(f"training is left to others: {memory / GIB:.1f} GiB of memory are little for it")
    settings: dict[str, Any] = {"workloads": workloads}
    if not hardware.on_gpu:
        settings["threads"] = max(1, hardware.cores - 1)
        bound = hardware.memory_bytes - max(KEPT_BYTES, hardware.memory_bytes // 4)
        settings["memory_limit_bytes"] = max(LEAST_MEMORY_BYTES, bound)
        notes.append("without a GPU it works in the processors, one of them left free")
    settings["max_model_bytes"] = max(1 << 20, memory // MODEL_SHARE)
    disk = max(GIB, min(MOST_DISK_BYTES, (hardware.disk_bytes - KEPT_BYTES) // DISK_SHARE))
    settings |= {"state_budget_bytes": disk, "cache_bytes": disk}
    if hardware.disk_bytes < 3 * GIB:
        notes.append(f"only {hardware.disk_bytes / GIB:.1f} GiB of disk are free; it may run full")
    if uplink is not None:
        settings["max_upload"] = int(uplink * UPLOAD_SHARE)
    prices = [f"{name}={_plain(low)}" for name, low in lately.low_prices().items() if name in workloads]
    if prices:
        settings["min_price"] = prices
    else:
        notes.append("there is no history of prices yet: every job that pays at all is taken")
    return Advice(settings, tuple(notes))


def with_preset(advice: Advice, name: str) -> Advice:
    """The advice where an operator has chosen a preset: its settings go before what was found, and a note says what
    this machine has less of. Raises `KeyError` for a preset that there is none of."""
    preset = NODE_PRESETS[name]
    notes = [
        f"the preset {name} sets {field} to {value / GIB:.1f} GiB; by what was found here it would be "
        f"{advice.settings[field] / GIB:.1f} GiB"
        for field, value in preset.items()
        if field.endswith("_bytes") and value > advice.settings.get(field, value)
    ]
    rest = {field: value for field, value in advice.settings.items() if field not in preset}
    return Advice({"preset": name, **rest}, (*advice.notes, *notes))


def _plain(amount: int) -> str:
    """An amount as a setting has it."""
    return format_amount(amount, "").strip().replace(",", "")
