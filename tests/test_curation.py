"""Faces of two people, mixed, into a folder for each."""

import json
from pathlib import Path

import numpy as np
import pytest

from fsgan.data import extract
from fsgan.data.curation import curate
from fsgan.data.extract import read_record
from fsgan.data.sample import _hopper
from fsgan.faces import descriptors
from fsgan.faces.descriptors import load_descriptor
from fsgan.faces.geometry import align, crop_matrix
from fsgan.media.images import read_image, write_image


@pytest.fixture(autouse=True)
def known_tools(monkeypatch, detector):
    """One detector for all, and never VGGFace."""
    monkeypatch.setattr(descriptors, "find_weights", lambda name: None)
    monkeypatch.setattr(extract, "FaceDetector", lambda *settings: detector)
    load_descriptor.cache_clear()
    yield
    load_descriptor.cache_clear()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, portrait, detector) -> Path:
    """Four faces of Collins, three of Hopper, one crop that is no face."""
    folder = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(0)
    entries = []
    people = {"collins": (portrait, 4), "hopper": (_hopper().image, 3)}
    for name, (image, count) in people.items():
        [face] = detector.detect(image)
        for number in range(count):
            landmarks = face.landmarks + rng.normal(0, 0.01 * face.size, (5, 2))
            file = f"{number}_{name}.png"
            write_image(folder / file, align(image, crop_matrix(landmarks), 256))
            entries.append({"file": file, "source": name})
    write_image(folder / "wall.png", rng.integers(0, 256, (256, 256, 3), np.uint8))
    entries.append({"file": "wall.png", "source": "wall"})
    (folder / "faces.json").write_text(json.dumps({"faces": entries}))
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


COLLINS = [f"{number}_collins.png" for number in range(4)]
HOPPER = [f"{number}_hopper.png" for number in range(3)]


def test_each_person_gets_a_folder_the_largest_first(mixed, tmp_path):
    before = {path.name: path.read_bytes() for path in mixed.iterdir()}
    out = tmp_path / "new" / "sorted"
    curated = curate(mixed, out)
    assert curated.people == [out / "person_000", out / "person_001"]
    assert (curated.faces, curated.unsorted) == ([4, 3], 1)
    assert names(out / "person_000") == [*COLLINS, "faces.json"]
    assert names(out / "person_001") == [*HOPPER, "faces.json"]
    assert names(out / "unsorted") == ["faces.json", "wall.png"]
    assert {path.name: path.read_bytes() for path in mixed.iterdir()} == before
    assert names(out.parent) == ["sorted"]


def test_the_copies_are_exact_and_their_record_goes_with_them(mixed, tmp_path):
    out = tmp_path / "sorted"
    curate(mixed, out)
    for name in HOPPER:
        assert (out / "person_001" / name).read_bytes() == (mixed / name).read_bytes()
    assert read_record(out / "person_001") == [
        {"file": name, "source": "hopper"} for name in HOPPER
    ]


def test_contact_sheets_lie_beside_the_folders_and_in_the_result(mixed, tmp_path):
    out = tmp_path / "sorted"
    out.mkdir()
    curated = curate(mixed, out)
    sheets = ["person_000.png", "person_001.png", "unsorted.png"]
    assert [name for name in names(out) if name.endswith(".png")] == sheets
    assert read_image(out / "person_000.png").shape == (96, 4 * 96, 3)
    assert curated.contact_sheet.shape == (3 * (96 + 16), 8 * 96, 3)


def test_small_groups_are_unsorted(mixed, tmp_path):
    curated = curate(mixed, tmp_path / "sorted", min_group=4)
    assert (curated.faces, curated.unsorted) == ([4], 4)


def test_the_threshold_decides_how_many_groups_there_are(mixed, tmp_path):
    one = curate(mixed, tmp_path / "one", threshold=-0.99)
    each = curate(mixed, tmp_path / "each", threshold=0.9999, min_group=1)
    assert (one.faces, one.unsorted) == ([8], 0)
    assert (each.faces, each.unsorted) == ([1] * 8, 0)


def test_faces_are_found_in_photos(portrait, tmp_path):
    photos = tmp_path / "photos"
    write_image(photos / "collins.png", portrait)
    write_image(photos / "mirrored.png", np.ascontiguousarray(portrait[:, ::-1]))
    write_image(photos / "brighter.png", np.minimum(portrait, 225) + np.uint8(30))
    write_image(photos / "hopper.png", _hopper().image)
    out = tmp_path / "sorted"
    curated = curate(photos, out, min_face=40)
    assert curated.people == [out / "person_000"]
    crops = ["brighter_png_face0.jpg", "collins_png_face0.jpg"]
    assert set(crops) <= set(names(out / "person_000"))
    assert "hopper_png_face0.jpg" in names(out / "unsorted")
    [entry] = (x for x in read_record(out / "person_000") if x["file"] == crops[0])
    assert entry["confidence"] > 0.9
    assert not any(name.startswith(".") for name in names(out))


def test_a_folder_that_is_not_empty_is_refused(mixed, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty: give the name of a new"):
        curate(mixed, tmp_path)
    assert names(tmp_path) == ["mine.txt"]


def test_a_fault_leaves_nothing_behind(mixed, tmp_path):
    bad = tmp_path / "bad"
    write_image(bad / "oblong.png", np.zeros((8, 9, 3), np.uint8))
    write_image(bad / "square.png", np.zeros((8, 8, 3), np.uint8))
    (bad / "faces.json").write_text('{"faces": []}')
    with pytest.raises(ValueError, match="crops must be RGB uint8"):
        curate(bad, tmp_path / "sorted")
    assert names(tmp_path) == ["bad"]


def test_wrong_settings_are_refused(mixed, tmp_path):
    with pytest.raises(ValueError, match="min_group must be at least 1, got 0"):
        curate(mixed, tmp_path / "sorted", min_group=0)
    with pytest.raises(ValueError, match=r"threshold must be in \(-1, 1\), got 1"):
        curate(mixed, tmp_path / "sorted", threshold=1)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        curate(tmp_path / "missing", tmp_path / "sorted")
