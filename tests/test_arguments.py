from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import pytest

from fsgan.arguments import parse_arguments


class Model:
    """Cannot be typed."""


@dataclass(frozen=True)
class Inner:
    """Deeper settings.

    Attributes:
        angle: degrees.
    """

    angle: float = 10.0


@dataclass(frozen=True)
class Settings:
    """How it is done."""

    color: str = "lab"  # lab or none
    limit: float | None = 0.5  # pixels; None: off
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.color not in ("lab", "none"):
            raise ValueError(f"color must be lab or none, got {self.color!r}")


def stage(
    source: str | Path | int,
    other: str | Path | None,
    model: str | Path | Model,
    settings: Settings | None = None,
    *,
    only: str | Path | Model | int | Collection[int] | None = None,
    fps: Fraction | float | None = None,
    size: tuple[int, int] = (640, 360),
    again: bool = False,
    on_preview: Callable[[int], None] | None = None,
) -> None:
    """Does it.

    In two steps::

        first, then
        second

    Args:
        source: what to read.
        other: 100 % needed.
        model: its folder.
        settings: how.
        only: whose.

    Returns:
        Nothing.
    """


def parse(line: str) -> dict:
    return parse_arguments("fsgan stage", stage, line.split())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {}),
        ("--only 3", {"only": 3}),
        ("--only [1,2]", {"only": [1, 2]}),
        ("--only faces/a", {"only": "faces/a"}),
        ("--only null", {"only": None}),
        ("--fps 30000/1001", {"fps": Fraction(30000, 1001)}),
        ("--size [64,32]", {"size": (64, 32)}),
        ("--again true", {"again": True}),
        ("--settings.color none", {"settings": Settings("none")}),
        ("--settings.limit null", {"settings": Settings(limit=None)}),
        ("--settings.inner.angle 5", {"settings": Settings(inner=Inner(5.0))}),
    ],
)
def test_only_what_is_given_is_passed_and_as_its_own_type(options, expected):
    values = parse(f"a.mp4 b model {options}")
    assert values == {"source": "a.mp4", "other": "b", "model": "model"} | expected


def test_a_whole_number_stays_one_where_text_is_welcome_too():
    assert parse("0 b model")["source"] == 0


def test_help_comes_from_docstrings_and_comments(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse("--help")
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    words = " ".join(shown.split())
    assert shown.startswith("usage: fsgan stage [OPTION ...] source other model\n")
    assert "In two steps::\n\n    first, then\n    second\n" in shown
    for text in (
        "source what to read.",
        "other 100 % needed.",
        "lab or none (type: str, default: lab)",
        "pixels; None: off (type: float | null, default: 0.5)",
        "degrees. (type: float, default: 10.0)",
    ):
        assert text in words
    for text in ("Returns", "on_preview", "Model,", "class"):
        assert text not in shown


def test_arguments_go_to_a_file_and_back(tmp_path, capsys):
    line = "a.mp4 b model --only [1,2] --fps 30000/1001 --settings.inner.angle 5"
    with pytest.raises(SystemExit) as stopped:
        parse(f"{line} --print_config")
    assert stopped.value.code == 0
    config = tmp_path / "stage.yaml"
    config.write_text(capsys.readouterr().out)
    assert parse(f"--config {config}") == parse(line)
    changed = parse(f"--config {config} --settings.color none")
    assert changed["settings"] == Settings("none", inner=Inner(5.0))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.mp4 b", "required: model"),
        ("a.mp4 b model more", "unrecognized arguments: more"),
        ("a.mp4 b model --colour lab", "unrecognized arguments: --colour lab"),
        ("a.mp4 b model --settings.color red", "color must be lab or none, got 'red'"),
        ("a.mp4 b model --settings.limit wide", "settings.limit"),
        ("a.mp4 b model --config missing.yaml", "missing.yaml"),
    ],
)
def test_wrong_arguments_are_named(line, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(line)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
