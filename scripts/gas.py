"""Measures the gas of whole transactions on anvil and compares it with contracts/gas-snapshot.json.

`python scripts/gas.py` fails where an action costs over its limit or 3% more than the snapshot (a jury's draw can take
a candidate more); `--write` renews it.
Intrinsic and calldata gas are included. The network has 5 verifiers and 16 nodes. Except for `first_node` and
`first_verifier`, what is measured is not the first of its kind in the network, so no global counter leaves zero in it.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from proofyard.chain import Anvil, ChainClient, Court, JobTerms, Step, Wallet, claim_of, deploy_network, sign_commitment
from proofyard.chain.client import event_of
from proofyard.chain.events import JobOpened
from proofyard.chain.rpc import connect
from proofyard.protocol import bls, merkle
from proofyard.protocol.cid import cid_bytes, raw_cid
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.mark import mark_of
from proofyard.protocol.settlement import OperatorId, Payout, Settlement, Share, settlement_digest
from proofyard.protocol.types import Address, BatchId, Digest, JobId, SegmentIndex, TaskIndex, Wei

SNAPSHOT = Path(__file__).resolve().parent.parent / "contracts" / "gas-snapshot.json"
LIMITS = {
    "commit_settle_1000": 420_000,
    "commit_settle_100000": 420_000,
    "register_node": 250_000,
    "register_verifier": 500_000,
    "open_job": 160_000,
    "open_job_permit": 185_000,
    "open_job_for": 195_000,
    "claim_first": 85_000,
    "claim_later": 64_000,
    "finalize": 130_000,
    "open_challenge": 850_000,
    "task_of_one_job": 60_000,
    "task_of_100_jobs": 3_000,
    "take_job": 55_000,
    "take_job_of_100": 9_000,
}
"""Of a batch's gas 155,000 go to the pairing and the map to the curve, 66,000 to its three slots, 54,000 to sending two
transactions. Seed and payouts are hashed to the header; who signed takes a slot only where a seat of the quorum did
not. A node also takes its owner's place on a bench, a seat makes a new version of the quorum, a claim looks whether any
node of its owner was at fault, `finalize` pays five signers, and a challenge is sealed first. `task_...` is a batch's
gas by the tasks in it: of one job of 10, and of 100 such jobs at once; a job that was not opened for a verifier
(`open_job_for`, with a permit) is taken, alone or with 99 others."""

TOLERANCE = 0.03
CREDIT = 10**18
ENDPOINT = "203.0.113.77:40404"
MANIFEST, MEMBERS, SALT = (Digest(bytes([n]) * 32) for n in (0x11, 0x66, 0x77))
UNITS = 1000
"""Work units of each batch."""
SEGMENTS = 64


class Bench:
    """A network with deterministic keys, and the gas of the last transaction."""

    def __init__(self, anvil: Anvil) -> None:
        self.anvil = anvil
        self._w3 = connect(anvil.rpc_url)
        self._keys = 0
        deployment = deploy_network(anvil.rpc_url, anvil.wallet(0))
        self.registry = deployment.registry
        self.chain = ChainClient(anvil.rpc_url, deployment.registry, anvil.wallet(0))
        self.verifiers: list[Wallet] = []
        self.nodes: list[Wallet] = []
        self.ids: list[OperatorId] = []

    def gas(self) -> int:
        return int(self._w3.eth.get_block("latest")["gasUsed"])

    def key(self) -> Wallet:
        self._keys += 1
        wallet = Wallet.from_key(bytes([0x42]) * 30 + self._keys.to_bytes(2, "big"))
        self.anvil.fund(wallet.address)
        return wallet

    def client(self, wallet: Wallet) -> ChainClient:
        return ChainClient(self.anvil.rpc_url, self.registry, wallet)

    def owner(self, credits: int) -> ChainClient:
        wallet = self.key()
        self.chain.transfer(wallet.address, Wei(credits * CREDIT))
        return self.client(wallet)

    def verifier(self) -> int:
        key = self.key()
        self.owner(100_000).register_verifier(key, Wei(100_000 * CREDIT), ENDPOINT)
        self.verifiers.append(key)
        return self.gas()

    def node(self, credits: int) -> int:
        """Registers a node whose owner has so many tokens, 100 of which it stakes."""
        key = self.key()
        self.ids.append(self.owner(credits).register_node(key, Wei(100 * CREDIT), 1, ENDPOINT))
        self.nodes.append(key)
        return self.gas()

    def batch(
        self, jobs: list[JobId], root: Digest, size: int, units: int = UNITS
    ) -> tuple[BatchId, list[Payout], int]:
        """Commit and settle, signed by all; the batch, its payouts and the gas of both transactions."""
        verifier = self.client(self.verifiers[0])
        batch = verifier.commit_batch(root, size, MEMBERS, [(job, units) for job in jobs])
        commit_gas = self.gas()
        self.anvil.mine(3)
        ref = self.chain.view(batch).ref
        payouts = tuple(Payout(id_, Wei(10**17 + i), 10, 20) for i, id_ in enumerate(self.ids))
        total = sum(payout.amount for payout in payouts)
        parts = [total // len(jobs)] * (len(jobs) - 1)
        shares = tuple(Share(units, Wei(part)) for part in [*parts, total - sum(parts)])
        settlement = Settlement(payouts, (), shares, Digest(b"\x33" * 32), raw_cid(b"record"))
        digest = settlement_digest(self.chain.domain, ref, settlement)
        signature = bls.aggregate([bls.sign(key.bls_secret(), digest) for key in self.verifiers])
        bitmap = sum(1 << record.slot for record in self.chain.active_verifiers())
        verifier.settle_batch(batch, settlement, bitmap, signature)
        return batch, list(payouts), commit_gas + self.gas()


def measure(bench: Bench) -> dict[str, int]:
    """The gas of each action of `LIMITS`, batches drawn by their settlement."""
    found = {}
    found["first_verifier"], *_, found["register_verifier"] = [bench.verifier() for _ in range(5)]
    found["first_node"], *_ = [bench.node(100) for _ in range(15)]
    found["register_node"] = bench.node(110)
    pay = (Wei(25_000 * CREDIT), Wei(5_000 * CREDIT), Wei(500 * CREDIT))
    terms = JobTerms(MANIFEST, 100_000, *pay, 2, 1, bench.chain.now() + 10**6)
    for _ in range(2):
        bench.owner(50_000).open_job(terms)
        found["open_job_permit"] = bench.gas()
    bench.owner(50_000).open_job(replace(terms, verifier=bench.chain.active_verifiers()[0].id))
    found["open_job_for"] = bench.gas()
    job, found["open_job"] = _open_job(bench, bench.owner(100_000))
    trace = [cid_bytes(raw_cid(bytes([state]))) for state in range(SEGMENTS + 1)]
    commitments = [_commitment(job, i, bench.nodes[i % 16].address, merkle.root(trace)) for i in range(1000)]
    leaves = [commitment.struct_hash() for commitment in commitments]
    first, _, _ = bench.batch([job], merkle.root(leaves), 1000)
    second, payouts, found["commit_settle_1000"] = bench.batch([job], Digest(b"\x22" * 32), 1000)
    third, third_payouts, found["commit_settle_100000"] = bench.batch([job], Digest(b"\x44" * 32), 100_000)
    signed = sign_commitment(bench.chain.domain, commitments[7], bench.nodes[7])
    leaf = (commitments[7], signed, SALT, 7, merkle.proof(leaves, 7))
    step = Step(*leaf, SegmentIndex(3), raw_cid(bytes([4])), merkle.proof(trace, 4))
    challenge = Court(bench.owner(50)).challenge_segment(first, step)
    found["open_challenge"] = bench.gas()
    bench.anvil.mine(3)
    Court(bench.chain).draw_jury(challenge)
    found["open_challenge"] += bench.gas()
    bench.anvil.warp(61)
    for batch in (second, third):
        bench.chain.finalize(batch)
        found["finalize"] = bench.gas()
    bench.chain.claim([claim_of(second, payouts, 5)])
    found["claim_first"] = bench.gas()
    bench.chain.claim([claim_of(third, third_payouts, 5)])
    found["claim_later"] = bench.gas()
    found |= _tasks(bench)
    return found


def _tasks(bench: Bench) -> dict[str, int]:
    """The gas of a task of jobs of ten that were taken, each settled in one batch, in which each is paid all of its
    budget but some; and of taking them."""
    terms = JobTerms(MANIFEST, 10, Wei(10 * CREDIT), Wei(CREDIT), Wei(CREDIT), 2, 1, bench.chain.now() + 10**6)
    requester, verifier = bench.owner(2000), bench.client(bench.verifiers[0])
    jobs = [requester.open_job(terms) for _ in range(101)]
    verifier.take_job(jobs[0])
    alone = bench.gas()
    verifier.take_jobs(jobs[1:])
    together = bench.gas() // 100
    _, _, one = bench.batch(jobs[:1], Digest(b"\x77" * 32), 10, 10)
    _, _, all_ = bench.batch(jobs[1:], Digest(b"\x88" * 32), 1000, 10)
    taken = {"take_job": alone, "take_job_of_100": together}
    return {"task_of_one_job": one // 10, "task_of_100_jobs": all_ // 1000} | taken


def _open_job(bench: Bench, requester: ChainClient) -> tuple[JobId, int]:
    """Opens a job from an allowance, as where the token has no permit; the approval is a transaction of its own."""
    row = (MANIFEST, 50_000 * CREDIT, 5_000 * CREDIT, 500 * CREDIT, 100_000, bench.chain.now() + 10**6, 2, 1, 0, 0)
    requester.approve(Wei(55_500 * CREDIT))
    receipt = requester.transact("openJob", row)
    return event_of(receipt, JobOpened).job, bench.gas()


def _commitment(job: JobId, index: int, node: Address, trace: Digest) -> Commitment:
    inputs, mark = Digest(b"\x55" * 32), mark_of(SALT, decoy=False)
    return Commitment(job, TaskIndex(index), node, MANIFEST, inputs, trace, SEGMENTS, raw_cid(b"result"), 100, mark)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="renew the snapshot")
    write = parser.parse_args().write
    with Anvil() as anvil:
        found = measure(Bench(anvil))
    known = json.loads(SNAPSHOT.read_text()) if SNAPSHOT.exists() else {}
    failures = []
    for key, gas in found.items():
        limit = LIMITS.get(key, gas)
        said = f", limit {limit:9,}" if key in LIMITS else ""
        print(f"{key:22} {gas:9,} gas, snapshot {known.get(key, 0):9,}{said}")
        if gas > limit:
            failures.append(f"{key} costs {gas}, over its limit of {limit}")
        elif not write and gas > known.get(key, 0) * (1 + TOLERANCE):
            failures.append(f"{key} costs {gas}, the snapshot says {known.get(key)}; renew it with --write")
    if write:
        SNAPSHOT.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    if failures:
        sys.exit("gas: " + "; ".join(failures))


if __name__ == "__main__":
    main()
