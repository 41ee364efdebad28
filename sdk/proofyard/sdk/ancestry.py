"""A job's lineage from chain and artifacts: made, and a document of somebody else's held against it."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from proofyard.protocol.types import JobId
from proofyard.sdk.adapters import BESIDE
from proofyard.sdk.continuing import require_follows
from proofyard.sdk.errors import JobRefused, LineageFalse
from proofyard.sdk.lineages import (
    FILE,
    MAX_LINEAGE_BYTES,
    Network,
    Origin,
    RoundLineage,
    decode_lineage,
    encode_lineage,
    lineage_cid,
    lineage_of,
    require_true,
)
from proofyard.workloads.peft_folder import CONFIG, WEIGHTS, read_words

if TYPE_CHECKING:
    from proofyard.sdk.client import Client
    from proofyard.sdk.rounds import SettledRounds

MAX_GENERATIONS = 32
"""Jobs that go on from one another, and are looked at."""
MAX_CONFIG_BYTES = 1 << 20


def lineage(client: "Client", job: int) -> list[RoundLineage]:
    """The documents of a job's settled rounds, the first round first. Reads the results of all of them, and of the
    jobs that it goes on from. Raises `JobRefused` for a job without rounds, or whose manifest names a job that it does
    not go on from, and `ResultUnproven` where what is settled does not hold."""
    return lineage_of_rounds(client, client.rounds(JobId(job)))


def lineage_of_rounds(client: "Client", rounds: "SettledRounds") -> list[RoundLineage]:
    """The same of rounds that were read."""
    return _lineage(client, rounds, MAX_GENERATIONS)


def write_lineage(folder: Path, document: RoundLineage) -> Path:
    """Write a round's document into the folder of its result."""
    file = folder / FILE
    file.write_bytes(encode_lineage(document))
    return file


def verify_lineage(client: "Client", data: bytes) -> RoundLineage:
    """A document, once every field of it is what chain and artifacts say. Raises `LineageFalse` that names the false
    ones, `JobRefused` for what is no document of this network, and what `lineage` raises."""
    said = decode_lineage(data)
    if said.network != (here := _network(client)):
        raise JobRefused(
            f"lineage: is of Registry {said.network.registry} on chain {said.network.chain_id}, and this is "
            f"{here.registry} on chain {here.chain_id}; name that network"
        )
    for true in lineage(client, int(said.job)):
        if true.round == said.round:
            require_true(said, true)
            return said
    raise LineageFalse(said.job, [("round", str(said.round), "one that is settled whole")])


def verify_result(client: "Client", path: Path) -> RoundLineage:
    """The same of a result's folder with its document: its tensors, its configuration and the model that it names are
    those of that round. What people add, such as a card, is not looked at. Raises `LineageFalse` with the files."""
    file = path / FILE if path.is_dir() else path
    try:
        with file.open("rb") as stream:
            said = verify_lineage(client, stream.read(MAX_LINEAGE_BYTES + 1))
    except FileNotFoundError:
        raise JobRefused(
            f"lineage: {path} holds no {FILE}; `proofyard job result JOB {path} --lineage` adds it"
        ) from None
    if path.is_dir():
        if not (path / CONFIG).is_file() or (path / CONFIG).stat().st_size > MAX_CONFIG_BYTES:
            raise JobRefused(f"lineage: {path} holds no adapter of a job; the document alone can be verified: {file}")
        _check_adapter(client, said, path)
    return said


def _check_adapter(client: "Client", said: RoundLineage, path: Path) -> None:
    with TemporaryDirectory(prefix="proofyard-lineage-") as folder:
        true = client.rounds(JobId(int(said.job))).export(said.round, Path(folder) / "adapter")
        wrong = []
        if not _same(path / WEIGHTS, true / WEIGHTS):
            wrong.append((WEIGHTS, "other bytes", f"those of round {said.round}"))
        found, right = read_words(path), read_words(true)
        for word in sorted((found.keys() | right.keys()) - {"base_model_name_or_path"}):
            if found.get(word) != right.get(word):
                wrong.append((f"{CONFIG} {word}"[:100], str(found.get(word))[:100], str(right.get(word))[:100]))
    if (named := _named_model(path)) != f"ipfs://{said.model}":
        wrong.append((BESIDE, named[:100], f"ipfs://{said.model}"))
    if wrong:
        raise LineageFalse(said.job, wrong)


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()


def _named_model(path: Path) -> str:
    try:
        with (path / BESIDE).open("rb") as stream:
            return str(json.loads(stream.read(1 << 16))["base_model"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return "none"


def _lineage(client: "Client", rounds: "SettledRounds", generations: int) -> list[RoundLineage]:
    return lineage_of(rounds, _network(client), _first(client, rounds, generations))


def _first(client: "Client", rounds: "SettledRounds", generations: int) -> Origin:
    """What a job's first round started from."""
    begins, network = rounds.params.begins, _network(client)
    if not begins:
        return Origin(network, str(rounds.job), 0, rounds.state_after(0), None)
    assert rounds.manifest.adapter is not None
    there = Network(begins.chain_id, begins.registry)
    if there != network:
        return Origin(there, begins.job, begins.round, rounds.manifest.adapter, None)
    if int(begins.job) >= rounds.job or not generations:
        reason = f"more than {MAX_GENERATIONS} others" if not generations else "one that was not there before it"
        raise JobRefused(f"job {rounds.job}: goes on from job {begins.job}, {reason}; nobody can follow that")
    parent = client.rounds(JobId(int(begins.job)))
    require_follows(rounds, parent)
    documents = _lineage(client, parent, generations - 1)
    document = documents[begins.round - 1 - parent.params.begun]
    return Origin(network, begins.job, begins.round, rounds.manifest.adapter, lineage_cid(document))


def _network(client: "Client") -> Network:
    return Network(client.chain.chain_id, client.chain.registry)
