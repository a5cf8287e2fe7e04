from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from fsgan.models.legacy import swap_red_and_blue
from fsgan.models.networks import (
    NORMS,
    ModelConfig,
    build_decoder,
    build_discriminator,
    build_encoder,
    build_networks,
    conv_block,
    discriminator_block,
    residual_block,
    upscale_nearest,
    upscale_shuffle,
)
from fsgan.models.precision import computing_in
from fsgan.training.losses import (
    LossWeights,
    edge_loss,
    eyes_loss,
    mask_sparsity_loss,
    mask_total_variation_loss,
    mixup_lsgan_discriminator_loss,
    mixup_lsgan_generator_loss,
    reconstruction_loss,
)

BUILDERS = (build_encoder, build_decoder, build_discriminator)


@pytest.fixture(scope="module")
def golden():
    """Made by running v2.2's blocks, networks and losses on the inputs in the tests.

    Weights as of `recipe_weights`; maps every 2nd, images every 8th pixel, BGR.
    """
    with np.load(Path(__file__).parent / "golden" / "models.npz") as arrays:
        return dict(arrays)


def recipe_weights(model, seed):
    """The original's test weights: seed + k draws the k-th, in the original's order."""
    weights = []
    for k, variable in enumerate(model.weights):
        weight = np.random.RandomState(seed + k).standard_normal(variable.shape)
        if variable.name == "kernel":
            weight /= np.sqrt(np.prod(variable.shape[:-1]))
        else:
            weight *= 0.1
        if variable.name == "gamma":
            weight += 0.5 if "scale" in variable.path else 1
        weights.append(weight.astype("float32"))
    return weights


def build_hollow(builder, config):
    """Builds a model of the right shapes without the memory for its weights."""
    with keras.StatelessScope(initialize_variables=False):
        model = builder(config)
    keras.utils.clear_session()  # else Keras fills them at its next chance: gigabytes
    return model


# fmt: off
PARAMETERS = [
    # resolution, capacity, norm, attention, encoder, decoder, discriminator
    (64, "standard", "instancenorm", True, 59130506, 6300924, 747845),
    (256, "standard", "instancenorm", True, 78004878, 6679686, 3009483),
    (64, "lite", "instancenorm", True, 10065994, 415460, 747845),
    (128, "lite", "instancenorm", True, 19045452, 436329, 1878664),
    (256, "lite", "none", True, 19635266, 457188, 3009475),
    (64, "lite", "instancenorm", False, 9963112, 418154, 665604),
    (128, "standard", "none", False, 68157120, 6501319, 1714176),
    (64, "standard", "batchnorm", True, 59145858, 6308086, 749377),
    (64, "standard", "groupnorm", True, 59138178, 6304502, 748609),
    (64, "standard", "layernorm", True, 59138178, 6304502, 748609),
]
# fmt: on


@pytest.mark.parametrize("row", PARAMETERS, ids=str)
def test_networks_have_the_original_s_parameters_and_the_shapes_said(row):
    resolution, capacity, norm, _, *parameters = row
    models = [build_hollow(builder, ModelConfig(*row[:4])) for builder in BUILDERS]
    assert [model.count_params() for model in models] == parameters
    statistics = [
        sum(np.prod(variable.shape) for variable in model.non_trainable_variables)
        for model in models
    ]
    assert statistics == ([7680, 3584, 768] if norm == "batchnorm" else [0, 0, 0])

    encoder, decoder, discriminator = models
    assert encoder.input_shape == (None, resolution, resolution, 3)
    width = 512 if capacity == "standard" else 256
    assert encoder.output_shape == decoder.input_shape == (None, 8, 8, width)
    assert decoder.output_shape == [
        (None, resolution, resolution, 1),
        (None, resolution, resolution, 3),
        *[(None, side, side, 3) for side in (64, 128) if side < resolution],
    ]
    assert discriminator.input_shape == (None, resolution, resolution, 6)
    assert discriminator.output_shape == (None, 8, 8, 1)


def instance_normed(block, width):
    return lambda x: block(x, width, norm="instancenorm")


@pytest.mark.parametrize(
    ("name", "seed", "shape", "block"),
    [
        ("groupnorm", 60, (8, 8), lambda x: NORMS["groupnorm"]()(x)),
        ("layernorm", 70, (8, 8), lambda x: NORMS["layernorm"]()(x)),
        ("conv_block", 200, (8, 8), instance_normed(conv_block, 24)),
        ("conv_block_unstrided", 220, (8, 8), lambda x: conv_block(x, 24, strides=1)),
        (
            "discriminator_block",
            240,
            (8, 8),
            instance_normed(discriminator_block, 24),
        ),
        ("residual_block", 260, (8, 8), lambda x: residual_block(x, 32)),
        ("upscale_shuffle", 280, (8, 8), instance_normed(upscale_shuffle, 16)),
        ("upscale_nearest", 300, (8, 8), instance_normed(upscale_nearest, 16)),
        ("conv_block_odd", 320, (7, 9), lambda x: conv_block(x, 24)),
        ("discriminator_block_odd", 340, (7, 9), lambda x: discriminator_block(x, 24)),
    ],
)
def test_block_is_the_original_one(golden, name, seed, shape, block):
    random = np.random.RandomState(11)
    maps = random.standard_normal((2, 8, 8, 32)).astype("float32")
    if shape == (7, 9):
        maps = random.standard_normal((2, 7, 9, 32)).astype("float32")
    inputs = keras.Input((*shape, 32))
    model = keras.Model(inputs, block(inputs))
    model.set_weights(recipe_weights(model, seed))
    np.testing.assert_allclose(model(maps)[:, ::2, ::2], golden[name], atol=1e-5)
    decay = golden.get(f"{name}_decay", 0)
    np.testing.assert_allclose(sum(model.losses), decay, rtol=1e-5)


@pytest.fixture(scope="module")
def networks():
    """Lite networks at 64 with the original's test weights, turned from BGR to RGB."""
    config = ModelConfig(capacity="lite")
    encoder, decoder, discriminator = (builder(config) for builder in BUILDERS)
    for network, seed in ((encoder, 1000), (decoder, 2000), (discriminator, 4000)):
        network.set_weights(swap_red_and_blue(recipe_weights(network, seed)))
    return encoder, decoder, discriminator


def uniform(random, *shape):
    return random.uniform(-1, 1, shape).astype("float32")


def test_networks_are_the_original_ones(golden, networks):
    encoder, decoder, discriminator = networks
    random = np.random.RandomState(77)
    image = uniform(random, 2, 64, 64, 3)[..., ::-1]
    pair = uniform(random, 2, 64, 64, 6)[..., [2, 1, 0, 5, 4, 3]]
    latent = encoder(image)
    alpha, rgb = (np.asarray(output) for output in decoder(latent))
    abgr = np.concatenate([alpha, rgb[..., ::-1]], axis=-1)
    composed = alpha * rgb + (1 - alpha) * image
    np.testing.assert_allclose(latent[:, ::2, ::2], golden["latent"], atol=1e-4)
    np.testing.assert_allclose(abgr[:, ::8, ::8], golden["abgr"], atol=1e-4)
    np.testing.assert_allclose(
        composed[:, ::8, ::8, ::-1], golden["composed"], atol=1e-4
    )
    np.testing.assert_allclose(discriminator(pair), golden["score"], atol=1e-4)


def test_networks_have_the_original_losses(golden, networks):
    encoder, decoder, discriminator = networks
    random = np.random.RandomState(79)
    distorted = uniform(random, 2, 64, 64, 3)[..., ::-1]
    real = uniform(random, 2, 64, 64, 3)[..., ::-1]
    eyes = (random.uniform(size=(2, 64, 64, 3)) > 0.9).astype("float32")[..., ::-1]

    alpha, rgb, *side_outputs = decoder(encoder(distorted))
    fake = alpha * rgb + (1 - alpha) * distorted
    decay = sum(encoder.losses) + sum(decoder.losses)
    discriminator_loss = mixup_lsgan_discriminator_loss(
        discriminator, real, fake, rgb, distorted, mix=0.3
    )
    weights = LossWeights()
    adversarial = weights.adversarial * mixup_lsgan_generator_loss(
        discriminator, real, fake, rgb, distorted
    )
    # The original counts the eyes' pixels as reconstruction, their edges as edge.
    eye_pixels = weights.eyes * reconstruction_loss(eyes * real, eyes * rgb)
    eye_edges = weights.eyes * eyes_loss(real, rgb, eyes) - eye_pixels
    reconstruction = reconstruction_loss(real, rgb, side_outputs) + eye_pixels
    edge = weights.edge * edge_loss(real, rgb) + eye_edges
    mask = weights.sparsity * mask_sparsity_loss(alpha)
    mask += weights.total_variation * mask_total_variation_loss(alpha)
    total = adversarial + reconstruction + edge + mask + decay

    discriminator_decay = sum(discriminator.losses)
    np.testing.assert_allclose(decay, golden["generator_decay"], rtol=1e-5)
    np.testing.assert_allclose(
        discriminator_decay, golden["discriminator_decay"], rtol=1e-5
    )
    np.testing.assert_allclose(
        discriminator_loss + discriminator_decay,
        golden["discriminator_loss"],
        rtol=1e-4,
    )
    np.testing.assert_allclose(
        [total, adversarial, reconstruction, edge],
        golden["generator_losses"],
        rtol=1e-4,
    )


def test_kernels_start_as_the_original_ones():
    decoder = build_decoder(ModelConfig())
    discriminator = build_discriminator(ModelConfig())
    shuffled = decoder.get_weights()[0]  # (3, 3, 512, 4·256)
    assert np.isclose(shuffled.std(), 0.02, rtol=0.01)
    np.testing.assert_array_equal(shuffled[..., :256], shuffled[..., 256:512])
    blocks = discriminator.get_weights()[1]  # (4, 4, 64, 128)
    assert np.isclose(blocks.std(), np.sqrt(2 / (4 * 4 * 64)), rtol=0.01)
    kernel = discriminator.get_layer("score").kernel  # (4, 4, 256, 1)
    limit = np.sqrt(6 / (4 * 4 * (256 + 1)))
    assert 0.99 * limit < np.abs(kernel).max() <= limit


def test_outputs_stay_float32_in_mixed_precision():
    with computing_in("bfloat16"):
        models = [builder(ModelConfig(128, "lite")) for builder in BUILDERS]
    encoder, decoder, discriminator = models
    assert encoder.output.dtype == "bfloat16"
    assert decoder.get_layer("rgb").input.dtype == "bfloat16"
    assert discriminator.get_layer("score").input.dtype == "bfloat16"
    assert {output.dtype for output in decoder.outputs} == {"float32"}
    assert discriminator.output.dtype == "float32"


def test_batchnorm_updates_its_statistics_in_training():
    discriminator = build_discriminator(ModelConfig(norm="batchnorm"))
    before = discriminator.get_weights()
    pair = uniform(np.random.RandomState(0), 2, 64, 64, 6)
    discriminator(pair, training=True)
    changed = {
        variable.name
        for variable, old, new in zip(
            discriminator.weights, before, discriminator.get_weights(), strict=True
        )
        if (old != new).any()
    }
    assert changed == {"moving_mean", "moving_variance"}


# Keras 3.15 says this of NumPy 2 whenever it saves weights.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("capacity", ["standard", "lite"])
def test_decoder_saved_and_loaded_paints_the_same(tmp_path, capacity):
    decoder = build_decoder(ModelConfig(128, capacity, "layernorm", attention=False))
    decoder.save(tmp_path / "decoder.keras")
    loaded = keras.models.load_model(tmp_path / "decoder.keras")
    latent = uniform(np.random.RandomState(0), 1, *decoder.input_shape[1:])
    for ours, theirs in zip(decoder(latent), loaded(latent), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": 100}, "resolution must be 64, 128 or 256, got 100"),
        ({"resolution": 64.0}, r"resolution must be 64, 128 or 256, got 64\.0"),
        ({"capacity": "huge"}, "capacity must be 'standard' or 'lite', got 'huge'"),
        ({"norm": "hybrid"}, "'groupnorm', 'batchnorm' or 'none', got 'hybrid'"),
        ({"attention": 1}, "attention must be True or False, got 1"),
        ({"latent": 0}, "latent must be a whole number >= 1 or None, got 0"),
        ({"latent": 8.0}, r"latent must be a whole number >= 1 or None, got 8\.0"),
        ({"coverage": 0.05}, r"coverage must be a number from 0\.1 to 1, got 0\.05"),
        ({"coverage": "all"}, r"coverage must be a number from 0\.1 to 1, got 'all'"),
    ],
)
def test_config_refuses_what_cannot_be_built(settings, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**settings)


def test_the_latent_follows_the_architecture_unless_it_is_given():
    wide = ModelConfig(128, "lite")
    assert (ModelConfig().latent_width, wide.latent_width) == (1024, 2048)
    assert replace(ModelConfig(), resolution=128, capacity="lite") == wide
    assert replace(ModelConfig(latent=16), resolution=128).latent_width == 16
    # Checkpoints of older versions hold the default as a number.
    assert ModelConfig(latent=1024) == ModelConfig()
    assert ModelConfig(128, "lite", latent=1024).latent_width == 1024


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, "encoder decoder_a decoder_b discriminator_a discriminator_b"),
        ({"people": 1}, "encoder decoder_a discriminator_a"),
        ({"discriminators": False}, "encoder decoder_a decoder_b"),
    ],
)
def test_a_model_has_a_decoder_and_a_discriminator_for_each_person(settings, names):
    assert (
        list(build_networks(ModelConfig(capacity="lite", **settings))) == names.split()
    )
