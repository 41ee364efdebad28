"""The workload `evaluate`: how well a causal language model predicts a text set, or answers multiple choice.

A line is `{"text": ...}`, scored as a whole or, of a conversation, where `trained` says that it is the assistant's; or
`{"text": prompt, "choices": [...], "answer": index}`, of which each choice is scored as a continuation of the prompt.
A row's outputs are the summed negative log-likelihood and the number of tokens of each text scored; the job's result is
perplexity and accuracy over all rows, beside the rows.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TextIO

import msgspec
import numpy as np
from msgspec import Meta
from msgspec.structs import replace

from proofyard.protocol.manifest import Manifest
from proofyard.workloads.errors import InputRefused, StateRefused
from proofyard.workloads.exact.models import causal_blueprint
from proofyard.workloads.params import convert_params
from proofyard.workloads.peft_folder import AdapterShape, check_shape, read_canonical
from proofyard.workloads.rows import Compute, RowsParams, RowsWorkload
from proofyard.workloads.state import Array, Schema, TensorSpec
from proofyard.workloads.workload import Inputs, Resources, Results, require_model

MAX_NLL_PER_TOKEN = 2.0**128
"""A token's negative log-likelihood is one binary32 number."""


class EvaluateParams(RowsParams, frozen=True, kw_only=True):
    """`choices` texts a row, 1 for plain text; longer texts are cut to `max_tokens`, prompts from their start.
    `adapter` is the shape of the LoRA adapter that the manifest names, where the model is evaluated with one."""

    choices: Annotated[int, Meta(ge=1, le=64)] = 1
    max_tokens: Annotated[int, Meta(ge=8, le=131_072)] = 512
    adapter: AdapterShape | None = None


class Question(msgspec.Struct, frozen=True):
    text: str
    choices: tuple[str, ...] = ()
    answer: int = 0
    trained: tuple[tuple[int, int], ...] | None = None
    """Where it is given, these runs of the text's tokens alone are scored: the assistant's turns of a conversation."""


def require_choices(row: Question, count: int, where: str = "a line") -> None:
    """Raise `InputRefused` for a line that has not so many choices, whose answer (from 0) is none of them, or that has
    an empty one, which would always be the likeliest."""
    if (len(row.choices) or 1) != count or not 0 <= row.answer < count or not all(row.choices):
        has = f"{len(row.choices)} choices" + ("" if all(row.choices) else ", of which one is empty,")
        reason = f"has {has} and answer {row.answer}, params.choices says {count}; answers count from 0"
        raise InputRefused(f"data file {where}", reason)
    if row.choices and row.trained is not None:
        raise InputRefused(f"data file {where}", "has choices and trained; give one of them")


class EvaluateWorkload(RowsWorkload):
    name = "evaluate"
    arithmetic = True
    params_type = EvaluateParams
    row_type = Question

    def needs_adapter(self, params: EvaluateParams) -> bool:
        return params.adapter is not None

    def check(self, manifest: Manifest) -> None:
        super().check(manifest)
        if shape := convert_params(manifest, EvaluateParams).adapter:
            check_shape(shape)

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

    def load_model(self, manifest: Manifest, model: Path, resources: Resources) -> None:
        """Without its adapter, which no model's code has a say in."""
        super().load_model(replace(manifest, params=manifest.params | {"adapter": None}), model, resources)

    def check_inputs(self, manifest: Manifest, inputs: Inputs) -> None:
        if shape := convert_params(manifest, EvaluateParams).adapter:
            model = require_model(inputs.model)
            causal_blueprint(model)
            try:
                causal_blueprint(model, shape.modules)
            except InputRefused as error:
                raise InputRefused("the adapter", f"does not fit this model: {error}") from None
            read_canonical(shape, inputs.adapter)
        super().check_inputs(manifest, inputs)

    def check_lines(self, params: EvaluateParams, model: Path | None, lines: Iterable[tuple[int, Any]]) -> None:
        from proofyard.workloads.rehearsal import rehearse_evaluation

        rehearse_evaluation(require_model(model), lines, params)

    def package(self, manifest: Manifest, results: Results, dest: Path) -> Path:
        """evaluation.json with the summary, rows.jsonl with every row's losses."""
        dest.mkdir(parents=True, exist_ok=True)
        summary = Summary()
        with (dest / "rows.jsonl").open("w") as stream:
            loss = math.fsum(summary.losses(self._written(manifest, results, stream))) / max(1, summary.tokens)
        text = {"rows": summary.rows, "loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        if summary.choices > 1:
            text["accuracy"] = summary.right / summary.rows
        (dest / "evaluation.json").write_text(json.dumps(text, indent=1, sort_keys=True) + "\n")
        return dest

    def _written(self, manifest: Manifest, results: Results, stream: TextIO) -> Iterator[dict[str, Array]]:
        """Every task's table, once its rows are in `stream`."""
        for table in self.tables(manifest, results):
            for nll, tokens in zip(table["nll"].tolist(), table["tokens"].tolist(), strict=True):
                stream.write(json.dumps({"nll": nll, "tokens": tokens}) + "\n")
            yield table


class Summary:
    """Counts over tables: rows, those whose right choice has the least loss a token, and the right choices' tokens."""

    def __init__(self) -> None:
        self.rows = self.right = self.tokens = 0
        self.choices = 1

    def losses(self, tables: Iterable[Mapping[str, Array]]) -> Iterator[float]:
        """The loss in nats of each row's right choice."""
        for table in tables:
            answer, nll, tokens = table["answer"], table["nll"], table["tokens"]
            rows = np.arange(len(answer))
            self.rows += len(answer)
            self.choices = nll.shape[1]
            self.tokens += int(tokens[rows, answer].sum())
            self.right += int(((nll / np.maximum(tokens, 1)).argmin(axis=1) == answer).sum())
            yield from nll[rows, answer].tolist()


WORKLOAD = EvaluateWorkload()
