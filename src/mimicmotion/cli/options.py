"""The application, and commands made from settings classes: each field is an option, with its docstring as help."""

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
_GROUPS = {name: Group(name, sort_key=place) for place, name in enumerate(HEADINGS, 1)}


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
"""The short help of a command with more options than this shows only those with `Help(..., first=True)`."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """How an option differs from the field that it sets."""

    name: str | None = None
    kind: Any = None
    """Type on the command line, which `convert` turns into the field's value."""
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
    """Make a command from the decorated function, which takes settings and returns an exit code.

    Options can be omitted and set in the file given with --config instead; `parse` reports missing ones.

    Args:
        group: application to add the command to.
        cls: settings class.
        arguments: fields that are positional arguments.
        name: name of the command; None makes it the default command of `group`.
        without: fields that are not options.
        options: how options differ from their fields.
    """
    special = options or {}

    def register(command: Command) -> Command:
        def make(full: bool) -> Callable[..., int | None]:
            def run(*values: Any, **given: Any) -> int | None:
                file = given.pop("config", None)
                if given.pop("help_all", False):
                    every = App(name=f"{app.name[0]} {name}", help_flags=(), version_flags=())
                    every.default(make(full=True))
                    every.help_print([])
                    return 0
                given |= dict(zip(arguments, values, strict=False))
                fixed = {k: option.default for k, option in special.items() if option.default is not None}
                fixed |= {k: special[k].convert(v) if k in special else v for k, v in given.items() if v is not None}
                return command(parse(cls, (load_yaml(file) if file else {}) | fixed))

            run.__name__, run.__doc__ = command.__name__, command.__doc__
            run.__signature__ = inspect.Signature(_parameters(cls, arguments, without, special, full))  # type: ignore[attr-defined]
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
    cls: type, arguments: Sequence[str], without: Sequence[str], special: Mapping[str, Option], full: bool
) -> list[inspect.Parameter]:
    fields = {n: kind for n, kind in declared(cls).items() if n not in without}
    notes = {n: next((h for h in fields[n][1] if isinstance(h, Help)), Help(GENERAL)) for n in fields}
    helps, defaults = field_help(cls), {f.name: f.default for f in dataclasses.fields(cls)}
    short = len(fields) > SCREEN and any(note.first for note in notes.values())

    def parameter(field: str, kind: Any, **more: Any) -> inspect.Parameter:
        if int in (kind, *typing.get_args(kind)):
            more["converter"] = _integer
        where = inspect.Parameter.POSITIONAL_ONLY if field in arguments else inspect.Parameter.KEYWORD_ONLY
        annotation = Annotated[kind | None, Parameter(show_default=False, **more)]
        return inspect.Parameter(field, where, default=None, annotation=annotation)

    found = [parameter(n, fields[n][0], help=helps[n]) for n in arguments]
    for name, note in notes.items():
        if name in arguments:
            continue
        option = special.get(name, Option())
        default = defaults[name] if option.default is None else option.default
        known = default not in (None, dataclasses.MISSING)
        kind = option.kind or fields[name][0]
        long = option.name or f"--{name.replace('_', '-')}"
        items = {"consume_multiple": True, "negative": ""} if "list[" in str(kind) or "tuple[" in str(kind) else {}
        top = short and note.first
        found.append(
            parameter(
                name,
                kind,
                name=[long, "-o"] if name == "output" else [long],
                help=(option.help or helps[name]) + (f" [default: {show_default(default)}]" if known else ""),
                group=_GROUPS[GENERAL if top else note.group],
                show=full or top or not short,
                **items,
            )
        )
    file = "YAML file with any of these settings; options on the command line override it."
    found.append(parameter("config", Path, name=["--config", "-c"], help=file, group=_GROUPS[GENERAL]))
    if short and not full:
        every = f"Show all {len(fields) - len(arguments)} options."
        found.append(parameter("help_all", bool, name="--help-all", negative="", help=every, group=_GROUPS[GENERAL]))
    return found


def say(text: object, flush: bool = False) -> None:
    """Print to the terminal, with control characters escaped."""
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
