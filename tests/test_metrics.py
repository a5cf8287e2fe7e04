"""Metrics against what is worked out by hand, and on two real people."""

import numpy as np
import pytest
from skimage.data import astronaut

from fsgan.evaluation.metrics import (
    cosine_similarity,
    expression_distance,
    feature_distance,
    identity_scores,
    psnr,
    seam,
    ssim,
    summarize,
)
from fsgan.faces.geometry import MEAN_LANDMARKS, transform_points
from fsgan.faces.identity import embed


def at(*degrees: float) -> np.ndarray:
    """Embeddings in a plane, at these angles and of different lengths."""
    angles = np.radians(degrees)
    lengths = np.arange(1, len(angles) + 1)[:, None]
    return np.column_stack([np.cos(angles), np.sin(angles)]) * lengths


def cosine(*degrees: float) -> float:
    return float(np.cos(np.radians(degrees)).mean())


def test_summary_statistics_keep_every_value():
    summary = summarize(np.arange(21.0))
    found = (summary.mean, summary.low, summary.median, summary.high)
    assert found == pytest.approx((10, 1, 10, 19))
    assert summary.values == pytest.approx(range(21))
    assert summarize([]) is None
    with pytest.raises(ValueError, match="values must be finite"):
        summarize([1.0, np.nan])


# Identity


def test_the_heat_map_holds_the_cosine_of_each_pair():
    expected = [[cosine(60), cosine(90)], [cosine(30), cosine(60)]]
    found = cosine_similarity(at(0, 30), at(60, 90))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert not cosine_similarity(np.zeros((1, 2)), at(1, 2)).any()


def test_similarities_are_means_over_the_real_faces():
    scores = identity_scores(at(40, 50), at(60, 70), at(0, 10))
    to_target, to_source = scores["to_target"].values, scores["to_source"].values
    np.testing.assert_allclose(to_target, [cosine(20, 30), cosine(10, 20)])
    np.testing.assert_allclose(to_source, [cosine(40, 30), cosine(50, 40)])
    apart = cosine(60, 70, 50, 60)
    assert scores["within_target"] == pytest.approx(cosine(10))
    assert scores["target_to_source"] == pytest.approx(apart)
    moved = (cosine(20, 30, 10, 20) - apart) / (cosine(10) - apart)
    assert scores["moved"] == pytest.approx(moved)


@pytest.mark.parametrize(
    ("people", "target", "source", "other"),
    [
        ((at(1, 59, 88, 121), at(60, 90), at(0), at(120)), 0.5, 0.25, 0.25),
        ((at(0), at(0), at(0)), 0, 1, 0),  # a tie is not the target's
        ((at(0), at(0), at(90), at(0)), 0, 0, 1),
    ],
)
def test_the_nearest_real_face_says_whose_a_face_is(people, target, source, other):
    scores = identity_scores(*people)
    found = [scores[f"nearest_{name}"] for name in ("target", "source", "other")]
    assert found == pytest.approx([target, source, other])


def test_the_target_itself_has_moved_wholly_and_the_source_not_at_all():
    source, target = at(0, 10), at(80, 80, 80)
    assert identity_scores(target, target, source)["moved"] == pytest.approx(1)
    assert identity_scores(source, target, source)["moved"] == pytest.approx(0)


def test_what_cannot_be_told_is_none():
    one = identity_scores(at(0), at(0), at(90))
    assert (one["within_target"], one["moved"]) == (None, None)
    assert identity_scores(at(0), at(0, 90), at(45))["moved"] is None


def test_a_swap_by_the_wrong_decoder_loses(collins, hopper):
    """Asked for Hopper on Collins, the decoder of Collins gives Collins back."""
    collins, hopper = (embed(faces[:4]) for faces in (collins, hopper))
    right = identity_scores(hopper[:2], hopper[2:], collins[2:])
    wrong = identity_scores(collins[:2], hopper[2:], collins[2:])
    assert right["nearest_target"] > 0.9 > 0.1 > wrong["nearest_target"]
    assert right["moved"] > 0.9
    assert abs(wrong["moved"]) < 0.1
    assert right["to_target"].low > right["to_source"].high
    assert wrong["to_target"].high < wrong["to_source"].low


# Expression


def test_the_same_expression_elsewhere_scores_nothing():
    source = MEAN_LANDMARKS[None] * 256
    turned = np.array([[1.6, -0.9, 40], [0.9, 1.6, -7]])
    moved = transform_points(source[0], turned)[None]
    np.testing.assert_allclose(expression_distance(source, source), 0, atol=1e-12)
    np.testing.assert_allclose(expression_distance(source, moved), 0, atol=1e-12)


def test_a_known_expression_scores_as_computed_by_hand():
    # A cross, its arms 1 long, and its middle; the upright arms grow to 3. The best fit
    # halves it: the upright ends are 0.5 out, the others 0.5 short, the middle right.
    cross = np.array([[-1.0, 0], [1, 0], [0, 0], [0, -1], [0, 1]])
    stretched = cross * (1, 3)
    # Least squares: scale = sum(p.q) / sum(q.q) = (2 + 6) / (2 + 18) = 0.4.
    moved = (2 * (1 - 0.4) + 2 * (3 * 0.4 - 1)) / 5
    np.testing.assert_allclose(
        expression_distance(cross[None], stretched[None]), moved / 2
    )


def test_68_points_are_measured_against_the_middles_of_the_eyes():
    rng = np.random.default_rng(1)
    source = rng.normal(0, 10, (68, 2))
    source[36:42] += (-50, 0) - source[36:42].mean(axis=0)
    source[42:48] += (50, 0) - source[42:48].mean(axis=0)
    # What no shift, scale or turn explains: at right angles to each of them.
    middle = source - source.mean(axis=0)
    across, down = np.zeros_like(source), np.zeros_like(source)
    across[:, 0], down[:, 1] = 1, 1
    explained = [across, down, middle, middle[:, ::-1] * (1, -1)]
    basis, _ = np.linalg.qr(np.stack([way.ravel() for way in explained], axis=1))
    change = rng.normal(0, 0.1, 136)
    change = (change - basis @ (basis.T @ change)).reshape(68, 2)
    expected = np.linalg.norm(change, axis=1).mean() / 100
    found = expression_distance(source[None], source[None] + change)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    np.testing.assert_allclose(
        expression_distance(7 * source[None], 3 * (source[None] + change)), found
    )


@pytest.mark.parametrize(
    ("source", "swapped"),
    [
        (np.zeros((1, 5, 2)), np.zeros((2, 5, 2))),
        (np.zeros((1, 7, 2)), np.zeros((1, 7, 2))),
        (np.zeros((5, 2)), np.zeros((5, 2))),
    ],
)
def test_landmarks_of_another_shape_are_refused(source, swapped):
    with pytest.raises(ValueError, match=r"\(n, 5, 2\) or \(n, 68, 2\)"):
        expression_distance(source, swapped)


def test_landmarks_that_coincide_are_refused():
    points = MEAN_LANDMARKS[None].copy()
    with pytest.raises(ValueError, match="coincide"):
        expression_distance(points, np.zeros((1, 5, 2)))
    points[0, 1] = points[0, 0]
    with pytest.raises(ValueError, match="the eyes have no distance"):
        expression_distance(points, points)


# Pictures


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return astronaut()[:64, 160:224].copy()


def test_equal_pictures_score_perfect(picture):
    assert psnr(picture, picture.copy()) == pytest.approx(100)
    assert ssim(picture, picture.copy()) == pytest.approx(1)


def test_a_known_error_scores_as_computed_by_hand():
    real = np.full((16, 16, 3), 100, np.uint8)
    generated = real + np.uint8(10)
    assert psnr(real, generated) == pytest.approx(10 * np.log10(255**2 / 10**2))
    # Without contrast only the term of the means is left.
    c = (0.01 * 255) ** 2
    expected = (2 * 100 * 110 + c) / (100**2 + 110**2 + c)
    assert ssim(real, generated) == pytest.approx(expected)


def test_structures_are_compared_through_a_gaussian_window():
    rng = np.random.default_rng(3)
    # Of 11 pixels a side there is one place for the window.
    real, generated = rng.integers(0, 256, (2, 11, 11, 3), np.uint8)
    bell = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weight = (np.outer(bell, bell) / bell.sum() ** 2)[..., None]
    x, y = real.astype(float), generated.astype(float)
    x_mean, y_mean = (weight * x).sum((0, 1)), (weight * y).sum((0, 1))
    x_power = (weight * (x - x_mean) ** 2).sum((0, 1))
    y_power = (weight * (y - y_mean) ** 2).sum((0, 1))
    shared = (weight * (x - x_mean) * (y - y_mean)).sum((0, 1))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    expected = (2 * x_mean * y_mean + c1) * (2 * shared + c2)
    expected /= (x_mean**2 + y_mean**2 + c1) * (x_power + y_power + c2)
    assert ssim(real, generated) == pytest.approx(expected.mean())


def test_more_noise_scores_worse(picture):
    noise = np.random.default_rng(0).normal(0, 1, picture.shape)
    slight, strong = (
        np.clip(picture + level * noise, 0, 255).astype(np.uint8) for level in (5, 25)
    )
    assert psnr(picture, slight) > psnr(picture, strong)
    assert ssim(picture, slight) > ssim(picture, strong)


def test_features_are_compared_by_direction_at_each_place():
    ours, theirs = [3.0, 4.0], [-8.0, 6.0]  # at right angles
    first = [np.array([[[ours, ours]]]), np.ones((1, 3, 3, 1))]
    second = [np.array([[[ours, theirs]]]), 5 * np.ones((1, 3, 3, 1))]
    # Squares: 0 and 2 in the two places, mean 1; 0 in the other map.
    np.testing.assert_allclose(feature_distance(first, second), [0.5], atol=1e-6)


def test_pictures_that_do_not_fit_are_refused(picture):
    for metric in (psnr, ssim):
        with pytest.raises(ValueError, match="must have the same dimensions"):
            metric(picture, picture[1:])
    with pytest.raises(ValueError, match="win_size"):
        ssim(picture[:10], picture[:10])


# Seam


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
    assert seam(frame, frame, alpha) == pytest.approx(1)


def test_a_blurred_border_measures_less_than_1():
    edge = np.where(RAMP >= 6, 100, 0)
    soft = np.clip((RAMP - 4) * 25, 0, 100)
    # 100 squared against 4 times 25 squared.
    assert seam(gray(edge), gray(soft), mask(HARD)) == pytest.approx(1 / 4)


def test_plain_frames():
    plain, edge = gray(RAMP * 0), gray(HARD * 9)
    assert seam(plain, plain, mask(HARD)) == pytest.approx(1)
    assert seam(plain, edge, mask(HARD)) == float("inf")
    assert seam(gray(RAMP), gray(RAMP), mask(HARD * 0)) == pytest.approx(1)
