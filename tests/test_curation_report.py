"""Faces with known faults are found; folders of known measures get their advice."""

import shutil
import tracemalloc
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.cbook import get_sample_data
from PIL import Image
from skimage.data import astronaut, coffee

from fsgan.data import curation_report
from fsgan.data.curation_report import (
    OUTLIER,
    ExamineSettings,
    FolderReport,
    Measures,
    advise,
    compare_folders,
    draw_measures,
    examine_folder,
    find_near_duplicates,
    outlier_scores,
    render_page,
)
from fsgan.data.extract import read_faces_record, write_faces_record
from fsgan.media.images import read_image, write_image

COUNT = 12
# Eyes, nose and corners of a mouth, (x, y, depth), looking straight at the camera.
HEAD = np.array(
    [[-50, 0, 0], [50, 0, 0], [0, 60, -42], [-38, 117, 0], [38, 117, 0]], float
)


def points(yaw):
    """Five points of a head that is turned to its right."""
    x, y, z = (HEAD - (0, 60, 0)).T
    turned = x * np.cos(np.radians(yaw)) - z * np.sin(np.radians(yaw))
    return np.stack([turned, y], axis=1) + 200


def person(which, index):
    """The crop of a frame in which the face has moved a little."""
    if which == "hopper":
        with get_sample_data("grace_hopper.jpg") as file:
            photo, corner, side = np.asarray(Image.open(file)), (180, 145), 170
    else:
        photo, corner, side = astronaut(), (183, 75), 84
    shift = 2.5 * np.array([np.cos(index / 3), np.sin(index / 5)])
    scale = 128 / side
    matrix = np.hstack([np.eye(2) * scale, -scale * (corner + shift)[:, None]])
    return cv2.warpAffine(photo, matrix, (128, 128), flags=cv2.INTER_AREA)


def make_folder(folder, count=COUNT):
    """A folder of Collins' faces, as of `extract_faces`."""
    entries = []
    for index in range(count):
        name = f"collins_{index:03d}.png"
        write_image(folder / name, person("collins", index))
        entries.append(
            {
                "file": name,
                "source": "collins.mp4",
                "box": [10, 20, 110, 150],
                "landmarks": points(index - count / 2).tolist(),
                "confidence": 0.99,
                "matrix": [[1, 0, 0], [0, 1, 0]],
            }
        )
    write_faces_record(folder, entries)
    return folder


def spoil(faces):
    """Puts one face of each fault among the good ones; name -> reason."""
    sharp = person("collins", 4)
    write_image(faces / "blurred.png", cv2.GaussianBlur(sharp, (0, 0), 4))
    write_image(faces / "stranger.png", person("hopper", 0))
    write_image(faces / "coffee.png", coffee()[50:178, 50:178].copy())
    shutil.copy(faces / "collins_003.png", faces / "copy.png")
    return {
        "blurred.png": "blurred",
        "stranger.png": OUTLIER,
        "coffee.png": OUTLIER,
        "copy.png": "duplicate of collins_003.png",
    }


def examine(faces, **settings):
    return examine_folder(faces, read_faces_record(faces), ExamineSettings(**settings))


@pytest.fixture
def faces(tmp_path) -> Path:
    return make_folder(tmp_path / "faces")


@pytest.fixture
def without_dlib(monkeypatch):
    def missing():
        raise FileNotFoundError("dlib is not installed")

    monkeypatch.setattr(curation_report, "load_network", missing)


# One folder


def test_each_fault_is_found_and_named_and_no_file_is_touched(faces):
    reasons = spoil(faces)
    before = {path: path.read_bytes() for path in faces.iterdir()}
    folder = examine(faces)
    assert folder.rejected == reasons
    assert folder.accepted.sum() == COUNT
    assert len(folder) == COUNT + 4
    assert folder.names == sorted(folder.names)
    assert folder.unrecorded == 4
    assert repr(folder) == f"16 faces in {faces}, 4 to reject"
    assert {path: path.read_bytes() for path in faces.iterdir()} == before


def test_without_dlib_the_rest_is_found_and_it_is_said(faces, without_dlib, caplog):
    spoil(faces)
    folder = examine(faces)
    assert set(folder.rejected) == {"blurred.png", "copy.png"}
    assert np.isnan(folder.measures.outlier).all()
    assert "other people among the faces are not looked for: dlib is" in caplog.text
    [sentence] = [text for text in advice_on(folder) if "needs dlib" in text]
    assert sentence.startswith("Other people among the faces of A were not looked for")


def test_the_measures_are_those_of_the_record_and_the_pixels(faces, without_dlib):
    write_image(faces / "collins_000.png", np.full((128, 128, 3), 70, np.uint8))
    measures = examine(faces).measures
    np.testing.assert_allclose(measures.size, 100)
    np.testing.assert_allclose(measures.confidence, 0.99)
    assert measures.sharpness[0] == pytest.approx(0)
    assert measures.brightness[0] == pytest.approx(70)
    assert measures.sharpness[1:].min() > 10
    assert np.all(np.diff(measures.yaw) > 0)
    assert np.median(measures.pitch) == pytest.approx(0, abs=1e-9)


def test_near_duplicates_are_rejected_only_when_asked(faces, without_dlib):
    noisy = read_image(faces / "collins_003.png").astype(int)
    noisy += np.random.default_rng(0).integers(-2, 3, noisy.shape)
    write_image(faces / "noisy.png", np.clip(noisy, 0, 255).astype(np.uint8))
    folder = examine(faces, near_duplicate=1.0)
    assert folder.near_duplicates == {"noisy.png": "collins_003.png"}
    assert folder.rejected == {}
    folder = examine(faces, near_duplicate=1.0, reject_near_duplicates=True)
    assert folder.rejected == {"noisy.png": "near-duplicate of collins_003.png"}


def test_near_duplicates_form_no_chain_and_copies_are_none(tmp_path):
    for name, level in {"a": 100, "b": 102, "c": 104, "copy": 100}.items():
        write_image(tmp_path / f"{name}.png", np.full((64, 64, 3), level, np.uint8))
    folder = examine(tmp_path)
    assert folder.near_duplicates == {"b.png": "a.png"}
    assert folder.duplicates == {"copy.png": "a.png"}


def test_confidence_and_size_reject_when_limits_are_set(faces, without_dlib):
    entries = read_faces_record(faces)
    entries[2]["confidence"], entries[5]["box"] = 0.75, [0, 0, 30, 60]
    write_faces_record(faces, entries)
    assert examine(faces, min_confidence=0.8, min_size=40).rejected == {
        "collins_002.png": "low confidence",
        "collins_005.png": "small",
    }
    assert examine(faces).rejected == {}


def test_a_large_group_is_not_rejected(faces, monkeypatch):
    """Every third face is another person's; nobody is known from so many pictures."""
    first, second = np.eye(128, dtype=np.float32)[:2]
    embeddings = iter([first, first, second] * 4)
    monkeypatch.setattr(curation_report, "load_network", lambda: None)
    monkeypatch.setattr(curation_report, "embed", lambda crops: [next(embeddings)])
    folder = examine(faces)
    assert folder.rejected == {}
    assert (folder.measures.outlier >= 1).tolist() == [False, False, True] * 4


def test_a_single_face_is_examined(tmp_path):
    folder = examine(make_folder(tmp_path, count=1))
    assert folder.rejected == {}
    assert folder.measures.blur == pytest.approx(0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("broken.png", b"no picture", r"broken\.png"),
        ("frame.png", (20, 30, 3), r"square crops.*30x20 pixels"),
    ],
)
def test_what_is_no_crop_is_refused(tmp_path, name, content, message):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        write_image(tmp_path / name, np.zeros(content, np.uint8))
    with pytest.raises(ValueError, match=message):
        examine(tmp_path)


def test_a_folder_without_faces_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        examine(tmp_path)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"blur": 0}, "blur must be above 0, got 0"),
        ({"outlier": -1}, "outlier must be above 0, got -1"),
        ({"min_confidence": 1.5}, r"min_confidence must be in \[0, 1\], got 1.5"),
        ({"min_size": -1}, "min_size must be at least 0, got -1"),
        ({"near_duplicate": -2}, "near_duplicate must be at least 0, got -2"),
    ],
)
def test_settings_out_of_range_are_refused(setting, sentence):
    with pytest.raises(ValueError, match=sentence):
        ExamineSettings(**setting)


# Many faces


def test_memory_grows_with_the_faces_not_with_their_square():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (5000, 8, 8), np.uint8)
    small[4000] = small[17]
    embeddings = rng.normal(0, 0.01, (5000, 128)).astype(np.float32) + 0.1
    embeddings[7] *= np.resize([1, -1], 128)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    tracemalloc.start()
    near = find_near_duplicates([str(index) for index in range(5000)], small, 2)
    scores = outlier_scores(embeddings)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert near == {"4000": "17"}
    assert scores.argmax() == 7
    assert peak < 20e6  # a matrix of all pairs alone has 100e6 bytes


# A against B

GOOD = {field.name: 0 for field in fields(Measures)} | {
    "sharpness": 50,
    "brightness": 100,
    "confidence": 1,
    "size": 200,
}
MANY = 300


def found(count=MANY, **measures):
    """A folder of good faces, of which some measures are others."""
    columns = [
        np.broadcast_to(np.array(value, float), count)
        for value in (GOOD | measures).values()
    ]
    names = [f"{index}.png" for index in range(count)]
    return FolderReport(Path("faces"), names, Measures(*columns), {}, {}, {}, 0)


def some(value, count):
    """The first `count` faces have a value, the others have 0."""
    return np.where(np.arange(MANY) < count, value, 0)


def advice_on(*folders):
    coverage = compare_folders(*folders) if len(folders) == 2 else None
    return advise(folders, coverage, ExamineSettings())


START = [f"A (faces) has {MANY} faces.", f"B (faces) has {MANY} faces."]


def test_a_folder_covers_itself():
    folder = found(yaw=np.linspace(-40, 40, MANY), pitch=some(20, 50))
    coverage = compare_folders(folder, folder)
    assert coverage.pose_missing_in_b == coverage.pose_missing_in_a == 0
    assert coverage.missing_in_b == coverage.missing_in_a == 0
    assert advice_on(folder, folder) == START


def test_shares_are_those_counted_by_hand():
    a = found(yaw=some(-45, 120), brightness=100 + some(60, 30))
    b = found(pitch=some(11, 75))
    coverage = compare_folders(a, b)
    assert coverage.pose_missing_in_b == pytest.approx(120 / 300)
    assert coverage.pose_missing_in_a == pytest.approx(75 / 300)
    # the bright ones are among those
    assert coverage.missing_in_b == pytest.approx(120 / 300)


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
    assert coverage.pose_missing_in_b == pose_missing
    assert coverage.missing_in_b == missing


def test_rejected_faces_cover_nothing():
    a = b = found(yaw=some(-45, 120))
    rejected = {name: "blurred" for name in b.names[:120]}
    left = compare_folders(a, replace(b, rejected=rejected)).pose_missing_in_b
    assert left == pytest.approx(120 / 300)
    assert compare_folders(replace(a, rejected=rejected), b).pose_missing_in_b == 0


def test_without_poses_nothing_is_compared():
    assert compare_folders(found(), found(yaw=np.nan, pitch=np.nan)) is None
    assert compare_folders(found(yaw=np.nan, pitch=np.nan), found()) is None


# Advice


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
    assert advice_on(b, a)[2] == f"{sentence} {looking}."


def test_light_that_differs_is_named():
    assert advice_on(found(brightness=130), found(brightness=50))[2:] == [
        "B is darker than A: 50 against 130 of 255; light them alike where you can."
    ]
    assert advice_on(found(brightness=50), found(brightness=130))[2:] == [
        "A is darker than B: 50 against 130 of 255; light them alike where you can."
    ]


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [
        (
            replace(
                found(),
                rejected={
                    "1.png": "blurred",
                    "2.png": "duplicate of 3.png",
                    "4.png": "duplicate of 5.png",
                },
            ),
            "3 of A should go: 1 blurred; 2 duplicate.",
        ),
        (
            found(outlier=some(1.5, 90)),
            "30% of A form a group of their own: look whether it is another person or "
            "only another light.",
        ),
        (
            replace(found(), unrecorded=34),
            "34 of A are not in faces.json: their pose, size and confidence are not "
            "known; extract_faces writes it.",
        ),
        (
            replace(found(), near_duplicates={f"{i}.png": "0.png" for i in range(75)}),
            "75 of A nearly repeat another face: search fewer frames, or film more "
            "expressions and directions of view.",
        ),
        (
            found(size=63),
            "A's faces are small in the footage, 63 pixels: film it closer.",
        ),
    ],
)
def test_each_lack_of_a_folder_is_named(folder, sentence):
    assert advice_on(folder)[:2] == [START[0], sentence]


def test_a_single_face_gets_its_advice():
    assert advice_on(found(count=1)) == [
        "A (faces) has 1 face.",
        "A has too few faces to find blurred ones and other people: 10 are needed.",
        "A has too few different faces, 1: a few hundred are better.",
    ]


# The page


def test_the_page_shows_advice_measures_and_the_worst_faces(
    tmp_path, faces, without_dlib
):
    spoil(faces)
    (faces / "blurred.png").rename(faces / "<b>.png")
    folders = examine(faces), examine(make_folder(tmp_path / "b"))
    page = render_page(folders, ["Film A & B."], draw_measures(folders))
    assert "<li>Film A &amp; B.</li>" in page
    assert page.count("<figcaption>") == 8 + 8
    assert page.count("data:image/png;base64,") == 1 + 8 + 8
    assert "<figcaption>&lt;b&gt;.png<br>blurred</figcaption>" in page
    assert page.count("duplicate of collins_003.png") == 1
    assert page.count("<br>kept") == 6 + 8
