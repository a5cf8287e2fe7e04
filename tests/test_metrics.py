"""Metrics against what is worked out by hand, and on two real people."""

import numpy as np
import pytest
from skimage.data import astronaut

from fsgan.evaluation.metrics import (
    Flicker,
    Jitter,
    cosine_similarity,
    expression_distance,
    follows,
    identity_scores,
    mask_iou,
    psnr,
    seam,
    sharpness,
    sound_delay,
    ssim,
    summarize,
)
from fsgan.faces.geometry import MEAN_LANDMARKS, transform_points
from fsgan.faces.identity import embed


def test_summary_statistics_keep_every_value():
    summary = summarize(np.arange(21.0))
    found = (summary.mean, summary.low, summary.median, summary.high)
    assert found == pytest.approx((10, 1, 10, 19))
    assert summary.values == pytest.approx(range(21))
    assert summarize([]) is None


# Identity


def at(*degrees: float) -> np.ndarray:
    """Embeddings in a plane, at these angles and of different lengths."""
    angles = np.radians(degrees)
    lengths = np.arange(1, len(angles) + 1)[:, None]
    return np.column_stack([np.cos(angles), np.sin(angles)]) * lengths


def cosine(*degrees: float) -> float:
    return float(np.cos(np.radians(degrees)).mean())


def test_similarities_are_means_over_the_real_faces():
    found = cosine_similarity(at(0, 30), at(60, 90))
    expected = [[cosine(60), cosine(90)], [cosine(30), cosine(60)]]
    np.testing.assert_allclose(found, expected, atol=1e-12)
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


# Expression


def test_the_same_expression_elsewhere_scores_nothing():
    source = MEAN_LANDMARKS[None] * 256
    turned = np.array([[1.6, -0.9, 40], [0.9, 1.6, -7]])
    moved = transform_points(source[0], turned)[None]
    np.testing.assert_allclose(expression_distance(source, moved), 0, atol=1e-12)
    with pytest.raises(ValueError, match="coincide"):
        expression_distance(source, np.zeros((1, 5, 2)))


def test_a_known_expression_scores_as_computed_by_hand():
    # A cross, its arms 1 long, and its middle; the upright arms grow to 3.
    cross = np.array([[-1.0, 0], [1, 0], [0, 0], [0, -1], [0, 1]])
    stretched = cross * (1, 3)
    # Least squares: scale = sum(p.q) / sum(q.q) = (2 + 6) / (2 + 18) = 0.4.
    moved = (2 * (1 - 0.4) + 2 * (3 * 0.4 - 1)) / 5
    found = expression_distance(cross[None], stretched[None])
    np.testing.assert_allclose(found, moved / 2)


def test_68_points_are_measured_against_the_middles_of_the_eyes():
    source = np.random.default_rng(1).normal(0, 10, (68, 2))
    source[36:42] += (-50, 0) - source[36:42].mean(axis=0)
    source[42:48] += (50, 0) - source[42:48].mean(axis=0)
    swapped = source * (1, 1.001)
    found = expression_distance(source[None], swapped[None])
    aligned = source - source.mean(axis=0)
    # Of y stretched by 0.001 the best fit leaves a part, and x is short by the rest.
    across, down = (aligned**2).sum(axis=0)
    kept = 0.001 * np.array([-down, across]) / (across + down)
    expected = np.linalg.norm(aligned * kept, axis=1).mean() / 100
    np.testing.assert_allclose(found, expected, rtol=0.05)  # it turns a little, too
    scaled = expression_distance(7 * source[None], 3 * swapped[None])
    np.testing.assert_allclose(scaled, found)


# Pictures


def test_what_follows_is_said_by_the_correlation_within_each_person():
    source = np.tile([0.1, 0.2, 0.3, 0.2], 3)
    alone = np.zeros(12)
    assert follows(source, 0.5 * source + 1, alone) == pytest.approx(1)
    assert follows(source, -source, alone) == pytest.approx(-1)
    assert follows(source, alone, alone) == 0
    turned = np.roll(source, 1)  # a quarter of the period
    assert follows(source, turned, alone) == pytest.approx(0, abs=1e-9)
    two = np.arange(12) // 4 % 2  # the second has a larger mouth in both videos
    assert follows(source + two, turned + two, alone) > 0.9
    assert follows(source + two, turned + two, two) == pytest.approx(0, abs=1e-9)
    assert follows(source[:9], source[:9], alone[:9]) is None
    still = 0.2 + 0.1 * (source - 0.2)
    assert follows(still, source, alone) is None


# Pictures


def test_sharpness_is_that_within_the_face():
    face = np.full((64, 64, 3), 100, np.uint8)
    mask = np.zeros((64, 64, 1), np.float32)
    mask[10:54, 10:54] = 1
    face[:, ::2] = 120  # Laplacians of +40 and -40
    assert sharpness(face, mask) == pytest.approx(40)
    face[11:53, 11:53] = 110  # only the border is left, which does not count
    face[32, 32] = 111
    values = np.zeros((40, 40))
    values[20, 20], values[[19, 21, 20, 20], [20, 20, 19, 21]] = -4, 1
    assert sharpness(face, mask) == pytest.approx(values.std(), rel=0.02)


def test_soft_masks_overlap_by_the_smaller_over_the_larger():
    one, other = np.array([[0, 1, 0.5]]), np.array([[0.25, 1, 0.25]])
    assert mask_iou(one, other) == pytest.approx(1.25 / 1.75)
    assert mask_iou(one, one) == 1
    assert mask_iou(0 * one, 0 * one) == 0


def test_pictures_score_as_computed_by_hand():
    real = np.full((16, 16, 3), 100, np.uint8)
    generated = real + np.uint8(10)
    assert psnr(real, generated) == pytest.approx(10 * np.log10(255**2 / 10**2))
    # Without contrast only the term of the means is left.
    c = (0.01 * 255) ** 2
    expected = (2 * 100 * 110 + c) / (100**2 + 110**2 + c)
    assert ssim(real, generated) == pytest.approx(expected)
    assert psnr(real, real.copy()) == pytest.approx(100)
    assert ssim(real, real.copy()) == pytest.approx(1)


# Seam

RAMP = np.arange(12)
HARD = np.where(RAMP >= 6, 1, 0)
FADING = np.array([0, 0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])


@pytest.mark.parametrize(
    ("source", "swapped", "alpha", "expected"),
    [
        # The band is columns 4 to 7; their differences to the right are 1, and with
        # the seam 1, 4, 1, 1: energy 4 and 19.
        (RAMP, RAMP + 3 * HARD, HARD, 19 / 4),
        # 100 squared against 4 times 25 squared.
        (HARD * 100, np.clip((RAMP - 4) * 25, 0, 100), HARD, 1 / 4),
        (RAMP * 0, RAMP * 0, HARD, 1),
        (RAMP * 0, HARD * 9, HARD, None),
        (RAMP, RAMP, HARD * 0, None),
        # From column 2 (two before the first above 0) to 8 (two after the last below
        # 3/4), there is a step after one of them; the height of the mask is no matter.
        *((RAMP, RAMP + 50 * (x < RAMP), FADING, 1) for x in (0, 1, 9)),
        *((RAMP, RAMP + 50 * (x < RAMP), FADING, (51**2 + 6) / 7) for x in (2, 8)),
        (RAMP, RAMP + 50 * (RAMP > 8), FADING / 2, (51**2 + 6) / 7),
    ],
)
def test_a_seam_by_hand(source, swapped, alpha, expected):
    frames = [np.repeat(np.uint8([x])[..., None], 3, -1) for x in (source, swapped)]
    mask = np.float32([alpha])[..., None]
    assert seam(*frames, mask) == pytest.approx(expected)
    turned = [picture.transpose(1, 0, 2) for picture in (*frames, mask)]
    assert seam(*turned) == pytest.approx(expected)


# Motion

# Middle (0, 0), each point 5 away from it: the size of the face is 5.
SQUARE = np.array([[3, 4], [-4, 3], [-3, -4], [4, -3]], float)
FRAMES = np.arange(8)[:, None, None]


def jitter(source, swapped, indices=range(8), run=lambda index: 0):
    """Jitter of landmarks (8, 4, 2), as far as they are found."""
    measure = Jitter()
    for index in indices:
        pair = np.stack([source[index], swapped[index]])
        measure.add(run(index), index, pair)
    return measure.value


@pytest.mark.parametrize(
    ("source", "swapped", "expected"),
    [
        (np.sin(FRAMES) * [1, 0], np.sin(FRAMES) * [1, 0] + [20, 3], 1),
        (FRAMES * [1, 1], FRAMES * [2, 0], 1),  # both move evenly
        (FRAMES * [1, 0], FRAMES**2 * [1, 0], None),
        # To and fro by 1 pixel the second difference is 4, or -4, about the source's 2
        # along the other axis: hypot(4, 2) against 2.
        (
            FRAMES**2 * [0, 1],
            FRAMES**2 * [0, 1] + (-1) ** FRAMES * [1, 0],
            np.hypot(4, 2) / 2,
        ),
    ],
)
def test_landmarks_that_shake_from_frame_to_frame(source, swapped, expected):
    assert jitter(SQUARE + source, SQUARE + swapped) == pytest.approx(expected)
    # Accelerations are in sizes of the face.
    enlarged = jitter(SQUARE + source, 3 * (SQUARE + swapped))
    assert enlarged == pytest.approx(expected)


def test_jitter_reaches_over_no_gap_and_no_other_face():
    source = SQUARE + FRAMES**2 * [1, 0]
    jump = source + 100 * (FRAMES >= 4)
    assert jitter(source, jump) > 10
    assert jitter(source, jump, run=lambda index: index // 4) == pytest.approx(1)
    assert jitter(source, jump, [0, 1, 2, 3, 5, 6, 7]) == pytest.approx(1)
    assert jitter(source, jump, [0, 1, 3, 4, 6, 7]) is None


ALL = np.ones((120, 160, 1), np.float32)
HALF = np.where(np.arange(160)[:, None] < 80, 1, 0.5) * ALL
TEXTURE = astronaut()[:120, 150:310].copy()
DARK = TEXTURE // 2 + 60


def flicker(*frames):
    """Flicker of frames (source, swapped, mask)."""
    measure = Flicker()
    for index, frame in enumerate(frames):
        measure.add(index, [0], *frame)
    return measure.value


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([(np.roll(TEXTURE, x, 1), np.roll(TEXTURE, x, 1), ALL) for x in range(3)], 1),
        # The source stays but for 1 level of light, the swap changes by 3 of them.
        ([(DARK, DARK, ALL), (DARK + 1, DARK + 3, ALL)], 3),
        # Half of the mask is worth a half; there the swap changes by 5.
        (
            [(DARK, DARK, HALF), (DARK + 1, DARK + np.uint8(9 - 8 * HALF), ALL)],
            (1 + 0.5 * 5) / (1 + 0.5),
        ),
    ],
)
def test_a_change_of_light_flickers_by_so_much(frames, expected):
    assert flicker(*frames) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("follows", [True, False])
def test_what_moves_along_the_flow_does_not_flicker(follows):
    """A swap of other colours that moves with the source, or one that stays behind."""
    alpha = np.zeros_like(ALL)
    alpha[30:90, 40:120] = 1
    frames = [
        (np.roll(TEXTURE, 3 * x, 1), np.roll(255 - TEXTURE, 3 * x * follows, 1), alpha)
        for x in range(6)
    ]
    value = flicker(*frames)
    assert value == pytest.approx(1, rel=0.1) if follows else value > 5


@pytest.mark.parametrize(
    ("index", "runs", "alpha"),
    [(2, [0], ALL), (1, [1], ALL), (1, [0, 1], ALL), (1, [0], 0 * ALL)],
)
def test_a_gap_or_another_face_is_no_flicker(index, runs, alpha):
    measure = Flicker()
    measure.add(0, [0], DARK, DARK, ALL)
    measure.add(index, runs, DARK + 1, DARK + 30, alpha)
    assert measure.value is None


# Sound


@pytest.mark.parametrize("late", [0.040, 0.25, -0.025, 0])
def test_sound_that_comes_late_or_early(late):
    rate = 16_000
    source = np.random.default_rng(0).normal(size=rate)
    shift = round(abs(late) * rate)
    delayed = np.concatenate([np.zeros(shift), 0.5 * source])
    swapped = delayed if late >= 0 else source[shift:]
    assert sound_delay(source, swapped, rate) == pytest.approx(late, abs=5e-4)
    assert sound_delay(source, 0 * swapped, rate) is None
    assert sound_delay(0 * source, swapped, rate) is None
