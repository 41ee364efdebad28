"""A whole network of processes on one machine: a real chain, real nodes and verifiers, nothing simulated.

For the demo, for tests and for people who want to play (`proofyard devnet`). Its keys guard nothing of value.
"""

from proofyard.devnet.network import PARAMS, DevNetwork, Plan
from proofyard.devnet.process import Pause, terminated_like_interrupted

__all__ = ["PARAMS", "DevNetwork", "Pause", "Plan", "terminated_like_interrupted"]
