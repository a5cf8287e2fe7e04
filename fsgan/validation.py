"""What settings, and files that are read back, may hold: told by their annotations.

A range stands with the type: ``Annotated[FiniteFloat, Field(ge=0, le=1)]``. Types are
strict: a whole number is a float, but no text is a number and no number a bool.
"""

from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

_LONGEST = 80  # characters of a wrong value that are shown


def check_settings(settings: Any) -> None:
    """Checks the values of a dataclass by the annotations of its fields.

    Raises:
        ValueError: A value is not what its annotation says: which, and what it may be.
    """
    kinds = get_type_hints(type(settings), include_extras=True)
    for field in fields(settings):
        check(field.name, getattr(settings, field.name), kinds[field.name])


def check(name: str, value: Any, kind: Any) -> None:
    """Checks one value.

    Args:
        name: of the value, for the sentence.
        value: anything.
        kind: an annotation.

    Raises:
        ValueError: `value` is not of that kind.
    """
    try:
        _adapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        raise ValueError(
            f"{name} must be {_accepted(error)}, got {_short(repr(value))}"
        ) from (error)


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
    """
    text = path.read_bytes()
    try:
        return _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        what = f"{place}: {first['msg']}" if place else first["msg"]
        raise ValueError(f"{path} is damaged ({_short(what)}): {remedy}") from error


_adapter = cache(TypeAdapter)


def _accepted(error: ValidationError) -> str:
    """What all branches of a union accept, joined."""
    found = [it["msg"].removeprefix("Input should be ") for it in error.errors()]
    return " or ".join(dict.fromkeys(found))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
