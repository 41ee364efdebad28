"""What commands are made with: groups that load a command when it is typed, and help that fits a screen.

`--help` shows what a command is for, an example, and the options that most calls want, in at most 24 lines of 80
columns. Options with a panel (`rich_help_panel`) are the others: named there, explained by `--help-all`. A command
takes a dataclass such as `WalletFlags` as a parameter: its fields become options.
"""

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from typing import Annotated, Any, ClassVar, NamedTuple, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

HELP_ALL = "--help-all"
HELP_NAMES = ("-h", "--help")
NAMED = 56
"""Characters of the names of a panel's options that are shown where they are not explained."""

Run = Callable[..., None]


class Place(NamedTuple):
    """Where a command is, and what is shown of it before it is loaded."""

    module: str
    attribute: str
    help: str


class Command(TyperCommand):
    """A command, whose help has an example, its epilog, before arguments and options."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.replace("{", "").replace("}", "").upper() for piece in super().collect_usage_pieces(ctx)]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        formatter.write_paragraph()
        formatter.write_text(f"Example: {self.epilog}")
        panels: dict[str, list[Any]] = {"": []}
        for param in sorted(self.params, key=lambda param: bool(param.param_type_name == "option")):
            if not getattr(param, "hidden", False) and param.name != "help_all":
                panels.setdefault(getattr(param, "rich_help_panel", None) or "", []).append(param)
        usual = panels.pop("")
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_dl([_row(param, ctx) for param in usual] or [("--help", "Show this.")])
        if ctx.meta.get(HELP_ALL):
            for name, params in panels.items():
                with formatter.section(name.capitalize()):
                    formatter.write_dl([_row(param, ctx) for param in params])
        elif panels:
            with formatter.section(f"More, explained by {HELP_ALL}"):
                formatter.write_dl([(name, _named(params)) for name, params in panels.items()])


class Group(TyperGroup):
    """A group of commands; those in `later` are loaded when they are typed."""

    later: ClassVar[dict[str, Place]] = {}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {name: Later(name, place) for name, place in self.later.items()} | dict(self.commands)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:  # bare, it says what there is
            typer.echo(ctx.get_help())
            raise typer.Exit
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        if self.params:
            super().format_options(ctx, formatter)
        else:  # `--help` alone is no news to who has just typed it
            self.format_commands(ctx, formatter)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, Later) else command, rest


class Later(TyperCommand):
    """A command that is not loaded yet."""

    def __init__(self, name: str, place: Place) -> None:
        super().__init__(name, help=place.help)
        self.place = place

    def load(self) -> Any:
        command = typer.main.get_command(getattr(import_module(self.place.module), self.place.attribute))
        command.name = self.name
        return command


class App(typer.Typer):
    """A group of commands, or a module's one command."""

    def __init__(self, help: str = "", kind: type[Group] = Group) -> None:
        super().__init__(
            help=help or typer.models.Default(None),
            cls=kind,
            add_completion=False,
            pretty_exceptions_enable=False,
            rich_markup_mode=None,
            context_settings={"help_option_names": list(HELP_NAMES)},
        )

    def verb(self, name: str, example: str) -> Callable[[Run], Run]:
        """Add a command. `example`: a call of it, without `proofyard`."""

        def add(run: Run) -> Run:
            self.command(name, cls=Command, epilog=f"proofyard {example}")(with_options(run))
            return run

        return add


def with_options(run: Run) -> Run:
    """A command whose dataclass parameters appear as one option for each of their fields; with `--help-all` where it
    has options in panels."""
    plain: list[inspect.Parameter] = []
    groups: dict[str, tuple[type, list[str]]] = {}
    for parameter in inspect.signature(run, eval_str=True).parameters.values():
        kind = parameter.annotation
        if not (isinstance(kind, type) and is_dataclass(kind)):
            plain.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        hints = get_type_hints(kind, include_extras=True)
        groups[parameter.name] = (kind, [field.name for field in fields(kind)])
        plain += [
            inspect.Parameter(
                f.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if f.default is MISSING else f.default,
                annotation=hints[f.name],
            )
            for f in fields(kind)
        ]
    has_panels = any(map(_in_panel, plain))
    if has_panels:
        plain.append(inspect.Parameter("help_all", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_HelpAll))

    @functools.wraps(run)
    def command(**values: Any) -> None:
        values.pop("help_all", None)
        for name, (kind, names) in groups.items():
            values[name] = kind(**{field: values.pop(field) for field in names})
        run(**values)

    command.__signature__ = inspect.Signature(plain)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in plain}
    return command


def _show_all(context: typer.Context, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        context.meta[HELP_ALL] = True
        typer.echo(context.get_help())
        raise typer.Exit


_HelpAll = Annotated[
    bool,
    typer.Option(HELP_ALL, is_eager=True, expose_value=False, callback=_show_all, help="Explain every option."),
]


def _in_panel(parameter: inspect.Parameter) -> bool:
    return any(getattr(each, "rich_help_panel", None) for each in getattr(parameter.annotation, "__metadata__", ()))


_KINDS = {"str": "TEXT", "int": "N", "int range": "N", "float": "NUMBER", "path": "PATH"}
_KIND = re.compile(r"<(?:list\[)?([\w ]+)\]?>")
_FLAG = re.compile(r"--([\w-]+) / --no-\1")
_UNSAID = re.compile(r"(?:\d+<=)?x<=\d{10,}(?:; )?|x>=[01](?:; )?")
_EMPTY = re.compile(r" +\[(?:required)?\]$")
_STATED = re.compile(r"(?<=default: )\(([^()]*)\)")
"""Bounds that say nothing, and what is left then, as an argument is required unless it stands in brackets; a default
that is said in words."""


def _row(param: Any, ctx: Any) -> tuple[str, str]:
    """An argument or option, and what it means."""
    names, text = param.get_help_record(ctx)
    text = _STATED.sub(r"\1", _UNSAID.sub("", text))
    if param.param_type_name == "argument":
        return names.split()[0].strip("{}").upper(), _EMPTY.sub("", text)
    names = _FLAG.sub(r"--[no-]\1", _KIND.sub(lambda found: _KINDS.get(found[1].lower(), found[1].upper()), names))
    return names, text.replace("; ]", "]").removesuffix("  []")


def _named(params: list[Any]) -> str:
    """The names of options, as many as fit a line."""
    names = [param.opts[0] for param in params]
    shown = [name for at, name in enumerate(names) if len(" ".join(names[: at + 1])) <= NAMED]
    left = len(names) - len(shown)
    return " ".join(shown) + (f" and {left} more" if left else "")
