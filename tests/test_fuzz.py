"""The tools that look for faults: what they draw, what they judge."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
from fuzz import Outcome, judge
from fuzz_cases import SCENES, Case, damage, draw_case
from kill import differences

from fsgan.__main__ import COMMANDS

CONVERT = Case(["convert-image", "photo.jpg", "out.png", "model"])
FILES = (
    "clips/a.mp4",
    "photo.jpg",
    "photos/0.png",
    "faces/a/a_1.jpg",
    "faces/b/b_1.jpg",
)


@pytest.fixture
def base(tmp_path):
    for name in (*FILES, "faces/c/faces.json", "masks/a/a_1.png", "swap.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"content")
    return tmp_path


def test_a_case_follows_from_seed_and_number(base):
    first, again, other = (
        [draw_case(seed, number, base) for number in range(20)] for seed in (0, 0, 1)
    )
    assert first == again != other
    assert {scene[0] for scene in SCENES} == set(COMMANDS)


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        (Outcome("traceback"), "status traceback"),
        (Outcome(130), "status 130"),
        (Outcome(1), "0 lines"),
        (Outcome(1, told="first\nsecond"), "2 lines"),
        (Outcome(1, told="a" * 501), "a long message"),
        (Outcome(1, told="[Errno 28] No space left"), "Errno"),
        (Outcome(1, told="no", raised=OSError("of the system")), "not our sentence"),
        (Outcome(1, told="no", new=("out.png",)), "after a failure"),
        (Outcome(1, told="no", changed=("photo.jpg",)), "changed or gone"),
        (Outcome(0, told="NumPy warns"), "noise"),
        (Outcome(0, new=(".unfinished",)), "left behind"),
        (Outcome(0, "1 faces swapped", new=("out.png",)), "swapped face, 0 marked"),
    ],
)
def test_each_fault_is_seen(outcome, fault):
    try:
        if outcome.raised:
            raise outcome.raised
    except OSError:
        pass
    assert fault in " ".join(judge(CONVERT, outcome))


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(0, "0 faces swapped", "WARNING: no face found", new=("out.png",)),
        Outcome(1, told="INFO: it begins\nphoto.jpg does not exist: check the name"),
        Outcome(2, told="usage: fsgan ...\nerror: direction must be 'AtoB'"),
    ],
)
def test_what_is_right_is_no_fault(outcome):
    assert list(judge(CONVERT, outcome)) == []


def test_damage_reaches_every_kind_of_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = set()
    for number in range(30):
        Path("faces.json").write_text(
            '{"faces": [{"file": "a.png", "index": 3}]}', encoding="utf-8"
        )
        np.savez("moments.npz", momentum=np.ones(3))
        damage("faces.json", "content", number)
        damage("moments.npz", "content", number)
        seen.add(repr(json.loads(Path("faces.json").read_text(encoding="utf-8"))))
    assert len(seen) > 10
    damage("faces.json", "cut", 3)
    assert len(Path("faces.json").read_bytes()) < 45


def test_an_output_that_was_interrupted_is_compared(tmp_path):
    for name in ("out", "whole", "again"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "crop.png").write_bytes(b"crop")
        (tmp_path / name / "tracks.json").write_text("[35]")
        (tmp_path / name / "report.json").write_text(
            f'"{name}"'
        )  # never twice the same
        (tmp_path / name / "losses.csv").write_text("iteration,loss\n10,0.5\n")
    folders = [tmp_path / name for name in ("out", "whole", "again")]
    (folders[0] / "tracks.json").write_text("[35.0]")
    assert list(differences(*folders)) == []
    (folders[0] / ".half").touch()
    (folders[0] / "crop.png").write_bytes(b"other")
    (folders[0] / "tracks.json").write_text("[36]")
    (folders[0] / "losses.csv").write_text("iteration,loss\n10,0.5\n10,0.5\n")
    found = " ".join(differences(*folders))
    assert "left behind: ['.half']" in found
    assert "crop.png is another" in found and "tracks.json is another" in found
    assert "losses.csv has other lines" in found
    (folders[0] / "report.json").unlink()
    assert "missing: ['report.json']" in " ".join(differences(*folders))
