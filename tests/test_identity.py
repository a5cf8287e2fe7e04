"""Who a face is: two portraits, each seen in several ways, told apart."""

import logging

import numpy as np
import pytest
from skimage.feature import local_binary_pattern

from fsgan import identity
from fsgan.geometry import align, crop_matrix
from fsgan.identity import Identity, describe, load_descriptor
from fsgan.images import write_image
from fsgan.sample import _hopper


@pytest.fixture(autouse=True)
def without_weights(monkeypatch, detector):
    monkeypatch.setattr(identity, "find_weights", lambda name: None)
    monkeypatch.setattr(identity, "FaceDetector", lambda: detector)
    load_descriptor.cache_clear()
    yield
    load_descriptor.cache_clear()


def views(image, detector, count=8) -> np.ndarray:
    """Crops of the face as other frames of a clip would show it."""
    [face] = detector.detect(image)
    rng = np.random.default_rng(0)
    crops = []
    for _ in range(count):
        landmarks = face.landmarks + rng.normal(0, 0.01 * face.size, (5, 2))
        crop = align(image, crop_matrix(landmarks), 256).astype(float)
        crops.append(np.clip(crop * rng.uniform(0.85, 1.1, 3), 0, 255).astype(np.uint8))
    return np.stack(crops)


@pytest.fixture(scope="module")
def collins(portrait, detector) -> np.ndarray:
    return views(portrait, detector)


@pytest.fixture(scope="module")
def hopper(detector) -> np.ndarray:
    return views(_hopper().image, detector)


# Descriptors


def test_the_descriptor_counts_the_patterns_of_each_cell():
    gray = np.random.default_rng(1).integers(0, 256, (96, 96), np.uint8)
    codes = local_binary_pattern(gray, 8, 1, "nri_uniform")
    counts = np.zeros((8, 8, 59))
    for row, column in np.ndindex(96, 96):
        counts[row // 12, column // 12, int(codes[row, column])] += 1
    expected = np.sqrt(counts) - np.sqrt(counts).mean((0, 1))
    expected = expected.ravel() / np.linalg.norm(expected)
    found = describe(np.repeat(gray[None, ..., None], 3, axis=-1))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected[None], atol=1e-6)


def test_descriptors_are_unit_vectors(collins):
    np.testing.assert_allclose(np.linalg.norm(describe(collins), axis=1), 1, atol=1e-5)


def test_an_even_crop_is_like_nothing(collins):
    even = np.full((1, 64, 64, 3), 90, np.uint8)
    assert abs(describe(even) @ describe(collins).T).max() < 0.1


def test_the_size_of_a_crop_hardly_matters(collins):
    double = collins[:1].repeat(2, axis=1).repeat(2, axis=2)
    assert (describe(double) @ describe(collins[:1]).T).item() > 0.95


def test_two_people_are_told_apart(collins, hopper):
    same = describe(collins) @ describe(collins).T
    other = describe(collins) @ describe(hopper).T
    assert other.max() < load_descriptor().doubtful
    assert same.min() > load_descriptor().threshold


@pytest.mark.parametrize(
    "crops",
    [
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((1, 8, 9, 3), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 3), np.float32),
    ],
)
def test_what_is_no_crops_is_refused(crops):
    with pytest.raises(ValueError, match="crops must be RGB uint8"):
        describe(crops)


def test_the_log_says_once_that_the_descriptor_is_weak(collins, caplog):
    with caplog.at_level(logging.INFO, "fsgan.identity"):
        describe(collins)
        describe(collins)
    [record] = caplog.records
    assert "local binary patterns" in record.message
    assert "rcmalli_vggface_tf_notop_resnet50.h5 is not in weights/" in record.message


def test_vggface_is_taken_where_its_weights_are(monkeypatch, caplog):
    def network(x):  # stands for the first two of the four maps
        return [x[:, ::32, ::32], None]

    monkeypatch.setattr(identity, "find_weights", lambda name: name)
    monkeypatch.setattr(identity, "load_vggface", lambda: network)
    crops = np.random.default_rng(2).integers(0, 256, (17, 224, 224, 3), np.uint8)
    bgr = crops[:, ::32, ::32, ::-1].mean((1, 2)) - [91.4953, 103.8827, 131.0912]
    expected = bgr / np.linalg.norm(bgr, axis=1, keepdims=True)
    with caplog.at_level(logging.INFO, "fsgan.identity"):
        np.testing.assert_allclose(describe(crops), expected, atol=1e-4)
    assert load_descriptor().name == "VGGFace"
    assert "VGGFace" in caplog.text


# References


def test_a_person_is_known_from_a_photo(portrait, collins, hopper, tmp_path):
    write_image(tmp_path / "photo.png", portrait)
    person = Identity.of(tmp_path / "photo.png")
    assert person.matches(collins).all()
    assert not person.matches(hopper).any()


def test_a_person_is_known_from_a_folder_of_crops(collins, hopper, tmp_path):
    for number, crop in enumerate(hopper):
        write_image(tmp_path / f"{number}.png", crop)
    person = Identity.of(tmp_path, max_crops=3)
    np.testing.assert_array_equal(person.descriptors, describe(hopper[[0, 3, 7]]))
    assert person.matches(hopper).all()
    assert not person.matches(collins).any()


def test_the_similarity_is_that_with_the_nearest_picture(collins, hopper):
    person = Identity.of([hopper[0], collins[0]])
    np.testing.assert_allclose(person.similarity(collins[:1]), 1, atol=1e-6)


def test_photos_with_no_face_or_two_are_refused(portrait, tmp_path):
    write_image(tmp_path / "none.png", np.full((200, 200, 3), 128, np.uint8))
    write_image(tmp_path / "two.png", np.hstack([portrait, portrait]))
    with pytest.raises(ValueError, match=r"must show one face, but .*none.png shows n"):
        Identity.of(tmp_path / "none.png")
    with pytest.raises(ValueError, match=r"must show one face, but .*two.png shows 2"):
        Identity.of(tmp_path / "two.png")


def test_missing_references_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Identity.of(tmp_path / "missing.png")
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        Identity.of(tmp_path)
    with pytest.raises(ValueError, match="at least one face crop"):
        Identity.of([])


# Tracks


def test_the_track_of_the_person_is_chosen(collins, hopper):
    person = Identity.of(list(hopper[:2]))
    assert person.choose([collins, hopper[2:]]) == [False, True]
    assert person.choose([]) == []


def test_later_tracks_of_the_person_are_chosen_too(collins, hopper):
    tracks = [hopper[1:4], collins, hopper[4:]]
    spans = [(0, 9), (0, 30), (12, 30)]
    assert Identity.of([hopper[0]]).choose(tracks, spans) == [True, False, True]


def test_nobody_like_the_person_chooses_nobody(collins, hopper, caplog):
    assert Identity.of(list(hopper)).choose([collins]) == [False]
    assert "no face in the clip is like the person" in caplog.text


def test_two_equally_like_the_person_at_once_choose_nobody(hopper, caplog):
    tracks, spans = [hopper[1:], hopper[1:]], [(0, 9), (9, 20)]
    assert Identity.of([hopper[0]]).choose(tracks, spans) == [False, False]
    assert "two faces in the clip are about equally like" in caplog.text


def test_spans_have_to_be_those_of_the_tracks(hopper):
    with pytest.raises(ValueError, match="one for each of 1 tracks, got 2"):
        Identity.of(list(hopper)).choose([hopper], [(0, 1), (2, 3)])
