"""Log-likelihoods of texts under a causal language model."""

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from proofyard.protocol.codec import prepared
from proofyard.protocol.manifest import Manifest
from proofyard.workloads.causal_lm import AdaptedModel
from proofyard.workloads.errors import SegmentFailed
from proofyard.workloads.evaluate import EvaluateParams, Question, require_choices
from proofyard.workloads.exact.tampering import Tampering, active
from proofyard.workloads.model_files import end_token
from proofyard.workloads.peft_folder import read_canonical
from proofyard.workloads.text_data import learned_places
from proofyard.workloads.tokenizer import Tokenizer
from proofyard.workloads.workload import Inputs, Resources, require_model

BATCH_TOKENS = 2048


@dataclass(frozen=True)
class _Text:
    """Tokens of context and of what is scored after it; the context is never empty."""

    context: list[int]
    scored: list[int]
    trained: tuple[tuple[int, int], ...] | None = None  # runs of `scored`, where not all of it counts

    @property
    def tokens(self) -> int:
        return len(self.context) + len(self.scored) - 1

    @property
    def places(self) -> npt.NDArray[np.intp]:
        """The positions whose next tokens count."""
        every = np.arange(len(self.context) - 1, self.tokens)
        if self.trained is None:
            return every
        parts = [every[at] for at in learned_places(self.trained, len(self.scored))]
        return np.concatenate([every[:0], *parts])


class TextScorer:
    """Scores texts; how many are computed together changes nothing."""

    def __init__(
        self,
        path: Path,
        params: EvaluateParams,
        precision: str,
        resources: Resources,
        adapter: Path | None = None,
    ) -> None:
        self._params = params
        self._batch = resources.micro_batch
        self._end = end_token(path)
        self._tokenizer = Tokenizer(path)
        shape = params.adapter
        self._model = AdaptedModel(path, shape.modules if shape else {}, precision, resources)
        if shape:
            self._model.decoder.adapters.set(read_canonical(shape, adapter), shape.scale)

    def score(self, rows: list[Question]) -> list[list[tuple[float, int]]]:
        """(summed negative log-likelihood in nats, tokens scored) of each text of each row."""
        texts = [self._texts(row) for row in rows]
        found = self._score([text for row in texts for text in row])
        ends = np.cumsum([0, *map(len, texts)])
        return [found[a:b] for a, b in itertools.pairwise(ends)]

    def _texts(self, row: Question) -> list[_Text]:
        require_choices(row, self._params.choices)
        if not row.choices:
            ids = self._tokenizer.tokens(row.text)
            most = self._params.max_tokens
            runs = None if row.trained is None else cut_runs(row.trained, len(ids), most)
            return [_Text([self._end], ids[:most], runs)]
        prompt = self._ids(row.text)
        return [self._text(prompt, self._ids(choice)) for choice in row.choices]

    def _text(self, prompt: list[int], scored: list[int]) -> _Text:
        room = max(0, self._params.max_tokens - len(scored))
        return _Text([self._end, *(prompt[-room:] if room else [])], scored)

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.tokens(text)[: self._params.max_tokens]

    def _score(self, texts: list[_Text]) -> list[tuple[float, int]]:
        found = [(0.0, 0)] * len(texts)
        batch: list[int] = []
        for number, text in enumerate(texts):
            if text.scored and text.trained != ():
                full = sum(texts[i].tokens for i in batch) + text.tokens > BATCH_TOKENS
                if batch and (full or len(batch) == self._batch):
                    self._score_batch(texts, batch, found)
                    batch = []
                batch.append(number)
        if batch:
            self._score_batch(texts, batch, found)
        return found

    def _score_batch(self, texts: list[_Text], batch: list[int], found: list[tuple[float, int]]) -> None:
        whole = [np.array(texts[i].context + texts[i].scored, np.int64) for i in batch]
        wanted = [texts[i].places for i in batch]
        for number, losses in zip(batch, self._model.scored_losses(whole, wanted), strict=True):
            total = math.fsum(losses)
            if not np.isfinite(total):
                raise SegmentFailed(0, f"the log-likelihood of text {number} is {total}")
            found[number] = (total, len(losses))


def cut_runs(runs: tuple[tuple[int, int], ...], tokens: int, most: int) -> tuple[tuple[int, int], ...]:
    """The runs of the first `most` of a text's tokens. Raises `InputRefused` where they are none of this text's."""
    places = learned_places(runs, tokens)
    return tuple((place.start, min(place.stop, most)) for place in places if place.start < most)


def text_scorer(manifest: Manifest, params: EvaluateParams, inputs: Inputs, resources: Resources) -> TextScorer:
    """The scorer of a job, kept loaded from task to task."""
    model, said = require_model(inputs.model), msgspec.json.encode(params)
    return _scorer(model, inputs.adapter, said, manifest.precision, resources, active())


@lru_cache(maxsize=1)
def _scorer(
    path: Path,
    adapter: Path | None,
    params: bytes,
    precision: str,
    resources: Resources,
    tampering: Tampering | None,
) -> TextScorer:
    read = msgspec.json.decode(params, type=prepared(EvaluateParams))
    return TextScorer(path, read, precision, resources, adapter)
