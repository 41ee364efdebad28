"""The workload `evaluate`: how well a causal language model predicts a text set, or answers multiple choice.

A line is `{"text": ...}`, scored as a whole, or `{"text": prompt, "choices": [...], "answer": index}`, of which each
choice is scored as a continuation of the prompt. A row's outputs are the summed negative log-likelihood and the
number of tokens of each text scored; the job's result is perplexity and accuracy over all rows.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from proofyard.protocol.manifest import Manifest
from proofyard.workloads.errors import InputRefused, StateRefused
from proofyard.workloads.rows import Compute, RowsParams, RowsWorkload
from proofyard.workloads.state import Array, Schema, Tensors, TensorSpec, decode_state
from proofyard.workloads.workload import Inputs, Resources

MAX_NLL_PER_TOKEN = 2.0**128
"""A token's negative log-likelihood is one binary32 number."""


class EvaluateParams(RowsParams, frozen=True, kw_only=True):
    """`choices` texts a row, 1 for plain text; longer texts are cut to `max_tokens`, prompts from their start."""

    choices: Annotated[int, Meta(ge=1, le=64)] = 1
    max_tokens: Annotated[int, Meta(ge=8, le=131_072)] = 512


SUMMARY = {"summary.loss": TensorSpec("F64", ()), "summary.accuracy": TensorSpec("F64", ())}


class Question(msgspec.Struct, frozen=True):
    text: str
    choices: tuple[str, ...] = ()
    answer: int = 0


def require_choices(row: Question, count: int) -> None:
    """Raise `InputRefused` for a line that has not so many choices, or whose answer is none of them."""
    if (len(row.choices) or 1) != count or not 0 <= row.answer < count:
        reason = f"has {len(row.choices)} choices and answer {row.answer}, params.choices says {count}"
        raise InputRefused("a line of the data file", reason)


class EvaluateWorkload(RowsWorkload):
    name = "evaluate"
    arithmetic = True
    params_type = EvaluateParams
    row_type = Question

    def columns(self, params: EvaluateParams) -> Schema:
        return {
            "answer": TensorSpec("I64", ()),
            "nll": TensorSpec("F64", (params.choices,)),
            "tokens": TensorSpec("I64", (params.choices,)),
        }

    def check_rows(self, params: EvaluateParams, table: Mapping[str, Array]) -> None:
        answer, nll, tokens = table["answer"], table["nll"], table["tokens"]
        if ((answer < 0) | (answer >= params.choices)).any():
            raise StateRefused(f"is not one of {params.choices} choices", "answer")
        if ((tokens < 0) | (tokens > params.max_tokens)).any():
            raise StateRefused(f"is not within 0 and {params.max_tokens}", "tokens")
        if ((nll < 0) | (nll > tokens * MAX_NLL_PER_TOKEN)).any():
            raise StateRefused("is negative, or too large for the tokens", "nll")

    def compute(self, manifest: Manifest, params: EvaluateParams, inputs: Inputs, resources: Resources) -> Compute:
        from proofyard.workloads.scorer import text_scorer

        scorer = text_scorer(manifest, params, inputs, resources)

        def score(lines: Sequence[Any]) -> dict[str, Any]:
            scored = scorer.score(list(lines))
            return {
                "answer": np.array([line.answer for line in lines], np.int64),
                "nll": np.array([[nll for nll, _ in row] for row in scored], np.float64),
                "tokens": np.array([[tokens for _, tokens in row] for row in scored], np.int64),
            }

        return score

    def finish(self, table: Mapping[str, Array]) -> Tensors:
        """The summary beside the table: loss in nats a token (of the right answers, where there are choices) and the
        share of rows whose right choice has the least loss a token."""
        rows, answer = np.arange(len(table["answer"])), table["answer"]
        nll, tokens = table["nll"], table["tokens"]
        loss = math.fsum(nll[rows, answer].tolist()) / max(1, int(tokens[rows, answer].sum()))
        right = (nll / np.maximum(tokens, 1)).argmin(axis=1) == answer
        summary = {"loss": np.array(loss), "accuracy": np.array(float(right.mean()))}
        return dict(table) | {f"summary.{name}": value for name, value in summary.items()}

    def read_finished(self, params: EvaluateParams, state: bytes) -> dict[str, Array]:
        rows = {name: TensorSpec(s.dtype, (params.rows, *s.shape)) for name, s in self.columns(params).items()}
        tensors = decode_state(state, schema=rows | SUMMARY)
        self.check_rows(params, tensors)
        if tensors["summary.loss"] < 0 or not 0 <= tensors["summary.accuracy"] <= 1:
            raise StateRefused("is out of range", "summary")
        return tensors

    def package(self, manifest: Manifest, result: bytes, dest: Path) -> Path:
        """evaluation.json with the summary, rows.jsonl with every row's losses."""
        tensors = decode_state(result)
        loss, choices = float(tensors["summary.loss"]), tensors["nll"].shape[1]
        summary = {"rows": len(tensors["answer"]), "loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        if choices > 1:
            summary["accuracy"] = float(tensors["summary.accuracy"])
        dest.mkdir(parents=True, exist_ok=True)
        (dest / "evaluation.json").write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")
        pairs = zip(tensors["nll"].tolist(), tensors["tokens"].tolist(), strict=True)
        lines = [json.dumps({"nll": nll, "tokens": tokens}) for nll, tokens in pairs]
        (dest / "rows.jsonl").write_text("\n".join(lines) + "\n")
        return dest


WORKLOAD = EvaluateWorkload()
