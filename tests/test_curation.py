"""Rejected faces move there and back; faces of many people get a folder each."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from clips import face_entry
from scipy.cluster.hierarchy import fcluster, linkage
from test_quality import COUNT, collins, make_folder, spoil

import fsgan
from fsgan.data import curation, extract, quality
from fsgan.data.curation import cluster_faces, curate, examine_faces, restore_faces
from fsgan.data.dataset import load_faces
from fsgan.data.masks import make_masks
from fsgan.faces.geometry import read_faces_record
from fsgan.media.images import list_images, read_image, write_image

REPORTS = ("dataset_report.json", "dataset_report.html")


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Examine


@pytest.fixture
def faces(tmp_path, monkeypatch) -> Path:
    """Faces that are one person's, without the seconds that it takes to see that."""
    monkeypatch.setattr(quality, "load_network", lambda: None)
    monkeypatch.setattr(quality, "embed", lambda crops: np.eye(1, 128))
    return make_folder(tmp_path / "faces")


def test_only_the_report_is_written_and_it_holds_what_was_found(
    faces, hopper, tmp_path
):
    spoil(faces, hopper[0])
    before = contents(faces)
    report = examine_faces(faces, make_folder(tmp_path / "b"))
    after = contents(faces)
    assert after.pop(REPORTS[1]).decode() == report.page == report._repr_html_()
    written = json.loads(after.pop(REPORTS[0]))
    assert after == before
    assert not {*REPORTS} & {*names(tmp_path / "b")}
    assert len(report) == 2 * COUNT + 4
    assert repr(report) == f"{2 * COUNT + 4} faces examined, 2 to reject"
    assert written["advice"] == report.advice
    assert written["coverage"] == report.coverage
    assert report.coverage["pose_missing_in_b"] == 0
    rows = {row["file"]: row for row in written["folders"][0]["faces"]}
    rejected = {name: row["rejected"] for name, row in rows.items() if row["rejected"]}
    assert rejected == report.folders[0].rejected
    assert rows["collins_001.png"]["size"] == 100
    assert rows["copy.png"]["duplicate_of"] == "collins_003.png"
    assert rows["copy.png"]["yaw"] is None


def test_settings_and_another_place_for_the_report_are_used(faces, tmp_path):
    assert fsgan.DoctorSettings is fsgan.ExamineSettings
    out = tmp_path / "new" / "report.json"
    report = examine_faces(faces, settings=fsgan.DoctorSettings(min_size=101), out=out)
    assert set(report.folders[0].rejected.values()) == {"small"}
    assert report.advice[1] == f"{COUNT} of A should go: {COUNT} small."
    assert names(out.parent) == ["report.html", "report.json"]


def test_rejects_move_with_their_reasons_and_come_back(faces, hopper):
    spoil(faces, hopper[0])
    before = contents(faces)
    reasons = examine_faces(faces, apply=True).folders[0].rejected
    assert reasons.keys() == {"blurred.png", "copy.png"}
    rejected = contents(faces / "rejected")
    assert json.loads(rejected.pop("reasons.json")) == reasons
    assert rejected == {name: before[name] for name in reasons}
    assert names(faces) == sorted({*before, *REPORTS, "rejected"} - {*reasons})

    write_image(faces / "blurred.png", collins(4))
    with pytest.raises(FileExistsError, match=r"blurred\.png is another picture"):
        restore_faces(faces)
    (faces / "blurred.png").unlink()
    assert restore_faces(faces) == sorted(faces / name for name in reasons)
    after = contents(faces)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {*REPORTS}
    assert restore_faces(faces) == []
    with pytest.raises(NotADirectoryError, match="missing is no folder of faces"):
        restore_faces(faces / "missing")


def test_masks_of_rejected_faces_are_not_missed(faces, hopper, tmp_path):
    spoil(faces, hopper[0])
    make_masks(faces, tmp_path / "masks")
    examine_faces(faces, apply=True)
    kept = load_faces(faces, tmp_path / "masks", 64, 1.0)
    assert kept.names == [path.name for path in list_images(faces)]
    assert len(list_images(tmp_path / "masks")) == COUNT + 4


@pytest.mark.parametrize("text", ["{", "[]", '{"1.png": 3}'])
def test_damaged_reasons_are_refused_before_a_face_moves(faces, hopper, text):
    spoil(faces, hopper[0])
    reasons = faces / "rejected" / "reasons.json"
    reasons.parent.mkdir()
    reasons.write_text(text)
    before = contents(faces)
    with pytest.raises(ValueError, match=r"reasons.json is damaged .*: delete it"):
        examine_faces(faces, apply=True)
    assert contents(faces) == before


def test_another_face_of_that_name_is_never_overwritten(faces, hopper):
    spoil(faces, hopper[0])
    write_image(faces / "rejected" / "copy.png", collins(1))
    before = contents(faces)
    with pytest.raises(FileExistsError, match=r"copy\.png is another picture"):
        examine_faces(faces, apply=True)
    assert contents(faces) == before


def test_folders_that_cannot_be_examined_are_refused(faces, tmp_path):
    with pytest.raises(ValueError, match="A and B need two folders"):
        examine_faces(faces, faces)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        examine_faces(faces, tmp_path / "none")
    (faces / "faces.json").write_text("{")
    with pytest.raises(ValueError, match=r"faces\.json"):
        examine_faces(faces)
    assert REPORTS[0] not in names(faces)


# Curate

COLLINS = [f"{number}_collins.png" for number in range(4)]
HOPPER = [f"{number}_hopper.png" for number in range(3)]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, collins, hopper) -> Path:
    """Four faces of Collins, three of Hopper, one crop that is no face."""
    folder = tmp_path_factory.mktemp("mixed")
    for crops, files in ((collins, COLLINS), (hopper, HOPPER)):
        for crop, file in zip(crops, files, strict=False):
            write_image(folder / file, crop)
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    write_image(folder / "wall.png", noise)
    files = [*COLLINS, *HOPPER, "wall.png"]
    entries = [face_entry(file, source=file[2:-4]) for file in files]
    extract.write_faces_record(folder, entries)
    return folder


@pytest.fixture(scope="module")
def known():
    """Each face is embedded once for all tests."""
    embedded, embed = {}, quality.embed

    def remember(crops):
        key = crops[0].tobytes()
        if key not in embedded:
            embedded[key] = embed(crops)
        return embedded[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "embed", remember)
        yield


def test_each_person_gets_a_folder_and_a_sheet_the_largest_first(
    mixed, known, tmp_path
):
    before = contents(mixed)
    out = tmp_path / "new" / "sorted"
    curated = curate(mixed, out)
    assert curated.people == [out / "person_000", out / "person_001"]
    assert (curated.faces, curated.unsorted) == ([4, 3], 1)
    assert names(out / "person_000") == [*COLLINS, "faces.json"]
    assert names(out / "unsorted") == ["faces.json", "wall.png"]
    copied = contents(out / "person_001")
    assert json.loads(copied.pop("faces.json"))["faces"] == [
        face_entry(name, source="hopper") for name in HOPPER
    ]
    assert copied == {name: before[name] for name in HOPPER}
    assert contents(mixed) == before
    assert names(out.parent) == ["sorted"]
    assert contents(out).keys() == {"person_000.png", "person_001.png", "unsorted.png"}
    assert read_image(out / "person_000.png").shape == (96, 4 * 96, 3)
    assert curated.contact_sheet.shape == (3 * (96 + 16), 8 * 96, 3)
    assert len(curated) == 2
    assert repr(curated) == "2 people with 7 faces, 1 unsorted"
    assert "<img" in curated._repr_html_()


@pytest.mark.parametrize(
    ("settings", "faces", "unsorted"),
    [
        ({"min_group": 4}, [4], 4),
        ({"threshold": -0.99}, [8], 0),
        ({"threshold": 0.9999, "min_group": 1}, [1] * 8, 0),
    ],
)
def test_settings_decide_how_many_groups_there_are(
    mixed, known, tmp_path, settings, faces, unsorted
):
    curated = curate(mixed, tmp_path / "sorted", **settings)
    assert (curated.faces, curated.unsorted) == (faces, unsorted)


def test_faces_are_found_in_photos(
    portrait, hopper_photo, detector, tmp_path, monkeypatch
):
    monkeypatch.setattr(extract, "FaceDetector", lambda *settings: detector)
    photos = tmp_path / "photos"
    write_image(photos / "collins.png", portrait)
    write_image(photos / "mirrored.png", np.ascontiguousarray(portrait[:, ::-1]))
    write_image(photos / "hopper.png", hopper_photo)
    out = tmp_path / "sorted"
    assert curate(photos, out, min_face=40).people == [out / "person_000"]
    crops = ["collins_png_face0.jpg", "mirrored_png_face0.jpg"]
    assert set(names(out / "person_000")) == {*crops, "faces.json"}
    assert "hopper_png_face0.jpg" in names(out / "unsorted")
    assert [entry["file"] for entry in read_faces_record(out / "person_000")] == crops
    assert not any(name.startswith(".") for name in names(out))


def test_groups_are_those_of_average_linkage():
    rng = np.random.default_rng(0)
    people = rng.normal(size=(12, 16))
    faces = people[rng.integers(12, size=200)] + rng.normal(0, 0.6, (200, 16))
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    faces[:5] = faces[0]
    tree = linkage(faces, "average", metric="cosine")
    for threshold in (0.2, 0.5, 0.8, 0.99):
        expected = fcluster(tree, 1 - threshold, "distance")
        labels = cluster_faces(faces, threshold)
        together = labels[:, None] == labels
        np.testing.assert_array_equal(together, expected[:, None] == expected)


def test_grouping_needs_no_matrix_of_all_pairs():
    faces = np.random.default_rng(0).normal(size=(2000, 16)).astype(np.float32)
    faces[1000:] = faces[:1000] + np.float32(0.01)
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    tracemalloc.start()
    labels = cluster_faces(faces, 0.99)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(labels[:1000], labels[1000:])
    assert peak < 2e6  # the matrix has 32e6 bytes


def test_without_dlib_the_work_does_not_start(mixed, tmp_path, monkeypatch):
    def missing():
        raise FileNotFoundError("dlib's network is not installed")

    monkeypatch.setattr(curation, "load_network", missing)
    with pytest.raises(FileNotFoundError, match="is not installed"):
        curate(mixed, tmp_path / "sorted")
    assert names(tmp_path) == []


def test_a_fault_leaves_nothing_behind(tmp_path):
    bad = tmp_path / "bad"
    write_image(bad / "oblong.png", np.zeros((8, 9, 3), np.uint8))
    (bad / "faces.json").write_text('{"faces": []}')
    with pytest.raises(ValueError, match="crops must be RGB uint8"):
        curate(bad, tmp_path / "sorted")
    assert names(tmp_path) == ["bad"]


@pytest.mark.parametrize(
    ("source", "out", "settings", "error", "sentence"),
    [
        ("mixed", "new", {"min_group": 0}, ValueError, "min_group must be .* 1, got 0"),
        (
            "mixed",
            "new",
            {"threshold": 1},
            ValueError,
            "threshold must be less than 1, got 1",
        ),
        ("missing", "new", {}, FileNotFoundError, "does not exist"),
        ("mixed", "", {}, FileExistsError, "is not empty: give the name of a new"),
    ],
)
def test_wrong_arguments_are_refused(
    mixed, tmp_path, source, out, settings, error, sentence
):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(error, match=sentence):
        curate({"mixed": mixed}.get(source, source), tmp_path / out, **settings)
    assert names(tmp_path) == ["mine.txt"]
