"""The one place that makes torch deterministic and says which execution class this machine computes in.

Two machines of one class give equal bytes; across classes of one precision results differ by rounding, within the
calibrated tolerance (docs/verification.md). Precisions are never compared with each other.
"""

import os
import platform
from importlib.metadata import version

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "int8": "float32", "nf4": "float32"}
"""Precision of a manifest to torch type of the activations. Adapters are always float32; `int8` and `nf4` quantise the
frozen weights of `lora` and `sweep` (see `quantized`)."""


def configure(threads: int, seed: int = 0) -> None:
    """Set everything that a result could depend on. Call once per process, before the first computation."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.set_num_threads(threads)
    # The same as use_deterministic_algorithms(True), which also imports a compiler: 2 s in every executor.
    torch.set_deterministic_debug_mode("error")
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.manual_seed(seed)


def pick_device(wanted: str) -> str:
    """The torch device for "auto" (a GPU where there is one) or the one wanted."""
    import torch

    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def execution_class(precision: str, device: str = "auto") -> str:
    """For example `fp32/cpu-x86_64-AVX512/torch-2.13.0/transformers-5.23.0`."""
    import torch

    device = pick_device(device)
    if device.startswith("cuda"):
        hardware = torch.cuda.get_device_name(device).replace(" ", "-")
    else:
        hardware = f"{platform.machine()}-{torch.backends.cpu.get_cpu_capability()}"
    release = torch.__version__.partition("+")[0]
    kind = device.partition(":")[0]
    return f"{precision}/{kind}-{hardware}/torch-{release}/transformers-{version('transformers')}"
