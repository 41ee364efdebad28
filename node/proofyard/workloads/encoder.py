"""Sentence embeddings from a Hugging Face encoder, pooled as sentence-transformers does."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from proofyard.protocol.manifest import Manifest
from proofyard.workloads.determinism import DTYPES, pick_device
from proofyard.workloads.embed import EmbedParams
from proofyard.workloads.errors import InputRefused
from proofyard.workloads.state import Array
from proofyard.workloads.text_data import load_tokenizer
from proofyard.workloads.workload import Inputs, Resources

BATCH = 32


class SentenceEncoder:
    """Texts to vectors. Batches are cut in the order of the lines, so padding is the same everywhere."""

    def __init__(self, path: Path, params: EmbedParams, precision: str, resources: Resources) -> None:
        transformers_logging.disable_progress_bar()
        self._params = params
        self._device = pick_device(resources.device)
        self._batch = resources.micro_batch or BATCH
        self._tokenizer = load_tokenizer(path)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(params.max_tokens)
        model: Any = AutoModel.from_pretrained(
            path,
            dtype=getattr(torch, DTYPES[precision]),
            attn_implementation=resources.attention,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
        self._model = model.requires_grad_(False).to(self._device).eval()
        if self._model.config.hidden_size != params.dimensions:
            found = self._model.config.hidden_size
            raise InputRefused(
                "the model", f"has vectors of {found} numbers, params.dimensions says {params.dimensions}"
            )

    def embed(self, texts: list[str]) -> Array:
        """Vectors (len(texts), dimensions), float32."""
        parts = [self._embed(texts[start : start + self._batch]) for start in range(0, len(texts), self._batch)]
        return np.concatenate(parts)

    def _embed(self, texts: list[str]) -> Array:
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        longest = max(1, *map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        mask = torch.zeros(len(rows), longest, dtype=torch.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row, dtype=torch.int64)
            mask[number, : len(row)] = 1
        ids, mask = ids.to(self._device), mask.to(self._device)
        with torch.inference_mode():
            hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        if self._params.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            weights = mask.unsqueeze(-1).float()
            pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
        if self._params.normalize:
            pooled = functional.normalize(pooled, dim=-1)
        vectors: Array = pooled.cpu().numpy()
        return vectors


def sentence_encoder(manifest: Manifest, params: EmbedParams, inputs: Inputs, resources: Resources) -> SentenceEncoder:
    """The encoder of a job, kept loaded from task to task."""
    if inputs.model is None:
        raise InputRefused("the task", "was given no model directory")
    return _encoder(inputs.model, params, manifest.execution_class, resources)


_encoder = lru_cache(maxsize=1)(SentenceEncoder)
