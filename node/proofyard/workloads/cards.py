"""Cards that only torch can tell of."""

from importlib.util import find_spec
from pathlib import Path

DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


def torch_cards() -> tuple[tuple[str, int], ...]:
    """Name and memory in bytes of each card that torch sees, such as AMD's, which have no nvidia-smi. torch is not
    loaded on a machine that has no card."""
    if not any(Path(device).exists() for device in DEVICES) or not find_spec("torch"):
        return ()
    import torch

    if not torch.cuda.is_available():
        return ()
    every = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return tuple((each.name, int(each.total_memory)) for each in every)
