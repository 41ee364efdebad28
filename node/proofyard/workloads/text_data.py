"""Training text: one JSONL file of documents, `{"text": ..., "shard": ...}` a line, packed the same way everywhere."""

import codecs
import hashlib
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from proofyard.protocol.codec import prepared
from proofyard.workloads.bad_lines import refused_line, require_flat, require_single_keys
from proofyard.workloads.errors import InputRefused
from proofyard.workloads.model_files import end_token
from proofyard.workloads.randomness import permutation
from proofyard.workloads.tokenizer import Tokenizer, Tokens

MAX_LINE_BYTES = 16 << 20

T = TypeVar("T")


class Answer(msgspec.Struct, frozen=True):
    """A prompt with an answer. Runs [first, end) of its tokens are the answer's; the token that closes it counts as the
    one after its last."""

    text: str
    trained: tuple[tuple[int, int], ...] | None = None


class Document(msgspec.Struct, frozen=True):
    """One line of the file. `shard` is a label (a book, an author, a source) that documents of a kind share. Where
    `trained` is given, the text is a conversation, and runs [first, end) of its tokens alone are learned, in order.
    With `rejected_answer` the line is a pair of answers to one prompt: `text` and `trained` are the chosen one's
    (`pairs`)."""

    text: str
    shard: str = ""
    trained: tuple[tuple[int, int], ...] | None = None
    rejected_answer: Answer | msgspec.UnsetType = msgspec.UNSET


def read_documents(data: Path) -> list[Document]:
    """All documents of the file."""
    return list(each_line(data, Document))


def each_line(data: Path, kind: type[T]) -> Iterator[T]:
    """Every line of a JSONL file as a `kind`, one at a time: a file may be larger than the memory. Raises
    `InputRefused` with the number of the line that does not fit."""
    return (row for _, row in numbered_lines(data, kind))


def numbered_lines(data: Path, kind: type[T]) -> Iterator[tuple[int, T]]:
    """The lines of `each_line` with their numbers, from 1; blank ones count and are passed over."""
    decoder = msgspec.json.Decoder(prepared(kind))
    fields = [b'"%s"' % name.encode() for name in getattr(kind, "__struct_encode_fields__", ())]
    found = False
    try:
        stream = data.open("rb")
    except OSError as error:
        raise InputRefused("data file", f"{data} cannot be read ({error.strerror})") from None
    with stream:
        for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b""), 1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if len(line) > MAX_LINE_BYTES:
                raise InputRefused(
                    f"data file line {number}",
                    f"is longer than {MAX_LINE_BYTES} bytes; write one object a line, long texts as several",
                )
            if line.strip():
                require_flat(number, line, kind.__name__.lower())
                try:
                    row = decoder.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise refused_line(number, line, kind.__name__.lower(), error) from None
                if any(line.count(field) > 1 for field in fields):
                    require_single_keys(number, line, kind.__name__.lower())
                found = True
                yield number, row
    if not found:
        raise InputRefused("data file", "holds no line")


@dataclass(frozen=True)
class Documents:
    """The documents of a file that are trained on, or with `held_out` the others, for evaluation; `pairs` says whether
    they are pairs of answers, else `InputRefused` is raised. The file is read anew each time that they are gone
    through."""

    data: Path
    percent: int
    held_out: bool = False
    pairs: bool = False

    def __iter__(self) -> Iterator[Document]:
        for number, document in numbered_lines(self.data, Document):
            if isinstance(document.rejected_answer, Answer) != self.pairs:
                raise InputRefused(f"data file line {number}", _OTHER_KIND[self.pairs])
            if is_held_out(document, self.percent) == self.held_out:
                yield document


_OTHER_KIND = {
    True: 'is no pair; with objective "dpo" every line is {"prompt": ..., "chosen": ..., "rejected": ...}',
    False: 'is a pair of answers; set objective to "dpo", which learns from those',
}


def is_held_out(document: Document, percent: int) -> bool:
    """Whether a document is kept for evaluation. Follows from its text alone, not from its place."""
    return int.from_bytes(hashlib.sha256(document.text.encode()).digest()[:4], "big") % 100 < percent


def shard(documents: Iterable[Document], workers: int, worker: int, by: str) -> Iterator[Document]:
    """The documents of one worker of `workers`; see `dealt`."""
    return (document for owner, document in dealt(documents, workers, by) if owner == worker)


def dealt(documents: Iterable[Document], workers: int, by: str) -> Iterator[tuple[int, Document]]:
    """Each document with the number of its worker. `documents` may be gone through twice.

    "document" deals them out one by one. "label" gives each worker a contiguous run of labels (in order of first
    appearance) of about equal size, so that shards differ in kind, as the data of real owners does.
    """
    if by == "document":
        yield from ((number % workers, document) for number, document in enumerate(documents))
        return
    sizes: dict[str, int] = {}
    for document in documents:
        sizes[document.shard] = sizes.get(document.shard, 0) + len(document.text)
    if len(sizes) < workers:
        raise InputRefused(
            "data file", f"has {len(sizes)} shard labels for {workers} workers; shard by document instead"
        )
    owners = _owners(sizes, workers)
    yield from ((owners[document.shard], document) for document in documents)


def usual_split(data: Path, workers: int) -> str:
    """How a file is shared out where nobody says: by its labels where there are enough for the workers, else document
    by document. Goes into the manifest, so that everybody does the same."""
    labels: set[str] = set()
    for document in each_line(data, Document):
        labels.add(document.shard)
        if len(labels) >= workers > 1:
            return "label"
    return "document"


def pack(documents: Iterable[Document], model: Path, seq_len: int, *, most: int | None = None) -> Tokens:
    """Rows of `seq_len` + 1 tokens: the documents end to end, each closed by the model's end token, cut into rows of
    `seq_len`, and the end token before each row. Shape (rows, seq_len + 1); every token is predicted once. With `most`
    no more rows than that are made.

    A conversation is never cut: where it does not fit in what is left of a row, end tokens fill that up. A token t that
    is not learned stands in the rows as its complement ~t, which is negative: what is not of the assistant in a
    conversation, and what closes and fills up. Rows without a token to learn are left out.

    A row that began in the middle of a text would make its first words the attention sink, which is so ill-conditioned
    that a gradient in float32 can be off by 1% (SmolLM2: 1.4e-2 instead of 4e-5).
    """
    end = end_token(model)
    stream = array("i")  # a quarter of what the same tokens take as rows of int64 and their parts
    filled = 0
    for document, ids in tokenized(Tokenizer(model), documents):
        whole = document.trained is not None
        if whole:
            check_fits(ids.size, seq_len)
            if ids.size + 1 > -len(stream) % seq_len:
                stream.extend([~end] * (-len(stream) % seq_len))
        stream.frombytes(np.append(ids, ~end if whole else end).astype(np.int32).tobytes())
        filled = -len(stream) % seq_len if whole else 0
        if most is not None and len(stream) >= most * seq_len:
            break
    stream.extend([~end] * filled)
    rows = len(stream) // seq_len if most is None else min(most, len(stream) // seq_len)
    if rows < 1:
        raise InputRefused("data file", f"leaves {len(stream)} tokens, too few for one sequence of {seq_len}")
    packed = np.empty((rows, seq_len + 1), np.int64)
    packed[:, 0] = end
    packed[:, 1:] = np.frombuffer(stream, np.int32, rows * seq_len).reshape(rows, seq_len)
    taught = (packed[:, 1:] >= 0).any(axis=1)
    if not taught.any():
        raise InputRefused("data file", "leaves no token that is learned")
    return packed if taught.all() else packed[taught]


def tokenized(tokenizer: Tokenizer, documents: Iterable[Document]) -> Iterator[tuple[Document, Tokens]]:
    """Each document with its tokens, complemented where they are not learned. Raises `InputRefused`."""
    waiting: deque[Document] = deque()

    def texts() -> Iterator[str]:
        for document in documents:
            waiting.append(document)
            yield document.text

    for ids in tokenizer.each(texts()):
        document = waiting.popleft()
        if document.trained is None:
            yield document, ids
            continue
        learned = np.zeros(ids.size, np.bool_)
        for place in learned_places(document.trained, ids.size):
            learned[place] = True
        yield document, np.where(learned, ids, ~ids)


def learned_places(runs: Sequence[tuple[int, int]], tokens: int) -> list[slice]:
    """The runs of a text's tokens that are learned. Raises `InputRefused` where they are none of this text's."""
    before = 0
    for first, end in runs:
        if not before <= first < end <= tokens:
            raise InputRefused(
                "data file",
                f"has trained [{first}, {end}) in a text of {tokens} tokens; they count this model's tokens, from 0, "
                "in order; submit the conversations themselves",
            )
        before = end
    return [slice(first, end) for first, end in runs]


def check_fits(tokens: int, seq_len: int) -> None:
    """Raise `InputRefused` for a conversation that is longer than a row, with the token that closes it."""
    if tokens + 1 > seq_len:
        raise InputRefused(
            "data file", f"holds a conversation of {tokens} tokens, at most seq_len - 1 = {seq_len - 1} fit in a row"
        )


def batch_rows(rows: int, batch: int, step: int, *purpose: str | int) -> npt.NDArray[np.intp]:
    """Which rows step `step` (from 0) trains on: each epoch is its own permutation, and nothing repeats within it."""
    positions = range(step * batch, (step + 1) * batch)
    orders = {epoch: permutation(rows, *purpose, epoch) for epoch in {p // rows for p in positions}}
    return np.array([orders[p // rows][p % rows] for p in positions])


def _owners(sizes: dict[str, int], workers: int) -> dict[str, int]:
    """Label to worker: a label goes where its middle lies when the text is cut into equal parts; none is left empty."""
    total, passed = sum(sizes.values()), 0
    owners: dict[str, int] = {}
    labels = list(sizes)
    for number, label in enumerate(labels):
        middle = (passed + sizes[label] / 2) * workers / max(1, total)
        earliest = owners[labels[number - 1]] if number else 0
        latest = min(earliest + 1, workers - 1) if number else 0
        needed = workers - (len(labels) - number)
        owners[label] = max(needed, min(latest, max(earliest, int(middle))))
        passed += sizes[label]
    return owners
