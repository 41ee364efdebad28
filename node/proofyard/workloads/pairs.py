"""Pairs of answers to one prompt, of which one was chosen and the other rejected: the rows that `dpo` learns from.

A row is two sequences, prompt and chosen answer, prompt and rejected answer; what is learned of each is its answer.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from proofyard.workloads.errors import InputRefused
from proofyard.workloads.model_files import end_token
from proofyard.workloads.packing import Row, Rows
from proofyard.workloads.text_data import Answer, Document, learned_places
from proofyard.workloads.tokenizer import Tokenizer, Tokens


def pair_rows(documents: Iterable[Document], model: Path, seq_len: int) -> Rows:
    """A row for each pair, the chosen answer first. Raises `InputRefused`."""
    sequences = [tokens for pair in pairs(documents, Tokenizer(model), end_token(model), seq_len) for tokens in pair]
    if not sequences:
        raise InputRefused("data file", "leaves no pair of answers")
    return Rows(
        np.concatenate(sequences).astype(np.int32),
        np.cumsum([0, *map(len, sequences)]),
        np.arange(len(sequences) // 2 + 1) * 2,
    )


def pairs(documents: Iterable[Document], tokenizer: Tokenizer, end: int, seq_len: int) -> Iterator[Row]:
    """The two sequences of each document. Raises `InputRefused`."""
    waiting: deque[Answer] = deque()

    def texts() -> Iterator[str]:
        for document in documents:
            rejected = document.rejected_answer
            assert isinstance(rejected, Answer), "the file's lines are pairs"
            for answer in (Answer(document.text, document.trained), rejected):
                waiting.append(answer)
                yield answer.text

    read = tokenizer.each(texts())
    for chosen in read:
        yield [_sequence(waiting.popleft(), ids, end, seq_len) for ids in (chosen, next(read))]


def _sequence(answer: Answer, ids: Tokens, end: int, seq_len: int) -> Tokens:
    """The end token, the text up to the last token that is learned, what is not learned complemented. The end token
    that closes the text may be learned as well, as the token after its last one."""
    closed = np.append(ids, end)
    runs = [(0, closed.size)] if answer.trained is None else answer.trained
    places = learned_places(runs, closed.size)
    if not places:
        raise InputRefused("data file", "holds a pair with an answer of which nothing is learned; remove it")
    if places[-1].stop > seq_len:
        raise InputRefused(
            "data file",
            f"holds an answer that ends at token {places[-1].stop}, its prompt included; at most seq_len = {seq_len} "
            "fit",
        )
    learned = np.zeros(closed.size, np.bool_)
    for place in places:
        learned[place] = True
    return np.append(end, np.where(learned, closed, ~closed)[: places[-1].stop])
