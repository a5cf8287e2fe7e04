"""Arguments of a command line, read off the signature of the function that takes them.

A parameter without a default is an argument, the others are options. Settings, which
are dataclasses, become an option for each field: `--settings.color lab`. Types and help
texts are those of annotations and docstrings.
"""

import argparse
import inspect
import operator
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import is_dataclass
from fractions import Fraction
from functools import reduce
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import jsonargparse
from jsonargparse.typing import register_type

_TYPED = {bool, int, float, str, Fraction, NoneType}  # besides collections of them
_NONE = inspect.Parameter.empty

register_type(Fraction)


class _Formatter(
    jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter
):
    """Keeps the lines of a docstring."""


def parse_arguments(
    program: str, function: Callable, arguments: Sequence[str]
) -> dict[str, Any]:
    """Reads the arguments for a function.

    Besides those of the function there are `--config`, a YAML file with arguments, and
    `--print_config`, which prints such a file of those given.

    Args:
        program: name of the command, for its help.
        function: with type hints and a docstring in Google style.
        arguments: as typed.

    Returns:
        What was given, by parameter. What was not is left out, so that the function
        takes its own default.

    Raises:
        SystemExit: with status 2, an argument is missing, unknown or out of range; with
            0, the help or the configuration was printed.
    """
    typed = _as_typed(function)
    parameters = inspect.signature(typed).parameters.values()
    needed = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    parser = jsonargparse.ArgumentParser(
        prog=program,
        usage=" ".join([f"{program} [OPTION ...]", *needed]),
        description=inspect.getdoc(function).partition("\n\nArgs:")[0],
        formatter_class=_Formatter,
    )
    parser.add_argument("--config", action="config", help="YAML file with arguments")
    parser.add_function_arguments(typed, as_group=False, as_positional=True)
    given = parser.parse_args(arguments, defaults=False)
    given.pop("config", None)
    try:
        values = parser.instantiate(given)
    except ValueError as error:  # of settings out of range
        parser.error(str(error))
    return {name: value for name, value in vars(values).items() if name in given}


def _as_typed(function: Callable) -> Callable:
    """A function with those parameters that can be typed."""
    hints, parameters = get_type_hints(function), []
    for parameter in inspect.signature(function).parameters.values():
        needed = parameter.default is _NONE
        hint = _typed_hint(hints[parameter.name], needed)
        if hint is None:
            continue
        parameter = parameter.replace(annotation=hint)
        if is_dataclass(hint):
            _describe_fields(hint)
            # Without a default of its own it is shown with those of its fields.
            parameter = parameter.replace(kind=parameter.KEYWORD_ONLY, default=_NONE)
        elif not needed:
            parameter = parameter.replace(kind=parameter.KEYWORD_ONLY)
        parameters.append(parameter)

    def typed() -> None: ...

    typed.__doc__ = function.__doc__
    typed.__signature__ = inspect.Signature(sorted(parameters, key=lambda p: p.kind))
    typed.__annotations__ = {p.name: p.annotation for p in parameters}
    return typed


def _typed_hint(hint: Any, needed: bool) -> Any:
    """What of a type can be typed: settings, or else all but objects; None: nothing."""
    united = get_origin(hint) in (Union, UnionType)
    members = get_args(hint) if united else (hint,)
    for member in members:
        if is_dataclass(member):
            return member
    kept = [
        member
        for member in members
        if member in _TYPED or issubclass(get_origin(member) or NoneType, Collection)
    ]
    if needed and NoneType in kept:
        kept.remove(NoneType)
    # Anything is text: it is tried last.
    kept.sort(key=lambda member: member is str)
    return reduce(operator.or_, kept) if set(kept) - {NoneType} else None


def _describe_fields(settings: type) -> None:
    """Makes the comments behind the fields of settings a part of their docstring."""
    for hint in filter(is_dataclass, get_type_hints(settings).values()):
        _describe_fields(hint)
    if "Attributes:" not in settings.__doc__:
        pattern = r"^    (\w+): .*  # (.+)$"
        comments = re.findall(pattern, inspect.getsource(settings), re.MULTILINE)
        lines = [f"    {name}: {comment}" for name, comment in comments]
        settings.__doc__ += "\n".join(["\n\nAttributes:", *lines])
