"""The fused kernels where there is Triton but no GPU: its interpreter runs them, one operation at a time, on the CPU.

With a GPU `test_backends.py` and the other modules here hold the compiled kernels to the reference.
"""

import importlib.util
import os
import subprocess
import sys

import pytest

CASES = (
    *("product 17 x 63", "over rows 17 x 63", "product nan", "sum rows awkward", "linear exact8 33 x 65"),
    *(
        "norms 63",
        "norms nan",
        "centre awkward",
        "rotary",
        "activation silu",
        "activation gelu",
        "activation gelu_tanh",
    ),
    *("activation relu", "loss 17", "loss both", "square sum 1000", "adamw first", "attention grouped"),
)
PROGRAM = """
import sys, numpy
from proofyard.workloads.exact.golden import digest, golden, operations
from proofyard.workloads.exact.triton_backend import TritonBackend
backend, cases = TritonBackend("cpu"), operations()
with numpy.errstate(all="ignore"):
    print(*(name for name in sys.argv[1:] if digest(cases[name](backend)) != golden()[name]), sep=", ")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_interpreted_kernels_reproduce_the_golden_vectors() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, *CASES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=280)
    assert done.stdout.strip() == "", "computed differently"
