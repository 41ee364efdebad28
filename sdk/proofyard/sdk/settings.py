"""Settings of a program: defaults, then a TOML file, then the environment, then flags; the last one that speaks wins.

A settings class is a frozen msgspec struct. Section `node` reads the table `[node]`, the variables
`PROOFYARD_NODE_<FIELD>` and flags. Fields that programs share, such as the network's, may also stand at the top of
the file or in `PROOFYARD_<FIELD>`; the network's also in the table `[network]`. A relative path in the file is relative
to the file, elsewhere to the working directory; `~` and `$NAME` stand for what they stand for in a shell.
"""

import os
import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from string import Template
from typing import Annotated, Any, TypeVar

import msgspec
import platformdirs

from proofyard.protocol.codec import prepared
from proofyard.runtime.secrets import hide_in
from proofyard.runtime.toml_files import NoToml, read_toml
from proofyard.sdk.errors import BadSetting

S = TypeVar("S", bound=msgspec.Struct)
_DEVNETS = "; a devnet leaves it in its folder: export PROOFYARD_CONFIG=out/devnet/proofyard.toml"
_WHOLE = re.compile(r"-?[0-9]+")

Block = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]

NETWORK = frozenset({"rpc_url", "registry", "from_block", "chain_id"})
"""Shared by every program."""
SHARED = NETWORK | {"wallet", "password_file", "api"}
"""What may stand at the top of the file, or in a variable without a section."""
PREFIX = "PROOFYARD_"
SECTIONS = ("network", "requester", "node", "verifier", "artifact")
"""The tables of the file."""
VARIABLES = frozenset({"CONFIG", "LOG_LEVEL", "LOG_FORMAT", "KEYSTORE_DIR", "DEBUG"})
"""Environment variables `PROOFYARD_...` that are no settings of a table."""


class NetworkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which network a command talks to. `rpc_url`: the chain's JSON-RPC endpoint, or several with commas between: the
    next one is asked while one is not in order. `registry`: its Registry. `from_block`: the block that the Registry is
    in, where its past begins; 0 looks for it. `chain_id`: the chain that is meant, 0 for whichever answers."""

    rpc_url: str = "http://127.0.0.1:8545"
    registry: str
    from_block: Block = 0
    chain_id: Block = 0


class RequesterSettings(NetworkSettings, frozen=True, kw_only=True):
    """Who pays. `wallet`: keystore file; `password_file`: file with its password, else it is asked for. `api`: a
    verifier's HTTP API, to be asked why."""

    wallet: Path
    password_file: Path | None = None
    api: str = ""


class ApiSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a command that only asks a verifier needs of a requester's settings."""

    api: str = "http://127.0.0.1:8790"


def requester_settings() -> RequesterSettings:
    """Who pays, for a program without flags. Raises `BadSetting`: also where no file holds the wallet's password, which
    only commands ask for."""
    config = os.environ.get(f"{PREFIX}CONFIG")
    settings = load(RequesterSettings, "requester", toml=Path(config) if config else None, shared=SHARED)
    if settings.password_file is None:
        raise BadSetting(
            "password_file",
            f"requester needs password_file, the file with the password of {settings.wallet}: set "
            f"{PREFIX}PASSWORD_FILE, or pass client=Client(..., Wallet.unlock(path, password=...))",
        )
    return settings


def config_dir() -> Path:
    """Where settings and wallets lie unless told otherwise, such as `~/.config/proofyard`."""
    return Path(platformdirs.user_config_dir("proofyard"))


def default_toml() -> Path:
    return config_dir() / "proofyard.toml"


def data_dir(program: str) -> Path:
    """Where a program keeps its blocks and database unless told otherwise, such as `~/.local/share/proofyard/node`."""
    return Path(platformdirs.user_data_dir("proofyard")) / program


def load(
    kind: type[S],
    section: str,
    *,
    toml: Path | None,
    flags: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    shared: frozenset[str] = NETWORK,
    environ: Mapping[str, str] | None = None,
) -> S:
    """The settings of `section`. `toml` None means the default place, where the file may be missing.

    `flags` that are None or an empty list were not given; None for all of them is a program without flags. `defaults`
    come before everything else, for values that follow from the platform. Raises `BadSetting`, which names the field,
    where its value came from and what to do.
    """
    environ = os.environ if environ is None else environ
    file = toml or default_toml()
    names = {field.name for field in msgspec.structs.fields(kind)}
    known: dict[str, Collection[str]] = {"network": NETWORK, "requester": SHARED}
    known[section] = names.union(known.get(section, ()))
    tables = _read(file, must_exist=toml is not None)
    _require_known(file, tables, known)
    _require_variables(environ, known)
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        name = field.name
        given = _given(name, section, name in shared, flags or {}, environ, file, tables)
        if name == "password_file" and given is not None and given.base is not None and "wallet" in values:
            # A file's password is its own wallet's: where a flag or a variable names another one, it is asked for.
            its = _given("wallet", section, "wallet" in shared, {}, {}, file, tables)
            fields = {each.name: each for each in msgspec.structs.fields(kind)}
            if its is not None and _convert(fields["wallet"], its, environ).absolute() != values["wallet"].absolute():
                continue
        if given is None and defaults and name in defaults:
            given = Given("the default", defaults[name])
        if given is None:
            if field.required:
                variable = f"PROOFYARD_{name}" if name in shared else f"PROOFYARD_{section}_{name}"
                flag = "" if flags is None else f"give {_flag(name)}, "
                raise BadSetting(
                    name,
                    f"{section} needs {name}: {flag}set {variable.upper()}, "
                    f"or write {name} = ... under [{section}] in {file}{_DEVNETS if name == 'registry' else ''}",
                )
            continue
        hide_in(str(given.value))
        values[name] = _convert(field, given, environ)
    return kind(**values)


def is_set(section: str, toml: Path | None, environ: Mapping[str, str] | None = None) -> bool:
    """Whether the file has a table for `section`, or the environment a setting of it. Raises `BadSetting` for a file
    that is none."""
    environ = os.environ if environ is None else environ
    tables = _read(toml or default_toml(), must_exist=toml is not None)
    return section in tables or any(name.startswith(f"{PREFIX}{section.upper()}_") for name in environ)


class Given(msgspec.Struct, frozen=True):
    """A setting as it was written, and where. `base`: what a relative path is relative to; `text`: it is text, whatever
    its type."""

    source: str
    value: Any
    base: Path | None = None
    text: bool = False


def _given(
    name: str,
    section: str,
    is_shared: bool,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    file: Path,
    tables: Mapping[str, Any],
) -> Given | None:
    """What the last source says that speaks of a setting: flag, environment, file."""
    flag = flags.get(name)
    if flag is not None and flag != []:
        return Given(_flag(name), flag)
    in_network = name in NETWORK
    for prefix, is_read in ((f"{section}_", True), ("", is_shared), ("network_", in_network)):
        variable = f"PROOFYARD_{prefix}{name}".upper()
        if is_read and environ.get(variable):
            return Given(variable, environ[variable], text=True)
    for where, table, is_read in (
        (f"{file}, [{section}]", tables.get(section, {}), True),
        (f"{file}, [network]", tables.get("network", {}), in_network),
        (str(file), tables, is_shared),
    ):
        if is_read and name in table:
            return Given(where, table[name], file.parent)
    return None


def _require_known(file: Path, tables: Mapping[str, Any], known: Mapping[str, Collection[str]]) -> None:
    """Raise `BadSetting` for a table or a name that nobody reads, with the one that was meant. `known`: the names in
    the tables that can be looked at here."""
    for name, value in tables.items():
        if isinstance(value, dict):
            if name not in SECTIONS:
                raise BadSetting(name, f"{file}: there is no table [{name}]{_nearest(name, SECTIONS)}")
            for field in value:
                if field not in known.get(name, value):
                    raise BadSetting(field, f"{file}: [{name}] has no setting {field}{_nearest(field, known[name])}")
        elif name in SECTIONS:
            raise BadSetting(name, f"{file}: [{name}] must be a table of settings, write it as [{name}]")
        elif name not in SHARED:
            hint = _nearest(name, SHARED)
            raise BadSetting(
                name, f"{file}: {name} is no setting at the top{hint}; others stand in a table such as [node]"
            )


def _require_variables(environ: Mapping[str, str], known: Mapping[str, Collection[str]]) -> None:
    """Raise `BadSetting` for a variable that nobody reads where it is nearly one, or one of a table in `known`."""
    single = VARIABLES | {name.upper() for name in SHARED}
    readable = single | {f"{table}_{name}".upper() for table, names in known.items() for name in names}
    for variable in environ:
        name = variable[len(PREFIX) :].upper()
        if not name or variable[: len(PREFIX)].upper() != PREFIX or variable in {PREFIX + each for each in readable}:
            continue
        table, _, field = name.partition("_")
        tables = [] if name in readable else get_close_matches(table.lower(), SECTIONS, n=1, cutoff=0.8)
        if tables and tables[0] not in known:
            near = [] if tables[0] == table.lower() else [f"{tables[0]}_{field}".upper()]
        else:
            near = get_close_matches(name, readable, n=1, cutoff=0.75 if tables else 0.8)
        if near or (tables and tables[0] in known):
            hint = f"; did you mean {PREFIX}{near[0]}?" if near else ""
            raise BadSetting(variable, f"{variable} is no setting{hint}")


def _read(file: Path, *, must_exist: bool) -> dict[str, Any]:
    try:
        return read_toml(file)
    except FileNotFoundError:
        if not must_exist:
            return {}
        reason = f"there is no settings file {file}; give --config, or PROOFYARD_CONFIG, the path of one"
    except NoToml as error:
        reason = f"the settings file {file} {error}, or give --config another file"
    except (OSError, ValueError) as error:
        reason = f"the settings file {file} cannot be read ({error}); check its owner and its mode"
    raise BadSetting("config", reason)


def _convert(field: msgspec.structs.FieldInfo, given: Given, environ: Mapping[str, str]) -> Any:
    def hook(kind: type, raw: Any) -> Any:
        if kind is not Path:
            raise NotImplementedError
        if isinstance(raw, Path):
            return raw
        if not isinstance(raw, str):
            raise ValueError(f"Expected `path`, got `{type(raw).__name__}`")
        path = _path(raw, given.base, environ)
        return _named_wallet(raw, path, environ) if field.name == "wallet" else path

    value, kind = given.value, msgspec.inspect.type_info(field.type)
    if given.text and isinstance(kind, msgspec.inspect.VarTupleType):
        value = [part.strip() for part in value.split(",") if part.strip()]
    try:
        if given.text and isinstance(kind, msgspec.inspect.IntType) and not _WHOLE.fullmatch(value):
            raise msgspec.ValidationError("Expected `int`, digits alone")
        return msgspec.convert(value, prepared(field.type), strict=not given.text, dec_hook=hook)
    except msgspec.ValidationError as error:
        shown = "" if field.name.endswith("_url") or "://" in str(value) else f" (it is {value!r})"
        raise BadSetting(field.name, f"{field.name} from {given.source} does not fit: {error}{shown}") from None


def _path(raw: str, base: Path | None, environ: Mapping[str, str]) -> Path:
    """A path as people write it: `~` is their home, `$NAME` a variable. Raises `ValueError`."""
    if not raw.strip() or "\0" in raw:
        raise ValueError("Expected `path`; leave the setting out for none")
    try:
        path = Path(Template(raw).substitute(environ)).expanduser()
    except KeyError as missing:
        raise ValueError(f"there is no variable {missing} to put into it") from None
    except ValueError:
        raise ValueError("a $ is followed by a variable's name; write $$ where it is a $") from None
    except RuntimeError:
        raise ValueError("there is no home of that user") from None
    return base / path if base else path


def _named_wallet(raw: str, path: Path, environ: Mapping[str, str]) -> Path:
    """A wallet by its name, where there is no such file and a wallet of that name."""
    if len(Path(raw).parts) > 1 or path.exists():
        return path
    from proofyard.chain.wallet import wallet_path

    named = wallet_path(Path(environ.get("PROOFYARD_KEYSTORE_DIR") or config_dir() / "wallets"), raw)
    return named if named.exists() else path


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def _nearest(name: str, names: Collection[str]) -> str:
    """The name that was meant, whatever its case and dashes; else all there are."""
    typed = name.lower().replace("-", "_")
    near = get_close_matches(typed, names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; it knows {', '.join(sorted(names))}"
