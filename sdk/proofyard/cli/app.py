"""The command tree and its single exit: every error becomes one line on stderr and an exit code."""

import os
import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from proofyard.cli import artifact, contracts, devnet, doctor, job, operators, output, wallet
from proofyard.cli.context import Globals
from proofyard.cli.errors import UsageError
from proofyard.cli.logs import LogFormat, LogLevel, configure
from proofyard.protocol.types import ProofyardError
from proofyard.runtime import leave
from proofyard.runtime.secrets import hide_what_is_given, without_secrets

INTERRUPTED = 130
BEFORE_THE_COMMAND = ("--config", "--log-level")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(wallet.app, name="wallet")
app.add_typer(operators.node, name="node")
app.add_typer(operators.verifier, name="verifier")
app.add_typer(job.app, name="job")
app.add_typer(artifact.app, name="artifact")
app.command("contracts")(contracts.contracts)
app.command("devnet")(devnet.devnet)
app.command("doctor")(doctor.doctor)


@app.callback()
def root(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(envvar="PROOFYARD_CONFIG", help="Settings file (TOML); see `proofyard version`.")
    ] = None,
    log_level: Annotated[
        LogLevel | None,
        typer.Option(envvar="PROOFYARD_LOG_LEVEL", help="What is logged on stderr: info for services, else warning."),
    ] = None,
    log_format: Annotated[
        LogFormat,
        typer.Option(envvar="PROOFYARD_LOG_FORMAT", help="Lines as text, or as one JSON object each."),
    ] = LogFormat.TEXT,
) -> None:
    """Verified compute on home GPUs: fine-tuning that is checked, not trusted, and paid on chain.

    To try everything on this machine: `proofyard devnet`. To lend a GPU: `proofyard wallet new`, `node register`,
    `node run`. To have a model fine-tuned: `proofyard job submit`.
    """
    configure(log_level or LogLevel.WARNING, log_format)
    context.obj = Globals(config, log_level, log_format)


@app.command()
def version(as_json: output.AsJson = False) -> None:
    """Print the version, and where settings and wallets are looked for."""
    from importlib.metadata import version as installed

    from proofyard.sdk.settings import config_dir, default_toml

    facts = {
        "version": installed("proofyard"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "settings": str(default_toml()),
        "wallets": str(config_dir() / "wallets"),
    }
    output.emit(facts, as_json=as_json, text="\n".join(f"{key:<9} {value}" for key, value in facts.items()))


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `PROOFYARD_DEBUG=1` shows tracebacks. Without `args` the process ends
    with the command, also where threads of a service hang."""
    typed = sys.argv[1:] if args is None else list(args)
    hide_what_is_given([*typed, *(value for name, value in os.environ.items() if name.startswith("PROOFYARD_"))])
    code = guard(lambda: _run(typed))
    return leave(code) if args is None else code


def _run(args: list[str]) -> object:
    """An empty argument is what a shell makes of a variable that is not set; as a path it would be this folder."""
    if "" in args:
        at = args.index("")
        raise UsageError(
            f"argument {at + 1} is empty{f', after {args[at - 1]}' if at else ''}; give it or leave it out"
        )
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
        return _fail(error.format_message() + hint, None, error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        what = f"{where}{error.strerror or error}; check the path, who may write there, and the space that is left"
        return _fail(what, error, 1)
    except Exception as error:
        what = f"unexpected {type(error).__name__}: {error}"
        return _fail(f"{what}; run it again with PROOFYARD_DEBUG=1 to see where it comes from", error, 1)
    if code == INTERRUPTED:  # typer turns an interrupt of a command into this
        return _interrupted()
    return code if isinstance(code, int) else 0


def _interrupted() -> int:
    output.note("interrupted; what was sent before stays: a job goes on, `proofyard job wait` follows it again")
    return INTERRUPTED


def _fail(message: str, error: BaseException | None, code: int) -> int:
    if error is not None and os.environ.get("PROOFYARD_DEBUG") == "1":
        print(without_secrets("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    output.note("error: " + without_secrets(" ".join(message.split())))
    return code
