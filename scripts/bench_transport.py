"""Measures transport and artifacts against stock aioquic, py-libp2p and TCP, side by side in one run.

Writes `transport.json` into the folder given (default `out/bench`) and prints the same as a table; a whole run writes
the table into docs/transport.md too. Scenarios that need what this machine lacks (root for namespaces) are left out
and are null in the file. py-libp2p is installed into .cache/libp2p at first use, unless LIBP2P_PYTHON or `--libp2p`
names a Python that has it.

    python scripts/bench_transport.py [--quick] [--out DIR] [--libp2p PYTHON] [--only NAME...]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import shaped_link

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "transport.md"
MARKER = "<!-- Written by scripts/bench_transport.py from here to the end. -->\n"
OURS = [sys.executable, str(HERE / "transport_roles.py")]
MB = 1e6


def libp2p_python() -> str | None:
    """A Python with py-libp2p, in an environment that is made at first use; None where it cannot be installed."""
    requirements, folder = HERE / "libp2p_requirements.txt", HERE.parent / ".cache" / "libp2p"
    stamp = folder / "stamp"
    python = str(folder / "bin" / "python")
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        try:
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            quiet = ("--quiet", "--disable-pip-version-check", "--no-deps")
            subprocess.run([python, "-m", "pip", "install", *quiet, "-r", str(requirements)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"py-libp2p is left out, it cannot be installed: {error}", file=sys.stderr)
            return None
        stamp.write_text(requirements.read_text())
    return python


@contextmanager
def role(*command: str, prefix: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """A process of `transport_roles.py` that runs until its stdin is closed."""
    process = subprocess.Popen([*prefix, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def line(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next JSON line that a role says."""
    assert process.stdout is not None
    text = process.stdout.readline()
    if not text:
        raise RuntimeError(f"{process.args!r} ended without an answer")
    answer: dict[str, Any] = json.loads(text)
    return answer


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Tell a role to end; its last line."""
    assert process.stdin is not None
    process.stdin.close()
    return line(process)


class Bench:
    """The scenarios. Rates are in MB/s, 10^6 bytes a second."""

    def __init__(self, folder: Path, size_mb: int, libp2p: str | None) -> None:
        """`libp2p` is a Python that has it, None for one that is made."""
        self._folder = folder
        self._kept = ("--folder", str(folder))
        self._size = size_mb
        self._libp2p = libp2p
        self.results: dict[str, Any] = {}

    def file(self, megabytes: int) -> str:
        path = self._folder / f"{megabytes}mb"
        if not path.exists():
            with path.open("wb") as file:
                for _ in range(megabytes):
                    file.write(os.urandom(1_000_000))
        return str(path)

    def ours(
        self,
        megabytes: int,
        prefixes: tuple[tuple[str, ...], ...] = ((), ()),
        host: str = "127.0.0.1",
        leech_host: str = "127.0.0.1",
    ) -> float:
        with role(*OURS, "seed", self.file(megabytes), "--host", host, *self._kept, prefix=prefixes[0]) as seed:
            ready = line(seed)
            target = f"{host}:{ready['port']}"
            with role(
                *OURS, "leech", ready["cid"], target, "--host", leech_host, *self._kept, prefix=prefixes[1]
            ) as leech:
                return rate(line(leech))

    def plain(
        self, kind: str, megabytes: int, prefixes: tuple[tuple[str, ...], ...] = ((), ()), host: str = "127.0.0.1"
    ) -> float:
        with role(*OURS, f"{kind}-seed", self.file(megabytes), "--host", host, prefix=prefixes[0]) as seed:
            port = line(seed)["port"]
            with role(*OURS, f"{kind}-leech", host, str(port), prefix=prefixes[1]) as leech:
                return rate(line(leech))

    def single(self) -> None:
        """One peer to one peer on loopback, checked and stored at both ends, and the same with stock aioquic and with
        py-libp2p over TCP, in its own environment."""
        contenders = {
            "single_mb_s": lambda: self.ours(self._size),
            "stock_aioquic_mb_s": lambda: self.plain("stock", self._size // 2),
        }
        self._libp2p = self._libp2p or libp2p_python()
        if self._libp2p:
            contenders["libp2p_tcp_mb_s"] = lambda: self._libp2p_rate("tcp", self._size)
        found = medians_in_turns(contenders)
        self.results |= found | {"single_to_libp2p_tcp": None}
        if self._libp2p:
            self.results["single_to_libp2p_tcp"] = found["single_mb_s"] / found["libp2p_tcp_mb_s"]

    def libp2p(self) -> None:
        """py-libp2p over QUIC."""
        self._libp2p = self._libp2p or libp2p_python()
        self.results["libp2p_quic_mb_s"] = self._libp2p_rate("quic", self._size // 4) if self._libp2p else None

    def _libp2p_rate(self, kind: str, megabytes: int) -> float:
        assert self._libp2p is not None
        command = (self._libp2p, str(HERE / "libp2p_roles.py"))
        with (
            role(*command, "seed", self.file(megabytes), kind) as seed,
            role(*command, "leech", line(seed)["address"], kind) as leech,
        ):
            return rate(line(leech))

    def mtu1500(self) -> None:
        """Two network namespaces joined by a veth pair with an MTU of 1,500."""
        self.results["mtu1500_ratio"] = None
        if shaped_link.available():
            with shaped_link.VethPair() as link:
                hosts = link.addresses
                sides = (tuple(link.command("a")), tuple(link.command("b")))
                found = medians_in_turns(
                    {
                        "mtu1500_mb_s": lambda: self.ours(self._size, sides, hosts["a"], hosts["b"]),
                        "mtu1500_stock_mb_s": lambda: self.plain("stock", self._size // 4, sides, hosts["a"]),
                    }
                )
                ratio = found["mtu1500_mb_s"] / found["mtu1500_stock_mb_s"]
                self.results |= found | {"mtu1500_ratio": ratio}

    def swarm(self) -> None:
        """Four seeders limited to 5 MB/s each, one leecher; and one such seeder alone."""
        for name, count in (("swarm_mb_s", 4), ("swarm_one_mb_s", 1)):
            self.results[name] = self._swarm(count)

    def _swarm(self, count: int) -> float:
        path = self.file(self._size // 2 if count > 1 else self._size // 8)
        seeds = [role(*OURS, "seed", path, "--link", "--rate", str(5 * MB)) for _ in range(count)]
        ready = [line(seed.__enter__()) for seed in seeds]
        try:
            targets = [f"127.0.0.1:{each['port']}" for each in ready]
            with role(*OURS, "leech", ready[0]["cid"], *targets) as leech:
                return rate(line(leech))
        finally:
            for seed in seeds:
                seed.__exit__(None, None, None)

    def lossy(self) -> None:
        """2% loss each way and a round trip of 50 ms, against one TCP stream with the kernel's congestion control."""
        self.results["lossy_ratio_to_tcp"] = None
        if shaped_link.available():
            with shaped_link.ShapedLink(delay_s=0.025, loss=0.02) as link:
                hosts = link.addresses
                sides = (tuple(link.command("a")), tuple(link.command("b")))
                tcp = self.plain("tcp", self._size // 8, sides, hosts["a"])
                ours = self.ours(self._size // 8, sides, hosts["a"], hosts["b"])
                control = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
                self.results |= {"lossy_mb_s": ours, "lossy_tcp_mb_s": tcp, "lossy_tcp_control": control}
                self.results["lossy_ratio_to_tcp"] = ours / tcp

    def idle(self) -> None:
        """1,000 idle connections at one node; 200 small requests at once."""
        with role(*OURS, "hub") as hub, role(*OURS, "crowd", str(line(hub)["port"]), "1000") as crowd:
            counted = line(crowd)
            self.results["p99_200_ms"] = counted["p99_ms"]
            self.results["idle_1000_rss_bytes"] = finish(hub)["extra"]

    def memory(self) -> None:
        """A 2 GB file: what either end needs above idle."""
        with role(*OURS, "seed", self.file(10 * self._size), "--link") as seed:
            ready = line(seed)
            with role(*OURS, "leech", ready["cid"], f"127.0.0.1:{ready['port']}", *self._kept) as leech:
                fetched = line(leech)
            self.results["rss_2gb_extra_bytes"] = max(fetched["extra"], finish(seed)["extra"])
            self.results["rss_2gb_mb_s"] = rate(fetched)


def medians_in_turns(contenders: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """The median of five rates of each, measured in turns so that a busy moment does not hit one of them alone."""
    rounds = [{name: measure() for name, measure in contenders.items()} for _ in range(5)]
    return {name: statistics.median(each[name] for each in rounds) for name in contenders}


FIGURES = (
    ("single_mb_s", "one peer to one peer on loopback, MB/s", "2.5 times stock aioquic"),
    ("stock_aioquic_mb_s", "stock aioquic, MB/s", ""),
    ("libp2p_quic_mb_s", "py-libp2p over QUIC, MB/s", ""),
    ("libp2p_tcp_mb_s", "py-libp2p over TCP, MB/s", ""),
    ("single_to_libp2p_tcp", "the first over that, each the median of five in turn", "1.1"),
    ("mtu1500_mb_s", "at an MTU of 1,500 between namespaces, MB/s", "110"),
    ("mtu1500_stock_mb_s", "stock aioquic there, MB/s", ""),
    ("mtu1500_ratio", "ratio of the two", "1.5"),
    ("swarm_mb_s", "from four seeders of 5 MB/s each, MB/s", "18"),
    ("swarm_one_mb_s", "from one of them, MB/s", ""),
    ("lossy_mb_s", "at 2% loss and 50 ms, MB/s", ""),
    ("lossy_tcp_mb_s", "one TCP stream there, MB/s", ""),
    ("lossy_tcp_control", "the kernel's congestion control", ""),
    ("lossy_ratio_to_tcp", "ratio of the two", "0.5"),
    ("idle_1000_rss_bytes", "memory for 1,000 idle connections, bytes", "below 300,000,000"),
    ("p99_200_ms", "99th percentile of 200 small requests at once, ms", "below 250"),
    ("rss_2gb_extra_bytes", "memory for a file of 2 GB above idle, bytes", "below 100,000,000"),
    ("rss_2gb_mb_s", "its rate, MB/s", ""),
)
"""Key, meaning, and what it must reach."""


def write_page(results: dict[str, Any]) -> None:
    """The figures as a table at the end of docs/transport.md."""
    rows = [f"| {meaning} | {shown(results.get(key))} | {goal} |" for key, meaning, goal in FIGURES]
    table = "\n".join(["| figure | measured | must reach |", "|---|---|---|", *rows])
    PAGE.write_text(f"{PAGE.read_text().split(MARKER)[0]}{MARKER}\n{table}\n")


def shown(value: Any) -> str:
    if value is None:
        return "left out"
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def rate(answer: dict[str, Any]) -> float:
    return float(answer["bytes"] / answer["seconds"] / MB)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the data")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--libp2p", default=os.environ.get("LIBP2P_PYTHON"), help="a Python that has libp2p")
    parser.add_argument("--only", nargs="*", help="names of scenarios")
    options = parser.parse_args()
    console = Console(stderr=True)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.out) as folder:
        bench = Bench(Path(folder), 20 if options.quick else 200, options.libp2p)
        scenarios: list[Callable[[], None]] = [
            bench.single,
            bench.libp2p,
            bench.mtu1500,
            bench.swarm,
            bench.lossy,
            bench.idle,
            bench.memory,
        ]
        for scenario in scenarios:
            if not options.only or scenario.__name__ in options.only:
                console.print(f"{scenario.__name__}: {scenario.__doc__}")
                scenario()
    path = options.out / "transport.json"
    path.write_text(json.dumps(bench.results, indent=2) + "\n")
    table = Table("figure", "measured", title=f"transport ({path})")
    for name, value in bench.results.items():
        table.add_row(name, shown(value))
    Console().print(table)
    if not options.quick and not options.only:
        write_page(bench.results)


if __name__ == "__main__":
    main()
