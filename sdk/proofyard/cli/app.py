"""The command tree and its single exit: every error becomes one line on stderr and an exit code."""

import errno
import os
import platform
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from proofyard.cli import output
from proofyard.cli.context import Globals
from proofyard.cli.errors import UsageError
from proofyard.cli.logs import LogFormat, LogLevel, configure
from proofyard.cli.tree import App, Group, Place
from proofyard.protocol.types import ProofyardError
from proofyard.runtime.secrets import hide_what_is_given, without_secrets

INTERRUPTED = 130
BEFORE_THE_COMMAND = ("--config", "--log-level")

COMPLETE = "_PROOFYARD_COMPLETE"
OPERATORS = "proofyard.cli.operators"


class Root(Group):
    """The commands, in the order of help."""

    later: ClassVar[dict[str, Place]] = {
        "devnet": Place("proofyard.cli.devnet", "app", "Run a whole network on this machine until Ctrl-C."),
        "wallet": Place(
            "proofyard.cli.wallet", "app", "Keys in encrypted files, and what they hold: make, fund, send."
        ),
        "node": Place(OPERATORS, "node", "Lend a GPU: register a node, run it, claim its pay."),
        "job": Place("proofyard.cli.job", "app", "Have work done: submit a job, follow it, fetch the result."),
        "verifier": Place(OPERATORS, "verifier", "Run a verifier: schedule, audit, settle."),
        "relay": Place("proofyard.cli.relay", "app", "Carry for nodes that nobody reaches, without a stake or a GPU."),
        "artifact": Place(
            "proofyard.cli.artifact", "app", "Files and folders by content: put, get, list, pin, verify."
        ),
        "doctor": Place("proofyard.cli.doctor", "app", "Find what is wrong here, and what to do about it."),
        "contracts": Place("proofyard.cli.contracts", "app", "Write a network's addresses and ABIs, for dapps."),
        "completion": Place("proofyard.cli.completion", "app", "Have bash, zsh or fish complete what you type."),
    }


app = App(kind=Root)


def _version() -> str:
    from importlib.metadata import version as installed

    return installed("proofyard")


def _say_version(asked: bool) -> None:
    if asked:
        print(f"proofyard {_version()}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(envvar="PROOFYARD_CONFIG", show_envvar=False, help="Settings file (TOML).")
    ] = None,
    log_level: Annotated[
        LogLevel | None,
        typer.Option(
            envvar="PROOFYARD_LOG_LEVEL", show_envvar=False, metavar="LEVEL", help="debug, info, warning or error."
        ),
    ] = None,
    log_format: Annotated[
        LogFormat,
        typer.Option(
            envvar="PROOFYARD_LOG_FORMAT", show_envvar=False, metavar="FORMAT", help="Log lines as text or json."
        ),
    ] = LogFormat.TEXT,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Verified compute on home GPUs: checked, not trusted, and paid on chain. To begin: `proofyard devnet --tiny`."""
    configure(log_level or LogLevel.WARNING, log_format)
    context.obj = Globals(config, log_level, log_format)


@app.verb("version", "version --json")
def version(as_json: output.AsJson = False) -> None:
    """Print the version, and where settings and wallets are."""
    from proofyard.sdk.settings import config_dir, default_toml

    facts = {
        "version": _version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "settings": str(default_toml()),
        "wallets": str(config_dir() / "wallets"),
    }
    output.emit(facts, as_json=as_json, text="\n".join(f"{key:<9} {value}" for key, value in facts.items()))


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `PROOFYARD_DEBUG=1` shows tracebacks. Without `args` the process ends
    with the command, also where threads of a service hang."""
    _occupy_standard_streams()
    output.take_any_character()
    typed = sys.argv[1:] if args is None else list(args)
    hide_what_is_given([*typed, *(value for name, value in os.environ.items() if name.startswith("PROOFYARD_"))])
    code = guard(lambda: _run(typed))
    runtime = sys.modules.get("proofyard.runtime.service")  # loaded where a service ran
    return runtime.leave(code) if args is None and runtime else code


def _occupy_standard_streams() -> None:
    """Have streams that were closed before this process began (`<&-`, some supervisors) lead nowhere. A file would get
    their number else, and what is printed would go into it."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _run(args: list[str]) -> object:
    """An empty argument is what a shell makes of a variable that is not set; as a path it would be this folder."""
    if "" in args:
        at = args.index("")
        raise UsageError(
            f"argument {at + 1} is empty{f', after {args[at - 1]}' if at else ''}; give it or leave it out"
        )
    if COMPLETE in os.environ:  # a shell asks what could be typed
        from typer._completion_classes import completion_init

        completion_init()
    return app(args, prog_name="proofyard", standalone_mode=False)


def guard(run: Callable[[], object]) -> int:
    """The exit code of `run`: what it returns if that is a number, 0 otherwise; every error is told in one line."""
    try:
        code = run()
    except ProofyardError as error:
        return _fail(str(error), error, error.exit_code)
    except typer.Abort as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            return _interrupted()
        return _fail("no input to read; give --password-file where a password is asked for", None, 1)
    except KeyboardInterrupt:
        return _interrupted()
    except typer.TyperException as error:
        if not error.format_message():
            return error.exit_code
        usage = getattr(error, "ctx", None)
        early = getattr(error, "option_name", None) in BEFORE_THE_COMMAND
        hint = "; it goes before the command, right after proofyard" if early else ""
        hint += f" (see {usage.command_path} --help)" if usage else ""
        return _fail(_in_words(error.format_message()) + hint, None, error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}; {_advice(error)}", error, 1)
    except Exception as error:
        what = f"unexpected {type(error).__name__}: {error}"
        return _fail(f"{what}; run it again with PROOFYARD_DEBUG=1 to see where it comes from", error, 1)
    if code == INTERRUPTED:  # typer turns an interrupt of a command into this
        return _interrupted()
    return code if isinstance(code, int) else 0


def _in_words(said: str) -> str:
    """What a library for types says of a value, for whoever typed it: arguments are called as in help."""
    said = re.sub(r"(argument|value for) '(\w+)'", lambda found: f"{found[1]} '{found[2].upper()}'", said)
    said = re.sub(r", unable to (?:parse|interpret) .*$", "", said.removesuffix("."))
    return re.sub(r"\bValue error, ", "", said).replace("Input should be", "it should be")


def _advice(error: OSError) -> str:
    """What to do about what the operating system refuses."""
    if isinstance(error, FileNotFoundError):
        return "check the path; make the folder that it is in, or name another one"
    if isinstance(error, FileExistsError | IsADirectoryError | NotADirectoryError):
        return "check the path: something else is there; name another one"
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return "check the path and who may use it, or name another one (HOME and XDG_CONFIG_HOME say where it is)"
    return "check the path, who may write there, and the space that is left"


def _interrupted() -> int:
    output.note("interrupted; what was sent before stays: a job goes on, `proofyard job wait` follows it again")
    return INTERRUPTED


def _fail(message: str, error: BaseException | None, code: int) -> int:
    if error is not None and os.environ.get("PROOFYARD_DEBUG") == "1":
        print(without_secrets("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    output.note("error: " + without_secrets(" ".join(message.split())))
    return code
