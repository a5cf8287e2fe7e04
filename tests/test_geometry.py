"""Boxes, similarity fit, the aligned crop and back."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import face_entry

from fsgan.data.extract import write_faces_record
from fsgan.faces.geometry import (
    MEAN_LANDMARKS,
    Face,
    align,
    crop_matrix,
    fit_similarity,
    intersection_over_union,
    invert,
    read_crops,
    recrop,
    transform_points,
    warp,
)
from fsgan.media.images import write_image

# Made by running v2.2's `umeyama(src, dst, est_scale)` on the points stored with it,
# and `landmarks_match_mtcnn(image, src, tar)` on crops of scikit-image's astronaut, by
# OpenCV 4. Its landmarks are (row, column); its results in cases BUG_* are wrong.
GOLDEN = np.load(Path(__file__).parent / "golden" / "geometry.npz")
CASES = sorted(name[8:-4] for name in GOLDEN.files if name.endswith("_src"))
RIGHT_CASES = [case for case in CASES if "BUG" not in case and "nan" not in case]
WRONG_CASES = [case for case in CASES if "BUG" in case]


def similarity(angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    """The matrix of a turn (degrees, x towards y), a scale and a shift."""
    c, s = np.cos(np.radians(angle)) * scale, np.sin(np.radians(angle)) * scale
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


def smooth_image(height: int, width: int) -> np.ndarray:
    """A float picture without fine detail, so that warps hardly blur it."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    channels = [np.sin(x / 17), np.cos(y / 23), np.sin((x + y) / 29)]
    return (127.5 + 120 * np.stack(channels, axis=-1)).astype(np.float32)


def golden_landmarks(case: str) -> list[np.ndarray]:
    """The landmarks before and after, (x, y)."""
    names = (f"landmarks_{case}_{side}_landmarks" for side in ("src", "tar"))
    return [GOLDEN[name][:, ::-1].astype(float) for name in names]


# Boxes


def test_overlap_is_a_table_of_intersection_over_union():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [2, 2, 4, 7], [10, 0, 20, 10]])
    expected = [[1, 50 / 150, 10 / 100, 0], [50 / 150, 1, 0, 50 / 150]]
    np.testing.assert_allclose(intersection_over_union(boxes[:2], boxes), expected)
    assert intersection_over_union(np.array([]), boxes).shape == (0, 4)
    assert intersection_over_union(boxes, np.array([])).shape == (4, 0)


def test_faces_in_a_list_are_compared_without_their_arrays():
    one, other = (
        Face(np.array([10, 20, 40.5, 90]), np.zeros((5, 2)), 1.0) for _ in range(2)
    )
    assert one.size == 30.5
    assert [one, other].index(other) == 1
    assert one != other
    assert len({one, other}) == 2


# Similarity fit


@pytest.mark.parametrize("case", RIGHT_CASES)
def test_the_fit_equals_the_original_where_that_is_right(case):
    source, target, matrix = (
        GOLDEN[f"umeyama_{case}_{n}"] for n in ("src", "dst", "T")
    )
    np.testing.assert_allclose(fit_similarity(source, target), matrix[:2], atol=1e-9)


@pytest.mark.parametrize("case", WRONG_CASES)
def test_the_fit_is_a_proper_similarity_where_the_original_is_wrong(case):
    source, target = (GOLDEN[f"umeyama_{case}_{n}"] for n in ("src", "dst"))
    matrix = fit_similarity(source, target)
    scale = np.sqrt(np.linalg.det(matrix[:, :2]))  # nan for a reflection
    assert scale > 0
    np.testing.assert_allclose(
        matrix[:, :2] @ matrix[:, :2].T, scale**2 * np.eye(2), atol=1e-9
    )
    theirs = GOLDEN[f"umeyama_{case}_T"]
    ours, theirs = (
        np.sum((transform_points(source, x[:2]) - target) ** 2)
        for x in (matrix, theirs)
    )
    assert ours < theirs


@pytest.mark.parametrize("case", ["square", "nonsquare", "fractional"])
def test_the_fit_reproduces_the_alignment_matrices_of_the_original(case):
    source, target = golden_landmarks(case)
    forth, back = (GOLDEN[f"landmarks_{case}_{n}"] for n in ("M", "M_reverse"))
    np.testing.assert_allclose(fit_similarity(source, target), forth, atol=1e-9)
    np.testing.assert_allclose(fit_similarity(target, source), back, atol=1e-9)


@pytest.mark.parametrize(("angle", "scale"), [(0, 7), (17, 0.05), (180, 7), (-135, 1)])
def test_the_fit_recovers_a_known_similarity(angle, scale):
    known = similarity(angle, scale, (31.5, -8.25))
    points = MEAN_LANDMARKS * 100
    moved = transform_points(points, known)
    np.testing.assert_allclose(fit_similarity(points, moved), known, atol=1e-9)
    back = transform_points(moved, invert(known))
    np.testing.assert_allclose(back, points, atol=1e-9)


def test_points_that_coincide_are_refused():
    with pytest.raises(ValueError, match="landmarks coincide"):
        fit_similarity(np.ones((5, 2)), MEAN_LANDMARKS)


# The crop


def test_the_crop_puts_the_mean_shape_where_it_belongs():
    # The square from pixel edge (99.5, 49.5) with a side of 64 pixels.
    matrix = crop_matrix(MEAN_LANDMARKS * 64 + (99.5, 49.5), 256)
    np.testing.assert_allclose(matrix[:, :2], 4 * np.eye(2), atol=1e-9)
    edges = np.array([[99.5, 49.5], [99.5 + 64, 49.5 + 64]])
    np.testing.assert_allclose(
        transform_points(edges, matrix), [[-0.5, -0.5], [255.5, 255.5]], atol=1e-9
    )


@pytest.mark.parametrize("coverage", [1.6, 1.0, 0.8, 0.5])
@pytest.mark.parametrize("size", [64, 256])
def test_coverage_is_the_share_of_the_width_that_is_shown(coverage, size):
    landmarks = transform_points(MEAN_LANDMARKS * 90, similarity(20, 1, (50, 60)))
    whole, part = crop_matrix(landmarks, size), crop_matrix(landmarks, size, coverage)
    edge, middle = size / 2 * coverage, (size - 1) / 2
    shown = np.array([[middle - edge, middle - edge], [middle + edge, middle]])
    in_part = transform_points(transform_points(shown, invert(whole)), part)
    expected = [[-0.5, -0.5], [size - 0.5, middle]]
    np.testing.assert_allclose(in_part, expected, atol=1e-9)


@pytest.mark.parametrize(("size", "extent"), [(256, 1.6), (300, 1.25), (90, 1.0)])
def test_the_standard_crop_lies_in_the_middle_of_a_wider_one(size, extent):
    frame = smooth_image(400, 400)
    landmarks = MEAN_LANDMARKS * 120 + 140
    wide = align(frame, crop_matrix(landmarks, size, extent), size)
    standard = recrop(wide, extent)
    side = round(size / extent)
    assert standard.shape == (side, side, 3)
    expected = align(frame, crop_matrix(landmarks, side), side)
    np.testing.assert_allclose(standard, expected, atol=1)


def test_a_crop_becomes_wider_by_repeating_its_border():
    crop = np.arange(16 * 16 * 2).reshape(16, 16, 2)
    wider = recrop(crop, 1.0, 1.5)
    np.testing.assert_array_equal(wider, np.pad(crop, ((4, 4), (4, 4), (0, 0)), "edge"))
    np.testing.assert_array_equal(recrop(wider, 1.5), crop)
    np.testing.assert_array_equal(recrop(crop, 1.6, 1.2), crop[2:-2, 2:-2])


def test_standard_crops_are_read_from_folders_of_any_extent(tmp_path):
    ramp = np.repeat(np.arange(32, dtype=np.uint8), 3).reshape(1, 32, 3).repeat(32, 0)
    files = [tmp_path / folder / "0.png" for folder in ("new", "old", "unrecorded")]
    for file in files:
        write_image(file, ramp)
    write_faces_record(tmp_path / "new", [face_entry("0.png", extent=1.6)])
    write_faces_record(tmp_path / "old", [face_entry("0.png")])
    new, *others = read_crops(files)
    np.testing.assert_array_equal(new, ramp[6:26, 6:26])
    for crop in others:
        np.testing.assert_array_equal(crop, ramp)


NOT_A_FACE = [[1, 1]] * 5


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1, 2]",
        '{"faces": 7}',
        '{"faces": [{"file": 3}]}',
        *(
            json.dumps({"faces": [face_entry("0.png") | change]})
            for change in (
                *({"file": name} for name in ("", "..", "a/b", "/a", "../a", "a\0b")),
                *({"extent": extent} for extent in (0, -1, float("nan"), 1e9, True)),
                *({"landmarks": x} for x in (NOT_A_FACE, [[1, 2]], [[1e300, 2]] * 5)),
                {"landmarks": [[float("nan"), 2]] * 5},
                {"box": [1, 2, 3]},
                {"confidence": "high"},
                {"matrix": [1, 2, 3]},
            )
        ),
        json.dumps({"faces": [face_entry("0.png")] * 2}),
        json.dumps({"faces": [{"file": "0.png"}]}),
    ],
)
def test_a_damaged_or_malicious_record_is_refused(tmp_path, text):
    write_image(tmp_path / "0.png", np.zeros((32, 32, 3), np.uint8))
    (tmp_path / "faces.json").write_text(text)
    with pytest.raises(ValueError, match=r"faces.json is damaged \(.+\): delete it"):
        list(read_crops([tmp_path / "0.png"]))


def test_pixel_centres_lie_on_whole_numbers():
    image = np.random.default_rng(2).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    shifted = align(image, similarity(0, 1, (-7, -3)), 32)
    assert shifted.dtype == np.uint8
    np.testing.assert_array_equal(shifted, image[3:35, 7:39])
    # At half the size a pixel is the mean of four, when edges lie on edges.
    halved = align(image.astype(np.float32), similarity(0, 0.5, (-0.25, -0.25)), 20)
    means = image[:40, :40].reshape(20, 2, 20, 2, 3).mean((1, 3))
    np.testing.assert_allclose(halved, means, atol=1e-3)


def test_the_aligned_picture_is_the_original_s_away_from_the_border():
    image, aligned = (GOLDEN[f"landmarks_square_{n}"] for n in ("image", "aligned"))
    ours = align(image, fit_similarity(*golden_landmarks("square")), 100)
    difference = np.abs(ours.astype(int) - aligned)[8:-8, 8:-8]
    # OpenCV 5 differs from the original's 4 by up to 3 levels.
    assert difference.max() <= 3
    assert difference.mean() < 0.2


@pytest.mark.parametrize("scale", [0.5, 0.2, 0.05])
@pytest.mark.parametrize("period", [2, 3])
def test_fine_stripes_become_gray_when_the_crop_is_smaller(period, scale, coarse):
    side = int(70 / scale)
    stripes = np.where(np.arange(side) % period < period / 2, 255, 0)
    image = np.repeat(np.tile(stripes, (side, 1))[..., None], 3, -1).astype(np.float32)
    crop = align(image, similarity(0, scale, (0, 0)), 64)
    assert crop[:, 4:-4].std() < 35  # the picture's own is 120, as is plain sampling's
    assert crop.mean() == pytest.approx(stripes.mean(), abs=17 if coarse else 16)


@pytest.mark.parametrize("angle", [0, 60, 180])
@pytest.mark.parametrize("side", [40, 200, 700])
def test_aligning_and_back_returns_the_picture(angle, side):
    frame = smooth_image(900, 1000)
    turn = similarity(angle, side, (0, 0))
    centre = np.array([500.0, 450.0]) - transform_points(np.full((1, 2), 0.5), turn)[0]
    matrix = crop_matrix(transform_points(MEAN_LANDMARKS, turn) + centre, 256)
    back = warp(align(frame, matrix, 256), invert(matrix), (1000, 900))
    inside = cv2.warpAffine(np.ones((256, 256), np.uint8), invert(matrix), (1000, 900))
    inside = cv2.erode(inside, np.ones((9, 9))) > 0
    assert inside.sum() > 0.5 * side**2
    assert np.abs(back - frame)[inside].max() < 4


def test_beyond_the_frame_its_border_is_repeated():
    frame = smooth_image(120, 100)
    # The face's square reaches 32 pixels beyond the left border.
    crop = align(frame, crop_matrix(MEAN_LANDMARKS * 64 + (-32.5, 19.5), 64), 64)
    expected = np.pad(frame[20:84, :32], ((0, 0), (32, 0), (0, 0)), "edge")
    np.testing.assert_allclose(crop, expected, atol=1e-3)


def test_one_channel_warps_like_three():
    image = smooth_image(80, 90)
    matrix = similarity(10, 0.4, (3, 4))
    one = warp(image[..., :1].copy(), matrix, (30, 20))
    np.testing.assert_allclose(one, warp(image, matrix, (30, 20))[..., 0], atol=1e-3)
