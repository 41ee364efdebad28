"""Who reaches whom from behind real NATs, how soon, and how fast: `make bench-nat`, out/bench/nat.json.

Each figure is of peers in network namespaces of their own, behind the kernel's NAT (`home_networks.py`). The caller
knows where the other would be without a router, and a relay. Needs Linux, root and nftables. What a crowd costs and can
do is `bench_nat_swarm.py`'s.

python scripts/bench_nat.py [--tries 100] [--only demo ...]
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench_nat_swarm import eclipse, swarm
from home_networks import Host, Internet, Kind, Peer, Peers, network_command, unavailable

RESULT = Path(__file__).parents[1] / "out" / "bench" / "nat.json"
DIRECT_S, SERVED_S = 3.0, 5.0
SIZE = 4_000_000
SMALL = 50_000
RESUMED_BYTES, RESUMED_BYTES_S = 12_000_000, 2_000_000


class Pair:
    """A caller, a host, and the relay between them; where it is `watched`, both have dialled one more public peer."""

    def __init__(self, net: Internet, programs: Peers, caller: Kind, host: Kind, *, watched: bool = False) -> None:
        places: list[Host] = [net.public(), net.home(caller), net.home(host)]
        self.relay, self.caller, self.host = map(programs.start, places)
        self.relay.tell("relay")
        self.host.tell("reserve", route=self.relay.route("relayed"))
        if watched:
            watcher = programs.start(net.public())
            for peer in (self.caller, self.host):
                peer.tell("connect", wallet=watcher.wallet, host=watcher.host.public, port=4433)

    def reach(self, wait_s: float) -> tuple[float, str, float]:
        """Seconds until the first connection, how it goes in the end, and seconds until then."""
        routes = [self.host.route(), self.relay.route("relayed")]
        first = self.caller.tell("reach", wallet=self.host.wallet, routes=routes)
        if "error" in first:
            return float("inf"), "none", float("inf")
        last = self.caller.tell("wait", wallet=self.host.wallet, seconds=wait_s)
        return first["seconds"], last["way"], last["seconds"]

    def leave(self) -> None:
        self.caller.tell("leave", wallet=self.host.wallet)
        self.host.tell("forgets", wallet=self.caller.wallet)

    def rate(self, peer: Peer, wallet: str) -> float:
        """Bytes a second from a peer."""
        found = peer.tell("fetch", wallet=wallet, size=SIZE)
        return float(found["bytes"] / found["seconds"])


def cone_cone(net: Internet, programs: Peers, tries: int) -> dict[str, Any]:
    pair, direct, quiet, times = Pair(net, programs, "port-restricted", "port-restricted"), 0, 0, []
    for _ in range(tries):
        _, way, seconds = pair.reach(DIRECT_S)
        direct += way == "punched" and seconds < DIRECT_S
        times.append(seconds)
        pair.caller.tell("fetch", wallet=pair.host.wallet, size=1000)
        before = pair.relay.tell("carried")["bytes"]
        pair.caller.tell("fetch", wallet=pair.host.wallet, size=SMALL)
        quiet += pair.relay.tell("carried")["bytes"] - before < SMALL / 20
        pair.leave()
    return {
        "cone_cone_direct": direct / tries,
        "cone_cone_quiet_relay": quiet / tries,
        "cone_cone_direct_s_median": sorted(times)[len(times) // 2],
        "tries": tries,
    }


def cone_symmetric(net: Internet, programs: Peers, tries: int) -> dict[str, Any]:
    """Half of the cones let in everybody, half only whom they have sent to; either side calls."""
    served = direct = count = 0
    for cone in ("full-cone", "port-restricted"):
        for kinds in ((cone, "symmetric"), ("symmetric", cone)):
            pair = Pair(net, programs, *kinds)
            for _ in range(max(1, tries // 4)):
                first, way, _ = pair.reach(1.0)
                served, direct, count = served + (first < SERVED_S), direct + (way == "punched"), count + 1
                pair.leave()
    return {"cone_symmetric_served": served / count, "cone_symmetric_direct": direct / count}


PREDICTABLE: dict[str, tuple[Kind, float]] = {
    "cone_counting_direct": ("counting", 0.0),
    "cone_counting_even_direct": ("counting-even", 0.0),
    "cone_counting_busy_direct": ("counting", 20.0),
    "cone_few_ports_direct": ("few-ports", 0.0),
}
"""What a port-restricted cone meets, and how many flows a second another machine behind that router begins."""

TALK = """
import socket, sys, time
while True:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as new:
        new.sendto(b"x", (sys.argv[1], 9))
    time.sleep(1 / float(sys.argv[2]))
"""


def cone_predictable(net: Internet, programs: Peers, tries: int) -> dict[str, Any]:
    """Direct within `DIRECT_S` with a symmetric NAT whose next port follows from the last ones; either side calls."""
    found: dict[str, Any] = {}
    for name, (kind, flows_s) in PREDICTABLE.items():
        direct, times = 0, []
        for kinds in (("port-restricted", kind), (kind, "port-restricted")):
            pair = Pair(net, programs, *kinds, watched=True)
            counting = pair.host if kinds[1] == kind else pair.caller
            talk = [sys.executable, "-c", TALK, pair.relay.host.public, str(flows_s)]
            other = subprocess.Popen(net.second(counting.host).command(*talk)) if flows_s else None
            for _ in range(max(1, tries // 4)):
                _, way, seconds = pair.reach(DIRECT_S)
                direct += way == "punched" and seconds < DIRECT_S
                times.append(seconds)
                pair.leave()
            if other is not None:
                other.kill()
                other.wait()
        found |= {name: direct / len(times), f"{name}_s_median": sorted(times)[len(times) // 2]}
    return found


def symmetric_symmetric(net: Internet, programs: Peers, tries: int) -> dict[str, Any]:
    pair, served = Pair(net, programs, "symmetric", "symmetric"), 0
    for _ in range(max(1, tries // 4)):
        first, way, _ = pair.reach(0.1)
        served += first < SERVED_S and way == "relayed"
        pair.leave()
    pair.reach(0.1)
    relayed = sorted(pair.rate(pair.caller, pair.host.wallet) for _ in range(3))[1]
    own = sorted(pair.rate(pair.caller, pair.relay.wallet) for _ in range(3))[1]
    return {
        "symmetric_symmetric_relayed": served / max(1, tries // 4),
        "relayed_mb_s": relayed / 1e6,
        "from_relay_itself_mb_s": own / 1e6,
        "relayed_share": relayed / own,
    }


def double_nat(net: Internet, programs: Peers, tries: int) -> dict[str, Any]:
    relay, outer = programs.start(net.public()), net.home("port-restricted")
    caller, host = (
        programs.start(net.home("port-restricted", behind=outer)),
        programs.start(net.home("port-restricted")),
    )
    relay.tell("relay")
    host.tell("reserve", route=relay.route("relayed"))
    direct = 0
    for _ in range(max(1, tries // 10)):
        caller.tell("reach", wallet=host.wallet, routes=[relay.route("relayed")])
        direct += caller.tell("wait", wallet=host.wallet, seconds=DIRECT_S)["way"] == "punched"
        caller.tell("leave", wallet=host.wallet)
        host.tell("forgets", wallet=caller.wallet)
    return {"double_nat_direct": direct / max(1, tries // 10)}


MOVED: dict[str, tuple[Kind | None, Kind, str]] = {
    "resume_fetcher_direct_s": (None, "port-restricted", "fetcher"),
    "resume_fetcher_punched_s": ("port-restricted", "port-restricted", "fetcher"),
    "resume_provider_punched_s": ("port-restricted", "port-restricted", "provider"),
    "resume_fetcher_relayed_s": ("symmetric", "symmetric", "fetcher"),
    "resume_provider_relayed_s": ("symmetric", "symmetric", "provider"),
}
"""What the provider is behind, if anything, and the fetcher, and which of them gets another address."""


def resume(net: Internet, programs: Peers, tries: int) -> dict[str, Any]:
    """The longest time without a block when an address changes in mid-transfer; `resume_s` is the longest of all."""
    found: dict[str, Any] = {}
    twice = 0
    for name, (there, here, moves) in MOVED.items():
        places = [net.public(), net.public() if there is None else net.home(there), net.home(here)]
        relay, provider, fetcher = map(programs.start, places)
        relay.tell("relay")
        routes = [provider.route(), relay.route("relayed")]
        if there is not None:
            provider.tell("reserve", route=relay.route("relayed"))
        fetcher.tell("reach", wallet=provider.wallet, routes=routes)
        fetcher.tell("wait", wallet=provider.wallet, seconds=DIRECT_S if there == here == "port-restricted" else 0.1)
        provider.tell("limit", bytes_s=RESUMED_BYTES_S)
        cid = provider.tell("put", size=RESUMED_BYTES)["cid"]
        provider.tell("served")
        fetcher.begin("get", cid=cid, wallets=[provider.wallet])
        time.sleep(RESUMED_BYTES / RESUMED_BYTES_S / 3)
        net.move((provider if moves == "provider" else fetcher).host)
        got, served = fetcher.answer(), provider.tell("served")
        found[name] = got["pause"]
        twice += served["bytes"] - RESUMED_BYTES > RESUMED_BYTES / 100
    return found | {"resume_s": max(found.values()), "resume_blocks_twice": twice}


HOMES: tuple[Kind, ...] = ("port-restricted", "full-cone", "symmetric", "port-restricted")


def demo(net: Internet, _programs: Peers, _tries: int) -> dict[str, Any]:
    """The demo's job with each node behind a router of its own."""
    here, relay, homes = net.public(), net.public(), [net.home(kind) for kind in HOMES]
    with TemporaryDirectory() as folder:
        command = network_command("home_demo.py", Path(folder), here, relay, homes)
        found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    share = found.pop("verifier_bytes_share")
    done = found.pop("done") and found.pop("same_adapter")
    return {"demo_behind_nat": done, "verifier_bytes_share": share, "demo": found}


CROWDS = {each.__name__: each for each in (swarm, eclipse)}
SCENARIOS = {
    each.__name__: each
    for each in (cone_cone, cone_symmetric, cone_predictable, symmetric_symmetric, double_nat, resume, demo)
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tries", type=int, default=100)
    names = [*SCENARIOS, *CROWDS]
    parser.add_argument("--only", choices=names, action="append", help="leave the other figures as they are")
    options = parser.parse_args()
    if reason := unavailable():
        sys.exit(f"bench-nat is left out: it {reason}")
    found: dict[str, Any] = json.loads(RESULT.read_text()) if options.only and RESULT.exists() else {}
    for name in options.only or names:
        start, load = time.perf_counter(), os.getloadavg()[0]
        if name in CROWDS:
            found |= CROWDS[name]()
        else:
            with Internet() as net, Peers() as programs:
                found |= SCENARIOS[name](net, programs, options.tries)
        found["load"] = found.get("load", {}) | {name: [round(load, 1), round(os.getloadavg()[0], 1)]}
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
