"""A job that is trained by its voters alone, with real executors: what they make of it is what anybody makes of it."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import rounds_network
from rounds_network import DOMAIN, JOB, WALLETS, Node, committed, roster, town_in

from proofyard.artifacts import BlockStore, cid_of_bytes
from proofyard.protocol.certificate import validate_certificates
from proofyard.protocol.cid import cid_bytes, cid_digest, raw_cid
from proofyard.protocol.manifest import Manifest, TaskSpec, encode_manifest
from proofyard.protocol.merkle import root
from proofyard.protocol.messages import SubmitCommitment
from proofyard.protocol.types import Cid
from proofyard.workloads.adapted import linear_modules
from proofyard.workloads.executor import Executor, TaskTrace
from proofyard.workloads.workload import Inputs, Resources, all_tasks, carried_by, load_workload

WORKERS, ROUNDS = 2, 2


@pytest.fixture(params=[None, "sign"], ids=["whole", "small"])
def manifest(request: pytest.FixtureRequest, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """Two of four voters have shards, the others vote; with whole adapters, and with small deltas."""
    links = BlockStore(tmp_path / "links")
    found = Manifest(
        workload="lora",
        model=links.link_directory(inputs / "model"),
        data=links.link_file(inputs / "text.jsonl"),
        params={
            "modules": linear_modules(inputs / "model", ["q_proj"]),
            "rank": 2,
            "alpha": 4.0,
            "lr": 0.01,
            "rounds": ROUNDS,
            "workers": WORKERS,
            "segments": 2,
            "segment_steps": 1,
            "batch": 2,
            "seq_len": 16,
            "closing": {"quorum": 2, "timeout_s": 600},
            "compression": request.param,
        },
    )
    monkeypatch.setattr(rounds_network, "MANIFEST", found)
    monkeypatch.setattr(rounds_network, "MANIFEST_CID", raw_cid(encode_manifest(found)))
    return found


class Trainer:
    """A voter's executor."""

    def __init__(self, node: Node, executor: Executor, manifest: Manifest, inputs: Path) -> None:
        self.node, self.executor, self.manifest, self.inputs = node, executor, manifest, inputs

    async def do(self, spec: TaskSpec, results: tuple[Cid, ...]) -> SubmitCommitment:
        trace = await self.train(spec, results)
        data, *states = (path.read_bytes() for path in (trace.result, *trace.states))
        for artifact in (data, *states):
            self.node.store.put_bytes(artifact)
        rests_on = root([cid_bytes(rounds_network.MANIFEST_CID), *map(cid_bytes, results)])
        return committed(spec, WALLETS[self.node.address], rests_on, data, states)

    async def train(self, spec: TaskSpec, results: tuple[Cid, ...]) -> TaskTrace:
        given = tuple(self.node.store.get_bytes(cid) for cid in results)
        carried = tuple(map(self.node.store.get_bytes, carried_by(load_workload("lora"), self.manifest, spec, given)))
        inputs = Inputs(self.inputs / "model", self.inputs / "text.jsonl", given, carried=carried)
        return await self.executor.run_task(self.manifest, spec, inputs)


async def test_what_voters_train_alone_is_bit_for_bit_what_anybody_trains(
    manifest: Manifest, inputs: Path, tmp_path: Path
) -> None:
    async with town_in(tmp_path / "town") as town, AsyncExitStack() as stack, asyncio.timeout(250):
        nodes = {address: await town.node(address) for address in WALLETS}
        workers = [nodes[voter.node] for voter in roster().voters[:WORKERS]]
        trainers = []
        for number, node in enumerate(workers):
            executor = Executor(tmp_path / f"executor{number}", resources=Resources(threads=1))
            trainers.append(Trainer(node, await stack.enter_async_context(executor), manifest, inputs))
            node.do = trainers[-1].do  # type: ignore[method-assign]
        courses = [node.course() for node in nodes.values()]
        certificates, *_ = await asyncio.gather(*(course.run() for course in courses))
        validate_certificates(DOMAIN, JOB, cid_digest(rounds_network.MANIFEST_CID), roster(), certificates)
        made = {delta.task: delta.result for each in certificates for delta in each.deltas}
        specs = all_tasks(load_workload("lora"), manifest)
        assert set(made) == {spec.index for spec in specs}
        for spec in specs:
            other = trainers[(spec.index + 1) % WORKERS]
            trace = await other.train(spec, tuple(made[dep] for dep in spec.deps))
            assert cid_of_bytes(trace.result.read_bytes()) == made[spec.index], "each is done again by the other"
