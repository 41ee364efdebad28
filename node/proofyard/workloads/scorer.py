"""Log-likelihoods of texts under a causal language model."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from proofyard.protocol.manifest import Manifest
from proofyard.workloads.causal_lm import load_frozen
from proofyard.workloads.determinism import pick_device
from proofyard.workloads.errors import InputRefused
from proofyard.workloads.evaluate import EvaluateParams, Question
from proofyard.workloads.model_files import end_token
from proofyard.workloads.text_data import load_tokenizer
from proofyard.workloads.workload import Inputs, Resources


class TextScorer:
    """Scores one text at a time, so that no padding is part of a result."""

    def __init__(self, path: Path, params: EvaluateParams, precision: str, resources: Resources) -> None:
        self._params = params
        self._device = pick_device(resources.device)
        self._end = end_token(path)
        self._tokenizer = load_tokenizer(path)
        self._model: Any = load_frozen(path, precision, resources.attention).to(self._device).eval()

    def score(self, row: Question) -> list[tuple[float, int]]:
        """(summed negative log-likelihood in nats, tokens scored) of each text of a row."""
        count = self._params.choices
        if (len(row.choices) or 1) != count or not 0 <= row.answer < count:
            reason = f"has {len(row.choices)} choices and answer {row.answer}, params.choices says {count}"
            raise InputRefused("a line of the data file", reason)
        if not row.choices:
            return [self._score([], self._ids(row.text))]
        prompt = self._ids(row.text)
        return [self._score(prompt, self._ids(choice)) for choice in row.choices]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids[: self._params.max_tokens]

    def _score(self, prompt: list[int], scored: list[int]) -> tuple[float, int]:
        if not scored:
            return 0.0, 0
        room = max(0, self._params.max_tokens - len(scored))
        context = [self._end, *(prompt[-room:] if room else [])]
        ids = torch.tensor([context + scored], device=self._device)
        with torch.inference_mode():
            logits = self._model(input_ids=ids, use_cache=False).logits[0, len(context) - 1 : -1].float()
        targets = ids[0, len(context) :]
        return float(functional.cross_entropy(logits, targets, reduction="none").double().sum()), len(scored)


def text_scorer(manifest: Manifest, params: EvaluateParams, inputs: Inputs, resources: Resources) -> TextScorer:
    """The scorer of a job, kept loaded from task to task."""
    if inputs.model is None:
        raise InputRefused("the task", "was given no model directory")
    return _scorer(inputs.model, params, manifest.execution_class, resources)


_scorer = lru_cache(maxsize=1)(TextScorer)
