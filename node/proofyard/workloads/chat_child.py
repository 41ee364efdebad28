"""Conversations rendered by a model's chat template, in a process of its own: `render_chats` starts it.

A template is a stranger's program, so this process is in the sandbox: no environment but what Python needs, no file but
the ones named here; and it has limits on memory, on what it writes, and on the time of one conversation, which the
kernel enforces. Beside the text of a conversation it writes which of its tokens are learned, so that no node ever runs
a template.
"""

import os
import signal
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import msgspec

from proofyard.protocol.codec import CodecError, decode_json, prepared
from proofyard.workloads.chat import ANSWERS, ASSISTANT, Pair, Turn, is_conversation, read_pair, read_turns
from proofyard.workloads.chat_templates import Rendered, Span, Template, special_tokens, template_of
from proofyard.workloads.errors import InputRefused, from_wire, to_wire
from proofyard.workloads.model_files import files_of
from proofyard.workloads.sandbox import Policy, Sandbox
from proofyard.workloads.text_data import Answer, Document, numbered_lines
from proofyard.workloads.tokenizer import Tokenizer

CPU_S = 10.0
"""For one conversation."""
MEMORY_BYTES = 4 << 30
GROWTH = 64
"""What is written may be so many times as long as what is read, and 64 MiB."""


class Order(msgspec.Struct, frozen=True):
    """What is rendered: the conversations of the file `data`, or the `pairs` of answers, each of at most `most` tokens,
    to the file `dest`."""

    model: str
    template: str
    data: str
    dest: str
    most: int
    cpu_s: float = CPU_S
    pairs: bool = False


class Done(msgspec.Struct, frozen=True):
    """How many conversations there were, how many lost turns at their end, and how many tokens are learned of all."""

    conversations: int = 0
    shortened: int = 0
    learned: int = 0
    tokens: int = 0


class _Row(msgspec.Struct, frozen=True):
    """Any line."""

    messages: Any = None
    conversations: Any = None
    text: Any = None
    system: Any = None
    prompt: Any = None
    chosen: Any = None
    rejected: Any = None
    shard: str = ""
    tools: Any = None
    functions: Any = None


class _Ended(msgspec.Struct, frozen=True):
    """What the process says last."""

    done: Done | None = None
    error: tuple[str, dict[str, Any]] | None = None


def render_chats(order: Order) -> Done:
    """Have a process of its own render a file of conversations. Raises `InputRefused` with the line that cannot be."""
    passed = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG", "TMPDIR") if name in os.environ}
    most = GROWTH * Path(order.data).stat().st_size + (64 << 20)
    with TemporaryDirectory(prefix="rendering-", dir=Path(order.dest).absolute().parent) as folder:
        written = Path(folder) / "rendered"
        written.touch(0o600)
        template = Path(order.template)
        own = (template.absolute(),) if template.is_file() else ()
        given = msgspec.structs.replace(
            order,
            model=str(Path(order.model).absolute()),
            template=str(own[0]) if own else order.template,
            data=str(Path(order.data).absolute()),
            dest=str(written),
        )
        reads = tuple(file for path in (Path(given.model), Path(given.data), *own) for file in files_of(path))
        policy = Policy(read=reads, write=(folder,), file_bytes=most)
        ran = Sandbox().run(
            policy,
            __name__,
            data=msgspec.json.encode(given),
            env=passed | {"PYTHONHASHSEED": "0", "TOKENIZERS_PARALLELISM": "false"},
        )
        written.replace(order.dest)
    lines = ran.stdout.split(b"\n")
    with suppress(CodecError):
        ended = decode_json(lines[-1], _Ended)
        if ended.error is not None:
            raise from_wire(*ended.error)
        if ended.done is not None:
            return ended.done
    at = next((line.decode() for line in reversed(lines) if line.isdigit()), "1")
    limits = f"{order.cpu_s:.0f} s, {MEMORY_BYTES >> 30} GiB, {GROWTH} times its length"
    last = ran.stderr.decode(errors="replace").strip().rpartition("\n")[2][:200]
    why = "took too long" if ran.returncode == -signal.SIGPROF else f"ended with code {ran.returncode} {last}".strip()
    raise InputRefused(
        f"data file line {at}", f"cannot be rendered: the chat template {why} (allowed are {limits}); use another one"
    )


class Renderer:
    """Conversations to documents."""

    def __init__(self, model: Path, template: str, most: int) -> None:
        self._model, self._named = model, template
        self._tokenizer = Tokenizer(model)
        self._most = most

    @cached_property
    def _template(self) -> Template:
        """Pairs of texts do without."""
        return Template(template_of(self._model, self._named), special_tokens(self._model))

    def pair(self, pair: Pair, shard: str) -> tuple[Document, int, bool]:
        """Two answers, each with its prompt; none is shortened. Raises `InputRefused`."""
        chosen, rejected = (self._answer(field, getattr(pair, field)) for field in ANSWERS)
        document = Document(chosen[0].text, shard, chosen[0].trained, rejected[0])
        return document, chosen[1] + rejected[1], False

    def _answer(self, field: str, given: tuple[str, str] | list[Turn]) -> tuple[Answer, int]:
        """An answer with the runs of its tokens, and how many tokens there are. Of texts the token that closes them is
        the answer's as well."""
        if isinstance(given, tuple):
            text = "".join(given)
            places = self._tokenizer.places(text)
            runs = learned_runs([(len(given[0]), len(text))], places)
            runs = (*runs[:-1], (runs[-1][0], len(places) + 1)) if runs else ()
        else:
            rendered, places = self._looked_at(given)
            text, runs = rendered.text, learned_runs(rendered.spans, places)
        if len(places) > self._most:
            raise InputRefused(
                "data file",
                f"{field} has {len(places)} tokens with its prompt, {self._most} fit; raise seq_len above that, or "
                "remove the row",
            )
        if not runs:
            raise InputRefused("data file", f"{field} has no token; see what the chat template does")
        return Answer(text, runs), len(places)

    def document(self, turns: Sequence[Turn], shard: str) -> tuple[Document, int, bool]:
        """A conversation with the runs of its tokens that are learned, how many tokens it has, and whether turns at its
        end were left out so that it has no more than are allowed. Raises `InputRefused`."""
        ends = [number + 1 for number, turn in enumerate(turns) if turn.role == ASSISTANT and turn.learned]
        found = self._looked_at(turns)
        fits, kept = len(found[1]) <= self._most, turns
        if not fits:
            # The longest beginning that fits: they grow with their turns.
            number = bisect_right(ends, self._most, key=lambda end: len(self._looked_at(turns[:end])[1]))
            kept = turns[: ends[number - 1]] if number else []
            found = self._looked_at(kept or turns[: ends[0]])
            if not kept:
                raise InputRefused(
                    "data file",
                    f"has {len(found[1])} tokens up to the end of the first answer, {self._most} fit; raise seq_len "
                    "(or max_tokens) above that, or remove it",
                )
        rendered, places = found
        trained = learned_runs(rendered.spans, places)
        if not trained:
            raise InputRefused("data file", "renders without a token of the assistant's; see what its template does")
        return Document(rendered.text, shard, trained), len(places), not fits

    def _looked_at(self, turns: Sequence[Turn]) -> tuple[Rendered, list[Span]]:
        rendered = self._template.render(turns)
        return rendered, self._tokenizer.places(rendered.text)


def learned_runs(spans: Sequence[Span], places: Sequence[Span]) -> tuple[Span, ...]:
    """Runs [first, end) of tokens that have a character of a span; `places` are the characters of each token."""
    runs: list[Span] = []
    at = 0
    for number, (first, end) in enumerate(places):
        while at < len(spans) and spans[at][1] <= first:
            at += 1
        if at < len(spans) and end > spans[at][0]:
            joined = runs and runs[-1][1] == number
            runs[-1:] = [(runs[-1][0], number + 1)] if joined else [*runs[-1:], (number, number + 1)]
    return tuple(runs)


def _rendered(order: Order, out: BinaryIO) -> Iterator[tuple[Document, int, bool]]:
    signal.setitimer(signal.ITIMER_PROF, order.cpu_s)  # which ends the process
    renderer = Renderer(Path(order.model), order.template, order.most)
    for number, row in numbered_lines(Path(order.data), _Row):
        out.write(b"%d\n" % number)
        out.flush()
        signal.setitimer(signal.ITIMER_PROF, order.cpu_s)
        try:
            fields = msgspec.to_builtins(row)
            if order.pairs:
                yield renderer.pair(read_pair(fields), row.shard)
                continue
            if not is_conversation(fields):
                raise InputRefused("data file", "has no messages, and other lines have; give rows of one kind")
            yield renderer.document(read_turns(fields), row.shard)
        except InputRefused as error:
            what = f"data file line {number}"
            raise InputRefused(what if error.what == "data file" else f"{what}: {error.what}", error.reason) from None
        except MemoryError:
            raise InputRefused(
                f"data file line {number}", f"takes more than {MEMORY_BYTES >> 30} GiB to render; see its template"
            ) from None


def render(order: Order, out: BinaryIO) -> Done:
    """Write the documents; `out` is told which line is next."""
    conversations = shortened = learned = tokens = 0
    with Path(order.dest).open("r+b") as stream:  # it is there: in the sandbox no file is made
        for document, count, cut in _rendered(order, out):
            stream.write(msgspec.json.encode(document) + b"\n")
            conversations, shortened, tokens = conversations + 1, shortened + cut, tokens + count
            other = document.rejected_answer
            runs = [document.trained, other.trained if isinstance(other, Answer) else None]
            learned += sum(end - first for some in runs for first, end in some or ())
    return Done(conversations, shortened, learned, tokens)


def main() -> None:
    """Render what the order on stdin says."""
    import resource

    order = msgspec.json.decode(sys.stdin.buffer.read(), type=prepared(Order))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        ended = _Ended(done=render(order, sys.stdout.buffer))
    except InputRefused as error:
        ended = _Ended(error=to_wire(error))
    sys.stdout.buffer.write(msgspec.json.encode(ended))


if __name__ == "__main__":
    main()
