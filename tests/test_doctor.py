"""Two folders go in; a report comes out, and rejected faces move there and back."""

import json
import shutil
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from test_quality import COUNT, make_folder, person, spoil

from fsgan.data.dataset import load_faces
from fsgan.data.doctor import examine_faces, restore_faces
from fsgan.data.extract import make_eye_masks, read_record
from fsgan.data.quality import DoctorSettings
from fsgan.media.images import list_images, write_image


@pytest.fixture
def faces(tmp_path) -> Path:
    return make_folder(tmp_path / "faces")


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


# The report


def test_only_the_report_is_written(faces, tmp_path):
    before = contents(faces)
    spoiled = make_folder(tmp_path / "b")
    reasons = spoil(spoiled)
    report = examine_faces(faces, spoiled)
    assert [folder.rejected for folder in report.folders] == [{}, reasons]
    assert report.coverage.pose_missing_in_b == 0
    assert isinstance(report.figure, Figure)
    after = contents(faces)
    assert after.pop("doctor.json")
    assert after == before
    assert "doctor.json" not in contents(spoiled)


def test_the_report_goes_where_it_is_asked_to(faces, tmp_path):
    before = contents(faces)
    examine_faces(faces, out=tmp_path / "new" / "report.json")
    assert json.loads((tmp_path / "new" / "report.json").read_text())["advice"]
    assert contents(faces) == before


def test_settings_decide_what_is_rejected(faces):
    report = examine_faces(faces, settings=DoctorSettings(min_size=101))
    assert set(report.folders[0].rejected.values()) == {"small"}
    assert report.advice[1] == f"{COUNT} of A should go: {COUNT} small."


def test_the_json_holds_what_the_report_holds(faces):
    reasons = spoil(faces)
    report = examine_faces(faces)
    written = json.loads((faces / "doctor.json").read_text())
    assert written["advice"] == report.advice
    assert written["coverage"] is None
    rows = {row["file"]: row for row in written["folders"][0]["faces"]}
    assert {n: row["rejected"] for n, row in rows.items() if row["rejected"]} == reasons
    assert rows["collins_001.png"]["size"] == 100
    assert rows["copy.png"]["duplicate_of"] == "collins_003.png"
    assert rows["copy.png"]["yaw"] is None


# Moving


def test_apply_moves_the_rejects_with_their_entries_and_reasons(faces):
    reasons = spoil(faces)
    shutil.copy(faces / "collins_000.png", faces / "aaa.png")  # collins_000 is a copy
    reasons["collins_000.png"] = "duplicate of aaa.png"
    before = contents(faces)
    examine_faces(faces, apply=True)
    after, rejected = contents(faces), contents(faces / "rejected")
    assert json.loads(rejected.pop("reasons.json")) == reasons
    moved = json.loads(rejected.pop("faces.json"))["faces"]
    assert [entry["file"] for entry in moved] == ["collins_000.png"]
    assert set(rejected) == set(reasons)
    kept = [entry["file"] for entry in read_record(faces)]
    assert kept == [f"collins_{index:03d}.png" for index in range(1, COUNT)]
    for name in ("doctor.json", "faces.json"):
        after.pop(name)
    before.pop("faces.json")
    assert after | rejected == before


def test_restoring_gives_back_faces_and_entries(faces):
    spoil(faces)
    shutil.copy(faces / "collins_000.png", faces / "aaa.png")
    before, record = contents(faces), read_record(faces)
    examine_faces(faces, apply=True)
    assert len(restore_faces(faces)) == 5
    after = contents(faces)
    del after["doctor.json"], after["faces.json"], before["faces.json"]
    assert after == before
    assert sorted(read_record(faces), key=lambda e: e["file"]) == record
    assert restore_faces(faces) == []


def test_a_face_that_is_moved_back_by_hand_gets_its_entry_again(faces):
    shutil.copy(faces / "collins_000.png", faces / "aaa.png")
    record = read_record(faces)
    examine_faces(faces, apply=True)
    (faces / "rejected" / "collins_000.png").rename(faces / "collins_000.png")
    assert len(read_record(faces)) == COUNT - 1
    assert restore_faces(faces) == []
    assert sorted(read_record(faces), key=lambda e: e["file"]) == record


def test_masks_of_rejected_faces_are_not_missed(faces, tmp_path):
    spoil(faces)
    make_eye_masks(faces, tmp_path / "masks", "five_points")
    examine_faces(faces, apply=True)
    kept = load_faces(faces, tmp_path / "masks", 64, 1.0)
    assert kept.names == [path.name for path in list_images(faces)]
    assert len(list((tmp_path / "masks").iterdir())) == COUNT + 4


def test_another_face_of_that_name_is_never_overwritten(faces):
    spoil(faces)
    write_image(faces / "rejected" / "stranger.png", person("collins", 1))
    before = contents(faces)
    with pytest.raises(FileExistsError, match=r"stranger\.png is another picture"):
        examine_faces(faces, apply=True)
    assert contents(faces) == before


# Faults


def test_one_folder_for_both_persons_is_refused(faces):
    with pytest.raises(ValueError, match="A and B need two folders"):
        examine_faces(faces, faces)


def test_a_folder_that_is_missing_is_refused(faces, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        examine_faces(faces, tmp_path / "none")
    assert not (faces / "doctor.json").exists()


def test_a_damaged_record_is_refused(faces):
    (faces / "faces.json").write_text("{")
    with pytest.raises(ValueError, match=r"faces\.json"):
        examine_faces(faces)
