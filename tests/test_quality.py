"""Faces with known faults are found; folders of known measures get their advice."""

import math
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import face_entry
from skimage.data import astronaut, coffee

from fsgan.data import quality
from fsgan.data.extract import write_faces_record
from fsgan.data.quality import (
    OUTLIER,
    ExamineSettings,
    FolderReport,
    advise,
    compare_folders,
    compare_people,
    examine_folder,
    find_near_duplicates,
    render_page,
    score_outliers,
)
from fsgan.faces.geometry import read_faces_record
from fsgan.media.images import read_image, write_image

COUNT = 12
# Eyes, nose and corners of a mouth, (x, y, depth), looking straight at the camera.
HEAD = np.array([[-50, -60, 0], [50, -60, 0], [0, 0, -42], [-38, 57, 0], [38, 57, 0]])


def points(yaw):
    """Five points of a head that is turned to its right."""
    x, y, z = HEAD.T
    turned = x * np.cos(np.radians(yaw)) - z * np.sin(np.radians(yaw))
    return np.stack([turned, y], axis=1) + 200


def collins(index):
    """The crop of a frame in which the face has moved a little."""
    shift = 2.5 * np.array([np.cos(index / 3), np.sin(index / 5)])
    scale = 128 / 84
    matrix = np.hstack([np.eye(2) * scale, -scale * np.add(shift, (183, 75))[:, None]])
    return cv2.warpAffine(astronaut(), matrix, (128, 128), flags=cv2.INTER_AREA)


def make_folder(folder, count=COUNT):
    """A folder of Collins' faces, as of `extract_faces`."""
    entries = []
    for index in range(count):
        name = f"collins_{index:03d}.png"
        write_image(folder / name, collins(index))
        landmarks = points(index - count / 2).tolist()
        entries.append(face_entry(name, landmarks=landmarks))
    write_faces_record(folder, entries)
    return folder


def spoil(faces, stranger):
    """Puts one face of each fault among the good ones; name -> reason."""
    write_image(faces / "blurred.png", cv2.GaussianBlur(collins(4), (0, 0), 4))
    write_image(faces / "stranger.png", stranger)
    write_image(faces / "coffee.png", coffee()[50:178, 50:178].copy())
    shutil.copy(faces / "collins_003.png", faces / "copy.png")
    return {
        "blurred.png": "blurred",
        "stranger.png": OUTLIER,
        "coffee.png": OUTLIER,
        "copy.png": "duplicate of collins_003.png",
    }


def examine(faces, **settings):
    return examine_folder(faces, ExamineSettings(**settings))


@pytest.fixture
def faces(tmp_path) -> Path:
    return make_folder(tmp_path / "faces")


@pytest.fixture
def without_dlib(monkeypatch):
    def missing():
        raise FileNotFoundError("dlib is not installed")

    monkeypatch.setattr(quality, "load_network", missing)


@pytest.fixture
def embedded(monkeypatch):
    """Pictures are embedded by their level, 0 or not; collects the levels seen."""
    seen = []

    def embed(crops):
        seen.append(int(crops[0][0, 0, 0]))
        return np.eye(128, dtype=np.float32)[[int(seen[-1] > 0)]]

    monkeypatch.setattr(quality, "load_network", lambda: None)
    monkeypatch.setattr(quality, "embed", embed)
    return seen


def write_levels(folder, levels):
    files = [folder / f"{index}.png" for index in range(len(levels))]
    for file, level in zip(files, levels, strict=True):
        write_image(file, np.full((32, 32, 3), level, np.uint8))
    return files


def test_each_fault_is_found_and_named_and_no_file_is_touched(faces, hopper):
    reasons = spoil(faces, hopper[0])
    before = {path: path.read_bytes() for path in faces.iterdir()}
    folder = examine(faces)
    assert folder.rejected == reasons
    assert folder.accepted.sum() == COUNT
    assert folder.names == sorted(folder.names)
    assert repr(folder) == f"16 faces in {faces}, 4 to reject"
    assert {path: path.read_bytes() for path in faces.iterdir()} == before


def test_without_dlib_the_rest_is_found_and_it_is_said(
    faces, hopper, without_dlib, caplog
):
    spoil(faces, hopper[0])
    folder = examine(faces)
    assert set(folder.rejected) == {"blurred.png", "copy.png"}
    assert np.isnan(folder.measures["outlier"]).all()
    assert "other people among the faces are not looked for: dlib is" in caplog.text
    assert any("A were not looked for: that needs dlib" in s for s in advice_on(folder))


def test_the_measures_are_those_of_the_record_and_the_pixels(faces, without_dlib):
    write_image(faces / "collins_000.png", np.full((128, 128, 3), 70, np.uint8))
    measures = examine(faces).measures
    np.testing.assert_allclose(measures["size"], 100)
    np.testing.assert_allclose(measures["confidence"], 0.99)
    assert measures["sharpness"][0] == pytest.approx(0)
    assert measures["brightness"][0] == pytest.approx(70)
    assert measures["sharpness"][1:].min() > 10
    assert np.all(np.diff(measures["yaw"]) > 0)
    assert np.median(measures["pitch"]) == pytest.approx(0, abs=1e-9)


def test_of_wide_crops_the_standard_part_is_measured(faces, without_dlib, tmp_path):
    wide, entries = tmp_path / "wide", read_faces_record(faces)
    rng = np.random.default_rng(0)
    for entry in entries:
        crop = rng.integers(0, 256, (204, 204, 3), np.uint8)
        crop[38:166, 38:166] = read_image(faces / entry["file"])
        write_image(wide / entry["file"], crop)
        entry["extent"] = 204 / 128
    write_faces_record(wide, entries)
    measured, expected = examine(wide).measures, examine(faces).measures
    for name in expected:
        np.testing.assert_array_equal(measured[name], expected[name])


def test_near_duplicates_form_no_chain_and_are_rejected_only_when_asked(tmp_path):
    write_levels(tmp_path, [100, 102, 104, 100])
    folder = examine(tmp_path)
    assert folder.near_duplicates == {"1.png": "0.png"}
    assert folder.rejected == {"3.png": "duplicate of 0.png"}
    assert examine(tmp_path, reject_near_duplicates=True).rejected == {
        "1.png": "near-duplicate of 0.png",
        "3.png": "duplicate of 0.png",
    }


def test_confidence_and_size_reject_when_limits_are_set(faces, without_dlib):
    entries = read_faces_record(faces)
    entries[2]["confidence"], entries[5]["box"] = 0.75, [0, 0, 30, 60]
    write_faces_record(faces, entries)
    assert examine(faces, min_confidence=0.8, min_size=40).rejected == {
        "collins_002.png": "low confidence",
        "collins_005.png": "small",
    }
    assert examine(faces).rejected == {}


def test_a_single_face_is_examined_and_gets_its_advice(tmp_path):
    folder = examine(make_folder(tmp_path, count=1))
    assert folder.rejected == {}
    assert advice_on(folder) == [
        f"A ({tmp_path}) has 1 face.",
        "A has too few faces to find blurred ones and other people: 10 are needed.",
        "A has too few different faces, 1: a few hundred are better.",
    ]


def test_a_large_group_of_others_is_not_rejected(tmp_path, embedded):
    write_levels(tmp_path, [255, 254, 0] * 4)
    folder = examine(tmp_path)
    assert OUTLIER not in folder.rejected.values()
    assert folder.outlier_share == pytest.approx(1 / 3)
    assert (folder.measures["outlier"] >= 1).tolist() == [False, False, True] * 4


def test_of_a_large_folder_some_are_embedded_and_those_beside_outliers(
    tmp_path, embedded, monkeypatch
):
    monkeypatch.setattr(quality, "_MOST_EMBEDDED", 11)
    levels = np.arange(1, 102)
    levels[28:33] = 0  # the one at 30 is chosen, those beside are found by it
    scores, share = score_outliers(write_levels(tmp_path, levels), 1.0)
    assert embedded[:11] == levels[::10].tolist()
    assert sorted(embedded[11:]) == sorted([*levels[21:30], *levels[31:40]])
    assert np.flatnonzero(scores >= 1).tolist() == [28, 29, 30, 31, 32]
    assert np.isnan(scores).sum() == 101 - 11 - 18
    assert share == pytest.approx(1 / 11)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no picture", r"crop\.png"), ((20, 30, 3), r"square crops.*30x20 pixels")],
)
def test_what_is_no_crop_is_refused(tmp_path, content, message):
    if isinstance(content, bytes):
        (tmp_path / "crop.png").write_bytes(content)
    else:
        write_image(tmp_path / "crop.png", np.zeros(content, np.uint8))
    with pytest.raises(ValueError, match=message):
        examine(tmp_path)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"blur": 0}, "blur must be greater than 0, got 0"),
        ({"blur": math.inf}, "blur must be a finite number, got inf"),
        ({"outlier": -1}, "outlier must be greater than 0, got -1"),
        (
            {"min_confidence": 1.5},
            "min_confidence must be less than or equal to 1, got 1.5",
        ),
        ({"min_size": -1}, "min_size must be greater than or equal to 0, got -1"),
        (
            {"near_duplicate": -2},
            "near_duplicate must be greater than or equal to 0, got -2",
        ),
    ],
)
def test_settings_out_of_range_are_refused(setting, sentence):
    with pytest.raises(ValueError, match=sentence):
        ExamineSettings(**setting)


def test_memory_grows_with_the_faces_not_with_their_square():
    pictures = np.random.default_rng(0).integers(0, 256, (5000, 8, 8), np.uint8)
    pictures[4000] = pictures[17]
    tracemalloc.start()
    near = find_near_duplicates(pictures, 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert near == {4000: 17}
    assert peak < 20e6  # a matrix of all pairs alone has 100e6 bytes


# A against B

MANY = 300
START = [f"A (faces) has {MANY} faces.", f"B (faces) has {MANY} faces."]


def found(count=MANY, **measures):
    """A folder of good faces, of which some measures are others."""
    good = dict.fromkeys(("blur", "outlier", "yaw", "pitch"), 0)
    good |= {"brightness": 100, "confidence": 1, "size": 200}
    measures = {
        name: np.broadcast_to(np.array(value, float), count)
        for name, value in (good | measures).items()
    }
    names = [f"{index}.png" for index in range(count)]
    return FolderReport(Path("faces"), names, measures, 0.0, {}, {}, {})


def some(value, count):
    """The first `count` faces have a value, the others have 0."""
    return np.where(np.arange(MANY) < count, value, 0)


def advice_on(*folders):
    coverage = compare_folders(*folders) if len(folders) == 2 else None
    return advise(folders, coverage)


def test_two_folders_of_one_person_are_told(tmp_path, hopper):
    for name, crop in (("a", hopper[0]), ("b", collins(0)), ("c", collins(9))):
        write_image(tmp_path / name / "0.png", crop)
    a, b, c = (replace(found(1), path=tmp_path / name) for name in "abc")
    assert compare_people(a, b) == []
    [told] = compare_people(b, c)
    assert told.startswith("A and B look like one person (similarity 0.9")


def test_shares_are_those_counted_by_hand():
    a = found(yaw=some(-45, 120), brightness=100 + some(60, 130))
    b = found(pitch=some(11, 75))
    assert compare_folders(a, b) == pytest.approx(
        {
            "pose_missing_in_b": 120 / 300,
            "pose_missing_in_a": 75 / 300,
            "missing_in_b": 130 / 300,
            "missing_in_a": 75 / 300,
        }
    )


@pytest.mark.parametrize(
    ("measures", "pose_missing", "missing"),
    [
        ({"yaw": 9.9}, 0, 0),
        ({"yaw": 10.1}, 1, 1),
        ({"yaw": 8, "pitch": 8}, 1, 1),
        ({"brightness": 124.9}, 0, 0),
        ({"brightness": 125.1}, 0, 1),
    ],
)
def test_the_reach_is_ten_degrees_and_twenty_five_levels(
    measures, pose_missing, missing
):
    coverage = compare_folders(found(**measures), found())
    assert coverage["pose_missing_in_b"] == pose_missing
    assert coverage["missing_in_b"] == missing


def test_rejected_faces_cover_nothing_and_unknown_poses_are_not_compared():
    a = found(yaw=some(-45, 120))
    rejected = {name: "blurred" for name in a.names[:120]}
    missing = compare_folders(a, replace(a, rejected=rejected))
    assert missing["pose_missing_in_b"] == pytest.approx(120 / 300)
    assert missing["pose_missing_in_a"] == 0
    assert compare_folders(a, found(yaw=np.nan, pitch=np.nan)) is None


@pytest.mark.parametrize(
    ("axis", "sign", "beyond", "looking"),
    [
        ("yaw", -1, "left of -15", "left"),
        ("yaw", 1, "right of 15", "right"),
        ("pitch", -1, "below -15", "down"),
        ("pitch", 1, "above 15", "up"),
    ],
)
def test_directions_that_only_one_has_are_named(axis, sign, beyond, looking):
    a = found(**{axis: some(sign * 45, 120)})
    b = found(**{axis: some(sign * 15, 90)})
    assert advice_on(a, b) == [
        *START,
        f"B has no face looking {beyond} degrees; A has 120: film B looking {looking}.",
        "40% of A's faces have no face of B within 10 degrees.",
        "30% of B's faces have no face of A within 10 degrees.",
    ]
    sentence = f"A has no face looking {beyond} degrees; B has 120: film A looking"
    assert f"{sentence} {looking}." in advice_on(b, a)


@pytest.mark.parametrize(("levels", "names"), [((130, 50), "BA"), ((50, 130), "AB")])
def test_light_that_differs_is_named(levels, names):
    assert advice_on(*(found(brightness=level) for level in levels))[2:] == [
        f"{names[0]} is darker than {names[1]}: 50 against 130 of 255; light them "
        "alike where you can."
    ]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {
                "rejected": {
                    "1": "blurred",
                    "2": "duplicate of 3",
                    "4": "duplicate of 5",
                }
            },
            "3 of A should go: 1 blurred; 2 duplicate.",
        ),
        (
            {"outlier_share": 0.3},
            "30% of A form a group of their own: look whether it is another person or "
            "only another light.",
        ),
        (
            {"measures": found(confidence=some(np.nan, 34)).measures},
            "34 of A are not in faces.json: their pose, size and confidence are not "
            "known; extract_faces writes it.",
        ),
        (
            {"measures": found(outlier=some(np.nan, 60)).measures},
            "Other people were looked for among 240 of A's 300 faces only: 500 evenly "
            "chosen, and those beside the outliers.",
        ),
        (
            {"near_duplicates": dict.fromkeys(map(str, range(75)), "0")},
            "75 of A nearly repeat another face: search fewer frames, or film more "
            "expressions and directions of view.",
        ),
        (
            {"measures": found(size=200 - some(140, 180)).measures},
            "60% of A's faces are smaller than 64 pixels in the footage: film it "
            "closer.",
        ),
    ],
)
def test_each_lack_of_a_folder_is_named(fields, sentence):
    assert advice_on(replace(found(), **fields)) == [START[0], sentence]


def test_the_page_shows_advice_measures_and_the_worst_faces(
    tmp_path, faces, hopper, without_dlib
):
    spoil(faces, hopper[0])
    (faces / "blurred.png").rename(faces / "<b>.png")
    folders = examine(faces), examine(make_folder(tmp_path / "b"))
    page = render_page(folders, ["Film A & B."])
    assert "<li>Film A &amp; B.</li>" in page
    assert page.count("<figcaption>") == 8 + 8
    assert page.count("data:image/png;base64,") == 1 + 8 + 8
    assert "<figcaption>&lt;b&gt;.png<br>blurred</figcaption>" in page
    assert page.count("duplicate of collins_003.png") == 1
    assert page.count("<br>kept") == 6 + 8
