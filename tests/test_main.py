import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fsgan.media.certificates import certificate_path
from fsgan.media.content_credentials import sign

from fsgan import TrainSettings, preset, train
from fsgan.__main__ import COMMANDS, main
from fsgan.arguments import parse_arguments
from fsgan.media import images
from fsgan.media.provenance import image_xmp
from fsgan.swap.convert import ConvertedFiles

GRAY = np.full((16, 24, 3), 128, np.uint8)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Names of a marked, a plain, a changed and an unreadable picture, and of none."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.chdir(tmp_path)
    images.write_image("marked.png", GRAY, xmp=image_xmp())
    sign("marked.png")
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
    ],
)
def test_the_worst_file_gives_the_status(files, names, status):
    assert main(["verify", *names]) == status


def test_every_file_gets_a_block_or_a_sentence(files, capsys):
    main(["verify", "marked.png", "missing.png", "plain.png"])
    out, error = capsys.readouterr()
    blocks = out.strip().split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == ["marked.png", "plain.png"]
    assert blocks[0].endswith("says that it is synthetic")
    assert error == "missing.png is not there or not a file; check the name\n"


def test_signers_can_be_trusted(files, capsys):
    root = str(certificate_path())
    assert main(["verify", "--trusted", root, "marked.png"]) == 0
    assert "Trusted" in capsys.readouterr().out
    assert main(["verify", "--trusted", "missing.pem", "marked.png"]) == 2


@pytest.mark.parametrize("arguments", [[], ["verify"], ["swap", "marked.png"]])
def test_wrong_usage_is_told(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: fsgan" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: fsgan {name} ")


def test_the_help_of_all_names_each_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    for name, command in COMMANDS.items():
        assert [name, *command.purpose.split()] in [line.split() for line in lines]


@pytest.fixture
def stage(monkeypatch):
    """Puts a stage in the place of that which makes the sample clips."""

    def put(outcome):
        def run(folder: str) -> str:
            """Does something."""
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr("fsgan.data.sample.make_sample_clips", run)

    return put


@pytest.mark.parametrize(
    ("outcome", "status", "out", "sentence"),
    [
        (["x/a.mp4", "x/b.mp4"], 0, "x/a.mp4\nx/b.mp4\n", ""),
        (ValueError("seconds must be 1"), 1, "", "seconds must be 1\n"),
        (FileNotFoundError("no such file: x"), 1, "", "no such file: x\n"),
        (MemoryError("no room for it"), 1, "", "no room for it\n"),
        (FloatingPointError("loss exploded"), 1, "", "loss exploded\n"),
        (ImportError("install 'fsgan[torch]'"), 1, "", "install 'fsgan[torch]'\n"),
        (KeyboardInterrupt(), 130, "", "interrupted: what was finished stays\n"),
    ],
)
def test_what_becomes_of_a_command(stage, capsys, outcome, status, out, sentence):
    stage(outcome)
    assert main(["sample", "x"]) == status
    assert capsys.readouterr() == (out, sentence)


def test_a_fault_of_the_package_itself_is_not_hidden(stage):
    stage(KeyError("frame"))
    with pytest.raises(KeyError):
        main(["sample", "x"])


def test_verbose_shows_where_an_error_arose(stage):
    stage(ValueError("seconds must be 1"))
    with pytest.raises(ValueError, match="seconds must be 1"):
        main(["-v", "sample", "x"])


@pytest.mark.parametrize(
    ("options", "level", "disabled"),
    [([], logging.INFO, None), (["--quiet"], logging.WARNING, "1")],
)
def test_quiet_leaves_warnings_only(stage, monkeypatch, options, level, disabled):
    stage([])
    # To be taken back by monkeypatch, it must have been set by it.
    monkeypatch.setenv("TQDM_DISABLE", "")
    monkeypatch.delenv("TQDM_DISABLE")
    assert main([*options, "sample", "x"]) == 0
    assert logging.getLogger("fsgan").level == level
    assert os.environ.get("TQDM_DISABLE") == disabled


def test_files_that_failed_give_status_1(monkeypatch, capsys):
    def convert(sources: str, out_dir: str) -> ConvertedFiles:
        """Fails."""
        return ConvertedFiles({}, {Path(sources, "a.mp4"): "no video"})

    monkeypatch.setattr("fsgan.swap.convert.convert_videos", convert)
    assert main(["convert-videos", "videos", "out"]) == 1
    assert capsys.readouterr().out == "a.mp4  FAILED: no video\n"


def test_an_evaluation_is_printed_as_its_table(monkeypatch, capsys):
    def evaluate(source: str, out_dir: str) -> str:
        """Measures."""
        return f"figures of {source}"

    monkeypatch.setattr("fsgan.evaluation.evaluate.evaluate", evaluate)
    assert main(["evaluate", "a.mp4", "report"]) == 0
    assert capsys.readouterr().out == "figures of a.mp4\n"


def test_a_missing_video_is_told_in_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["extract", "missing.mp4", "faces"]) == 1
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and error.startswith("missing.mp4 ")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_setting_is_told_before_anything_is_read(capsys):
    line = "convert missing.mp4 out.mp4 missing --settings.color red"
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    assert stopped.value.code == 2
    assert "error: color must be one of" in capsys.readouterr().err


def test_a_preset_is_a_config_of_train(tmp_path, capsys):
    assert main(["preset", "autoencoder", "--capacity", "lite"]) == 0
    config = tmp_path / "train.yaml"
    config.write_text(capsys.readouterr().out)
    line = f"a b model --config {config} --settings.batch_size 2"
    given = parse_arguments("fsgan train", train, line.split())
    wanted = preset("autoencoder", capacity="lite")
    assert given["model"] == wanted.model
    assert given["settings"] == TrainSettings(batch_size=2, losses=wanted.losses)


def _run(*arguments):
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "fsgan", *arguments],
        capture_output=True,
        text=True,
    )


def test_help_is_quick(files):
    run = _run("--help")
    assert run.returncode == 0
    for slow in ("numpy", "keras", "jsonargparse", "av"):
        assert f" {slow}\n" not in run.stderr


def test_the_package_runs_as_a_program_and_starts_no_network(files):
    run = _run("verify", "plain.png")
    assert run.returncode == 1
    assert run.stdout.startswith("plain.png\n  metadata     none\n")
    for heavy in ("tensorflow", "keras", "torch", "jax"):
        assert f" {heavy}\n" not in run.stderr
