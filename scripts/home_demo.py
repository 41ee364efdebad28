"""The demo's job with every node behind a router of its own, and whose hands its artifacts went through.

Runs in the namespace of a public host, which chain, verifier and requester are on; a relay is on another one. Prints a
line of JSON. Used by `bench_nat.py` and tests/nat, which make the namespaces.

python scripts/home_demo.py OUT --here ADDRESS --relay NAMESPACE=ADDRESS --home NAMESPACE ... [--tiny]
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from bench_pipeline_plain import run_plain
from demo import AUDIT_FEE, REWARD, bible_scenario, tiny_scenario
from proofyard.chain import Wallet
from proofyard.devnet import DevNetwork, Plan, terminated_like_interrupted
from proofyard.devnet.members import Member, keys_of, store_wallet
from proofyard.devnet.network import toml_text
from proofyard.devnet.process import Child, Interrupts
from proofyard.node.control import read_status
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, decode_manifest
from proofyard.sdk import Client, LoraJob, submit_job
from proofyard.sdk.results import manifest_of
from proofyard.workloads.tiny import write_tiny_corpus

PORT = 4433
SEED = 7
JOB_S = 1500.0
SENT = re.compile(r"^proofyard_verifier_artifact_bytes_sent_total (\S+)$", re.MULTILINE)
CARRIED = re.compile(r"carries for \d+ nodes, \d+ connections, (\d+) bytes in all")


@dataclass(frozen=True)
class Places:
    """`here`: this host's address, `relay` another one's namespace and address, `homes` the nodes' namespaces."""

    here: str
    relay: tuple[str, str]
    homes: Sequence[str]


class HomeNetwork(DevNetwork):
    """One whose nodes are behind routers, and reach each other through a relay or past it."""

    def __init__(self, directory: Path, plan: Plan, places: Places, interrupts: Interrupts) -> None:
        super().__init__(directory, plan, lambda line: print(line, file=sys.stderr, flush=True), interrupts)
        self._places = places
        self._relay = ""

    def place_of(self, member: Member) -> tuple[Sequence[str], Mapping[str, Any]]:
        if member.role != "node":
            return (), {}
        home = self._places.homes[int(member.name.removeprefix("node-")) - 1]
        self._relay = self._relay or self._start_relay()
        return _inside(home), {"port": PORT, "relays": [self._relay]}

    def _start_relay(self) -> str:
        """What nodes name it by."""
        wallets, (space, address) = self.directory / "wallets", self._places.relay
        wallet, keys = store_wallet(wallets, "relay", Wallet.generate()), keys_of(wallets, "relay")
        toml, ready = self.directory / "relay.toml", self.directory / "relay.json"
        network = {"rpc_url": self.rpc_url, "registry": self.deployment.registry, "from_block": self.deployment.block}
        own = {"wallet": str(keys.keystore), "password_file": str(keys.password_file)}
        toml.write_text(toml_text({"": network, "requester": own}))
        relay = self._children["relay"] = Child(
            "relay",
            ["--config", str(toml), "relay", "run", "--port", str(PORT), "--ready-file", str(ready)],
            log=self.directory / "logs" / "relay.log",
            ready=ready,
            within=_inside(space),
        )
        relay.wait_ready(self.plan.ready_timeout)
        return f"{wallet.address}@{address}:{PORT}"


def run(out: Path, places: Places, job: LoraJob, interrupts: Interrupts) -> dict[str, Any]:
    """The job's adapter and those of its bytes that anybody handed on."""
    plan = Plan(nodes=len(places.homes), model_dirs=(Path(job.model),), host=places.here, decoys_bps=0)
    with HomeNetwork(out / "network", plan, places, interrupts) as network:
        with Client(network.rpc_url, network.deployment.registry, network.requester.key) as client:
            began = time.time()
            handle = submit_job(job, reward=REWARD, audit_fee=AUDIT_FEE, client=client)
            report = handle.wait(JOB_S)
            seconds = time.time() - began
            manifest = decode_manifest(client.read(manifest_of(client.chain, handle.job_id), MAX_MANIFEST_BYTES))
        metrics = httpx.get(f"{network.api_url('verifier-1')}/metrics", timeout=30).text
        nodes = [network.directory / member.name / "data" for member in network.nodes]
    sent = SENT.search(metrics)
    assert sent is not None, "a verifier counts what it sends"
    statuses = [status for status in map(read_status, nodes) if status is not None]
    by_verifier, by_nodes = int(float(sent[1])), sum(status.sent.get("others", 0) for status in statuses)
    carried = CARRIED.findall((out / "network" / "logs" / "relay.log").read_text())
    plain = run_plain(manifest, Path(job.model), Path(job.data), job.workers)
    return {
        "done": report.result is not None,
        "same_adapter": report.result == plain.package,
        "seconds": round(seconds, 1),
        "verifier_bytes": by_verifier,
        "node_to_node_bytes": by_nodes,
        "node_to_verifier_bytes": sum(status.sent.get("verifiers", 0) for status in statuses),
        "relay_bytes": int(carried[-1]) if carried else 0,
        "verifier_bytes_share": by_verifier / max(1, by_verifier + by_nodes),
        "reached": [status.reached for status in statuses],
    }


def small_job(out: Path) -> LoraJob:
    """The demo's tiny job in two rounds, with states that are worth fetching from whoever made them."""
    job = tiny_scenario(out, SEED).job
    data = write_tiny_corpus(out / "inputs" / "text.jsonl")
    return replace(job, data=data, rounds=2, workers=2, look_ahead=0, rank=64)


def add_places(parser: argparse.ArgumentParser) -> None:
    """OUT, and the options that `places_of` reads."""
    parser.add_argument("out", type=Path)
    parser.add_argument("--here", required=True)
    parser.add_argument("--relay", required=True, metavar="NAMESPACE=ADDRESS")
    parser.add_argument("--home", action="append", required=True, metavar="NAMESPACE")


def places_of(options: argparse.Namespace) -> Places:
    space, _, address = options.relay.partition("=")
    return Places(options.here, (space, address), options.home)


def _inside(space: str) -> list[str]:
    return ["ip", "netns", "exec", space]


def main() -> None:
    parser = argparse.ArgumentParser()
    add_places(parser)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    job = small_job(options.out) if options.tiny else bible_scenario(options.out, SEED).job
    with terminated_like_interrupted() as interrupts:
        print(json.dumps(run(options.out, places_of(options), job, interrupts)))


if __name__ == "__main__":
    main()
