"""Five workers at home: how much of the time that a job takes they train, with small deltas and without.

    make bench-home
    python scripts/bench_home.py [--tiny] [--ways dense overlap small ...] [--rounds 3] [--batch 2] [--seq-len 64]

Each node is behind a router of its own (a cone) at the end of a line of 100 Mbit/s down and 20 up with a delay of 15 ms
each way: a round trip takes 30 ms to the public hosts of chain, verifier, requester and a relay, and 60 to another
node (`home_networks.Link`). Workers train SmolLM2-135M, rank 8 on q_proj and v_proj, in rounds of 16 steps of 2 x 64
tokens; nodes have a history of valid audits, and are audited as the network does it. Needs Linux, root, nftables, TUN.

Adds to out/bench/federated.json; `--tiny` (a random model of two layers, to see that all of it runs) adds nothing.
`home_compute_share` is the part of the workers' time between first and last step in which they train
(`bench_pipeline_timeline`), with small deltas; `home_compute_share_dense` the same with whole adapters, and
`home_compute_share_near` with small deltas where homes have no lines of their own (`--ways near`), where what is
missing is not theirs. `home_compute_share_quorum` is that of small deltas in rounds that nodes decide and that close
on three of five, so that nobody waits for two that audit (`--ways quorum`), `home_compute_share_overlap` that of whole
adapters that travel while the next round is trained (`--ways overlap`). `home_work_share`, and so on, are the
same with the steps of audited segments, which are paid as well. `home` has for each what the rest was (`shares`),
seconds of the job and of its steps, bytes of frames that each node received and sent from the job's opening until it
was done, bytes that the relay carried, and the load before and after; `line` is what such a line carries, and `alone`
one that nothing but this machine limits.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from home_networks import Internet, Kind, Link, links_unavailable, network_command, unavailable
from home_rates import rates
from proofyard.devnet import terminated_like_interrupted

RESULT = Path(__file__).parents[1] / "out" / "bench" / "federated.json"
HOMES: tuple[Kind, ...] = ("port-restricted", "full-cone", "port-restricted", "full-cone", "port-restricted")
WAYS = ("dense", "overlap", "small", "quorum", "near")
"""Whole adapters, those while the next round is trained, small deltas, those in rounds that close on a quorum, and
where no home has a line of its own."""
ENDINGS = {way: f"_{way}" for way in WAYS} | {"small": ""}
"""Of each one's keys."""
MEANT = {"compute": "training", "work": "training and audits"}
SIZE = {"rounds": 3, "batch": 2, "seq-len": 64, "block-time": 12}
"""Of a job, in sequences of a step and their tokens; and seconds from block to block."""
UNLIMITED_MBIT = 2000.0


def measure_line(link: Link) -> dict[str, Any]:
    """What it carries, and what one with this delay would if only this machine limited it."""
    alone = Link(UNLIMITED_MBIT, UNLIMITED_MBIT, link.delay_ms)
    with Internet() as net:
        public = net.public()
        limited = rates(public, net.home(HOMES[0], link=link), down_bytes=25_000_000, up_bytes=5_000_000)
        free = rates(public, net.home(HOMES[0], link=alone), down_bytes=100_000_000, up_bytes=100_000_000)
    return {**asdict(limited), "alone": asdict(free)}


def measure(way: str, link: Link | None, folder: Path, size: Sequence[str]) -> dict[str, Any]:
    with Internet() as net:
        here, relay, homes = net.public(), net.public(), [net.home(kind, link=link) for kind in HOMES]
        command = network_command("home_rounds.py", folder, here, relay, homes)
        job = subprocess.Popen([*command, "--way", "small" if way == "near" else way, *size], stdout=subprocess.PIPE)
        try:
            printed, _ = job.communicate()
        finally:
            job.terminate()  # it ends its network
            job.wait()
    if job.returncode:
        sys.exit(f"the job with the {way} path failed (see above)")
    found: dict[str, Any] = json.loads(printed)
    return found


@contextmanager
def place(way: str, *, keep: bool) -> Iterator[Path]:
    """A folder for a job's network."""
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(mkdtemp(prefix=f"home-{way}-", dir=RESULT.parent))
    try:
        yield folder
    finally:
        if keep:
            print(f"logs are in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["dense", "small"])
    for name, number in SIZE.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--tiny", action="store_true", help="a small random model, whose figures are not kept")
    parser.add_argument("--keep", action="store_true", help="keep logs and databases")
    args = parser.parse_args()
    if reason := unavailable() or links_unavailable():
        sys.exit(f"bench-home is left out: it {reason}")
    link, size = Link(), {name: vars(args)[name.replace("-", "_")] for name in SIZE}
    home: dict[str, Any] = {"size": size, "link": asdict(link), "line": measure_line(link)}
    found: dict[str, Any] = {"home": home}
    options = [part for name, number in size.items() for part in (f"--{name}", str(number))]
    options += ["--tiny"] if args.tiny else []
    for way in args.ways:
        with terminated_like_interrupted(), place(way, keep=args.keep) as folder:
            home[way] = measure(way, None if way == "near" else link, folder, options)
        for what, share in {"compute": home[way]["compute_share"], "work": home[way]["work_share"]}.items():
            found[f"home_{what}_share{ENDINGS[way]}"] = share
            print(f"{way}: {share:.3f} of the time in {MEANT[what]}", file=sys.stderr)
    if not args.tiny:
        kept = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
        found["home"] = kept.get("home", {}) | home
        RESULT.write_text(json.dumps(kept | found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
