"""Which linear layers of a model get adapters: what people write, turned into names and shapes."""

from collections.abc import Sequence
from pathlib import Path

from proofyard.workloads.errors import InputRefused
from proofyard.workloads.exact.models import causal_blueprint

ALL_LINEAR = "all-linear"


def linear_modules(
    model: Path, targets: Sequence[str] | str, layers: Sequence[int] | None = None
) -> dict[str, tuple[int, int]]:
    """The linear layers that `targets` name, as full name to (out, in) features.

    A target is the end of a layer's name in whole parts, such as q_proj or self_attn.q_proj; "all-linear" is every
    linear layer but the output layer, as PEFT has it. `layers` keeps those of some transformer layers only; negative
    numbers count from the last. Raises `InputRefused` for a target or a layer that the model does not have.
    """
    network = causal_blueprint(model)
    where, shapes = f"model directory {model.name}", {name: each.shape for name, each in network.linears.items()}
    named = sorted({name.rpartition(".")[2] for name in shapes})
    if targets == ALL_LINEAR:
        targets = named
    lacking = [target for target in targets if not any(_ends(name, target) for name in shapes)]
    if lacking or not targets:
        what = "gets no adapter without targets"
        if lacking:
            what = f"has no linear layer named {', '.join(lacking)}, which targets names"
        raise InputRefused(where, f"{what}; it has {', '.join(named)}, and {ALL_LINEAR!r} is all of them")
    count = network.config.layers
    chosen = range(count) if layers is None else layers
    beyond = [layer for layer in chosen if not -count <= layer < count]
    if beyond or not chosen:
        what = f"no layer {beyond[0]}" if beyond else "none of them is chosen; leave layers out for all of them"
        raise InputRefused(where, f"has layers 0 to {count - 1}, and {what}")
    wanted = {layer % count for layer in chosen}
    found = {
        name: shape
        for name, shape in shapes.items()
        if _layer(name) in wanted and any(_ends(name, target) for target in targets)
    }
    if not found:
        raise InputRefused(
            where, f"has none of the targets {', '.join(targets)} in the layers {', '.join(map(str, sorted(wanted)))}"
        )
    return found


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _layer(module: str) -> int:
    return next((int(part) for part in module.split(".") if part.isdecimal()), -1)
