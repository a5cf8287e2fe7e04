from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from fsgan.models.vggface import preprocess
from fsgan.training.losses import (
    LossWeights,
    cyclic_loss,
    edge_loss,
    eyes_loss,
    gradients,
    legacy_resize,
    mask_hinge_loss,
    mask_sparsity_loss,
    mask_total_variation_loss,
    mixup_lsgan_discriminator_loss,
    mixup_lsgan_generator_loss,
    perceptual_loss,
    reconstruction_loss,
    relativistic_avg_lsgan_discriminator_loss,
    relativistic_avg_lsgan_generator_loss,
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


def test_sparsity_is_the_mean_of_alpha():
    assert float(mask_sparsity_loss(STEP / 8)) == 14 / 32


def test_hinge_counts_only_what_stays_below_the_margin():
    assert float(mask_hinge_loss(STEP / 8, 0.5)) == (0.5 + 0.25) / 4
    assert float(mask_hinge_loss(STEP, 0.0)) == 0


def test_total_variation_is_the_mean_of_the_gradients():
    assert float(mask_total_variation_loss(STEP)) == 4 + 2


def mean_of_image(inputs):
    """A discriminator that looks at the image alone, not at the distorted input."""
    return tf.reduce_mean(inputs[..., :3], axis=(1, 2, 3))


def flat(value):
    return np.full((2, 4, 4, 3), value, "float32")


def test_discriminator_is_asked_how_much_of_the_blend_is_real():
    # 0.25·0.8 + 0.75·0.4 = 0.5 and 0.25·0.8 + 0.75·0 = 0.2, both against 0.25
    loss = mixup_lsgan_discriminator_loss(
        mean_of_image, flat(0.8), flat(0.4), flat(0.0), flat(9.0), mix=0.25
    )
    np.testing.assert_allclose(loss, 0.25**2 + 0.05**2, rtol=1e-5)


def test_generator_is_asked_to_score_one_in_both_its_images():
    loss = mixup_lsgan_generator_loss(
        mean_of_image, flat(7.0), flat(0.5), flat(-1.0), flat(9.0)
    )
    np.testing.assert_allclose(loss, 0.5**2 + 2**2)


def test_discriminator_sees_the_image_before_the_distorted_input():
    seen = []

    def discriminate(inputs):
        seen.append(np.asarray(inputs)[0, 0, 0].tolist())
        return inputs

    images = flat(4.0), flat(1.0), flat(2.0), flat(3.0)
    mixup_lsgan_discriminator_loss(discriminate, *images, mix=0.0)
    mixup_lsgan_generator_loss(discriminate, *images)
    assert seen == [[1, 1, 1, 3, 3, 3], [2, 2, 2, 3, 3, 3]] * 2
    seen.clear()
    relativistic_avg_lsgan_discriminator_loss(discriminate, *images)
    relativistic_avg_lsgan_generator_loss(discriminate, *images)
    assert seen == [[n, n, n, 3, 3, 3] for n in (4, 1, 2)] * 2


def pictures(*values):
    """A batch of one flat image for each value."""
    return np.stack([np.full((4, 4, 3), value, "float32") for value in values])


def test_relativistic_scores_are_compared_with_the_average_of_the_other_kind():
    real, fake, fake_rgb = pictures(2, 4), pictures(0, 1), pictures(1, 2)
    images = real, fake, fake_rgb, flat(9.0)
    # Of the discriminator real - E fake - 1 and fake - E real + 1, E real being 3.
    expected = np.mean([0.5**2, 2.5**2]) + np.mean([2**2, 1**2])
    expected += np.mean([0.5**2, 1.5**2]) + np.mean([1**2, 0**2])
    loss = relativistic_avg_lsgan_discriminator_loss(mean_of_image, *images, mix=0.3)
    np.testing.assert_allclose(loss, expected / 2, rtol=1e-6)
    # Of the generator real - E fake + 1 and fake - E real - 1.
    expected = np.mean([2.5**2, 4.5**2]) + np.mean([4**2, 3**2])
    expected += np.mean([1.5**2, 3.5**2]) + np.mean([3**2, 2**2])
    loss = relativistic_avg_lsgan_generator_loss(mean_of_image, *images)
    np.testing.assert_allclose(loss, expected / 2, rtol=1e-6)


def test_each_position_of_the_scores_has_an_average_of_its_own():
    real = np.concatenate([pictures(2, 4), pictures(6, 8)], axis=2)
    fake = np.concatenate([pictures(1, 3), pictures(5, 7)], axis=2)

    def score(inputs):  # the left and the right half
        return tf.stack([mean_of_image(inputs[:, :, :4]), inputs[:, 0, 4, 0]], axis=1)

    # Averages 3 and 2 on the left, 7 and 6 on the right.
    loss = relativistic_avg_lsgan_discriminator_loss(score, real, fake, fake, real)
    np.testing.assert_allclose(loss, np.mean([1, 1]) + np.mean([1, 1]), rtol=1e-6)


def test_a_discriminator_content_with_the_margin_has_no_relativistic_loss():
    real, fake = flat(0.7), flat(-0.3)
    loss = relativistic_avg_lsgan_discriminator_loss(
        mean_of_image, real, fake, fake, flat(9.0)
    )
    np.testing.assert_allclose(loss, 0, atol=1e-12)
    loss = relativistic_avg_lsgan_generator_loss(
        mean_of_image, fake, real, real, flat(9.0)
    )
    np.testing.assert_allclose(loss, 0, atol=1e-12)


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
    """Losses of faceswap-GAN v2.2, images and gradients every 8th (16th) pixel."""
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


def mixed_images(rgb, fake):
    """What the original's recogniser sees, μ being 0.3."""
    return 0.3 * rgb + 0.7 * fake


def pooled(images):
    """Stands in for the features, deepest first."""
    images = preprocess(images) / 64
    return [tf.nn.avg_pool2d(images, size, size, "VALID") for size in (32, 8, 4, 2)]


def conditional(score, images):
    return score(tf.concat([images, Originals.distorted], axis=-1))


def original_relativistic_discriminator(rgb, fake, score):
    """The published loss of `rgb`, what the original aimed at instead, plain terms."""
    real, distorted = Originals.real, Originals.distorted
    published = relativistic_avg_lsgan_discriminator_loss(
        score, real, rgb, rgb, distorted
    )
    real, fake, rgb = (conditional(score, images) for images in (real, fake, rgb))
    aim = tf.reduce_mean(rgb) - tf.reduce_mean(real) + 0.5
    plain = tf.reduce_mean((real - 1) ** 2) + tf.reduce_mean(fake**2)
    return published / 2 - aim + plain / 2


def original_relativistic_generator(rgb, fake, score):
    real, distorted = Originals.real, Originals.distorted
    published = relativistic_avg_lsgan_generator_loss(score, real, rgb, rgb, distorted)
    real, fake, rgb = (conditional(score, images) for images in (real, fake, rgb))
    aim = tf.reduce_mean(real) - tf.reduce_mean(rgb) + 0.5
    return published / 2 - aim + tf.reduce_mean((fake - 1) ** 2)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        (
            "reconstruction",
            lambda alpha, rgb, fake, score: original_reconstruction(rgb),
        ),
        (
            "reconstruction_sides",
            lambda alpha, rgb, fake, score: original_reconstruction(
                rgb, [side.astype("float32") for side in Originals.sides]
            ),
        ),
        ("edge", lambda alpha, rgb, fake, score: original_edge(rgb)),
        (
            "sparsity",
            lambda alpha, rgb, fake, score: (
                WEIGHTS.sparsity * mask_sparsity_loss(alpha)
            ),
        ),
        (
            "hinge_0.2",
            lambda alpha, rgb, fake, score: WEIGHTS.hinge * mask_hinge_loss(alpha, 0.2),
        ),
        (
            "hinge_0.5",
            lambda alpha, rgb, fake, score: WEIGHTS.hinge * mask_hinge_loss(alpha, 0.5),
        ),
        (
            "total_variation",
            lambda alpha, rgb, fake, score: (
                WEIGHTS.total_variation * mask_total_variation_loss(alpha)
            ),
        ),
        (
            "discriminator",
            lambda alpha, rgb, fake, score: mixup_lsgan_discriminator_loss(
                score, Originals.real, fake, rgb, Originals.distorted, mix=0.3
            ),
        ),
        (
            "generator",
            lambda alpha, rgb, fake, score: (
                WEIGHTS.adversarial
                * mixup_lsgan_generator_loss(
                    score, Originals.real, fake, rgb, Originals.distorted
                )
            ),
        ),
        (
            "relativistic_discriminator",
            lambda alpha, rgb, fake, score: original_relativistic_discriminator(
                rgb, fake, score
            ),
        ),
        (
            "relativistic_generator",
            lambda alpha, rgb, fake, score: (
                WEIGHTS.adversarial * original_relativistic_generator(rgb, fake, score)
            ),
        ),
        (
            "perceptual",
            lambda alpha, rgb, fake, score: perceptual_loss(
                pooled(Originals.real), pooled(mixed_images(rgb, fake))
            ),
        ),
    ],
)
def test_loss_and_its_gradient_are_the_original_ones(golden, name, loss):
    kernel = golden["discriminator_kernel"][:, :, [2, 1, 0, 5, 4, 3]]

    def score(inputs):
        return tf.tanh(
            tf.nn.conv2d(tf.nn.avg_pool2d(inputs, 8, 8, "VALID"), kernel, 1, "VALID")
        )

    abgr = tf.Variable(Originals.abgr)
    with tf.GradientTape() as tape:
        alpha, rgb = abgr[..., :1], abgr[..., :0:-1]
        fake = alpha * rgb + (1 - alpha) * Originals.distorted
        value = loss(alpha, rgb, fake, score)
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
        ({"edge": -0.1}, "edge must be finite and at least 0, got -0.1"),
        ({"eyes": float("inf")}, "eyes must be finite and at least 0, got inf"),
        ({"hinge": float("nan")}, "hinge must be finite and at least 0, got nan"),
        ({"edge": "ten"}, "edge must be finite and at least 0, got 'ten'"),
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
