"""Faces laid into frames."""

import cv2
import numpy as np
import pytest

from fsgan.faces.geometry import MEAN_LANDMARKS, align, crop_matrix, invert, warp
from fsgan.swap.compositing import (
    BLEND_METHODS,
    Layer,
    blend,
    enhance,
    feather,
    flatten,
    lay_out,
    place,
    sharpen,
)


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


def test_a_feather_by_hand():
    # Centres at 1/16, 3/16, ...; over a width of 1/4 the ramp is 1/4, 3/4, 1, ...
    ramp = np.array([0.25, 0.75])
    ramp = ramp**2 * (3 - 2 * ramp)
    np.testing.assert_allclose(
        feather(8, 0.25)[:, 4, 0], [*ramp, 1, 1, 1, 1, *ramp[::-1]]
    )


def layer_at(top: int, left: int, rgb, alpha) -> Layer:
    alpha = np.asarray(alpha, np.float32)
    rgb = np.broadcast_to(np.asarray(rgb, np.float32), (*alpha.shape, 3))
    rows, columns = slice(top, top + len(alpha)), slice(left, left + alpha.shape[1])
    return Layer(rows, columns, rgb, alpha[..., None])


def test_half_an_alpha_is_half_way_and_values_beyond_white_and_black_are_clipped():
    frame = np.full((2, 3, 3), 100, np.uint8)
    rgb = np.array([[[201], [300], [-40]]], np.float32)
    result = blend(frame, [layer_at(1, 0, rgb, [[0.5, 1, 1]])])
    np.testing.assert_array_equal(result[..., 0], [[100] * 3, [150, 255, 0]])


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
def test_a_layer_holds_all_of_its_face(side, angle, coarse):
    frame = smooth_frame()
    matrix = matrix_at(160.4, 119.7, side, angle)
    alpha = np.zeros((64, 64, 1), np.float32)
    alpha[1:-1, 1:-1] = 1
    layer = place(plain_face(64, (0, 0, 0)), alpha, matrix, frame)
    placed = np.zeros((240, 320), np.float32)
    placed[layer.rows, layer.columns] = layer.alpha[..., 0]
    whole = warp(alpha, invert(matrix), (320, 240), border=cv2.BORDER_CONSTANT)
    np.testing.assert_allclose(placed, whole, atol=1 / 32 if coarse else 1e-3)
    assert placed.sum() == pytest.approx((side * 62 / 64) ** 2, rel=0.01)


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


@pytest.mark.parametrize("method", BLEND_METHODS)
@pytest.mark.parametrize("angle", [0, 60])
@pytest.mark.parametrize("side", [9, 50, 160])
@pytest.mark.parametrize(
    "centre", [(160, 120), (5, 118), (160, 2), (317, 238), (0, 0), (-500, 120)]
)
def test_where_every_alpha_is_0_every_method_leaves_the_frame(
    method, angle, side, centre
):
    rng = np.random.default_rng(5)
    frame = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    before = frame.copy()
    layers = [
        place(
            rng.uniform(0, 255, (64, 64, 3)).astype(np.float32),
            feather(64) * rng.uniform(0.3, 1, (64, 64, 1)).astype(np.float32),
            matrix_at(centre[0] + shift, centre[1], side, angle),
            frame,
        )
        for shift in (0, side // 3)
    ]
    result = blend(frame, layers, method)
    shown = np.zeros((240, 320), bool)
    for layer in layers:
        shown[layer.rows, layer.columns] |= layer.alpha[..., 0] > 0
    np.testing.assert_array_equal(result[~shown], frame[~shown])
    np.testing.assert_array_equal(frame, before)
    assert result.dtype == np.uint8
    assert (result != frame).any() == (centre != (-500, 120))


@pytest.mark.parametrize("method", BLEND_METHODS)
@pytest.mark.parametrize("alpha", [0, 0.3, 1])
@pytest.mark.parametrize("extent", [(0, 0), (0, 4), (1, 1), (1, 9), (2, 3), (3, 3)])
def test_a_layer_of_hardly_any_pixels_does_no_harm(method, alpha, extent):
    frame = smooth_frame(9, 9)
    result = blend(frame, [layer_at(0, 0, 250, np.full(extent, alpha))], method)
    changed = (result != frame).any(-1)
    assert not changed[extent[0] :].any() and not changed[:, extent[1] :].any()
    assert alpha or not changed.any()


@pytest.mark.parametrize("method", BLEND_METHODS)
@pytest.mark.parametrize("angle", [0, 60])
@pytest.mark.parametrize("side", [31, 90, 181])
def test_a_face_that_is_the_frame_s_own_changes_nothing(method, side, angle):
    frame = smooth_frame()
    matrix = matrix_at(150.3, 121.8, side, angle)
    layer = place(plain_face(64, (0, 0, 0)), feather(64), matrix, frame)
    own = frame[layer.rows, layer.columns].astype(np.float32)
    result = blend(frame, [layer._replace(rgb=own)], method)
    assert np.abs(result.astype(int) - frame).max() <= 2


@pytest.mark.parametrize("centre", [(160, 120), (20, 120), (300, 220)])
@pytest.mark.parametrize("extent", [(60, 60), (61, 60), (60, 61), (61, 61)])
def test_poisson_keeps_details_to_the_pixel_and_takes_the_light_of_the_frame(
    extent, centre
):
    frame = np.full((240, 320, 3), (100, 90, 80), np.uint8)
    top, left = centre[1] - 30, max(centre[0] - 30, 0)
    alpha = cv2.resize(feather(64), extent[::-1])[: 240 - top, : 320 - left]
    rgb = np.full((*alpha.shape, 3), 180)
    rgb[27, 31] = 230
    result = blend(frame, [layer_at(top, left, rgb, alpha)], "poisson").astype(int)
    peak = np.unravel_index(result[..., 0].argmax(), (240, 320))
    assert peak == (top + 27, left + 31)
    assert result[peak][0] == pytest.approx(150, abs=4)
    result[peak] = frame[0, 0]
    assert np.abs(result - frame).max() <= 4


def test_multiband_carries_the_plateau_of_the_mask():
    frame = np.full((100, 100, 3), 100, np.uint8)
    for most, middle in ((1, 200), (0.8, 180)):
        layer = layer_at(10, 10, 200, feather(80)[..., 0] * most)
        result = blend(frame, [layer], "multiband")
        np.testing.assert_array_equal(result[46:54, 46:54], middle)


def test_multiband_changes_fine_details_over_a_shorter_way_than_coarse_ones():
    frame = np.full((200, 200, 3), 100, np.uint8)
    alpha = np.tile(np.clip((np.arange(200) - 50) / 100, 0, 1), (200, 1))
    stripes = np.tile(np.where(np.arange(200) % 2, 80, 120)[:, None], (200, 1, 1))
    layer = layer_at(0, 0, stripes, alpha)
    contrast = {
        method: np.abs(np.diff(blend(frame, [layer], method)[100, :, 0].astype(int)))
        for method in ("alpha", "multiband")
    }
    column = 72  # alpha 0.22: the mask of the finest band is still 0
    assert contrast["alpha"][column] == pytest.approx(40 * 0.22, abs=1.5)
    assert contrast["multiband"][column] <= 1
    assert contrast["multiband"][128] == 40  # alpha 0.78: it is 1


def test_contrast_by_hand_leaves_what_was_not_swapped():
    source = np.array([[[100, 100, 100, 7]]], np.uint8)
    result = np.array([[[120, 90, 250, 7]]], np.uint8)
    # 120 + 0.5 * (120 - 100) ...
    np.testing.assert_array_equal(enhance(result, source, 0.5), [[[130, 85, 255, 7]]])


def test_amounts_of_0_and_faces_outside_the_frame_change_nothing():
    frame = smooth_frame()
    layer, outside = (
        place(plain_face(64, (9, 9, 9)), feather(64), matrix_at(x, 99, 90), frame)
        for x in (99, 900)
    )
    assert enhance(frame, 255 - frame, 0) is frame
    assert sharpen(layer, 0) is layer
    assert sharpen(outside, 1).rgb.shape[1:] == (0, 3)
    np.testing.assert_array_equal(blend(frame, [outside]), frame)


def test_sharpening_adds_to_edges_and_leaves_plain_places():
    edge = np.where(np.arange(96) < 48, 80, 160)
    layer = layer_at(0, 0, np.tile(edge[:, None], (96, 1, 1)), np.ones((96, 96)))
    once, twice = (sharpen(layer, amount).rgb[50, :, 0] for amount in (0.5, 1))
    np.testing.assert_allclose(once[:40], 80, atol=1e-3)
    np.testing.assert_allclose(once[56:], 160, atol=1e-3)
    assert once[47] < 75 and once[48] > 165
    np.testing.assert_allclose(twice - edge, 2 * (once - edge), atol=0.01)
    assert sharpen(layer, 50).rgb.max() == 255


def over(rgba, frame):
    """What a compositing program does with a straight alpha."""
    alpha = rgba[..., 3:] / 255
    return np.rint(rgba[..., :3] * alpha + frame * (1 - alpha)).astype(int)


def test_one_face_is_its_own_colour_and_alpha():
    layer = layer_at(1, 2, [200.4, 10, 60], [[0.001, 0.2], [0.6, 1]])
    expected = np.zeros((4, 5, 4), np.uint8)
    expected[1:3, 2:4] = 200, 10, 60, 0
    expected[1:3, 2:4, 3] = [[0, 51], [153, 255]]
    expected[1, 2] = 0
    np.testing.assert_array_equal(flatten([layer], (4, 5, 3)), expected)


def test_a_half_transparent_face_over_another_mixes_the_two():
    layers = [layer_at(0, 0, 100, [[0.4]]), layer_at(0, 0, 200, [[0.5]])]
    # alpha 1 - 0.6 * 0.5 = 0.7; colour (0.5 * 200 + 0.5 * 0.4 * 100) / 0.7 = 171.43;
    # 0.7 * 255 = 178.5 is rounded to 178, which asks for 171.9.
    assert flatten(layers, (1, 1)).ravel().tolist() == [172, 172, 172, 178]
    assert not flatten([], (4, 5, 3)).any()


def test_faces_that_overlap_are_the_blended_frame_too():
    frame = smooth_frame(90, 120)
    # No contrast that warping would overdraw: a picture has no colour beyond white.
    picture = np.linspace(20, 235, 32 * 32 * 3, dtype=np.float32).reshape(32, 32, 3)
    ramp = np.sin(np.linspace(0, np.pi, 32, dtype=np.float32))
    alpha = np.outer(ramp, ramp)[..., None]
    alpha[0] = alpha[-1] = alpha[:, 0] = alpha[:, -1] = 0
    layers = [
        place(picture, alpha, matrix_at(46 + x, 55 + y, 64, size=32), frame)
        for x, y in ([-20, 5], [0, 0], [18, -6], [400, 0])
    ]
    rgba = flatten(layers, frame.shape)
    difference = np.abs(over(rgba, frame) - blend(frame, layers))
    # Blending rounds after each face: at most that may add up.
    assert difference.max() <= 2 and (difference > 1).mean() < 1e-3
    assert (rgba[..., 3] > 0).any() and (rgba[..., 3] == 0).any()


def test_the_layouts():
    source = np.full((4, 6, 3), 99, np.uint8)
    layers = [layer_at(1, 2, 200, [[1, 0.5]])]
    result = blend(source, layers)
    mask = np.full((4, 6, 3), 33)
    mask[1, 2:4] = [[255], [144]]
    pictures = [source, result, mask]
    for layout, shown in ((1, [1]), (2, [0, 1]), (3, [0, 1, 2])):
        expected = np.hstack([pictures[index] for index in shown])
        found = lay_out(source, result, layers, layout)
        np.testing.assert_array_equal(found, expected)
