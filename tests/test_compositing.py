"""Colour correction against the original's, and faces laid into frames."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from fsgan.compositing import (
    COLOR_METHODS,
    Layer,
    blend,
    feather,
    lay_out,
    match_colors,
    place,
)
from fsgan.geometry import MEAN_LANDMARKS, align, crop_matrix, invert, warp

GOLDEN = np.load(Path(__file__).parent / "golden" / "compositing.npz")
STEP = 5  # the golden outputs hold every fifth row and column
SOURCE = GOLDEN["source_bgr"][..., ::-1].astype(np.float32)
REFERENCE = GOLDEN["reference_bgr"][..., ::-1]
WHOLE = np.ones((*SOURCE.shape[:2], 1), np.float32)


def matched(method: str, source: np.ndarray = SOURCE) -> np.ndarray:
    return match_colors(source, REFERENCE, WHOLE, method)[::STEP, ::STEP]


def golden(name: str) -> np.ndarray:
    return GOLDEN[f"{name}_bgr"][..., ::-1].astype(float)


def smooth_frame(height: int = 240, width: int = 320) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    channels = [np.sin(x / 17), np.cos(y / 23), np.sin((x + y) / 29)]
    return np.round(127.5 + 120 * np.stack(channels, axis=-1)).astype(np.uint8)


def matrix_at(x: float, y: float, side: float, angle: float = 0, size: int = 64):
    """Frame pixels to the crop of a face with its centre at (x, y)."""
    c, s = np.cos(np.radians(angle)) * side, np.sin(np.radians(angle)) * side
    landmarks = (MEAN_LANDMARKS - 0.5) @ np.array([[c, s], [-s, c]]) + [x, y]
    return crop_matrix(landmarks, size)


def plain_face(size: int, color: tuple[int, int, int]) -> np.ndarray:
    return np.tile(np.float32(color), (size, size, 1))


# Colour


def test_adain_is_the_original_s():
    np.testing.assert_allclose(
        matched("adain"), golden("adain").clip(0, 255), atol=1e-3
    )


def test_adain_of_a_constant_channel_is_the_original_s():
    constant = SOURCE.copy()
    constant[..., 1] = 90
    np.testing.assert_allclose(
        matched("adain", constant), golden("constant_adain").clip(0, 255), atol=1e-3
    )


def test_hist_match_is_the_original_s():
    np.testing.assert_allclose(matched("hist_match"), golden("hist_match"), atol=1e-3)


def test_adain_xyz_is_the_original_s_within_its_8_bits():
    ours, theirs = matched("adain_xyz"), golden("adain_xyz")
    # The original rounds and clips XYZ and RGB to 8 bits. XYZ values that are 1.5 off
    # are 1.5 * (3.24 + 1.54 + 0.50) = 7.9 levels of red off, of green 4.3, of blue 2.0.
    to_xyz = np.array(
        [[0.412, 0.358, 0.180], [0.213, 0.715, 0.072], [0.019, 0.119, 0.950]]
    )
    xyz = ours @ to_xyz.T
    clipped = (
        (xyz < 1)
        | (xyz > 254)
        | (ours <= 0)
        | (ours >= 255)
        | (theirs == 0)
        | (theirs == 255)
    ).any(-1)
    assert clipped.mean() < 0.25
    difference = np.abs(ours - theirs)[~clipped]
    assert (difference.max(0) < [7.9, 5.5, 3.5]).all()
    assert difference.mean() < 1.6


def weighted_moments(image, weights):
    values, weights = image.reshape(-1, 3).astype(float), weights.ravel().astype(float)
    mean = weights @ values / weights.sum()
    return mean, np.sqrt(weights @ (values - mean) ** 2 / weights.sum())


def test_adain_gives_the_mean_and_deviation_of_the_reference():
    rng = np.random.default_rng(0)
    image = rng.uniform(80, 120, (20, 20, 3)).astype(np.float32)
    reference = rng.uniform(60, 200, (20, 20, 3)).astype(np.float32)
    alpha = rng.uniform(0, 1, (20, 20, 1)).astype(np.float32)
    result = match_colors(image, reference, alpha, "adain")
    for ours, wanted in zip(
        weighted_moments(result, alpha), weighted_moments(reference, alpha), strict=True
    ):
        np.testing.assert_allclose(ours, wanted, atol=1e-3)


def test_adain_xyz_gives_the_mean_and_deviation_of_the_reference_in_xyz():
    rng = np.random.default_rng(1)
    to_xyz = np.array(
        [
            [0.412453, 0.357580, 0.180423],
            [0.212671, 0.715160, 0.072169],
            [0.019334, 0.119193, 0.950227],
        ]
    )
    image = rng.uniform(100, 130, (20, 20, 3)).astype(np.float32)
    reference = rng.uniform(90, 150, (20, 20, 3)).astype(np.float32)
    alpha = rng.uniform(0, 1, (20, 20, 1)).astype(np.float32)
    result = match_colors(image, reference, alpha, "adain_xyz")
    for ours, wanted in zip(
        weighted_moments(result @ to_xyz.T, alpha),
        weighted_moments(reference @ to_xyz.T, alpha),
        strict=True,
    ):
        np.testing.assert_allclose(ours, wanted, atol=1e-3)


def test_hist_match_by_hand():
    column = np.array([[0.0], [1.0], [2.0], [3.0]])
    image = np.repeat(column[..., None], 3, -1).astype(np.float32)
    reference = np.array([10, 10, 20, 40], np.float32)[:, None, None] * np.ones(3)
    result = match_colors(image, reference, np.ones((4, 1, 1)), "hist_match")
    # Quantiles 1/4 .. 4/4; the reference reaches 2/4 at 10, 3/4 at 20, 4/4 at 40.
    np.testing.assert_allclose(result[:, 0, 0], [10, 10, 20, 40])


@pytest.mark.parametrize("method", COLOR_METHODS[1:])
def test_a_face_matched_to_itself_is_itself(method):
    np.testing.assert_allclose(
        match_colors(SOURCE, SOURCE, WHOLE, method), SOURCE, atol=0.01
    )


@pytest.mark.parametrize("method", COLOR_METHODS[1:])
def test_the_background_has_no_influence(method):
    rng = np.random.default_rng(2)
    alpha = np.zeros_like(WHOLE)
    alpha[30:80, 40:90] = rng.uniform(0.2, 1, (50, 50, 1))
    inside = (alpha > 0)[..., 0]
    expected = match_colors(SOURCE, REFERENCE, alpha, method)
    source, reference = SOURCE.copy(), REFERENCE.copy()
    source[~inside], reference[~inside] = (0, 255, 0), (255, 0, 255)
    result = match_colors(source, reference, alpha, method)
    np.testing.assert_allclose(result[inside], expected[inside], atol=1e-4)
    whole = match_colors(SOURCE, REFERENCE, WHOLE, method)
    assert np.abs(whole - expected)[inside].max() > 5  # so the mask does matter


@pytest.mark.parametrize("method", COLOR_METHODS)
def test_a_face_that_is_not_shown_stays_as_it_is(method):
    result = match_colors(SOURCE, REFERENCE, WHOLE * 0, method)
    np.testing.assert_array_equal(result, SOURCE)


def test_none_changes_no_colour():
    np.testing.assert_array_equal(matched("none"), SOURCE[::STEP, ::STEP])


@pytest.mark.parametrize("method", COLOR_METHODS)
@pytest.mark.parametrize("value", [0, 77, 255])
def test_plain_pictures_give_finite_colours(method, value):
    plain = np.full_like(SOURCE, value)
    for result in (
        match_colors(plain, REFERENCE, WHOLE, method),
        match_colors(SOURCE, plain, WHOLE, method),
    ):
        assert result.dtype == np.float32
        assert result.shape == SOURCE.shape
        assert result.min() >= 0
        assert result.max() <= 255


def test_an_unknown_colour_method_is_refused():
    with pytest.raises(ValueError, match=r"color must be one of .*, got 'lab'"):
        match_colors(SOURCE, REFERENCE, WHOLE, "lab")


# Feathering


def test_a_feather_by_hand():
    # Centres at 1/16, 3/16, ...; over a width of 1/4 the ramp is 1/4, 3/4, 1, ...
    ramp = np.array([0.25, 0.75])
    ramp = ramp**2 * (3 - 2 * ramp)
    np.testing.assert_allclose(
        feather(8, 0.25)[:, 4, 0], [*ramp, 1, 1, 1, 1, *ramp[::-1]]
    )


@pytest.mark.parametrize("width", [0.05, 0.15, 0.5])
@pytest.mark.parametrize("size", [64, 129, 256])
def test_a_feather_fades_evenly_from_1_to_almost_0(size, width):
    mask = feather(size, width)
    assert mask.shape == (size, size, 1)
    assert mask.dtype == np.float32
    mask = mask[..., 0]
    np.testing.assert_array_equal(mask, mask.T)
    np.testing.assert_allclose(mask, mask[::-1, ::-1], atol=1e-6)
    assert mask.max() > 0.99
    assert mask[0].max() < 0.1
    assert (np.diff(mask[size // 2, : size // 2]) >= 0).all()


# Placing and blending


def test_where_alpha_is_0_the_frame_is_untouched_to_the_bit():
    frame = np.random.default_rng(3).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    before = frame.copy()
    layer = place(
        plain_face(64, (9, 9, 9)), feather(64), matrix_at(160, 120, 90), frame
    )
    result = blend(frame, [layer])
    alpha = np.zeros((240, 320))
    alpha[layer.rows, layer.columns] = layer.alpha[..., 0]
    np.testing.assert_array_equal(result[alpha == 0], frame[alpha == 0])
    np.testing.assert_array_equal(result[alpha > 0.999], 9)
    np.testing.assert_array_equal(frame, before)
    assert 60**2 < (alpha > 0).sum() <= 91**2


def test_half_an_alpha_is_half_way():
    frame = np.full((2, 2, 3), 100, np.uint8)
    rgb = np.full((1, 2, 3), 201, np.float32)
    alpha = np.array([[[0.5], [1.0]]], np.float32)
    result = blend(frame, [Layer(slice(1, 2), slice(0, 2), rgb, alpha)])
    np.testing.assert_array_equal(result[..., 0], [[100, 100], [150, 201]])


def test_values_beyond_white_and_black_are_clipped():
    frame = np.full((1, 2, 3), 100, np.uint8)
    rgb = np.array([[[300, 300, 300], [-40, -40, -40]]], np.float32)
    alpha = np.ones((1, 2, 1), np.float32)
    result = blend(frame, [Layer(slice(0, 1), slice(0, 2), rgb, alpha)])
    np.testing.assert_array_equal(result[0, :, 0], [255, 0])


@pytest.mark.parametrize("angle", [0, 60, 180])
@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("side", [50, 120, 200])
def test_a_generator_that_changes_nothing_gives_the_frame_back(size, side, angle):
    frame = smooth_frame()
    matrix = matrix_at(150.3, 121.8, side, angle, size)
    crop = align(frame, matrix, size).astype(np.float32)
    result = blend(frame, [place(crop, feather(size), matrix, frame)])
    difference = np.abs(result.astype(int) - frame)
    assert difference.max() <= 6
    assert difference.mean() < 0.5


@pytest.mark.parametrize("angle", [0, 60])
@pytest.mark.parametrize("centre", [(10, 120), (160, 5), (315, 235), (0, 0)])
def test_a_face_half_outside_is_cut_off_at_the_border(centre, angle):
    frame = smooth_frame()
    matrix = matrix_at(*centre, 100, angle)
    layer = place(plain_face(64, (255, 0, 0)), feather(64), matrix, frame)
    assert (
        layer.rgb.shape[:2]
        == layer.alpha.shape[:2]
        == frame[layer.rows, layer.columns].shape[:2]
    )
    result = blend(frame, [layer])
    # The same face in a frame with a wide margin, without the margin.
    wide = np.pad(frame, ((200, 200), (200, 200), (0, 0)), "edge")
    matrix = matrix_at(centre[0] + 200, centre[1] + 200, 100, angle)
    layer = place(plain_face(64, (255, 0, 0)), feather(64), matrix, wide)
    expected = blend(wide, [layer])[200:-200, 200:-200]
    assert np.abs(result.astype(int) - expected).max() <= 2
    assert (result != frame).any()


@pytest.mark.parametrize("angle", [0, 30, 60])
@pytest.mark.parametrize("side", [41.3, 90])
def test_a_layer_holds_all_of_its_face(side, angle):
    frame = smooth_frame()
    matrix = matrix_at(160.4, 119.7, side, angle)
    alpha = np.zeros((64, 64, 1), np.float32)
    alpha[1:-1, 1:-1] = 1
    layer = place(plain_face(64, (0, 0, 0)), alpha, matrix, frame)
    placed = np.zeros((240, 320), np.float32)
    placed[layer.rows, layer.columns] = layer.alpha[..., 0]
    whole = warp(alpha, invert(matrix), (320, 240), border=cv2.BORDER_CONSTANT)
    np.testing.assert_allclose(placed, whole, atol=1e-3)
    assert placed.sum() == pytest.approx((side * 62 / 64) ** 2, rel=0.01)


@pytest.mark.parametrize("centre", [(-80, 120), (160, -300), (900, 900), (160, 320)])
def test_a_face_wholly_outside_changes_nothing(centre):
    frame = smooth_frame()
    layer = place(
        plain_face(64, (255, 0, 0)), feather(64), matrix_at(*centre, 100), frame
    )
    assert layer.alpha.size == 0
    assert layer.alpha.shape[2] == 1
    assert layer.rgb.shape[2] == 3
    np.testing.assert_array_equal(blend(frame, [layer]), frame)


def test_a_tilted_face_leaves_the_corners_of_its_rectangle_alone():
    frame = smooth_frame()
    layer = place(
        plain_face(64, (255, 0, 0)), feather(64), matrix_at(160, 120, 100, 45), frame
    )
    assert layer.alpha.shape[0] == pytest.approx(100 * np.sqrt(2), abs=3)
    assert layer.alpha[:20, :20].max() == 0
    assert layer.alpha[70, 70, 0] == pytest.approx(1)


def test_of_two_faces_the_last_lies_on_top():
    frame = smooth_frame()
    red, blue = (
        place(plain_face(64, color), feather(64), matrix_at(x, 120, 90), frame)
        for color, x in (((255, 0, 0), 140), ((0, 0, 255), 170))
    )
    both = blend(frame, [red, blue])
    assert tuple(both[120, 110]) == (255, 0, 0)
    assert tuple(both[120, 160]) == (0, 0, 255)
    assert tuple(blend(frame, [blue, red])[120, 150]) == (255, 0, 0)


def test_a_large_generated_face_in_a_small_place_is_averaged_not_sampled():
    frame = np.zeros((100, 100, 3), np.uint8)
    stripes = np.where(np.arange(256) % 4 < 2, 255, 0).astype(np.float32)
    rgb = np.repeat(np.tile(stripes, (256, 1))[..., None], 3, -1)
    alpha = np.ones((256, 256, 1), np.float32)
    layer = place(rgb, alpha, matrix_at(50, 50, 40, size=256), frame)
    middle = layer.rgb[5:-5, 5:-5]
    assert middle.std() < 40  # sampled, it would stay at 127
    assert middle.mean() == pytest.approx(127.5, abs=5)


def test_no_face_at_all_gives_the_frame():
    frame = smooth_frame()
    np.testing.assert_array_equal(blend(frame, []), frame)


# Layouts


def test_the_layouts():
    source = np.full((4, 6, 3), 99, np.uint8)
    alpha = np.array([[[1.0], [0.5]]], np.float32)
    layer = Layer(slice(1, 2), slice(2, 4), np.full((1, 2, 3), 200, np.float32), alpha)
    result = blend(source, [layer])
    assert lay_out(source, result, [layer], 1) is result
    np.testing.assert_array_equal(
        lay_out(source, result, [layer], 2), np.hstack([source, result])
    )
    three = lay_out(source, result, [layer], 3)
    np.testing.assert_array_equal(three[:, :12], np.hstack([source, result]))
    mask = np.full((4, 6), 33)
    mask[1, 2:4] = 255, 144
    np.testing.assert_array_equal(three[:, 12:], np.repeat(mask[..., None], 3, -1))
    np.testing.assert_array_equal(layer.rgb, 200)


@pytest.mark.parametrize("layout", [0, 4, "1", None])
def test_an_unknown_layout_is_refused(layout):
    frame = smooth_frame(8, 8)
    with pytest.raises(ValueError, match=r"layout must be one of \(1, 2, 3\), got"):
        lay_out(frame, frame, [], layout)
