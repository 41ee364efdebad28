"""`proofyard job explain`: why, as a verifier tells it, each statement with the record that shows it and the command
that replays it. The verifier is asked over its HTTP API; whoever believes nobody types the commands.
"""

import re
from typing import Annotated, Any

import msgspec
import typer

from proofyard.cli.context import config_of
from proofyard.cli.errors import ApiRefused, ApiUnreachable, UsageError
from proofyard.cli.options import LARGEST_ID, KeystoreDir, address_of
from proofyard.cli.output import AsJson, emit, note
from proofyard.protocol.codec import CodecError, decode_json, read_json
from proofyard.runtime import answers
from proofyard.sdk.settings import SHARED, ApiSettings, load

TIMEOUT_S = 60.0
MAX_BYTES = 16 << 20
ORDER = ("state", "given", "waits", "drawn", "audit", "fault", "slashed", "settled", "paid", "fees", "node")
_HEADS = {
    "state": "state",
    "given": "who had it",
    "waits": "what it waits for",
    "drawn": "why it was audited or not",
    "audit": "what auditors said",
    "fault": "faults",
    "slashed": "faults, and what they took",
    "settled": "settlement",
    "paid": "who was paid what",
    "fees": "what verifiers earned",
    "node": "why nodes get no work",
}

Api = Annotated[
    str | None, typer.Option(metavar="URL", help="HTTP API of the job's verifier, if not the one in the settings.")
]


class Shown(msgspec.Struct, frozen=True):
    batch: str | None
    record: str | None
    replay: str


class Because(msgspec.Struct, frozen=True):
    about: str
    text: str
    task: int | None
    node: str | None
    facts: dict[str, str]
    shown: Shown


class Explanation(msgspec.Struct, frozen=True):
    """What the API says; see `proofyard.verifier.api.types`."""

    job: str
    task: int | None
    state: str
    because: tuple[Because, ...]
    cut: bool


def explain(
    context: typer.Context,
    job: Annotated[int, typer.Argument(metavar="JOB", min=1, max=LARGEST_ID, help="The job's number.")],
    task: Annotated[int | None, typer.Argument(metavar="TASK", min=0, max=2**31 - 1, help="One of its tasks.")] = None,
    node: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Only of this node: its address, or its wallet's name.")
    ] = None,
    api: Api = None,
    keystore_dir: KeystoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Say why tasks went as they did, and who was paid what.

    Why one was given to whom, audited, or waits; why a node gets no work; who was slashed.

    Each statement names the batch and record that show it, and the command that replays it: nobody has to be believed.
    """
    key = None if node is None else address_of(node, keystore_dir)
    settings = load(ApiSettings, "requester", toml=config_of(context), flags={"api": api}, shared=SHARED)
    found = ask(settings.api, f"/v1/jobs/{job}" + (f"/tasks/{task}" if task is not None else "") + "/explain")
    said = [each for each in found.because if key is None or (each.node or "").lower() == key.lower()]
    said.sort(key=lambda each: ORDER.index(each.about) if each.about in ORDER else len(ORDER))
    data = msgspec.to_builtins(msgspec.structs.replace(found, because=tuple(said)))
    emit(data, as_json=as_json, text=text_of(found, said))
    if found.cut:
        note("there is more than is shown; ask for one task, or with --node for one node")
    replay = next((each.shown.replay for each in said if each.shown.replay), "")
    if replay:
        note(f"next, to see for yourself: {replay}")


def ask(api: str, path: str) -> Explanation:
    """What the API at `api` says at `path`. Raises `ApiUnreachable`, `ApiRefused`."""
    url = api.rstrip("/") + path
    try:
        status, data = answers.get(url, MAX_BYTES, TIMEOUT_S)
    except answers.NoAnswer as error:
        raise ApiUnreachable(api, error.reason) from None
    if status == 404:
        raise UsageError(f"the verifier at {api} knows no {_what(path)}; `proofyard job list` shows the jobs there are")
    if status != 200:
        raise ApiRefused(url, status, _reason(data))
    try:
        return decode_json(data, Explanation)
    except CodecError as error:
        raise ApiRefused(url, 200, f"what it says is no explanation ({error})") from None


def _what(path: str) -> str:
    """What a path is about: `/v1/jobs/3/tasks/7/explain` is job 3, task 7."""
    job, _, task = path.removeprefix("/v1/jobs/").removesuffix("/explain").partition("/tasks/")
    return f"task {task} of job {job}" if task else f"job {job}"


def _reason(data: bytes) -> str:
    try:
        found: Any = read_json(data)
        return _plain(str(found["reason"]))[:500]
    except (CodecError, KeyError, TypeError):
        return "it gives no reason"


def text_of(found: Explanation, said: list[Because]) -> str:
    """For people: one heading a topic, then its statements, with what shows them."""
    what = f"job {found.job}" + (f", task {found.task}" if found.task is not None else "")
    lines = [f"{what}: {found.state}"]
    topic = ""
    for each in said:
        if each.about != topic:
            topic = each.about
            lines += ["", _HEADS.get(topic, _plain(topic))]
        who = f"{each.node}: " if each.node and each.node not in each.text else ""
        lines.append(f"  {_plain(who + each.text)}")
        if each.shown.record:
            lines.append(f"    shown by batch {_plain(each.shown.batch or '')}, record {_plain(each.shown.record)}")
        if each.shown.replay:
            lines.append(f"    replay: {_plain(each.shown.replay)}")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Without what could move a terminal's cursor: nodes wrote some of it."""
    return re.sub(r"[^\x20-\x7e\u00a0-\U0010ffff]", "?", text)
