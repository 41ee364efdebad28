"""What a job's segments would meet first, found out before anybody pays: the node's own code on the model and data as
they are, without a weight read and without torch.

A model is made of its files' headers (`exact.models.causal_blueprint`), texts are packed as far as it takes to know
that every task has one row. Where a tokenizer may give what the model has no row for, or cannot read every text, all
texts are looked at. What remains is what only computing shows: weights and losses that are no numbers.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from proofyard.workloads.embed import EmbedParams, require_dimensions
from proofyard.workloads.errors import InputRefused
from proofyard.workloads.evaluate import EvaluateParams, Question, require_choices
from proofyard.workloads.exact.causal import check_length
from proofyard.workloads.exact.config import check_tokens
from proofyard.workloads.exact.models import causal_blueprint, encoder_blueprint
from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.model_files import end_token
from proofyard.workloads.text_data import Document, held_out_documents, pack, shards, training_documents
from proofyard.workloads.tokenizer import Tokenizer, Tokens


def rehearse_training(model: Path, data: Path, params: LoraParams) -> None:
    """Raise `InputRefused` where a worker's segments cannot begin."""
    config = causal_blueprint(model, params.modules).config
    texts = _Texts(model, config.vocabulary)
    check_length(params.seq_len, config.room)
    trained = training_documents(data, params.holdout_percent)
    for number, documents in enumerate(shards(trained, params.workers, params.shard_by)):
        try:
            texts.check_rows(documents, params.seq_len)
        except InputRefused as error:
            if params.workers == 1:
                raise
            where = f"shard {number + 1} of {params.workers} of the {error.what}"
            raise InputRefused(where, f"{error.reason}; use fewer workers, a shorter seq_len or more text") from None


def rehearse_scoring(model: Path, data: Path, params: LoraParams) -> None:
    """The same for a sweep's scores, which are those of the held-out documents."""
    texts = _Texts(model, causal_blueprint(model).config.vocabulary)
    try:
        texts.check_rows(held_out_documents(data, params.holdout_percent), params.seq_len)
    except InputRefused as error:
        kept = f"of the {params.holdout_percent}% held out for scores"
        raise InputRefused(error.what, f"{error.reason} ({kept}); raise holdout_percent or give more text") from None


def rehearse_evaluation(model: Path, lines: Iterable[Question], params: EvaluateParams) -> None:
    config = causal_blueprint(model).config
    texts = _Texts(model, config.vocabulary)
    whole = texts.whole or params.max_tokens > config.room
    for row in lines:
        require_choices(row, params.choices)
        if whole:
            parts = [ids[: params.max_tokens] for ids in texts.tokens([row.text, *row.choices])]
            prompt, scored = (parts[0].size, parts[1:]) if row.choices else (0, parts)
            check_length(min(params.max_tokens, prompt + max(ids.size for ids in scored)), config.room)


def rehearse_embedding(model: Path, lines: Iterable[Document], params: EmbedParams) -> None:
    config = encoder_blueprint(model).config
    require_dimensions(config.hidden, params.dimensions)
    tokenizer = Tokenizer(model, max_tokens=params.max_tokens)
    if params.max_tokens <= config.room and tokenizer.reads_everything and tokenizer.largest < config.vocabulary:
        return
    for ids in tokenizer.each([line.text for line in lines], special=True):
        check_tokens(ids, config.vocabulary)
        check_length(ids.size, config.room)


class _Texts:
    """Texts as a causal language model reads them. `whole`: every text has to be looked at."""

    def __init__(self, model: Path, vocabulary: int) -> None:
        self._model, self._vocabulary = model, vocabulary
        self._tokenizer = Tokenizer(model)
        check_tokens(np.array([end_token(model)]), vocabulary)
        self.whole = not self._tokenizer.reads_everything or self._tokenizer.largest >= vocabulary

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        found = list(self._tokenizer.each(texts))
        for ids in found:
            check_tokens(ids, self._vocabulary)
        return found

    def check_rows(self, documents: Sequence[Document], seq_len: int) -> None:
        """Raise `InputRefused` unless the documents make a row."""
        if self.whole:
            self.tokens([document.text for document in documents])
        pack(documents, self._model, seq_len, most=1, tokenizer=self._tokenizer)
