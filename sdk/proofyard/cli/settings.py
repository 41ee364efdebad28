"""Settings of a program: defaults, then a TOML file, then the environment, then flags; the last one that speaks wins.

A settings class is a frozen msgspec struct. Section `node` reads the table `[node]`, the variables
`PROOFYARD_NODE_<FIELD>` and flags. Fields that programs share, such as the network's, may also stand at the top of
the file or in `PROOFYARD_<FIELD>`. A relative path in the file is relative to the file, elsewhere to the working
directory.
"""

import os
import tomllib
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import platformdirs

from proofyard.cli.errors import BadSetting, UsageError
from proofyard.cli.logs import hide_in

S = TypeVar("S", bound=msgspec.Struct)

Block = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]

NETWORK = frozenset({"rpc_url", "registry", "from_block", "chain_id"})
"""Shared by every program."""
SHARED = NETWORK | {"wallet", "password_file"}
"""What may stand at the top of the file, or in a variable without a section."""
SECTIONS = ("network", "requester", "node", "verifier", "artifact")
"""The tables of the file."""
VARIABLES = frozenset({"CONFIG", "LOG_LEVEL", "LOG_FORMAT", "KEYSTORE_DIR", "DEBUG", "API"})
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
    """Who pays. `wallet`: keystore file; `password_file`: file with its password, else it is asked for."""

    wallet: Path
    password_file: Path | None = None


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
    flags: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
    shared: frozenset[str] = NETWORK,
    environ: Mapping[str, str] | None = None,
) -> S:
    """The settings of `section`. `toml` None means the default place, where the file may be missing.

    `flags` that are None or an empty list were not given. `defaults` come before everything else, for values that
    follow from the platform. Raises `BadSetting`, which names the field, where its value came from and what to do.
    """
    environ = os.environ if environ is None else environ
    file = toml or default_toml()
    tables = _read(file, must_exist=toml is not None)
    _require_known(file, tables, environ)
    table = tables.get(section, {})
    names = {field.name for field in msgspec.structs.fields(kind)}
    for name in table:
        if name not in names:
            raise BadSetting(name, f"{file}: [{section}] has no setting {name}{_nearest(name, names)}")
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        is_shared = field.name in shared
        variable = f"PROOFYARD_{section}_{field.name}".upper()
        common = f"PROOFYARD_{field.name}".upper()
        flag = flags.get(field.name)
        if flag is not None and flag != []:
            source, value, base, text = _flag(field.name), flag, None, False
        elif environ.get(variable):
            source, value, base, text = variable, environ[variable], None, True
        elif is_shared and environ.get(common):
            source, value, base, text = common, environ[common], None, True
        elif field.name in table:
            source, value, base, text = f"{file}, [{section}]", table[field.name], file.parent, False
        elif is_shared and field.name in tables:
            source, value, base, text = str(file), tables[field.name], file.parent, False
        elif defaults and field.name in defaults:
            source, value, base, text = "the default", defaults[field.name], None, False
        elif field.required:
            raise BadSetting(
                field.name,
                f"{section} needs {field.name}: give {_flag(field.name)}, set {common if is_shared else variable}, "
                f"or write {field.name} = ... under [{section}] in {file}",
            )
        else:
            continue
        if field.name.endswith("_url"):
            hide_in(str(value))
        values[field.name] = _convert(field, value, source=source, base=base, text=text)
    return kind(**values)


def _require_known(file: Path, tables: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    """Raise `BadSetting` for a table, a name or a variable that nobody reads, with the one that was meant."""
    for name, value in tables.items():
        if isinstance(value, dict):
            if name not in SECTIONS:
                raise BadSetting(name, f"{file}: there is no table [{name}]{_nearest(name, SECTIONS)}")
        elif name in SECTIONS:
            raise BadSetting(name, f"{file}: [{name}] must be a table of settings, write it as [{name}]")
        elif name not in SHARED:
            hint = _nearest(name, SHARED)
            raise BadSetting(
                name, f"{file}: {name} is no setting at the top{hint}; others stand in a table such as [node]"
            )
    known = VARIABLES | {name.upper() for name in SHARED}
    for variable in environ:
        name = variable.removeprefix("PROOFYARD_")
        section = name.partition("_")[0].lower()
        if name != variable and name not in known and section not in SECTIONS:
            near = get_close_matches(name, known, n=1, cutoff=0.8)
            if near:
                raise BadSetting(name, f"{variable} is no setting; did you mean PROOFYARD_{near[0]}?")


def _read(file: Path, *, must_exist: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        if must_exist:
            raise UsageError(f"there is no settings file {file}; give --config the path of one") from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the settings file {file} cannot be read ({error}); check its owner and its mode") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file} is not valid TOML: {error}; correct it or give --config another file") from None


def _convert(field: msgspec.structs.FieldInfo, value: Any, *, source: str, base: Path | None, text: bool) -> Any:
    def hook(kind: type, raw: Any) -> Any:
        if kind is not Path:
            raise NotImplementedError
        if isinstance(raw, Path):
            return raw
        if not isinstance(raw, str):
            raise ValueError(f"Expected `path`, got `{type(raw).__name__}`")
        path = Path(raw).expanduser()
        return base / path if base else path

    if text and msgspec.inspect.type_info(field.type).__class__ is msgspec.inspect.VarTupleType:
        value = [part.strip() for part in value.split(",") if part.strip()]
    try:
        return msgspec.convert(value, field.type, strict=not text, dec_hook=hook)
    except msgspec.ValidationError as error:
        shown = "" if field.name.endswith("_url") else f" (it is {value!r})"
        raise BadSetting(field.name, f"{field.name} from {source} does not fit: {error}{shown}") from None


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def _nearest(name: str, names: Collection[str]) -> str:
    """The name that was meant, whatever its case and dashes; else all there are."""
    typed = name.lower().replace("-", "_")
    near = get_close_matches(typed, names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; it knows {', '.join(sorted(names))}"
