"""Draws of the original in, pictures of the original out; and what must always hold.

The arrays in golden/augmentation.npz come from runs of faceswap-GAN v2.2 on a crop of
scikit-image's astronaut. Positions there are the same numbers as ours, but the original
takes a position for a pixel's centre where we take it for a point between the borders.
"""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from skimage.transform import SimilarityTransform, estimate_transform

from fsgan.data.augmentation import (
    AugmentationSettings,
    affine_matrix,
    close_eyes,
    match_colors,
    motion_blur_kernel,
    sample,
    target_matrix,
    warp_grid,
    warp_map,
    warp_pair,
)
from fsgan.data.masks import draw_masks
from fsgan.faces.geometry import align, crop_matrix
from fsgan.faces.mesh import FaceMesh, eye_opening

golden = np.load(Path(__file__).parent / "golden" / "augmentation.npz")
STILL = AugmentationSettings(
    rotation=0, zoom=0, shift=0, flip=0, color_match=0, motion_blur=0
)


@pytest.fixture(scope="module")
def face():
    return cv2.resize(skimage.data.astronaut()[20:260, 110:350], (256, 256))


@pytest.fixture(scope="module")
def partners():
    animals = skimage.data.chelsea(), skimage.data.coffee()
    return [cv2.resize(image, (256, 256)) for image in animals]


def to_network(image):
    return image.astype(np.float32) / 127.5 - 1


@pytest.mark.parametrize(("name", "step"), [("warp_64", 2), ("warp_128", 8)])
def test_warp_has_the_originals_grid_map_and_similarity(face, name, step):
    resolution = int(name[5:])
    grid = warp_grid(golden[f"{name}_half_width"], golden[f"{name}_noise"])
    matrix = target_matrix(grid, resolution)
    np.testing.assert_allclose(grid, golden[f"{name}_grid"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(matrix[:2], golden[f"{name}_matrix"], rtol=0, atol=1e-10)

    image = to_network(face)
    warped = cv2.remap(image, warp_map(grid, resolution), None, cv2.INTER_LINEAR)
    target = cv2.warpAffine(image, matrix[:2], (resolution, resolution))
    # The original's OpenCV 4 placed samples at 1/32 of a pixel.
    for ours, key in ((warped, "warped"), (target, "target")):
        error = np.abs(ours[::step, ::step] - golden[f"{name}_{key}"])
        assert error.max() < 0.03
        assert error.mean() < 0.001


@pytest.mark.parametrize("name", ["affine_c0", "affine_c1"])
def test_affine_matrix_moves_a_crop_as_the_original(face, name):
    shift = golden[f"{name}_tx_px"], golden[f"{name}_ty_px"]
    rotation, zoom = float(golden[f"{name}_rotation"]), float(golden[f"{name}_scale"])
    matrix = affine_matrix(rotation, zoom, shift, flip=False)
    out = cv2.warpAffine(
        to_network(face), matrix[:2], (256, 256), borderMode=cv2.BORDER_REPLICATE
    )
    error = np.abs(out[::8, ::8] - golden[f"{name}_out"])
    assert error.max() < 0.03
    assert error.mean() < 0.001


@pytest.mark.parametrize("name", ["color_c4", "color_c7"])
def test_colors_match_as_in_the_original(face, partners, name):
    partner = partners[golden[f"{name}_tar_index"]]
    out = match_colors(face, partner, float(golden[f"{name}_ratio"]), in_xyz=False)
    np.testing.assert_allclose(out[::8, ::8], golden[f"{name}_out"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["color_c1", "color_c6"])
def test_colors_match_in_xyz_as_in_the_original(face, partners, name):
    partner = partners[golden[f"{name}_tar_index"]]
    out = match_colors(face, partner, float(golden[f"{name}_ratio"]), in_xyz=True)
    expected = golden[f"{name}_out"]
    error = np.abs(out[::8, ::8] - expected)
    # The original cut XYZ to whole numbers below 256: dark by a level, wrong in lights.
    xyz = cv2.cvtColor(face.astype(np.float32), cv2.COLOR_RGB2XYZ)[::8, ::8]
    whole = (xyz.max(-1) < 254) & (expected.max(-1) < 255) & (expected.min(-1) > 0)
    assert whole.mean() > 0.8
    assert error[whole].max() < 6.5
    assert error[whole].mean() < 1.5


@pytest.mark.parametrize("name", ["blur_c0", "blur_c2", "blur_c3"])
def test_motion_blur_kernel_is_the_originals(name):
    kernel = motion_blur_kernel(
        int(golden[f"{name}_size"]), float(golden[f"{name}_angle"])
    )
    np.testing.assert_allclose(kernel, golden[f"{name}_kernel"], rtol=0, atol=1e-12)
    out = cv2.filter2D(golden["blur_in"], -1, kernel)[:16, :16]
    np.testing.assert_allclose(out, golden[f"{name}_out"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "resolution"), [("whole_c0", 64), ("whole_c1", 64), ("whole_c3", 128)]
)
def test_one_interpolation_gives_what_the_original_got_from_two(
    face, partners, name, resolution
):
    image = match_colors(
        face,
        partners[golden[f"{name}_partner"]],
        float(golden[f"{name}_ratio"]),
        in_xyz=False,
    )
    affine = affine_matrix(
        float(golden[f"{name}_rotation"]),
        float(golden[f"{name}_zoom"]),
        golden[f"{name}_shift"] * 256,
        flip=bool(golden[f"{name}_flip"]),
    )
    grid = warp_grid(golden[f"{name}_half_width"], golden[f"{name}_noise"])
    eyes = golden["eyes"].astype(np.float32)
    warped, target, eyes = warp_pair(image, eyes, affine, grid, resolution)
    # Half a pixel of difference (see above) costs more than the second interpolation.
    for ours, key, limit in (
        (to_network(warped), "warped", 0.04),
        (to_network(target), "target", 0.045),
        (eyes / 255, "eyes", 0.007),
    ):
        error = np.abs(ours[::2, ::2] - golden[f"{name}_{key}"].astype(np.float32))
        assert error.mean() < limit, key


@pytest.mark.parametrize("seed", range(5))
def test_target_matrix_is_the_similarity_of_umeyama(seed):
    rng = np.random.default_rng(seed)
    turned = SimilarityTransform(rotation=rng.uniform(-3, 3), scale=rng.uniform(0.5, 2))
    nodes = warp_grid(90, rng.normal(scale=20, size=(5, 5, 2)))
    grid = turned(nodes.reshape(-1, 2)).reshape(5, 5, 2)
    line = np.linspace(0, 64, 5)
    regular = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    expected = estimate_transform("similarity", grid.reshape(-1, 2), regular)
    np.testing.assert_allclose(target_matrix(grid, 64), expected.params, atol=1e-9)


def test_affine_matrix_on_paper():
    def move(matrix, x, y):
        return (matrix @ [x, y, 1])[:2]

    np.testing.assert_allclose(
        move(affine_matrix(0, 1, (3, 5), flip=False), 10, 20), [13, 25]
    )
    np.testing.assert_allclose(
        move(affine_matrix(0, 2, (0, 0), flip=False), 138, 128), [148, 128]
    )
    np.testing.assert_allclose(  # counter-clockwise: right goes up
        move(affine_matrix(90, 1, (0, 0), flip=False), 138, 128), [128, 118]
    )
    np.testing.assert_allclose(
        move(affine_matrix(0, 1, (3, 0), flip=True), 10, 20), [243, 20]
    )


def test_warp_map_reaches_from_border_to_border():
    line = np.linspace(0, 64, 5)
    pixels = warp_map(np.stack(np.meshgrid(line, line), axis=-1), 64)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[0, :, 0], np.arange(64) + 0.5, atol=1e-4)
    np.testing.assert_allclose(pixels[:, 0, 1], np.arange(64) + 0.5, atol=1e-4)


def test_horizontal_motion_blur_is_a_mean_along_the_row():
    expected = np.zeros((5, 5))
    expected[2] = 0.2
    np.testing.assert_allclose(motion_blur_kernel(5, 0), expected, atol=1e-9)
    np.testing.assert_allclose(motion_blur_kernel(5, 90), expected.T, atol=1e-9)


def test_color_match_with_ratio_1_takes_the_partners_colors(face, partners):
    dim = (face // 3 + 60).astype(np.uint8)
    middle = slice(60, -60)
    partner = (partners[0] // 4 + 90).astype(np.uint8)
    out = match_colors(dim, partner, 1, in_xyz=False)
    wanted = partner[middle, middle]
    got = out[middle, middle]
    assert out.dtype == np.float32
    np.testing.assert_allclose(got.mean((0, 1)), wanted.mean((0, 1)), atol=0.01)
    np.testing.assert_allclose(got.std((0, 1)), wanted.std((0, 1)), atol=0.01)


def test_colors_of_wider_crops_are_measured_where_those_of_standard_crops_are(
    face, partners
):
    def widen(image, level):
        return np.pad(image, ((64, 64), (64, 64), (0, 0)), constant_values=level)

    expected = match_colors(face, partners[0], 0.6, in_xyz=False)
    out = match_colors(widen(face, 128), widen(partners[0], 9), 0.6, False, 1.5)
    np.testing.assert_allclose(out[64:-64, 64:-64], expected, atol=0.1)


@pytest.mark.parametrize("in_xyz", [False, True])
def test_color_match_with_ratio_0_changes_nothing(face, partners, in_xyz):
    dim = (face // 2 + 50).astype(np.uint8)
    out = match_colors(dim, partners[0], 0, in_xyz)
    np.testing.assert_allclose(out, dim, atol=0.01)


@pytest.mark.parametrize("in_xyz", [False, True])
def test_a_face_of_one_color_takes_the_partners_mean_color(in_xyz):
    gray = np.full((100, 100, 3), 77, np.uint8)
    partner = np.zeros((50, 50, 3), np.uint8)
    partner[:] = (200, 100, 40)
    out = match_colors(gray, partner, 1, in_xyz)
    np.testing.assert_allclose(out[0, 0], [200, 100, 40], atol=0.1)
    assert np.ptp(out, axis=(0, 1)).max() < 0.01


def test_noise_of_a_face_of_one_color_is_not_magnified(partners):
    gray = np.full((100, 100, 3), 77, np.uint8)
    gray[50, 50] = 78
    out = match_colors(gray, partners[0], 1, in_xyz=False)
    assert np.ptp(out, axis=(0, 1)).max() < 60  # the partner's spread for one level


@pytest.mark.parametrize("in_xyz", [False, True])
def test_matched_colors_stay_in_range(face, in_xyz):
    noise = np.random.default_rng(0).choice([0, 255], (256, 256, 3)).astype(np.uint8)
    out = match_colors(face, noise, 1, in_xyz)
    assert out.min() >= 0
    assert out.max() <= 255


@pytest.mark.parametrize("size", [100, 256])
def test_without_noise_input_and_target_are_one_picture(face, size, coarse):
    image = cv2.resize(face, (size, size)).astype(np.float32)
    affine = affine_matrix(7, 1.05, (5, -8), flip=True)
    grid = warp_grid(90, np.zeros((5, 5, 2)))
    warped, target, _ = warp_pair(image, image[..., 0].copy(), affine, grid, 64)
    np.testing.assert_allclose(warped, target, rtol=0, atol=5 if coarse else 1)


def test_size_of_the_crop_does_not_change_the_framing():
    y, x = np.mgrid[:64, :64]
    small = cv2.GaussianBlur(((x // 16 + y // 16) % 2 * 255.0).astype("f4"), (9, 9), 0)
    small = np.dstack([small] * 3)
    large = cv2.resize(small, (256, 256), interpolation=cv2.INTER_LINEAR)
    grid = warp_grid(80, np.random.default_rng(0).normal(0, 5, (5, 5, 2)))
    affine = affine_matrix(-6, 0.95, (4, 6), flip=False)
    pairs = [
        warp_pair(image, image[..., 0].copy(), affine, grid, 64)
        for image in (small, large)
    ]
    for of_small, of_large in zip(*pairs, strict=True):
        assert np.abs(of_small - of_large).mean() < 1


def draw_placements(settings, coverage=0.8, count=300, extent=1.0):
    """Crop x at the middle, angle in degrees and share seen, of many targets."""
    y, x = np.mgrid[:256, :256].astype(np.uint8)
    face = np.dstack([x, y, y])
    rng = np.random.default_rng(0)
    for _ in range(count):
        _, target, _ = sample(face, face, face, settings, 64, coverage, rng, extent)
        middle = target[24:41, 24:41, 0] * 127.5 + 127.5
        right, down = np.diff(middle, axis=1).mean(), np.diff(middle, axis=0).mean()
        angle = np.degrees(np.arctan2(down, right))
        yield middle.mean() - 128, angle, np.hypot(right, down) * 64 / 256 * extent


@pytest.mark.parametrize(
    ("field", "value", "column", "expected"),
    [
        ("shift", 0.05, 0, 0.05 * 256),
        ("rotation", 10, 1, 10),
        ("zoom", 0.3, 2, 0.8 * 0.3),
    ],
)
def test_variation_reaches_the_stated_limit(field, value, column, expected):
    still = np.std([row[column] for row in draw_placements(STILL)])
    settings = dataclasses.replace(STILL, **{field: value})
    varied = np.std([row[column] for row in draw_placements(settings)])
    uniform = expected / np.sqrt(3)  # standard deviation of a draw from +-expected
    assert np.hypot(uniform, still) == pytest.approx(varied, rel=0.15)


def test_target_is_seen_with_the_stated_coverage():
    shares = [share for _, _, share in draw_placements(STILL)]
    assert np.mean(shares) == pytest.approx(0.8, abs=0.02)
    assert min(shares) == pytest.approx(0.8 * 0.89, abs=0.03)
    assert max(shares) == pytest.approx(0.8 * 1.11, abs=0.03)


def test_grid_stays_inside_the_crop():
    shares = [share for _, _, share in draw_placements(STILL, coverage=1)]
    assert np.mean(np.array(shares) > 0.97) > 0.5
    assert max(shares) < 1.05  # the noise of the nodes alone


@pytest.mark.parametrize("resolution", [64, 128, 256])
def test_sample_has_the_stated_shapes_and_ranges(face, partners, resolution):
    masks = np.dstack([golden["eyes"]] * 3)
    settings = AugmentationSettings(color_match=1, motion_blur=1)
    rng = np.random.default_rng(1)
    for partner in partners * 5:
        *pair, mask = sample(face, masks, partner, settings, resolution, 1, rng)
        for image in pair:
            assert image.shape == (resolution, resolution, 3)
            assert image.dtype == np.float32
            assert -1 <= image.min() < 0 < image.max() <= 1
        assert mask.shape == (resolution, resolution, 3)
        assert mask.dtype == np.float32
        assert mask.min() == 0
        assert 0.5 < mask.max() <= 1


@pytest.mark.parametrize("extent", [1.0, 1.5])
def test_masks_stay_on_the_eyes_the_face_and_the_mouth_of_the_target(extent):
    face = np.zeros((256, 256, 3), np.uint8)
    face[90:120, 60:110, 0] = face[40:220, 50:200, 1] = face[150:190, 90:160, 2] = 255
    rng = np.random.default_rng(2)
    settings = AugmentationSettings(color_match=0)
    for _ in range(20):
        _, target, mask = sample(face, face, face, settings, 64, 0.8, rng, extent)
        np.testing.assert_allclose((target + 1) / 2, mask, atol=0.01)


def test_a_wider_crop_gives_the_same_sample(face, partners):
    def widen(image):
        return np.pad(image, ((32, 32), (32, 32), (0, 0)), "edge")

    settings = AugmentationSettings(rotation=3, shift=0.02)
    for seed in range(10):
        narrow = face, face, partners[0]
        wide = map(widen, narrow)
        expected, sampled = (
            sample(*images, settings, 64, 0.8, np.random.default_rng(seed), extent)
            for images, extent in ((narrow, 1.0), (wide, 1.25))
        )
        for one, other in zip(expected, sampled, strict=True):
            np.testing.assert_allclose(one, other, atol=0.002)


def test_more_than_the_standard_crop_is_seen_of_a_wider_one():
    shares = [s for _, _, s in draw_placements(STILL, coverage=1.2, extent=1.5)]
    assert np.mean(shares) == pytest.approx(1.2, abs=0.03)
    shares = [s for _, _, s in draw_placements(STILL, coverage=1.2, extent=1.2)]
    assert np.mean(np.array(shares) > 1.17) > 0.5
    assert max(shares) < 1.2 * 1.05


def test_an_unwarped_input_is_the_target_and_only_asked_for_draws_anything(face):
    def draw(seed, **fields):
        rng = np.random.default_rng(seed)
        settings = AugmentationSettings(motion_blur=0.5, **fields)
        return (*sample(face, face, face, settings, 64, 0.8, rng), rng.random())

    same = 0
    for seed in range(200):
        warped, target, *_ = draw(seed, unwarped=0.3)
        same += (warped == target).all()
    assert same / 200 == pytest.approx(0.3, abs=0.08)
    for one, other in zip(draw(0), draw(0, unwarped=0, blink=0), strict=True):
        np.testing.assert_array_equal(one, other)


def test_flip_mirrors_with_the_stated_probability():
    face = np.zeros((256, 256, 3), np.uint8)
    face[:, 128:] = 255
    rng = np.random.default_rng(3)
    mirrored = [
        sample(face, face, face, AugmentationSettings(flip=0.25), 64, 0.8, rng)[1][
            32, 8, 0
        ]
        > 0
        for _ in range(400)
    ]
    assert np.mean(mirrored) == pytest.approx(0.25, abs=0.06)


def test_motion_blur_softens_input_and_target(face):
    def sharpness(motion_blur):
        settings = AugmentationSettings(color_match=0, motion_blur=motion_blur)
        rng = np.random.default_rng(4)
        pair = sample(face, face, face, settings, 64, 0.8, rng)[:2]
        return np.array([np.abs(np.diff(image, axis=0)).mean() for image in pair])

    assert (sharpness(1) < 0.8 * sharpness(0)).all()


def test_same_generator_gives_the_same_sample(face, partners):
    def draw(seed):
        rng = np.random.default_rng(seed)
        settings = AugmentationSettings(motion_blur=0.5)
        return sample(face, face, partners[0], settings, 64, 0.8, rng)

    for first, second in zip(draw(5), draw(5), strict=True):
        np.testing.assert_array_equal(first, second)
    assert np.abs(draw(5)[0] - draw(6)[0]).mean() > 0.05


@pytest.mark.parametrize(
    ("field", "value", "accepted"),
    [
        ("rotation", 181, "less than or equal to 180"),
        ("zoom", 1, "less than or equal to 0.9"),
        ("shift", -0.1, "greater than or equal to 0"),
        ("flip", 1.5, "less than or equal to 1"),
        ("color_match", float("nan"), "a finite number"),
        ("motion_blur", None, "a valid number"),
        ("unwarped", True, "a valid number"),
        ("blink", -1, "greater than or equal to 0"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(field, value, accepted):
    with pytest.raises(ValueError, match=f"{field} must be {accepted}, got {value}"):
        AugmentationSettings(**{field: value})


# --- eyes ---


@pytest.fixture(scope="module")
def portrait():
    """A crop of extent 1.6, its masks and its five points."""
    points = [[204, 101], [246, 103], [225, 126], [203, 138], [245, 141]]
    matrix = crop_matrix(np.array(points, float), 256, 1.6)
    crop = align(skimage.data.astronaut(), matrix, 256)
    landmarks = np.array(points) @ matrix[:, :2].T + matrix[:, 2]
    return crop, draw_masks(crop, landmarks, 1.6), landmarks


@pytest.mark.parametrize(("opening", "most"), [(0.15, 0.6), (0.5, 0.85)])
def test_eyes_close_as_a_mesh_sees_it_and_masks_with_them(portrait, opening, most):
    crop, masks, landmarks = portrait
    closed, closed_masks = close_eyes(crop, masks, opening, 1.6)
    mesh = FaceMesh()
    before, after = (eye_opening(mesh(image, landmarks)) for image in (crop, closed))
    assert after < most * before
    areas, new_areas = (x.astype(float).sum(axis=(0, 1)) for x in (masks, closed_masks))
    assert new_areas[0] < (0.75 + 0.2 * opening) * areas[0]
    np.testing.assert_allclose(new_areas[1:], areas[1:], rtol=0.01)
    changed = np.abs(closed.astype(int) - crop).max(axis=2) > 8
    near = cv2.dilate(masks[..., 0], np.ones((25, 25), np.uint8)) > 0
    assert changed.any()
    assert not (changed & ~near).any()


def test_open_eyes_stay_and_a_face_without_eyes_too(portrait):
    crop, masks, _ = portrait
    same, _ = close_eyes(crop, masks, 1.0, 1.6)
    assert np.abs(same.astype(int) - crop).mean() < 0.05
    nothing = np.zeros_like(masks)
    for result, given in zip(
        close_eyes(crop, nothing, 0.2), (crop, nothing), strict=True
    ):
        np.testing.assert_array_equal(result, given)


def test_an_upright_eye_is_no_trouble():
    face, masks = np.zeros((2, 64, 64, 3), np.uint8)
    masks[10:50, 20:30] = masks[10:50, 40:50] = 255  # of what is no face
    closed, _ = close_eyes(face, masks, 0.2)
    np.testing.assert_array_equal(closed, face)


def test_some_samples_blink(portrait):
    crop, masks, _ = portrait
    eyes = []
    for seed in range(30):
        settings = dataclasses.replace(STILL, blink=0.5, unwarped=1)
        rng = np.random.default_rng(seed)
        warped, target, found = sample(crop, masks, crop, settings, 64, 1.1, rng, 1.6)
        np.testing.assert_array_equal(warped, target)
        eyes.append(found[..., 0].sum() / found[..., 1].sum())
    closed = np.array(eyes) < 0.93 * np.median(np.sort(eyes)[-10:])
    assert 8 <= closed.sum() <= 22
