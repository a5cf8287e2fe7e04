"""Colours against v2.2's, by hand, and steady over the frames of a video."""

from pathlib import Path

import numpy as np
import pytest
from skimage.color import rgb2lab

from fsgan.swap.color import COLOR_METHODS, ColorMatcher

# Made by running v2.2's adain(source, reference, "RGB" or "XYZ") and color_hist_match
# on the two BGR pictures in the file ("constant": green of the source is 90); every 5th
# row and column of the results is kept.
GOLDEN = np.load(Path(__file__).parent / "golden" / "colors.npz")
STEP = 5
SOURCE = GOLDEN["source_bgr"][..., ::-1].astype(np.float32)
REFERENCE = GOLDEN["reference_bgr"][..., ::-1]
WHOLE = np.ones((*SOURCE.shape[:2], 1), np.float32)
TO_XYZ = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)


def match(image, reference, alpha, method):
    return ColorMatcher(method).match(image, reference, alpha)


def matched(method, source=SOURCE):
    return match(source, REFERENCE, WHOLE, method)[::STEP, ::STEP]


def golden(name):
    return GOLDEN[f"{name}_bgr"][..., ::-1].astype(float)


def noise(seed, low=40, high=200):
    rng = np.random.default_rng(seed)
    return rng.uniform(low, high, (16, 16, 3)).astype(np.float32)


ALPHA = np.random.default_rng(9).uniform(0, 1, (16, 16, 1)).astype(np.float32)


def test_adain_and_hist_match_are_v2_2_s():
    constant = SOURCE.copy()
    constant[..., 1] = 90
    for ours, name in (
        (matched("adain"), "adain"),
        (matched("adain", constant), "constant_adain"),
        (matched("hist_match"), "hist_match"),
    ):
        np.testing.assert_allclose(ours, golden(name).clip(0, 255), atol=1e-3)


def test_adain_xyz_is_v2_2_s_within_its_8_bits():
    ours, theirs = matched("adain_xyz"), golden("adain_xyz")
    # v2.2 rounds and clips XYZ and RGB to 8 bits. XYZ values that are 1.5 off are
    # 1.5 * (3.24 + 1.54 + 0.50) = 7.9 levels of red off, of green 4.3, of blue 2.0.
    xyz = ours @ TO_XYZ.T
    clipped = (xyz < 1) | (xyz > 254) | (ours <= 0) | (ours >= 255)
    clipped = (clipped | (theirs == 0) | (theirs == 255)).any(-1)
    assert clipped.mean() < 0.25
    difference = np.abs(ours - theirs)[~clipped]
    assert (difference.max(0) < [7.9, 5.5, 3.5]).all()
    assert difference.mean() < 1.6


@pytest.mark.parametrize(
    ("method", "space", "tolerance"),
    [
        ("adain", lambda rgb: rgb, 1e-3),
        ("adain_xyz", lambda rgb: rgb @ TO_XYZ.T, 1e-3),
        ("lab", lambda rgb: rgb2lab(rgb / 255), 0.02),
    ],
)
def test_mean_and_deviation_become_those_of_the_reference(method, space, tolerance):
    def moments(rgb):
        values, weights = space(rgb).reshape(-1, 3).astype(float), ALPHA.ravel()
        mean = np.average(values, 0, weights)
        return mean, np.sqrt(np.average((values - mean) ** 2, 0, weights))

    reference = noise(1, 90, 150)
    result = match(noise(0, 100, 130), reference, ALPHA, method)
    for ours, wanted in zip(moments(result), moments(reference), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=tolerance)


def test_colours_that_srgb_lacks_are_clipped_without_a_warning():
    blue = np.zeros((4, 4, 3), np.uint8)
    blue[..., 2] = np.arange(16).reshape(4, 4) * 17
    image = np.random.default_rng(3).uniform(0, 255, (4, 4, 3)).astype(np.float32)
    result = match(image, blue, np.ones((4, 4, 1)), "lab")
    assert np.isfinite(result).all()
    assert (result == 0).any()


def test_hist_match_by_hand():
    image = np.arange(4, dtype=np.float32)[:, None, None].repeat(3, -1)
    reference = np.array([10, 10, 20, 40], np.float32)[:, None, None] * np.ones(3)
    result = match(image, reference, np.ones((4, 1, 1)), "hist_match")
    # Quantiles 1/4 .. 4/4; the reference reaches 2/4 at 10, 3/4 at 20, 4/4 at 40.
    np.testing.assert_allclose(result[:, 0, 0], [10, 10, 20, 40])


def test_hist_match_of_values_between_the_levels_is_not_half_a_level_dark():
    # A rounded value stands for all from half a level below to half a level above.
    image = SOURCE + np.random.default_rng(4).uniform(-0.5, 0.5, SOURCE.shape)
    image = image.clip(0, 255).astype(np.float32)
    result = match(image, np.round(image), WHOLE, "hist_match")
    assert abs((result - image).mean()) < 0.05


@pytest.mark.parametrize("method", COLOR_METHODS[1:])
def test_a_face_matched_to_itself_is_itself(method):
    # OpenCV's way back from Lab is not more exact.
    tolerance = 0.1 if method == "lab" else 0.01
    result = match(SOURCE, SOURCE, WHOLE, method)
    np.testing.assert_allclose(result, SOURCE, atol=tolerance)


@pytest.mark.parametrize("method", COLOR_METHODS[1:])
def test_the_background_has_no_influence(method):
    alpha = np.zeros_like(WHOLE)
    alpha[30:80, 40:90] = np.random.default_rng(2).uniform(0.2, 1, (50, 50, 1))
    inside = (alpha > 0)[..., 0]
    expected = match(SOURCE, REFERENCE, alpha, method)
    source, reference = SOURCE.copy(), REFERENCE.copy()
    source[~inside], reference[~inside] = (0, 255, 0), (255, 0, 255)
    result = match(source, reference, alpha, method)
    np.testing.assert_allclose(result[inside], expected[inside], atol=1e-4)
    whole = match(SOURCE, REFERENCE, WHOLE, method)
    assert np.abs(whole - expected)[inside].max() > 5  # so the mask does matter


def test_none_and_a_face_that_is_not_shown_change_no_colour():
    np.testing.assert_allclose(matched("none"), SOURCE[::STEP, ::STEP])
    for method in COLOR_METHODS:
        hidden = match(SOURCE, REFERENCE, WHOLE * 0, method)
        np.testing.assert_allclose(hidden, SOURCE)


@pytest.mark.parametrize("method", COLOR_METHODS)
@pytest.mark.parametrize("value", [0, 77, 255])
def test_plain_pictures_give_finite_colours(method, value):
    plain = np.full_like(SOURCE, value)
    for images in ((plain, REFERENCE), (SOURCE, plain)):
        result = match(*images, WHOLE, method)
        assert (result.dtype, result.shape) == (np.float32, SOURCE.shape)
        assert 0 <= result.min() <= result.max() <= 255


@pytest.mark.parametrize("method", ["adain", "hist_match"])
def test_the_colours_wanted_are_averaged_by_hand(method):
    def two(*values):
        return np.float32(values)[:, None, None] * np.ones(3, np.float32)

    matcher, whole = ColorMatcher(method, 0.75), np.ones((2, 1, 1), np.float32)
    # A quarter of the way from 90 to 130, and from 110 to 150.
    for reference, expected in (
        ((90, 110), [90, 110]),
        ((130, 150), [100, 120]),
        ((130, 150), [107.5, 127.5]),
    ):
        result = matcher.match(two(90, 110), two(*reference), whole, 1)
        np.testing.assert_allclose(result[:, 0, 0], expected, atol=1e-3)


@pytest.mark.parametrize("method", COLOR_METHODS[1:])
def test_flicker_of_the_generator_is_removed_and_of_the_reference_damped(method):
    face, reference = noise(0, 60, 160), noise(1, 60, 160)
    tolerance = 3 if method == "lab" else 0.3
    matcher = ColorMatcher(method)
    first = matcher.match(face, reference, ALPHA, 1)
    assert np.abs(matcher.match(face, reference, ALPHA, 1) - first).max() < 1e-3
    brighter = matcher.match(face + 20, reference, ALPHA, 1)
    assert np.abs(brighter - first).mean() < tolerance
    brighter = matcher.match(face, reference + 20, ALPHA, 1)
    assert (brighter - first).mean() == pytest.approx(20 * 0.2, abs=0.5)


@pytest.mark.parametrize(("smoothing", "run"), [(0, 1), (0.8, None)])
@pytest.mark.parametrize("method", COLOR_METHODS)
def test_without_smoothing_or_a_run_each_frame_is_for_itself(method, smoothing, run):
    matcher = ColorMatcher(method, smoothing)
    for seed in range(3):
        result = matcher.match(noise(seed), noise(seed + 1), ALPHA, run)
        alone = match(noise(seed), noise(seed + 1), ALPHA, method)
        np.testing.assert_allclose(result, alone, atol=1e-4)


def test_runs_do_not_mix():
    together, alone = ColorMatcher("hist_match"), ColorMatcher("hist_match")
    for seed in range(4):
        together.match(noise(seed), noise(seed + 20, 0, 50), ALPHA, 7)
        np.testing.assert_allclose(
            together.match(noise(seed), noise(seed + 10), ALPHA, 3),
            alone.match(noise(seed), noise(seed + 10), ALPHA, 3),
        )


@pytest.mark.parametrize("frames", [0, 5])
@pytest.mark.parametrize("method", COLOR_METHODS)
def test_a_matcher_goes_on_from_a_saved_state_to_the_bit(method, frames, tmp_path):
    matcher = ColorMatcher(method)
    for seed in range(frames):
        matcher.match(noise(seed), noise(seed + 10), ALPHA, seed % 2)
    state = matcher.state
    np.savez(tmp_path / "state.npz", **state)
    matcher.match(noise(0), noise(50), ALPHA, 1)  # does not change what was taken
    later = ColorMatcher(method)
    later.match(noise(0), noise(50), ALPHA, 1)  # is replaced
    with np.load(tmp_path / "state.npz") as saved:
        later.state = dict(saved)
    matcher.state = state
    for seed in range(4):
        np.testing.assert_array_equal(
            later.match(noise(seed), noise(seed + 30), ALPHA, seed % 3),
            matcher.match(noise(seed), noise(seed + 30), ALPHA, seed % 3),
        )


def test_runs_long_past_are_dropped_and_those_still_seen_are_kept():
    matcher = ColorMatcher("adain")
    matcher.match(noise(0), noise(1), ALPHA * 0, 999)  # not shown: leaves no trace
    assert not matcher.state["tracks"].size
    first = matcher.match(noise(0), noise(1), ALPHA, 0)
    for run in range(1, 100):
        matcher.match(noise(0), noise(2), ALPHA, run)
        again = matcher.match(noise(0), noise(1), ALPHA, 0)
        assert len(matcher.state["tracks"]) <= 64
    np.testing.assert_array_equal(matcher.state["tracks"][-2:], [99, 0])
    np.testing.assert_allclose(again, first, atol=1e-3)
