"""The rows that a step trains on, and packing: whole documents side by side in a row, of which none sees another.

A row is some sequences. The exact arithmetic computes each sequence for itself (docs/exact.md, Conventions): attention,
positions and losses end where it ends, and sums over a row are made sequence by sequence. So a packed document has the
losses and the gradient, bit for bit, that it has alone, and a row that is not full is not filled up.

Which documents share a row is a function of the documents in their order, the tokenizer, and the manifest:
`sequence_lengths` cuts them, `FirstFit` places what comes of it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from proofyard.workloads.errors import InputRefused
from proofyard.workloads.model_files import end_token
from proofyard.workloads.text_data import Document, check_fits, learned_places, pack, tokenized
from proofyard.workloads.tokenizer import Tokenizer

OPEN_ROWS = 64
"""So many rows at the end may still take a sequence."""

Row = list[npt.NDArray[Any]]
"""Its sequences."""


@dataclass(frozen=True)
class Rows:
    """Rows of sequences. Each sequence begins with the model's end token, from which its first token is predicted; a
    token t that is not learned stands there as ~t (`text_data.pack`)."""

    tokens: npt.NDArray[Any]
    """Of all sequences, end to end."""
    sequences: npt.NDArray[np.int64]
    """Where each sequence begins, and where the last one ends."""
    rows: npt.NDArray[np.int64]
    """The first sequence of each row, and how many there are."""

    def __len__(self) -> int:
        return len(self.rows) - 1

    def __getitem__(self, number: int) -> Row:
        """The sequences of a row."""
        own = self.sequences[self.rows[number] : self.rows[number + 1] + 1]
        return [self.tokens[start:end] for start, end in pairwise(own)]

    def take(self, numbers: Iterable[int]) -> list[Row]:
        """Some rows."""
        return [self[number] for number in numbers]

    @property
    def learned(self) -> int:
        """How many tokens are predicted and learned."""
        return int((self.tokens >= 0).sum()) - (len(self.sequences) - 1)


def training_rows(
    documents: Iterable[Document], model: Path, seq_len: int, *, packing: bool, most: int | None = None
) -> Rows:
    """The rows of some documents, of at most `seq_len` predicted tokens each. With `packing` those of `pack_whole`,
    else those of `text_data.pack`: one sequence each, of exactly `seq_len`. With `most` no more rows than that. Raises
    `InputRefused` where no token is learned."""
    if packing:
        return pack_whole(documents, model, seq_len, most=most)
    rows = pack(documents, model, seq_len, most=most)
    return Rows(rows.reshape(-1), np.arange(len(rows) + 1) * (seq_len + 1), np.arange(len(rows) + 1))


def pack_whole(documents: Iterable[Document], model: Path, seq_len: int, *, most: int | None = None) -> Rows:
    """Documents packed into rows as they are, each a sequence or several (`sequence_lengths`), placed by `FirstFit`;
    with `most` up to the first that fits into none of so many rows."""
    fit, found, places = FirstFit(seq_len), list[npt.NDArray[np.int32]](), list[int]()
    for sequence in _sequences(documents, model, seq_len):
        row = fit.put(len(sequence) - 1)
        if row == most:
            break
        found.append(sequence)
        places.append(row)
    if not found:
        raise InputRefused("data file", "leaves no token that is learned")
    order = np.argsort(places, kind="stable")
    ordered = [found[number] for number in order]
    return Rows(
        np.concatenate(ordered),
        np.cumsum([0, *map(len, ordered)]),
        np.searchsorted(np.array(places)[order], np.arange(max(places) + 2)),
    )


def _sequences(documents: Iterable[Document], model: Path, seq_len: int) -> Iterator[npt.NDArray[np.int32]]:
    """The sequences of all documents in order, the end token before each."""
    end = end_token(model)
    for document, ids in tokenized(Tokenizer(model), documents):
        closed, start = np.append(ids, end), 0
        for length in sequence_lengths(document, ids.size, seq_len):
            yield np.append(end, closed[start : start + length]).astype(np.int32)
            start += length


def sequence_lengths(document: Document, tokens: int, seq_len: int) -> Iterator[int]:
    """The predicted tokens of each sequence that a document of so many tokens makes.

    A text, closed by the end token, is cut after every `seq_len` tokens; the end token is left out where it would be
    alone. A conversation is not cut (`check_fits`) and not closed, and makes no sequence where it teaches nothing.
    """
    if document.trained is not None:
        check_fits(tokens, seq_len)
        if learned_places(document.trained, tokens):
            yield tokens
        return
    for start in range(0, tokens, seq_len):
        yield min(seq_len, tokens + 1 - start)


class FirstFit:
    """Which row each sequence goes into: the first of the last `OPEN_ROWS` that has room for it, else a new one."""

    def __init__(self, seq_len: int) -> None:
        self._seq_len = seq_len
        self._rooms: list[int] = []
        self.rows = 0

    def put(self, length: int) -> int:
        """The row of a sequence of so many predicted tokens, counted from 0."""
        for place, room in enumerate(self._rooms):
            if length <= room:
                self._rooms[place] = room - length
                return self.rows - len(self._rooms) + place
        self._rooms = [*self._rooms[-OPEN_ROWS + 1 :], self._seq_len - length]
        self.rows += 1
        return self.rows - 1
