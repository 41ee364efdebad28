"""`proofyard node data`: data sets that stay on this machine, for jobs that name them."""

import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proofyard.cli.errors import UsageError
from proofyard.cli.limits import DataDir, node_settings
from proofyard.cli.output import AsJson, emit, note, table
from proofyard.cli.tree import App

if TYPE_CHECKING:
    from proofyard.workloads.local_sets import Kept, LocalSets

data = App("Data that stays here, for jobs that name it: add, list, remove.")

RENDERING = "conversations"
"""A panel of options."""
Name = Annotated[str, typer.Argument(metavar="NAME", help="What jobs call it: small letters, digits, . _ and -.")]


@dataclass(frozen=True, kw_only=True)
class RenderFlags:
    """How conversations and pairs of answers become what is computed on, as requesters' do."""

    model: Annotated[
        Path | None, typer.Option(help="The job's model, whose template renders them.", rich_help_panel=RENDERING)
    ] = None
    chat_template: Annotated[
        str, typer.Option(help="chatml or a .jinja file, where the model has none.", rich_help_panel=RENDERING)
    ] = ""
    objective: Annotated[
        str, typer.Option(help="The job's: sft or dpo; sft if not given.", rich_help_panel=RENDERING)
    ] = "sft"
    seq_len: Annotated[
        int, typer.Option(min=8, help="The job's, into which each has to fit.", rich_help_panel=RENDERING)
    ] = 128


@dataclass(frozen=True)
class _AtHome:
    """What `proofyard.sdk.tables` takes for a job."""

    data: Any
    model: Path
    chat_template: str
    objective: str
    seq_len: int

    def longest_text(self) -> int:
        return self.seq_len - 1


@dataclass(frozen=True)
class _Plain:
    """The same without a model."""

    data: Any


@data.verb("add", "node data add ward-3 notes.jsonl")
def add(
    context: typer.Context,
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL, CSV, TSV or Parquet.")],
    flags: RenderFlags,
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Keep a copy of a data set for jobs that name it.

    Nobody else gets it. Prints its digest, which a job's requester needs, and which tells nothing of it to whoever has
    no copy."""
    from proofyard.sdk.bounds import Limits
    from proofyard.sdk.tables import with_plain_data
    from proofyard.workloads.errors import InputRefused
    from proofyard.workloads.inspection import lines_of
    from proofyard.workloads.local_data import NAME

    if not re.search(NAME, name):
        raise UsageError(f"NAME: {name[:80]!r} is none; use up to 64 small letters, digits, . _ and -, such as ward-3")
    if not file.is_file():
        raise UsageError(f"FILE: {file} is no file; give a JSONL, CSV, TSV or Parquet file")
    settings = node_settings(context, folder)
    spec: _AtHome | _Plain = _Plain(file)
    if flags.model is not None:
        spec = _AtHome(file, flags.model, flags.chat_template, flags.objective, flags.seq_len)
    with TemporaryDirectory(prefix="proofyard-data-") as workplace:
        plain = Path(with_plain_data(spec, Path(workplace), Limits(data_bytes=settings.max_data_bytes)).data)
        try:
            schema, documents = lines_of(plain)
        except InputRefused as error:
            advice = "" if flags.model else "; where lines are conversations or pairs of answers, give --model"
            raise UsageError(f"FILE: {error}{advice}") from None
        kept = _sets(settings.data_dir).add(name, plain, schema, documents)
    emit(_facts(kept), as_json=as_json, text=f"{kept.name}: {documents:,} lines of {schema}\n{kept.cid}")
    note(f"next: give the requester this digest; a job that names it is local:{name}")


@data.verb("list", "node data list")
def list_sets(context: typer.Context, folder: DataDir = None, as_json: AsJson = False) -> None:
    """List the data sets that are kept here."""
    sets = _sets(node_settings(context, folder).data_dir)
    kept = sets.all()
    rows = [(each.name, each.schema, f"{each.documents:,}", str(sets.file(each)), each.cid) for each in kept]
    text = table(rows, ("NAME", "SCHEMA", "LINES", "FILE", "DIGEST")) if rows else "no data set is kept here"
    emit([{**_facts(each), "file": str(sets.file(each))} for each in kept], as_json=as_json, text=text)


@data.verb("remove", "node data remove ward-3")
def remove(context: typer.Context, name: Name, folder: DataDir = None, as_json: AsJson = False) -> None:
    """Delete a data set from the node's folder.

    The states of tasks that were computed on it can be made again no more; remove it once they are paid."""
    kept = _sets(node_settings(context, folder).data_dir).remove(name)
    if kept is None:
        raise UsageError(f"NAME: no data set {name[:80]!r} is kept here; `proofyard node data list` shows them")
    emit(_facts(kept), as_json=as_json, text=f"{kept.name} is removed")


def _sets(folder: Path) -> "LocalSets":
    from proofyard.workloads.local_sets import FOLDER, LocalSets

    return LocalSets(folder / FOLDER)


def _facts(kept: "Kept") -> dict[str, Any]:
    return {
        "name": kept.name,
        "schema": kept.schema,
        "lines": str(kept.documents),
        "bytes": str(kept.size),
        "digest": kept.cid,
    }
