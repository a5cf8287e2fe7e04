import json
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from inspect import signature
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict

from fsgan.validation import AboveZero, check, checked, read_json


@checked
@dataclass(frozen=True)
class Settings:
    share: Annotated[FiniteFloat, Field(ge=0, le=1)] = 0
    width: Annotated[FiniteFloat | None, Field(gt=0)] = None
    kind: Literal["one", "two"] = "one"
    count: Annotated[int, Field(ge=1)] = 1
    loud: bool = True


class Record(TypedDict):
    entries: list[int]


def test_right_settings_pass():
    assert Settings(share=1, width=0.5, kind="two", count=3, loud=False).share == 1


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("share", 2, "share must be less than or equal to 1, got 2"),
        ("share", float("nan"), "share must be a finite number, got nan"),
        ("share", True, "share must be a valid number, got True"),
        ("width", float("inf"), "width must be a finite number, got inf"),
        ("width", "0.5", "width must be a valid number, got '0.5'"),
        ("kind", "three", "kind must be 'one' or 'two', got 'three'"),
        ("count", 1.5, "count must be a valid integer, got 1.5"),
        ("count", True, "count must be a valid integer, got True"),
        ("loud", 1, "loud must be a valid boolean, got 1"),
    ],
)
def test_wrong_settings_are_named(name, value, sentence):
    with pytest.raises(ValueError) as error:
        replace(Settings(), **{name: value})
    assert str(error.value) == sentence


def test_arguments_are_checked_and_help_shows_types_alone():
    @checked
    def stage(source: str | Path, *, seconds: AboveZero | None = None) -> str:
        return f"{source}, {seconds}"

    assert stage("a", seconds=2) == "a, 2"
    with pytest.raises(ValueError, match=r"^seconds must be greater than 0, got -1$"):
        stage("a", seconds=-1)
    with pytest.raises(ValueError, match="source must be a valid string or an inst"):
        stage(None)
    with pytest.raises(TypeError, match="unexpected keyword argument 'minutes'"):
        stage("a", minutes=2)
    assert str(signature(stage)) == (
        "(source: str | pathlib.Path, *, seconds: Optional[float] = None) -> str"
    )
    assert "share: float = 0" in str(signature(Settings))


def test_a_long_value_is_shortened():
    with pytest.raises(ValueError, match=r"^name must be .*…$") as error:
        check("name", "x" * 1_000_000, int)
    assert len(str(error.value)) < 200


def test_a_file_is_read(tmp_path):
    path = tmp_path / "record.json"
    path.write_text('{"entries": [1, 2]}')
    assert read_json(path, Record, "make it again") == {"entries": [1, 2]}


@pytest.mark.parametrize(
    "text", ["", "{", '{"entries": 7}', "[1]", '{"entries": ["1"]}', "\0" * 9]
)
def test_a_damaged_file_is_named_with_the_way_out(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"is damaged .*: make it again$") as error:
        read_json(path, Record, "make it again")
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_numbers_of_other_kinds_become_plain():
    settings = Settings(share=np.float32(0.5), width=Fraction(1, 4), count=np.int64(3))
    assert json.loads(json.dumps(asdict(settings))) == asdict(settings)
    assert check("fps", Fraction(1, 3), Fraction | float) == Fraction(1, 3)
    with pytest.raises(ValueError, match="count must be a valid integer"):
        check("count", Fraction(3, 2), int)
