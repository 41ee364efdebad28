"""Mutated input at every door (`fuzz_doors`), each door in a process of its own: out/bench/fuzz.json.

python scripts/fuzz.py [--inputs 10000000] [--seed N] [--door NAME ...] [--jobs 2]

A crash is any error that is none of the protocol's, or a process that ends; a hang is an input that takes over
`HANG_S` of CPU time. The exit code is 1 where there was either. `peak_rss_bytes` is that of the largest process.
"""

import argparse
import asyncio
import json
import logging
import random
import resource
import secrets
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

from fuzz_doors import DOORS, Door

OUT = Path("out/bench/fuzz.json")
HANG_S = 5.0
SHOWN = 5
PROGRESS_S = 60.0


class Hang(BaseException):
    """An input takes too long."""


def _hangs(number: int, frame: FrameType | None) -> None:
    raise Hang


async def try_door(door: Door, inputs: int, seed: int) -> dict[str, Any]:
    """So many inputs at one door, in this process."""
    crashes, hangs, shown = 0, 0, []
    began = told = time.monotonic()
    signal.signal(signal.SIGPROF, _hangs)
    async with door.opened(random.Random(f"{seed} {door.name}")) as knock:
        for number in range(inputs):
            if number % 1000 == 0:
                await asyncio.sleep(0)  # time-outs that are over wait in the loop to be dropped
            if time.monotonic() > told + PROGRESS_S:
                told = time.monotonic()
                print(f"{door.name:<12} {number:,} of {inputs:,}", file=sys.stderr, flush=True)
            signal.setitimer(signal.ITIMER_PROF, HANG_S)
            try:
                await knock()
            except Hang:
                hangs += 1
                shown.append(f"input {number}: over {HANG_S} s")
            except Exception as error:
                crashes += 1
                shown.append(f"input {number}: {error!r}")
        signal.setitimer(signal.ITIMER_PROF, 0)
    return {
        "inputs": inputs,
        "crashes": crashes,
        "hangs": hangs,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
        "seconds": round(time.monotonic() - began, 1),
        "shown": shown[:SHOWN],
    }


def in_a_process(door: Door, inputs: int, seed: int) -> dict[str, Any]:
    """The same in a process of its own; one that ends without a word is a crash."""
    command = [sys.executable, __file__, "--here", door.name, "--inputs", str(inputs), "--seed", str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        found = {"inputs": 0, "crashes": 1, "hangs": 0, "peak_rss_bytes": 0, "shown": [f"ended with {done.returncode}"]}
    print(f"{door.name:<12} {found}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    parser.add_argument("--door", action="append", choices=[door.name for door in DOORS])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--here", choices=[door.name for door in DOORS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    doors = {door.name: door for door in DOORS if door.name in (options.door or [door.name])}
    if options.here:
        logging.disable()
        print(json.dumps(asyncio.run(try_door(doors[options.here], options.inputs, options.seed))))
        return 0
    print(f"seed {options.seed}", flush=True)
    shares = sum(door.share for door in doors.values())
    with ThreadPoolExecutor(options.jobs) as pool:
        parts = {
            name: pool.submit(in_a_process, door, -int(-options.inputs * door.share // shares), options.seed)
            for name, door in doors.items()
        }
        found = {name: part.result() for name, part in parts.items()}
    total = {key: sum(each[key] for each in found.values()) for key in ("inputs", "crashes", "hangs")}
    peak = max(each["peak_rss_bytes"] for each in found.values())
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({**total, "peak_rss_bytes": peak, "seed": options.seed, "doors": found}, indent=2) + "\n")
    print(f"{total['inputs']:,} inputs, {total['crashes']} crashes, {total['hangs']} hangs: {OUT}")
    return 1 if total["crashes"] or total["hangs"] else 0


if __name__ == "__main__":
    sys.exit(main())
