"""The command line: arguments, exit status, and all of docs/commands.md once."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
from clips import gray_pictures, make_clip
from test_credentials import own_certificate

import fsgan
from fsgan import ConvertSettings, LossWeights, TrainSettings, recipe, train
from fsgan.__main__ import COMMANDS, main, parse_arguments
from fsgan.media import images
from fsgan.media.credentials import sign
from fsgan.media.provenance import image_xmp, read_marks, says_synthetic
from fsgan.media.reader import probe
from fsgan.models.checkpoint import read_settings
from fsgan.validation import AboveZero, checked

GRAY = np.full((16, 24, 3), 128, np.uint8)
TINY = "--model.capacity lite --model.norm none --model.attention false"
SHORT = "--settings.iterations 2 --settings.batch_size 2 --settings.perceptual off"


# Arguments


@dataclass(frozen=True)
class Inner:
    """Deeper settings.

    Attributes:
        angle: degrees.
    """

    angle: float = 10.0


@checked
@dataclass(frozen=True)
class Settings:
    """How it is done.

    Attributes:
        color: lab or none.
        limit: pixels; None: off.
        inner: more of them.
    """

    color: Literal["lab", "none"] = "lab"
    limit: AboveZero | None = 0.5
    inner: Inner = field(default_factory=Inner)


def stage(
    source: str | Path | int,
    other: str | Path | None,
    model: str | Path | fsgan.FaceSwapper,
    settings: Settings | None = None,
    changes: Settings | Mapping | None = None,
    *,
    only: str | Path | fsgan.FaceSwapper | int | Collection[int] | None = None,
    fps: Fraction | float | None = None,
    size: tuple[int, int] = (640, 360),
    again: bool = False,
    on_preview: Callable[[int], None] | None = None,
) -> Settings:
    """Does it.

    In two steps::

        first, then
        second

    Args:
        source: what to read.
        other: 100 % needed.
        model: its folder.
        settings: how.
        changes: what to change.
        only: whose.
        fps: frames a second.
        size: width and height.
        again: whether once more.
        on_preview: called now and then.

    Returns:
        Something.
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
        ("--changes.inner.angle 5", {"changes": {"inner": {"angle": 5.0}}}),
        ("--changes.limit null", {"changes": {"limit": None}}),
    ],
)
def test_only_what_is_given_is_passed_and_as_its_own_type(options, expected):
    values = parse(f"a.mp4 b model {options}")
    assert values == {"source": "a.mp4", "other": "b", "model": "model"} | expected
    assert parse("0 b model")["source"] == 0


def test_an_argument_that_may_be_none_may_be_left_out():
    values = parse("a.mp4 --again true model")
    wanted = {"source": "a.mp4", "other": None, "model": "model", "again": True}
    assert values == wanted


def test_the_help_is_that_of_the_docstrings(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse("--help")
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    words = " ".join(shown.split())
    assert shown.startswith("usage: fsgan stage [OPTION ...] source [other] model\n")
    assert "In two steps::\n\n    first, then\n    second\n" in shown
    for text in (
        "source what to read.",
        "other 100 % needed.",
        "lab or none. (type: Literal['lab', 'none'], default: lab)",
        "pixels; None: off. (type: Optional[float], default: 0.5)",
        "pixels; None: off. (type: Optional[float])",
        "degrees. (type: float, default: 10.0)",
    ):
        assert text in words
    for text in ("Returns", "Something", "on_preview", "FaceSwapper"):
        assert text not in shown


@pytest.mark.parametrize(
    "settings",
    [
        ConvertSettings,
        TrainSettings,
        LossWeights,
        fsgan.ModelConfig,
        fsgan.AugmentationSettings,
        fsgan.ExamineSettings,
    ],
)
def test_every_field_of_settings_has_its_help(settings):
    told = settings.__doc__.partition("Attributes:")[2]
    for name in settings.__dataclass_fields__:
        assert f"\n        {name}: " in told


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
        ("a.mp4", "required: other, model"),
        ("a.mp4 b model more", "unrecognized arguments: more"),
        ("a.mp4 b model --colour lab", "unrecognized arguments: --colour lab"),
        (
            "a.mp4 b model --settings.color red",
            "color must be 'lab' or 'none', got 'red'",
        ),
        (
            "a.mp4 b model --settings.limit wide",
            "settings.limit must be a valid number, got 'wide'",
        ),
        ("a.mp4 b model --settings.limit 0", "limit must be greater than 0, got 0"),
        ("a.mp4 b model --changes.limit 0", "limit must be greater than 0, got 0"),
        ("a.mp4 b model --changes.limit .inf", "limit must be a finite number, got"),
        ("a.mp4 b model --changes.inner.angle x", "changes.inner.angle must be a"),
        ("a.mp4 b model --again 3", "again must be a valid boolean, got '3'"),
    ],
)
def test_wrong_arguments_are_named(line, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(line)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "Unexpected config"),
        (b"words", "Unexpected config: words"),
        (b"{{[", "Problems parsing config"),
        (b"settings: {limit: wide}", "settings.limit must be a valid number, got"),
        (b"source: " + b"x" * 150_000 + b"\xff", "can't decode byte 0xff"),
        (b"settings: " + b"x" * 150_000, "xxx"),
    ],
)
def test_a_wrong_config_is_named_in_one_short_sentence(
    tmp_path, capsys, content, message
):
    config = tmp_path / "stage.yaml"
    if content is not None:
        config.write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        parse(f"a.mp4 b model --config {config}")
    assert stopped.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {config}: ") and message in error
    assert len(error) < 700


def test_a_recipe_is_a_config_of_train(tmp_path, capsys):
    assert main(["recipe", "quick", "--resolution", "96"]) == 0
    config = tmp_path / "train.yaml"
    config.write_text(capsys.readouterr().out)
    line = f"a b model --config {config} --settings.batch_size 2"
    given = parse_arguments("fsgan train", train, line.split())
    wanted = recipe("quick", 96)
    assert given["model"] == asdict(wanted.model)
    assert given["settings"] == asdict(wanted.settings) | {"batch_size": 2}


# Commands and their exit status


@pytest.mark.parametrize("arguments", [["verify"], ["swap", "marked.png"]])
def test_wrong_usage_is_an_error(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: fsgan" in capsys.readouterr().err


def test_every_command_has_help(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        assert stopped.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: fsgan {name} ")
    with pytest.raises(SystemExit):
        main(["--help"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name, command in COMMANDS.items():
        assert [name, *command.purpose.split()] in lines


@pytest.fixture
def put(monkeypatch):
    """Puts a function with an outcome in the place of `make_sample_clips`."""

    def put(outcome):
        def run(folder: str) -> str:
            """Does something."""
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr(fsgan, "make_sample_clips", run, raising=False)

    return put


@pytest.mark.parametrize(
    ("outcome", "status", "out", "sentence"),
    [
        (["x/a.mp4", "x/b.mp4"], 0, "x/a.mp4\nx/b.mp4\n", ""),
        (ValueError("seconds must be 1"), 1, "", "seconds must be 1\n"),
        (FileNotFoundError("no such file: x"), 1, "", "no such file: x\n"),
        (MemoryError("no room for it"), 1, "", "no room for it\n"),
        (FloatingPointError("loss exploded"), 1, "", "loss exploded\n"),
        (OSError(36, "Too long", "a.mp4"), 1, "", "a.mp4: Too long\n"),
        (ImportError("install 'fsgan[torch]'"), 1, "", "install 'fsgan[torch]'\n"),
        (KeyboardInterrupt(), 130, "", "interrupted: what was finished stays\n"),
    ],
)
def test_the_status_tells_how_a_command_ended(
    put, capsys, outcome, status, out, sentence
):
    put(outcome)
    assert main(["sample", "x"]) == status
    assert capsys.readouterr() == (out, sentence)


@pytest.mark.parametrize(
    ("line", "error"),
    [(["sample", "x"], KeyError("frame")), (["-v", "sample", "x"], ValueError("one"))],
)
def test_faults_of_the_package_and_verbose_show_where_an_error_arose(put, line, error):
    put(error)
    with pytest.raises(type(error)):
        main(line)


@pytest.mark.parametrize(
    ("options", "level", "disabled"),
    [([], logging.INFO, None), (["--quiet"], logging.WARNING, "1")],
)
def test_quiet_leaves_warnings_only(put, monkeypatch, options, level, disabled):
    put([])
    # To be taken back by monkeypatch, it must have been set by it.
    monkeypatch.setenv("TQDM_DISABLE", "")
    monkeypatch.delenv("TQDM_DISABLE")
    assert main([*options, "sample", "x"]) == 0
    assert logging.getLogger("fsgan").level == level
    assert os.environ.get("TQDM_DISABLE") == disabled


def test_files_that_failed_give_status_1(put, capsys, monkeypatch):
    failed = SimpleNamespace(failed={"a.mp4": "no video"})
    monkeypatch.setitem(
        COMMANDS, "sample", COMMANDS["sample"]._replace(report=lambda done: done.failed)
    )
    put(failed)
    assert main(["sample", "x"]) == 1
    assert capsys.readouterr().out == "{'a.mp4': 'no video'}\n"


# Verify


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Names of a marked, a plain, a changed and an unreadable picture, and of none."""
    monkeypatch.chdir(tmp_path)
    certificate, private_key, _ = own_certificate(tmp_path)
    images.write_image("marked.png", GRAY, xmp=image_xmp())
    sign("marked.png", certificate=certificate, private_key=private_key)
    images.write_image("plain.png", GRAY)
    data = bytearray((tmp_path / "marked.png").read_bytes())
    data[data.index(b"IDAT") + 6] ^= 1
    (tmp_path / "changed.png").write_bytes(data)
    (tmp_path / "text.png").write_text("words")


@pytest.mark.parametrize(
    ("names", "status"),
    [
        (["marked.png"], 0),
        (["marked.png", "marked.png"], 0),
        (["marked.png", "plain.png"], 1),
        (["plain.png", "changed.png", "marked.png"], 2),
        (["text.png", "marked.png"], 2),
        (["missing.png", "plain.png"], 2),
        (["--trusted", "missing.pem", "marked.png"], 2),
    ],
)
def test_the_worst_file_gives_the_status(files, names, status):
    assert main(["verify", *names]) == status


def test_every_file_gets_a_block_or_a_sentence(files, capsys):
    main(["verify", "--trusted", "root.pem", "marked.png", "missing.png", "plain.png"])
    out, error = capsys.readouterr()
    blocks = out.strip().split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == ["marked.png", "plain.png"]
    assert "Trusted" in blocks[0] and blocks[0].endswith("says that it is synthetic")
    assert error == "missing.png does not exist; check the name\n"


# All of it


def run(line: str) -> int:
    return main(line.split())


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder in which the commands of docs/commands.md were run."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run("sample . --seconds 0.4 --size [320,180]") == 0
        for side in "ab":
            assert run(f"extract {side}.mp4 faces/{side} --every 1") == 0
            masks = f"faces/{side} masks/{side}"
            assert run(f"masks {masks}") == 0
        masks = "--masks_a masks/a --masks_b masks/b"
        assert run(f"train faces/a faces/b model {masks} {TINY} {SHORT}") == 0
        assert run("convert a.mp4 swap.mp4 model --settings.engine keras") == 0
        yield folder


@pytest.mark.slow
def test_five_commands_lead_from_two_videos_to_a_swapped_one(work):
    assert len(images.list_images(work / "faces" / "a")) == 10
    assert len(images.list_images(work / "masks" / "b")) == 10
    assert (work / "model" / "checkpoints" / "iteration_0000002").is_dir()
    source, swapped = probe(work / "a.mp4"), probe(work / "swap.mp4")
    assert swapped.frame_count == source.frame_count == 10
    assert swapped.fps == source.fps and swapped.has_audio
    assert says_synthetic(read_marks(work / "swap.mp4"))


@pytest.mark.parametrize(
    ("line", "status", "told"),
    [
        ("extract missing.mp4 nowhere", 1, ""),
        ("extract a.mp4 again/a --every 5", 0, "2 faces in"),
        ("masks again/a again/masks", 0, "2 masks by mesh"),
        ("examine faces/a --faces_b faces/b", 0, ""),
        ("restore faces/a", 0, "0 faces came back"),
        ("curate faces/a people", 0, "1 people with 10 faces"),
        ("follow a.mp4 followed.mp4", 0, "track 0: 0.00 to 0.36 s, in 10 frames"),
        ("convert a.mp4 swap.mp4 model", 1, ""),
        ("verify swap.mp4", 0, "says that it is synthetic"),
        ("verify swap.mp4 a.mp4", 1, "carries no mark"),
    ],
)
@pytest.mark.slow
def test_commands_report_what_they_did(work, capsys, line, status, told):
    assert run(line) == status
    out, error = capsys.readouterr()
    assert told in out
    assert "Traceback" not in error and (status == 0 or out or error.count("\n") == 1)


def as_program(*arguments, options=()):
    return subprocess.run(
        [sys.executable, *options, "-m", "fsgan", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


@pytest.mark.slow
def test_an_interrupted_training_is_saved_and_gives_130(two_people, tmp_path, capsys):
    """Of one person, who cannot be put on another."""
    model = tmp_path / "model"
    line = (
        f"-q train {two_people / 'a'} {model} --recipe single --settings.batch_size 1"
    )
    training = subprocess.Popen(
        [sys.executable, "-m", "fsgan", *line.split()],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stderr=subprocess.PIPE,
        text=True,
    )
    while training.poll() is None and not (model / "previews").exists():
        time.sleep(0.1)
    training.send_signal(signal.SIGINT)
    _, error = training.communicate()
    assert training.returncode == 130
    assert "call train again" in error and "Traceback" not in error
    [checkpoint] = (model / "checkpoints").iterdir()
    done = read_settings(checkpoint)["iteration"]
    # It goes on with what it had but for what is given.
    more = f"--settings.iterations {done + 1} --settings.learning_rate 1e-5"
    assert run(f"train {two_people / 'a'} {model} {more}") == 0
    again = read_settings(model / "checkpoints" / f"iteration_{done + 1:07d}")
    changed = {"iterations": done + 1, "learning_rate": 1e-5}
    assert again["training"] == read_settings(checkpoint)["training"] | changed
    clip = tmp_path / "clip.mp4"
    make_clip(clip, gray_pictures(3))
    assert run(f"convert {clip} {tmp_path / 'swap.mp4'} {model}") == 1
    assert "knows one person" in capsys.readouterr().err


@pytest.mark.slow
def test_a_command_written_to_a_file_runs_as_a_program(work, capsys):
    line = "convert a.mp4 program.mp4 model --settings.engine keras --end 0.2"
    with pytest.raises(SystemExit) as stopped:
        run(f"{line} --print_config")
    assert stopped.value.code == 0
    (work / "convert.yaml").write_text(capsys.readouterr().out)
    done = as_program("-q", "convert", "--config", "convert.yaml")
    assert done.returncode == 0
    assert done.stdout.startswith("program.mp4: face in 5 of 5 frames")
    assert done.stderr == ""
    assert probe(work / "program.mp4").frame_count == 5


def test_help_and_verify_start_nothing_slow(files):
    helped = as_program("--help", options=("-X", "importtime"))
    assert helped.returncode == 0
    for slow in ("numpy", "keras", "jsonargparse", "av"):
        assert f" {slow}\n" not in helped.stderr
    verified = as_program("verify", "plain.png", options=("-X", "importtime"))
    assert verified.returncode == 1
    assert verified.stdout.startswith("plain.png\n  metadata     none\n")
    for heavy in ("tensorflow", "keras", "torch", "jax"):
        assert f" {heavy}\n" not in verified.stderr


def test_without_a_word_the_commands_are_listed(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 0
    assert "convert-image" in capsys.readouterr().out
