"""The cascade's steps against numbers of the original; its networks on real faces."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from fsgan.faces import cascade, mtcnn_networks
from fsgan.faces.cascade import Cascade, patches, scales, squares, strongest, windows
from fsgan.faces.mtcnn_networks import read_network

# Inputs and outputs of faceswap-GAN's detector, made with its own weight files.
# Its boxes count pixels from 1 and hold their last one.
GOLDEN = np.load(Path(__file__).parent / "golden" / "cascade.npz")


def from_golden(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, :4] - [1, 1, 0, 0]


@pytest.fixture(scope="module")
def networks() -> Cascade:
    return Cascade()


# Networks


@pytest.mark.parametrize("name", ["pnet", "rnet", "onet"])
def test_a_network_answers_as_the_original(name):
    # There the networks see their input with x and y exchanged.
    images = GOLDEN[f"{name}_in"].transpose(0, 3, 2, 1)
    network = read_network(name)
    network.setInput((images.astype(np.float32) - 127.5) / 128)
    answers = network.forward().transpose(0, 3, 2, 1)
    expected = GOLDEN[f"{name}_out"]
    answers = answers.reshape(expected.shape)
    np.testing.assert_allclose(answers[..., :-2], expected[..., :-2], atol=1e-5)
    odds = np.exp(answers[..., -2:])
    score = odds / odds.sum(-1, keepdims=True)
    np.testing.assert_allclose(score, expected[..., -2:], atol=1e-5)


def test_a_network_takes_any_number_and_pnet_any_size():
    refiner, proposer = read_network("rnet"), read_network("pnet")
    noise = np.random.default_rng(0).normal(size=(3, 3, 24, 24)).astype(np.float32)
    refiner.setInput(noise)
    together = refiner.forward()
    for image, answer in zip(noise, together, strict=True):
        refiner.setInput(image[None])
        np.testing.assert_allclose(refiner.forward()[0], answer, atol=1e-5)
    for side, cells in ((12, 1), (24, 7), (13, 2), (12, 1)):
        proposer.setInput(noise[:1, :, :12, :side].copy())
        assert proposer.forward().shape == (1, 6, 1, cells)


def test_tensorflow_stays_off():
    code = "import sys, numpy; from fsgan.faces.detector import FaceDetector; "
    code += "FaceDetector().detect(numpy.zeros((90, 90, 3), 'uint8')); "
    code += "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_package_is_said(monkeypatch):
    monkeypatch.setattr(mtcnn_networks, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="mtcnn is not installed: pip install"):
        Cascade()


# Steps


def test_windows_are_those_of_the_original():
    scores, scale = GOLDEN["gbb_imap"], GOLDEN["gbb_scale"]
    # Its map has x before y.
    smallest = float(GOLDEN["gbb_t"])
    columns, rows = np.nonzero(scores.transpose() >= smallest)
    boxes = windows(rows, columns, float(scale))
    order = np.argsort(scores[rows, columns])
    expected = GOLDEN["gbb_boxes"][np.argsort(GOLDEN["gbb_boxes"][:, 4])]
    np.testing.assert_array_equal(boxes[order], from_golden(expected))


@pytest.mark.parametrize(
    ("max_overlap", "of_smaller", "kept"),
    [(0.5, False, "nms_union_0p5"), (0.7, True, "nms_min_0p7")],
)
def test_the_strongest_are_those_of_the_original(max_overlap, of_smaller, kept):
    boxes = GOLDEN["nms_boxes"]
    rows = np.column_stack([from_golden(boxes), boxes[:, 4], np.arange(len(boxes))])
    rows = strongest(rows, max_overlap, of_smaller=of_smaller)
    np.testing.assert_array_equal(rows[:, 5], GOLDEN[kept])


def test_squares_are_those_of_the_original():
    boxes = from_golden(GOLDEN["nms_boxes"])
    expected = from_golden(GOLDEN["rerec_out"])
    np.testing.assert_allclose(squares(boxes), expected, atol=1e-6)


def test_boxes_move_as_in_the_original():
    boxes = from_golden(GOLDEN["nms_boxes"])
    moved = cascade._moved(boxes, GOLDEN["bbreg_reg"])
    np.testing.assert_allclose(moved, from_golden(GOLDEN["bbreg_out"]), atol=1e-6)


def test_the_pyramid_goes_from_the_smallest_face_to_the_frame():
    np.testing.assert_allclose(
        scales((100, 48), 24), [0.5, 0.5 * 0.709, 0.5 * 0.709**2]
    )
    np.testing.assert_allclose(scales((24, 90), 24), [0.5])
    np.testing.assert_allclose(scales((100, 96), 24, 0.5), [0.5, 0.25, 0.125])
    assert scales((23, 90), 24).size == 0
    assert scales((0, 90), 24).size == 0


def test_a_tall_box_becomes_the_square_around_it():
    np.testing.assert_array_equal(
        squares(np.array([[10.0, 20, 14, 30]])), [[7, 20, 17, 30]]
    )
    assert squares(np.empty((0, 4))).shape == (0, 4)


def test_a_patch_of_its_own_size_is_a_slice_of_the_image():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    [patch] = patches(image, np.array([[7.0, 5, 31, 29]]), 24)
    np.testing.assert_array_equal(patch, image[5:29, 7:31])


def test_a_large_box_is_averaged():
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    [patch] = patches(image, np.array([[0.0, 0, 96, 96]]), 24)
    means = image.reshape(24, 4, 24, 4, 3).mean(axis=(1, 3))
    assert np.abs(patch - means).max() <= 0.5


def test_fractions_of_a_pixel_count():
    ramp = np.tile(np.arange(100, dtype=np.uint8), (100, 1))
    ramp = cv2.cvtColor(ramp * 2, cv2.COLOR_GRAY2RGB)
    [patch] = patches(ramp, np.array([[10.5, 10, 34.5, 34]]), 24)
    np.testing.assert_array_equal(patch[0, :, 0], 2 * np.arange(10, 34) + 1)


@pytest.mark.parametrize("side", [6, 12, 18])
def test_a_patch_shows_the_middle_of_each_of_its_cells(side):
    ramp = np.tile(np.arange(0, 260, 10).clip(0, 255).astype(np.uint8), (26, 1))
    ramp = cv2.cvtColor(ramp, cv2.COLOR_GRAY2RGB)
    [patch] = patches(ramp, np.array([[4.0, 4, 4 + side, 4 + side]]), 24)
    centres = 4 + (np.arange(24) + 0.5) * side / 24 - 0.5
    assert np.abs(patch[:, :, 0] - 10 * centres).max() <= 1


def test_outside_the_image_is_gray():
    image = np.zeros((10, 10, 3), np.uint8)
    [patch] = patches(image, np.array([[-14.0, -14, 10, 10]]), 24)
    assert (patch[14:, 14:] == 0).all()
    assert (abs(patch[:14].astype(float) - 127.5) <= 0.5).all()
    assert (abs(patch[:, :14].astype(float) - 127.5) <= 0.5).all()


# Together


def test_the_face_is_the_one_the_original_found(networks):
    [row] = networks.search(astronaut(), 20)
    [box] = from_golden(GOLDEN["astronaut512_raw_boxes_x1y1x2y2s"])
    points = GOLDEN["astronaut512_raw_points"].reshape(2, 5).T
    assert np.abs(row[:4] - box).max() < 6  # of 114: the way there differs
    assert np.abs(row[5:].reshape(5, 2) - points).max() < 3
    assert row[4] > 0.99


def test_a_settled_face_stays_where_it_is(networks):
    [row] = networks.search(astronaut(), 20)
    for shift in ([0, 0, 0, 0], [9, 0, 9, 0], [0, -9, 0, -9], [-6, -6, 6, 6]):
        [again] = networks.settle(astronaut(), row[None, :4] + shift)
        assert np.abs(again[5:] - row[5:]).max() < 2.5
        assert again[4] > 0.95


def test_a_face_must_look_like_one_thrice(networks, monkeypatch):
    finish = Cascade.finish
    for lowered in range(3):
        looks = []

        def doubtful(self, image, boxes, lowered=lowered, looks=looks):
            rows = finish(self, image, boxes)
            if len(looks) == lowered:
                rows[:, 4] = 0.75
            looks.append(len(rows))
            return rows

        monkeypatch.setattr(Cascade, "finish", doubtful)
        [row] = networks.search(astronaut(), 40)
        assert len(looks) == 3
        assert row[4] == 0.75


def test_no_box_gives_no_row(networks):
    image = astronaut()
    assert networks.refine(image, np.empty((0, 4))).shape == (0, 5)
    assert networks.finish(image, np.empty((0, 4))).shape == (0, 15)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["_proposer", "_refiner", "_finisher"])
def test_answers_that_are_no_numbers_are_no_faces(networks, monkeypatch, name, value):
    class Broken:
        def setInput(self, images):  # noqa: N802
            self.images = images

        def forward(self):
            count, _, height, width = self.images.shape
            if name == "_proposer":
                return np.full((count, 6, height // 2 - 5, width // 2 - 5), value)
            return np.full((count, 6 if name == "_refiner" else 16, 1, 1), value)

    monkeypatch.setattr(networks, name, Broken())
    assert len(networks.search(astronaut(), 40)) == 0
    if name == "_finisher":
        rows = networks.settle(astronaut(), np.array([[180.0, 60, 267, 174]]))
        assert rows[0, 4] <= 0.5
        assert np.isfinite(rows).all()
