"""`proofyard artifact`: files and folders by content, from the shell. Thin over `proofyard.sdk.Artifacts`."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from proofyard.cli.context import config_of
from proofyard.cli.errors import UsageError
from proofyard.cli.options import PEERS, WalletFlags, parse_duration, scaled
from proofyard.cli.output import AsJson, emit, note, plain, table
from proofyard.cli.tree import App
from proofyard.protocol.cid import CidError, spelt_cid
from proofyard.protocol.types import Cid
from proofyard.sdk.errors import BadSetting
from proofyard.sdk.settings import data_dir, load

if TYPE_CHECKING:
    from proofyard.sdk import Artifacts, Swarm
    from proofyard.sdk.artifacts import Kept

app = App("Files and folders by content: put, get, list, pin, verify.")

WRITING = "writing"
"""A panel of options."""
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
SHOWN = 5
"""Roots of a CAR file that each get a remark."""
LARGEST_SIZE = (1 << 63) - 1


class ArtifactSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`store`: folder with the blocks. `ipfs`: multiaddress of an IPFS daemon's RPC, empty for none. The network's
    fields and the wallet matter to `get` only; without a wallet a new key asks."""

    store: Path
    ipfs: str = ""
    rpc_url: str = "http://127.0.0.1:8545"
    registry: str = ""
    wallet: Path | None = None
    password_file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class StoreFlags:
    """Which store to work on."""

    store: Annotated[Path | None, typer.Option(help="Folder with the blocks, if not the one in the settings.")] = None


@dataclass(frozen=True, kw_only=True)
class IpfsFlags:
    """Whether an IPFS daemon takes part."""

    ipfs: Annotated[
        str | None,
        typer.Option(
            metavar="MULTIADDRESS", help="RPC of an IPFS daemon: /ip4/127.0.0.1/tcp/5001/http.", rich_help_panel=PEERS
        ),
    ] = None


def parse_cid(text: str) -> Cid:
    """A CID typed by a person, of whichever version and base. Raises `typer.BadParameter`."""
    try:
        return spelt_cid(text)
    except CidError as error:
        raise typer.BadParameter(str(error)) from None


def parse_size(text: str) -> int:
    """Bytes of `10GB`, `512 MiB` or `4096`. Raises `typer.BadParameter`."""
    units = {unit.lower(): factor for unit, factor in UNITS.items()}
    size = scaled(text, units, "a size; write it like 4096 or 10GB")
    if size > LARGEST_SIZE:
        raise typer.BadParameter(f"{text!r} is more than 2**63 - 1 bytes")
    return size


def parse_span(text: str) -> tuple[int, int]:
    """Bytes from a start up to a stop, such as `0:4096`; `4096:` goes to the end. Raises `typer.BadParameter`."""
    found = re.fullmatch(r"([0-9]{0,18}):([0-9]{0,18})", text)
    start, stop = (0, 0) if found is None else (int(found[1] or 0), int(found[2] or 1 << 62))
    if stop <= start:
        raise typer.BadParameter(f"{text!r} is not a range; write START:STOP, such as 0:4096, or 4096: up to the end")
    return start, stop


CidArgument = Annotated[Any, typer.Argument(parser=parse_cid, metavar="CID", help="The artifact's CID.")]
OptionalCid = Annotated[Any, typer.Argument(parser=parse_cid, metavar="CID", help="One artifact; all if left out.")]


@app.verb("put", "artifact put model/")
def put(
    context: typer.Context,
    store: StoreFlags,
    ipfs: IpfsFlags,
    path: Annotated[Path, typer.Argument(help="A file, or a folder without its hidden files.")],
    link: Annotated[bool, typer.Option("--link", help="Leave the content where it is instead of copying it.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Store what symbolic links point to, not the links as `ipfs add` does.")
    ] = False,
    car: Annotated[bool, typer.Option("--car", help="PATH is a CAR file: take its blocks, pin its roots.")] = False,
    as_json: AsJson = False,
) -> None:
    """Store a file or folder, pinned. Prints its CID, which is also the one that IPFS gives it.

    As with `ipfs add`, permissions are not kept."""
    if not os.path.lexists(path):
        raise UsageError(f"PATH: there is no file or folder {path}; check its name")
    artifacts = _open(_settings(context, store, ipfs))
    if car:
        if link or follow:
            raise UsageError("--car takes a file's blocks as they are; leave out --link and --follow")
        _put_car(artifacts, path, as_json=as_json)
        return
    from proofyard.artifacts.source import scan
    from proofyard.artifacts.unixfs import Kind

    source = scan(path, follow=follow)
    files, links = source.files(), [each for each in source.everything() if each.kind is Kind.SYMLINK]
    with _progress(f"storing {path.name}", sum(file.size for file in files)) as moved:
        cid = artifacts.put(path, link=link, follow=follow, on_read=moved)
    emit({"cid": cid, "bytes": artifacts.store.size(cid)}, as_json=as_json, text=cid)
    if links:
        note(f"{len(links)} symbolic links are stored as links; --follow stores what they point to")
    if any(file.mode & 0o111 for file in files):
        note("that files are executable is not kept, as with `ipfs add`; pack them in an archive to keep it")
    note(f"next: proofyard artifact get {cid} COPY")


def _put_car(artifacts: "Artifacts", path: Path, *, as_json: bool) -> None:
    found = artifacts.put_car(path)
    roots = [{"cid": root, "complete": artifacts.is_complete(root)} for root in found.roots]
    facts = {"roots": roots, "blocks": found.blocks, "passed_over": found.passed_over}
    emit(facts, as_json=as_json, text="\n".join(found.roots))
    if found.passed_over:
        note(f"{found.passed_over} blocks with other hashes or codecs were passed over")
    if not roots:
        note(f"it names no root, so nothing keeps its {found.blocks} blocks; next: proofyard artifact pin CID")
    partial = [root["cid"] for root in roots if not root["complete"]]
    for cid in partial[:SHOWN]:
        note(f"{cid} is not all in the file; next: proofyard artifact get {cid} DEST")
    if len(partial) > SHOWN:
        note(f"{len(partial) - SHOWN} other roots are not all in the file either")


@app.verb("get", "artifact get CID model/")
def get(
    context: typer.Context,
    store: StoreFlags,
    ipfs: IpfsFlags,
    flags: WalletFlags,
    cid: CidArgument,
    dest: Annotated[Path, typer.Argument(help="File or folder to write.")],
    peer: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="Ask this peer, not those in the Registry; may be repeated."),
    ] = None,
    span: Annotated[
        Any,
        typer.Option(
            "--range",
            parser=parse_span,
            metavar="START:STOP",
            help="Only these bytes of a file.",
            rich_help_panel=WRITING,
        ),
    ] = None,
    max_size: Annotated[
        Any, typer.Option(parser=parse_size, metavar="SIZE", help="Refuse more than this.", rich_help_panel=PEERS)
    ] = "64GiB",
    car: Annotated[
        bool, typer.Option("--car", help="Write a CAR file with all blocks.", rich_help_panel=WRITING)
    ] = False,
    outside_links: Annotated[
        bool,
        typer.Option(
            "--outside-links", help="Write symbolic links that lead out of the artifact, too.", rich_help_panel=WRITING
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Write over what is there; files of other names stay.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write an artifact to DEST. What is not in the store comes from several peers at once, each block checked.

    Where entries are left out that cannot be read here or would lead out of DEST, the exit code is 2."""
    from proofyard.sdk.destinations import require_new

    require_new(dest, force=force)
    if car and (span or dest.is_dir()):
        raise UsageError("--car writes a whole artifact to a file; leave out --range, and name a file as DEST")
    settings = _settings(context, store, ipfs, flags)
    artifacts = _open(settings)
    if not artifacts.is_complete(cid, span):
        artifacts = _open(settings, _swarm(settings, peer or []))
    with _progress(f"fetching {cid[:12]}…", None) as moved:
        seen = 0

        def show(received: int, missing: int) -> None:
            nonlocal seen
            moved(max(0, received - seen), f"{missing} blocks known to be missing")
            seen = received

        path = artifacts.get(
            cid,
            dest,
            span=span,
            max_bytes=max_size,
            car=car,
            outside_links=outside_links,
            force=force,
            on_progress=show,
        )
    emit({"cid": cid, "path": str(path)}, as_json=as_json, text=str(path))


@app.verb("ls", "artifact ls")
def list_(context: typer.Context, store: StoreFlags, cid: OptionalCid = None, as_json: AsJson = False) -> None:
    """List the artifacts that are kept, or the files and folders in one."""
    artifacts = _open(_settings(context, store))
    if cid is not None:
        found, rows = [], []
        for entry in artifacts.entries(cid):
            path = "/".join(entry.path) + "/" * entry.is_directory
            fact = {"cid": entry.cid, "bytes": entry.size, "path": path, "kind": entry.kind.value}
            remark = f" -> {entry.target}" if entry.target else f"  ({entry.why})" if entry.why else ""
            found.append(
                fact | ({"target": entry.target} if entry.target else {}) | ({"why": entry.why} if entry.why else {})
            )
            rows.append([str(entry.cid), str(entry.size), plain(path + remark, keep="")])
        emit(found, as_json=as_json, text=table(rows, ["CID", "BYTES", "PATH"]))
        return
    kept = artifacts.kept()
    facts = [
        {
            "cid": each.cid,
            "bytes": each.size,
            "until": each.pin.until if each.pin else None,
            "reason": each.pin.reason if each.pin else "",
            "path": None if each.path is None else str(each.path),
            "fault": None if each.fault is None else str(each.fault),
        }
        for each in kept
    ]
    kept_rows = [
        [
            str(each.cid),
            _state(each),
            "for good" if each.pin is None or each.pin.until is None else _date(each.pin.until),
            each.pin.reason if each.pin and each.pin.reason else str(each.path or ""),
        ]
        for each in kept
    ]
    emit(facts, as_json=as_json, text=table(kept_rows, ["CID", "BYTES", "KEPT UNTIL", "WHAT"]))


@app.verb("pin", "artifact pin CID --for 7d")
def pin(
    context: typer.Context,
    store: StoreFlags,
    cid: CidArgument,
    lease: Annotated[
        Any, typer.Option("--for", parser=parse_duration, metavar="TIME", help="Only for so long, such as 7d.")
    ] = None,
    reason: Annotated[str, typer.Option(help="What `artifact ls` shows beside it.")] = "",
    remove: Annotated[bool, typer.Option("--remove", help="Take the pin back.")] = False,
    as_json: AsJson = False,
) -> None:
    """Keep an artifact from being collected, or no longer."""
    artifacts = _open(_settings(context, store))
    if remove:
        artifacts.unpin(cid)
    else:
        artifacts.pin(cid, seconds=lease, reason=reason)
        if not artifacts.is_complete(cid):
            note(f"it is not all here yet; next: proofyard artifact get {cid} DEST")
    emit({"cid": cid, "pinned": not remove}, as_json=as_json, text=cid)


@app.verb("gc", "artifact gc --grace 1d")
def gc(
    context: typer.Context,
    store: StoreFlags,
    quota: Annotated[Any, typer.Option(parser=parse_size, metavar="SIZE", help="Stop at so many bytes left.")] = "0",
    grace: Annotated[
        Any, typer.Option(parser=parse_duration, metavar="TIME", help="Leave what is younger than this.")
    ] = "1h",
    as_json: AsJson = False,
) -> None:
    """Delete the blocks that no pin and no link needs, the oldest first."""
    done = _open(_settings(context, store)).collect(quota_bytes=quota, grace_s=grace)
    facts = {"blocks": done.blocks, "bytes": done.bytes, "bytes_left": done.bytes_left}
    emit(facts, as_json=as_json, text=f"deleted {done.blocks} blocks, {done.bytes} bytes; {done.bytes_left} bytes left")


@app.verb("verify", "artifact verify")
def verify(context: typer.Context, store: StoreFlags, cid: OptionalCid = None, as_json: AsJson = False) -> None:
    """Read and hash every block. Damaged ones are deleted, so that `artifact get` fetches them again (exit code 4)."""
    artifacts = _open(_settings(context, store))
    with _progress("verifying", None) as moved:
        found = artifacts.verify(cid, on_read=moved)
    facts = {"blocks": found.blocks, "bytes": found.bytes, "damaged": found.damaged, "missing": found.missing}
    emit(facts, as_json=as_json, text=f"{found.blocks} blocks, {found.bytes} bytes are right")
    from proofyard.artifacts import BlockMissing, CorruptArtifact

    if found.damaged:
        raise CorruptArtifact(
            found.damaged[0],
            f"{len(found.damaged)} blocks did not match and were deleted; fetch the artifact again (artifact get)",
        )
    if found.missing:
        raise BlockMissing(found.missing[0])


def _settings(
    context: typer.Context, store: StoreFlags, ipfs: IpfsFlags | None = None, flags: WalletFlags | None = None
) -> ArtifactSettings:
    given = {"store": store.store, "ipfs": ipfs.ipfs if ipfs else None, **(flags.given() if flags else {})}
    defaults = {"store": data_dir("artifacts")}
    return load(ArtifactSettings, "artifact", toml=config_of(context), flags=given, defaults=defaults)


def _open(settings: ArtifactSettings, swarm: "Swarm | None" = None) -> "Artifacts":
    from proofyard.sdk import Artifacts

    return Artifacts(settings.store, swarm=swarm, ipfs=settings.ipfs)


def _swarm(settings: ArtifactSettings, peers: list[str]) -> "Swarm | None":
    """Whom to ask: the peers that were named, else those in the Registry, else nobody but the IPFS daemon."""
    from proofyard.sdk import PeerAddress, Swarm

    named = [PeerAddress.parse(peer) for peer in peers]
    if not settings.registry:
        if settings.ipfs and not named:
            return None
        raise BadSetting(
            "registry", "artifact get needs the network: give --registry, set PROOFYARD_REGISTRY, or --ipfs"
        )
    from proofyard.chain.reader import RegistryReader
    from proofyard.cli.wallets import unlock
    from proofyard.protocol.types import Address

    wallet = unlock(settings.wallet, settings.password_file) if settings.wallet else None
    chain = RegistryReader(settings.rpc_url, Address(settings.registry))
    return Swarm.from_chain(chain, peers=named, wallet=wallet)


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Bytes and rate on stderr, on a terminal only. Call the result with the bytes of each step, and a remark."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    remark = TextColumn("{task.fields[remark]}")
    with Progress(*columns, remark, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total, remark="")
        yield lambda count, remark="": progress.update(task, advance=count, remark=remark)


def _state(kept: "Kept") -> str:
    """A kept artifact's bytes, or why they cannot be told."""
    if kept.size is not None:
        return str(kept.size)
    return (
        "incomplete" if kept.fault is None else re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(kept.fault).__name__).lower()
    )


def _date(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="minutes")
    except (OverflowError, ValueError, OSError):
        return "after the year 9999"
