"""A crowd that joins at once, and one that means no good: figures of `make bench-nat` about who knows whom.

The peers are light ones (`nat_swarm.py`: the real transport, table and gossip, without torch or a chain), many to a
process, in a network namespace of their own over its loopback, where each has an address in a /16 of its own. What its
loopback carried is the traffic of all, each packet counted once, with IP and UDP headers.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

SWARM, PROCESSES, SECONDS = 200, 4, 30.0
HONEST, HOSTILE = 40, 200
SEED = "127.250.0.1"


class Crowd:
    """One process of them."""

    def __init__(self, namespace: str, hosts: list[str], **options: Any) -> None:
        command = ["ip", "netns", "exec", namespace, sys.executable, str(Path(__file__).with_name("nat_swarm.py"))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._say({"hosts": hosts, **options})
        self.wallets: list[str] = self._hear()["wallets"]

    def begin(self, seconds: float, **order: Any) -> None:
        self._say({"seconds": seconds, **order})

    def found(self) -> list[dict[str, int]]:
        """Of each, once its time is over."""
        answer: list[dict[str, int]] = self._hear()
        return answer

    def close(self) -> None:
        self._process.communicate("\n")

    def _say(self, line: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


@contextmanager
def alone() -> Iterator[str]:
    """A network namespace with nothing but loopback, whose packets are as large as on the internet."""
    name = f"pw{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "mtu", "1500", "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


def carried(namespace: str) -> int:
    """Bytes that the namespace's loopback has carried."""
    command = ["ip", "-j", "-s", "-n", namespace, "link", "show", "lo"]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return int(found[0]["stats64"]["tx"]["bytes"])


def swarm(count: int = SWARM, processes: int = PROCESSES, seconds: float = SECONDS) -> dict[str, Any]:
    with ExitStack() as stack:
        namespace = stack.enter_context(alone())
        seed = _started(stack, Crowd(namespace, [SEED], serves=True))
        hosts = [f"127.{1 + number}.0.1" for number in range(count)]
        crowds = [
            _started(stack, Crowd(namespace, hosts[at::processes], seed={"host": SEED, "wallet": seed.wallets[0]}))
            for at in range(processes)
        ]
        before = carried(namespace)
        for crowd in (seed, *crowds):
            crowd.begin(seconds)
        found = [each for crowd in crowds for each in crowd.found()]
        moved = carried(namespace) - before
    known = [each["known"] for each in found]
    return {
        f"swarm_{count}_known": min(known),
        f"swarm_{count}_known_median": median(known),
        f"swarm_{count}_tried_median": median(each["tried"] for each in found),
        f"swarm_{count}_mb": moved / 1e6,
    }


def eclipse(honest: int = HONEST, hostile: int = HOSTILE, seconds: float = SECONDS) -> dict[str, Any]:
    """A newcomer joins through an honest peer, while 200 hostile ones in two networks tell it of each other."""
    with ExitStack() as stack:
        namespace = stack.enter_context(alone())
        seed = _started(stack, Crowd(namespace, [SEED], serves=True))
        known = {"host": SEED, "wallet": seed.wallets[0]}
        others = _started(stack, Crowd(namespace, [f"127.{1 + number}.0.1" for number in range(honest)], seed=known))
        places = [f"127.{200 + number % 2}.0.{1 + number // 2}" for number in range(hostile)]
        crowd = _started(stack, Crowd(namespace, places, hostile=True))
        newcomer = _started(stack, Crowd(namespace, ["127.240.0.1"], seed=known))
        for each in (seed, others):
            each.begin(2 * seconds)
        crowd.begin(2 * seconds, victims=[{"host": SEED}, {"host": "127.240.0.1"}, {"host": "127.1.0.1"}])
        newcomer.begin(seconds, of=crowd.wallets)
        (found,) = newcomer.found()
    return {
        "eclipse": found["marked"] / max(1, found["known"]),
        "eclipse_known": found["known"],
        "eclipse_share_of_tried": found["marked_tried"] / max(1, found["tried"]),
    }


def _started(stack: ExitStack, crowd: Crowd) -> Crowd:
    stack.callback(crowd.close)
    return crowd


if __name__ == "__main__":
    print(json.dumps(swarm() | eclipse(), indent=1))
