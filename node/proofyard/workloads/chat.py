"""Conversations as people have them, turned into turns: OpenAI's `messages`, ShareGPT's `conversations`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proofyard.workloads.errors import InputRefused

MESSAGES, CONVERSATIONS = "messages", "conversations"
COLUMNS = (MESSAGES, CONVERSATIONS)
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
_NO_TOOLS = "calls of tools are not among what is rendered; leave out the conversations that have them"


@dataclass(frozen=True)
class Turn:
    """What somebody says. `learned`: it is the assistant's and trained on; OpenAI's `weight` 0 says that it is not."""

    role: str
    content: str
    learned: bool = False


def is_conversation(row: object) -> bool:
    """Whether a row of data holds a conversation."""
    return isinstance(row, Mapping) and any(row.get(column) is not None for column in COLUMNS)


def read_turns(row: Mapping[str, Any]) -> list[Turn]:
    """The turns of a conversation, up to the assistant's last one. Raises `InputRefused` that names the field."""
    if row.get("text") is not None or all(row.get(column) is not None for column in COLUMNS):
        raise _refused("", f"has more than one of text, {', '.join(COLUMNS)}; give one of them")
    for field in _TOOLS:
        if row.get(field):
            raise _refused(field, f"is there; {_NO_TOOLS}")
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
    for field in _TOOLS:
        if message.get(field):
            raise _refused(f"{where}.{field}", f"is there; {_NO_TOOLS}")
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
    try:
        content.encode()
    except UnicodeEncodeError:
        raise _refused(f"{where}.{field}", "holds half a character (a lone surrogate); remove it") from None
    if role == ASSISTANT and not content.strip():
        raise _refused(f"{where}.{field}", "is empty; remove the turn")
    return Turn(role, content, role == ASSISTANT and weighed)


def _refused(field: str, reason: str) -> InputRefused:
    return InputRefused("data file", f"{field} {reason}".strip())
