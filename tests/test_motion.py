"""Metrics in time against what is worked out by hand."""

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from fsgan.evaluation.motion import (
    Background,
    Flicker,
    acceleration,
    jitter,
    sound_delay,
)

# Middle (0, 0), each point 5 away from it: the size of the face is 5.
SQUARE = np.array([[3, 4], [-4, 3], [-3, -4], [4, -3]], float)
FRAMES = np.arange(8)[:, None, None]
RATE = 16_000


def moved(along_x: np.ndarray) -> np.ndarray:
    """The square in 8 frames, shifted along x."""
    return SQUARE + along_x * [1, 0]


@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    return astronaut()[:120, 150:310].copy()


ALL = np.ones((120, 160, 1), np.float32)


def test_even_motion_has_no_acceleration():
    assert acceleration(moved(7.0 * FRAMES)) == pytest.approx(np.zeros(6), abs=1e-12)


def test_acceleration_is_in_sizes_of_the_face():
    # x = t^2 has the second difference 2, the size is 5.
    assert acceleration(moved(FRAMES**2)) == pytest.approx(np.full(6, 2 / 5))
    assert acceleration(3 * moved(FRAMES**2)) == pytest.approx(np.full(6, 2 / 5))


def test_a_face_that_is_missed_leaves_a_gap_of_three():
    points = moved(FRAMES**2)
    points[4] = np.nan
    assert np.isnan(acceleration(points)).tolist() == [0, 0, 1, 1, 1, 0]


def test_the_same_motion_has_no_jitter_of_its_own():
    points = moved(np.sin(FRAMES))
    assert jitter(points, points + np.array([20, 3])) == pytest.approx(1)
    assert jitter(moved(FRAMES * 0), moved(FRAMES * 0)) == pytest.approx(1)


def test_landmarks_that_shake_from_frame_to_frame():
    # Shaken by 1 pixel to and fro the second difference is 4, or -4, about the
    # source's 2 along the other axis: hypot(4, 2) against 2.
    source = SQUARE + FRAMES**2 * [0, 1]
    shaken = source + (-1) ** FRAMES * [1, 0]
    assert jitter(source, shaken) == pytest.approx(np.hypot(4, 2) / 2)
    assert jitter(shaken, source) == pytest.approx(2 / np.hypot(4, 2))


def test_noise_of_twice_the_size_jitters_twice_as_much():
    noise = np.random.default_rng(0).normal(size=(8, 4, 2))
    source, swapped = 1e3 * SQUARE + noise, 1e3 * SQUARE + 2 * noise
    assert jitter(source, swapped) == pytest.approx(2, rel=1e-2)


def test_only_frames_with_both_faces_count():
    source, swapped = moved(FRAMES**2), moved(FRAMES**2)
    swapped[0] += 100
    swapped[1] = np.nan
    assert jitter(source, swapped) == pytest.approx(1)
    swapped[[4, 7]] = np.nan
    assert jitter(source, swapped) is None


def test_jitter_out_of_nothing_is_infinite():
    assert jitter(moved(FRAMES), moved(FRAMES**2)) == float("inf")


def test_identical_frames_flicker_alike(texture):
    measure = Flicker()
    for shift in range(3):
        frame = np.roll(texture, shift, axis=1)
        measure.add(frame, frame, ALL)
    assert measure.value == pytest.approx(1)


def test_light_that_changes_flickers_by_so_much(texture):
    # The source stays but for 1 level of light, the swap changes by 3 of them.
    measure = Flicker()
    frame = texture // 2 + 60
    measure.add(frame, frame, ALL)
    measure.add(frame + 1, frame + 3, ALL)
    assert measure.value == pytest.approx(3, rel=0.01)  # the flow is nearly none


def test_the_mask_weighs_what_flickers(texture):
    # Half of the mask is worth a half; the swap alone changes in that half.
    measure, alpha = Flicker(), ALL.copy()
    alpha[:, 80:] = 0.5
    frame = texture // 2 + 60
    swapped = frame + 1
    swapped[:, 80:] += 4
    measure.add(frame, frame, alpha)
    measure.add(frame + 1, swapped, ALL)
    assert measure.value == pytest.approx((1 + 0.5 * 5) / (1 + 0.5 * 1), rel=0.01)


def test_what_moves_along_the_flow_does_not_flicker(texture):
    """A swap of other colours that moves with the source, and one that stays behind."""

    def flicker(follows: bool) -> float:
        measure = Flicker()
        alpha = np.zeros_like(ALL)
        alpha[30:90, 40:120] = 1
        for frame in range(6):
            source = np.roll(texture, 3 * frame, axis=1)
            other = np.roll(255 - texture, 3 * frame * follows, axis=1)
            measure.add(source, other, alpha)
        return measure.value

    assert flicker(follows=True) == pytest.approx(1, rel=0.1)
    assert flicker(follows=False) > 5


def test_a_cut_does_not_count(texture):
    measure = Flicker()
    measure.add(texture, texture, ALL)
    measure.cut()
    measure.add(255 - texture, texture // 2, ALL)
    measure.add(255 - texture, texture // 2, ALL)
    assert measure.value == pytest.approx(1)


def test_frames_without_a_face_do_not_flicker(texture):
    measure = Flicker()
    measure.add(texture, texture, ALL)
    measure.add(texture, 255 - texture, 0 * ALL)
    assert measure.value is None


def test_nothing_changed_outside(texture):
    background = Background()
    swapped = texture.copy()
    swapped[:60] = 0
    alpha = np.zeros_like(ALL)
    alpha[:60] = 0.01
    assert background.psnr is None
    assert background.add(texture, swapped, alpha) == 0
    assert background.psnr == pytest.approx(100)


def test_one_pixel_outside_changed(texture):
    background, alpha = Background(), np.zeros_like(ALL)
    alpha[:60] = 1
    swapped = texture.copy()
    swapped[100, 20] = cv2.add(texture[100, 20].astype(int), (6, -3, 0)).ravel()[:3]
    assert background.add(texture, texture, alpha) == 0
    assert background.add(texture, swapped, alpha) == 6
    # 45 of two frames' 2 * 60 * 160 * 3 values.
    error = 45 / (2 * 60 * 160 * 3)
    assert background.psnr == pytest.approx(10 * np.log10(255**2 / error))


def test_without_an_outside_there_is_no_figure(texture):
    background = Background()
    assert background.add(texture, texture, ALL) is None
    assert background.psnr is None


@pytest.mark.parametrize("late", [0.040, 0.25, -0.025, 0])
def test_sound_that_comes_late_or_early(late):
    rng = np.random.default_rng(0)
    source = np.convolve(rng.normal(size=RATE), np.ones(20) / 20, "same")
    shift = round(abs(late) * RATE)
    delayed = np.concatenate([np.zeros(shift), 0.5 * source])
    swapped = delayed if late >= 0 else source[shift:]
    assert sound_delay(source, swapped, RATE) == pytest.approx(late, abs=5e-4)
    assert sound_delay(source, 0 * swapped, RATE) is None
    assert sound_delay(0 * source, swapped, RATE) is None
