"""Conversations as training data: rendered by the model's chat template before anything is published or paid.

What nodes get is the text of each conversation and which of its tokens are the assistant's, so that nobody but the
requester runs the template, and that in a process without keys (`proofyard.workloads.chat_child`).
"""

import hashlib
import json
import logging
from dataclasses import is_dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

from proofyard.sdk.errors import JobRefused
from proofyard.sdk.specs import resolve_model
from proofyard.workloads.chat import is_conversation, is_pair
from proofyard.workloads.errors import InputRefused
from proofyard.workloads.text_data import MAX_LINE_BYTES

if TYPE_CHECKING:
    from proofyard.workloads.chat_child import Done

logger = logging.getLogger("proofyard.sdk")


def with_rendered_chats(spec: Any, folder: Path) -> Any:
    """A job spec whose data has no conversations: where it has, they are rendered to a file in `folder`. Raises
    `JobRefused` that names the line."""
    template = getattr(spec, "chat_template", None)
    data = getattr(spec, "data", None)
    if template is None or not is_dataclass(spec) or isinstance(spec, type) or not isinstance(data, str | Path):
        return spec
    if not isinstance(template, str) or not Path(data).is_file():
        return spec
    first, pairs = _first_row(Path(data)), getattr(spec, "objective", "") == "dpo"
    if is_pair(first) and not pairs:
        raise JobRefused(
            'data: its first line is a pair of answers (chosen, rejected); a lora job with objective "dpo" takes those'
        )
    if not (pairs or is_conversation(first)) or (pairs and _is_rendered(first)):
        if template:
            raise JobRefused("chat_template: the data's first line is no conversation; leave chat_template out")
        return spec
    from proofyard.workloads.chat_child import Order, render_chats  # jinja2, which no other job needs

    model: Any = spec
    folder.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=folder, prefix="unfinished-", delete=False) as stream:
        unfinished = Path(stream.name)
    try:
        order = Order(
            str(resolve_model(model.model).resolve()),
            template,
            str(data),
            str(unfinished),
            model.longest_text(),
            pairs=pairs,
        )
        _tell(render_chats(order), order.most)
        with unfinished.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
    except InputRefused as error:
        unfinished.unlink()
        field = "data" if "data file" in error.what else "chat_template"
        raise JobRefused(f"{field}: {error}; nothing was published or paid") from None
    except BaseException:
        unfinished.unlink()
        raise
    return replace(model, data=unfinished.replace(folder / f"{digest[:32]}.jsonl"), chat_template="")


def _is_rendered(row: Any) -> bool:
    """Whether a row is what nodes get."""
    return isinstance(row, dict) and isinstance(row.get("text"), str)


def _first_row(data: Path) -> Any:
    """A file's first line; what is no JSON is somebody else's to refuse."""
    with data.open("rb") as stream:
        for line in iter(lambda: stream.readline(MAX_LINE_BYTES), b""):
            if line.strip():
                try:
                    return json.loads(line.decode("utf-8-sig"))
                except (ValueError, RecursionError):
                    return None
    return None


def _tell(done: "Done", most: int) -> None:
    logger.info(
        "%d conversations: %d of %d tokens are the assistant's and learned",
        done.conversations,
        done.learned,
        done.tokens,
    )
    if done.shortened:
        logger.warning(
            "%d of %d conversations lost turns at their end, so that each has at most %d tokens; a longer seq_len (or "
            "max_tokens) keeps them",
            done.shortened,
            done.conversations,
            most,
        )
