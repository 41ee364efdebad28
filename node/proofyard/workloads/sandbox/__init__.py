"""One way for all code that reads what strangers made: a process without the network, without other files than those it
is given, without others' processes, and with limits (docs/sandbox.md).

    box = Sandbox()
    command = box.command(Policy(read=(str(model),)), "proofyard.workloads.child", ["{}"])
"""

from proofyard.workloads.sandbox.boxes import Sandbox, SandboxRefused
from proofyard.workloads.sandbox.mechanisms import Mechanisms, found_here
from proofyard.workloads.sandbox.policy import Policy

__all__ = ["Mechanisms", "Policy", "Sandbox", "SandboxRefused", "found_here"]
