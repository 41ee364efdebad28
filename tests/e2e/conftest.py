"""One local network of real processes for all end-to-end tests: chain, verifier, honest nodes, one cheat."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from proofyard.devnet.network import DevNetwork, Plan
from proofyard.sdk import Client, LoraJob
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `model` and `text.jsonl`."""
    directory = tmp_path_factory.mktemp("inputs")
    write_tiny_model(directory / "model", 1)
    write_tiny_corpus(directory / "text.jsonl")
    return directory


@pytest.fixture(scope="module")
def network(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevNetwork]:
    """Without decoys, which are drawn: `test_decoys_on_network` has them."""
    plan = Plan(nodes=4, adversaries=("skip-half",), model_dirs=(inputs / "model",), lease_s=5.0, decoys_bps=0)
    with DevNetwork(tmp_path_factory.mktemp("network") / "devnet", plan) as running:
        yield running
        assert not running.exit_codes(), "a process ended by itself"


@pytest.fixture
def client(network: DevNetwork) -> Iterator[Client]:
    with Client(network.rpc_url, network.deployment.registry, network.requester.key) as client:
        yield client


@pytest.fixture
def job(inputs: Path) -> LoraJob:
    """Two rounds of four workers, a second or so of computing."""
    return LoraJob(
        model=inputs / "model",
        data=inputs / "text.jsonl",
        rank=2,
        rounds=2,
        workers=4,
        segments=3,
        segment_steps=2,
        batch=2,
        seq_len=16,
        seed=7,
    )
