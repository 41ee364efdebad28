"""Where a round's adapter comes from, as a document that others can hold against chain and artifacts.

A document is canonical JSON of one `RoundLineage`. It is signed by nobody in particular, because every line of it is
proved elsewhere: a delta by its worker's signature under the commitment, which stands in the record of the batch that
accepted it; the record by the aggregate BLS signature of the verifiers with which the batch was settled, in the
calldata of the transaction whose event `Settlement.block_hash` and `log_index` name. So whoever has chain and artifacts
makes the same document again, and a false field shows.
"""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from proofyard.artifacts.builder import cid_of_bytes
from proofyard.protocol.closing import BPS
from proofyard.protocol.codec import CidText, CodecError, Key, decode_json
from proofyard.protocol.types import Cid, TaskIndex
from proofyard.sdk.errors import JobRefused, LineageFalse

if TYPE_CHECKING:
    from proofyard.sdk.rounds import SettledRounds
    from proofyard.workloads.lora_params import LoraParams
    from proofyard.workloads.lora_rounds import Counted

FILE = "lineage.json"
VERSION = 2
MAX_LINEAGE_BYTES = 16 << 20

Number = Annotated[str, Meta(pattern=r"\A[1-9][0-9]{0,77}\Z")]
Hex32 = Annotated[str, Meta(pattern=r"\A0x[0-9a-f]{64}\Z")]
Share = Annotated[str, Meta(pattern=r"\A(0|[1-9][0-9]{0,63})/[1-9][0-9]{0,63}\Z")]


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The Registry that settled it."""

    chain_id: int
    registry: Key


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a round started from, the artifact `state`: what round `round` of `job` came to, whose document `lineage`
    is. Round 0 for a job that begins with its seed; no document for that, and for a job on another network."""

    network: Network
    job: Number
    round: Annotated[int, Meta(ge=0)]
    state: CidText
    lineage: CidText | None


class Delta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one task handed over, `late` rounds after its own. `commitment` is the leaf that `node` signed, `share` the
    task's part in a mean, and `factor` is below 1 where it was shortened for being longer than others."""

    task: Annotated[int, Meta(ge=0)]
    shard: Annotated[int, Meta(ge=1)]
    late: Annotated[int, Meta(ge=0)]
    node: Key
    commitment: Hex32
    result: CidText
    work_units: Annotated[int, Meta(ge=1)]
    share: Share
    factor: float
    batch: Number


class Settlement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A settled batch: its record, the slots whose keys signed, where its event is, and from when on (Unix seconds on
    the chain's clock) nothing can challenge it."""

    batch: Number
    attempt: Annotated[int, Meta(ge=0)]
    record: CidText
    signers: tuple[Annotated[int, Meta(ge=0, lt=256)], ...]
    block: Annotated[int, Meta(ge=0)]
    block_hash: Hex32
    log_index: Annotated[int, Meta(ge=0)]
    final_at: Annotated[int, Meta(ge=0)]


class RoundLineage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Round `round` of `rounds` of a job, counted from 1. `decided`: by what deltas it took, those of all shards, those
    in time by the chain, or those that nodes voted for. `state` is what it came to, from which the next one starts,
    where rounds overlap the second one after it; `adapter` the same for whoever uses it, as `evaluate` jobs name it.
    `onto`, where rounds overlap: what the round before came to, which the deltas move; they are counted from
    `start`."""

    version: int
    network: Network
    job: Number
    manifest: CidText
    model: CidText | None
    data: CidText | None
    round: Annotated[int, Meta(ge=1)]
    rounds: Annotated[int, Meta(ge=1)]
    aggregation: str
    robust: str
    decided: str
    start: Origin
    deltas: tuple[Delta, ...]
    settlements: tuple[Settlement, ...]
    state: CidText
    adapter: CidText
    onto: Origin | UnsetType = UNSET


def encode_lineage(document: RoundLineage) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def decode_lineage(data: bytes) -> RoundLineage:
    """Raises `JobRefused` for what is no document, or not in its one form."""
    if len(data) > MAX_LINEAGE_BYTES:
        raise JobRefused(f"lineage: has {len(data)} bytes, and no document more than {MAX_LINEAGE_BYTES}")
    try:
        found = decode_json(data, RoundLineage)
    except CodecError as error:
        raise JobRefused(f"lineage: {error}; give a file that `proofyard job lineage` has written") from None
    if found.version != VERSION:
        raise JobRefused(f"lineage: is of version {found.version}, and this software reads version {VERSION}")
    if encode_lineage(found) != data:
        raise JobRefused("lineage: is not in its one form, so that it has another CID; write it again")
    return found


def lineage_cid(document: RoundLineage) -> Cid:
    return cid_of_bytes(encode_lineage(document))


def lineage_of(rounds: "SettledRounds", network: Network, first: Origin) -> list[RoundLineage]:
    """The documents of all settled rounds of a job, whose first one started from `first`."""
    documents: list[RoundLineage] = []
    came_to = [first] * (1 + rounds.params.behind)
    for number in range(rounds.params.begun + 1, rounds.last + 1):
        start = came_to.pop(0)
        found = _round(rounds, network, number, start, came_to[-1] if came_to else UNSET)
        documents.append(found)
        came_to.append(Origin(network, str(rounds.job), number, found.state, lineage_cid(found)))
    return documents


def _round(
    rounds: "SettledRounds", network: Network, number: int, start: Origin, onto: Origin | UnsetType
) -> RoundLineage:
    manifest, params, tasks = rounds.manifest, rounds.params, rounds.tasks(number)
    counted = rounds.counted(number)
    shares = _shares(params, counted)
    deltas = [
        Delta(
            task=task,
            shard=task % params.workers + 1,
            late=counted[task].late,
            node=found.commitment.node,
            commitment=f"0x{found.commitment.struct_hash().hex()}",
            result=found.commitment.result,
            work_units=found.commitment.work_units,
            share=f"{shares[task].numerator}/{shares[task].denominator}",
            factor=counted[task].factor,
            batch=str(found.settled.event.batch),
        )
        for task in tasks
        for found in (rounds.done[task],)
    ]
    batches = {found.settled.event.batch: found.settled.event for found in map(rounds.done.__getitem__, tasks)}
    settlements = [
        Settlement(
            batch=str(event.batch),
            attempt=event.attempt,
            record=event.record,
            signers=tuple(slot for slot in range(event.signers.bit_length()) if event.signers >> slot & 1),
            block=event.position.block,
            block_hash=f"0x{event.position.block_hash.hex()}",
            log_index=event.position.index,
            final_at=event.claimable_at,
        )
        for _, event in sorted(batches.items())
    ]
    return RoundLineage(
        version=VERSION,
        network=network,
        job=str(rounds.job),
        manifest=rounds.manifest_cid,
        model=manifest.model,
        data=manifest.data,
        round=number,
        rounds=params.rounds,
        aggregation=params.aggregation,
        robust=params.robust,
        decided="all" if params.closing is None else "votes" if params.closing.voters else "times",
        start=start,
        deltas=tuple(deltas),
        settlements=tuple(settlements),
        state=rounds.state_after(number),
        adapter=rounds.adapter_cid(number),
        onto=onto,
    )


def _shares(params: "LoraParams", counted: Mapping[TaskIndex, "Counted"]) -> dict[TaskIndex, Fraction]:
    """Each delta's part in a mean: its work, by the discount for each round that it is late, of all of that."""
    kept = Fraction(BPS if params.closing is None else params.closing.discount_bps, BPS)
    weights = {task: each.work * kept**each.late for task, each in counted.items()}
    whole = sum(weights.values())
    return {task: weight / whole for task, weight in weights.items()}


def require_true(said: RoundLineage, true: RoundLineage) -> None:
    """Raise `LineageFalse` with each field in which a document is not what chain and artifacts say."""
    if wrong := list(_differing("", msgspec.to_builtins(said), msgspec.to_builtins(true))):
        raise LineageFalse(said.job, wrong)


def _differing(path: str, said: Any, true: Any) -> Iterator[tuple[str, str, str]]:
    """(field, what is said, what is so) of all that differs."""
    if isinstance(said, Mapping) and isinstance(true, Mapping):
        for name in dict(true) | dict(said):
            yield from _differing(f"{path}.{name}" if path else name, said.get(name), true.get(name))
    elif isinstance(said, list | tuple) and isinstance(true, list | tuple) and len(said) == len(true):
        for place, (one, other) in enumerate(zip(said, true, strict=True)):
            yield from _differing(f"{path}[{place}]", one, other)
    elif said != true:
        short = (f"{len(each)} of them" if isinstance(each, list | tuple) else str(each)[:100] for each in (said, true))
        yield (path, *short)  # type: ignore[misc]
