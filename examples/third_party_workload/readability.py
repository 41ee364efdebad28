"""A workload from outside Proofyard: words and average word length of every line.

Install it beside Proofyard (`pip install .`) on the machines that take part, and name it in a manifest: that is all.
Rows that do not depend on each other get traces, audits and resuming from `RowsWorkload`; a workload whose segments
build on each other implements `proofyard.workloads.workload.Workload` itself, as `lora` does.

It is exact, which `RowsWorkload` takes for granted: integers, and one division of two of them, which IEEE 754 rounds
the same way everywhere. One whose numbers depend on the machine sets `exact = False` and says in `agrees` what counts
as the same work; its verdicts then never cost anybody's stake.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from proofyard.protocol.manifest import Manifest
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.rows import Compute, RowsParams, RowsWorkload
from proofyard.workloads.state import Array, Schema, TensorSpec
from proofyard.workloads.text_data import Document
from proofyard.workloads.workload import Inputs, Resources, Results


class ReadabilityWorkload(RowsWorkload):
    name = "readability"
    params_type = RowsParams
    row_type = Document

    def needs_model(self, params: RowsParams) -> bool:
        return False

    def columns(self, params: RowsParams) -> Schema:
        return {"words": TensorSpec("I64", ()), "word_length": TensorSpec("F64", ())}

    def check_rows(self, params: RowsParams, table: Mapping[str, Array]) -> None:
        for name, array in table.items():
            if (array < 0).any():
                raise StateRefused("is negative", name)

    def compute(self, manifest: Manifest, params: RowsParams, inputs: Inputs, resources: Resources) -> Compute:
        def measure(lines: Sequence[Any]) -> dict[str, Any]:
            words = [line.text.split() for line in lines]
            lengths = [sum(map(len, row)) / max(1, len(row)) for row in words]
            return {"words": np.array(list(map(len, words)), np.int64), "word_length": np.array(lengths)}

        return measure

    def package(self, manifest: Manifest, results: Results, dest: Path) -> Path:
        """readability.jsonl: an object for every line, in their order. A job may have many results: one at a time."""
        dest.mkdir(parents=True, exist_ok=True)
        with (dest / "readability.jsonl").open("w") as stream:
            for table in self.tables(manifest, results):
                for words, length in zip(table["words"].tolist(), table["word_length"].tolist(), strict=True):
                    stream.write(json.dumps({"words": words, "word_length": length}) + "\n")
        return dest


WORKLOAD = ReadabilityWorkload()
