"""Measures of a swap, with numbers worked out by hand."""

import numpy as np
import pytest

from fsgan.evaluation.metrics import flicker, seam


def gray(*rows: list[float]) -> np.ndarray:
    """A frame of equal channels."""
    return np.repeat(np.uint8(rows)[..., None], 3, -1)


def mask(*rows: list[float]) -> np.ndarray:
    return np.float32(rows)[..., None]


RAMP = np.arange(12)
HARD = np.where(RAMP >= 6, 1, 0)


def test_a_seam_by_hand():
    # The band is columns 4 to 7; their differences to the right are 1, and with the
    # seam 1, 4, 1, 1: energy 4 and 19.
    swapped = RAMP + 3 * HARD
    assert seam(gray(RAMP), gray(swapped), mask(HARD)) == pytest.approx(19 / 4)


def test_a_seam_across_rows_counts_alike():
    swapped = RAMP + 3 * HARD
    frames = [gray(row).transpose(1, 0, 2) for row in (RAMP, swapped)]
    alpha = mask(HARD).transpose(1, 0, 2)
    assert seam(*frames, alpha) == pytest.approx(19 / 4)


def test_the_band_is_the_fading_part_and_two_pixels_more():
    alpha = [0, 0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1]
    # Columns 2 (two before the first above 0) to 8 (two after the last below 3/4).
    for column, counts in ((0, False), (1, False), (2, True), (8, True), (9, False)):
        swapped = RAMP + np.where(column < RAMP, 50, 0)  # a step after the column
        ratio = seam(gray(RAMP), gray(swapped), mask(alpha))
        assert ratio == pytest.approx((51**2 + 6) / 7 if counts else 1)


def test_the_band_does_not_depend_on_the_height_of_the_mask():
    alpha = mask([0, 0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])
    swapped = np.random.default_rng(0).integers(0, 256, 12)
    assert seam(gray(RAMP), gray(swapped), alpha * 0.5) == pytest.approx(
        seam(gray(RAMP), gray(swapped), alpha)
    )


def test_a_frame_that_nothing_was_done_to_measures_1():
    rng = np.random.default_rng(1)
    frame = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    alpha = rng.uniform(0, 1, (20, 20, 1)).astype(np.float32)
    assert seam(frame, frame, alpha) == 1
    assert flicker([frame, frame[::-1]], [frame, frame[::-1]], [alpha, alpha]) == 1


def test_a_blurred_border_measures_less_than_1():
    edge = np.where(RAMP >= 6, 100, 0)
    soft = np.clip((RAMP - 4) * 25, 0, 100)
    # 100 squared against 4 times 25 squared.
    assert seam(gray(edge), gray(soft), mask(HARD)) == pytest.approx(1 / 4)


def test_plain_frames():
    plain, edge = gray(RAMP * 0), gray(HARD * 9)
    assert seam(plain, plain, mask(HARD)) == 1
    assert seam(plain, edge, mask(HARD)) == float("inf")
    alphas = [mask(HARD)] * 2
    assert flicker([plain, plain], [plain, plain], alphas) == 1
    assert flicker([plain, plain], [plain, edge], alphas) == float("inf")


def test_a_frame_without_a_face_measures_1():
    assert seam(gray(RAMP), gray(RAMP), mask(HARD * 0)) == 1


def test_flicker_by_hand():
    # The first pixel changes by 2 and 2, swapped by 5 and 3; the other is not shown.
    source = [gray([10, 0]), gray([12, 99]), gray([10, 7])]
    swapped = [gray([10, 9]), gray([15, 250]), gray([12, 0])]
    assert flicker(source, swapped, [mask([1, 0])] * 3) == pytest.approx(8 / 4)


def test_a_pixel_has_the_weight_of_the_mask_in_both_frames():
    source = [gray([10, 10]), gray([12, 14])]
    swapped = [gray([10, 10]), gray([14, 14])]
    alphas = [mask([1, 1]), mask([0.5, 1])]
    expected = (0.5 * 4 + 4) / (0.5 * 2 + 4)
    assert flicker(source, swapped, alphas) == pytest.approx(expected)
    assert flicker(source, swapped, alphas[::-1]) == pytest.approx(expected)


def test_frames_may_come_one_by_one():
    source = [gray([10]), gray([12])]
    swapped = [gray([10]), gray([13])]
    alphas = [mask([1])] * 2
    assert flicker(iter(source), iter(swapped), iter(alphas)) == pytest.approx(1.5)


def test_one_frame_does_not_flicker():
    assert flicker([gray([1])], [gray([2])], [mask([1])]) == 1


def test_lists_of_different_lengths_are_refused():
    frames = [gray([1]), gray([2])]
    with pytest.raises(ValueError, match="shorter"):
        flicker(frames, frames[:1], [mask([1])] * 2)
