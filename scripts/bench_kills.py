"""kill -9 in the middle of a round that nodes decide: a node at its shard, the round's leader, the verifier.

    make bench-kills
    python scripts/bench_kills.py [--rounds 4] [--workers 4] [--seconds 10]

One network of anvil, a verifier and `--workers` + 1 nodes on this machine, and one job on a small random model for each
of: nobody killed, and each of these killed once and started again after `--seconds`. What is measured is the agreement,
not the model. Adds to out/bench/federated.json: `kills` has of each job the rounds that the certificates in the chain's
lists close, how many results each took, the held-out loss in nats a token of what it came to, and seconds; `kills_ok`
is whether all have the rounds of the job that nobody was killed in, and a loss within 1% of it.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from bench_exact_setup import ROOT
from proofyard.devnet import terminated_like_interrupted
from proofyard.devnet.network import DevNetwork, Plan
from proofyard.disputes.committed import closed_of
from proofyard.protocol.certificate import round_after
from proofyard.protocol.closing import roster_among
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, Manifest, decode_manifest
from proofyard.protocol.types import Cid
from proofyard.sdk import Client, JobHandle, LoraJob, credits, submit_job
from proofyard.sdk.results import manifest_of
from proofyard.workloads.lora_params import read_params
from proofyard.workloads.lora_rounds import start_of_round, whole_adapter
from proofyard.workloads.lora_tensors import put
from proofyard.workloads.state import encode_state
from proofyard.workloads.sweep_score import held_out_loss
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model
from proofyard.workloads.workload import Inputs, Resources, load_workload, rounds_of

RESULT = ROOT / "out" / "bench" / "federated.json"
VICTIMS = ("nobody", "node", "leader", "verifier")
WITHIN = 0.01
DEADLINE_S = 900.0
SEQUENCES = 64


@dataclass
class Bench:
    network: DevNetwork
    client: Client
    job: LoraJob
    seconds: float

    def run(self, victim: str) -> dict[str, Any]:
        began = time.monotonic()
        handle = submit_job(self.job, reward=credits(10), audit_fee=credits(10), client=self.client)
        named = manifest_of(self.client.chain, handle.job_id)
        manifest = decode_manifest(self.client.read(named, MAX_MANIFEST_BYTES))
        if victim != "nobody":
            name, holds = self._moment(victim, handle, manifest)
            until(holds, f"the moment to kill {name}")
            self.network.kill(name)
            time.sleep(self.seconds)
            self.network.restart(name)
        report = handle.wait(DEADLINE_S)
        closed = asyncio.run(closed_of(self.client.chain, self._read, handle.job_id, manifest))
        return {
            "state": report.state,
            "rounds": len(closed),
            "took": [len(each.taken) for each in closed],
            "loss": self._loss(handle, manifest),
            "seconds": round(time.monotonic() - began, 1),
        }

    def _moment(self, victim: str, handle: JobHandle, manifest: Manifest) -> tuple[str, Callable[[], bool]]:
        """Whom to kill, and when: a leader while the first round's results come in, anybody else in the second."""
        rules, chain = rounds_of(load_workload("lora"), manifest), self.client.chain
        job = chain.job(handle.job_id)
        assert rules is not None
        roster, names = roster_among(rules.closing.voters), self.network.names()
        first = round_after(chain.domain, handle.job_id, job.manifest, roster, ())
        leads = roster.leaders(chain.block_hash(job.open_block), first.digest)[0]
        if victim == "leader":
            return names[leads], lambda: self._said(f"job {handle.job_id}: this node is one of")
        if victim == "verifier":
            return self.network.verifiers[0].name, lambda: self._said(f"job {handle.job_id}: round 0 took")
        worker = next(voter.node for voter in roster.voters[: rules.workers] if voter.node != leads)
        return names[worker], lambda: self._said(f"job {handle.job_id}: round 0 took")

    def _said(self, words: str) -> bool:
        """Whether all nodes have."""
        folder = self.network.directory / "logs"
        return all(words in (folder / f"{node.name}.log").read_text() for node in self.network.nodes)

    def _loss(self, handle: JobHandle, manifest: Manifest) -> float:
        results = handle.prove().results
        params = read_params(manifest)
        trained = [self.client.read(cid, 1 << 30) for cid in results.values()]
        start = start_of_round(params, manifest.seed, trained, params.rounds, tasks=tuple(results))
        adapter = encode_state(put(whole_adapter(params, manifest.seed, start), "adapter"))
        inputs = Inputs(Path(self.job.model), Path(self.job.data))
        return held_out_loss(manifest, inputs, Resources(), adapter, SEQUENCES)

    async def _read(self, cid: Cid, max_bytes: int) -> bytes:
        return await asyncio.to_thread(self.client.read, cid, max_bytes)


def until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not holds():
        if time.monotonic() > end:
            raise SystemExit(f"{what} did not come in {DEADLINE_S:.0f} s")
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--segments", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12, help="of a segment")
    parser.add_argument("--timeout-s", type=int, default=20, help="after which a round does without what is missing")
    parser.add_argument("--seconds", type=float, default=10.0, help="between death and restart")
    parser.add_argument("--victims", nargs="+", default=list(VICTIMS), choices=VICTIMS)
    args = parser.parse_args()
    folder = Path(mkdtemp(prefix="proofyard-kills-"))
    model, data = write_tiny_model(folder / "model", 1), write_tiny_corpus(folder / "text.jsonl", labels=args.workers)
    plan = Plan(
        nodes=args.workers + 1, model_dirs=(model,), lease_s=60.0, batch_s=5.0, listed=True, ready_timeout=600.0
    )
    job = LoraJob(
        model=model,
        data=data,
        rank=4,
        rounds=args.rounds,
        workers=args.workers,
        segments=args.segments,
        segment_steps=args.steps,
        batch=4,
        seq_len=32,
        look_ahead=8,
        rounds_by="nodes",
        closing={"quorum": args.workers - 1, "timeout_s": args.timeout_s},
    )
    found: dict[str, Any] = {}
    with (
        terminated_like_interrupted(),
        DevNetwork(folder / "network", plan) as network,
        Client(network.rpc_url, network.deployment.registry, network.requester.key) as client,
    ):
        for victim in args.victims:
            found[victim] = Bench(network, client, job, args.seconds).run(victim)
            print(f"{victim}: {found[victim]}", flush=True)
    kept = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    kept["kills"] = found
    if set(VICTIMS) <= found.keys():
        right = found["nobody"]
        kept["kills_ok"] = all(
            each["state"] == "done"
            and each["rounds"] == right["rounds"]
            and abs(each["loss"] / right["loss"] - 1) <= WITHIN
            for each in found.values()
        )
        print(f"kills_ok: {kept['kills_ok']}")
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
