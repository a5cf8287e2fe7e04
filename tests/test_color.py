"""Colour correction against the original's, and steady over the frames of a video."""

from pathlib import Path

import numpy as np
import pytest
from skimage.color import rgb2lab

from fsgan.swap.color import COLOR_METHODS, ColorMatcher, match_colors

GOLDEN = np.load(Path(__file__).parent / "golden" / "colors.npz")
STEP = 5  # the golden outputs hold every fifth row and column
SOURCE = GOLDEN["source_bgr"][..., ::-1].astype(np.float32)
REFERENCE = GOLDEN["reference_bgr"][..., ::-1]
WHOLE = np.ones((*SOURCE.shape[:2], 1), np.float32)


def matched(method: str, source: np.ndarray = SOURCE) -> np.ndarray:
    return match_colors(source, REFERENCE, WHOLE, method)[::STEP, ::STEP]


def golden(name: str) -> np.ndarray:
    return GOLDEN[f"{name}_bgr"][..., ::-1].astype(float)


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


def test_lab_gives_the_mean_and_deviation_of_the_reference_in_lab():
    rng = np.random.default_rng(2)
    image = rng.uniform(100, 130, (20, 20, 3)).astype(np.float32)
    reference = rng.uniform(90, 150, (20, 20, 3)).astype(np.float32)
    alpha = rng.uniform(0, 1, (20, 20, 1)).astype(np.float32)
    result = match_colors(image, reference, alpha, "lab")
    for ours, wanted in zip(
        weighted_moments(rgb2lab(result / 255), alpha),
        weighted_moments(rgb2lab(reference / 255), alpha),
        strict=True,
    ):
        np.testing.assert_allclose(ours, wanted, atol=0.02)


def test_colours_that_srgb_lacks_are_clipped_without_a_word():
    blue = np.zeros((4, 4, 3), np.uint8)
    blue[..., 2] = np.arange(16).reshape(4, 4) * 17
    image = np.random.default_rng(3).uniform(0, 255, (4, 4, 3)).astype(np.float32)
    result = match_colors(image, blue, np.ones((4, 4, 1)), "lab")
    assert np.isfinite(result).all()
    assert (result == 0).any()


def test_hist_match_by_hand():
    column = np.array([[0.0], [1.0], [2.0], [3.0]])
    image = np.repeat(column[..., None], 3, -1).astype(np.float32)
    reference = np.array([10, 10, 20, 40], np.float32)[:, None, None] * np.ones(3)
    result = match_colors(image, reference, np.ones((4, 1, 1)), "hist_match")
    # Quantiles 1/4 .. 4/4; the reference reaches 2/4 at 10, 3/4 at 20, 4/4 at 40.
    np.testing.assert_allclose(result[:, 0, 0], [10, 10, 20, 40])


def test_hist_match_of_a_picture_between_the_levels_is_not_half_a_level_dark():
    # A rounded value stands for all from half a level below to half a level above.
    image = SOURCE + np.random.default_rng(4).uniform(-0.5, 0.5, SOURCE.shape)
    image = image.clip(0, 255).astype(np.float32)
    result = match_colors(image, np.round(image), WHOLE, "hist_match")
    assert abs((result - image).mean()) < 0.05


@pytest.mark.parametrize("method", COLOR_METHODS[1:])
def test_a_face_matched_to_itself_is_itself(method):
    # OpenCV's way back from Lab is not more exact.
    tolerance = 0.1 if method == "lab" else 0.01
    np.testing.assert_allclose(
        match_colors(SOURCE, SOURCE, WHOLE, method), SOURCE, atol=tolerance
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
    with pytest.raises(ValueError, match=r"color must be one of .*, got 'luv'"):
        match_colors(SOURCE, REFERENCE, WHOLE, "luv")


# Over the frames of a video

TWO = np.ones((2, 1, 1), np.float32)


def two_pixels(first: float, second: float) -> np.ndarray:
    return np.float32([first, second])[:, None, None] * np.ones(3, np.float32)


def noise(seed: int, low: float = 40, high: float = 200) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform(low, high, (16, 16, 3)).astype(np.float32)


ALPHA = np.random.default_rng(9).uniform(0, 1, (16, 16, 1)).astype(np.float32)


@pytest.mark.parametrize("method", ["adain", "hist_match"])
def test_the_colours_wanted_are_averaged_by_hand(method):
    matcher = ColorMatcher(method, 0.75)
    face = two_pixels(90, 110)
    first = matcher.match(face, two_pixels(90, 110), TWO, 1)
    np.testing.assert_allclose(first[:, 0, 0], [90, 110], atol=1e-3)
    # A quarter of the way from 90 to 130, and from 110 to 150.
    second = matcher.match(face, two_pixels(130, 150), TWO, 1)
    np.testing.assert_allclose(second[:, 0, 0], [100, 120], atol=1e-3)
    third = matcher.match(face, two_pixels(130, 150), TWO, 1)
    np.testing.assert_allclose(third[:, 0, 0], [107.5, 127.5], atol=1e-3)


@pytest.mark.parametrize("method", COLOR_METHODS)
def test_the_first_frame_of_a_run_is_matched_for_itself(method):
    matcher = ColorMatcher(method)
    matcher.match(noise(0), noise(1), ALPHA, 1)
    np.testing.assert_array_equal(
        matcher.match(noise(2), noise(3), ALPHA, 2),
        match_colors(noise(2), noise(3), ALPHA, method),
    )


@pytest.mark.parametrize("method", COLOR_METHODS)
def test_a_still_picture_stays_still(method):
    matcher = ColorMatcher(method)
    first = matcher.match(noise(0), noise(1), ALPHA, 1)
    for _ in range(5):
        again = matcher.match(noise(0), noise(1), ALPHA, 1)
        np.testing.assert_array_equal(again, first)


@pytest.mark.parametrize("method", COLOR_METHODS[1:])
def test_a_generator_whose_light_flickers_is_steadied(method):
    matcher = ColorMatcher(method)
    face, reference = noise(0, 60, 160), noise(1, 60, 160)
    first = matcher.match(face, reference, ALPHA, 1)
    brighter = matcher.match(face + 20, reference, ALPHA, 1)
    assert np.abs(brighter - first).mean() < (3 if method == "lab" else 0.3)


@pytest.mark.parametrize("method", COLOR_METHODS[1:])
def test_a_reference_that_flickers_is_steadied(method):
    matcher = ColorMatcher(method)
    face, reference = noise(0, 60, 160), noise(1, 60, 160)
    first = matcher.match(face, reference, ALPHA, 1)
    brighter = matcher.match(face, reference + 20, ALPHA, 1)
    assert (brighter - first).mean() == pytest.approx(20 * 0.2, abs=0.5)


@pytest.mark.parametrize("method", COLOR_METHODS[1:])
def test_a_change_of_light_is_followed_within_half_a_second(method):
    matcher = ColorMatcher(method)
    dark, light = noise(1, 60, 120), noise(1, 60, 120) * 1.6
    before = matcher.match(noise(0), dark, ALPHA, 1)
    for _ in range(12):  # at 25 frames per second
        after = matcher.match(noise(0), light, ALPHA, 1)
    wanted = match_colors(noise(0), light, ALPHA, method)
    assert np.abs(before - wanted).mean() > 40
    assert np.abs(after - wanted).mean() < 0.1 * np.abs(before - wanted).mean()


@pytest.mark.parametrize(("smoothing", "track"), [(0, 1), (0.8, None)])
@pytest.mark.parametrize("method", COLOR_METHODS)
def test_without_smoothing_or_a_run_each_frame_is_for_itself(method, smoothing, track):
    matcher = ColorMatcher(method, smoothing)
    for seed in range(3):
        np.testing.assert_allclose(
            matcher.match(noise(seed), noise(seed + 1), ALPHA, track),
            match_colors(noise(seed), noise(seed + 1), ALPHA, method),
            atol=1e-4,
        )


def test_runs_do_not_mix():
    together, alone = ColorMatcher("hist_match"), ColorMatcher("hist_match")
    for seed in range(4):
        together.match(noise(seed), noise(seed + 20, 0, 50), ALPHA, 7)
        np.testing.assert_array_equal(
            together.match(noise(seed), noise(seed + 10), ALPHA, 3),
            alone.match(noise(seed), noise(seed + 10), ALPHA, 3),
        )


@pytest.mark.parametrize("frames", [0, 1, 5])
@pytest.mark.parametrize("method", COLOR_METHODS)
def test_a_matcher_goes_on_from_a_saved_state_to_the_bit(method, frames, tmp_path):
    matcher = ColorMatcher(method)
    for seed in range(frames):
        matcher.match(noise(seed), noise(seed + 10), ALPHA, seed % 2)
    np.savez(tmp_path / "state.npz", **matcher.state)
    later = ColorMatcher(method)
    later.match(noise(0), noise(50), ALPHA, 1)  # is replaced
    with np.load(tmp_path / "state.npz") as state:
        later.state = dict(state)
    for seed in range(4):
        np.testing.assert_array_equal(
            later.match(noise(seed), noise(seed + 30), ALPHA, seed % 3),
            matcher.match(noise(seed), noise(seed + 30), ALPHA, seed % 3),
        )
    for name, array in matcher.state.items():
        np.testing.assert_array_equal(later.state[name], array)


def test_a_state_does_not_change_afterwards():
    matcher = ColorMatcher("adain")
    matcher.match(noise(0), noise(1), ALPHA, 1)
    state = matcher.state
    before = state["colors"].copy()
    matcher.match(noise(0), noise(2), ALPHA, 1)
    np.testing.assert_array_equal(state["colors"], before)
    assert (matcher.state["colors"] != before).any()


def test_runs_long_past_are_dropped_and_those_still_seen_are_kept():
    matcher = ColorMatcher("adain")
    matcher.match(noise(0), noise(1), ALPHA, 0)
    for track in range(1, 300):
        matcher.match(noise(0), noise(2), ALPHA, track)
        steady = matcher.match(noise(0), noise(1), ALPHA, 0)
        assert len(matcher.state["tracks"]) <= 64
    np.testing.assert_array_equal(matcher.state["tracks"][-2:], [299, 0])
    np.testing.assert_array_equal(
        steady, match_colors(noise(0), noise(1), ALPHA, "adain")
    )


def test_a_face_that_is_not_shown_leaves_no_trace():
    matcher = ColorMatcher("adain")
    matcher.match(noise(0), noise(1), ALPHA * 0, 1)
    assert matcher.state["tracks"].size == 0


def test_forgetting_begins_anew():
    matcher = ColorMatcher("lab")
    matcher.match(noise(0), noise(1), ALPHA, 1)
    matcher.forget()
    np.testing.assert_array_equal(
        matcher.match(noise(2), noise(3), ALPHA, 1),
        match_colors(noise(2), noise(3), ALPHA, "lab"),
    )


@pytest.mark.parametrize("smoothing", [-0.1, 1, float("nan")])
def test_a_smoothing_out_of_range_is_refused(smoothing):
    with pytest.raises(ValueError, match=r"color_smoothing must be in \[0, 1\), got"):
        ColorMatcher("adain", smoothing)
