"""A LoRA job by workers at home, each with a node of its own: how much of the time they train, and what they send.

Runs in the namespace of a public host, as `home_demo.py` does, on a network of that kind whose nodes have a history of
valid audits. Prints a line of JSON. Used by `bench_home.py`, which makes the namespaces and says what each field means.

python scripts/home_rounds.py OUT --here ADDRESS --relay NAMESPACE=ADDRESS --home NAMESPACE ... --way dense
    --rounds 3 --batch 2 --seq-len 64 --block-time 12 [--tiny]
"""

import argparse
import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench_pipeline import TIMEOUT_S, make_known
from bench_pipeline_timeline import read_orders, rest_of, share, window
from demo import bible_scenario, tiny_scenario
from home_demo import CARRIED, SEED, HomeNetwork, Places, add_places, places_of
from proofyard.devnet import Interrupts, Plan, terminated_like_interrupted
from proofyard.sdk import Client, LoraJob, credits
from proofyard.sdk.terms import Offer
from proofyard.workloads.tiny import write_tiny_corpus

WAYS: dict[str, dict[str, Any]] = {
    "dense": {"aggregation": "fedit"},
    "overlap": {"aggregation": "fedit", "overlap": True},
    "small": {"aggregation": "ffa", "compression": "two-bit"},
    "quorum": {
        "aggregation": "ffa",
        "compression": "two-bit",
        "rounds_by": "nodes",
        "closing": {"quorum": 3, "timeout_s": 20},
    },
}
"""What a task hands over: A and B as they are, the same while the next round is trained, or an encoding of what B has
changed by; the last in rounds that nodes decide, and that do not wait for two that audit."""
SEGMENTS, SEGMENT_STEPS = 4, 4


def run(out: Path, places: Places, job: LoraJob, block_time: int, interrupts: Interrupts) -> dict[str, Any]:
    plan = Plan(
        nodes=len(places.homes),
        model_dirs=(Path(job.model),),
        host=places.here,
        decoys_bps=0,
        ready_timeout=600.0,
        log_level="debug",
        log_format="json",
    )
    assert job.rounds is not None
    tasks = job.rounds * job.workers
    with (
        HomeNetwork(out / "network", plan, places, interrupts) as network,
        Client(network.rpc_url, network.deployment.registry, network.requester.key) as client,
    ):
        make_known(network, client, out)
        network.anvil.set_mining(block_time)
        prepared = client.prepare(job, Offer(reward=credits(tasks / 4), audit_fee=credits(2 * tasks)))
        load, before = os.getloadavg()[0], moved(places.homes)
        began = time.time()
        handle = client.open(prepared)
        report = handle.wait(TIMEOUT_S)
        seconds, after = time.time() - began, moved(places.homes)
        orders = read_orders((network.log_of(node.name) for node in network.nodes), began)
    spans, (start, end) = orders.spans, window(orders.spans)
    steps = [span.seconds for span in spans if span.what == "train"]
    training, auditing = share(spans, "train", job.workers), share(spans, "audit", job.workers)
    needed = job.rounds * (job.closing or {}).get("quorum", job.workers) * job.segments * job.segment_steps
    relayed = CARRIED.findall((out / "network" / "logs" / "relay.log").read_text())
    return {
        "done": report.result is not None and len(steps) >= needed,
        "compute_share": training,
        "work_share": training + auditing,
        "shares": rest_of(spans, job.workers),
        "seconds": seconds,
        "training_seconds": end - start,
        "step_seconds": sum(steps) / len(steps),
        "audited_segments": orders.audits,
        "down_bytes": [there["rx"] - here["rx"] for here, there in zip(before, after, strict=True)],
        "up_bytes": [there["tx"] - here["tx"] for here, there in zip(before, after, strict=True)],
        "relay_bytes": int(relayed[-1]) if relayed else 0,
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
    }


def rounds_job(options: argparse.Namespace) -> LoraJob:
    """The demo's model and data, or its tiny ones, in rounds of 16 steps by a worker at each home."""
    workers = len(options.home)
    job = (tiny_scenario if options.tiny else bible_scenario)(options.out, SEED).job
    if options.tiny:
        job = replace(job, data=write_tiny_corpus(options.out / "inputs" / "labelled.jsonl", labels=workers))
    return replace(
        job,
        lr=2e-3,
        rounds=options.rounds,
        workers=workers,
        segments=SEGMENTS,
        segment_steps=SEGMENT_STEPS,
        batch=options.batch,
        seq_len=options.seq_len,
        look_ahead=options.rounds - 1,
        **WAYS[options.way],
    )


def moved(homes: Sequence[str]) -> list[dict[str, int]]:
    """Bytes of frames that each home's host has received (`rx`) and sent (`tx`) so far."""
    found = []
    for home in homes:
        devices = json.loads(subprocess.check_output(["ip", "-n", home, "-json", "-s", "link", "show"]))
        counters = [device["stats64"] for device in devices if device["ifname"] != "lo"]
        found.append({way: sum(each[way]["bytes"] for each in counters) for way in ("rx", "tx")})
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    add_places(parser)
    parser.add_argument("--way", choices=WAYS, required=True)
    for name in ("--rounds", "--batch", "--seq-len", "--block-time"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    job = rounds_job(options)
    with terminated_like_interrupted() as interrupts:
        print(json.dumps(run(options.out, places_of(options), job, options.block_time, interrupts)))


if __name__ == "__main__":
    main()
