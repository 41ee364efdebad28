"""Whole forward passes: the committed vectors, on every backend, and not far from transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from proofyard.runtime.compiling import NoCompiler
from proofyard.workloads.exact import backends, golden_models
from proofyard.workloads.exact.golden import digest
from proofyard.workloads.exact.selfcheck import distance

VECTORS = Path(__file__).parent.parent / "vectors" / "exact.json"


def _bits(x: Any) -> str:
    return " ".join(f"{int(b):08x}" for b in np.asarray(x, np.float32).view(np.uint32).reshape(-1))


@pytest.mark.parametrize("model", golden_models.CONFIGS)
@pytest.mark.parametrize("name", sorted(backends()))
def test_every_backend_computes_the_same_models(name: str, model: str, tmp_path: Path) -> None:
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    try:
        backend = backends()[name]()
    except NoCompiler as error:
        pytest.skip(str(error))
    expected = json.loads(VECTORS.read_text())["models"][model]
    hidden, *losses = golden_models.forward(backend, model, tmp_path)
    assert digest([hidden]) == expected["hidden"]
    assert _bits(hidden[-1]) == expected["last row"]["bits"]
    assert [_bits(array) for array in losses] == [expected["losses"]["bits"] for _ in losses]


@pytest.mark.parametrize("model", golden_models.CONFIGS)
def test_these_models_are_what_transformers_takes_them_for(model: str, tmp_path: Path) -> None:
    hidden = golden_models.forward(backends()["float32"](), model, tmp_path)[0]
    theirs = transformers.AutoModel.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    texts = np.split(golden_models.tokens(), np.cumsum(golden_models.LENGTHS)[:-1])
    with torch.inference_mode():
        given = [torch.from_numpy(text)[None] for text in texts]
        expected = [theirs(x, attention_mask=torch.ones_like(x)).last_hidden_state[0].numpy() for x in given]
    assert distance(hidden, np.concatenate(expected)) < 0.01
