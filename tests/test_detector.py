"""Real faces through the real detector; the cascade's steps as in the original."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from fsgan.faces.detector import (
    FaceDetector,
    cut_patches,
    move,
    pyramid_scales,
    read_network,
    squares,
    suppress_overlapping,
    windows,
)
from fsgan.faces.geometry import intersection_over_union

# Made by running v2.2's `mtcnn_detect_face` with its own weights (det1/2/3.npy): the
# networks on fixed inputs, `generateBoundingBox`, `nms`, `rerec`, `bbreg` on random
# boxes, `detect_face(image, 20, ...)` on scikit-image's astronaut. Its boxes count
# pixels from 1 and hold their last one.
GOLDEN = np.load(Path(__file__).parent / "golden" / "cascade.npz")
# Seen with the eye in scikit-image's photograph, (x, y): eyes, nose, mouth corners.
POINTS = np.array([[204, 101], [246, 103], [225, 126], [203, 138], [245, 141]])
BOX = np.array([180, 60, 267, 174])


def from_golden(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, :4] - [1, 1, 0, 0]


# Faces


@pytest.mark.parametrize("min_face", [20, 30, 80])
def test_the_face_is_found_whatever_the_smallest_face_asked_for(min_face):
    [face] = FaceDetector(min_face).detect(astronaut())
    assert np.abs(face.landmarks - POINTS).max() < 5
    assert np.abs(face.box - BOX).max() < 8
    assert 0.9 <= face.confidence <= 1


def test_another_picture_another_face(hopper_photo):
    [face] = FaceDetector(min_face=60).detect(hopper_photo)
    # Seen with the eye: eyes, nose, mouth corners.
    seen = [[221, 189], [306, 187], [267, 240], [231, 278], [306, 276]]
    assert np.abs(face.landmarks - seen).max() < 8


def test_faces_come_largest_first(detector, portrait):
    small = cv2.resize(portrait, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    small = np.pad(small, ((0, 300 - len(small)), (0, 0), (0, 0)), "edge")
    faces = detector.detect(np.hstack([small, portrait]))
    assert len(faces) == 2
    assert faces[0].size > 1.2 * faces[1].size
    assert faces[1].landmarks[0, 0] < small.shape[1] < faces[0].landmarks[0, 0]


def test_small_and_unsure_finds_are_left_out(portrait, detector, monkeypatch):
    [face] = detector.detect(portrait)
    assert FaceDetector(face.size / 0.9).detect(portrait) == []
    assert FaceDetector(face.size / 0.9).detect_near(portrait, [face.box]) == [None]
    monkeypatch.setattr(detector, "min_confidence", face.confidence + 1e-6)
    assert detector.detect(portrait) == []


@pytest.mark.parametrize("min_face", [20, 80])
@pytest.mark.parametrize("share", [1.08, 3])
def test_faces_of_all_sizes_asked_for_are_found(portrait, min_face, share):
    [known] = FaceDetector(min_face=60).detect(portrait)
    scale = share * min_face / known.size
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    image = cv2.resize(portrait, None, fx=scale, fy=scale, interpolation=way)
    [face, *_] = FaceDetector(min_face).detect(image)
    points = (face.landmarks + 0.5) / scale - 0.5
    assert np.abs(points - known.landmarks).max() < 0.08 * known.size


@pytest.mark.parametrize("shape", [(240, 320), (24, 300), (1, 1), (0, 40)])
def test_pictures_without_a_face_give_none(shape):
    detector = FaceDetector(min_face=20)
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for image in (noise, np.zeros_like(noise), np.full_like(noise, 255)):
        assert detector.detect(image) == []
        assert detector.detect_near(image, [np.array([0.0, 0, 60, 80])]) == [None]
        assert detector.detect_next(image, [np.array([0.0, 0, 60, 80])]) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_face": 19.9}, "min_face must be greater than or equal to 20, got 19.9"),
        ({"min_face": float("nan")}, "min_face must be a finite number, got nan"),
        (
            {"min_confidence": 0.69},
            "min_confidence must be greater than or equal to 0.7, got 0.69",
        ),
        (
            {"min_confidence": 1.01},
            "min_confidence must be less than or equal to 1, got 1.01",
        ),
    ],
)
def test_thresholds_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FaceDetector(**settings)


# Near a box


def test_near_its_place_the_face_of_the_search_is_found(detector, portrait):
    [face] = detector.detect(portrait)
    step = 0.1 * np.tile(face.box[2:] - face.box[:2], 2)
    for signs in ((0, 0, 0, 0), (-1, 1, -1, 1), (-1, -1, 1, 1), (1, 1, -1, -1)):
        [found] = detector.detect_near(portrait, [face.box + step * signs])
        assert intersection_over_union(found.box, face.box).item() > 0.9
        assert np.abs(found.landmarks - face.landmarks).max() < 0.04 * face.size
    for _ in range(30):  # without drifting
        [found] = detector.detect_near(portrait, [found.box])
    assert np.abs(found.landmarks - face.landmarks).max() < 0.04 * face.size


def test_each_box_gets_its_answer(detector, portrait):
    [face] = detector.detect(portrait)
    boxes = [
        [5.0, 200, 85, 290],  # nobody
        face.box,
        face.box + face.size * np.array([1, 0, 1, 0]),
        [np.nan, 10, 50, 60],
        [-np.inf, -np.inf, np.inf, np.inf],
        [50, 60, 10, 10],
        [-90, -90, -20, -20],
        [1000, 1000, 1100, 1100],
        [-1e6, -1e6, 1e6, 1e6],
    ]
    found = detector.detect_near(portrait, boxes)
    assert [near is not None for near in found] == [False, True] + 7 * [False]
    assert intersection_over_union(found[1].box, face.box).item() > 0.9
    assert detector.detect_near(portrait, []) == []


def test_a_face_cut_by_the_border_is_found(detector, portrait):
    [face] = detector.detect(portrait)
    left = int(face.box[0] + 0.12 * face.size)
    cut = np.ascontiguousarray(portrait[:, left:])
    [searched] = detector.detect(cut)
    [near] = detector.detect_near(cut, [face.box - [left, 0, left, 0]])
    for found in (searched, near):
        assert np.abs(found.landmarks - face.landmarks + (left, 0)).max() < 12
    assert searched.box[0] < 3


# From frame to frame


def test_the_whole_frame_is_searched_only_where_it_must_be(portrait, monkeypatch):
    detector, searches = FaceDetector(min_face=40), []
    search = detector.detect
    monkeypatch.setattr(
        detector, "detect", lambda image: searches.append(image) or search(image)
    )
    [face] = detector.detect_next(portrait, [])
    gone, twice = np.array([5.0, 200, 85, 290]), face.box + 4
    for expected, asked, searched in [
        ([], False, True),
        ([face.box], False, False),
        ([face.box], True, True),
        ([gone], False, True),
        ([face.box, gone], False, True),
        ([face.box, twice], False, True),
    ]:
        searches.clear()
        [again] = detector.detect_next(portrait, expected, search=asked)
        assert intersection_over_union(again.box, face.box).item() > 0.9
        assert bool(searches) == searched


# The networks


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


def test_neither_tensorflow_nor_the_package_is_needed():
    code = (
        "import sys, numpy; from fsgan.faces.detector import FaceDetector; "
        "FaceDetector().detect(numpy.zeros((90, 90, 3), 'uint8')); "
        "sys.exit(bool({'tensorflow', 'keras', 'mtcnn', 'joblib'} & {*sys.modules}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["pnet", "rnet", "onet"])
def test_the_files_that_ship_are_what_the_tool_makes_of_the_package(name):
    path = Path(__file__).parents[1] / "tools" / "make_mtcnn_onnx.py"
    spec = importlib.util.spec_from_file_location("make_mtcnn_onnx", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    import onnx

    made, shipped = tool.make_network(name), onnx.load(tool.FOLDER / f"{name}.onnx")
    assert made.graph.node == shipped.graph.node
    pairs = zip(made.graph.initializer, shipped.graph.initializer, strict=True)
    for ours, theirs in pairs:
        assert ours.name == theirs.name
        arrays = map(onnx.numpy_helper.to_array, (ours, theirs))
        np.testing.assert_allclose(*arrays)


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
def test_suppression_is_that_of_the_original(max_overlap, of_smaller, kept):
    boxes = GOLDEN["nms_boxes"]
    rows = np.column_stack([from_golden(boxes), boxes[:, 4], np.arange(len(boxes))])
    rows = suppress_overlapping(rows, max_overlap, of_smaller=of_smaller)
    np.testing.assert_array_equal(rows[:, 5], GOLDEN[kept])


def test_squares_and_moves_are_those_of_the_original():
    boxes = from_golden(GOLDEN["nms_boxes"])
    expected = from_golden(GOLDEN["rerec_out"])
    np.testing.assert_allclose(squares(boxes), expected, atol=1e-6)
    moved = move(boxes, GOLDEN["bbreg_reg"])
    np.testing.assert_allclose(moved, from_golden(GOLDEN["bbreg_out"]), atol=1e-6)


def test_the_pyramid_goes_from_the_smallest_face_to_the_frame():
    np.testing.assert_allclose(
        pyramid_scales((100, 48), 24), [0.5, 0.5 * 0.709, 0.5 * 0.709**2]
    )
    np.testing.assert_allclose(pyramid_scales((24, 90), 24), [0.5])
    assert pyramid_scales((23, 90), 24).size == 0
    assert pyramid_scales((0, 90), 24).size == 0


def test_a_patch_is_a_slice_of_the_image_or_averaged():
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    boxes = np.array([[7.0, 5, 31, 29], [0, 0, 96, 96]])
    same, quarter = cut_patches(image, boxes, 24)
    np.testing.assert_array_equal(same, image[5:29, 7:31])
    means = image.reshape(24, 4, 24, 4, 3).mean(axis=(1, 3))
    assert np.abs(quarter - means).max() <= 0.5


@pytest.mark.parametrize("side", [6, 18, 20.5])
def test_a_patch_shows_the_middle_of_each_of_its_cells(side):
    ramp = np.tile(np.arange(0, 260, 10).clip(0, 255).astype(np.uint8), (26, 1))
    ramp = cv2.cvtColor(ramp, cv2.COLOR_GRAY2RGB)
    [patch] = cut_patches(ramp, np.array([[4.0, 4, 4 + side, 4 + side]]), 24)
    centres = 4 + (np.arange(24) + 0.5) * side / 24 - 0.5
    assert np.abs(patch[:, :, 0] - 10 * centres).max() <= 1


def test_outside_the_image_is_gray():
    image = np.zeros((10, 10, 3), np.uint8)
    [patch] = cut_patches(image, np.array([[-14.0, -14, 10, 10]]), 24)
    assert (patch[14:, 14:] == 0).all()
    assert (abs(patch[:14].astype(float) - 127.5) <= 0.5).all()
    assert (abs(patch[:, :14].astype(float) - 127.5) <= 0.5).all()


# The cascade


def test_the_face_is_the_one_the_original_found():
    [face] = FaceDetector(24).detect(astronaut())
    [box] = from_golden(GOLDEN["astronaut512_raw_boxes_x1y1x2y2s"])
    points = GOLDEN["astronaut512_raw_points"].reshape(2, 5).T
    assert np.abs(face.box - box).max() < 6  # of 114: the way there differs
    assert np.abs(face.landmarks - points).max() < 3
    assert face.confidence > 0.99


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("network", [0, 2])
def test_answers_that_are_no_numbers_are_no_faces(network, value):
    class Broken:
        def setInput(self, images):  # noqa: N802
            count, _, *sides = images.shape
            sides = [1 if network else side // 2 - 5 for side in sides]
            self.shape = (count, 16 if network else 6, *sides)

        def forward(self):
            return np.full(self.shape, value)

    detector = FaceDetector(40)
    detector._networks[network] = Broken()
    assert detector.detect(astronaut()) == []
    assert network == 0 or detector.detect_near(astronaut(), [BOX]) == [None]
