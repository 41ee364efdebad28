"""What a node costs that has nothing to do: `idle_node_ms_s` of CPU, and `idle_node_rpc_s`, requests to the chain.

The node is the service as an operator runs it, courts and all, in a process of its own, with one verifier and a chain
that goes on; windows are those of a network that people use. A child of its executor is counted with it. It claims no
memory and speed (`prove_s = 0`): a check of these is work, which takes all of the machine for up to 2% of the time.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

from bench_verifier_setup import BenchNetwork
from proofyard.chain import CourtParams, Params, Wallet, rpc
from proofyard.devnet.members import store_wallet
from proofyard.node import service
from proofyard.node.settings import NodeSettings

SETTLE_S = 60.0
"""After the start, until the first looks at everything are done."""
MEASURED_S = 120.0


def measure(folder: Path, seconds: float = MEASURED_S) -> dict[str, float]:
    """Milliseconds of CPU and requests to the chain a second, of a node that has just started and is idle."""
    court = CourtParams(vote_time=3600, reveal_time=3600, draw_time=3600, answer_time=3600)
    params = Params(challenge_window=7200, court=court)
    with BenchNetwork(folder, nodes=1, params=params, crowd=False) as network, idle_node(network) as (process, count):
        time.sleep(SETTLE_S)
        cpu, requests, start = cpu_s(process), count(), time.monotonic()
        time.sleep(seconds)
        passed = time.monotonic() - start
        return {
            "idle_node_ms_s": 1000 * (cpu_s(process) - cpu) / passed,
            "idle_node_rpc_s": (count() - requests) / passed,
        }


@contextmanager
def idle_node(network: Any) -> Iterator[tuple[psutil.Process, Any]]:
    """A node of a network that has joined its verifier, and how many requests it has made."""
    with ExitStack() as stack:
        (key,) = network.keys
        store_wallet(network.folder / "wallets", "idle", Wallet.from_key(key))
        counted = network.folder / "idle.requests"
        settings = network.place | {
            "wallet": str(network.folder / "wallets" / "idle.json"),
            "password_file": str(network.folder / "wallets" / "idle.password"),
            "data_dir": str(network.folder / "idle"),
            "ready_file": str(network.folder / "idle.ready"),
            "prove_s": 0,
        }
        process = network.spawn("idle", {"settings": settings, "counted": str(counted)}, program=Path(__file__))
        stack.callback(process.terminate)
        network.wait_ready(network.folder / "idle.ready", 120)
        yield process, lambda: counted.stat().st_size


def cpu_s(process: psutil.Process) -> float:
    """Seconds of CPU of a process and its children. The kernel counts nanoseconds for each thread; what it says of a
    whole process is in hundredths of a second, of which an idle one takes one in two minutes."""
    family = [process, *process.children(recursive=True)]
    threads = [thread for each in family for thread in Path(f"/proc/{each.pid}/task").iterdir()]
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def main() -> None:
    """`idle FILE`: be the node, and write a byte for each request that it makes. Otherwise: print the figures."""
    if sys.argv[1:2] != ["idle"]:
        with tempfile.TemporaryDirectory(prefix="idle-", dir=Path("out/bench")) as folder:
            print(msgspec.json.format(msgspec.json.encode(measure(Path(folder)))).decode())
        return
    told = msgspec.json.decode(Path(sys.argv[2]).read_bytes())
    settings = msgspec.convert(told["settings"], NodeSettings, dec_hook=lambda kind, value: kind(value))
    asked = rpc.Provider._at
    with Path(told["counted"]).open("ab", buffering=0) as sink:

        def count(self: Any, *question: Any, needs: bool, many: int = 0) -> Any:
            sink.write(b"." * (many or 1))
            return asked(self, *question, needs=needs, many=many)

        rpc.Provider._at = count  # type: ignore[method-assign, assignment]
        service.run(settings)


if __name__ == "__main__":
    main()
