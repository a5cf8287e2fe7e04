"""Eye masks from 68 landmarks and from five points."""

import cv2
import numpy as np
import pytest

from fsgan.data.masks import (
    LEFT_EYE,
    RIGHT_EYE,
    eye_mask_from_5_landmarks,
    eye_mask_from_68_landmarks,
    overlay,
)
from fsgan.faces.geometry import MEAN_LANDMARKS


def eyes_of(six: list, other_six: list, size: int) -> np.ndarray:
    """68 landmarks with the given eyes; all others where they would be noticed."""
    landmarks = np.full((68, 2), size / 2)
    landmarks[36:42], landmarks[42:48] = six, other_six
    return landmarks


def eye_at(x: float, y: float, width: float, height: float) -> list:
    """Corner, two upper, corner, two lower points, as of iBUG 300-W."""
    w, h = width / 2, height / 2
    return [
        (x - w, y),
        (x - w / 3, y - h),
        (x + w / 3, y - h),
        (x + w, y),
        (x + w / 3, y + h),
        (x - w / 3, y + h),
    ]


FACE = eyes_of(eye_at(83, 80, 40, 14), eye_at(185, 79, 40, 14), 256)


def test_at_18_pixels_kernels_are_single_pixels_and_the_mask_is_the_hull():
    # 13 * 18 / 256 and 7 * 18 / 256 are both nearest to 1.
    square = [(3, 5), (5, 3), (7, 3), (7, 7), (5, 7), (3, 7)]
    point = [(14, 9)] * 6
    mask = eye_mask_from_68_landmarks(eyes_of(square, point, 18), 18)[..., 0]
    expected = np.zeros((18, 18))
    expected[3:8, 3:8] = 1
    expected[3, 3:5] = expected[4, 3] = 0
    expected[9, 14] = 1
    np.testing.assert_array_equal(mask, expected)


def test_a_point_becomes_the_13_pixel_square_blurred_by_7():
    landmarks = eyes_of([(60, 70)] * 6, [(200, 90)] * 6, 256)
    expected = np.zeros((256, 256))
    expected[64:77, 54:67] = expected[84:97, 194:207] = 1
    binomial = np.array(
        [0.03125, 0.109375, 0.21875, 0.28125, 0.21875, 0.109375, 0.03125]
    )
    blurred = cv2.sepFilter2D(expected, -1, binomial, binomial)
    mask = eye_mask_from_68_landmarks(landmarks)[..., 0]
    np.testing.assert_allclose(mask, blurred, atol=1.5 / 255)


def test_the_fine_mask_covers_both_eyes_and_little_else():
    mask = eye_mask_from_68_landmarks(FACE)[..., 0]
    for eye in (RIGHT_EYE, LEFT_EYE):
        for x, y in FACE[eye].round().astype(int):
            assert mask[y, x] > 0.95
    assert mask[128, 128] == 0
    # A hull of 40 x 14, cut at its corners, grown by 6 on all sides.
    assert mask.sum() == pytest.approx(2 * 52 * 26 * 0.85, rel=0.1)


def test_the_fine_mask_follows_the_size_of_the_crop():
    large = eye_mask_from_68_landmarks(FACE * 2 + 0.5, 512)
    small = eye_mask_from_68_landmarks(FACE, 256)
    halved = cv2.resize(large, (256, 256), interpolation=cv2.INTER_AREA)
    assert np.abs(halved - small[..., 0]).mean() < 0.003


def test_the_crude_mask_is_two_ellipses():
    landmarks = MEAN_LANDMARKS * 256 - 0.5
    landmarks[1, 1] = landmarks[0, 1]  # level eyes
    mask = eye_mask_from_5_landmarks(landmarks)[..., 0] > 0.5
    y, x = np.mgrid[:256, :256]
    ellipses = [  # 0.10 and 0.06 of 256, and half of the pixel drawn at the border
        ((x - eye[0]) / 26.1) ** 2 + ((y - eye[1] - 3.2) / 15.86) ** 2 <= 1
        for eye in landmarks[:2]
    ]
    expected = ellipses[0] | ellipses[1]
    assert (mask & expected).sum() / (mask | expected).sum() > 0.95


@pytest.mark.parametrize("angle", [-50, -20, 35])
def test_the_crude_ellipses_turn_with_the_face(angle):
    landmarks = MEAN_LANDMARKS * 256 - 0.5
    centre = (127.5, 127.5)
    turn = cv2.getRotationMatrix2D(centre, angle, 1)
    turned = landmarks @ turn[:, :2].T + turn[:, 2]
    upright = eye_mask_from_5_landmarks(landmarks)
    expected = cv2.warpAffine(upright, turn, (256, 256)) > 0.5
    mask = eye_mask_from_5_landmarks(turned)[..., 0] > 0.5
    assert (mask & expected).sum() / (mask | expected).sum() > 0.95


@pytest.mark.parametrize("size", [100, 256, 300])
def test_masks_are_float_pictures_of_one_channel_between_0_and_1(size):
    fine = eye_mask_from_68_landmarks(FACE * size / 256, size)
    crude = eye_mask_from_5_landmarks(MEAN_LANDMARKS * size, size)
    for mask in (fine, crude):
        assert mask.shape == (size, size, 1)
        assert mask.dtype == np.float32
        assert mask.min() == 0
        assert 0.99 <= mask.max() <= 1
        assert ((mask > 0.02) & (mask < 0.98)).any()  # soft


def test_eyes_beyond_the_crop_are_cut_off():
    half = eye_mask_from_68_landmarks(FACE - (83, 0))
    assert half[80, 0] > 0.9
    outside = eye_mask_from_68_landmarks(FACE + 1000)
    assert outside.max() == 0
    assert eye_mask_from_5_landmarks(MEAN_LANDMARKS * 256 - 1000).max() == 0


def test_the_overlay_tints_masked_pixels_red():
    image = np.full((1, 3, 3), 100, np.uint8)
    mask = np.array([[[0.0], [0.5], [1.0]]], np.float32)
    tinted = overlay(image, mask)
    assert tinted.dtype == np.uint8
    # 60 % of the way to (255, 0, 0) where the mask is 1, 30 % where it is 0.5
    np.testing.assert_array_equal(
        tinted[0], [[100, 100, 100], [146, 70, 70], [193, 40, 40]]
    )
