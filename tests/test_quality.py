"""Faces with known faults are found and named; good ones are left alone."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.cbook import get_sample_data
from PIL import Image
from skimage.data import astronaut, coffee

from fsgan.data.extract import read_record
from fsgan.data.quality import DoctorSettings, examine_folder
from fsgan.media.images import read_image, write_image

COUNT = 30
# Eyes, nose and corners of a mouth, (x, y, depth), looking straight at the camera.
HEAD = np.array(
    [[-50, 0, 0], [50, 0, 0], [0, 60, -42], [-38, 117, 0], [38, 117, 0]], float
)


def points(yaw=0.0, pitch=0.0, roll=0.0):
    """Five points of a head that is turned to its right, raised, then leant."""
    yaw, pitch, roll = np.radians([yaw, pitch, roll])
    turned = HEAD - (0, 60, 0)
    x, y, z = turned.T
    y, z = y * np.cos(pitch) + z * np.sin(pitch), z * np.cos(pitch) - y * np.sin(pitch)
    x, z = x * np.cos(yaw) - z * np.sin(yaw), z * np.cos(yaw) + x * np.sin(yaw)
    lean = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    return np.stack([x, y], axis=1) @ lean.T + 200


def person(which, index, brightness=1.0):
    """The crop of a frame in which the face has moved a little."""
    if which == "hopper":
        with get_sample_data("grace_hopper.jpg") as file:
            photo, corner, side = np.asarray(Image.open(file)), (180, 145), 170
    else:
        photo, corner, side = astronaut(), (183, 75), 84
    shift = 2.5 * np.array([np.cos(index / 3), np.sin(index / 5)])
    scale = 128 / side
    matrix = np.hstack([np.eye(2) * scale, -scale * (corner + shift)[:, None]])
    crop = cv2.warpAffine(photo, matrix, (128, 128), flags=cv2.INTER_AREA)
    return np.clip(crop * brightness, 0, 255).astype(np.uint8)


def make_folder(folder, which="collins", count=COUNT, *, pose=None, brightness=1.0):
    """A folder as of `extract_faces`; `pose` gives the points of each face."""
    entries = []
    for index in range(count):
        name = f"{which}_{index:03d}.png"
        write_image(folder / name, person(which, index, brightness))
        landmarks = points(**(pose(index) if pose else {"yaw": index - count / 2}))
        entries.append(
            {
                "file": name,
                "source": f"{which}.mp4",
                "frame": index,
                "time": index / 25,
                "box": [10, 20, 110, 150],
                "landmarks": landmarks.tolist(),
                "confidence": 0.99,
                "matrix": [[1, 0, 0], [0, 1, 0]],
            }
        )
    (folder / "faces.json").write_text(json.dumps({"faces": entries}))
    return folder


def spoil(faces):
    """Puts one face of each fault among the good ones; name -> begin of the reason."""
    sharp = person("collins", 4)
    write_image(faces / "blurred.png", cv2.GaussianBlur(sharp, (0, 0), 4))
    write_image(faces / "stranger.png", person("hopper", 0))
    write_image(faces / "coffee.png", coffee()[50:178, 50:178].copy())
    shutil.copy(faces / "collins_003.png", faces / "copy.png")
    strange = "unlike the others: another person or no face"
    return {
        "blurred.png": "blurred",
        "stranger.png": strange,
        "coffee.png": strange,
        "copy.png": "duplicate of collins_003.png",
    }


def examine(faces, **settings):
    return examine_folder(faces, read_record(faces), DoctorSettings(**settings))


@pytest.fixture
def faces(tmp_path) -> Path:
    return make_folder(tmp_path / "faces")


# One folder


def test_of_good_faces_none_is_rejected_and_no_file_is_touched(faces):
    before = {path: path.read_bytes() for path in faces.iterdir()}
    folder = examine(faces)
    assert folder.accepted.all()
    assert folder.rejected == {}
    assert folder.duplicates == {}
    assert folder.names == sorted(folder.names)
    assert len(folder.names) == COUNT
    assert {path: path.read_bytes() for path in faces.iterdir()} == before


def test_the_measures_are_those_of_the_record_and_the_pixels(faces):
    write_image(faces / "collins_000.png", np.full((128, 128, 3), 70, np.uint8))
    measures = examine(faces).measures
    assert set(measures.size) == {100}
    assert set(measures.confidence) == {0.99}
    assert (measures.sharpness[0], measures.brightness[0]) == (0, 70)
    assert measures.sharpness[1:].min() > 10
    assert np.all(np.diff(measures.yaw) > 0)
    assert np.median(measures.pitch) == 0


def test_each_fault_is_found_and_named(faces):
    reasons = spoil(faces)
    folder = examine(faces)
    assert folder.rejected == reasons
    assert folder.accepted.sum() == COUNT


def test_near_duplicates_are_told_and_rejected_only_when_asked(faces):
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


def test_confidence_and_size_reject_when_limits_are_set(faces):
    entries = read_record(faces)
    entries[2]["confidence"], entries[5]["box"] = 0.75, [0, 0, 30, 60]
    (faces / "faces.json").write_text(json.dumps({"faces": entries}))
    assert examine(faces, min_confidence=0.8, min_size=40).rejected == {
        "collins_002.png": "low confidence",
        "collins_005.png": "small",
    }
    assert examine(faces).rejected == {}


def test_a_large_group_is_not_rejected(faces):
    for index in range(15):
        write_image(faces / f"hopper_{index}.png", person("hopper", index))
    folder = examine(faces)
    assert folder.rejected == {}
    assert (folder.measures.strangeness >= 2.5).sum() == 15


def test_a_single_face_is_examined(tmp_path):
    folder = examine(make_folder(tmp_path, count=1))
    assert folder.rejected == {}
    assert folder.measures.blur == folder.measures.strangeness == 0


def test_without_a_record_faces_are_examined_as_far_as_pixels_go(faces):
    (faces / "faces.json").unlink()
    reasons = spoil(faces)
    folder = examine(faces)
    assert folder.rejected == reasons
    assert folder.unrecorded == COUNT + 4
    assert np.isnan(folder.measures.yaw).all()


# Faults


def test_a_folder_without_faces_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        examine(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        examine(tmp_path / "none")


def test_what_is_no_picture_is_refused(faces):
    (faces / "collins_003.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"collins_003\.png"):
        examine(faces)


def test_what_is_no_crop_is_refused(tmp_path):
    write_image(tmp_path / "frame.png", np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(ValueError, match=r"square crops.*30x20 pixels"):
        examine(tmp_path)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"blur": 0}, "blur must be above 0, got 0"),
        ({"strangeness": -1}, "strangeness must be above 0, got -1"),
        ({"min_confidence": 1.5}, r"min_confidence must be in \[0, 1\], got 1.5"),
        ({"min_size": -1}, "min_size must be at least 0, got -1"),
        ({"near_duplicate": -2}, "near_duplicate must be at least 0, got -2"),
    ],
)
def test_settings_out_of_range_are_refused(setting, sentence):
    with pytest.raises(ValueError, match=sentence):
        DoctorSettings(**setting)
