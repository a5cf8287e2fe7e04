"""Two portraits, each seen in several ways, told apart."""

import logging
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.feature import local_binary_pattern

from fsgan.faces import descriptors
from fsgan.faces.descriptors import describe, load_descriptor
from fsgan.faces.identity import Identity


@pytest.fixture(autouse=True)
def without_weights(monkeypatch):
    """Patterns alone, as nothing else is at hand."""
    monkeypatch.setattr(descriptors, "find_weights", lambda name: None)
    monkeypatch.setattr(descriptors, "find_spec", lambda name: None)
    load_descriptor.cache_clear()
    yield
    load_descriptor.cache_clear()


@pytest.fixture
def with_dlib(monkeypatch):
    monkeypatch.setattr(descriptors, "find_spec", find_spec)


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
    with caplog.at_level(logging.INFO, "fsgan.faces.descriptors"):
        describe(collins)
        describe(collins)
    [record] = caplog.records
    assert "local binary patterns" in record.message
    assert "install 'fsgan[identity]'" in record.message
    assert "rcmalli_vggface_tf_notop_resnet50.h5 is not in weights/" in record.message


def test_vggface_is_taken_where_its_weights_are(monkeypatch, caplog):
    def network(x):  # stands for the first two of the four maps
        return [x[:, ::32, ::32], None]

    monkeypatch.setattr(descriptors, "find_weights", lambda name: name)
    monkeypatch.setattr(descriptors, "load_vggface", lambda: network)
    crops = np.random.default_rng(2).integers(0, 256, (17, 224, 224, 3), np.uint8)
    bgr = crops[:, ::32, ::32, ::-1].mean((1, 2)) - [91.4953, 103.8827, 131.0912]
    expected = bgr / np.linalg.norm(bgr, axis=1, keepdims=True)
    with caplog.at_level(logging.INFO, "fsgan.faces.descriptors"):
        np.testing.assert_allclose(describe(crops), expected, atol=1e-4)
    assert load_descriptor().name == "VGGFace"
    assert "VGGFace" in caplog.text


def test_dlib_is_taken_first_where_it_is_installed(with_dlib, monkeypatch, caplog):
    monkeypatch.setattr(descriptors, "find_weights", lambda name: name)
    with caplog.at_level(logging.INFO, "fsgan.faces.descriptors"):
        assert load_descriptor() is load_descriptor("dlib")
    assert [record.message for record in caplog.records] == [
        "faces are told apart by dlib"
    ]
    assert load_descriptor("local binary patterns").name == "local binary patterns"


@pytest.mark.parametrize("missing", ["dlib", "face_recognition_models"])
def test_dlib_needs_both_of_its_packages(missing, monkeypatch):
    monkeypatch.setattr(
        descriptors,
        "find_spec",
        lambda name: None if name == missing else find_spec(name),
    )
    assert load_descriptor().name == "local binary patterns"
    with pytest.raises(FileNotFoundError, match=r"pip install 'fsgan\[identity\]'"):
        load_descriptor("dlib")


def test_the_weights_of_dlib_may_lie_beside_the_others(monkeypatch, tmp_path):
    [folder] = find_spec("face_recognition_models").submodule_search_locations
    weights = Path(folder) / "models" / descriptors.DLIB_FILE
    monkeypatch.setattr(
        descriptors,
        "find_spec",
        lambda name: find_spec(name) if name == "dlib" else None,
    )
    monkeypatch.setattr(
        descriptors,
        "find_weights",
        {descriptors.DLIB_FILE: weights, descriptors.FILE: None}.get,
    )
    assert load_descriptor().name == "dlib"


def test_damaged_weights_of_dlib_are_refused(monkeypatch, tmp_path):
    damaged = tmp_path / descriptors.DLIB_FILE
    damaged.write_bytes(b"not a network")
    monkeypatch.setattr(descriptors, "_dlib_weights", lambda: damaged)
    with pytest.raises(ValueError, match="is damaged or not the expected file"):
        load_descriptor()


def test_descriptors_that_are_missing_or_unknown_are_refused():
    with pytest.raises(FileNotFoundError, match="needs rcmalli_vggface"):
        load_descriptor("VGGFace")
    with pytest.raises(ValueError, match=r"dlib, VGGFace, local .* got 'ArcFace'"):
        describe(np.zeros((1, 8, 8, 3), np.uint8), "ArcFace")


def test_the_chip_is_that_part_of_the_crop_that_dlib_looks_at():
    down, across = np.mgrid[:256, :256].astype(np.uint8)
    chip = descriptors._chip(np.stack([across, down, across], axis=-1)).astype(float)
    # 1.087 sides about (0.525, 0.532); a share s of the side lies at 256 s - 0.5.
    shares = (np.arange(150) + 0.5) / 150 - 0.5
    x = np.clip((0.525 + 1.087 * shares) * 256 - 0.5, 0, 255)
    y = np.clip((0.532 + 1.087 * shares) * 256 - 0.5, 0, 255)
    assert chip.shape == (150, 150, 3)
    assert abs(chip[..., 0] - x).max() < 1.1
    assert abs(chip[..., 1] - y[:, None]).max() < 1.1


def test_the_chip_is_as_good_as_one_that_dlib_cuts(with_dlib, collins, hopper):
    import dlib

    [folder] = find_spec("face_recognition_models").submodule_search_locations
    points = dlib.shape_predictor(
        str(Path(folder) / "models" / "shape_predictor_5_face_landmarks.dat")
    )
    find = dlib.get_frontal_face_detector()
    judge = dlib.face_recognition_model_v1(str(descriptors._dlib_weights()))
    for crop in (collins[0], hopper[0]):
        [box] = find(crop, 0)
        chip = dlib.get_face_chip(crop, points(crop, box), 150, 0.25)
        ours, theirs = (
            np.array(judge.compute_face_descriptor(picture))
            for picture in (descriptors._chip(crop), chip)
        )
        # Two people begin at 0.6.
        assert np.linalg.norm(ours - theirs) < 0.25
        np.testing.assert_allclose(
            describe(crop[None], "dlib")[0], ours / np.linalg.norm(ours), atol=1e-6
        )


def test_dlib_tells_two_people_apart_and_knows_them_relit(with_dlib, collins, hopper):
    people = [describe(crops[:4]) for crops in (collins, hopper)]
    collins_relit = collins[4:6].astype(float) / 255
    relit = describe((255 * collins_relit**1.6 * (1, 0.9, 0.7)).astype(np.uint8))
    descriptor = load_descriptor()
    assert (people[0] @ people[1].T).max() < descriptor.doubtful
    for person in people:
        assert (person @ person.T).min() > descriptor.threshold
    assert (relit @ people[0].T).min() > descriptor.threshold
    assert (relit @ people[1].T).max() < descriptor.doubtful


def test_dlib_knows_a_gray_blurred_face_again_that_patterns_do_not(
    with_dlib, collins, hopper
):
    gray = cv2.cvtColor(hopper[0], cv2.COLOR_RGB2GRAY)
    blurred = cv2.GaussianBlur(gray, (0, 0), 5)[..., None].repeat(3, axis=-1)
    known = Identity.of(list(hopper[4:]))
    assert known.matches(blurred[None]).all()
    assert not known.matches(collins[:1]).any()
    assert known.choose([collins[:2], blurred[None]]) == [False, True]
    patterns = describe(blurred[None], "local binary patterns")
    others = describe(hopper[4:], "local binary patterns")
    assert (patterns @ others.T).max() < load_descriptor(
        "local binary patterns"
    ).threshold
