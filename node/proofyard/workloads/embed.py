"""The workload `embed`: a vector for every line of text, from a sentence-embedding model."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta

from proofyard.protocol.manifest import Manifest
from proofyard.workloads.errors import InputRefused, StateRefused
from proofyard.workloads.exact_sums import tree_sum
from proofyard.workloads.params import convert_params
from proofyard.workloads.rows import Compute, RowsParams, RowsWorkload
from proofyard.workloads.state import Array, Schema, TensorSpec, header_bytes
from proofyard.workloads.text_data import Document
from proofyard.workloads.workload import Inputs, Resources, Results, require_model

VECTORS = "embedding"

SHORTEST, LONGEST, VANISHING = 0.999**2, 1.001**2, 2.0**-99
"""Squares of a vector's length under `normalize`: 1, or as nothing (docs/exact.md does not scale up below 2^-100)."""


class EmbedParams(RowsParams, frozen=True, kw_only=True):
    """`dimensions` of the model's vectors; texts are cut to `max_tokens`. `pooling` is the mean over tokens, or the
    first token's vector; `normalize` scales every vector to length 1."""

    dimensions: Annotated[int, Meta(ge=1, le=65_536)]
    max_tokens: Annotated[int, Meta(ge=8, le=131_072)] = 256
    pooling: Literal["mean", "cls"] = "mean"
    normalize: bool = True


def require_dimensions(found: int, said: int) -> None:
    """Raise `InputRefused` where a model's vectors do not have the numbers that a job says."""
    if found != said:
        raise InputRefused("the model", f"has vectors of {found} numbers, params.dimensions says {said}")


class EmbedWorkload(RowsWorkload):
    name = "embed"
    arithmetic = True
    params_type: type[EmbedParams] = EmbedParams
    row_type = Document

    def columns(self, params: EmbedParams) -> Schema:
        return {VECTORS: TensorSpec("F32", (params.dimensions,))}

    def check_rows(self, params: EmbedParams, table: Mapping[str, Array]) -> None:
        if not params.normalize:
            return
        vectors = table[VECTORS].astype(np.float64)
        squares = tree_sum(vectors * vectors)
        if not (((squares > SHORTEST) & (squares < LONGEST)) | (squares < VANISHING)).all():
            raise StateRefused("has a vector whose length is neither 1 nor 0", VECTORS)

    def compute(self, manifest: Manifest, params: EmbedParams, inputs: Inputs, resources: Resources) -> Compute:
        from proofyard.workloads.encoder import sentence_encoder

        encoder = sentence_encoder(manifest, params, inputs, resources)

        def embed(lines: Sequence[Any]) -> dict[str, Any]:
            return {VECTORS: encoder.embed([line.text for line in lines])}

        return embed

    def check_lines(self, params: EmbedParams, model: Path | None, lines: Iterable[tuple[int, Any]]) -> None:
        from proofyard.workloads.rehearsal import rehearse_embedding

        rehearse_embedding(require_model(model), lines, params)

    def package(self, manifest: Manifest, results: Results, dest: Path) -> Path:
        """One file, embeddings.safetensors, with the vectors in the order of the data file's lines."""
        params = convert_params(manifest, self.params_type)
        schema = {VECTORS: TensorSpec("F32", (params.rows, params.dimensions))}
        dest.mkdir(parents=True, exist_ok=True)
        with (dest / "embeddings.safetensors").open("wb") as stream:
            stream.write(header_bytes(schema))
            for table in self.tables(manifest, results):
                stream.write(table[VECTORS].tobytes())
        return dest


WORKLOAD = EmbedWorkload()
