"""Conversations as people have them, turned into turns: OpenAI's `messages`, ShareGPT's `conversations`;
and pairs of answers, `prompt`, `chosen` and `rejected`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from proofyard.workloads.errors import InputRefused

MESSAGES, CONVERSATIONS = "messages", "conversations"
COLUMNS = (MESSAGES, CONVERSATIONS)
PROMPT, ANSWERS = "prompt", ("chosen", "rejected")
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = (SYSTEM, USER, ASSISTANT)
_SPEAKERS = {
    "system": SYSTEM,
    "human": USER,
    "user": USER,
    "gpt": ASSISTANT,
    "chatgpt": ASSISTANT,
    "assistant": ASSISTANT,
    "model": ASSISTANT,
}
"""ShareGPT's names."""
_TOOLS = ("tools", "functions", "tool_calls", "function_call", "tool_call_id", "parallel_tool_calls")
_GIVE_PAIR = 'give {"prompt": ..., "chosen": ..., "rejected": ...}, texts or lists of turns'
_NO_TOOLS = "calls of tools are not among what is rendered; leave out the conversations that have them"


@dataclass(frozen=True)
class Turn:
    """What somebody says. `learned`: it is the assistant's and trained on; OpenAI's `weight` 0 says that it is not."""

    role: str
    content: str
    learned: bool = False


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt: each a prompt and an answer as texts, or turns of which the answer's are learned."""

    chosen: tuple[str, str] | list[Turn]
    rejected: tuple[str, str] | list[Turn]


def is_pair(row: object) -> bool:
    """Whether a row of data, no text, holds a chosen or a rejected answer."""
    if not isinstance(row, Mapping) or row.get("text") is not None:
        return False
    return any(row.get(column) is not None for column in ANSWERS)


def read_pair(row: Mapping[str, Any]) -> Pair:
    """The answers of a row, as texts or as turns. Raises `InputRefused` that names the field."""
    for field in ("text", *COLUMNS):
        if row.get(field) is not None:
            raise _refused(field, f"is there beside an answer; {_GIVE_PAIR}")
    _refuse_tools("", row)
    for field in ANSWERS:
        if row.get(field) is None:
            raise _refused(field, f"is missing; {_GIVE_PAIR}")
    prompt, chosen, rejected = (row.get(field) for field in (PROMPT, *ANSWERS))
    if chosen == rejected:
        raise _refused("rejected", "is what chosen is, so nothing is learned of them; remove the row")
    for field, value in zip((PROMPT, *ANSWERS), (prompt, chosen, rejected), strict=True):
        if type(value) is not type(chosen) and (field, value) != (PROMPT, None):
            raise _refused(field, f"is {type(value).__name__}, and chosen is {type(chosen).__name__}; give one kind")
    if isinstance(chosen, str):
        asked = _text(PROMPT, prompt)
        return Pair((asked, _text("chosen", chosen)), (asked, _text("rejected", rejected)))
    turns = [_turns(field, value) for field, value in zip(ANSWERS, (chosen, rejected), strict=True)]
    if prompt is None:
        shared = 0
        while shared < min(map(len, turns)) and turns[0][shared] == turns[1][shared]:
            shared += 1
        before, turns = turns[0][:shared], [each[shared:] for each in turns]
    else:
        before = _turns(PROMPT, prompt)
    if not before:
        raise _refused(PROMPT, "is missing, and chosen and rejected begin differently; give the turns before them")
    before = [replace(turn, learned=False) for turn in before]
    answers = [_answered(field, own) for field, own in zip(ANSWERS, turns, strict=True)]
    return Pair([*before, *answers[0]], [*before, *answers[1]])


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _refused(field, f"is missing; {_GIVE_PAIR}")
    if field != PROMPT and not value.strip():
        raise _refused(field, "is empty; remove the row")
    return _whole(field, value)


def _turns(field: str, value: Any) -> list[Turn]:
    if not isinstance(value, Sequence):
        raise _refused(field, f"is {type(value).__name__}; give a text, or a list of turns")
    read = [_spoken if isinstance(each, Mapping) and "from" in each else _message for each in value]
    return [each(f"{field}[{number}]", turn) for number, (each, turn) in enumerate(zip(read, value, strict=True))]


def _answered(field: str, turns: list[Turn]) -> list[Turn]:
    """The turns up to the assistant's last one."""
    while turns and not turns[-1].learned:
        turns = turns[:-1]
    if not turns:
        raise _refused(field, "has no turn of the assistant after the prompt; remove the row")
    return turns


def is_conversation(row: object) -> bool:
    """Whether a row of data holds a conversation."""
    return isinstance(row, Mapping) and any(row.get(column) is not None for column in COLUMNS)


def read_turns(row: Mapping[str, Any]) -> list[Turn]:
    """The turns of a conversation, up to the assistant's last one. Raises `InputRefused` that names the field."""
    if row.get("text") is not None or all(row.get(column) is not None for column in COLUMNS):
        raise _refused("", f"has more than one of text, {', '.join(COLUMNS)}; give one of them")
    _refuse_tools("", row)
    of_openai = row.get(MESSAGES) is not None
    column = MESSAGES if of_openai else CONVERSATIONS
    said = row[column]
    if not isinstance(said, Sequence) or isinstance(said, str | bytes):
        raise _refused(column, f"is {type(said).__name__}; give a list of turns")
    read = _message if of_openai else _spoken
    turns = [read(f"{column}[{number}]", each) for number, each in enumerate(said)]
    if not of_openai and isinstance(row.get("system"), str) and not any(turn.role == SYSTEM for turn in turns):
        turns.insert(0, Turn(SYSTEM, row["system"]))
    while turns and not turns[-1].learned:
        turns.pop()
    if not turns:
        raise _refused(column, "has no turn of the assistant, so nothing is learned of it; remove it")
    return turns


def _message(where: str, message: Any) -> Turn:
    """One of OpenAI's messages."""
    if not isinstance(message, Mapping):
        raise _refused(where, 'is no object; give {"role": ..., "content": ...}')
    _refuse_tools(f"{where}.", message)
    if message.get("name"):
        raise _refused(f"{where}.name", "is there; templates know roles alone, write names into the content")
    if "role" not in message and "from" in message:
        raise _refused(where, 'is written as ShareGPT has it; name the list "conversations"')
    role = message.get("role")
    if role not in ROLES:
        raise _refused(f"{where}.role", f"is {role!r}; give {', '.join(ROLES)}")
    weight = message.get("weight")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1) or role != ASSISTANT):
        raise _refused(f"{where}.weight", f"is {weight!r}; give 0 or 1, and to the assistant's turns alone")
    return _turn(where, role, message.get("content"), "content", weight != 0)


def _spoken(where: str, turn: Any) -> Turn:
    """One of ShareGPT's turns."""
    if not isinstance(turn, Mapping):
        raise _refused(where, 'is no object; give {"from": ..., "value": ...}')
    if "from" not in turn and "role" in turn:
        return _message(where, turn)
    speaker = turn.get("from")
    if not isinstance(speaker, str) or speaker not in _SPEAKERS:
        raise _refused(f"{where}.from", f"is {speaker!r}; give {', '.join(_SPEAKERS)}")
    return _turn(where, _SPEAKERS[speaker], turn.get("value"), "value", True)


def _turn(where: str, role: str, content: Any, field: str, weighed: bool) -> Turn:
    if isinstance(content, Sequence) and not isinstance(content, str):
        parts = [
            part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content
        ]
        if None in parts:
            raise _refused(f"{where}.{field}", "has parts that are no text; models here read text alone")
        content = "".join(map(str, parts))
    if not isinstance(content, str):
        raise _refused(f"{where}.{field}", f"is {type(content).__name__}; give a text")
    content = _whole(f"{where}.{field}", content)
    if role == ASSISTANT and not content.strip():
        raise _refused(f"{where}.{field}", "is empty; remove the turn")
    return Turn(role, content, role == ASSISTANT and weighed)


def _refuse_tools(where: str, row: Mapping[str, Any]) -> None:
    for field in _TOOLS:
        if row.get(field):
            raise _refused(f"{where}{field}", f"is there; {_NO_TOOLS}")


def _whole(where: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _refused(where, "holds half a character (a lone surrogate); remove it") from None
    return text


def _refused(field: str, reason: str) -> InputRefused:
    return InputRefused("data file", f"{field} {reason}".strip())
