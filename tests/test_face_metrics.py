"""Scores of swapped faces: numbers that can be checked by hand, and two real people."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from skimage.data import astronaut

from fsgan.data.sample import _hopper
from fsgan.evaluation.face_metrics import (
    Spread,
    expression_distance,
    feature_distance,
    identity_scores,
    reconstruction_scores,
    similarity_matrix,
)
from fsgan.faces.descriptors import describe
from fsgan.faces.geometry import MEAN_LANDMARKS, align, crop_matrix, transform_points


def at(*degrees: float) -> np.ndarray:
    """Descriptors in a plane, at these angles and of different lengths."""
    angles = np.radians(degrees)
    lengths = np.arange(1, len(angles) + 1)[:, None]
    return np.column_stack([np.cos(angles), np.sin(angles)]) * lengths


def cosine(*degrees: float) -> float:
    return float(np.cos(np.radians(degrees)).mean())


# Spread


def test_a_spread_sums_up_and_keeps_every_face():
    spread = Spread.of(np.arange(21.0))
    assert (spread.mean, spread.low, spread.median, spread.high) == (10, 1, 10, 19)
    assert spread.values == tuple(range(21))
    assert json.loads(json.dumps(asdict(spread)))["values"][20] == 20


@pytest.mark.parametrize("values", [[], [[1.0]], [1.0, np.inf], [np.nan]])
def test_a_spread_of_nothing_is_refused(values):
    with pytest.raises(ValueError, match="one finite number for each"):
        Spread.of(np.array(values))


# Identity


def test_the_heat_map_holds_the_cosine_of_each_pair():
    expected = [[cosine(60), cosine(90)], [cosine(30), cosine(60)]]
    np.testing.assert_allclose(
        similarity_matrix(at(0, 30), at(60, 90)), expected, atol=1e-12
    )
    assert (similarity_matrix(np.zeros((1, 2)), at(1, 2)) == 0).all()


def test_similarities_are_means_over_the_real_faces():
    scores = identity_scores(at(40, 50), at(60, 70), at(0, 10))
    np.testing.assert_allclose(
        scores.to_target.values, [cosine(20, 30), cosine(10, 20)]
    )
    np.testing.assert_allclose(
        scores.to_source.values, [cosine(40, 30), cosine(50, 40)]
    )
    assert scores.within_target == pytest.approx(cosine(10))
    assert scores.target_to_source == pytest.approx(cosine(60, 70, 50, 60))
    apart = cosine(60, 70, 50, 60)
    assert scores.moved == pytest.approx(
        (cosine(20, 30, 10, 20) - apart) / (cosine(10) - apart)
    )


def test_the_nearest_real_face_says_whose_a_face_is():
    scores = identity_scores(at(1, 59, 88, 121), at(60, 90), at(0), at(120))
    assert scores.retrieved_target == 0.5
    assert scores.retrieved_source == 0.25
    assert scores.retrieved_distractors == 0.25


def test_a_face_as_near_to_another_is_not_the_targets():
    scores = identity_scores(at(0), at(0), at(0))
    assert (scores.retrieved_target, scores.retrieved_source) == (0, 1)
    assert identity_scores(at(0), at(0), at(90), at(0)).retrieved_target == 0


def test_faces_of_the_target_itself_score_perfect():
    target = at(80, 80, 80)
    scores = identity_scores(target, target, at(0, 5), at(170))
    assert scores.to_target.mean == pytest.approx(1)
    assert scores.moved == pytest.approx(1)
    assert scores.retrieved_target == 1


def test_untouched_faces_have_not_moved():
    source, target = at(0, 10), at(60, 70)
    scores = identity_scores(source, target, source)
    assert scores.moved == pytest.approx(0)
    assert scores.retrieved_source == 1


def test_what_cannot_be_told_is_none():
    one = identity_scores(at(0), at(0), at(90))
    assert (one.within_target, one.moved) == (None, None)
    assert identity_scores(at(0), at(0, 90), at(45)).moved is None
    assert json.loads(json.dumps(asdict(one)))["moved"] is None


@pytest.fixture(scope="module")
def people(portrait, detector) -> dict[str, np.ndarray]:
    """Descriptors of two people, four pictures each."""
    rng = np.random.default_rng(0)
    described = {}
    for name, image in {"collins": portrait, "hopper": _hopper().image}.items():
        [face] = detector.detect(image)
        crops = []
        for _ in range(4):
            landmarks = face.landmarks + rng.normal(0, 0.01 * face.size, (5, 2))
            crops.append(align(image, crop_matrix(landmarks), 256))
        described[name] = describe(np.stack(crops), "dlib")
    return described


def test_a_swap_by_the_wrong_decoder_loses(people):
    """Asked for Hopper on Collins, the decoder of Collins gives Collins back."""
    collins, hopper = people["collins"], people["hopper"]
    right = identity_scores(hopper[:2], hopper[2:], collins[2:])
    wrong = identity_scores(collins[:2], hopper[2:], collins[2:])
    assert (right.retrieved_target, wrong.retrieved_target) == (1, 0)
    assert right.moved > 0.9
    assert abs(wrong.moved) < 0.1
    assert right.to_target.low > right.to_source.high
    assert wrong.to_target.high < wrong.to_source.low


@pytest.mark.parametrize(
    ("swapped", "target"),
    [(np.zeros((0, 2)), at(1)), (at(1), np.zeros((0, 2))), (at(1), np.ones((1, 3)))],
)
def test_descriptors_of_nobody_or_of_two_kinds_are_refused(swapped, target):
    with pytest.raises(ValueError, match=r"\(n, d\) and \(m, d\)"):
        identity_scores(swapped, target, at(1))


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


def test_another_shape_of_the_face_is_no_expression():
    rng = np.random.default_rng(2)
    source = 250 * MEAN_LANDMARKS + rng.normal(0, 2, (6, 5, 2))
    shaped = source + 250 * np.array(
        [[-0.03, 0], [0.03, 0], [0, -0.05], [0, 0], [0, 0]]
    )
    assert expression_distance(source, shaped).min() > 0.03
    left = expression_distance(source, shaped, less_shape=True)
    assert left.max() < 0.003
    # One of six faces opens its mouth: of its change a sixth is held for shape.
    spoken = source.copy()
    spoken[2, 3:] += (0, 20)
    found = expression_distance(source, spoken, less_shape=True)
    whole = expression_distance(source, spoken)
    np.testing.assert_allclose(whole[[0, 1, 3, 4, 5]], 0, atol=1e-9)
    np.testing.assert_allclose(found[2], whole[2] * 5 / 6, rtol=1e-6)
    np.testing.assert_allclose(found[[0, 1, 3, 4, 5]], whole[2] / 6, rtol=1e-6)


def test_the_lean_of_a_head_does_not_hide_its_shape():
    source = np.stack([250 * MEAN_LANDMARKS] * 3)
    swapped = source * [[[1.1, 1]]]
    for index, angle in enumerate(np.radians([0, 40, 90])):
        c, s = np.cos(angle), np.sin(angle)
        lean = np.array([[c, -s, 30], [s, c, -9]])
        source[index] = transform_points(source[index], lean)
        swapped[index] = transform_points(swapped[index], lean)
    assert expression_distance(source, swapped).min() > 0.01
    found = expression_distance(source, swapped, less_shape=True)
    np.testing.assert_allclose(found, 0, atol=1e-9)


@pytest.mark.parametrize(
    ("source", "swapped"),
    [
        (np.zeros((1, 5, 2)), np.zeros((2, 5, 2))),
        (np.zeros((0, 5, 2)), np.zeros((0, 5, 2))),
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
    with pytest.raises(ValueError, match="no distance between the eyes"):
        expression_distance(points, points)


# Reconstruction


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return astronaut()[:128, 160:288].reshape(2, 64, 128, 3)[:, :, :64].copy()


def brightness(x):
    """Stands for a network: two maps of the mean colour of each quarter."""
    x = np.asarray(x).reshape(len(x), 2, 112, 2, 112, 3).mean(axis=(2, 4))
    return [x, x[:, :1]]


def test_equal_pictures_score_perfect(pictures):
    scores = reconstruction_scores(pictures, pictures.copy(), brightness)
    assert scores.psnr.values == (100, 100)
    assert scores.ssim.values == pytest.approx((1, 1))
    assert scores.feature_distance.values == (0, 0)
    assert "Infinity" not in json.dumps(asdict(scores))


def test_a_known_error_scores_as_computed_by_hand():
    real = np.full((1, 16, 16, 3), 100, np.uint8)
    generated = real + np.uint8(10)
    scores = reconstruction_scores(real, generated)
    assert scores.psnr.mean == pytest.approx(10 * np.log10(255**2 / 10**2))
    # Without contrast only the term of the means is left.
    c = (0.01 * 255) ** 2
    expected = (2 * 100 * 110 + c) / (100**2 + 110**2 + c)
    assert scores.ssim.mean == pytest.approx(expected)
    assert scores.feature_distance is None


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
    scores = reconstruction_scores(real[None], generated[None])
    assert scores.ssim.mean == pytest.approx(expected.mean())


def test_more_noise_scores_worse(pictures):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, pictures.shape)
    slight, strong = (
        reconstruction_scores(
            pictures, np.clip(pictures + level * noise, 0, 255).astype(np.uint8)
        )
        for level in (5, 25)
    )
    assert slight.psnr.low > strong.psnr.high
    assert slight.ssim.low > strong.ssim.high


def test_features_are_compared_by_direction_at_each_place(pictures):
    ours, theirs = np.array([3.0, 4.0]), np.array([-4.0, 3.0])
    calls = []

    def network(x):
        """One map at right angles in one of its two places, and one the same."""
        calls.append(np.asarray(x).shape)
        first = len(calls) % 2
        here = np.stack([ours, ours if first else 9 * theirs])[None, None]
        same = np.ones((1, 3, 3, 1)) * (1 if first else 5)
        return [np.repeat(here, len(x), 0), np.repeat(same, len(x), 0)]

    many = np.concatenate([pictures] * 9)  # 18: two batches
    # Squares: 0 and 2 in the two places, mean 1; 0 in the other map.
    np.testing.assert_allclose(feature_distance(network, many, many), 0.5, atol=1e-6)
    assert calls == [(16, 224, 224, 3)] * 2 + [(2, 224, 224, 3)] * 2


def test_features_are_those_of_the_right_picture(pictures):
    swapped = pictures[::-1].copy()
    both = feature_distance(brightness, pictures, swapped)
    assert both[0] > 0
    np.testing.assert_allclose(both[0], both[1], rtol=1e-6)
    mixed = np.stack([pictures[0], pictures[0]])
    found = feature_distance(brightness, pictures, mixed)
    np.testing.assert_allclose(found, [0, both[1]], atol=1e-9)


@pytest.mark.parametrize(
    ("real", "generated"),
    [
        (np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 16, 17, 3), np.uint8)),
        (np.zeros((1, 16, 16, 3)), np.zeros((1, 16, 16, 3))),
        (np.zeros((0, 16, 16, 3), np.uint8), np.zeros((0, 16, 16, 3), np.uint8)),
        (np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)),
    ],
)
def test_pictures_that_do_not_fit_are_refused(real, generated):
    with pytest.raises(ValueError, match="pictures must be RGB uint8"):
        reconstruction_scores(real, generated)
    with pytest.raises(ValueError, match="pictures must be RGB uint8"):
        feature_distance(brightness, real, generated)


def test_pictures_that_are_too_small_are_refused():
    small = np.zeros((1, 10, 16, 3), np.uint8)
    with pytest.raises(ValueError, match=r"at least 11 pixels a side, got \(10, 16\)"):
        reconstruction_scores(small, small)
