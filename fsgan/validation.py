"""What arguments, settings and files that are read back may hold, by their annotations.

A range stands with the type: ``Annotated[FiniteFloat, Field(ge=0, le=1)]``. Types are
strict: a whole number is a float, but no text is a number and no number a bool.
"""

import os
from collections.abc import Callable
from functools import cache, wraps
from inspect import signature
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

Function = TypeVar("Function", bound=Callable)

Count = Annotated[int, Field(ge=1)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
AtLeastZero = Annotated[FiniteFloat, Field(ge=0)]
AboveZero = Annotated[FiniteFloat, Field(gt=0)]

_OF_TYPE = ("_type", "_of", "literal_error")  # ends of errors that are not of a range


def checked(what: Function) -> Function:
    """Decorates a function, or a dataclass: checks its arguments by their annotations.

    Its signature keeps the types alone, so that help stays readable. A wrong argument
    is a `ValueError` in a sentence: which, what it may be and what it is.
    """
    if isinstance(what, type):
        what.__init__ = checked(what.__init__)
        return what
    kinds = get_type_hints(what, include_extras=True)
    names = list(signature(what).parameters)
    what.__annotations__ = get_type_hints(what)

    @wraps(what)
    def checking(*arguments: Any, **named: Any) -> Any:
        given = dict(zip(names, arguments, strict=False)) | named
        for name in given.keys() & kinds.keys():
            given[name] = check(name, given[name], kinds[name])
        first = [given.pop(name) for name in names[: len(arguments)]]
        return what(*first, **given)

    return checking


def check(name: str, value: Any, kind: Any) -> Any:
    """Checks one value.

    Args:
        name: of the value, for the sentence.
        value: anything.
        kind: an annotation.

    Returns:
        The value; NumPy's numbers, and fractions where floats are asked for, as plain
        ones, which files can hold.

    Raises:
        ValueError: `value` is not of that kind.
    """
    if isinstance(value, Integral) and not isinstance(value, int):
        value = int(value)
    try:
        accepted = _adapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        wrong = shorten(repr(value))
        raise ValueError(f"{name} must be {_accepted(error)}, got {wrong}") from error
    return accepted if isinstance(value, Real) and not isinstance(value, int) else value


def read_json(path: Path, kind: Any, remedy: str) -> Any:
    """Reads a JSON file that holds what an annotation says.

    Args:
        path: the file.
        kind: an annotation, such as a `TypedDict` of `typing_extensions`.
        remedy: what the user can do where the file is damaged.

    Returns:
        The content.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON, or holds something else; in one sentence.
        OSError, ValueError: as of `check_file`.
    """
    check_file(path)
    text = path.read_bytes()
    try:
        return _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        what = f"{place}: {first['msg']}" if place else first["msg"]
        raise ValueError(f"{path} is damaged ({shorten(what)}): {remedy}") from error


def check_two_folders(of_what: str, one: str | Path, other: str | Path) -> None:
    """Refuses one folder in the place of two, also under two names.

    Raises:
        ValueError: they are the same.
    """
    if os.path.realpath(one) == os.path.realpath(other):
        raise ValueError(f"{of_what} need two folders, got {one} for both")


def check_file(path: Path) -> None:
    """Refuses what is no file that can be read from its beginning to its end.

    Raises:
        FileNotFoundError: nothing is at `path`.
        IsADirectoryError: it is a folder.
        ValueError: it is a pipe, a socket or a device, or its name is not UTF-8.
    """
    check_name(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the name")
    if not path.is_file():
        raise ValueError(f"{path} is a pipe or a device: save what it gives as a file")


def check_name(path: Path) -> None:
    """Refuses a name that records and reports cannot hold.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the name {str(path)!r} is not UTF-8: rename it") from error


@cache
def _adapter(kind: Any) -> TypeAdapter:
    try:
        return TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # a dataclass or TypedDict, which has a config of its own
        return TypeAdapter(kind)


def _accepted(error: ValidationError) -> str:
    """What all branches of a union accept, joined; a range goes before other types."""
    errors = error.errors(include_url=False)
    of_range = [it for it in errors if not it["type"].endswith(_OF_TYPE)]
    found = [it["msg"].removeprefix("Input should be ") for it in of_range or errors]
    return " or ".join(dict.fromkeys(found))


def shorten(text: str, longest: int = 80) -> str:
    """Cuts a text after so many characters."""
    return text if len(text) <= longest else f"{text[:longest]}…"
