"""Real faces through the real detector, searched for and aimed at."""

import cv2
import numpy as np
import pytest
from matplotlib.cbook import get_sample_data
from skimage.data import astronaut

from fsgan.faces.detector import FaceDetector
from fsgan.faces.geometry import (
    MEAN_LANDMARKS,
    crop_matrix,
    intersection_over_union,
    transform_points,
)
from fsgan.media.images import read_image

# Seen with the eye in scikit-image's photograph, (x, y): eyes, nose, mouth corners.
POINTS = np.array([[204, 101], [246, 103], [225, 126], [203, 138], [245, 141]])
BOX = np.array([180, 60, 267, 174])


# Faces


@pytest.mark.parametrize("min_face", [20, 30, 40, 60, 80])
def test_the_face_is_found_whatever_the_smallest_face_asked_for(min_face):
    [face] = FaceDetector(min_face).detect(astronaut())
    assert np.abs(face.landmarks - POINTS).max() < 5
    assert np.abs(face.box - BOX).max() < 8
    assert 0.9 <= face.confidence <= 1


def test_a_face_smaller_than_asked_for_is_left_out():
    assert FaceDetector(min_face=120).detect(astronaut()) == []


def test_points_and_box_follow_the_picture(detector, portrait):
    [face] = detector.detect(portrait)
    wide = cv2.copyMakeBorder(portrait, 31, 9, 57, 3, cv2.BORDER_REFLECT_101)
    [moved] = detector.detect(wide)[:1]
    assert np.abs(moved.landmarks - face.landmarks - (57, 31)).max() < 4
    large = cv2.resize(portrait, None, fx=2.5, fy=2.5, interpolation=cv2.INTER_CUBIC)
    [grown] = detector.detect(large)[:1]
    assert np.abs((grown.landmarks + 0.5) / 2.5 - 0.5 - face.landmarks).max() < 4


def test_the_landmarks_of_an_aligned_crop_are_near_the_mean_shape(detector, portrait):
    [face] = detector.detect(portrait)
    points = transform_points(face.landmarks, crop_matrix(face.landmarks, 256))
    assert np.abs((points + 0.5) / 256 - MEAN_LANDMARKS).max() < 0.08


def test_faces_come_largest_first(detector, portrait):
    small = cv2.resize(portrait, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    small = np.pad(small, ((0, 300 - len(small)), (0, 0), (0, 0)), "edge")
    faces = detector.detect(np.hstack([small, portrait]))
    assert len(faces) == 2
    assert faces[0].size > 1.2 * faces[1].size
    assert faces[1].landmarks[0, 0] < small.shape[1] < faces[0].landmarks[0, 0]


def test_points_are_not_rounded_to_pixels(detector, portrait):
    [face] = detector.detect(portrait)
    assert np.abs(face.landmarks - face.landmarks.round()).max() > 0.05


def test_unsure_and_small_finds_are_left_out(monkeypatch):
    points = [20, 30, 40, 30, 30, 45, 22, 60, 38, 60]
    unsure, small, fine, huge = (
        [10, 20, 70, 90, 0.89, *points],
        [10, 20, 57, 90, 0.95, *points],
        [10, 20, 70, 90, 0.95, *points],
        [0, 0, 90, 100, 0.9, *points],
    )
    asked = []

    class Networks:
        def search(self, image, min_face, shrinkage):
            asked.append(min_face)
            return np.array([small, fine, huge, unsure], float)

    detector = FaceDetector(min_face=48, min_confidence=0.9)
    monkeypatch.setattr(detector, "_cascade", Networks())
    first, second = detector.detect(np.zeros((200, 302, 3), np.uint8))
    assert (first.size, second.size) == (90, 60)
    np.testing.assert_array_equal(second.box, [10, 20, 70, 90])
    np.testing.assert_array_equal(second.landmarks[:2], [[20, 30], [40, 30]])
    assert second.confidence == 0.95
    assert asked == [40]


def test_other_pictures_other_faces():
    hopper = read_image(get_sample_data("grace_hopper.jpg", asfileobj=False))
    [face] = FaceDetector(min_face=60).detect(hopper)
    # Seen with the eye: eyes, nose, mouth corners.
    seen = [[221, 189], [306, 187], [267, 240], [231, 278], [306, 276]]
    assert np.abs(face.landmarks - seen).max() < 8


@pytest.mark.parametrize("min_face", [20, 40, 80, 120])
@pytest.mark.parametrize("share", [1.08, 1.5, 3])
def test_faces_of_all_sizes_asked_for_are_found(portrait, min_face, share):
    [known] = FaceDetector(min_face=60).detect(portrait)
    scale = share * min_face / known.size
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    image = cv2.resize(portrait, None, fx=scale, fy=scale, interpolation=way)
    [face, *_] = FaceDetector(min_face).detect(image)
    points = (face.landmarks + 0.5) / scale - 0.5
    assert np.abs(points - known.landmarks).max() < 0.08 * known.size


def test_the_picture_is_left_as_it_is(detector, portrait):
    before = portrait.copy()
    detector.detect(portrait)
    np.testing.assert_array_equal(portrait, before)


@pytest.mark.parametrize("shape", [(240, 320), (97, 31), (31, 201), (24, 700)])
def test_pictures_without_a_face_give_none(shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for image in (noise, np.zeros_like(noise), np.full_like(noise, 255)):
        assert FaceDetector(min_face=20).detect(image) == []


@pytest.mark.parametrize("shape", [(1, 1), (12, 12), (19, 400), (20, 20), (400, 21)])
def test_tiny_pictures_give_none(shape):
    image = np.full((*shape, 3), 128, np.uint8)
    assert FaceDetector(min_face=20).detect(image) == []
    assert FaceDetector(min_face=60).detect(image) == []


@pytest.mark.parametrize(
    "crop", [(0, 201, 0, 301), (60, 174, 180, 267), (0, 512, 150, 300)]
)
def test_odd_shapes_and_tight_crops_are_searched(detector, crop):
    top, bottom, left, right = crop
    [face] = detector.detect(astronaut()[top:bottom, left:right])
    assert np.abs(face.landmarks + np.array([left, top]) - POINTS).max() < 8


def test_a_coarser_pyramid_finds_the_same_face(portrait):
    [fine], [coarse] = (
        FaceDetector(60, shrinkage=share).detect(portrait) for share in (0.85, 0.5)
    )
    assert intersection_over_union(fine.box, coarse.box).item() > 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_face": 19.9}, "min_face must be at least 20 pixels, got 19.9"),
        ({"min_face": float("nan")}, "min_face must be at least 20 pixels, got nan"),
        ({"min_confidence": 0.69}, r"min_confidence must be in \[0.7, 1\], got 0.69"),
        ({"shrinkage": 0.96}, r"shrinkage must be in \[0.3, 0.95\], got 0.96"),
        ({"min_confidence": 1.01}, r"min_confidence must be in \[0.7, 1\], got 1.01"),
    ],
)
def test_thresholds_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FaceDetector(**settings)


# Aimed


def test_aimed_at_a_face_finds_the_one_of_the_search(detector, portrait):
    [face] = detector.detect(portrait)
    sides = np.tile(face.box[2:] - face.box[:2], 2)
    for off in ([0, 0, 0, 0], [0.1, 0.1, 0.1, 0.1], [-0.1, 0.1, -0.1, 0.1]):
        [aimed] = detector.aim(portrait, [face.box + off * sides])
        assert intersection_over_union(aimed.box, face.box).item() > 0.9
        assert np.abs(aimed.landmarks - face.landmarks).max() < 0.04 * face.size
    for grown in (0.85, 1.2):
        [aimed] = detector.aim(portrait, [scaled(face.box, grown)])
        assert intersection_over_union(aimed.box, face.box).item() > 0.9


def scaled(box: np.ndarray, factor: float) -> np.ndarray:
    centre = np.tile(box[:2] + box[2:], 2) / 2
    return centre + (box - centre) * factor


def test_aiming_again_and_again_does_not_drift(detector, portrait):
    [face] = detector.detect(portrait)
    box = face.box
    for _ in range(30):
        [aimed] = detector.aim(portrait, [box])
        box = aimed.box
    assert intersection_over_union(box, face.box).item() > 0.9
    assert np.abs(aimed.landmarks - face.landmarks).max() < 0.04 * face.size


def test_each_box_gets_its_answer(detector, portrait):
    [face] = detector.detect(portrait)
    nothing = np.array([5.0, 200, 85, 290])
    first, second, third = detector.aim(portrait, [nothing, face.box, nothing])
    assert first is None
    assert third is None
    assert intersection_over_union(second.box, face.box).item() > 0.9
    assert detector.aim(portrait, []) == []


def test_an_aim_beside_the_face_misses(detector, portrait):
    [face] = detector.detect(portrait)
    beside = face.box + np.array([face.size, 0, face.size, 0])
    assert detector.aim(portrait, [beside]) == [None]


@pytest.mark.parametrize(("shift", "seen"), [(50, True), (56, False)])
def test_a_face_that_is_not_where_it_was_expected_is_missed(monkeypatch, shift, seen):
    class Networks:
        def settle(self, image, boxes):
            return np.hstack(
                [boxes + np.array([shift, 0, shift, 0]), [[0.99] + 10 * [60.0]]]
            )

    detector = FaceDetector(min_face=40)
    monkeypatch.setattr(detector, "_cascade", Networks())
    # Moved by x of 100 the overlap is (100 - x) / (100 + x): 0.33 and 0.28.
    [aimed] = detector.aim(
        np.zeros((200, 200, 3), np.uint8), [np.array([9, 9, 109, 99])]
    )
    assert (aimed is not None) == seen


@pytest.mark.parametrize(
    "box",
    [
        [np.nan, 10, 50, 60],
        [10, 10, np.inf, 60],
        [-np.inf, -np.inf, np.inf, np.inf],
        [50, 10, 50, 60],
        [50, 60, 10, 10],
        [-90, -90, -20, -20],
        [1000, 1000, 1100, 1100],
        [-1e6, -1e6, 1e6, 1e6],
    ],
)
def test_an_aim_out_of_sight_misses(detector, portrait, box):
    assert detector.aim(portrait, [np.array(box)]) == [None]


@pytest.mark.parametrize("shape", [(0, 0), (0, 40), (1, 1), (2, 300)])
def test_degenerate_pictures_give_none(detector, shape):
    image = np.full((*shape, 3), 128, np.uint8)
    assert detector.detect(image) == []
    assert detector.aim(image, [np.array([0.0, 0, 60, 80])]) == [None]
    assert detector.find(image, [np.array([0.0, 0, 60, 80])]) == []


def test_a_face_cut_by_the_border_is_found(detector, portrait):
    [face] = detector.detect(portrait)
    left = int(face.box[0] + 0.12 * face.size)
    cut = np.ascontiguousarray(portrait[:, left:])
    [searched] = detector.detect(cut)
    [aimed] = detector.aim(cut, [face.box - [left, 0, left, 0]])
    for found in (searched, aimed):
        assert np.abs(found.landmarks - face.landmarks + (left, 0)).max() < 12
    assert searched.box[0] < 3


def test_a_face_larger_than_the_frame_does_no_harm(detector, portrait):
    [face] = detector.detect(portrait)
    left, top, right, bottom = scaled(face.box, 0.7).round().astype(int)
    close = np.ascontiguousarray(portrait[top:bottom, left:right])
    box = face.box - np.tile([left, top], 2)
    for found in [*detector.detect(close), *detector.aim(close, [box])]:
        assert found is None or np.isfinite(found.landmarks).all()


def test_networks_that_answer_nan_find_nothing(portrait):
    detector = FaceDetector(min_face=40)
    [face] = detector.detect(portrait)
    finish = detector._cascade._finisher

    class Broken:
        def setInput(self, images):  # noqa: N802
            finish.setInput(images)

        def forward(self):
            return np.full_like(finish.forward(), np.nan)

    detector._cascade._finisher = Broken()
    assert detector.detect(portrait) == []
    assert detector.aim(portrait, [face.box]) == [None]


# From frame to frame


class Counting(FaceDetector):
    """Says how often the whole frame was searched."""

    searches = 0

    def detect(self, image):
        self.searches += 1
        return super().detect(image)


def test_only_what_is_not_expected_is_searched_for(portrait):
    detector = Counting(min_face=40)
    [face] = detector.find(portrait, [])
    assert detector.searches == 1
    [again] = detector.find(portrait, [face.box])
    assert detector.searches == 1
    assert intersection_over_union(again.box, face.box).item() > 0.9
    [again] = detector.find(portrait, [face.box], search=True)
    assert detector.searches == 2
    np.testing.assert_array_equal(again.box, face.box)


def test_a_missed_aim_is_a_search(portrait):
    detector = Counting(min_face=40)
    gone = np.array([5.0, 200, 85, 290])
    [face] = detector.find(portrait, [gone])
    assert detector.searches == 1
    assert len(detector.find(portrait, [face.box, gone])) == 1
    assert detector.searches == 2


def test_two_aims_at_one_face_are_a_search(portrait):
    detector = Counting(min_face=40)
    [face] = detector.find(portrait, [])
    assert len(detector.find(portrait, [face.box, face.box + 4])) == 1
    assert detector.searches == 2


def test_frames_may_change_their_size(detector, portrait):
    expected = []
    for scale in (1, 0.7, 1.4, 1):
        frame = cv2.resize(portrait, None, fx=scale, fy=scale)
        [face] = detector.find(frame, expected)
        points = face.landmarks / scale
        assert np.abs(points - detector.detect(portrait)[0].landmarks).max() < 6
        expected = [face.box]
