"""A whole network of processes on one machine: a real chain, real nodes and verifiers, nothing simulated.

For the demo, for tests and for people who want to play (`proofyard devnet`). Its keys guard nothing of value.
"""

from proofyard.devnet.network import PARAMS, DevNetwork, Plan
from proofyard.devnet.process import Interrupts, terminated_like_interrupted

__all__ = ["PARAMS", "DevNetwork", "Interrupts", "Plan", "terminated_like_interrupted"]
