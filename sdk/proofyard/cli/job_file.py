"""Job files: what `job submit` takes, written down in TOML. Flags say it last.

A file is flat: `workload`, the terms (`reward`, `audit_fee`, ...), and any parameter of the workload's job spec.
Amounts are CREDIT, `deadline` is seconds or text such as "24h". Paths are relative to the file.
"""

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from proofyard.cli.errors import UsageError
from proofyard.cli.options import parse_duration
from proofyard.cli.output import parse_credits
from proofyard.runtime.toml_files import read_toml

AMOUNTS = ("reward", "audit_fee", "verifier_fee")
TERMS = (*AMOUNTS, "auditors", "segments_per_audit", "deadline", "nonce")
PATHS = ("model", "data", "adapter", "chat_template")
OTHERS = ("workload", "preset")


def read_job_file(file: Path) -> dict[str, Any]:
    """What a job file says, amounts in base units, deadline in seconds, paths as seen from here. Raises `UsageError`
    with the name that does not fit."""
    try:
        found, written = read_toml(file), read_toml(file, parse_float=lambda text: text.replace("_", ""))
    except (OSError, ValueError) as error:
        what = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else error
        raise UsageError(f"FILE: {file} {what}; `proofyard job init` makes one") from None
    # Of an amount every digit counts, which a float would round.
    exact = {name: written[name] for name in AMOUNTS if name in written}
    return {name: _value(file, name, value) for name, value in (found | exact).items()}


def require_known(said: Mapping[str, Any], workload: str) -> None:
    """Raise `UsageError` for a name that neither the terms nor the workload's job spec have, with the one that was
    meant."""
    from proofyard.sdk.jobs import JOBS
    from proofyard.sdk.peft_words import WORDS

    if workload not in JOBS:
        raise UsageError(f"workload: there is none named {workload!r}{_nearest(workload, tuple(JOBS))}")
    known = (*OTHERS, *TERMS, *(each.name for each in fields(JOBS[workload])))
    for name in said:
        if name not in known and not (workload == "lora" and name in WORDS):
            raise UsageError(f"{name}: a {workload} job has no such name{_nearest(name, known)}")


def _value(file: Path, name: str, value: Any) -> Any:
    try:
        if name in AMOUNTS and type(value) in (int, str):
            return parse_credits(str(value))
        if name == "deadline" and isinstance(value, str):
            return parse_duration(value)
    except typer.BadParameter as error:
        raise UsageError(f"{file}: {name}: {error.message}") from None
    if name in AMOUNTS:
        raise UsageError(f"{file}: {name}: {value!r} is no amount of CREDIT; write it like 12 or 0.5")
    if name in PATHS and isinstance(value, str):
        here = file.parent / Path(value).expanduser()
        return str(here) if here.exists() else value
    return value


def _nearest(name: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(name.lower().replace("-", "_"), known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; it knows {', '.join(known)}"


_TERMS_TEXT = """\
reward = {reward}                 # CREDIT for the workers, the most that their work can cost you
audit_fee = {audit_fee}               # CREDIT for the auditors
# verifier_fee = 5           # CREDIT; without it 5% of the reward and the gas
# deadline = "24h"           # how long the job may take
# auditors = 2               # owners that execute each segment that is drawn
# segments_per_audit = 1     # segments that are drawn of an audited task
# nonce = "a word of yours"  # every call with it finds the one job
"""
_LORA = """\
# preset = "small"           # or medium, large: sizes that the names below change
rounds = 2                   # each trains side by side, then averages
# epochs = 2                 # in place of rounds: times that all of the data is learned, also 0.5
workers = 4                  # tasks side by side in a round
segments = 4                 # parts of a task that can be audited
segment_steps = 2            # optimizer steps in a segment
batch = 4                    # sequences in a step
seq_len = 128                # tokens in a sequence
# packing = true             # rows of whole documents that do not see each other: for short ones
# objective = "dpo"          # learns to prefer: data of {"prompt": ..., "chosen": ..., "rejected": ...} a line
# beta = 0.1                 # of dpo: the larger, the closer the model stays with the base
rank = 8                     # of the adapter
lr = 0.003
# alpha = 16.0
# aggregation = "ffa"        # trains B alone, which averages exactly; or fedit, fedex, flora
# robust = "multi-krum"      # outvotes hostile results, robust_hostile = 1 of 5 workers or more
# caps = { owner = 1, subnet = 2 }   # of a round's tasks: what one owner's nodes, and those of one subnet, do at most
# targets = ["q_proj", "v_proj"]   # or "all-linear"
# precision = "exact"        # "exact8" is faster, "exact4" (QLoRA) takes the least memory
# compression = "int8"       # or "int4", "two-bit", "sign", "topk-2bit": what a task sends
# overlap = true             # a round's results travel while the next one is trained, and count in the one after it
# closing = { quorum = 3, timeout_s = 600 }   # rounds do not wait for everybody
# rounds_by = "nodes"        # nodes decide what a round takes, also while no verifier is there
# local = { digests = ["bafy...", "bafy..."], auditors = ["0x..."] }   # of data = "local:NAME", which stays at home
seed = 0
"""
_ROWS = """\
segment_rows = 64            # lines that are checked at once
segments = 8                 # of a task
seed = 0
"""
TEMPLATES: Mapping[str, tuple[str, str, str]] = {
    "lora": ("Fine-tune a language model with LoRA.", 'data = "text.jsonl"          # {"text": ...} a line', _LORA),
    "chat": (
        "Fine-tune a chat model with LoRA, on what the assistant says.",
        'data = "chats.jsonl"         # {"messages": [{"role": ..., "content": ...}, ...]} a line\n'
        '# chat_template = "chatml"   # where the model has none',
        _LORA,
    ),
    "sweep": (
        "Try many settings of LoRA, and rank them.",
        'data = "text.jsonl"          # {"text": ...} a line',
        "samples = 0                  # 0 tries all combinations\nsequences = 32               # that a candidate is "
        "judged by\nseed = 0\nbase = { rank = 8, segments = 4, segment_steps = 2, batch = 4, seq_len = 128 }\n\n"
        "[vary]                       # every name with its values\nlr = [0.001, 0.003]\n",
    ),
    "embed": (
        "A vector for every text.",
        'data = "texts.jsonl"         # {"text": ...} a line',
        "max_tokens = 256\n" + _ROWS,
    ),
    "evaluate": (
        "Perplexity of a model on every text, or its accuracy where lines have choices.",
        'data = "texts.jsonl"         # {"text": ...} a line\n'
        '# adapter = "adapter/"       # a folder, a CID or a job\'s number',
        "# choices = 4                # where lines have choices\nmax_tokens = 512\n" + _ROWS,
    ),
}
"""Of each kind: what it is for, its data, its parameters."""


def template(kind: str, file: Path) -> str:
    """A commented job file that can be submitted once model and data are there."""
    import shlex

    what, data, parameters = TEMPLATES[kind]
    workload = "lora" if kind == "chat" else kind
    terms = _TERMS_TEXT.format(reward=100, audit_fee=20)
    return (
        f"# {what}\n# Submit it with: proofyard job submit {shlex.quote(str(file))}\n"
        "# Paths are relative to this file; options of `job submit` say it last. What is submitted is not encrypted.\n"
        f'workload = "{workload}"\nmodel = "model/"             # a Hugging Face directory, or a name on the hub\n'
        f"{data}\n\n{terms}\n{parameters}"
    )
