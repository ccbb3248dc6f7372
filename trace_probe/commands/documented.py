"""How a function becomes a command: what its docstring says of a parameter is the help of it."""

import copy
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import wraps
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin

import typer
from typer.models import ArgumentInfo

from trace_probe.commands import options

Function = TypeVar("Function", bound=Callable[..., Any])
ENTRY = re.compile(r"^ {4}(\w+): (.+?)(?=^ {4}\w|\Z)", re.MULTILINE | re.DOTALL)
KEYWORD = inspect.Parameter.KEYWORD_ONLY


class Told(NamedTuple):
    """What a command has to say: a value for ``--json``, its text, and the exit code.

    Without a text it is that of the value itself.
    """

    value: object
    text: str | None = None
    code: int = 0


class Commands(typer.Typer):
    """A group of commands, each of them a function.

    A parameter is an argument if it is needed and not keyword-only, else an option. It is described
    in the docstring of the function, or else in that of `options`. A bool that is false unless it
    is named is a switch. A dataclass stands for the options that are its fields, which come last.
    A command that returns `Told` has ``--json``.
    """

    def command(self, name: str | None = None, **more: Any) -> Callable[[Function], Function]:  # noqa: ANN401 - of typer
        """Return what makes a command of a function."""
        register = super().command(name, **more)

        def made(function: Function) -> Function:
            register(as_command(function))
            return function

        return made


def as_command(function: Callable[..., Told | None]) -> Callable[..., None]:
    """Return a function as typer takes it."""
    own = inspect.signature(function, eval_str=True)
    summary, helps = described(function)
    taken = own.parameters.items()
    groups: dict[str, Any] = {n: one.annotation for n, one in taken if is_dataclass(one.annotation)}
    shown = [_described(one, helps) for name, one in taken if name not in groups]
    says = own.return_annotation is Told
    if says:
        option = Annotated[bool, typer.Option("--json")]
        json = inspect.Parameter("as_json", KEYWORD, default=False, annotation=option)
        shown.append(_described(json, helps))
    fields = {name: inspect.signature(group, eval_str=True) for name, group in groups.items()}
    for name, group in groups.items():
        about = described(group, "Attributes")[1]
        shown += [_described(one, about) for one in fields[name].parameters.values()]

    @wraps(function)
    def run(**given: Any) -> None:  # noqa: ANN401 - whatever the command takes
        as_json = says and given.pop("as_json")
        for name, group in groups.items():
            given[name] = group(**{field: given.pop(field) for field in fields[name].parameters})
        if (told := function(**given)) is not None:
            text = str(told.value) if told.text is None else told.text
            options.show_result(told.value, text, as_json=as_json)
            if told.code:
                raise typer.Exit(told.code)

    run.__doc__ = summary
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in shown}
    return run


def described(of: object, section: str = "Args") -> tuple[str, dict[str, str]]:
    """Return a docstring without a section, and what the section says of each name."""
    text, _, entries = (inspect.getdoc(of) or "").partition(f"\n\n{section}:\n")
    return text, {name: " ".join(words.split()) for name, words in ENTRY.findall(entries)}


def _described(one: inspect.Parameter, helps: Mapping[str, str]) -> inspect.Parameter:
    """Return a parameter of a command with its help.

    Arguments are shown in capitals, as the texts name them, and nothing stands after a switch.
    """
    annotated = get_origin(one.annotation) is Annotated
    kind, *known = get_args(one.annotation) if annotated else [one.annotation]
    needed = one.default is inspect.Parameter.empty
    if known:
        info = copy.copy(known[0])
    elif needed and one.kind is not KEYWORD:
        info = typer.Argument()
    else:
        switch = [f"--{one.name.replace('_', '-')}"] if one.default is False else []
        info = typer.Option(*switch)
    if isinstance(info, ArgumentInfo):
        info.metavar = one.name.upper()
    elif kind in (bool, bool | None):
        info.metavar = ""
    info.help = info.help or helps.get(one.name) or HELP.get(one.name)
    return one.replace(kind=KEYWORD, annotation=Annotated[kind, info])


HELP = described(options, "Options")[1]
"""Of options that mean the same in every command."""
