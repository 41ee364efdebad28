"""What a job's segments would meet first, found out before anybody pays: the node's own code on the model and data as
they are, without a weight read and without torch.

A model is made of its files' headers (`exact.models.causal_blueprint`), texts are packed as far as it takes to know
that every task has one row. Where a tokenizer may give what the model has no row for, or cannot read every text, all
texts are looked at. What remains is what only computing shows: weights and losses that are no numbers.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from proofyard.workloads.embed import EmbedParams, require_dimensions
from proofyard.workloads.errors import InputRefused
from proofyard.workloads.evaluate import EvaluateParams, Question, require_choices
from proofyard.workloads.exact.causal import CausalConfig, check_length
from proofyard.workloads.exact.config import check_tokens
from proofyard.workloads.exact.models import causal_blueprint, encoder_blueprint
from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.model_files import end_token
from proofyard.workloads.packing import FirstFit, sequence_lengths
from proofyard.workloads.pairs import pairs
from proofyard.workloads.text_data import Document, Documents, check_fits, dealt, learned_places
from proofyard.workloads.tokenizer import PART_CHARACTERS, Tokenizer, Tokens


def rehearse_training(model: Path, data: Path, params: LoraParams) -> None:
    """Raise `InputRefused` where a worker's segments cannot begin."""
    config = rehearse_model(model, params)
    if params.objective == "dpo":
        _rehearse_pairs(model, data, params, config.vocabulary)
        return
    texts = _Texts(model, config.vocabulary)
    for worker, tokens in texts.short_of_a_row(_dealt(data, params), params.workers, params).items():
        where = "data file" if params.workers == 1 else f"shard {worker + 1} of {params.workers} of the data file"
        raise InputRefused(
            where,
            f"leaves {tokens} tokens, too few for one sequence of {params.seq_len}; use fewer workers, a shorter "
            "seq_len or more text",
        )


def rehearse_model(model: Path, params: LoraParams) -> CausalConfig:
    """The model alone, where its data is not here."""
    config: CausalConfig = causal_blueprint(model, params.modules).config
    check_length(params.seq_len, config.room)
    return config


@dataclass(frozen=True)
class TrainingRows:
    """What a job trains on: `documents` lines of its data, and of each worker's shard how many rows they make."""

    documents: int
    of_workers: tuple[int, ...]


def count_training_rows(model: Path, data: Path, params: LoraParams) -> TrainingRows:
    """The rows of all shards, as `packing.training_rows` makes them, without holding one; each pair of answers is a
    row. Raises `InputRefused`."""
    if params.objective == "dpo":
        owners = Counter(worker for worker, _ in _dealt(data, params))
        return TrainingRows(owners.total(), tuple(owners[worker] for worker in range(params.workers)))
    texts = _Texts(model, causal_blueprint(model, params.modules).config.vocabulary)
    shards = [(_PackedShard if params.packing else _Shard)(params.seq_len) for _ in range(params.workers)]
    documents = 0
    for part in _parts(_dealt(data, params)):
        documents += len(part)
        for (worker, document), ids in zip(part, texts.tokens(each.text for _, each in part), strict=True):
            shards[worker].add(document, ids.size)
    return TrainingRows(documents, tuple(shard.rows() for shard in shards))


def _rehearse_pairs(model: Path, data: Path, params: LoraParams, vocabulary: int) -> None:
    """Raise `InputRefused` where a pair cannot be learned from, or a worker has none."""
    end = end_token(model)
    owners, tokenizer = Counter[int](), Tokenizer(model)
    for part in _parts(_dealt(data, params)):
        owners.update(worker for worker, _ in part)
        for pair in pairs((document for _, document in part), tokenizer, end, params.seq_len):
            for tokens in pair:
                check_tokens(np.where(tokens < 0, ~tokens, tokens), vocabulary)
    for worker in range(params.workers):
        if not owners[worker]:
            raise InputRefused(
                f"shard {worker + 1} of {params.workers} of the data file",
                "has no pair; use fewer workers or more data",
            )


def _dealt(data: Path, params: LoraParams) -> Iterator[tuple[int, Document]]:
    """Each document that is trained on with its worker."""
    documents = Documents(data, params.holdout_percent, pairs=params.objective == "dpo")
    return dealt(documents, params.workers, params.shard_by)


class _PackedShard:
    """How many rows whole documents make."""

    def __init__(self, seq_len: int) -> None:
        self._seq_len, self._fit = seq_len, FirstFit(seq_len)

    def add(self, document: Document, tokens: int) -> None:
        """A document of so many tokens."""
        for length in sequence_lengths(document, tokens, self._seq_len):
            self._fit.put(length)

    def rows(self) -> int:
        return self._fit.rows


class _Shard:
    """How long a shard is, and how many of its rows have a token to learn."""

    def __init__(self, seq_len: int) -> None:
        self._seq_len = seq_len
        self._tokens = self._taught = 0
        self._last_taught = -1

    def add(self, document: Document, tokens: int) -> None:
        """A document of so many tokens, beside the one that closes it."""
        learns = True
        if document.trained is not None:
            check_fits(tokens, self._seq_len)
            learns = bool(learned_places(document.trained, tokens))
            room = -self._tokens % self._seq_len
            self._tokens += room if tokens + 1 > room else 0
        first, last = self._tokens // self._seq_len, (self._tokens + tokens) // self._seq_len
        self._tokens += tokens + 1
        if learns:
            self._taught += last - max(first, self._last_taught + 1) + 1
            self._last_taught = last
        self._is_whole = document.trained is not None

    def rows(self) -> int:
        """A row that is not full counts where a conversation ends in it: that is filled up."""
        if not self._tokens:
            return 0
        full = self._tokens % self._seq_len == 0 or self._is_whole
        return self._taught - (0 if full or self._last_taught < self._tokens // self._seq_len else 1)


def rehearse_scoring(model: Path, data: Path, params: LoraParams) -> None:
    """The same for a sweep's scores, which are those of the held-out documents."""
    texts = _Texts(model, causal_blueprint(model).config.vocabulary)
    held_out = ((0, document) for document in Documents(data, params.holdout_percent, held_out=True))
    for tokens in texts.short_of_a_row(held_out, 1, params).values():
        raise InputRefused(
            "data file",
            f"leaves {tokens} tokens, too few for one sequence of {params.seq_len} "
            f"(of the {params.holdout_percent}% held out for scores); raise holdout_percent or give more text",
        )


def rehearse_evaluation(model: Path, lines: Iterable[tuple[int, Question]], params: EvaluateParams) -> None:
    config = causal_blueprint(model).config
    texts = _Texts(model, config.vocabulary)
    whole = texts.whole or params.max_tokens > config.room
    for number, row in lines:
        require_choices(row, params.choices, f"line {number}")
        if row.trained is not None:
            learned_places(row.trained, next(texts.tokens([row.text])).size)
        if whole:
            parts = [ids[: params.max_tokens] for ids in texts.tokens([row.text, *row.choices])]
            prompt, scored = (parts[0].size, parts[1:]) if row.choices else (0, parts)
            check_length(min(params.max_tokens, prompt + max(ids.size for ids in scored)), config.room)


def rehearse_embedding(model: Path, lines: Iterable[tuple[int, Document]], params: EmbedParams) -> None:
    config = encoder_blueprint(model).config
    require_dimensions(config.hidden, params.dimensions)
    tokenizer = Tokenizer(model, max_tokens=params.max_tokens)
    texts = (line.text for _, line in lines)
    if params.max_tokens <= config.room and tokenizer.reads_everything and tokenizer.largest < config.vocabulary:
        for _ in texts:
            continue
    for ids in tokenizer.each(texts, special=True):
        check_tokens(ids, config.vocabulary)
        check_length(ids.size, config.room)


class _Texts:
    """Texts as a causal language model reads them. `whole`: every text has to be looked at."""

    def __init__(self, model: Path, vocabulary: int) -> None:
        self._model, self._vocabulary = model, vocabulary
        self._tokenizer = Tokenizer(model)
        check_tokens(np.array([end_token(model)]), vocabulary)
        self.whole = not self._tokenizer.reads_everything or self._tokenizer.largest >= vocabulary

    def tokens(self, texts: Iterable[str]) -> Iterator[Tokens]:
        for ids in self._tokenizer.each(texts):
            check_tokens(ids, self._vocabulary)
            yield ids

    def short_of_a_row(
        self, documents: Iterable[tuple[int, Document]], workers: int, params: LoraParams
    ) -> dict[int, int]:
        """The workers whose documents make no row (`packing.training_rows`), with how many tokens they make."""
        seq_len = params.seq_len
        short = dict.fromkeys(range(workers), 0)
        wanted = (
            (worker, document)
            for worker, document in documents
            if self.whole or worker in short or document.trained is not None
        )
        for part in _parts(wanted):
            for (worker, document), ids in zip(part, self.tokens(each.text for _, each in part), strict=True):
                count = ids.size + 1
                if document.trained is not None or params.packing:
                    count = seq_len if any(sequence_lengths(document, ids.size, seq_len)) else 0
                if worker in short:
                    short[worker] += count
                    if short[worker] >= seq_len:
                        del short[worker]
        return short


def _parts(documents: Iterable[tuple[int, Document]]) -> Iterator[list[tuple[int, Document]]]:
    part: list[tuple[int, Document]] = []
    size = 0
    for each in documents:
        part.append(each)
        size += len(each[1].text)
        if size >= PART_CHARACTERS:
            yield part
            part, size = [], 0
    if part:
        yield part
