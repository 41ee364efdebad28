"""`proofyard doctor`: what keeps things from working here, and the one thing to do about each."""

import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import structs

from proofyard.cli.context import config_of
from proofyard.cli.errors import UsageError
from proofyard.cli.options import WalletFlags
from proofyard.cli.output import AsJson, emit, plain
from proofyard.cli.run import node_settings
from proofyard.cli.tree import App
from proofyard.runtime.secrets import without_secrets
from proofyard.sdk.errors import BadSetting
from proofyard.sdk.settings import (
    NETWORK,
    SHARED,
    ApiSettings,
    NetworkSettings,
    RequesterSettings,
    data_dir,
    is_set,
    load,
)

if TYPE_CHECKING:
    from proofyard.doctor import Finding, Setup

WIDEST = 100
WHOLE_WORDS: Any = {"break_on_hyphens": False, "break_long_words": False}
"""A path or an address is copied in one piece."""
MARKS = {"fine": "ok", "note": "note", "fault": "FAULT", "skipped": "-"}
COLOURS = {"fine": "32", "note": "33", "fault": "1;31", "skipped": "2"}
"""SGR parameters."""


app = App()


@app.verb("doctor", "doctor")
def doctor(
    context: typer.Context,
    flags: WalletFlags,
    section: Annotated[
        list[str] | None,
        typer.Argument(metavar="SECTION", help="machine, chain, wallet, node, verifier; all if empty."),
    ] = None,
    api: Annotated[str, typer.Option(help="HTTP API of a verifier, to be asked too, if not as in the settings.")] = "",
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also what is in order, and what was skipped.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find what is wrong here, and what to do about it.

    It looks at machine, chain, wallets, node and verifier, where the settings say, changes nothing, and ends with code
    1 where something is wrong. Of a node it looks at its own settings: `proofyard --config FILE doctor node`.
    """
    from proofyard.doctor import SECTIONS, checks_of, run

    unknown = sorted(set(section or ()) - set(SECTIONS))
    if unknown:
        raise UsageError(f"SECTION: there is no {unknown[0]!r}; known are {', '.join(SECTIONS)}")
    asked = tuple(section or SECTIONS)
    setup = _setup(config_of(context), flags.given(), api, section or ())
    findings = run(checks_of(setup, asked))
    if as_json:
        emit({"ok": not _faults(findings), "findings": [_facts(each) for each in findings]}, as_json=True, text="")
    else:
        print(_text(findings, asked, verbose=verbose), flush=True)
    if _faults(findings):
        raise typer.Exit(1)


def _setup(toml: Path | None, flags: Mapping[str, Any], api: str, asked: Sequence[str]) -> "Setup":
    """The settings of every section that has any, or was asked for by name."""
    from proofyard.doctor import Setup, WalletUse
    from proofyard.verifier.settings import VerifierSettings

    kinds: dict[str, Any] = {"requester": RequesterSettings, "verifier": VerifierSettings}
    found: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    network = {name: flags[name] for name in NETWORK}
    services = [name for name in ("node", "verifier") if name in asked or is_set(name, toml)]
    # A wallet that is named goes with the section that was asked for; else it is the one who pays.
    named = services[0] if len(services) == 1 and services[0] in asked else "requester"
    for name in ("requester", *services):
        given = dict(flags) if name == named else network
        if name == "requester" and not (given.get("wallet") or is_set(name, toml)):
            continue
        defaults = {"data_dir": data_dir(name)} if name != "requester" else None
        shared = NETWORK if name != "requester" else SHARED
        try:
            if name == "node":
                found[name] = node_settings(toml, given)
            else:
                found[name] = load(kinds[name], name, toml=toml, flags=given, defaults=defaults, shared=shared)
        except BadSetting as error:
            wrong["wallet" if name == "requester" else name] = str(error)
    chosen: Any
    try:
        chosen = load(NetworkSettings, "network", toml=toml, flags=network)
    except BadSetting as error:
        chosen = next((found[name] for name in services if name in found), None)
        if chosen is None and error.field != "registry":
            wrong["chain"] = str(error)
    facts = {name: getattr(chosen, name) for name in NETWORK} if chosen else {"rpc_url": _rpc_url(flags)}
    return Setup(
        **facts,
        wallets=tuple(WalletUse(name, each.wallet, each.password_file) for name, each in found.items()),
        node=found.get("node"),
        verifier=found.get("verifier"),
        api=_api(toml, api),
        wrong=wrong,
    )


def _api(toml: Path | None, given: str) -> str:
    """The verifier's API that was named, "" for none: only one that somebody named has to answer."""
    try:
        return load(ApiSettings, "requester", toml=toml, flags={"api": given or None}, defaults={"api": ""}).api
    except BadSetting:  # told already, of the requester's section or the network's
        return given


def _rpc_url(flags: Mapping[str, Any]) -> str:
    default = next(each.default for each in structs.fields(NetworkSettings) if each.name == "rpc_url")
    return str(flags["rpc_url"] or os.environ.get("PROOFYARD_RPC_URL") or default)


def _faults(findings: Sequence["Finding"]) -> int:
    return sum(each.seen.state == "fault" for each in findings)


def _facts(finding: "Finding") -> dict[str, Any]:
    seen = finding.seen
    return {
        "section": finding.section,
        "name": finding.name,
        "state": str(seen.state),
        "looked_at": without_secrets(seen.looked_at),
        "found": without_secrets(seen.found),
        "todo": without_secrets(seen.todo),
        "seconds": round(finding.seconds, 3),
    }


def _text(findings: Sequence["Finding"], asked: Sequence[str], *, verbose: bool) -> str:
    """The page, coloured on a terminal: what comes from outside is made plain line by line."""
    width = min(WIDEST, shutil.get_terminal_size().columns)
    lines: list[str] = []
    for section in asked:
        of_section = [each for each in findings if each.section == section]
        wrong = sum(each.seen.state == "fault" for each in of_section)
        right = sum(each.seen.state == "fine" for each in of_section)
        summary = f"{right} in order" if of_section else "not set up"
        lines.append(f"{section}: {summary}" + (f", {wrong} wrong" if wrong else ""))
        for each in of_section:
            if verbose or each.seen.state in ("fault", "note"):
                lines += _lines(each, width)
    faults = _faults(findings)
    lines.append(f"{faults} fault{'s' if faults != 1 else ''} found" if faults else "no fault found")
    return "\n".join(lines)


def _lines(finding: "Finding", width: int) -> list[str]:
    """A finding in as many lines as it takes: the mark, what was found, and what to do below it."""
    seen, mark = finding.seen, MARKS[str(finding.seen.state)]
    head = f"  {_coloured(mark.ljust(5), str(seen.state))} "
    text = f"{finding.name}: {seen.found}" + (f" ({seen.looked_at})" if seen.looked_at else "")
    wrapped = textwrap.wrap(plain(without_secrets(text)), width - 8, **WHOLE_WORDS) or [""]
    lines = [head + wrapped[0], *(" " * 8 + line for line in wrapped[1:])]
    if seen.todo:
        todo = textwrap.wrap(plain(without_secrets(seen.todo)), width - 11, **WHOLE_WORDS)
        lines += [" " * 8 + ("-> " if n == 0 else "   ") + line for n, line in enumerate(todo)]
    return lines


def _coloured(text: str, state: str) -> str:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{COLOURS[state]}m{text}\x1b[0m"
