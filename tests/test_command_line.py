"""From two videos to a swapped one on the command line, as README tells it."""

import os
import subprocess
import sys

import pytest

from fsgan.__main__ import main
from fsgan.media.images import list_images
from fsgan.media.provenance import read_marks, says_synthetic
from fsgan.media.reader import probe

TINY = "--model.capacity lite --model.norm none --model.attention false"
SHORT = "--settings.iterations 2 --settings.batch_size 2 --settings.perceptual off"


def fsgan(line: str) -> int:
    return main(line.split())


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder in which the road was gone, with what was printed on the way."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("fsgan.swap.generator.fastest_precision", lambda: "float32")
        assert fsgan("sample . --seconds 0.4 --size [320,180]") == 0
        assert fsgan("extract a.mp4 faces/a --every 1") == 0
        assert fsgan("extract b.mp4 faces/b --every 1") == 0
        assert fsgan("masks faces/a eye_masks/a --method five_points") == 0
        assert fsgan("masks faces/b eye_masks/b --method five_points") == 0
        masks = "--masks_a eye_masks/a --masks_b eye_masks/b"
        assert fsgan(f"train faces/a faces/b model {masks} {TINY} {SHORT}") == 0
        assert fsgan("convert a.mp4 swap.mp4 model --settings.engine keras") == 0
        yield folder


def test_five_commands_lead_from_two_videos_to_a_swapped_one(work):
    assert len(list_images(work / "faces" / "a")) == 10
    assert len(list_images(work / "eye_masks" / "b")) == 10
    assert (work / "model" / "checkpoints" / "iteration_0000002").is_dir()
    source, swapped = probe(work / "a.mp4"), probe(work / "swap.mp4")
    assert swapped.frame_count == source.frame_count == 10
    assert swapped.fps == source.fps and swapped.has_audio
    assert says_synthetic(read_marks(work / "swap.mp4"))


@pytest.mark.parametrize(
    ("line", "status", "told"),
    [
        ("extract a.mp4 again/a --every 5", 0, "2 faces in again/a"),
        ("masks again/a again/masks --method five_points", 0, "2 eye masks in"),
        ("examine faces/a --faces_b faces/b", 0, ""),
        ("restore faces/a", 0, "0 faces came back"),
        ("curate faces/a people", 0, "people/person_000: 10 faces"),
        ("follow a.mp4 followed.mp4", 0, "track 0: 0.00 to 0.36 s, in 10 frames"),
        ("train faces/a faces/b model", 0, "saved in model/checkpoints/iteration_"),
        (
            "convert a.mp4 part.mp4 model --end 0.2",
            0,
            "part.mp4: face in 5 of 5 frames",
        ),
        ("convert a.mp4 swap.mp4 model", 1, ""),
        ("convert-videos [a.mp4] many model", 0, "a.mp4  face in 10 of 10 frames"),
        ("verify swap.mp4", 0, "says that it is synthetic"),
        ("verify swap.mp4 a.mp4", 1, "carries no mark"),
    ],
)
def test_commands_tell_what_they_did(work, capsys, line, status, told):
    if line.startswith("train"):
        line = f"{line} --masks_a eye_masks/a --masks_b eye_masks/b"
    assert fsgan(line) == status
    out, error = capsys.readouterr()
    assert told in out
    assert "Traceback" not in error and (status == 0 or out or error.count("\n") == 1)


def test_a_command_written_to_a_file_runs_as_a_program(work, capsys):
    line = "convert a.mp4 program.mp4 model --settings.engine keras --end 0.2"
    with pytest.raises(SystemExit) as stopped:
        fsgan(f"{line} --print_config")
    assert stopped.value.code == 0
    (work / "convert.yaml").write_text(capsys.readouterr().out)
    program = [sys.executable, "-m", "fsgan", "-q"]
    run = subprocess.run(
        [*program, "convert", "--config", "convert.yaml"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert run.returncode == 0
    assert run.stdout.startswith("program.mp4: face in 5 of 5 frames")
    assert run.stderr == ""
    assert probe(work / "program.mp4").frame_count == 5
