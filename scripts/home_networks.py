"""Home networks as they are: hosts behind the kernel's own NAT, in network namespaces, and an internet between them.

`Internet` joins public hosts and homes by a bridge of its own, from which nothing leads elsewhere. A home is a router
and a host behind it; what the router does is its kind:

full-cone        one public port for whoever the host talks to, open to everybody
port-restricted  the same, open to whom the host has sent something
symmetric        another public port for each peer, open to that one alone
counting         the same, each one port after the one before; `counting-even`: two after
few-ports        the same, a random one of 16
firewall         a public address without translation, open to whom the host has sent something

Its line has no limits, or those of a `Link`: kernel queues (tbf) at both ends hold the rates, `home_link.py` between
them holds each frame for the delay.

Needs Linux, root, and nftables; links need `tc` and TUN beside that. `with Internet() as net` then `net.public()`,
`net.home("symmetric")`, `net.home("symmetric", link=Link())`.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal, Self

Kind = Literal["full-cone", "port-restricted", "symmetric", "counting", "counting-even", "few-ports", "firewall"]

PUBLIC, PUBLIC6 = "203.0.113", "2001:db8:113::"
"""Of the documentation's ranges (RFC 5737, RFC 3849)."""

MAPPED_PORT = 40_000
"""Where a cone's router maps its host's only UDP port to: never the host's own number."""


def unavailable() -> str:
    """Why such networks cannot be made here; "" where they can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "needs root for network namespaces"
    missing = [tool for tool in ("ip", "nft") if shutil.which(tool) is None]
    if missing:
        return f"needs {' and '.join(missing)} (Debian: iproute2, nftables)"
    name = f"pp{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return "this sandbox has no network namespaces"
    try:
        rules = f"table ip t {{\n chain c {{\n  type nat hook postrouting priority 100\n  snat to {PUBLIC}.1\n }}\n}}\n"
        made = subprocess.run(
            ["ip", "netns", "exec", name, "nft", "-f", "-"], input=rules, text=True, capture_output=True
        )
        return "" if made.returncode == 0 else "this kernel has no NAT for nftables"
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


def links_unavailable() -> str:
    """Why a home cannot have a `Link` here, where there are homes; "" where it can."""
    if shutil.which("tc") is None:
        return "needs tc (Debian: iproute2)"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "needs /dev/net/tun"
    name = f"pp{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        _in(name, "tuntap add dev tap0 mode tap")
        _shape(name, "tap0", 1)
    except subprocess.CalledProcessError:
        return "this kernel has no TUN devices or no tbf"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)
    return ""


@dataclass(frozen=True)
class Link:
    """A home's line to the internet. `delay_ms`: each way, so that a round trip to a public host takes twice as long,
    and four times as long to another home with such a line."""

    down_mbit: float = 100.0
    up_mbit: float = 20.0
    delay_ms: float = 15.0


@dataclass(frozen=True)
class Host:
    """A place to run programs in: `address` is its own, `public` the one that others see."""

    namespace: str
    address: str
    public: str
    router: str = ""

    def command(self, *command: str) -> list[str]:
        """What to run so that `command` runs there."""
        return ["ip", "netns", "exec", self.namespace, *command]


def network_command(program: str, out: Path, here: Host, relay: Host, homes: Sequence[Host]) -> list[str]:
    """What runs a network of processes at these places (`home_demo.add_places`), before the program's own options."""
    command = [sys.executable, str(Path(__file__).with_name(program)), str(out), "--here", here.address]
    command += ["--relay", f"{relay.namespace}={relay.address}"]
    return here.command(*command, *(part for home in homes for part in ("--home", home.namespace)))


class Internet:
    """Names of namespaces begin with `prefix`, so that several may stand beside each other."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix or f"pn{os.getpid()}"
        self._numbers = count(2)
        self._spaces: list[str] = []
        self._lines: list[subprocess.Popen[str]] = []
        self._core = ""

    def __enter__(self) -> Self:
        self._core = self._space()
        _in(self._core, "link add core type bridge", "link set core up", f"addr add {PUBLIC}.1/24 dev core")
        return self

    def __exit__(self, *_: object) -> None:
        for line in self._lines:
            line.communicate()
        for name in self._spaces:
            subprocess.run(["ip", "netns", "del", name], check=False)

    def public(self) -> Host:
        """A host that everybody reaches, over IPv4 and IPv6."""
        number, name = next(self._numbers), self._space()
        self._attach(name, "wan", number)
        return Host(name, f"{PUBLIC}.{number}", f"{PUBLIC}.{number}")

    def home(self, kind: Kind, behind: Host | None = None, link: Link | None = None) -> Host:
        """A host behind a router of this kind; `behind` another home it is the second of two routers, and on the link
        of the first one."""
        assert behind is None or link is None, "the first router has the link"
        number, router = next(self._numbers), self._space()
        outer = f"{PUBLIC}.{number}"
        if kind == "firewall":
            self._attach(router, "wan", number, link)
            _rules(router, _FIREWALL)
            return Host(router, outer, outer, router)
        if behind is None:
            self._attach(router, "wan", number, link)
        else:
            outer = self._behind(behind, router, number)
        host, inner = self._space(), f"192.168.{number}"
        _in(router, "link add lan type bridge", f"addr add {inner}.1/24 dev lan", "link set lan up")
        _at_home(router, host, inner, 2)
        _forward(router)
        _rules(router, _ROUTER.format(nat=_NAT[kind].format(outer=outer, port=MAPPED_PORT + number, host=f"{inner}.2")))
        return Host(host, f"{inner}.2", outer if behind is None else behind.public, router)

    def second(self, home: Host) -> Host:
        """One more host on the network of a home."""
        number, name = next(self._numbers), self._space()
        inner = home.address.rpartition(".")[0]
        _at_home(home.router, name, inner, number)
        return Host(name, f"{inner}.{number}", home.public, home.router)

    def move(self, home: Host, number: int = 77) -> None:
        """Give a host another address in its network, as a machine has that moves, or a router that dials in again:
        what it sends comes from elsewhere then, and nothing reaches it where it was."""
        inner = home.address.rpartition(".")[0]
        _in(home.namespace, f"addr del {home.address}/24 dev eth0", f"addr add {inner}.{number}/24 dev eth0")
        _in(home.namespace, f"route replace default via {inner}.1")

    def _space(self) -> str:
        name = f"{self._prefix}n{len(self._spaces)}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        self._spaces.append(name)
        _in(name, "link set lo up")
        return name

    def _attach(self, name: str, device: str, number: int, link: Link | None = None) -> None:
        port = f"p{number}"
        if link is None:
            _in(self._core, f"link add {port} type veth peer name {device} netns {name}")
        else:
            self._draw_line(port, name, device, link)
        _in(self._core, f"link set {port} master core up")
        _in(
            name,
            f"addr add {PUBLIC}.{number}/24 dev {device}",
            f"addr add {PUBLIC6}{number}/64 dev {device} nodad",
            f"link set {device} up",
            f"route add default via {PUBLIC}.1",
        )

    def _draw_line(self, port: str, name: str, device: str, link: Link) -> None:
        program = str(Path(__file__).with_name("home_link.py"))
        line = subprocess.Popen(
            [sys.executable, program, self._core, port, name, device, str(link.delay_ms)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is not for it
        )
        self._lines.append(line)
        assert line.stdout is not None
        if line.stdout.readline() != "ready\n":
            raise OSError(f"{program} does not run (see above)")
        _shape(self._core, port, link.down_mbit)
        _shape(name, device, link.up_mbit)

    def _behind(self, home: Host, router: str, number: int) -> str:
        """The router's address in the network of another home's router."""
        inner = f"100.64.{number}"
        _join(home.router, f"lan{number}", f"{inner}.1/24", router, "wan", f"{inner}.2/24")
        _in(router, f"route add default via {inner}.1")
        return f"{inner}.2"


class Peers:
    """Programs in namespaces: `nat_roles.py`, which forks one for each. Use as a context."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        command = [sys.executable, str(Path(__file__).with_name("nat_roles.py"))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        self._peers: list[Peer] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self._peers:
            peer.close()
        self._process.communicate()
        self._folder.cleanup()

    def start(self, host: Host, *, bind: str = "::", port: int = 4433) -> "Peer":
        orders, answers = (f"{self._folder.name}/{len(self._peers)}.{name}" for name in ("orders", "answers"))
        os.mkfifo(orders)
        os.mkfifo(answers)
        line = {"namespace": host.namespace, "orders": orders, "answers": answers, "host": bind, "port": port}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        self._peers.append(Peer(host, orders, answers))
        return self._peers[-1]


class Peer:
    """One of them, told what to do over pipes."""

    def __init__(self, host: Host, orders: str, answers: str) -> None:
        self.host = host
        self._orders, self._answers = Path(orders).open("w"), Path(answers).open()  # noqa: SIM115
        self._hello: dict[str, Any] | None = None

    @property
    def wallet(self) -> str:
        return str(self._greeting()["wallet"])

    def route(self, kind: str = "direct") -> dict[str, Any]:
        """The route to this peer, or for `relayed` through it."""
        relay = {"relay": self.wallet} if kind == "relayed" else {}
        return {"kind": kind, "host": self.host.public, "port": self._greeting()["port"], **relay}

    def begin(self, do: str, **arguments: Any) -> None:
        """Tell it; `answer` gets what comes of it."""
        self._greeting()
        print(json.dumps({"do": do, **arguments}), file=self._orders, flush=True)

    def answer(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._answers.readline())
        return found

    def tell(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Tell it, and wait until that is done."""
        self.begin(do, **arguments)
        return self.answer()

    def close(self) -> None:
        """It ends once it is told nothing more. Idempotent."""
        self._orders.close()
        self._answers.close()

    def _greeting(self) -> dict[str, Any]:
        if self._hello is None:
            self._hello = self.answer()
        return self._hello


_FIREWALL = """table inet filter {
 chain input {
  type filter hook input priority 0; policy drop;
  iifname "lo" accept
  icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
  ct state established,related accept
 }
}
"""
_ROUTER = """table ip filter {{
 chain forward {{
  type filter hook forward priority 0; policy drop;
  ct state established,related accept
  iifname != "wan" accept
  ct status dnat accept
 }}
 chain input {{
  type filter hook input priority 0; policy drop;
  iifname != "wan" accept
 }}
}}
table ip nat {{
{nat}
}}
"""
_CONE = """ chain out {{
  type nat hook postrouting priority 100;
  oifname "wan" ip saddr {host} udp sport 1024-65535 snat to {outer}:{port}
  oifname "wan" masquerade
 }}
"""
_OPEN = """ chain in {{
  type nat hook prerouting priority -100;
  iifname "wan" udp dport {port} dnat to {host}:4433
 }}
"""
_SYMMETRIC = """ chain out {{
  type nat hook postrouting priority 100;
  oifname "wan" masquerade fully-random
 }}
"""
_GIVEN = """ chain out {{{{
  type nat hook postrouting priority 100;
  oifname "wan" meta l4proto udp masquerade to :numgen {how} mod {count} map {{{{ {ports} }}}}
  oifname "wan" masquerade
 }}}}
"""


def _given(how: Literal["inc", "random"], count: int, step: int = 1) -> str:
    """The kernel's own NAT, with a public port for each flow that nftables counts or draws."""
    ports = ", ".join(f"{number} : {MAPPED_PORT + step * number}" for number in range(count))
    return _GIVEN.format(how=how, count=count, ports=ports)


_NAT = {
    "port-restricted": _CONE,
    "full-cone": _CONE + _OPEN,
    "symmetric": _SYMMETRIC,
    "counting": _given("inc", 2000),
    "counting-even": _given("inc", 2000, 2),
    "few-ports": _given("random", 16),
}


def _in(namespace: str, *commands: str) -> None:
    subprocess.run(["ip", "-n", namespace, "-batch", "-"], input="\n".join(commands) + "\n", text=True, check=True)


def _shape(namespace: str, device: str, mbit: float) -> None:
    """What leaves by this device is no more than that; a queue holds what would wait for at most 50 ms."""
    bits = round(mbit * 1e6)
    queue = f"root tbf rate {bits}bit burst {max(16_000, bits // 8000)} latency 50ms"
    subprocess.run(["tc", "-n", namespace, "qdisc", "add", "dev", device, *queue.split()], check=True)


def _join(one: str, device: str, address: str, other: str, there: str, address_there: str) -> None:
    _in(
        one,
        f"link add {device} type veth peer name {there} netns {other}",
        f"addr add {address} dev {device}",
        f"link set {device} up",
    )
    _in(other, f"addr add {address_there} dev {there}", f"link set {there} up")


def _at_home(router: str, host: str, inner: str, number: int) -> None:
    """Put a host on a router's network."""
    _in(router, f"link add l{number} type veth peer name eth0 netns {host}", f"link set l{number} master lan up")
    _in(host, f"addr add {inner}.{number}/24 dev eth0", "link set eth0 up", f"route add default via {inner}.1")


def _forward(namespace: str) -> None:
    command = ["ip", "netns", "exec", namespace, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]
    subprocess.run(command, check=True)


def _rules(namespace: str, rules: str) -> None:
    subprocess.run(["ip", "netns", "exec", namespace, "nft", "-f", "-"], input=rules, text=True, check=True)


if __name__ == "__main__":
    print(unavailable() or f"available; {Path(__file__).name} is used by tests/nat and `make bench-nat`")
