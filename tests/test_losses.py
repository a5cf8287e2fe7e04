from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from skimage.metrics import structural_similarity

from fsgan.models.vggface import preprocess
from fsgan.training.losses import (
    LossWeights,
    alpha_loss,
    cyclic_loss,
    dssim,
    edge_loss,
    expression,
    expression_loss,
    eyes_loss,
    face_loss,
    gradients,
    legacy_resize,
    lsgan_loss,
    mask_hinge_loss,
    mask_sparsity_loss,
    mask_total_variation_loss,
    perceptual_loss,
    reconstruction_loss,
    relativistic_lsgan_loss,
)

WEIGHTS = LossWeights()


def image(*rows):
    """A batch of one image of one channel."""
    return np.array(rows, "float32")[None, :, :, None]


BLACK = image([0, 0], [0, 0])
STEP = image([0, 2], [4, 8])  # differences from the corner: 4 down, 2 across


def test_reconstruction_is_the_mean_absolute_difference():
    assert float(reconstruction_loss(BLACK, STEP)) == (2 + 4 + 8) / 4


def test_side_outputs_are_compared_with_the_resized_target():
    side = image([1])  # the target resized to one pixel is its corner, 0
    assert float(reconstruction_loss(STEP, STEP, [side])) == 1
    assert float(reconstruction_loss(STEP, BLACK, [side, side])) == 3.5 + 1 + 1


def test_gradients_are_absolute_differences_from_the_upper_left_pixel():
    down, across = gradients(image([1, 3, 0], [0, 7, 7]))
    np.testing.assert_array_equal(down, image([1, 4]))
    np.testing.assert_array_equal(across, image([2, 3]))


def test_edge_is_the_mean_difference_of_gradients():
    assert float(edge_loss(BLACK, STEP)) == 4 + 2


def test_edge_does_not_see_the_polarity():
    assert float(edge_loss(STEP, -STEP)) == 0


def test_eyes_are_compared_in_pixels_and_in_edges():
    eyes = image([0.5, 0], [0, 1])
    pixels = 8 / 4
    edges = 0.5 * (4 + 2)  # one pixel of gradient, under the mask's corner
    assert float(eyes_loss(BLACK, STEP, eyes)) == pixels + edges


def test_without_eyes_there_is_no_eye_loss():
    assert float(eyes_loss(BLACK, STEP, BLACK)) == 0


def test_structure_is_that_of_scikit_image():
    rng = np.random.default_rng(0)
    real = rng.uniform(-1, 1, (1, 112, 112, 3)).astype("float32")
    rgb = (0.7 * real + rng.normal(0, 0.1, real.shape)).clip(-1, 1).astype("float32")
    _, expected = structural_similarity(
        (real[0] + 1) / 2,
        (rgb[0] + 1) / 2,
        channel_axis=-1,
        data_range=1,
        gaussian_weights=True,
        use_sample_covariance=False,
        full=True,
    )
    found = np.array(dssim(real, rgb))[0]
    inside = slice(5, -5)
    np.testing.assert_allclose(
        found[inside, inside], (1 - expected[inside, inside]) / 2, atol=1e-5
    )
    strided = np.array(dssim(real, rgb, 2))[0]
    np.testing.assert_allclose(strided, found[1::2, 1::2], atol=1e-6)
    assert dssim(real, real).shape == real.shape
    assert abs(np.array(dssim(real, real))).max() < 1e-5


def test_the_face_counts_more_than_what_is_around_it_and_eyes_and_mouth_most():
    real = np.zeros((1, 64, 64, 3), "float32")
    rgb = real.copy()
    rgb[:, 30:34, 30:34] = 0.5

    def loss(eyes, face, mouth):
        masks = np.empty_like(real)
        masks[...] = eyes, face, mouth
        return float(face_loss(real, rgb, masks))

    around = loss(0, 0, 0)
    structure, squares = np.mean(dssim(real, rgb)), np.mean((rgb - real) ** 2)
    assert around == pytest.approx(structure + squares / 4, rel=1e-4)
    assert loss(0, 1, 0) == pytest.approx(10 * around, rel=1e-4)
    assert loss(1, 1, 0) == pytest.approx(30 * around, rel=1e-4)
    assert loss(0, 1, 1) == pytest.approx(20 * around, rel=1e-4)
    assert loss(1, 0, 1) == pytest.approx(around, rel=1e-4)


def draw_face(eye=2, mouth=4, eyes_at=30):
    """Masks of a face of 40x50 pixels in the middle of a picture of 64."""
    masks = np.zeros((64, 64, 3), "float32")
    masks[7:57, 12:52, 1] = 1
    masks[20 : 20 + eye, eyes_at - 10 : eyes_at + 14, 0] = 1
    masks[40 : 40 + mouth, 24:40, 2] = 1
    return masks


def test_an_expression_is_how_open_eyes_and_mouth_are_and_where_the_face_looks():
    masks = [draw_face(), draw_face(eye=6), draw_face(mouth=12), draw_face(eyes_at=36)]
    found = np.array(expression(np.stack(masks)))
    assert found.shape == (4, 4)
    plain, wide_eyes, open_mouth, turned = found
    assert (np.abs(wide_eyes - plain) > 1).tolist() == [True, False, False, True]
    assert (np.abs(open_mouth - plain) > 1).tolist() == [False, True, False, False]
    assert (np.abs(turned - plain) > 1).tolist() == [False, False, True, False]
    assert (wide_eyes[0], open_mouth[1], turned[2]) > (plain[0], plain[1], plain[2])
    shifted = np.roll(np.stack(masks), (3, -4), axis=(1, 2))
    np.testing.assert_allclose(expression(shifted), found, atol=1e-3)


def test_faces_without_masks_have_no_expression_to_miss():
    masks = np.stack([draw_face(), np.zeros((64, 64, 3), "float32")])
    right = np.array(expression(masks))
    right[1] = 100
    assert float(expression_loss(right, masks)) == 0
    assert float(expression_loss(right + 1, masks)) == pytest.approx(0.5, rel=1e-4)


def test_alpha_is_asked_to_be_the_face():
    face = np.array([[[[0.0], [1.0]], [[1.0], [0.0]]]], "float32")
    half = np.full_like(face, 0.5)
    assert float(alpha_loss(half, face)) == pytest.approx(np.log(2), rel=1e-5)
    assert float(alpha_loss(0.8 * face + 0.1, face)) < 0.11
    assert np.isfinite(float(alpha_loss(1 - face, face)))


def test_sparsity_is_the_mean_of_alpha():
    assert float(mask_sparsity_loss(STEP / 8)) == 14 / 32


def test_hinge_counts_only_what_stays_below_the_margin():
    assert float(mask_hinge_loss(STEP / 8, 0.5)) == (0.5 + 0.25) / 4
    assert float(mask_hinge_loss(STEP, 0.0)) == 0


def test_total_variation_is_the_mean_of_the_gradients():
    assert float(mask_total_variation_loss(STEP)) == 4 + 2


def test_scores_are_compared_with_their_target():
    assert float(lsgan_loss(STEP, 1.0)) == (1 + 1 + 9 + 49) / 4
    assert float(lsgan_loss(STEP, 0.5)) == (0.25 + 2.25 + 12.25 + 56.25) / 4


def test_relativistic_scores_are_compared_with_the_average_of_the_other_kind():
    real, fake = np.array([[2], [4]], "float32"), np.array([[0], [1]], "float32")
    # Of the discriminator real - E fake - 1 and fake - E real + 1, E real being 3.
    expected = np.mean([0.5**2, 2.5**2]) + np.mean([2**2, 1**2])
    loss = relativistic_lsgan_loss(real, fake, margin=1)
    np.testing.assert_allclose(loss, expected / 2, rtol=1e-6)
    # Of the generator real - E fake + 1 and fake - E real - 1.
    expected = np.mean([2.5**2, 4.5**2]) + np.mean([4**2, 3**2])
    loss = relativistic_lsgan_loss(real, fake, margin=-1)
    np.testing.assert_allclose(loss, expected / 2, rtol=1e-6)


def test_each_position_of_the_scores_has_an_average_of_its_own():
    real = np.array([[2, 6], [4, 8]], "float32")  # averages 3 and 7
    fake = np.array([[1, 5], [3, 7]], "float32")  # averages 2 and 6
    loss = relativistic_lsgan_loss(real, fake, margin=1)
    np.testing.assert_allclose(loss, 1, rtol=1e-6)


def test_scores_that_differ_by_the_margin_have_no_relativistic_loss():
    real, fake = np.full((2, 2), [0.7, 0.7]), np.full((2, 2), [-0.3, -0.3])
    np.testing.assert_allclose(relativistic_lsgan_loss(real, fake, 1), 0, atol=1e-12)
    np.testing.assert_allclose(relativistic_lsgan_loss(fake, real, -1), 0, atol=1e-12)


def test_features_are_compared_as_patterns_with_a_weight_for_each_map():
    ramp, back = image([-1, 1]), image([1, -1])  # of mean 0 and deviation 1
    unequal = 4 / 1.001**2
    loss = perceptual_loss([ramp, ramp], [ramp, back], weights=(5, 0.5))
    np.testing.assert_allclose(loss, 0.5 * unequal, rtol=1e-6)
    loss = perceptual_loss([ramp] * 4, [back] * 4)
    np.testing.assert_allclose(loss, (0.01 + 0.1 + 0.3 + 0.1) * unequal, rtol=1e-6)


def test_the_level_of_a_feature_map_does_not_matter():
    ramp = image([-1, 1])
    loss = perceptual_loss([1e4 * ramp], [2e4 * ramp + 3e4], weights=(1,))
    np.testing.assert_allclose(loss, 0, atol=1e-9)


def test_features_are_compared_in_float32():
    random = np.random.default_rng(0)
    real, fake = (tf.constant(random.normal(size=(2, 8, 8, 64))) for _ in range(2))
    loss = perceptual_loss(
        [tf.cast(real, tf.bfloat16)], [tf.cast(fake, tf.bfloat16)], weights=(1,)
    )
    assert loss.dtype == tf.float32
    exact = perceptual_loss([real], [fake], weights=(1,))
    np.testing.assert_allclose(loss, exact, rtol=1e-3)  # bfloat16 alone: 4e-3 steps


def test_perceptual_loss_wants_as_many_maps_as_weights():
    with pytest.raises(ValueError, match="zip"):
        perceptual_loss([BLACK], [STEP])


def test_cyclic_counts_the_way_back_and_a_tenth_of_the_masks_difference():
    alpha, cycled_alpha = image([1, 1], [0, 0]), image([0.5, 1], [0, 1])
    loss = cyclic_loss(BLACK, STEP, alpha, cycled_alpha)
    np.testing.assert_allclose(loss, 14 / 4 + 0.1 * 1.5 / 4)


def test_legacy_resize_reads_from_the_corner_and_repeats_the_border():
    np.testing.assert_array_equal(
        legacy_resize(image([0, 8]), 1, 4), image([0, 4, 8, 8])
    )


def test_legacy_resize_to_half_takes_every_second_pixel():
    pixels = np.random.default_rng(0).random((2, 6, 8, 3), "float32")
    np.testing.assert_array_equal(legacy_resize(pixels, 3, 4), pixels[:, ::2, ::2])


def test_legacy_resize_to_the_same_size_is_the_identity():
    pixels = np.random.default_rng(0).random((2, 6, 8, 3), "float32")
    np.testing.assert_array_equal(legacy_resize(pixels, 6, 8), pixels)


@pytest.fixture(scope="module")
def golden():
    """Losses of faceswap-GAN v2.2, images and gradients every 8th (16th) pixel.

    Made by running v2.2's own loss functions under TensorFlow 1 on the images of
    `Originals`, with the discriminator of `score` below.
    """
    with np.load(Path(__file__).parent / "golden" / "losses.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize(
    ("size", "new_size", "seed", "step"),
    [(64, 224, 288, 16), (64, 63, 127, 8), (128, 64, 192, 8)],
)
def test_legacy_resize_is_that_of_tensorflow_1(golden, size, new_size, seed, step):
    pixels = np.random.RandomState(seed).uniform(-1, 1, (1, size, size, 3))
    resized = legacy_resize(tf.constant(pixels, tf.float32), new_size, new_size)
    np.testing.assert_allclose(
        resized[:, ::step, ::step],
        golden[f"resize_{size}x{size}_to_{new_size}x{new_size}"],
        atol=1e-6,
    )


class Originals:
    """The original's test images, drawn in its order, turned from BGR to RGB."""

    random = np.random.RandomState(21)
    real = random.uniform(-1, 1, (2, 64, 64, 3))
    distorted = np.clip(real + 0.2 * random.standard_normal(real.shape), -1, 1)
    alpha = random.uniform(0, 1, (2, 64, 64, 1))
    painted = np.clip(real + 0.3 * random.standard_normal(real.shape), -1, 1)
    abgr = np.concatenate([alpha, painted], axis=-1).astype("float32")
    real = real[..., ::-1].astype("float32")
    distorted = distorted[..., ::-1].astype("float32")
    eyes = np.zeros((2, 64, 64, 1), "float32")
    eyes[:, 20:28, 12:26] = 1
    eyes[:, 20:28, 38:52] = 0.7
    sides = tuple(
        np.random.RandomState(seed).uniform(-1, 1, (2, size, size, 3))[..., ::-1]
        for seed, size in ((22, 32), (23, 48))
    )


def original_reconstruction(rgb, sides=()):
    """The original counts the eyes' pixels as reconstruction, their edges as edge."""
    real, eyes = Originals.real, Originals.eyes
    eye_pixels = reconstruction_loss(eyes * real, eyes * rgb)
    return reconstruction_loss(real, rgb, sides) + WEIGHTS.eyes * eye_pixels


def original_edge(rgb):
    real, eyes = Originals.real, Originals.eyes
    eye_pixels = reconstruction_loss(eyes * real, eyes * rgb)
    eye_edges = eyes_loss(real, rgb, eyes) - eye_pixels
    return WEIGHTS.edge * edge_loss(real, rgb) + WEIGHTS.eyes * eye_edges


def pooled(images):
    """Stands in for the features, deepest first."""
    images = preprocess(images) / 64
    return [tf.nn.avg_pool2d(images, size, size, "VALID") for size in (32, 8, 4, 2)]


def original_relativistic_discriminator(real, fake, rgb):
    """The published loss of `rgb`, what the original aimed at instead, plain terms."""
    aim = tf.reduce_mean(rgb) - tf.reduce_mean(real) + 0.5
    plain = lsgan_loss(real, 1) + lsgan_loss(fake, 0)
    return relativistic_lsgan_loss(real, rgb, 1) - aim + plain / 2


def original_relativistic_generator(real, fake, rgb):
    aim = tf.reduce_mean(real) - tf.reduce_mean(rgb) + 0.5
    return relativistic_lsgan_loss(real, rgb, -1) - aim + lsgan_loss(fake, 1)


def losses_of_the_original(alpha, rgb, fake, score):
    """What the original's terms are in ours, by their name in the golden file."""
    real, weights = Originals.real, WEIGHTS
    blends = [0.3 * real + 0.7 * image for image in (fake, rgb)]
    scores = [score(image) for image in (real, fake, rgb)]
    return {
        "reconstruction": lambda: original_reconstruction(rgb),
        "reconstruction_sides": lambda: original_reconstruction(
            rgb, [side.astype("float32") for side in Originals.sides]
        ),
        "edge": lambda: original_edge(rgb),
        "sparsity": lambda: weights.sparsity * mask_sparsity_loss(alpha),
        "hinge_0.2": lambda: weights.hinge * mask_hinge_loss(alpha, 0.2),
        "hinge_0.5": lambda: weights.hinge * mask_hinge_loss(alpha, 0.5),
        "total_variation": lambda: (
            weights.total_variation * mask_total_variation_loss(alpha)
        ),
        "discriminator": lambda: sum(lsgan_loss(score(x), 0.3) for x in blends),
        "generator": lambda: (
            weights.adversarial * sum(lsgan_loss(x, 1) for x in scores[1:])
        ),
        "relativistic_discriminator": lambda: original_relativistic_discriminator(
            *scores
        ),
        "relativistic_generator": lambda: (
            weights.adversarial * original_relativistic_generator(*scores)
        ),
        "perceptual": lambda: perceptual_loss(
            pooled(real), pooled(0.3 * rgb + 0.7 * fake)
        ),
    }


NAMES = (
    *("reconstruction", "reconstruction_sides", "edge", "sparsity"),
    *("hinge_0.2", "hinge_0.5", "total_variation", "discriminator", "generator"),
    *("relativistic_discriminator", "relativistic_generator", "perceptual"),
)


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_its_gradient_are_the_original_ones(golden, name):
    kernel = golden["discriminator_kernel"][:, :, [2, 1, 0, 5, 4, 3]]

    def score(images):
        pair = tf.concat([images, Originals.distorted], axis=-1)
        pooled = tf.nn.avg_pool2d(pair, 8, 8, "VALID")
        return tf.tanh(tf.nn.conv2d(pooled, kernel, 1, "VALID"))

    abgr = tf.Variable(Originals.abgr)
    with tf.GradientTape() as tape:
        alpha, rgb = abgr[..., :1], abgr[..., :0:-1]
        fake = alpha * rgb + (1 - alpha) * Originals.distorted
        value = losses_of_the_original(alpha, rgb, fake, score)[name]()
    gradient = tape.gradient(value, abgr)[:, ::8, ::8]
    largest = np.abs(golden[f"{name}_gradient"]).max()
    np.testing.assert_allclose(value, golden[name], rtol=1e-6)
    np.testing.assert_allclose(
        gradient, golden[f"{name}_gradient"], atol=1e-6 * largest
    )


def test_cyclic_loss_is_the_original_one(golden):
    def generate(images, alpha_gain, rgb_gain):  # reads alpha off the blue channel
        return tf.sigmoid(alpha_gain * images[..., 2:]), tf.tanh(rgb_gain * images)

    alpha, rgb = generate(Originals.real, -1.1, 0.8)
    cycled_alpha, cycled_rgb = generate(rgb, 0.7, 0.9)
    loss = cyclic_loss(Originals.real, cycled_rgb, alpha, cycled_alpha)
    np.testing.assert_allclose(loss, golden["cyclic"], rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"face": 1e7}, "face must be less than or equal to 1000000, got 10000000.0"),
        ({"edge": -0.1}, "edge must be greater than or equal to 0, got -0.1"),
        ({"eyes": float("inf")}, "eyes must be a finite number, got inf"),
        ({"hinge": float("nan")}, "hinge must be a finite number, got nan"),
        ({"edge": "ten"}, "edge must be a valid number, got 'ten'"),
    ],
)
def test_weights_refuse_what_is_no_weight(settings, message):
    with pytest.raises(ValueError, match=message):
        LossWeights(**settings)


def test_weights_are_the_published_ones():
    assert LossWeights() == LossWeights(
        adversarial=0.1,
        reconstruction=1,
        eyes=30,
        edge=0.1,
        perceptual=1,
        cyclic=0,
        sparsity=0.01,
        hinge=0.1,
        total_variation=0.1,
    )
