"""The application, and commands generated from settings classes: fields become options, docstrings their help."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import App, Group, Parameter, Token

from mimicmotion import __version__
from mimicmotion.errors import printable
from mimicmotion.settings import field_help, load_yaml, parse
from mimicmotion.settings.parsing import Help, declared

if typing.TYPE_CHECKING:
    from mimicmotion.runtime.progress import Job

T = TypeVar("T")
Command = Callable[[Any], "int | None"]

GENERAL = "Options"
HEADINGS = (GENERAL, "Input", "Output", "Motion", "Quality", "Speed", "Memory", "Advanced")
_GROUPS = {name: Group(name, sort_key=i) for i, name in enumerate(HEADINGS, 1)}


def show_default(value: Any) -> Any:
    """Format a default for the help, with booleans in lower case as in YAML."""
    return str(value).lower() if isinstance(value, bool) else value


app = App(
    name="mimicmotion",
    version=__version__,
    suppress_keyboard_interrupt=False,
    group_parameters=_GROUPS[GENERAL],
    default_parameter=Parameter(show_default=show_default),
    help="Human motion videos of any length, from one picture and a driving video (MimicMotion, arXiv 2406.19680).",
)

Output = Parameter(name=["--output", "-o"])
Several = Parameter(consume_multiple=True, negative="")

SCREEN = 20
"""If a command has more options than this, --help shows only those with `Help(..., first=True)`."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """Overrides for the command-line option of a settings field."""

    name: str | None = None
    kind: Any = None
    """Type on the command line; `convert` maps its values to values of the field."""
    convert: Callable[[Any], Any] = lambda value: value
    default: Any = None
    """Default to use instead of the field's; it also overrides the configuration file."""
    help: str | None = None


def settings_command(
    group: App,
    cls: type,
    *arguments: str,
    name: str | None = None,
    without: Sequence[str] = (),
    options: Mapping[str, Option] | None = None,
) -> Callable[[Command], Command]:
    """Decorator that adds a command; the decorated function takes the settings and returns an exit code.

    All options are optional for the parser, since they can also be set in the --config file; `parse` reports missing
    ones.

    Args:
        group: application to add the command to.
        cls: settings class.
        arguments: fields that are positional arguments.
        name: name of the command; None makes it the default command of `group`.
        without: fields that have no option.
        options: overrides for the options of some fields.
    """
    overrides = options or {}

    def register(command: Command) -> Command:
        def make(full: bool) -> Callable[..., int | None]:
            def run(*positional: Any, **passed: Any) -> int | None:
                file = passed.pop("config", None)
                if passed.pop("help_all", False):
                    full_help = App(name=f"{app.name[0]} {name}", help_flags=(), version_flags=())
                    full_help.default(make(full=True))
                    full_help.help_print([])
                    return 0
                passed |= dict(zip(arguments, positional, strict=False))
                values = {k: option.default for k, option in overrides.items() if option.default is not None}
                for k, v in passed.items():
                    if v is not None:
                        values[k] = overrides[k].convert(v) if k in overrides else v
                return command(parse(cls, (load_yaml(file) if file else {}) | values))

            run.__name__, run.__doc__ = command.__name__, command.__doc__
            run.__signature__ = inspect.Signature(_parameters(cls, arguments, without, overrides, full))  # type: ignore[attr-defined]
            return run

        if name is None:
            group.default(make(full=False))
        else:
            group.command(make(full=False), name=name)
        return command

    return register


def _integer(_: Any, tokens: Sequence[Token]) -> int:
    """Parse an integer; cyclopts itself would silently round 1.5."""
    try:
        return int(tokens[0].value)
    except ValueError as e:
        raise ValueError(f"{tokens[0].value!r} is not an integer") from e


def _parameters(
    cls: type, arguments: Sequence[str], without: Sequence[str], overrides: Mapping[str, Option], full: bool
) -> list[inspect.Parameter]:
    fields = {n: kind for n, kind in declared(cls).items() if n not in without}
    notes = {n: next((h for h in fields[n][1] if isinstance(h, Help)), Help(GENERAL)) for n in fields}
    helps, defaults = field_help(cls), {f.name: f.default for f in dataclasses.fields(cls)}
    short = len(fields) > SCREEN and any(note.first for note in notes.values())

    def parameter(field: str, kind: Any, **options: Any) -> inspect.Parameter:
        if int in (kind, *typing.get_args(kind)):
            options["converter"] = _integer
        passed_by = inspect.Parameter.POSITIONAL_ONLY if field in arguments else inspect.Parameter.KEYWORD_ONLY
        annotation = Annotated[kind | None, Parameter(show_default=False, **options)]
        return inspect.Parameter(field, passed_by, default=None, annotation=annotation)

    parameters = [parameter(n, fields[n][0], help=helps[n]) for n in arguments]
    for name, note in notes.items():
        if name in arguments:
            continue
        option = overrides.get(name, Option())
        default = defaults[name] if option.default is None else option.default
        has_default = default not in (None, dataclasses.MISSING)
        kind = option.kind or fields[name][0]
        long = option.name or f"--{name.replace('_', '-')}"
        items = {"consume_multiple": True, "negative": ""} if "list[" in str(kind) or "tuple[" in str(kind) else {}
        top = short and note.first
        parameters.append(
            parameter(
                name,
                kind,
                name=[long, "-o"] if name == "output" else [long],
                help=(option.help or helps[name]) + (f" [default: {show_default(default)}]" if has_default else ""),
                group=_GROUPS[GENERAL if top else note.group],
                show=full or top or not short,
                **items,
            )
        )
    file = "YAML file with any of these settings; options on the command line override it."
    parameters.append(parameter("config", Path, name=["--config", "-c"], help=file, group=_GROUPS[GENERAL]))
    if short and not full:
        text, group = f"Show all {len(fields) - len(arguments)} options.", _GROUPS[GENERAL]
        parameters.append(parameter("help_all", bool, name="--help-all", negative="", help=text, group=group))
    return parameters


def say(text: object, flush: bool = False) -> None:
    """Print to stdout, with control characters escaped."""
    print(printable(str(text)), flush=flush)


def run_job(job: Job[T]) -> T:
    """Run a job with a progress display on stderr, and return its result."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    from mimicmotion.runtime.progress import finish

    columns = [SpinnerColumn(), TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn()]
    columns += [TimeRemainingColumn(elapsed_when_finished=True), TextColumn("{task.fields[note]}")]
    with Progress(*columns, console=Console(stderr=True)) as display:
        tasks: dict[str, Any] = {}

        def show(report: Any) -> None:
            if report.stage not in tasks:
                tasks[report.stage] = display.add_task(report.stage, total=report.total, note="")
            display.update(tasks[report.stage], completed=report.done, total=report.total, note=report.note)

        return finish(job, show)
