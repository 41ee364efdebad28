"""A model's chat template: which one it is, and what it makes of a conversation.

A template is a stranger's program. It runs in jinja2's sandbox and only in the process of `chat_child`, which holds no
key and has bounds on time, memory and output. What it gives is a function of template and turns alone: there is no
clock (`strftime_now`), no chance, no file to include.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, Undefined, nodes
from jinja2.exceptions import SecurityError, TemplateRuntimeError, UndefinedError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from proofyard.workloads.chat import ASSISTANT, Turn
from proofyard.workloads.errors import InputRefused
from proofyard.workloads.model_files import is_file

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NAMED = {"chatml": CHATML}
"""Templates for models that have none."""
MAX_TEMPLATE_BYTES = 1 << 20
MAX_CHARACTERS = 2 << 20
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

Span = tuple[int, int]


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, and the characters [start, end) of it that are learned, in order."""

    text: str
    spans: tuple[Span, ...]


def template_of(model: Path, named: str) -> str:
    """The template `named`: "" is the model's own, else a name of `NAMED` or a file. Raises `InputRefused`."""
    if named in NAMED:
        return NAMED[named]
    if named:
        return _read(Path(named), f"chat_template {named}")
    where = f"model directory {model.name}"
    if (model / "chat_template.jinja").is_file():
        return _read(model / "chat_template.jinja", where)
    found = _settings(model).get("chat_template")
    if isinstance(found, list):  # several by name
        by_name = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        found = by_name.get("default")
    if not isinstance(found, str) or not found:
        raise InputRefused(
            where,
            "has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json); set "
            f"chat_template to {' or '.join(NAMED)} or to a .jinja file, or take the model's instruct version",
        )
    return found


def _read(file: Path, where: str) -> str:
    try:
        if not is_file(file):
            raise FileNotFoundError("there is no such file")
        if file.stat().st_size > MAX_TEMPLATE_BYTES:
            raise InputRefused(where, f"has a chat template of more than {MAX_TEMPLATE_BYTES} bytes")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputRefused(
            where, f"cannot be read as a template ({error}); give {' or '.join(NAMED)} or a .jinja file"
        ) from None


def _settings(model: Path) -> Mapping[str, Any]:
    """tokenizer_config.json, with special_tokens_map.json below it."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        try:
            read = json.loads((model / name).read_bytes()) if is_file(model / name) else {}
        except (OSError, ValueError, RecursionError):
            continue
        found |= read if isinstance(read, dict) else {}
    return found


def special_tokens(model: Path) -> dict[str, str]:
    """The texts of a model's special tokens, which templates know by these names."""
    settings = _settings(model)
    found = {}
    for name in SPECIAL:
        value = settings.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            found[name] = value
    return found


class Generation(Extension):
    """`{% generation %}`: what stands in it is learned. Its text is put between two marks."""

    tags = {"generation"}  # noqa: RUF012
    mark = ""
    count = 0

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Callable[[], str]) -> str:
        self.count += 1
        return f"{self.mark}{caller()}{self.mark}"


class Template:
    """A compiled template. Raises `InputRefused` where it is none."""

    def __init__(self, source: str, special: Mapping[str, str]) -> None:
        self._environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
        )
        self._environment.filters.pop("random")
        self._environment.filters["tojson"] = _to_json
        self._environment.globals.pop("lipsum")
        self._environment.globals["raise_exception"] = _raise
        self._generation = self._environment.extensions[Generation.identifier]
        self._special = dict(special)
        try:
            self._template = self._environment.from_string(source)
        except (TemplateSyntaxError, RecursionError) as error:
            raise InputRefused("model directory", f"has a chat template that cannot be read: {error}") from None

    def render(self, turns: Sequence[Turn]) -> Rendered:
        """The whole conversation with the spans of the assistant's turns that are learned. Raises `InputRefused`.

        They are where the template says so with `{% generation %}`; else each is what rendering up to its end has more
        than rendering up to its beginning, with the words that ask for an answer.
        """
        mark = "\x00" + hashlib.sha256(repr(turns).encode()).hexdigest() + "\x00"
        self._generation.mark, self._generation.count = mark, 0  # type: ignore[attr-defined]
        parts = self._text(turns, asked=False).split(mark)
        said = [turn.learned for turn in turns if turn.role == ASSISTANT]
        if not self._generation.count:  # type: ignore[attr-defined]
            return Rendered(parts[0], self._by_prefixes(parts[0], turns))
        ends: list[int] = [0]
        for part in parts:
            ends.append(ends[-1] + len(part))
        spans = list(zip(ends[1:-1:2], ends[2:-1:2], strict=True))
        if len(spans) != len(said):
            raise _refused(f"has {len(spans)} parts marked as generated for {len(said)} turns of the assistant")
        return Rendered("".join(parts), tuple(span for span, learned in zip(spans, said, strict=True) if learned))

    def _by_prefixes(self, whole: str, turns: Sequence[Turn]) -> tuple[Span, ...]:
        spans = []
        for number, turn in enumerate(turns):
            if turn.role == ASSISTANT and turn.learned:
                before, after = self._text(turns[:number], asked=True), self._text(turns[: number + 1], asked=False)
                if not (whole.startswith(after) and after.startswith(before)):
                    raise _refused(
                        "renders a turn in another way once others follow, so what the assistant said cannot be told; "
                        "set chat_template to a template with {% generation %} around it, or to chatml"
                    )
                spans.append((len(before), len(after)))
        return tuple(spans)

    def _text(self, turns: Sequence[Turn], *, asked: bool) -> str:
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            text = self._template.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=asked, **self._special
            )
            if len(text) > MAX_CHARACTERS:
                raise _refused(f"makes more than {MAX_CHARACTERS} characters of it; make it shorter")
            return text
        except UndefinedError as error:
            why = f"uses what there is not: {error}"
            if "strftime_now" in str(error):
                why = "asks for today's date (strftime_now), so that it renders otherwise every day; fix the date in it"
            raise _refused(f"{why}; set chat_template to a template without that") from None
        except SecurityError as error:
            raise _refused(f"does what a template may not: {error}") from None
        except (TemplateRuntimeError, TemplateError) as error:
            raise _refused(f"refuses it: {error}") from None
        except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise _refused(f"fails: {type(error).__name__}: {error}") from None


def _refused(reason: str) -> InputRefused:
    return InputRefused("the chat template", reason)


def _raise(message: object) -> None:
    raise TemplateRuntimeError(str(message)[:300])


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    """As transformers has it: without HTML's escapes."""
    if isinstance(value, Undefined):
        raise UndefinedError("a value for tojson is not there")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)
