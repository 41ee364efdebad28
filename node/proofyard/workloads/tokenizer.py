"""A model's tokenizer, brought to one behaviour: the same tokens for a text wherever and however often it is read.

What a tokenizer.json asks for besides, cutting to a length, filling up with padding, merges that are skipped at random,
belongs to how somebody trained and not to the text, so it is switched off here and nowhere else.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from proofyard.workloads.errors import InputRefused
from proofyard.workloads.model_files import is_file

Tokens = npt.NDArray[np.int64]

PART_CHARACTERS = 1 << 20
"""Texts are given to the tokenizer in parts of about so many characters: what it notes of each token takes a hundred
times the memory of the token."""

UNHEARD = "\x01 \u2603\uf8ff\U0010fffd"
"""Characters that no vocabulary holds."""


class Tokenizer:
    """Texts to tokens. With `max_tokens` texts are cut to so many, special tokens included."""

    def __init__(self, model: Path, *, max_tokens: int | None = None) -> None:
        self._model = model.name
        self._plain = _load(model)
        if max_tokens is not None:
            with _Refusing(self._model, "cannot cut texts"):
                self._plain.enable_truncation(max_tokens)

    @property
    def largest(self) -> int:
        """The largest token that there is."""
        return max(self._plain.get_vocab(with_added_tokens=True).values(), default=-1)

    @property
    def reads_everything(self) -> bool:
        """Whether there is a token for whatever a text may hold."""
        try:
            self.tokens(UNHEARD)
        except InputRefused:
            return False
        return True

    def each(self, texts: Iterable[str], *, special: bool = False) -> Iterator[Tokens]:
        """The tokens of every text in order, with the model's special tokens around them where `special` says so."""
        for part in _parts(texts):
            with _Refusing(self._model, "cannot read a text"):
                encodings = self._plain.encode_batch_fast(part, add_special_tokens=special)
            for encoding in encodings:
                yield np.array(encoding.ids, np.int64)

    def places(self, text: str) -> list[tuple[int, int]]:
        """The characters [start, end) that each of one text's tokens stands for."""
        with _Refusing(self._model, "cannot read a text"):
            found: list[tuple[int, int]] = self._plain.encode(text, add_special_tokens=False).offsets
        return found

    def tokens(self, text: str) -> list[int]:
        """One text's tokens, without special ones."""
        ids: list[int] = next(self.each([text])).tolist()
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some tokens, special ones left out."""
        text: str = self._plain.decode(list(tokens), skip_special_tokens=True)
        return text


class _Refusing:
    """Maps what the Rust extension raises, plain Exception and panics, to `InputRefused`."""

    def __init__(self, model: str, what: str) -> None:
        self._model, self._what = model, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is Exception or (kind is not None and kind.__name__ == "PanicException"):
            raise InputRefused(
                f"model directory {self._model}", f"{self._what} by its tokenizer.json: {error}"
            ) from None


def _load(model: Path) -> Any:
    """The tokenizer of a model directory. Raises `InputRefused` where it has none that can be used."""
    from tokenizers import Tokenizer as Plain  # type: ignore[import-untyped,unused-ignore]

    file = model / "tokenizer.json"
    try:
        if not is_file(file):
            raise FileNotFoundError
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        has = f"is no UTF-8: {error}" if isinstance(error, UnicodeDecodeError) else "is missing"
        raise InputRefused(
            f"model directory {model.name}",
            f"has no usable tokenizer.json: it {has}; write it with "
            "`AutoTokenizer.from_pretrained(model).save_pretrained(model)` of transformers",
        ) from None
    with _Refusing(model.name, "has no usable tokenizer.json, nothing can be read"):
        tokenizer = Plain.from_str(text)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        for sampling in ("dropout", "alpha", "nbest_size"):
            if getattr(tokenizer.model, sampling, None) is not None:
                setattr(tokenizer.model, sampling, None)
    return tokenizer


def _parts(texts: Iterable[str]) -> Iterator[list[str]]:
    part: list[str] = []
    size = 0
    for text in texts:
        part.append(text)
        size += len(text)
        if size >= PART_CHARACTERS:
            yield part
            part, size = [], 0
    if part:
        yield part
