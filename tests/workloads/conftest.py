import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proofyard.protocol.manifest import Manifest
from proofyard.protocol.types import Cid
from proofyard.workloads.adapted import linear_modules
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model
from proofyard.workloads.workload import Inputs

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """A tiny model and corpus, shared by all tests."""
    folder: Path = tmp_path_factory.mktemp("tiny")
    return Inputs(write_tiny_model(folder / "model"), write_tiny_corpus(folder / "corpus.jsonl"))


@pytest.fixture
def lora_manifest(tiny: Inputs) -> Callable[..., Manifest]:
    """Makes the manifest of a small `lora` job; keywords replace parameters."""
    assert tiny.model is not None
    modules = linear_modules(tiny.model, ["q_proj", "v_proj"])

    def make(**changes: Any) -> Manifest:
        params: dict[str, Any] = {
            "modules": modules,
            "rank": 4,
            "alpha": 8.0,
            "lr": 0.01,
            "rounds": 2,
            "workers": 2,
            "segments": 3,
            "segment_steps": 2,
            "batch": 4,
            "seq_len": 32,
        }
        return Manifest(workload="lora", model=Cid("model"), data=Cid("data"), seed=7, params=params | changes)

    return make
