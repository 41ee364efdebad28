"""A job that goes on from a round of another one: what was paused is resumed, or forked with other data or parameters.

What it needs is on chain and in artifacts alone: the other job's manifest, and the results of its settled rounds. That
job may be done, closed, or anybody's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from proofyard.artifacts.builder import cid_of_bytes
from proofyard.protocol.caps import Caps
from proofyard.protocol.codec import prepared
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.roster import Voter
from proofyard.protocol.types import Cid, JobId
from proofyard.sdk.errors import JobRefused
from proofyard.sdk.preparing import place_of, refusing
from proofyard.sdk.specs import OVERLAP_STEP, Data, executable
from proofyard.workloads.errors import ManifestRefused
from proofyard.workloads.lora_continued import KEPT, continued, within
from proofyard.workloads.lora_params import Begins, LoraParams
from proofyard.workloads.lora_rounds import Start, encode_start
from proofyard.workloads.params import misfit
from proofyard.workloads.text_data import usual_split

if TYPE_CHECKING:
    from proofyard.sdk.client import Client
    from proofyard.sdk.rounds import SettledRounds

OF_MANIFEST = ("seed", "precision", "look_ahead")
"""What else than parameters of `LoraParams` can change."""


@dataclass(frozen=True, kw_only=True)
class ContinuedJob:
    """A `lora` job whose `params` say which job and round it goes on from; `start` is what that round came to, and
    `base` the model that its adapter is of. `go_on` makes it. `split`: who trains on which rows follows from the
    data. `lacks_voters`: who decides its rounds is still to be found: those of the other job may be gone."""

    model: Path | str
    data: Data
    base: str
    params: LoraParams
    start: bytes = field(repr=False)
    seed: int
    precision: str
    look_ahead: int
    chat_template: str = ""
    split: bool = False
    lacks_voters: bool = False

    def with_voters(self, voters: tuple[Voter, ...]) -> "ContinuedJob":
        """The same job, whose rounds these decide."""
        assert self.params.closing
        closing = msgspec.structs.replace(self.params.closing, voters=voters)
        return replace(self, params=msgspec.structs.replace(self.params, closing=closing), lacks_voters=False)

    @property
    def capped(self) -> tuple[int, Caps]:
        """Shards of a round, and the most of them that one owner and one subnet do."""
        return self.params.workers, self.params.caps or Caps()

    @property
    def objective(self) -> str:
        """What rows are: texts, or pairs of answers."""
        return self.params.objective

    def longest_text(self) -> int:
        """The tokens that a conversation may have."""
        return self.params.seq_len - 1

    def manifest(self, model: Cid | None, data: Cid | None) -> Manifest:
        if model != self.base:
            raise JobRefused(f"model: is {model}, and the adapter to go on from is of {self.base}; give that one")
        params = self.params
        if self.split:
            params = msgspec.structs.replace(params, shard_by=usual_split(Path(self.data), params.workers))
        manifest = Manifest(
            workload="lora",
            params=msgspec.to_builtins(params),
            model=model,
            data=data,
            seed=self.seed,
            precision=self.precision,
            look_ahead=self.look_ahead,
            adapter=cid_of_bytes(self.start),
        )
        return executable(manifest, self.model, self.data, self.start)


def go_on(
    client: "Client",
    job: int,
    *,
    round: int | None = None,
    rounds: int | None = None,
    model: Path | str | None = None,
    data: Data | None = None,
    chat_template: str = "",
    **changes: Any,
) -> ContinuedJob:
    """A job to submit that goes on from round `round` of `job` (counted from 1), the last settled one where none is
    said, for `rounds` more of them, those that are left where nothing is said.

    With nothing changed its result is the bits that the other job would have ended in, but for jobs with compression,
    where what was not sent yet is left out, jobs whose rounds do not wait for everybody, and jobs with `overlap`, whose
    first two rounds start from the same again. `overlap` comes with half steps and goes with them, as in `LoraJob`,
    unless `outer` or `outer_lr` is given. Where nodes decided what
    rounds take those that can be reached at submission do. `data` takes other data, `changes` any field of `LoraParams`
    that does not say what the adapter is, and `seed`, `precision`, `look_ahead`. Raises `JobRefused`, and
    `ResultUnproven` where what is settled does not hold.
    """
    found = client.rounds(JobId(job))
    number = found.last if round is None else round
    found.require(number)
    manifest, before = found.manifest, found.params
    after = _changed(before, number, rounds, changes)
    seed = changes.get("seed", manifest.seed)
    if seed != manifest.seed and not before.averages_a:
        raise JobRefused("seed: cannot change where a job of ffa goes on: its A follows from the seed")
    with refusing():
        start = continued(found.start_after(number), before, after)
        begins = Begins(
            round=number,
            within=within(start),
            chain_id=client.chain.chain_id,
            registry=client.chain.registry,
            job=str(job),
        )
    if manifest.data is None:
        raise JobRefused(f"data: job {job} learned from data that stays at home; what goes on from it is a new job")
    assert manifest.model is not None
    return ContinuedJob(
        model=_model(client, found) if model is None else model,
        data=manifest.data if data is None else data,
        base=manifest.model,
        params=msgspec.structs.replace(after, begins=begins),
        start=encode_start(start),
        seed=seed,
        precision=changes.get("precision", manifest.precision),
        look_ahead=changes.get("look_ahead", manifest.look_ahead),
        chat_template=chat_template,
        split=data is not None and "shard_by" not in changes,
        lacks_voters="closing" not in changes and after.closing is not None and bool(after.closing.voters),
    )


def require_follows(child: "SettledRounds", parent: "SettledRounds") -> None:
    """Raise `JobRefused` unless what a job goes on from is what the job and round that its manifest names came to."""
    begins, start = child.params.begins, Start({}, {})
    assert begins
    try:
        parent.require(begins.round)
        start = continued(parent.start_after(begins.round), parent.params, child.params)
    except ManifestRefused as error:
        raise _other(child, f"{error.field} {error.reason}") from None
    if cid_of_bytes(encode_start(start)) != child.manifest.adapter:
        raise _other(child, "that round came to another adapter")
    if child.manifest.seed != parent.manifest.seed and not child.params.averages_a:
        raise _other(child, "that job has another seed, and so another A")
    if child.manifest.model != parent.manifest.model:
        raise _other(child, "that job has another model")


def _other(child: "SettledRounds", reason: str) -> JobRefused:
    begins = child.params.begins
    assert begins
    return JobRefused(
        f"job {child.job}: its manifest says that it goes on from round {begins.round} of job {begins.job}, and it "
        f"does not: {reason}"
    )


def _changed(before: LoraParams, number: int, more: int | None, changes: Mapping[str, Any]) -> LoraParams:
    if wrong := sorted(changes.keys() & {*KEPT, "begins"}):
        raise JobRefused(f"{wrong[0]}: cannot change where a job goes on: it says what the adapter is")
    known = {each.name for each in msgspec.structs.fields(LoraParams)}
    if unknown := sorted(changes.keys() - known - set(OF_MANIFEST)):
        raise JobRefused(f"{unknown[0]}: a lora job has no such parameter")
    left = before.rounds - number if more is None else more
    if not isinstance(left, int) or left < 1:
        raise JobRefused(f"rounds: is {left}, after round {number} of {before.rounds}; say how many more, 1 at least")
    params = {name: value for name, value in changes.items() if name not in OF_MANIFEST}
    values = msgspec.to_builtins(before) | params | {"rounds": number + left}
    values.pop("begins", None)
    values |= _outer_with(before, changes)
    if "workers" in changes:  # what was said of each worker
        values |= {name: () for name in ("ranks", "shard_segments") if name not in changes}
    if "segments" in changes and "shard_segments" not in changes:
        values["shard_segments"] = ()
    try:
        found = msgspec.convert(values, prepared(LoraParams))
    except msgspec.ValidationError as error:
        name, reason = misfit(error, values, LoraParams)
        raise JobRefused(f"{name or 'options'}: {reason}") from None
    return found


def _outer_with(before: LoraParams, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The outer step that a job takes whose rounds begin to overlap, or do no more, where nobody says how much: what
    `LoraJob` takes then. Another one than that was meant, and stays."""
    if changes.keys() & {"outer", "outer_lr"} or "overlap" not in changes or changes["overlap"] == bool(before.overlap):
        return {}
    usual, other = (OVERLAP_STEP, 1.0) if before.overlap else (1.0, OVERLAP_STEP)
    if before.outer_lr != usual:
        return {}
    plain = "none" if other == 1 else "plain"
    return {"outer_lr": other, "outer": "nesterov" if before.outer == "nesterov" else plain}


def _model(client: "Client", found: "SettledRounds") -> str:
    """The model as the wallet calls it, if that is still here, else its CID."""
    with client.wallet.turns.take() as turn:
        name = turn.model(place_of(client.chain, found.job))
    return name if name and Path(name).is_dir() else str(found.manifest.model)
