from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from fsgan.models.layers import (
    ICNR,
    SampleNormalization,
    Scale,
    SelfAttention,
    normalize_sample,
)


@pytest.fixture(scope="module")
def golden():
    """Made by running v2.2's layers on `MAPS`, every second pixel."""
    with np.load(Path(__file__).parent / "golden" / "layers.npz") as arrays:
        return dict(arrays)


def normal(seed, *shape):
    """The recipe of the original's inputs and weights."""
    return np.random.RandomState(seed).standard_normal(shape).astype("float32")


MAPS = normal(11, 2, 8, 8, 32)


def test_sample_is_normalised_with_epsilon_outside_the_root():
    image = np.array([1.0, 3.0], "float32").reshape(1, 1, 2, 1)  # mean 2, deviation 1
    np.testing.assert_allclose(
        ops.reshape(normalize_sample(image), (2,)), [-1 / 1.001, 1 / 1.001], rtol=1e-6
    )


def test_samples_are_normalised_each_for_itself_over_all_channels():
    normalized = ops.convert_to_numpy(normalize_sample(MAPS * [[[[2.0]]], [[[5.0]]]]))
    np.testing.assert_allclose(normalized.mean(axis=(1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(normalized.std(axis=(1, 2, 3)), 1, atol=2e-3)
    assert np.abs(normalized.mean(axis=(1, 2))).max() > 0.1


def test_normalising_a_constant_sample_has_a_finite_gradient():
    image = tf.zeros((1, 4, 4, 2))
    with tf.GradientTape() as tape:
        tape.watch(image)
        loss = tf.reduce_sum(normalize_sample(image) ** 2)
    assert np.isfinite(tape.gradient(loss, image)).all()


def test_half_precision_samples_do_not_overflow_the_variance():
    large = normalize_sample(ops.cast(MAPS * 1000, "float16"))
    assert keras.backend.standardize_dtype(large.dtype) == "float16"
    np.testing.assert_allclose(
        ops.cast(large, "float32"), normalize_sample(MAPS * 1000), atol=5e-3
    )


def test_sample_normalization_is_the_original_instancenorm(golden):
    layer = SampleNormalization()
    layer.build(MAPS.shape)
    layer.set_weights([1 + 0.1 * normal(50, 1), 0.1 * normal(51, 1)])
    np.testing.assert_allclose(
        layer(MAPS)[:, ::2, ::2], golden["sample_normalization"], atol=1e-5
    )


def test_scale_is_the_original_scale(golden):
    layer = Scale()
    layer.build(MAPS.shape)
    layer.set_weights([0.5 + 0.1 * normal(90, 1)])
    np.testing.assert_allclose(layer(MAPS)[:, ::2, ::2], golden["scale"], atol=1e-5)


def test_self_attention_is_the_original_one_weights_in_its_order(golden):
    layer = SelfAttention(kernel_regularizer=keras.regularizers.L2(1e-4))
    layer.build(MAPS.shape)
    layer.set_weights(
        [
            normal(100, 1, 1, 32, 4) / 32**0.5,  # query
            0.1 * normal(101, 4),
            normal(102, 1, 1, 32, 4) / 32**0.5,  # key
            0.1 * normal(103, 4),
            normal(104, 1, 1, 32, 32) / 32**0.5,  # value
            0.1 * normal(105, 32),
            0.5 + 0.1 * normal(106, 1),  # scale
        ]
    )
    np.testing.assert_allclose(
        layer(MAPS)[:, ::2, ::2], golden["self_attention"], atol=1e-5
    )
    np.testing.assert_allclose(
        sum(layer.losses), golden["self_attention_decay"], rtol=1e-5
    )


def test_new_self_attention_is_the_identity():
    np.testing.assert_array_equal(SelfAttention()(MAPS), MAPS)


def test_icnr_spreads_the_kernel_as_the_original_does(golden):
    icnr = ICNR(lambda shape, dtype=None: golden["icnr_base"].reshape(shape))
    np.testing.assert_array_equal(icnr((3, 3, 5, 16)), golden["icnr_kernel"])


def test_convolution_from_icnr_shuffles_to_equal_pixels_in_a_block():
    kernel = ICNR(keras.initializers.RandomNormal(stddev=0.02))((3, 3, 32, 12))
    shuffled = ops.depth_to_space(ops.conv(MAPS, kernel, padding="same"), 2)
    blocks = ops.convert_to_numpy(shuffled).reshape(2, 8, 2, 8, 2, 3)
    np.testing.assert_array_equal(blocks, blocks[:, :, :1, :, :1] + 0 * blocks)
    assert np.ptp(blocks[:, :, 0, :, 0]) > 0


# Keras 3.15 says this of NumPy 2 whenever it saves weights.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_layers_saved_and_loaded_compute_the_same(tmp_path):
    image = keras.Input((8, 8, 32))
    icnr = ICNR(keras.initializers.RandomNormal(stddev=0.02))
    x = SampleNormalization(epsilon=0.5)(image)
    x = SelfAttention(kernel_regularizer=keras.regularizers.L2(1e-4))(x)
    x = keras.layers.Conv2D(8, 3, kernel_initializer=icnr)(x)
    model = keras.Model(image, Scale()(x))
    model.set_weights([weight + 0.5 for weight in model.get_weights()])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(MAPS), model(MAPS))
    _, normalization, attention, convolution, _ = loaded.layers
    assert normalization.epsilon == 0.5
    assert np.isclose(attention.kernel_regularizer.l2, 1e-4)
    assert convolution.kernel_initializer.initializer.stddev == 0.02
    assert convolution.kernel_initializer.block_size == 2
