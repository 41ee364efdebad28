"""Sentence embeddings from a Hugging Face encoder, pooled as sentence-transformers does."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from proofyard.protocol.manifest import Manifest
from proofyard.workloads.embed import EmbedParams, require_dimensions
from proofyard.workloads.exact import backend_for
from proofyard.workloads.exact.models import text_encoder
from proofyard.workloads.exact.selfcheck import check_encoder
from proofyard.workloads.exact.tampering import Tampering, active
from proofyard.workloads.state import Array
from proofyard.workloads.tokenizer import Tokenizer
from proofyard.workloads.workload import Inputs, Resources, require_model

BATCH = 32


class SentenceEncoder:
    """Texts to vectors. How many are computed together changes nothing."""

    def __init__(self, path: Path, params: EmbedParams, precision: str, resources: Resources) -> None:
        self._params = params
        self._batch = resources.micro_batch or BATCH
        self._backend = backend_for(resources)
        self._tokenizer = Tokenizer(path, max_tokens=params.max_tokens)
        self._model = text_encoder(self._backend, path, precision)
        require_dimensions(self._model.config.hidden, params.dimensions)
        check_encoder(path, self._model, self._backend, precision)

    def embed(self, texts: list[str]) -> Array:
        """Vectors (len(texts), dimensions), float32."""
        parts = [self._embed(texts[start : start + self._batch]) for start in range(0, len(texts), self._batch)]
        return np.concatenate(parts)

    def _embed(self, texts: list[str]) -> Array:
        be = self._backend
        # Without special tokens an empty text has no token, and the vector zero.
        rows = list(self._tokenizer.each(texts, special=True))
        vectors = np.zeros((len(texts), self._params.dimensions), np.float32)
        filled = [number for number, row in enumerate(rows) if row.size]
        if not filled:
            return vectors
        lengths = [rows[number].size for number in filled]
        hidden = self._model.hidden(np.concatenate([rows[number] for number in filled]), lengths)
        if self._params.pooling == "cls":
            first = np.cumsum([0, *lengths[:-1]])
            pooled = be.array(np.ascontiguousarray(be.numpy(hidden)[first]))
        else:
            pooled = be.pool_mean(hidden, lengths)
        if self._params.normalize:
            pooled = be.unit_length(pooled)
        vectors[filled] = be.numpy(pooled) + np.float32(0)
        return vectors


def sentence_encoder(manifest: Manifest, params: EmbedParams, inputs: Inputs, resources: Resources) -> SentenceEncoder:
    """The encoder of a job, kept loaded from task to task."""
    return _encoder(require_model(inputs.model), params, manifest.precision, resources, active())


@lru_cache(maxsize=1)
def _encoder(
    path: Path, params: EmbedParams, precision: str, resources: Resources, tampering: Tampering | None
) -> SentenceEncoder:
    return SentenceEncoder(path, params, precision, resources)
